"""Rejects pictures that a classifier calls unsafe for work.

A classifier errs both ways: it misses some, and calls beaches and statues unsafe. Look at what it
rejects before you rely on it.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from datagen import vision
from datagen.errors import DatagenError, nearest
from datagen.filters._pictures import Array, PictureFilter, PictureSettings
from datagen.pinned import ModelChoice, Pinned
from datagen.preprocess import Geometry
from datagen.step import Context


class NsfwSettings(PictureSettings, ModelChoice):
    """model: an image classifier of transformers; by default one with the labels normal and nsfw,
    published under Apache-2.0. unsafe: the labels that count, whatever their case. high: the
    highest probability of them that is kept (0 to 1).
    """

    model: str = "hf:Falconsai/nsfw_image_detection"
    unsafe: tuple[str, ...] = Field(("nsfw",), min_length=1)
    high: float = Field(0.5, ge=0, le=1)


class Nsfw(Pinned[NsfwSettings], PictureFilter[NsfwSettings]):
    """Measures ``score_nsfw`` of each item: the probability that its picture is unsafe, the labels
    ``unsafe`` taken together; of a model that may give several labels, that of the likeliest.

    Of a clip the worst frame counts. A row is kept when no item that ``of`` names is above
    ``high``. An item without media is rejected as ``no_media``, one that cannot be decoded fails,
    and every row that uses it with it.
    """

    Settings = NsfwSettings
    requires = (("torch", "models"), ("transformers", "models"))
    instead = "a classifier is named by hf: or file:"
    rules = frozenset({"high", "of"})
    score = "score_nsfw"

    def __init__(self, settings: NsfwSettings) -> None:
        super().__init__(settings)
        self._geometry: Geometry | None = None

    def look(self) -> None:
        _ = self.geometry, self._places()

    @property
    def geometry(self) -> Geometry:
        if self._geometry is None:
            self._geometry = vision.geometry(self.ref)
        return self._geometry

    def _places(self) -> list[int]:
        """Which labels of the model are unsafe. Raises DatagenError where it has no such label."""
        have = [name.casefold() for name in vision.labels(self.ref)]
        for name in self.settings.unsafe:
            if name.casefold() not in have:
                hint = nearest(name, vision.labels(self.ref))
                raise DatagenError(f"nsfw.unsafe: '{self.ref}' has no label '{name}'; {hint}")
        return [have.index(name.casefold()) for name in self.settings.unsafe]

    def open(self, context: Context) -> None:
        own = self.settings
        self._unsafe = self._places()
        self._model = vision.Classifier(self.ref, own.device, own.precision, own.batch_size)

    def scored(self, pixels: Array) -> Array:
        shares = self._model.shares(pixels)[:, sorted(set(self._unsafe))]
        taken: Array = shares.max(axis=1) if self._model.several else shares.sum(axis=1)
        return taken

    def pooled(self, scores: Array) -> float:
        return float(np.max(scores))

    def band(self) -> tuple[float | None, float | None]:
        return None, self.settings.high
