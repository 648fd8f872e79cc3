"""What filters share that hold the pictures of references against those of targets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from datagen import faults, preprocess, schema
from datagen.faults import Fault
from datagen.filters._bounds import rounded
from datagen.preprocess import Geometry
from datagen.schema import Level
from datagen.step import Filter, Settings

Array = np.ndarray[Any, Any]

SIDES = ("references", "targets")

S = TypeVar("S", bound=Settings)


class Panels(NamedTuple):
    """The pictures of a row: uint8 (frames, height, width, 3) each, an image being one frame."""

    references: list[Array]
    targets: list[Array]


class PanelFilter(Filter[S]):
    """A filter on the pixels of references and targets, all of one size.

    Settings have ``frames``. Rows fail that have no reference or no target, or one that cannot be
    decoded; one without media is rejected as ``no_media``.
    """

    levels: ClassVar[tuple[Level, ...]] = ("pairs", "triplets")
    #: Names of the score columns.
    scores: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """What all pictures are resized to."""

    @abstractmethod
    def measured(self, rows: Sequence[Panels]) -> list[dict[str, float] | Fault]:
        """The scores of each row; or what is against it."""

    def needs(self, level: Level) -> set[str]:
        return {"items.media", "pairs"}

    def gives(self, level: Level) -> set[str]:
        return set(self.scores)

    def columns(self, level: Level) -> list[str]:
        return ["id", *SIDES]

    def prepare(self, rows: pa.Table) -> pa.Table:
        left, right = (rows[side].to_pylist() for side in SIDES)
        whole = [bool(one and other) for one, other in zip(left, right, strict=True)]
        places = [
            [member["media"] for member in (*one, *other)] if good else []
            for one, other, good in zip(left, right, whole, strict=True)
        ]
        frames = self.settings.frames  # type: ignore[attr-defined]
        decoded, wrong = preprocess.decode(places, self.geometry, frames)
        wrong = [
            fault if good else (schema.FAILED, "no_image", "the row has no reference or no target")
            for fault, good in zip(wrong, whole, strict=True)
        ]
        first = pa.array([len(one or ()) for one in left], pa.int32())
        return pa.table({"id": rows["id"], **decoded, "first": first, **faults.columns(wrong)})

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        usable = [number for number, fault in enumerate(wrong) if fault is None]
        found = self.measured(list(self._panels(rows, usable))) if usable else []
        columns = {name: np.full(rows.num_rows, np.nan) for name in self.scores}
        for number, one in zip(usable, found, strict=True):
            if isinstance(one, Mapping):
                for name in self.scores:
                    columns[name][number] = one[name]
            else:
                wrong[number] = one
        given = {name: rounded(values) for name, values in columns.items()}
        return pa.table({"id": rows["id"], **given, **faults.columns(wrong)})

    def _panels(self, rows: pa.Table, usable: Sequence[int]) -> Iterator[Panels]:
        """The pictures of the ``usable`` rows."""
        pixels = preprocess.pixels(rows, self.geometry, usable)
        counts = preprocess.counts(rows, usable)
        first = rows["first"].take(pa.array(usable, pa.int64())).to_pylist()
        begin = 0
        for frames, references in zip(counts, first, strict=True):
            ends = begin + np.cumsum(frames)
            media = np.split(pixels[begin : ends[-1]], ends[:-1] - begin)
            yield Panels(media[:references], media[references:])
            begin = int(ends[-1])


def paired(left: Array, right: Array) -> Iterator[tuple[Array, Array]]:
    """Frames of two media (frames, height, width, 3) that stand at the same share of their time."""
    count = max(len(left), len(right))
    for at in range(count):
        yield left[at * len(left) // count], right[at * len(right) // count]
