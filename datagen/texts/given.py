"""Modification texts that came with the pairs: those of the annotators, one for each text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.ingest import clean_caption
from datagen.schema import Level
from datagen.step import RowOperator, Settings

#: The field of a change whose ``added`` is a whole text.
FIELD = "text"


class GivenSettings(Settings):
    """``texts_per_pair``: texts of a pair, at most, the first ones; null: all of them.
    ``max_words``: the longest text; longer ones are not used.
    """

    texts_per_pair: int | None = Field(None, ge=1)
    max_words: int | None = Field(None, ge=1)


class Given(RowOperator[GivenSettings]):
    """Writes ``modification`` from the texts that ``pair: given`` found, one line each.

    A pair without a text is rejected as ``no_given_text``, one with none that is short enough as
    ``too_long``.
    """

    Settings = GivenSettings
    levels = ("pairs",)
    result = "triplets"

    def needs(self, level: Level) -> set[str]:
        return {"pairs"}

    def gives(self, level: Level) -> set[str]:
        return {"modification"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "evidence"]

    def __call__(self, rows: pa.Table) -> pa.Table:
        out: list[tuple[str | None, ...]] = []
        for row in rows.select(self.columns("pairs")).to_pylist():
            texts, fault = self._texts(row["evidence"])
            out += [(row["id"], text, schema.KEPT, None, None) for text in texts]
            if not texts:
                out.append((row["id"], None, schema.REJECTED, *fault))
        names = ["id", "modification", "verdict", "rule", "detail"]
        columns = zip(*out, strict=True) if out else [()] * len(names)
        return pa.table([pa.array(column, pa.string()) for column in columns], names=names)

    def _texts(self, evidence: dict[str, Any] | None) -> tuple[list[str], tuple[str, str]]:
        """The texts of a pair; the rule and detail that reject it where there is none."""
        changes = (evidence or {}).get("changes") or []
        said = [clean_caption(one["added"]) for one in changes if one["field"] == FIELD]
        found = list(dict.fromkeys(text for text in said if text))
        if not found:
            return [], ("no_given_text", "the evidence of the pair holds no text")
        limit = self.settings.max_words
        short = [text for text in found if limit is None or len(text.split()) <= limit]
        least = min(len(text.split()) for text in found)
        return short[: self.settings.texts_per_pair], ("too_long", f"{least} > {limit} words")
