"""Some vectors against all items of a space: every rank is exact, memory stays bounded.

A product of matrices in single precision tells roughly who is how near. What that leaves open is
decided by cosines in double precision, rounded to four decimals, ties by place: no blocks,
threads or processors show in a result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datagen.pairing._neighbours import BLOCK, DECIMALS, SLACK, unit
from datagen.pairing._table import Array

#: Rough cosines that are held at once (float32): 64 MB.
PRODUCTS = 1 << 24


@dataclass(frozen=True)
class Everything:
    """Items of a space. vectors: of the space; rows: of those that take part, which all have a
    direction, in the order that breaks ties.
    """

    vectors: Array
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    def compared(self, queries: Array) -> Iterator[tuple[int, Compared]]:
        """Each of the unit vectors ``queries`` (q, d; float32) with every item."""
        step = max(1, PRODUCTS // max(1, len(self)))
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            for number, rough in enumerate(self._products(some), start):
                yield number, Compared(self, queries[number], rough)

    def _products(self, queries: Array) -> Array:
        """Rough cosines (q, n; float32)."""
        out = np.empty((len(queries), len(self)), np.float32)
        step = max(1, BLOCK // max(1, self.vectors.shape[1]))
        for start in range(0, len(self), step):
            block = unit(self.vectors, self.rows[start : start + step])
            np.matmul(queries, block.T, out=out[:, start : start + step])
        return out


@dataclass(frozen=True)
class Compared:
    """One vector and every item. rough: cosines in single precision (n)."""

    items: Everything
    query: Array
    rough: Array

    def cosines(self, places: Array) -> Array:
        """Cosines with the items at ``places`` (float64, m), to four decimals; each on its own."""
        out = np.empty(len(places))
        query = np.asarray(self.query, np.float64)
        query = query / np.sqrt(np.einsum("j,j->", query, query))
        step = max(1, BLOCK // max(1, len(query)))
        for start in range(0, len(places), step):
            some = places[start : start + step]
            block = np.asarray(self.items.vectors[self.items.rows[some]], np.float64)
            norm = np.sqrt(np.einsum("ij,ij->i", block, block))
            out[start : start + step] = np.einsum("ij,j->i", block, query) / norm
        return np.round(out, DECIMALS) + 0.0

    def best(self, allowed: Array) -> tuple[int, float]:
        """The nearest of the allowed items (bool, n) and its cosine; -1 and NaN without any."""
        if not allowed.any():
            return -1, float("nan")
        rough = np.where(allowed, self.rough, -np.inf)
        near = np.flatnonzero(rough >= rough.max() - 2 * SLACK)
        cosine = self.cosines(near)
        at = int(np.lexsort((near, -cosine))[0])
        return int(near[at]), float(cosine[at])

    def band(self, low: int, high: int) -> Array:
        """Places (ascending) of the items whose rank, from 1, is ``low`` to ``high``."""
        low, high = max(1, low), min(high, len(self.items))
        if low > high:
            return np.empty(0, np.int64)
        return np.flatnonzero(self._within(high) & ~self._within(low - 1))

    def _within(self, rank: int) -> Array:
        """Which items (bool, n) are among the first ``rank``."""
        count = len(self.rough)
        if rank <= 0 or rank >= count:
            return np.full(count, rank > 0)
        edge = float(np.partition(self.rough, count - rank)[count - rank])
        sure: Array = self.rough > edge + 2 * SLACK
        open_ = np.flatnonzero(~sure & (self.rough >= edge - 2 * SLACK))
        order = np.lexsort((open_, -self.cosines(open_)))
        sure[open_[order[: rank - int(sure.sum())]]] = True
        return sure

    def ranks(self, places: Array, cosines: Array) -> Array:
        """Ranks, from 1, of the items at ``places`` with these ``cosines``."""
        out = np.empty(len(places), np.int64)
        for number, (place, cosine) in enumerate(
            zip(places.tolist(), cosines.tolist(), strict=True)
        ):
            sure = self.rough > cosine + 2 * SLACK
            open_ = np.flatnonzero(~sure & (self.rough >= cosine - 2 * SLACK))
            others = self.cosines(open_)
            before = (others > cosine) | ((others == cosine) & (open_ < place))
            out[number] = 1 + int(sure.sum()) + int(before.sum())
        return out
