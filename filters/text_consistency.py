"""Keeps triplets whose text turns the reference's caption into the target's, in a caption space.

The reference's caption with the text put after it is a caption that says both; where the text is
right, it has moved towards the target's. The way of this move is compared with the way from the
one caption to the other, as StyleGAN-NADA (arXiv:2108.00946) and ``consistency`` do with pictures.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import faults, ranks, schema
from datagen.chat.subject import caption_of
from datagen.faults import Fault
from datagen.filters._bounds import below, numbers, rounded, verdicts
from datagen.filters._queries import NO_DIRECTION, QueryFilter
from datagen.schema import Level
from datagen.step import Settings

Array = np.ndarray[Any, Any]


class TextConsistencySettings(Settings):
    """space: a space whose model takes texts (``sentence_transformers``; ``open_clip``).

    by: ``direction``, the cosine of both ways (-1 to 1); or ``gain``, by how much the caption with
    the text is nearer to the target's caption than the caption without it (cosine, -2 to 2).
    low: the lowest score that is kept. Which one is right hangs on the model: look at the scores
    first, or hold them against noise that is known (``text: {op: noise}``).
    """

    space: str
    by: Literal["direction", "gain"] = "direction"
    low: float = Field(0.0, ge=-2, le=2)


class TextConsistency(QueryFilter[TextConsistencySettings]):
    """Measures ``score_text_consistency_direction`` or ``score_text_consistency_gain``, 4 decimals.

    Of several references the first is read, of several targets the one with the highest score
    counts. Vectors of the captions that the row uses are made anew, so clips, images and items
    without media are the same to it. Rejects as ``too_low``. A row fails as ``no_caption``,
    ``no_text`` or ``no_direction``, also where the captions are equal to the model.
    """

    Settings = TextConsistencySettings
    levels = ("triplets",)
    rules = frozenset({"low"})

    @property
    def score(self) -> str:
        """Name of the score column."""
        return f"score_text_consistency_{self.settings.by}"

    def needs(self, level: Level) -> set[str]:
        return {f"texts.{self.settings.space}", "pairs", "modification"}

    def gives(self, level: Level) -> set[str]:
        return {self.score}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "modification"]

    def __call__(self, rows: pa.Table) -> pa.Table:
        texts: list[list[str | None]] = []
        wrong: list[Fault] = []
        for row in rows.select(self.columns("triplets")).to_pylist():
            reference = caption_of(row["references"])
            targets = [caption for one in row["targets"] or () if (caption := caption_of([one]))]
            text = (row["modification"] or "").strip()
            wrong.append(_lacking(reference, targets, text))
            texts.append([reference, f"{reference} {text}", *targets])
        usable, vectors = self.encoded(texts, wrong)
        scores = np.full(rows.num_rows, np.nan)
        start = 0
        for number in usable:
            stop = start + len(texts[number])
            scores[number] = self._best(*np.split(ranks.unit(vectors[start:stop]), [1, 2]))
            start = stop
            if not np.isfinite(scores[number]):
                wrong[number] = _EQUAL
        return pa.table({"id": rows["id"], self.score: rounded(scores), **faults.columns(wrong)})

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
        found: list[Fault] = [
            below(score, self.settings.low)
            if score == score
            else (schema.FAILED, None, "the row has no score")
            for score in numbers(rows[self.score]).tolist()
        ]
        return verdicts(rows["id"], found)


#: Ways shorter than this are rounding of half precision.
_LEAST = 1e-6
_EQUAL = (*NO_DIRECTION[:2], "the captions of reference and target are equal to the model")


def _lacking(reference: str, targets: list[str], text: str) -> Fault:
    """What a row lacks."""
    for side, there in (("reference", reference), ("target", targets)):
        if not there:
            return schema.FAILED, "no_caption", f"the {side} has no caption"
    return None if text else (schema.FAILED, "no_text", "there is no text to compare")
