"""Keeps triplets whose text turns the reference's caption into the target's.

By words alone: the text names what only one of the captions says. Or in a space: the reference's
caption with the text put after it is a caption that says both; where the text is right, it has
moved towards the target's. The way of this move is compared with the way from the one caption to
the other, as StyleGAN-NADA (arXiv:2108.00946) and ``consistency`` do with pictures.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from datagen import faults, ranks, schema
from datagen.chat.subject import caption_of
from datagen.faults import Fault
from datagen.filters._bounds import TOO_LOW, below, numbers, rounded, verdicts
from datagen.filters._queries import NO_DIRECTION, QueryFilter
from datagen.filters._things import stem
from datagen.filters._words import words
from datagen.schema import Level
from datagen.step import Context, Resources, Settings

Array = np.ndarray[Any, Any]


class TextConsistencySettings(Settings):
    """space: a space whose model takes texts (``sentence_transformers``; ``open_clip``).

    by: ``direction``, the cosine of both ways (-1 to 1); ``gain``, by how much the caption with
    the text is nearer to the target's caption than the caption without it (cosine, -2 to 2); or
    ``words``, without a space: of the words that one caption has and the other has not, the share
    that the text names (0 to 1), for texts in the words of the captions.
    low: the lowest score that is kept; null: above 0. Which one is right hangs on the model and on
    who wrote the texts: look at the scores first, or hold them against noise that is known
    (``text: {op: noise}``).
    """

    space: str | None = None
    by: Literal["direction", "gain", "words"] = "direction"
    low: float | None = Field(None, ge=-2, le=2)

    @model_validator(mode="after")
    def _space(self) -> TextConsistencySettings:
        if (self.space is None) != (self.by == "words"):
            raise ValueError("space: must be given for by: direction and gain, and for no other")
        return self


class TextConsistency(QueryFilter[TextConsistencySettings]):
    """Measures ``score_text_consistency_direction`` (or ``_gain``, ``_words``), 4 decimals.

    Of several references the first is read, of several targets the one with the highest score
    counts. Vectors of the captions that the row uses are made anew, so clips, images and items
    without media are the same to it. Rejects as ``too_low``. A row fails as ``no_caption``,
    ``no_text`` or ``no_direction``, also where the captions are equal to the model; by ``words`` as
    ``same_words`` where they are the same words.
    """

    Settings = TextConsistencySettings
    levels = ("triplets",)
    rules = frozenset({"low"})

    @property
    def score(self) -> str:
        """Name of the score column."""
        return f"score_text_consistency_{self.settings.by}"

    def needs(self, level: Level) -> set[str]:
        space = self.settings.space
        return {"pairs", "modification"} | ({f"texts.{space}"} if space else set())

    def gives(self, level: Level) -> set[str]:
        return {self.score}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "modification"]

    def resources(self) -> Resources:
        return super().resources() if self.settings.space else Resources(batch_size=4096)

    def open(self, context: Context) -> None:
        """Open the model that made the space, where there is one."""
        if self.settings.space:
            super().open(context)

    def __call__(self, rows: pa.Table) -> pa.Table:
        texts: list[list[str]] = []
        wrong: list[Fault] = []
        for row in rows.select(self.columns("triplets")).to_pylist():
            reference = caption_of(row["references"])
            targets = [caption for one in row["targets"] or () if (caption := caption_of([one]))]
            text = (row["modification"] or "").strip()
            wrong.append(_lacking(reference, targets, text))
            texts.append(
                [reference, f"{reference} {text}" if self.settings.space else text, *targets]
            )
        measure = self._by_vectors if self.settings.space else _by_words
        scores = measure(texts, wrong)
        return pa.table({"id": rows["id"], self.score: rounded(scores), **faults.columns(wrong)})

    def _by_vectors(self, texts: list[list[str]], wrong: list[Fault]) -> Array:
        """The score of each row; NaN, and a fault, where there is none."""
        usable, vectors = self.encoded(texts, wrong)
        scores = np.full(len(texts), np.nan)
        start = 0
        for number in usable:
            stop = start + len(texts[number])
            scores[number] = self._best(*np.split(ranks.unit(vectors[start:stop]), [1, 2]))
            start = stop
            if not np.isfinite(scores[number]):
                wrong[number] = _EQUAL
        return scores

    def _best(self, reference: Array, edited: Array, targets: Array) -> float:
        """The highest score of any of ``targets`` (n, d), unit vectors; NaN where none has one."""
        if self.settings.by == "gain":
            return float((targets @ edited[0] - targets @ reference[0]).max())
        moved, ways = edited - reference, targets - reference
        lengths = np.linalg.norm(ways, axis=1) * np.linalg.norm(moved)
        if not (lengths > _LEAST).any():
            return float("nan")
        ways = ways[lengths > _LEAST]
        return float(ranks.cosines(np.repeat(moved, len(ways), axis=0), ways).max())

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        low = self.settings.low
        found: list[Fault] = []
        for score in numbers(rows[self.score]).tolist():
            if score != score:
                found.append((schema.FAILED, None, "the row has no score"))
            elif low is None and score <= 0:
                found.append((schema.REJECTED, TOO_LOW, f"{score:.4f}, and more than 0 wanted"))
            else:
                found.append(below(score, low))
        return verdicts(rows["id"], found)


#: Ways shorter than this are rounding of half precision.
_LEAST = 1e-6
_EQUAL = (*NO_DIRECTION[:2], "the captions of reference and target are equal to the model")


_SAME = (schema.FAILED, "same_words", "the captions of reference and target are the same words")


def _by_words(texts: list[list[str]], wrong: list[Fault]) -> Array:
    """Of the words that only one of two captions has, the share that the text names."""
    scores = np.full(len(texts), np.nan)
    for number, (reference, text, *targets) in enumerate(texts):
        if wrong[number] is not None:
            continue
        own, said = (_stems(one) for one in (reference, text))
        ways = [way for one in targets if (way := own ^ _stems(one))]
        if ways:
            scores[number] = max(len(way & said) / len(way) for way in ways)
        else:
            wrong[number] = _SAME
    return scores


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in words(text))


def _lacking(reference: str, targets: list[str], text: str) -> Fault:
    """What a row lacks."""
    for side, there in (("reference", reference), ("target", targets)):
        if not there:
            return schema.FAILED, "no_caption", f"the {side} has no caption"
    return None if text else (schema.FAILED, "no_text", "there is no text to compare")
