"""Operators of a user's own, in a file outside the package."""

import pyarrow as pa

from datagen.step import Filter, Settings, verdicts


class CaptionLengthSettings(Settings):
    """low: words; explode_on: a caption at which the operator raises."""

    low: int = 2
    raise_on: str = ""


class CaptionLength(Filter[CaptionLengthSettings]):
    """Keeps items whose first caption has enough words."""

    Settings = CaptionLengthSettings
    levels = ("items",)
    rules = frozenset({"low"})

    def needs(self, level):
        return {"items.captions"}

    def gives(self, level):
        return {"score_words"}

    def columns(self, level):
        return ["id", "captions"]

    def __call__(self, rows):
        captions = [(texts or [""])[0] for texts in rows["captions"].to_pylist()]
        if self.settings.raise_on and any(self.settings.raise_on in text for text in captions):
            raise ZeroDivisionError("this row does not suit me")
        words = [float(len(text.split())) for text in captions]
        return pa.table({"id": rows["id"], "score_words": pa.array(words)})

    def decide(self, rows, items):
        low = self.settings.low
        pairs = zip(rows["id"].to_pylist(), rows["score_words"].to_pylist(), strict=True)
        short = {i: ("too_short", f"{n} < {low}") for i, n in pairs if n is not None and n < low}
        return verdicts(rows["id"], short)
