"""What the filters on CLIP similarity share: settings, the model, scores and their decisions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from datagen import clip, faults, preprocess, schema
from datagen.faults import Fault
from datagen.filters import _bounds
from datagen.filters._bounds import above, below, rounded
from datagen.step import Filter

Array = np.ndarray[Any, Any]
Media = Mapping[str, Any] | None


class ClipSettings(clip.ModelSettings):
    """model: as in ``embed``; published thresholds are cosines of ``open_clip:ViT-L-14/openai``.

    low, high: the band that is kept, bounds included (cosine, -1 to 1). frames: of a clip so many
    frames at even distances, ``first``, ``middle``, ``key`` (key frames, eight at most), or those
    at a list of seconds. device: auto, cpu, cuda, mps. precision: auto (bf16 on CUDA, else fp32),
    fp32, bf16, fp16. batch_size: frames or texts of every forward pass.
    """

    model: str = "open_clip:ViT-L-14/openai"
    low: float | None = Field(None, ge=-1, le=1)
    high: float | None = Field(None, ge=-1, le=1)

    @model_validator(mode="after")
    def _band(self) -> ClipSettings:
        if self.low is None and self.high is None:
            raise ValueError("give low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


S = TypeVar("S", bound=ClipSettings)


class ClipFilter(clip.ClipOperator[S], Filter[S]):
    """Scores images and clips against texts with a CLIP model; a subclass says which of a row's.

    A clip stands in the place of an image with the mean of its frames' unit vectors, scaled to
    length 1: the vector that ``embed: {op: open_clip}`` gives it by default.
    """

    version: ClassVar[int] = 2
    rules: ClassVar[frozenset[str]] = frozenset({"low", "high"})
    #: Name of the score column.
    score: ClassVar[str]

    @abstractmethod
    def images(self, rows: pa.Table) -> list[list[Media]]:
        """The images and clips of each row."""

    @abstractmethod
    def texts(self, rows: pa.Table) -> list[list[str]]:
        """The texts of each row."""

    @abstractmethod
    def combine(self, cosines: Array) -> float:
        """The score of a row from the cosines (images, texts) of all its images and texts."""

    def prepare(self, rows: pa.Table) -> pa.Table:
        images, texts = self.images(rows), self.texts(rows)
        decoded, wrong = preprocess.decode(images, self.geometry, self.settings.frames)
        for number in range(rows.num_rows):
            if not images[number] or not texts[number]:
                lacking = "text" if images[number] else "image"
                fault = (schema.FAILED, f"no_{lacking}", f"there is no {lacking} to compare")
                wrong[number] = wrong[number] or fault
        given = {"id": rows["id"], **decoded, "texts": pa.array(texts, _TEXTS)}
        return pa.table({**given, **faults.columns(wrong)})

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        scores = np.full(rows.num_rows, np.nan)
        usable = [number for number, fault in enumerate(wrong) if fault is None]
        if usable:
            vectors = self.clip.images(preprocess.pixels(rows, self.geometry, usable))
            frames = preprocess.counts(rows, usable)
            images = clip.pooled(vectors, [count for counts in frames for count in counts])
            lists = rows["texts"].take(pa.array(usable, pa.int64())).to_pylist()
            texts = self.clip.texts([text for words in lists for text in words])
            sizes = [(len(one), len(words)) for one, words in zip(frames, lists, strict=True)]
            scores[usable] = self._scores(images, texts, sizes)
        for number in usable:
            if not np.isfinite(scores[number]):
                wrong[number] = (schema.FAILED, "no_direction", "the model gave no finite vector")
        return pa.table({"id": rows["id"], self.score: rounded(scores), **faults.columns(wrong)})

    def _scores(self, images: Array, texts: Array, counts: Sequence[tuple[int, int]]) -> Array:
        scores = []
        image = text = 0
        for many_images, many_texts in counts:
            left = images[image : image + many_images].astype(np.float64)
            right = texts[text : text + many_texts].astype(np.float64)
            scores.append(self.combine(left @ right.T))
            image, text = image + many_images, text + many_texts
        return np.array(scores)

    def verdicts(self, ids: pa.ChunkedArray, lowest: Array, highest: Array) -> pa.Table:
        """Verdicts of rows with scores from ``lowest`` to ``highest`` (NaN: not measured)."""
        low, high = self.settings.low, self.settings.high
        found: list[Fault] = []
        for least, most in zip(lowest.tolist(), highest.tolist(), strict=True):
            if least != least:
                found.append((schema.FAILED, None, "an image or text of the row has no CLIP score"))
            else:
                found.append(below(least, low) or above(most, high))
        return _bounds.verdicts(ids, found)


_TEXTS = pa.list_(pa.string())
