"""What of a run is exported: its triplets by split, and every item that they use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen.errors import DatagenError, nearest
from datagen.result import Run

#: Triplets that are Python objects at a time.
BATCH = 1024
#: Rows of the table that are looked up together.
PART = 32768
ROLES = ("references", "targets", "negatives")
#: The split of triplets of a run without a split step, and of those that never came to it.
WHOLE, UNSPLIT = "train", "unsplit"
USUAL = ("train", "val", "test")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")

Row = Mapping[str, Any]
Item = Mapping[str, Any]


class Selection:
    """The triplets to be written, sorted by id within their split.

    every: those that were rejected or failed as well; without: columns that the format does not
    use, which cost time. Raises DatagenError where the run is not
    finished, holds no triplet, or has a split that cannot name a file.
    """

    def __init__(self, run: Run, every: bool = False, without: Sequence[str] = ()) -> None:
        table = run.triplets(every)
        table = table.drop_columns([name for name in without if name in table.column_names])
        table = table.filter(pc.is_valid(table["modification"])) if table.num_rows else table
        if not table.num_rows:
            raise DatagenError(f"{run.out}: no triplet to export")
        self.run = run
        self.every = every
        self._hold(table)
        self._of_split: dict[str, pa.Array] = {}
        names = _splits(table)
        for name in sorted(set(names), key=_usual):
            if not _PLAIN.fullmatch(name):
                raise DatagenError(
                    f"{run.out}: split {name!r}: a name of letters, digits, _ and - was expected"
                )
            self._of_split[name] = pa.array([i for i, one in enumerate(names) if one == name])

    def _hold(self, table: pa.Table) -> None:
        self.table = table
        self._batches = table.to_batches(max_chunksize=PART)
        self._starts = np.cumsum([0, *(part.num_rows for part in self._batches)])[:-1]

    def add(self, name: str, values: pa.Array) -> None:
        """Give every triplet a further column, which :meth:`rows` can sort by."""
        self._hold(self.table.append_column(name, values))

    @property
    def splits(self) -> list[str]:
        """Names of the splits: train, val and test first."""
        return list(self._of_split)

    def chosen(self, wanted: Sequence[str]) -> list[str]:
        """The splits ``wanted``; all where none is named. Raises DatagenError for unknown ones."""
        for name in wanted:
            if name not in self._of_split:
                raise DatagenError(f"--split {name}: {nearest(name, self.splits)}")
        return [name for name in self.splits if not wanted or name in wanted]

    def count(self, split: str) -> int:
        """Triplets of a split."""
        return len(self._of_split[split])

    def indices(self, split: str) -> pa.Array:
        """Where the triplets of a split stand in the table."""
        return self._of_split[split]

    def rows(self, split: str, by: Sequence[str] = ("id",)) -> Iterator[dict[str, Any]]:
        """The triplets of a split as dictionaries, sorted by the columns ``by``."""
        own = self._of_split[split]
        keys = self.table.select(list(by)).take(own)
        order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in by])
        own = own.take(order)
        for start in range(0, len(own), BATCH):
            for row in self._taken(own[start : start + BATCH].to_numpy()):
                yield row | {role: members(row, role) for role in ROLES}

    def _taken(self, rows: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        """Rows of the table by their places in it, in that order."""
        # Batch by batch: of a column in many chunks, take would first join them all.
        found: list[dict[str, Any]] = [{}] * len(rows)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(which):
            mine = np.flatnonzero(which == number)
            part = self._batches[number].take(pa.array(rows[mine] - self._starts[number]))
            for place, row in zip(mine, part.to_pylist(), strict=True):
                found[place] = row
        return found

    def items(self, splits: Iterable[str], roles: Sequence[str]) -> dict[str, Item]:
        """Every item that stands in one of the ``roles`` of these splits, by id, sorted."""
        found: dict[str, Item] = {}
        for split in splits:
            own = self._of_split[split].to_numpy()
            for start, batch in zip(self._starts, self._batches, strict=True):
                mine = own[(own >= start) & (own < start + batch.num_rows)] - start
                part = batch.take(pa.array(mine))
                for role in roles:
                    if role in part.schema.names:
                        _gather(part.column(role), role, found)
        return dict(sorted(found.items()))

    def item_ids(self) -> list[str]:
        """Ids of all items of all splits, sorted."""
        found: set[str] = set()
        for role in ROLES:
            if role in self.table.column_names:
                for chunk in self.table[role].chunks:
                    found.update(pc.unique(_ids(_flat(chunk, role))).to_pylist())
        return sorted(found - {None})


def members(row: Row, role: str) -> list[dict[str, Any]]:
    """The items in one role of a triplet; of a negative with its ``kind`` and ``score``."""
    entries = row.get(role) or []
    if role != "negatives":
        return list(entries)
    return [one["item"] | {"kind": one["kind"], "score": one["score"]} for one in entries]


def numbers(names: Iterable[str]) -> dict[str, int]:
    """A number below 2^48 for each name: of its hash, the next free one where two are alike.

    Formats whose ids are numbers get these; they fit 64 bits and JSON's exact integers.
    """
    given: dict[str, int] = {}
    taken: set[int] = set()
    for name in sorted(names):
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big")
        while number in taken:
            number = (number + 1) % (1 << 48)
        taken.add(number)
        given[name] = number
    return given


def _usual(split: str) -> tuple[int, str]:
    """Sorts train, val and test ahead of others."""
    return (USUAL.index(split) if split in USUAL else len(USUAL)), split


def _splits(table: pa.Table) -> list[str]:
    if "split" not in table.column_names:
        return [WHOLE] * table.num_rows
    return [name if name is not None else UNSPLIT for name in table["split"].to_pylist()]


def _ids(items: pa.Array) -> pa.Array:
    return pc.struct_field(items, "id")


def _flat(column: pa.Array, role: str) -> pa.Array:
    flat = pc.list_flatten(column)
    return pc.struct_field(flat, "item") if role == "negatives" else flat


def _gather(column: pa.Array, role: str, found: dict[str, Item]) -> None:
    flat = _flat(column, role)
    fresh: dict[str, int] = {}
    for place, name in enumerate(_ids(flat).to_pylist()):
        if name is not None and name not in found:
            fresh.setdefault(name, place)
    if fresh:
        for item in flat.take(pa.array(fresh.values())).to_pylist():
            found[item["id"]] = item
