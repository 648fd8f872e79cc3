"""Triplets of shards by number: only the bytes that are wanted are read, in place.

:class:`Triplets` is what ``torch.utils.data`` calls a map-style dataset; it needs no torch.
"""

from __future__ import annotations

import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import store
from datagen.errors import DatagenError
from datagen.training import shard_index
from datagen.training.collection import Shard, collect
from datagen.training.shard_index import JSON, NEGATIVE, REFERENCE, TARGET, TEXT, VECTOR

Array = np.ndarray[Any, Any]

#: Bytes between two wanted members that are read rather than passed over, near and far.
NEAR_GAP, FAR_GAP = 64 << 10, 1 << 20
#: Local files that are open at once, and requests to far stores under way at once.
OPEN, REQUESTS = 64, 16


@dataclass(frozen=True)
class Entry:
    """A row of an index: where the members of one triplet lie.

    members: (role, number) to (first byte in the tar, bytes, id of the item).
    """

    path: str
    key: str
    pair: str
    targets: tuple[str, ...]
    members: Mapping[tuple[int, int], tuple[int, int, str | None]]

    def numbers(self, role: int) -> list[int]:
        """Numbers of the members of ``role`` that have bytes, in order."""
        return sorted(number for kind, number in self.members if kind == role)

    def item(self, role: int, number: int) -> str:
        """The id of the item whose medium it is."""
        return self.members[role, number][2] or ""


class Triplets:
    """The triplets of ``shards``, by their number: shard after shard, in the order of the tars.

    It pickles without its files, so workers of any kind may have it.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = tuple(shards)
        self._open()

    @classmethod
    def of(cls, path: str, split: str | None = "train", **how: Any) -> Triplets:
        """Those of a run, a folder of shards or a tar (:func:`datagen.training.collection.collect`,
        which tells the other arguments and errors)."""
        return cls(collect(path, split, **how).shards)

    def _open(self) -> None:
        self._tables: dict[int, pa.Table] = {}
        self._files: OrderedDict[str, int] = OrderedDict()
        sizes = [len(self._table(number)) for number in range(len(self.shards))]
        self._ends = np.cumsum(sizes)

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self.shards}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.shards = state["shards"]
        self._open()

    def __del__(self) -> None:
        for handle in getattr(self, "_files", {}).values():
            os.close(handle)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One triplet, whole: ``key``, ``references``, ``targets`` and ``negatives`` (lists of
        bytes), ``modification``, ``json``, and ``target_vector`` where there is one.
        """
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        entry = self.entry(row % len(self))
        data = self.read(entry, entry.members)
        out: dict[str, Any] = {
            "key": entry.key,
            **{
                name: [data[role, number] for number in entry.numbers(role)]
                for role, name in (
                    (REFERENCE, "references"), (TARGET, "targets"), (NEGATIVE, "negatives"),
                )
            },
            "modification": data[TEXT, 0].decode(errors="replace"),
            "json": json.loads(data[JSON, 0]),
        }  # fmt: skip
        if (VECTOR, 0) in data:
            out["target_vector"] = vector(data[VECTOR, 0])
        return out

    def _table(self, shard: int) -> pa.Table:
        if shard not in self._tables:
            self._tables[shard] = shard_index.opened(self.shards[shard].index).table
        return self._tables[shard]

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the index, of all triplets."""
        tables = [self._table(number).select([name]) for number in range(len(self.shards))]
        schema = pa.schema([shard_index.INDEX.field(name)])
        return pa.concat_tables([schema.empty_table(), *(one.cast(schema) for one in tables)])[name]

    def shard_of(self) -> Array:
        """The number of the shard of each triplet: int32 (n)."""
        sizes = np.diff(self._ends, prepend=0)
        return np.repeat(np.arange(len(self.shards), dtype=np.int32), sizes)

    def entry(self, row: int) -> Entry:
        """Where the members of triplet ``row`` lie."""
        shard = int(np.searchsorted(self._ends, row, side="right"))
        before = int(self._ends[shard - 1]) if shard else 0
        found = self._table(shard).slice(row - before, 1).to_pylist()[0]
        members = {
            (one["role"], one["number"]):
                (found["start"] + one["offset"], one["size"], one["item"])
            for one in found["members"]
        }  # fmt: skip
        path = self.shards[shard].path
        return Entry(path, found["key"], found["pair"], tuple(found["targets"]), members)

    def read(self, entry: Entry, wanted: Iterable[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """The bytes of some members. Raises DatagenError where the shard is gone or shorter."""
        places = sorted(entry.members[name][:2] for name in set(wanted))
        gap = NEAR_GAP if store.is_local(entry.path) else FAR_GAP
        held: dict[tuple[int, int], bytes] = {}
        for begin, end, parts in _joined(places, gap):
            data = self._bytes(entry.path, begin, end - begin)
            if len(data) < end - begin:
                raise DatagenError(f"{entry.path}: shorter than it was; write the shards again")
            held.update({(at, size): data[at - begin : at - begin + size] for at, size in parts})
        return {name: held[entry.members[name][:2]] for name in set(wanted)}

    def read_many(
        self, wanted: Sequence[tuple[Entry, Iterable[tuple[int, int]]]]
    ) -> list[dict[tuple[int, int], bytes]]:
        """:meth:`read` for several triplets; many requests at once where the store is far."""
        if all(store.is_local(entry.path) for entry, _ in wanted):
            return [self.read(entry, names) for entry, names in wanted]
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(lambda one: self.read(*one), wanted))

    def _bytes(self, path: str, offset: int, size: int) -> bytes:
        if not store.is_local(path):
            try:
                return store.read_bytes(path, offset, size)
            except FileNotFoundError as error:
                raise DatagenError(f"{path}: gone; write the shards again") from error
        handle = self._files.pop(path, None)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if handle is None else handle
        except OSError as error:
            raise DatagenError(f"{path}: {error.strerror}; write the shards again") from error
        self._files[path] = handle
        if len(self._files) > OPEN:
            os.close(self._files.popitem(last=False)[1])
        pieces, end = [], offset + size
        while offset < end and (piece := os.pread(handle, end - offset, offset)):
            pieces.append(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _joined(
    places: Sequence[tuple[int, int]], gap: int
) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Ranges that are read at once: (first byte, end, the places in it)."""
    out: list[tuple[int, int, list[tuple[int, int]]]] = []
    for at, size in places:
        if out and at - out[-1][1] <= gap:
            begin, end, parts = out.pop()
            out.append((begin, max(end, at + size), [*parts, (at, size)]))
        else:
            out.append((at, at + size, [(at, size)]))
    return out


def vector(data: bytes) -> Array:
    """The float32 vector in a file of NumPy. Raises ValueError where it is none."""
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
        if found.ndim != 1 or found.dtype != np.float32:
            raise ValueError("one row of float32 expected")
    except (EOFError, OSError) as error:
        raise ValueError(str(error)) from error
    return np.asarray(found)
