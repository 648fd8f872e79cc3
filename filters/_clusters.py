"""Clusters of a space, and how near each item is to those before it: the work of SemDeDup.

All of it is done on one thread a piece, and pieces depend on the data alone, so neither the number
of workers nor that of threads shows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import faiss
import numpy as np

from datagen.space import Space
from datagen.step import Parallel, serial

Array = np.ndarray[Any, Any]

#: Items of which one cluster is made by default: comparing all with all costs a second or two.
ALL_WITH_ALL = 10_000
#: Items a centroid is fitted to, at most.
FITTED = 256
#: Cosines are rounded to so many decimals.
DECIMALS = 4
#: Of two that are nearer than this in single precision the one that stands first is taken.
SINGLE = 5
#: Rows of vectors that are held at once, and rows and columns of a block of cosines.
ROWS, SIDE = 1 << 16, 2048
#: Pairs of items that one worker compares in a piece.
PAIRS = 1 << 27


class Nearest(NamedTuple):
    """For each of n items: the cosine to the nearest one before it in its cluster (float64, 0
    where there is none or all cosines are negative), and the place of that one (int64, -1).
    """

    cosine: Array
    place: Array


def default_number(items: int) -> int:
    """Clusters of ``items`` by default: one of few, the square root of many."""
    return 1 if items <= ALL_WITH_ALL else round(items**0.5)


def unit(vectors: Array, rows: Array) -> Array:
    """``vectors[rows]`` at unit length, float32 (m, d)."""
    wide = np.asarray(vectors[rows], np.float64)
    wide /= np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    return np.ascontiguousarray(wide, np.float32)


def directions(vectors: Array, rows: Array) -> Array:
    """Which ``rows`` (-1: none) have a direction, finite and not zero: bool (m)."""
    out = np.zeros(len(rows), bool)
    for begin in range(0, len(rows), ROWS):
        part = rows[begin : begin + ROWS]
        block = np.asarray(vectors[part], np.float64) if len(vectors) else np.zeros((len(part), 1))
        with np.errstate(invalid="ignore", over="ignore"):
            length = np.einsum("ij,ij->i", block, block)
        out[begin : begin + ROWS] = (part >= 0) & np.isfinite(length) & (length > 0)
    return out


def centroids(vectors: Array, rows: Array, number: int, seed: int, iterations: int) -> Array:
    """Centroids of spherical k-means on ``rows`` of ``vectors``: float32 (number, d).

    Fitted, as faiss does, to at most FITTED items a centroid, drawn by ``seed``.
    """
    chosen = rows
    if len(rows) > number * FITTED:
        draw = np.random.default_rng(seed).choice(len(rows), number * FITTED, replace=False)
        chosen = rows[np.sort(draw)]
    data = unit(vectors, chosen)
    if number == 1:
        mean: Array = data.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
        return mean
    with _one_thread():
        kmeans = faiss.Kmeans(
            data.shape[1],
            number,
            niter=iterations,
            seed=1 + seed % (1 << 30),
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=FITTED,
        )
        kmeans.train(data)
    found: Array = np.asarray(kmeans.centroids)
    return found


def assigned(rows: Array, folder: str, middles: Array) -> tuple[Array, Array]:
    """The cluster of each of ``rows`` of the space in ``folder``: int64 (m), and the cosine to
    its centroid: float64 (m), rounded.
    """
    vectors = Space.open(folder).vectors
    index = faiss.IndexFlatIP(middles.shape[1])
    index.add(np.ascontiguousarray(middles))
    with _one_thread():
        data = unit(vectors, rows)
        cluster = index.search(data, 1)[1][:, 0]
    wide = middles[cluster].astype(np.float64)
    length = np.maximum(np.sqrt(np.einsum("ij,ij->i", wide, wide)), 1e-12)
    cosine = np.einsum("ij,ij->i", data.astype(np.float64), wide) / length
    return cluster, np.round(cosine, DECIMALS)


def nearest_before(
    folder: str,
    rows: Array,
    number: int,
    farthest_first: bool,
    seed: int,
    iterations: int,
    parallel: Parallel = serial,
) -> tuple[Nearest, Array]:
    """Within each cluster of ``rows`` of a space, how near each is to those before it.

    The order is by the cosine to the centroid, then by place in ``rows``. Gives :class:`Nearest`
    (places are those in ``rows``) and the sizes of the clusters.
    """
    vectors = Space.open(folder).vectors
    number = max(1, min(number, len(rows)))
    work = parallel if len(rows) > ALL_WITH_ALL else serial
    middles = centroids(vectors, rows, number, seed, iterations)
    parts = [rows[begin : begin + ROWS] for begin in range(0, len(rows), ROWS)]
    told = list(work(functools.partial(assigned, folder=folder, middles=middles), parts))
    cluster, cosine = (np.concatenate(part) for part in zip(*told, strict=True))
    order = np.lexsort((np.arange(len(rows)), cosine if farthest_first else -cosine, cluster))
    sizes = np.bincount(cluster, minlength=number)
    found = Nearest(np.zeros(len(rows)), np.full(len(rows), -1, np.int64))
    pieces = list(_pieces(sizes))
    chosen = [[(rows[order[start:stop]], begin) for start, stop, begin in one] for one in pieces]
    for piece, answers in zip(
        pieces, work(functools.partial(_compare, folder=folder), chosen), strict=True
    ):
        for (start, stop, begin), (value, before) in zip(piece, answers, strict=True):
            at = order[start + begin : stop]
            found.cosine[at] = value
            found.place[at] = np.where(before >= 0, order[start + np.maximum(before, 0)], -1)
    return found, sizes


def _pieces(sizes: Array) -> Iterator[list[tuple[int, int, int]]]:
    """Work for one worker at a time: ranges of the order, of which those from ``begin`` on are
    compared with all before them. A large cluster is cut into several.
    """
    piece: list[tuple[int, int, int]] = []
    held = 0
    start = 0
    for size in sizes.tolist():
        begin = 0
        while begin < size:
            rows = min(size - begin, max(1, int(PAIRS // size)))
            if held + rows * size > PAIRS and piece:
                yield piece
                piece, held = [], 0
            piece.append((start, start + begin + rows, begin))
            held += rows * size
            begin += rows
        start += size
    if piece:
        yield piece


def _compare(piece: Sequence[tuple[Array, int]], folder: str) -> list[tuple[Array, Array]]:
    """For each (rows, begin): what :func:`_highest` gives of them."""
    vectors = Space.open(folder).vectors
    return [_highest(vectors, rows, begin) for rows, begin in piece]


def _highest(vectors: Array, rows: Array, begin: int) -> tuple[Array, Array]:
    """Of ``rows`` from ``begin`` on, the highest cosine to any row before: (m,), and which (m,).

    Found in single precision, then computed again from the two vectors alone.
    """
    count = len(rows) - begin
    best = np.zeros(count, np.float32)
    place = np.full(count, -1, np.int64)
    for low in range(begin, len(rows), SIDE):
        mine = slice(low - begin, min(low + SIDE, len(rows)) - begin)
        block = unit(vectors, rows[low : low + SIDE])
        for left in range(0, min(low + SIDE, len(rows)), SIDE):
            other = block if left == low else unit(vectors, rows[left : left + SIDE])
            cosines = np.round(block @ other.T, SINGLE)
            if left + SIDE > low:
                # Only those before: columns left of the row's own place.
                ahead = (
                    np.arange(left, left + len(other)) >= np.arange(low, low + len(block))[:, None]
                )
                cosines[ahead] = -2
            highest = cosines.argmax(axis=1)
            value = cosines[np.arange(len(block)), highest]
            better = value > best[mine]
            best[mine] = np.where(better, value, best[mine])
            place[mine] = np.where(better, highest + left, place[mine])
    out = np.zeros(count)
    have = np.flatnonzero(place >= 0)
    for some in (have[at : at + ROWS] for at in range(0, len(have), ROWS)):
        a = np.asarray(vectors[rows[begin + some]], np.float64)
        b = np.asarray(vectors[rows[place[some]]], np.float64)
        length = np.sqrt(np.einsum("ij,ij->i", a, a)) * np.sqrt(np.einsum("ij,ij->i", b, b))
        out[some] = np.round(np.einsum("ij,ij->i", a, b) / length, DECIMALS)
    return out + 0.0, place


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(1)
        yield
    finally:
        faiss.omp_set_num_threads(before)
