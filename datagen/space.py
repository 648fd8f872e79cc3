"""A space: one vector per item, stored once as two plain NumPy files and memory-mapped.

An embedder of clips may keep the vectors of their frames as well, in three files more.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from datagen import store
from datagen.errors import DatagenError

Array = np.ndarray[Any, Any]


FILES = ("ids.npy", "vectors.npy")

#: Of spaces that keep frames: their vectors (m, d) item by item in the order of ids, the time of
#: each in seconds (m), and where each item's begin (n + 1).
FRAME_FILES = ("frames.npy", "frame_seconds.npy", "frame_starts.npy")


class FrameRows(NamedTuple):
    """Frames of several items, one item after another.

    vectors: (m, d); seconds: float64 (m); counts: int64 (n), how many each item has.
    """

    vectors: Array
    seconds: Array
    counts: Array


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
        folder: str,
        ids: Sequence[str],
        chunks: Iterable[tuple[Sequence[str], Array, FrameRows | None]],
    ) -> None:
        """Write the space of ``ids`` from chunks of (ids, vectors, frames) in any order.

        Memory stays bounded by one chunk. Ids in no chunk stay NaN and have no frames; ids beyond
        ``ids`` and repeated ones are harmless. Files of frames are written where any chunk has
        frames.
        """
        names = np.sort(np.asarray(ids, dtype="S"))
        with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as beside:
            vectors: Array | None = None
            frames = _Frames(beside, len(names))
            for some, values, more in chunks if len(names) else ():
                if vectors is None:
                    shape = (len(names), values.shape[1])
                    vectors = np.memmap(file, np.float32, "w+", shape=shape)
                    vectors[:] = np.nan
                wanted = np.asarray(some, dtype="S")
                at = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
                hit = names[at] == wanted
                vectors[at[hit]] = values[hit]
                if more is not None:
                    frames.add(np.where(hit, at, -1), more)
            if vectors is None:
                vectors = np.zeros((0, 1), np.float32)
            # Before vectors.npy, which tells readers that the space was written anew.
            frames.write(folder)
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

    def frames(self, name: str) -> Array:
        """Vectors of the frames of item ``name``: float32 (m, d), in the order of time.

        An image is its one frame; an item that the space does not have has none. Raises
        DatagenError where the space keeps no frames.
        """
        return np.asarray(self._frames.vectors[self._part(name)], dtype=np.float32)

    def seconds(self, name: str) -> Array:
        """Times of the frames of item ``name``: float64 (m). Raises as :meth:`frames` does."""
        return np.array(self._frames.seconds[self._part(name)])

    def _part(self, name: str) -> slice:
        starts = self._frames.counts
        (row,) = self.rows([name])
        return slice(int(starts[row]), int(starts[row + 1])) if row >= 0 else slice(0, 0)

    @functools.cached_property
    def _frames(self) -> FrameRows:
        """The files of frames as they are: ``counts`` holds where each item's begin."""
        if not self.folder or not store.exists(store.join(self.folder, FRAME_FILES[0])):
            raise DatagenError(
                f"{self.folder or 'the space'}: keeps no frames of clips; set keep_frames: true "
                "in the embed step that makes it"
            )
        local = store.local_copy(self.folder, FRAME_FILES)
        return FrameRows(*(_mapped(f"{local}/{name}") for name in FRAME_FILES))


class _Frames:
    """Gathers frames in a temporary file, in the order in which they come."""

    def __init__(self, file: IO[bytes], items: int) -> None:
        self._file = file
        self._begin = np.zeros(items, dtype=np.int64)
        self._counts = np.zeros(items, dtype=np.int64)
        self._held = 0
        self._kind: np.dtype[Any] | None = None

    def add(self, rows: Array, frames: FrameRows) -> None:
        """Take the frames of items ``rows`` (n; -1: not wanted)."""
        self._kind = self._kind or np.dtype(
            [("seconds", "f8"), ("vector", frames.vectors.dtype, frames.vectors.shape[1:])]
        )
        lines = np.empty(len(frames.vectors), dtype=self._kind)
        lines["seconds"], lines["vector"] = frames.seconds, frames.vectors
        self._file.write(lines.tobytes())
        wanted = rows >= 0
        begin = self._held + np.cumsum(frames.counts) - frames.counts
        self._begin[rows[wanted]] = begin[wanted]
        self._counts[rows[wanted]] = frames.counts[wanted]
        self._held += len(lines)

    def write(self, folder: str) -> None:
        """Write the three files, in the order of items; nothing where no frames came."""
        if self._kind is None:
            return
        self._file.flush()
        starts = np.concatenate([[0], np.cumsum(self._counts)])
        order = np.repeat(self._begin - starts[:-1], self._counts) + np.arange(starts[-1])
        come = np.zeros(0, self._kind)
        if self._held:
            come = np.memmap(self._file, self._kind, "r", shape=(self._held,))
        with tempfile.TemporaryFile() as file:
            kind, width = self._kind["vector"].base, self._kind["vector"].shape[0]
            vectors = np.zeros((0, width), kind)
            if len(order):
                vectors = np.memmap(file, kind, "w+", shape=(len(order), width))
            seconds = np.empty(len(order))
            for at in range(0, len(order), _BLOCK):
                block = come[order[at : at + _BLOCK]]
                vectors[at : at + _BLOCK] = block["vector"]
                seconds[at : at + _BLOCK] = block["seconds"]
            for name, array in zip(FRAME_FILES, (vectors, seconds, starts), strict=True):
                store.write_npy(f"{folder}/{name}", array)


#: Frames that are put in order at a time.
_BLOCK = 1 << 14


def _mapped(path: str) -> Array:
    mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


@functools.lru_cache(maxsize=16)
def _opened(folder: str, local: str, stamps: tuple[str, ...]) -> Space:
    return Space(
        np.load(f"{local}/ids.npy", allow_pickle=False),
        np.load(f"{local}/vectors.npy", mmap_mode="r", allow_pickle=False),
        folder,
    )
