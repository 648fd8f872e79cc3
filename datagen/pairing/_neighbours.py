"""Cosines and nearest neighbours: the mathematics behind ``knn_band`` and ``group``.

Candidates come from faiss in single precision, shard by shard, and are ordered by cosines that
are computed in double precision from the two vectors alone and rounded to four decimals, ties by
id. So neither the blocks, the shards nor the threads of the search show in an exact result.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen.errors import DatagenError
from datagen.pairing._table import Array, Canon, mix64, seed64
from datagen.space import Space
from datagen.step import Context, Parallel, Settings

#: Similarities are rounded to so many decimals before anything is ordered by them.
DECIMALS = 4

#: What the rounding and the single precision of a search can hide.
SLACK = 0.5 * 10**-DECIMALS + 1e-5

#: Numbers that one block of vectors may hold.
BLOCK = 1 << 22

#: Vectors in one index; more are cut into shards whose results are merged.
SHARD = 1 << 20

#: Links of each vector in an HNSW graph, and candidates while it is built.
LINKS, BUILD_EFFORT = 32, 200


def cosines(vectors: Array, left: Array, right: Array) -> Array:
    """Cosine of ``vectors[left]`` and ``vectors[right]`` (float64, m), to four decimals.

    Row -1, a vector of zeros and one that is not finite give NaN. Each value is computed from its
    own two rows in double precision: it does not depend on what else is asked for.
    """
    out = np.full(len(left), np.nan)
    rows = np.flatnonzero((left >= 0) & (right >= 0))
    for some in _pieces(rows, vectors.shape[1]):
        a = np.asarray(vectors[left[some]], np.float64)
        b = np.asarray(vectors[right[some]], np.float64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            norm = np.sqrt(np.einsum("ij,ij->i", a, a)) * np.sqrt(np.einsum("ij,ij->i", b, b))
            value = np.einsum("ij,ij->i", a, b) / norm
        value[~np.isfinite(value)] = np.nan
        out[some] = np.round(value, DECIMALS)
    return out


def directions(vectors: Array, rows: Array) -> Array:
    """Which ``rows`` (-1: none) have a direction: finite and not zero (bool, m)."""
    out = np.zeros(len(rows), bool)
    have = np.flatnonzero(rows >= 0)
    for some in _pieces(have, vectors.shape[1]):
        block = np.asarray(vectors[rows[some]], np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            length = np.einsum("ij,ij->i", block, block)
        out[some] = np.isfinite(length) & (length > 0)
    return out


def _pieces(rows: Array, width: int) -> Iterator[Array]:
    step = max(1, BLOCK // max(1, width))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def unit(vectors: Array, rows: Array) -> Array:
    """``vectors[rows]`` at unit length, float32 (m, d)."""
    block = np.asarray(vectors[rows], np.float64)
    block /= np.sqrt(np.einsum("ij,ij->i", block, block))[:, None]
    return np.ascontiguousarray(block, np.float32)


@dataclass(frozen=True)
class Search:
    """How to search. It can be pickled.

    folder: of the space; rows: the rows of the space that take part, ascending; queries: places
    in ``rows`` that ask; fetch: candidates per query; index: ``exact``, ``hnsw`` or ``ivf``;
    effort: candidates kept in view (hnsw) or cells visited (ivf).
    """

    folder: str
    rows: Array
    queries: Array
    fetch: int
    index: str = "exact"
    effort: int = 64
    seed: int = 0

    def exact(self, queries: Array) -> Search:
        """The exact search for some of the queries."""
        return replace(self, queries=self.queries[queries], index="exact")


def shards(rows: int, size: int = SHARD) -> list[tuple[int, int]]:
    """Ranges of places, of nearly equal length: a number that depends on the data alone."""
    count = max(1, -(-rows // size))
    edges = [rows * number // count for number in range(count + 1)]
    return list(itertools.pairwise(edges))


def shard_top(shard: tuple[int, int], search: Search) -> tuple[Array, Array]:
    """The best candidates of one shard for every query: cosines (float32) and places (int64).

    Both are (queries, fetch), best first; place -1 where there are no more.
    """
    vectors = Space.open(search.folder).vectors
    index = _index(vectors, search.rows[shard[0] : shard[1]], search)
    cosine = np.full((len(search.queries), search.fetch), -np.inf, np.float32)
    place = np.full(cosine.shape, -1, np.int64)
    width = min(search.fetch, shard[1] - shard[0])
    step = max(1, BLOCK // max(1, vectors.shape[1] + search.fetch))
    for start in range(0, len(search.queries), step):
        asked = unit(vectors, search.rows[search.queries[start : start + step]])
        found, where = index.search(asked, width)
        cosine[start : start + step, :width] = np.where(where < 0, -np.inf, found)
        place[start : start + step, :width] = np.where(where < 0, -1, where + shard[0])
    return cosine, place


def merge_top(lists: Sequence[tuple[Array, Array]], k: int) -> tuple[Array, Array]:
    """The best ``k`` of several lists of (similarities, places), each (q, any), best first.

    Ties go to the lower place; place -1 means none and comes last.
    """
    cosine = np.concatenate([one for one, _ in lists], axis=1)
    place = np.concatenate([two for _, two in lists], axis=1)
    last = np.where(place < 0, np.iinfo(np.int64).max, place)
    order = np.lexsort((last, -cosine), axis=1)[:, :k]
    return np.take_along_axis(cosine, order, axis=1), np.take_along_axis(place, order, axis=1)


def _index(vectors: Array, rows: Array, search: Search) -> faiss.Index:
    width = int(vectors.shape[1])
    step = max(1, BLOCK // width)
    # Graphs and cells depend on the order in which threads add to them: one thread builds.
    with _threads(None if search.index == "exact" else 1):
        if search.index == "hnsw":
            graph = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = BUILD_EFFORT
            graph.hnsw.efSearch = max(search.effort, search.fetch)
            index: faiss.Index = graph
        elif search.index == "ivf":
            index = _cells(vectors, rows, search)
        else:
            index = faiss.IndexFlatIP(width)
        for start in range(0, len(rows), step):
            index.add(unit(vectors, rows[start : start + step]))
    return index


def _cells(vectors: Array, rows: Array, search: Search) -> faiss.Index:
    width = int(vectors.shape[1])
    cells = max(1, min(int(4 * len(rows) ** 0.5), len(rows) // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 1 + search.seed % (1 << 30)
    index.cp.max_points_per_centroid = 64
    turn = mix64(np.arange(len(rows), dtype=np.uint64) ^ seed64(search.seed))
    sample = np.sort(np.argsort(turn, kind="stable")[: cells * 64])
    index.train(unit(vectors, rows[sample]))
    index.nprobe = min(search.effort, cells)
    return index


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    try:
        if count is not None:
            faiss.omp_set_num_threads(count)
        yield
    finally:
        faiss.omp_set_num_threads(before)


def ranked(
    vectors: Array, search: Search, found: tuple[Array, Array], k: int
) -> tuple[Array, Array]:
    """The ``k`` nearest others of every query, by rounded cosine, then by place.

    Takes merged candidates; gives cosines (float64, NaN where there are no more) and places
    (int64, -1). An exact search is exact here too, also where many cosines are equal after
    rounding: what the candidates may have cut off is looked up again.
    """
    cosine = np.full((len(search.queries), k), np.nan)
    place = np.full((len(search.queries), k), -1, np.int64)
    others = len(search.rows) - 1
    open_queries = []
    step = max(1, BLOCK // max(1, search.fetch * 8))
    for start in range(0, len(search.queries), step):
        stop = min(start + step, len(search.queries))
        asked = search.queries[start:stop]
        raw, where = found[0][start:stop], found[1][start:stop]
        exact, order = _ordered(vectors, search.rows, asked, where)
        cosine[start:stop, : exact.shape[1]] = exact[:, :k]
        place[start:stop, : exact.shape[1]] = order[:, :k]
        if search.index == "exact" and where.shape[1] < others + 1:
            worst = np.nan_to_num(cosine[start:stop, min(k, others) - 1], nan=-2.0)
            open_queries.extend((start + np.flatnonzero(raw[:, -1] >= worst - SLACK)).tolist())
    for start in range(0, len(open_queries), 256):
        _complete(vectors, search, np.array(open_queries[start : start + 256]), cosine, place)
    return cosine, place


def _ordered(vectors: Array, rows: Array, asked: Array, where: Array) -> tuple[Array, Array]:
    """Candidates (q, l) by rounded cosine, then place, without the query itself."""
    there = (where >= 0) & (where != asked[:, None])
    value = np.full(where.shape, np.nan)
    query = np.broadcast_to(asked[:, None], where.shape)[there]
    value[there] = cosines(vectors, rows[query], rows[where[there]])
    key = np.where(there, -np.nan_to_num(value, nan=-2.0), np.inf)
    order = np.lexsort((where, key), axis=1)
    value = np.take_along_axis(value, order, axis=1)
    kept = np.take_along_axis(np.where(there, where, -1), order, axis=1)
    return value, kept


def _complete(vectors: Array, search: Search, open_: Array, cosine: Array, place: Array) -> None:
    """Take, among equals of the last neighbour, those of the lowest places (in place).

    Scans in the order of places and stops as soon as every query has enough equals.
    """
    k = min(cosine.shape[1], len(search.rows) - 1)
    last = cosine[open_, k - 1]
    need = (cosine[open_, :k] == last[:, None]).sum(axis=1)
    asked = search.queries[open_]
    directions_of = unit(vectors, search.rows[asked])
    equals: list[list[int]] = [[] for _ in open_]
    waiting = np.arange(len(open_))
    step = max(1, BLOCK // max(256, int(vectors.shape[1])))
    for start in range(0, len(search.rows), step):
        block = unit(vectors, search.rows[start : start + step])
        near = np.abs(directions_of[waiting] @ block.T - last[waiting, None]) <= 2 * SLACK
        who, where = np.nonzero(near)
        who, where = waiting[who], where + start
        value = cosines(vectors, search.rows[asked[who]], search.rows[where])
        equal = (value == last[who]) & (where != asked[who])
        for query, other in zip(who[equal].tolist(), where[equal].tolist(), strict=True):
            if len(equals[query]) < need[query]:
                equals[query].append(other)
        waiting = np.array([q for q in waiting.tolist() if len(equals[q]) < need[q]], np.int64)
        if not len(waiting):
            break
    for number, query in enumerate(open_.tolist()):
        place[query, k - need[number] : k] = equals[number]


def recall(cosine: Array, exact: Array) -> float:
    """Share of the true neighbours that were found: recall@k of rounded cosines (q, k) each.

    A neighbour counts as found when it is as near as the last true one, so equals do not matter.
    """
    true = np.isfinite(exact)
    last = np.nanmin(np.where(true, exact, np.inf), axis=1)
    hits = np.minimum((np.nan_to_num(cosine, nan=-2.0) >= last[:, None]).sum(1), true.sum(1))
    return float(hits.sum() / max(1, true.sum()))


def nearest(search: Search, k: int, space: Space, parallel: Parallel) -> tuple[Array, Array]:
    """Cosines and places of the ``k`` nearest others of every query: see :func:`ranked`."""
    work = functools.partial(shard_top, search=search)
    found = functools.reduce(
        lambda so_far, one: merge_top([so_far, one], search.fetch),
        parallel(work, shards(len(search.rows))),
    )
    return ranked(space.vectors, search, found, k)


@dataclass(frozen=True)
class Placed:
    """Items in a space. rows: of the space, of the items in canonical order (-1: none); able: the
    items whose vector has a direction.
    """

    canon: Canon
    space: Space
    rows: Array
    able: Array

    @staticmethod
    def of(items: pa.Table, name: str, context: Context) -> Placed:
        """All ``items`` in the space ``name``."""
        canon = Canon.of(items, context.seed)
        space = context.space(name)
        rows = space.rows(items["id"])[canon.rows]
        return Placed(canon, space, rows, np.flatnonzero(directions(space.vectors, rows)))

    def cosines(self, left: Array, right: Array) -> Array:
        """Cosines of items in canonical order: see :func:`cosines`."""
        return cosines(self.space.vectors, self.rows[left], self.rows[right])


class Neighbours(Settings):
    """Settings of operators that look for neighbours. Similarities are cosines, rounded."""

    #: The space whose vectors are compared.
    space: str = "image"
    #: Nearest other items of each item that are looked at. VDG: 20.
    k: int = Field(default=20, ge=1)
    #: How to search: every vector, a graph, or cells. The last two are for millions of items.
    index: Literal["exact", "hnsw", "ivf"] = "exact"
    #: hnsw: candidates kept in view (efSearch); ivf: cells visited (nprobe).
    effort: int = Field(default=64, ge=1)
    #: Smallest recall@k of hnsw and ivf, measured against an exact search; below it the step
    #: refuses to go on. A choice of this project.
    min_recall: float = Field(default=0.9, ge=0, le=1)
    #: Items, chosen by a seeded hash, on which that recall is measured.
    recall_sample: int = Field(default=1000, ge=1)


def of_every_item(
    operator: str,
    chosen: Neighbours,
    there: Placed,
    context: Context,
    parallel: Parallel,
) -> tuple[Array, Array, dict[str, Any]]:
    """Cosines and places in ``there.able`` of the k nearest of each of these (n, k each), and
    notes.

    The recall of an inexact index is measured on items chosen by a seeded hash. Raises
    DatagenError where it is too low.
    """
    rows, hashes = there.rows[there.able], there.canon.hashes[there.able]
    search = Search(
        folder=context.spaces[chosen.space],
        rows=rows,
        queries=np.arange(len(rows)),
        fetch=min(len(rows), 1 + max(2 * chosen.k, chosen.k + 32)),
        index=chosen.index,
        effort=chosen.effort,
        seed=context.seed,
    )
    if len(rows) < 2:
        nothing = np.full((len(rows), chosen.k), -1, np.int64)
        return np.full(nothing.shape, np.nan), nothing, {}
    cosine, place = nearest(search, chosen.k, there.space, parallel)
    if chosen.index == "exact":
        return cosine, place, {}
    sample = np.sort(np.argsort(mix64(hashes ^ seed64(1)))[: chosen.recall_sample])
    true = nearest(search.exact(sample), chosen.k, there.space, parallel)[0]
    reached = round(recall(cosine[sample], true), 4)
    if reached < chosen.min_recall:
        raise DatagenError(
            f"{operator}: index '{chosen.index}' finds {reached:.3f} of the {chosen.k} nearest, "
            f"min_recall is {chosen.min_recall}; raise effort (now {chosen.effort}) or set "
            "index: exact"
        )
    return cosine, place, {"recall_at_k": reached, "recall_sample": len(sample)}
