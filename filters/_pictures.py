"""What filters share that score each item by its picture with a model, without its captions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import clip, faults, models, preprocess, schema
from datagen.filters._bounds import Of, banded, of_items, rounded
from datagen.preprocess import Geometry
from datagen.schema import Level
from datagen.step import Filter, Resources, Settings

Array = np.ndarray[Any, Any]


class PictureSettings(Settings):
    """frames: of a clip so many frames at even distances, ``first``, ``middle``, ``key``, or those
    at a list of seconds. of: whose items of a row count, those of the references, of the targets,
    or both. device: auto, cpu, cuda, mps. precision: auto (bf16 on CUDA, else fp32), fp32, bf16,
    fp16. batch_size: frames of every forward pass.
    """

    frames: preprocess.Frames = 8
    of: Of = "both"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = Field(64, ge=1)


S = TypeVar("S", bound=PictureSettings)


class PictureFilter(Filter[S]):
    """Scores items by a model; a subclass says which, and how scores of a clip's frames become one.

    An item whose picture cannot be decoded fails, and every row that uses it with it.
    """

    levels: ClassVar[tuple[Level, ...]] = ("items", "pairs", "triplets")
    on_items = True
    #: Name of the score column.
    score: ClassVar[str]

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Size and normalisation of the model's input. Raises DatagenError."""

    @abstractmethod
    def scored(self, pixels: Array) -> Array:
        """The score of each picture, float64 (n), of uint8 (n, height, width, 3)."""

    @abstractmethod
    def pooled(self, scores: Array) -> float:
        """The score of an item from those of its frames."""

    @abstractmethod
    def band(self) -> tuple[float | None, float | None]:
        """The lowest and the highest score that is kept."""

    def needs(self, level: Level) -> set[str]:
        return {"items.media"}

    def gives(self, level: Level) -> set[str]:
        return {f"items.{self.score}"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "media"]

    def resources(self) -> Resources:
        frames = preprocess.frames_at_most(self.settings.frames)
        rows = max(1, min(4 * self.settings.batch_size, clip.FRAMES // frames))
        return Resources(gpus=models.gpus(self.settings.device), batch_size=rows, actor=True)

    def prepare(self, rows: pa.Table) -> pa.Table:
        places = [[place] for place in rows["media"].to_pylist()]
        decoded, wrong = preprocess.decode(places, self.geometry, self.settings.frames)
        return pa.table({"id": rows["id"], **decoded, **faults.columns(wrong)})

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        usable = [number for number, fault in enumerate(wrong) if fault is None]
        scores = np.full(rows.num_rows, np.nan)
        if usable:
            frames = self.scored(preprocess.pixels(rows, self.geometry, usable))
            counts = [count for (count,) in preprocess.counts(rows, usable)]
            parts = np.split(frames, np.cumsum(counts)[:-1])
            for number, part in zip(usable, parts, strict=True):
                scores[number] = self.pooled(part)
                if not np.isfinite(scores[number]):
                    wrong[number] = (schema.FAILED, "no_score", "the model gave no finite score")
                    scores[number] = np.nan
        return pa.table({"id": rows["id"], self.score: rounded(scores), **faults.columns(wrong)})

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        lowest, highest = of_items(rows, items, self.score, self.settings.of)
        lacks = f"an item of the row has no {self.score}"
        return banded(rows["id"], lowest, highest, *self.band(), lacks)
