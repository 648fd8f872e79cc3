"""A space: one vector per item, stored once as two plain NumPy files and memory-mapped."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import store

Array = np.ndarray[Any, Any]


FILES = ("ids.npy", "vectors.npy")


class Space:
    """Vectors of items in the order of their sorted ids.

    ids: byte strings of shape (n,), sorted; vectors: float32 of shape (n, d), unit length
    unless the embedder says otherwise.
    """

    def __init__(self, ids: Array, vectors: Array, folder: str = "") -> None:
        self.ids = ids
        self.vectors = vectors
        self.folder = folder

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return int(self.vectors.shape[1])

    @staticmethod
    def open(folder: str) -> Space:
        """Memory-map the space in ``folder`` (a remote folder is copied to the local cache).

        Opening it again is cheap, and notices that it was written anew.
        """
        local = store.local_copy(folder, FILES)
        return _opened(folder, local, tuple(store.stamp(f"{local}/{name}") for name in FILES))

    @staticmethod
    def write(folder: str, ids: Sequence[str], vectors: Array) -> None:
        """Write ``vectors`` (n, d) of ``ids`` (n) in canonical order."""
        names = np.asarray(ids, dtype="S")
        order = np.argsort(names, kind="stable")
        store.write_npy(f"{folder}/ids.npy", names[order])
        store.write_npy(f"{folder}/vectors.npy", np.asarray(vectors)[order])

    @staticmethod
    def build(
        folder: str, ids: Sequence[str], chunks: Iterable[tuple[Sequence[str], Array]]
    ) -> None:
        """Write the space of ``ids`` from chunks of (ids, vectors) in any order.

        Memory stays bounded by one chunk. Ids in no chunk stay NaN; ids beyond ``ids`` and
        repeated ones are harmless.
        """
        names = np.sort(np.asarray(ids, dtype="S"))
        with tempfile.TemporaryFile() as file:
            vectors: Array | None = None
            for some, values in chunks if len(names) else ():
                if vectors is None:
                    shape = (len(names), values.shape[1])
                    vectors = np.memmap(file, np.float32, "w+", shape=shape)
                    vectors[:] = np.nan
                wanted = np.asarray(some, dtype="S")
                at = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
                hit = names[at] == wanted
                vectors[at[hit]] = values[hit]
            if vectors is None:
                vectors = np.zeros((0, 1), np.float32)
            store.write_npy(f"{folder}/ids.npy", names[: len(vectors)])
            store.write_npy(f"{folder}/vectors.npy", vectors)

    def rows(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> Array:
        """Row numbers of ``ids``; -1 where the space has no such item."""
        if isinstance(ids, (pa.Array, pa.ChunkedArray)):
            ids = ids.to_pylist()
        wanted = np.asarray(ids, dtype="S")
        if not len(self.ids) or not len(wanted):
            return np.full(len(wanted), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        return np.where(self.ids[at] == wanted, at, -1)

    def of(self, ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> Array:
        """Vectors of ``ids`` as float32 (n, d); NaN where the space has no such item."""
        rows = self.rows(ids)
        out = np.full((len(rows), self.width), np.nan, dtype=np.float32)
        have = rows >= 0
        out[have] = self.vectors[rows[have]]
        return out


@functools.lru_cache(maxsize=16)
def _opened(folder: str, local: str, stamps: tuple[str, ...]) -> Space:
    return Space(
        np.load(f"{local}/ids.npy", allow_pickle=False),
        np.load(f"{local}/vectors.npy", mmap_mode="r", allow_pickle=False),
        folder,
    )
