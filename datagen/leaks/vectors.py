"""Vectors of a collection's media, made by the very operator that made a space of the run."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from datagen import schema, store
from datagen.errors import DatagenError
from datagen.leaks.collection import Collection
from datagen.step import Context, Embedder

Array = np.ndarray[Any, Any]

#: Media in a batch of a collection.
BATCH = 64
#: Cosines that are held at once.
BLOCK = 1 << 24


def fault(embedder: Any, space: str) -> str:
    """Why media of another collection cannot be put into a space; empty where they can."""
    if isinstance(embedder, Embedder) and embedder.needs("items") == {"items.media"}:
        return ""
    return (
        f"space '{space}': is not made of images and clips one by one, so those of another "
        "collection cannot be put into it; name a space of images"
    )


class Vectors:
    """Unit vectors of the media of collections, and where each stands."""

    def __init__(self, where: list[str], vectors: Array) -> None:
        self.where = where
        self.vectors = vectors

    def nearest(self, asked: Array) -> list[tuple[float, str] | None]:
        """Of each of ``asked`` (n, d) the highest cosine, 4 decimals, and with which medium; None
        for a vector without a direction.
        """
        out: list[tuple[float, str] | None] = [None] * len(asked)
        good, mine = _directed(asked)
        step = max(1, BLOCK // max(1, len(self.where)))
        for begin in range(0, len(good) if len(self.where) else 0, step):
            some = good[begin : begin + step]
            # Rounded, so that of equals the first counts.
            best = np.round(mine[begin : begin + step] @ self.vectors.T, 5).argmax(axis=1)
            for row, vector, at in zip(some, mine[begin : begin + step], best, strict=True):
                value = vector.astype(np.float64) @ self.vectors[at].astype(np.float64)
                out[row] = (float(np.round(value, 4)), self.where[at])
        return out


def vectors(collections: list[Collection], space: str, context: Context, folder: str) -> Vectors:
    """Vectors of all media of ``collections`` that can be read.

    folder: where they are kept. Raises DatagenError where the space takes no media.
    """
    embedder = context.embedders[space]
    if told := fault(embedder, space):
        raise DatagenError(told)
    # The folder of the space is named by what its vectors hang on.
    values = context.spaces[space].rstrip("/").split("/")[-2:-1]
    held = [_kept(one, embedder, context, folder, "-".join(values)) for one in collections]
    where = [
        f"{one.told}: {name}"
        for one, (names, _) in zip(collections, held, strict=True)
        for name in names
    ]
    filled = [found for names, found in held if names]
    return Vectors(where, np.concatenate(filled) if filled else np.zeros((0, 1), np.float32))


def _kept(
    collection: Collection, embedder: Any, context: Context, folder: str, values: str
) -> tuple[list[str], Array]:
    if not folder:
        return _embedded(collection, embedder, context)
    path = store.join(folder, f"{collection.stamp()}-{values}.parquet")
    if not store.is_local(path):
        return _stored(path, collection, embedder, context)
    store.make_folder(folder)
    # One worker embeds, the others wait for it.
    with FileLock(store.local_path(path) + ".lock"):
        return _stored(path, collection, embedder, context)


def _stored(
    path: str, collection: Collection, embedder: Any, context: Context
) -> tuple[list[str], Array]:
    if not store.exists(path):
        names, found = _embedded(collection, embedder, context)
        width = found.shape[1]
        column = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), width)
        store.write_table(path, pa.table({"name": pa.array(names, pa.string()), "vector": column}))
    table = store.read_table(path).combine_chunks()
    flat = table["vector"].combine_chunks()
    values = flat.flatten().to_numpy(zero_copy_only=False)
    return table["name"].to_pylist(), values.reshape(-1, flat.type.list_size)


def _embedded(collection: Collection, embedder: Any, context: Context) -> tuple[list[str], Array]:
    """Names and unit vectors of the media that can be read."""
    entries = collection.entries()
    nothing = np.zeros((0, 1), np.float32)
    if not entries.num_rows:
        return [], nothing
    # A copy: later steps are sent these operators, and must not be sent the model.
    embedder = copy.copy(embedder)
    embedder.open(context)
    names: list[str] = []
    parts = [nothing]
    for begin, prepared in _prepared(entries, embedder):
        if "verdict" in prepared.column_names:
            good = pc.equal(pc.fill_null(prepared["verdict"], schema.KEPT), schema.KEPT)
            prepared = prepared.filter(good)
        if not prepared.num_rows:
            continue
        found = embedder(prepared)
        found = found.filter(found["vector"].is_valid())
        column = found["vector"].combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        rows, unit = _directed(flat)
        chosen = found["id"].take(pa.array(rows)).to_pylist()
        names += [entries["name"][begin + int(row)].as_py() for row in chosen]
        parts = [*(part for part in parts if len(part)), unit]
    return names, np.concatenate(parts)


def _prepared(entries: pa.Table, embedder: Any) -> Iterator[tuple[int, pa.Table]]:
    """Batches with the number of their first entry, decoded by threads ahead of the model."""

    def decoded(begin: int) -> pa.Table:
        part = entries.slice(begin, BATCH)
        ids = pa.array([str(number) for number in range(part.num_rows)], pa.string())
        return embedder.prepare(pa.table({"id": ids, "media": part["media"]}))

    threads = os.cpu_count() or 1
    waiting: deque[tuple[int, Future[pa.Table]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, entries.num_rows, BATCH):
            waiting.append((begin, pool.submit(decoded, begin)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _directed(found: Array) -> tuple[Array, Array]:
    """Rows that have a direction, and their unit vectors (float32)."""
    wide = found.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    rows = np.flatnonzero(np.isfinite(length) & (length > 0))
    return rows, (wide[rows] / length[rows, None]).astype(np.float32)
