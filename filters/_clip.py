"""What the filters on CLIP similarity share: settings, the model, scores and their decisions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from datagen import clip, faults, preprocess, schema
from datagen.faults import Fault
from datagen.filters import _bounds
from datagen.filters._bounds import rounded
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
        _bounds.sound_band(self.low, self.high)
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
    def measured(self, images: Array, texts: Array, references: int) -> float | Fault:
        """The score of a row from the unit vectors of its images (n, d) and texts (m, d), float64;
        or what is against it. The first ``references`` images are those of references.
        """

    def references(self, rows: pa.Table) -> list[int]:
        """How many of each row's images are those of references; they come first."""
        return [0] * rows.num_rows

    def unfit(self, rows: pa.Table) -> list[Fault]:
        """What can be seen to be wrong with each row before it is looked at."""
        return [None] * rows.num_rows

    def prepare(self, rows: pa.Table) -> pa.Table:
        images, texts = self.images(rows), self.texts(rows)
        early = self.unfit(rows)
        places = [[] if fault else one for one, fault in zip(images, early, strict=True)]
        decoded, wrong = preprocess.decode(places, self.geometry, self.settings.frames)
        for number in range(rows.num_rows):
            if not images[number] or not texts[number]:
                lacking = "text" if images[number] else "image"
                fault = (schema.FAILED, f"no_{lacking}", f"there is no {lacking} to compare")
                wrong[number] = wrong[number] or fault
        wrong = [first or then for first, then in zip(early, wrong, strict=True)]
        counts = pa.array(self.references(rows), pa.int32())
        given = {"id": rows["id"], **decoded, "texts": pa.array(texts, _TEXTS), "first": counts}
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
            sizes = zip(map(len, frames), map(len, lists), strict=True)
            cut = _cut(images, texts, list(sizes))
            first = rows["first"].take(pa.array(usable, pa.int64())).to_pylist()
            for number, (left, right), count in zip(usable, cut, first, strict=True):
                finite = np.isfinite(left).all() and np.isfinite(right).all()
                found = self.measured(left, right, count) if finite else NO_DIRECTION
                if isinstance(found, float):
                    scores[number] = found
                else:
                    wrong[number] = found
        return pa.table({"id": rows["id"], self.score: rounded(scores), **faults.columns(wrong)})

    def verdicts(self, ids: pa.ChunkedArray, lowest: Array, highest: Array) -> pa.Table:
        """Verdicts of rows with scores from ``lowest`` to ``highest`` (NaN: not measured)."""
        low, high = self.settings.low, self.settings.high
        lacks = "an image or text of the row has no CLIP score"
        return _bounds.banded(ids, lowest, highest, low, high, lacks)


def _cut(images: Array, texts: Array, sizes: Sequence[tuple[int, int]]) -> Iterator[Any]:
    """The vectors of each row's images and texts, of which there are ``sizes``, as float64."""
    image = text = 0
    for many_images, many_texts in sizes:
        left, right = images[image : image + many_images], texts[text : text + many_texts]
        yield left.astype(np.float64), right.astype(np.float64)
        image, text = image + many_images, text + many_texts


NO_DIRECTION = (schema.FAILED, "no_direction", "the model gave no finite vector")
_TEXTS = pa.list_(pa.string())
