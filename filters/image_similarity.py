"""Keeps rows whose target picture is still the reference picture, by any vision model.

InstructPix2Pix (arXiv:2211.09800) keeps pairs of generated pictures with a cosine of at least 0.7
under CLIP ViT-L/14. With a DINO model it is structure that is compared rather than meaning, as
DreamBooth (arXiv:2208.12242) does for the identity of things.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import clip, models, vision
from datagen.errors import DatagenError
from datagen.faults import Fault
from datagen.filters._bounds import banded, numbers
from datagen.filters._clip import NO_DIRECTION, Array, ClipSettings
from datagen.filters._panels import PanelFilter, Panels
from datagen.preprocess import Geometry
from datagen.step import Context


class ImageSimilaritySettings(ClipSettings):
    """model: a CLIP model, or a vision model of transformers (``hf:facebook/dinov2-base``, or a
    folder). low, high: cosines (-1 to 1); InstructPix2Pix takes 0.7 and no upper bound, under CLIP
    ViT-L/14. token: of a vision model its class token (cls), or the mean of its patches (mean).
    The other settings are those of every CLIP filter.
    """

    low: float | None = Field(0.7, ge=-1, le=1)
    token: vision.Token = "cls"


class ImageSimilarity(
    clip.ClipOperator[ImageSimilaritySettings], PanelFilter[ImageSimilaritySettings]
):
    """Measures ``score_image_similarity``: the cosine of the pictures of reference and target.

    With several references or targets it is that of the two which are least alike. A clip has the
    mean of its frames' unit vectors. It needs no space, so it also takes items that the step before
    has painted; ``similarity`` measures the like in a space.
    """

    Settings = ImageSimilaritySettings
    requires = (("torch", "models"), ("open_clip", "models"), ("transformers", "models"))
    rules = frozenset({"low", "high"})
    scores = ("score_image_similarity",)

    @property
    def _of_clip(self) -> bool:
        """Whether the model is one of open_clip."""
        folder = self.ref.folder
        if not folder:
            return self.ref.scheme == "open_clip"
        return os.path.isfile(os.path.join(folder, models.OPEN_CLIP_CONFIG))

    @property
    def geometry(self) -> Geometry:
        """Size and normalisation of the model's input. Raises DatagenError."""
        if self._geometry is None and not self._of_clip:
            self._geometry = vision.geometry(self.ref)
        return super().geometry

    def check(self) -> Iterable[str]:
        try:
            self.revision()
            _ = self.geometry
            models.check_choices(self.settings.device, self.settings.precision)
        except DatagenError as error:
            return [str(error)]
        return []

    def open(self, context: Context) -> None:
        self._model: clip.Clip | vision.Encoder
        if self._of_clip:
            super().open(context)
            self._model = self.clip
            return
        own = self.settings
        self._model = vision.Encoder(self.ref, own.token, own.device, own.precision, own.batch_size)

    def measured(self, rows: Sequence[Panels]) -> list[dict[str, float] | Fault]:
        media = [medium for row in rows for medium in (*row.references, *row.targets)]
        vectors = self._model.images(np.concatenate(media))
        pooled = clip.pooled(vectors, [len(medium) for medium in media]).astype(np.float64)
        found: list[dict[str, float] | Fault] = []
        begin = 0
        for row in rows:
            middle = begin + len(row.references)
            end = middle + len(row.targets)
            cosine = _least(pooled[begin:middle], pooled[middle:end])
            found.append({self.scores[0]: cosine} if np.isfinite(cosine) else NO_DIRECTION)
            begin = end
        return found

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        scores = numbers(rows[self.scores[0]])
        low, high = self.settings.low, self.settings.high
        return banded(
            rows["id"], scores, scores, low, high, "the pictures of the row have no score"
        )


def _least(references: Array, targets: Array) -> float:
    return float((references @ targets.T).min())
