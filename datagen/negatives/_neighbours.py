"""Exact nearest neighbours in a space, the same whatever the chunks, threads or workers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from datagen.space import Space
from datagen.step import Parallel

Array = np.ndarray[Any, Any]

#: Queries per task; bounds the memory of one search to a few hundred MB.
QUERIES = 4096
#: float32 products of faiss are only trusted to this much; candidates are scored again in float64.
MARGIN = 1e-4


@dataclass(frozen=True)
class Neighbours:
    """For each query its candidates by falling similarity.

    rows: int64 (queries, k), row numbers in the space, -1 where the gallery ended;
    bounds: float64 (queries,), no item left out is more similar than this (-inf: none left out).
    """

    rows: Array
    bounds: Array


def search(space: Space, gallery: Array, queries: Array, k: int, parallel: Parallel) -> Neighbours:
    """The ``k`` rows of ``gallery`` most similar (cosine) to each row of ``queries``."""
    k = min(k, len(gallery))
    if not len(queries) or not k:
        bound = -np.inf if k == len(gallery) else np.inf
        return Neighbours(np.empty((len(queries), k), np.int64), np.full(len(queries), bound))
    source = space.folder or space
    chunks = [queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES)]
    parts = list(parallel(functools.partial(_search, source, gallery, k), chunks))
    return Neighbours(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.bounds for part in parts]),
    )


def similarity(space: Space, left: Array, right: Array) -> Array:
    """Cosines of row numbers ``left`` and ``right`` (both (n,)), float64 rounded to 4 decimals.

    A sum over one pair alone in float64, so neither chunks nor BLAS show in the result.
    """
    out = np.empty(len(left))
    for start in range(0, len(left), QUERIES):
        part = slice(start, start + QUERIES)
        out[part] = np.einsum("ij,ij->i", unit(space, left[part]), unit(space, right[part]))
    rounded: Array = np.round(out, 4) + 0.0
    return rounded


def unit(space: Space, rows: Array) -> Array:
    """Vectors of ``rows`` at unit length, float64."""
    vectors = space.vectors[rows].astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    scaled: Array = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms != 0)
    return scaled


@functools.lru_cache(maxsize=1)
def _index(source: str | Space, gallery: bytes) -> Any:
    import faiss

    space = Space.open(source) if isinstance(source, str) else source
    rows = np.frombuffer(gallery, np.int64)
    index = faiss.IndexFlatIP(space.width)
    for start in range(0, len(rows), 1 << 16):
        index.add(unit(space, rows[start : start + (1 << 16)]).astype(np.float32))
    return index


def _search(source: str | Space, gallery: Array, k: int, queries: Array) -> Neighbours:
    space = Space.open(source) if isinstance(source, str) else source
    index = _index(source, np.ascontiguousarray(gallery, np.int64).tobytes())
    scores, found = index.search(unit(space, queries).astype(np.float32), k)
    rows = np.where(found >= 0, gallery[np.maximum(found, 0)], -1)
    whole = k == len(gallery)
    bounds = np.full(len(queries), -np.inf) if whole else scores[:, -1].astype(np.float64) + MARGIN
    return Neighbours(rows, bounds)
