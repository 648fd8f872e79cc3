"""Keeps rows whose images show what their captions say, by CLIP similarity.

InstructPix2Pix (arXiv:2211.09800) keeps pairs of generated images whose cosine with their own
captions is at least 0.2, both of them, under CLIP ViT-L/14. The score without a threshold is
CLIPScore (arXiv:2104.08718) before its factor of 2.5. A clip is scored by the mean of its frames'
unit vectors, as CLIP4Clip (arXiv:2104.08860) pools them.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from datagen.filters._bounds import Of, of_items
from datagen.filters._clip import Array, ClipFilter, ClipSettings, Media
from datagen.schema import Level


class ClipScoreSettings(ClipSettings):
    """low, high: cosines; InstructPix2Pix takes 0.2 and no upper bound. of: whose images must
    agree with their captions, those of the references, of the targets, or both. The other
    settings are those of every CLIP filter.
    """

    low: float | None = Field(0.2, ge=-1, le=1)
    of: Of = "both"


class ClipScore(ClipFilter[ClipScoreSettings]):
    """Measures ``score_clip`` of each item: the cosine of its image or clip and its best caption.

    A row is kept when every item that ``of`` names is in the band. An item that cannot be scored
    (no caption, broken image) fails, and every row that uses it with it.
    """

    Settings = ClipScoreSettings
    levels = ("items", "pairs", "triplets")
    on_items = True
    rules = frozenset({"low", "high", "of"})
    score = "score_clip"

    def needs(self, level: Level) -> set[str]:
        return {"items.media", "items.captions"}

    def gives(self, level: Level) -> set[str]:
        return {f"items.{self.score}"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "media", "captions"]

    def images(self, rows: pa.Table) -> list[list[Media]]:
        return [[image] for image in rows["media"].to_pylist()]

    def texts(self, rows: pa.Table) -> list[list[str]]:
        lists = rows["captions"].to_pylist()
        return [[text for text in texts or () if text and text.strip()] for texts in lists]

    def measured(self, images: Array, texts: Array, references: int) -> float:
        return float((images @ texts.T).max())

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        scores = of_items(rows, items, self.score, self.settings.of)
        return self.verdicts(rows["id"], *scores)
