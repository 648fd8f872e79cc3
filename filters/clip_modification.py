"""Keeps triplets whose target image shows what the modification text asks for, by CLIP.

The cosine of an image with an instruction is lower than with a caption, and no published system
gives a threshold for it: look at the histogram of the scores first.
"""

from __future__ import annotations

import pyarrow as pa

from datagen.filters._bounds import numbers
from datagen.filters._clip import Array, ClipFilter, ClipSettings, Media
from datagen.schema import Level


class ClipModification(ClipFilter[ClipSettings]):
    """Scores ``score_clip_modification``: the cosine of the modification and the target.

    With several targets it is the lowest of them. A clip has the mean of its frames' unit vectors.
    """

    Settings = ClipSettings
    levels = ("triplets",)
    score = "score_clip_modification"

    def needs(self, level: Level) -> set[str]:
        return {"items.media", "modification"}

    def gives(self, level: Level) -> set[str]:
        return {self.score}

    def columns(self, level: Level) -> list[str]:
        return ["id", "targets", "modification"]

    def images(self, rows: pa.Table) -> list[list[Media]]:
        return [[one["media"] for one in members] for members in rows["targets"].to_pylist()]

    def texts(self, rows: pa.Table) -> list[list[str]]:
        return [
            [text] if text and text.strip() else [] for text in rows["modification"].to_pylist()
        ]

    def measured(self, images: Array, texts: Array, references: int) -> float:
        return float((images @ texts.T).min())

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        scores = numbers(rows[self.score])
        return self.verdicts(rows["id"], scores, scores)
