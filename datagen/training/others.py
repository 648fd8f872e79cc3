"""Media of other triplets that stand as negatives of a triplet, by their places in the shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen.training.samples import number_of
from datagen.training.shard_index import REFERENCE, TARGET
from datagen.training.triplets import Triplets

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Gallery:
    """Items whose media lie in shards, each once.

    numbers: int64 (g), of the items as batches know them, rising; places: int64 (g, 4), of a
    medium of each: run, row, role and number of the member; first: int64 (runs + 1), the number of
    each run's first triplet where all are counted on.
    """

    numbers: Array
    places: Array
    first: Array

    @classmethod
    def of(cls, runs: Sequence[Triplets], limit: int = 0, references: bool = True) -> Gallery:
        """The targets, and where wanted the references, of ``runs``, each in its first place.

        limit: only the first so many triplets of each run, 0 for all.
        """
        found = [_members(run, limit, references) for run in runs]
        names = pa.chunked_array([one["item"].cast(pa.string()) for one in found], pa.string())
        encoded = pc.dictionary_encode(names.combine_chunks())
        codes = np.asarray(encoded.indices, np.int64)
        _, at = np.unique(codes, return_index=True)
        numbers = np.asarray([number_of(name) for name in encoded.dictionary.to_pylist()], np.int64)
        columns = [np.repeat(np.arange(len(runs)), [len(one) for one in found])]
        columns += [
            np.concatenate([np.asarray(one[name], np.int64) for one in found])
            for name in ("row", "role", "number")
        ]
        places = np.stack(columns, axis=1)[at].astype(np.int64)
        order = np.argsort(numbers)
        first = np.cumsum([0, *(len(run) for run in runs)])
        return cls(numbers[order], places[order], first)

    def __len__(self) -> int:
        return len(self.numbers)

    def at(self, numbers: Array) -> Array:
        """Where items stand in the gallery, -1 for those that do not."""
        found = np.searchsorted(self.numbers, numbers).clip(max=max(0, len(self) - 1))
        if not len(self):
            return np.full(np.shape(numbers), -1, np.int64)
        return np.where(self.numbers[found] == numbers, found, -1)

    def answers(self, runs: Sequence[Triplets]) -> Array:
        """Places of each triplet's targets in the gallery: int32 (triplets, any), -1 for none."""
        lists = [ids for run in runs for ids in run.column("targets").to_pylist()]
        out = np.full((len(lists), max(map(len, lists), default=0)), -1, np.int32)
        for row, ids in zip(out, lists, strict=True):
            row[: len(ids)] = self.at(np.asarray(list(map(number_of, ids)), np.int64))
        return out

    @property
    def triplets(self) -> int:
        """Of all runs."""
        return int(self.first[-1])


@dataclass(frozen=True)
class Others:
    """Which items of a gallery are negatives of which triplet.

    chosen: int32 (triplets, k), places in the gallery, -1 for none; draw: how many of them a
    sample has.
    """

    gallery: Gallery
    chosen: Array
    draw: int

    def of(self, rows: Array) -> dict[tuple[int, int], Array]:
        """Places int64 (m, 4) of the negatives of triplets, for ``rows`` int64 (n, any) that
        begin with run and row."""
        out: dict[tuple[int, int], Array] = {}
        for run, row in rows[:, :2].tolist():
            own = self.chosen[self.gallery.first[run] + row]
            out[run, row] = self.gallery.places[own[own >= 0]]
        return out


def _members(run: Triplets, limit: int, references: bool) -> pa.Table:
    """Columns row, role, number and item of a run's members that are wanted."""
    column = run.column("members").combine_chunks()
    if limit:
        column = column.slice(0, limit)
    flat = column.flatten()
    table = pa.table(
        {
            "row": pc.list_parent_indices(column),
            **{name: pc.struct_field(flat, [name]) for name in ("role", "number", "item")},
        }
    )
    roles = pa.array([TARGET, *([REFERENCE] if references else [])], pa.int8())
    wanted = pc.and_(pc.is_in(table["role"], roles), pc.is_valid(table["item"]))
    return table.filter(wanted)
