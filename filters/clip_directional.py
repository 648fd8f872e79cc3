"""Keeps rows whose pictures change as their captions do, by CLIP.

The way from the reference picture to the target picture is compared with that from the one caption
to the other (directional similarity of StyleGAN-NADA, arXiv:2108.00946). InstructPix2Pix
(arXiv:2211.09800) paints 100 pairs for each pair of captions and keeps those of at least 0.2 under
CLIP ViT-L/14, of these the four best.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.faults import Fault
from datagen.filters._bounds import numbers
from datagen.filters._clip import Array, ClipFilter, ClipSettings, Media
from datagen.schema import Level

SIDES = ("references", "targets")

SAME_PICTURE = (
    schema.REJECTED,
    "same_picture",
    "reference and target are one picture to the model, so nothing leads from one to the other",
)
SAME_CAPTION = (
    schema.REJECTED,
    "same_caption",
    "the captions of reference and target are equal, so they tell no change",
)


class ClipDirectionalSettings(ClipSettings):
    """low, high: cosines (-1 to 1); InstructPix2Pix takes 0.2 and no upper bound. The other
    settings are those of every CLIP filter.
    """

    low: float | None = Field(0.2, ge=-1, le=1)


class ClipDirectional(ClipFilter[ClipDirectionalSettings]):
    """Measures ``score_clip_directional``: the cosine of (target - reference) of the pictures with
    (target - reference) of their captions, all of them unit vectors.

    With several references or targets it is the lowest of all combinations. A clip has the mean of
    its frames' unit vectors. Rows in which there is no such way are rejected whatever ``low`` is,
    as ``same_caption`` or ``same_picture``; those in which a member has no caption fail. It needs
    no space, so it also takes items that the step before has painted; where pictures and captions
    stand in a space already, ``consistency`` with ``by: direction`` measures the like there.
    """

    Settings = ClipDirectionalSettings
    levels = ("pairs", "triplets")
    score = "score_clip_directional"

    def needs(self, level: Level) -> set[str]:
        return {"items.media", "items.captions", "pairs"}

    def gives(self, level: Level) -> set[str]:
        return {self.score}

    def columns(self, level: Level) -> list[str]:
        return ["id", *SIDES]

    def images(self, rows: pa.Table) -> list[list[Media]]:
        left, right = (rows[side].to_pylist() for side in SIDES)
        return [
            [one["media"] for one in (*references, *targets)] if references and targets else []
            for references, targets in zip(left, right, strict=True)
        ]

    def texts(self, rows: pa.Table) -> list[list[str]]:
        left, right = self._captions(rows)
        return [
            [*references, *targets] if all((*references, *targets)) else []
            for references, targets in zip(left, right, strict=True)
        ]

    def references(self, rows: pa.Table) -> list[int]:
        return [len(members or ()) for members in rows["references"].to_pylist()]

    def unfit(self, rows: pa.Table) -> list[Fault]:
        return [
            SAME_CAPTION if any(one and one in targets for one in references) else None
            for references, targets in zip(*self._captions(rows), strict=True)
        ]

    def _captions(self, rows: pa.Table) -> tuple[list[list[str]], list[list[str]]]:
        """Captions of the references and of the targets of each row; empty ones where there are
        none.
        """
        left, right = (
            [[(one["caption"] or "").strip() for one in members or ()] for members in lists]
            for lists in (rows[side].to_pylist() for side in SIDES)
        )
        return left, right

    def measured(self, images: Array, texts: Array, references: int) -> float | Fault:
        shown, told = _ways(images, references), _ways(texts, references)
        lengths = [np.linalg.norm(ways, axis=1) for ways in (shown, told)]
        for length, fault in zip(lengths, (SAME_PICTURE, SAME_CAPTION), strict=True):
            if not length.all():
                return fault
        return float((np.einsum("ij,ij->i", shown, told) / (lengths[0] * lengths[1])).min())

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        scores = numbers(rows[self.score])
        return self.verdicts(rows["id"], scores, scores)


def _ways(vectors: Array, references: int) -> Array:
    """From each of the first ``references`` vectors (n, d) to each of the others: (m, d)."""
    ways: Array = vectors[None, references:] - vectors[:references, None]
    return ways.reshape(-1, vectors.shape[1])
