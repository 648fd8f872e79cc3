"""Keeps pictures that a predictor of people's ratings likes.

LAION-Aesthetics (arXiv:2210.08402) puts a small head on CLIP's vector of a picture, trained on
ratings from 1 to 10, and InstructPix2Pix' captions come from its part rated 6.5 and higher. The
head is a file of your own choice, or the model a classifier or a regression of transformers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import model_validator

from datagen import clip, models, vision
from datagen.errors import DatagenError, nearest
from datagen.filters import _bounds
from datagen.filters._head import Head
from datagen.filters._pictures import Array, PictureFilter, PictureSettings
from datagen.preprocess import Geometry
from datagen.step import Context


class AestheticSettings(PictureSettings):
    """model: with ``head``, the CLIP model whose vectors it reads; without, an image classifier or
    a regression of transformers.

    head: a file of safetensors (``file:head.safetensors``, or ``hf:org/name`` of a repository with
    one such file): linear layers as ``NAME.weight`` (out, in) and ``NAME.bias`` (out), in the order
    of the numbers in their names; the first reads CLIP's unit vector, the last gives the score. The
    file's metadata may say ``activation`` between layers: none (as LAION's), relu or gelu. label:
    of a classifier, the one whose probability is the score; a regression needs none. low, high:
    the band that is kept, bounds included, in units of the model (LAION's: 1 to 10).
    """

    model: str = "open_clip:ViT-L-14/openai"
    head: str | None = None
    label: str | None = None
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _sense(self) -> AestheticSettings:
        _bounds.sound_band(self.low, self.high)
        if self.head is not None and self.label is not None:
            raise ValueError("give head (of a CLIP model) or label (of a classifier), not both")
        return self


class Aesthetic(PictureFilter[AestheticSettings]):
    """Measures ``score_aesthetic`` of each item; of a clip the mean of its frames' scores.

    A row is kept when every item that ``of`` names is in the band. An item without media is
    rejected as ``no_media``, one that cannot be decoded fails, and every row that uses it with it.
    """

    Settings = AestheticSettings
    requires = (("torch", "models"), ("open_clip", "models"), ("transformers", "models"))
    rules = frozenset({"low", "high", "of"})
    score = "score_aesthetic"

    def __init__(self, settings: AestheticSettings) -> None:
        super().__init__(settings)
        self.ref = models.parse(settings.model)
        self.head = models.parse(settings.head) if settings.head is not None else None
        self._geometry: Geometry | None = None

    def revision(self) -> str:
        found = models.revision(self.ref)
        self.ref = models.at(self.ref, found)
        if self.head is None:
            return found
        head = models.revision(self.head)
        self.head = models.at(self.head, head)
        return f"{found} {head}"

    def check(self) -> Iterable[str]:
        try:
            if self.head is None and self.ref.scheme == "open_clip":
                raise DatagenError(
                    f"aesthetic.head: '{self.ref}' gives vectors, not scores; name a head "
                    "(head: file:head.safetensors), or a model that gives scores itself"
                )
            self.revision()
            models.check_choices(self.settings.device, self.settings.precision)
            _ = self.geometry
            if self.head is None:
                self._place()
            else:
                width = clip.config(self.ref).model["embed_dim"]
                Head(self.head).check(int(width))
        except DatagenError as error:
            yield str(error)

    @property
    def geometry(self) -> Geometry:
        if self._geometry is None:
            found = clip.config(self.ref).geometry if self.head else vision.geometry(self.ref)
            self._geometry = found
        return self._geometry

    def _place(self) -> int | None:
        """Which label of a classifier is the score; None for a regression. Raises DatagenError."""
        labels, wanted = vision.labels(self.ref), self.settings.label
        if len(labels) == 1 and wanted is None:
            return None
        if wanted not in labels:
            told = f"has no label '{wanted}'" if wanted else "gives several labels"
            hint = nearest(wanted or labels[0], labels)
            raise DatagenError(f"aesthetic.label: '{self.ref}' {told}; {hint}")
        return labels.index(wanted)

    def open(self, context: Context) -> None:
        own = self.settings
        if self.head is None:
            self._label = self._place()
            self._model = vision.Classifier(self.ref, own.device, own.precision, own.batch_size)
            return
        self._rated = Head(self.head)
        self._clip = clip.load(
            self.ref, device=own.device, precision=own.precision, batch_size=own.batch_size
        )
        self._rated.check(self._clip.width)

    def scored(self, pixels: Array) -> Array:
        if self.head is not None:
            return self._rated(self._clip.images(pixels))
        if self._label is None:
            rated: Array = self._model.logits(pixels)[:, 0]
            return rated
        share: Array = self._model.shares(pixels)[:, self._label]
        return share

    def pooled(self, scores: Array) -> float:
        return float(np.mean(scores))

    def band(self) -> tuple[float | None, float | None]:
        return self.settings.low, self.settings.high
