"""The items of a space that are nearest to queries of any kind, the same on every machine."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datagen import ranks
from datagen.space import Space

Array = np.ndarray[Any, Any]

#: Items of a space that are compared at a time, and how far float32 is trusted.
BLOCK = ranks.BLOCK
MARGIN = ranks.MARGIN
#: Close candidates whose cosines are computed again at a time.
_AGAIN = 1 << 14


def nearest(
    space: Space, queries: Array, count: int, without: Sequence[Sequence[int]]
) -> list[list[tuple[int, float]]]:
    """For each of ``queries`` (n, d) the ``count`` nearest rows of the space: (row, cosine).

    Cosines of float64, 6 decimals; of equals the smaller row is first (a space is sorted by id).
    without: rows of the space that are left out, for each query.
    """
    wide = ranks.unit(queries)
    if not len(wide) or not len(space):
        return [[] for _ in range(len(wide))]
    wanted = min(count + max(map(len, without), default=0), len(space))
    items, numbers = _candidates(space, wide, wanted)
    exact = similarities(space, wide, numbers, items)
    order = np.lexsort((items, -exact, numbers))
    items, numbers, exact = items[order], numbers[order], exact[order]
    ends = np.searchsorted(numbers, np.arange(len(wide) + 1)).tolist()
    found = []
    for (start, stop), out in zip(itertools.pairwise(ends), without, strict=True):
        left_out = set(out)
        rows = zip(items[start:stop].tolist(), exact[start:stop].tolist(), strict=True)
        found.append(list(itertools.islice((r for r in rows if r[0] not in left_out), count)))
    return found


def similarities(space: Space, queries: Array, owner: Array, rows: Array) -> Array:
    """Cosines of the unit vectors ``queries[owner]`` and rows of the space, 6 decimals."""
    found = np.empty(len(rows))
    for at in range(0, len(rows), _AGAIN):
        part = slice(at, at + _AGAIN)
        vectors = ranks.unit(space.vectors[rows[part]])
        found[part] = np.einsum("ij,ij->i", queries[owner[part]], vectors)
    rounded: Array = np.round(found, 6) + 0.0
    return rounded


def _candidates(space: Space, wide: Array, wanted: int) -> tuple[Array, Array]:
    """Every (row, query) that may be among the ``wanted`` nearest, and few more."""
    look = _looker(wide.astype(np.float32), wanted)
    parts = []
    for start in range(0, len(space), BLOCK):
        block = ranks.unit(space.vectors[start : start + BLOCK]).astype(np.float32)
        # A vector without a value is near to nothing.
        good = np.flatnonzero(np.isfinite(block).all(axis=1))
        rows, numbers, cosines, bound = look(block if len(good) == len(block) else block[good])
        parts.append((good[rows] + start, numbers, cosines))
    rows, numbers, cosines = (np.concatenate(some) for some in zip(*parts, strict=True))
    # The bound rose from block to block: what was let in early may be out by the last one.
    keep = cosines >= bound[numbers] - 2 * MARGIN
    return rows[keep], numbers[keep]


def _looker(queries: Array, wanted: int) -> Callable[[Array], tuple[Array, Array, Array, Array]]:
    """A function from a block of items (b, d) to its candidates (rows, queries, cosines) and the
    cosine, per query, of the last of the ``wanted`` nearest in all blocks so far."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        best = np.full((wanted, len(queries)), -np.inf, np.float32)

        def on_cpu(block: Array) -> tuple[Array, Array, Array, Array]:
            nonlocal best
            found = block @ queries.T
            best = np.partition(np.concatenate([best, found]), -wanted, axis=0)[-wanted:]
            bound = best.min(axis=0)
            rows, numbers = np.nonzero(found >= bound - 2 * MARGIN)
            return rows, numbers, found[rows, numbers], bound

        return on_cpu
    there = torch.from_numpy(queries).cuda()
    top = torch.full((wanted, len(queries)), -torch.inf, device="cuda")

    def on_gpu(block: Array) -> tuple[Array, Array, Array, Array]:
        nonlocal top
        found = torch.from_numpy(block).cuda() @ there.T
        top = torch.cat([top, found]).topk(wanted, dim=0).values
        bound = top.min(dim=0).values
        rows, numbers = torch.nonzero(found >= bound - 2 * MARGIN, as_tuple=True)
        told = (rows, numbers, found[rows, numbers], bound)
        return tuple(values.cpu().numpy() for values in told)

    return on_gpu
