"""Where right answers stand among all items of a space, for queries of any kind, in bounded memory.

The rank of a row is 1 + the number of other items that are at least as similar to the query as
its best target. Ties count against the target, so a space of equal vectors ranks everything last.
Cosines are compared in float64, rounded to 6 decimals: neither chunks, nor threads, nor a GPU show
in a rank. Products in float32 only sort out what is clearly nearer or farther.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from datagen.errors import DatagenError
from datagen.space import Space

Array = np.ndarray[Any, Any]

#: Items of a space that are compared at a time.
BLOCK = 1 << 14
#: Queries that are compared at a time: with a block of items, 128 MB of cosines.
QUERIES = 1 << 11
#: Cosines of float32 are only trusted to this much.
MARGIN = 1e-4
#: Close candidates whose cosines are computed again at a time.
_AGAIN = 1 << 14


def ranks(
    space: Space,
    queries: Array,
    targets: Sequence[Sequence[int]],
    without: Sequence[Sequence[int]],
) -> Array:
    """The rank (int64, from 1) of the best of ``targets`` for each of ``queries`` (n, d).

    targets: rows of the space, at least one for each query; without: further rows that do not
    count (references); neither do the other targets, nor items that have no vector. A target
    without one is last. Works on the GPU where torch is loaded and sees one. Raises DatagenError
    where ``queries`` are of another width than the space.
    """
    if len(queries) and queries.shape[1] != space.width:
        raise DatagenError(
            f"queries of {queries.shape[1]} dimensions cannot be compared in a space of "
            f"{space.width}; embed both with one model"
        )
    parts = [
        _ranks(space, queries[at : at + QUERIES], targets[at : at + QUERIES], without[at:])
        for at in range(0, len(queries), QUERIES)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def unit(vectors: Array) -> Array:
    """Rows of (n, d) at length 1, float64; zeros stay zeros."""
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
    scaled: Array = np.divide(wide, norms, out=np.zeros_like(wide), where=norms != 0)
    return scaled


def cosines(left: Array, right: Array) -> Array:
    """Cosines of the rows of two arrays (n, d), float64, each on its own."""
    found: Array = np.einsum("ij,ij->i", unit(left), unit(right))
    return found


def _ranks(
    space: Space,
    queries: Array,
    targets: Sequence[Sequence[int]],
    without: Sequence[Sequence[int]],
) -> Array:
    wide = unit(queries)
    owner = np.repeat(np.arange(len(targets)), [len(rows) for rows in targets])
    flat = np.array([row for rows in targets for row in rows], dtype=np.int64)
    best = np.full(len(queries), -np.inf)
    np.fmax.at(best, owner, _exact(space, wide, owner, flat))
    nearer = np.zeros(len(queries), dtype=np.int64)
    compare = _comparer(wide.astype(np.float32), best)
    for start in range(0, len(space), BLOCK):
        sure, items, numbers = compare(unit(space.vectors[start : start + BLOCK]))
        nearer += sure
        for at in range(0, len(items), _AGAIN):
            some, of = items[at : at + _AGAIN] + start, numbers[at : at + _AGAIN]
            again = _exact(space, wide, of, some) >= best[of]
            nearer += np.bincount(of[again], minlength=len(nearer))
    # What does not count was counted above wherever it is at least as near.
    lists = [sorted({*a, *b}) for a, b in zip(targets, without, strict=False)]
    owner = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])
    flat = np.array([row for rows in lists for row in rows], dtype=np.int64)
    counted = _exact(space, wide, owner, flat) >= best[owner]
    nearer -= np.bincount(owner[counted], minlength=len(nearer))
    return nearer + 1


def _exact(space: Space, queries: Array, owner: Array, rows: Array) -> Array:
    """Cosines of ``queries[owner]`` and rows of the space, rounded to 6 decimals."""
    found = np.empty(len(rows))
    for at in range(0, len(rows), _AGAIN):
        part = slice(at, at + _AGAIN)
        vectors = unit(space.vectors[rows[part]])
        found[part] = np.einsum("ij,ij->i", queries[owner[part]], vectors)
    rounded: Array = np.round(found, 6) + 0.0
    return rounded


def _device() -> str | None:
    """Where torch multiplies; None: NumPy does. Torch is not loaded for this alone."""
    torch = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_available() else None


def _comparer(queries: Array, best: Array) -> Any:
    """A function from a block of items (b, d) to: how many are surely nearer to each query than
    ``best``; and those that may be, as pairs of item and query.
    """
    device = _device()
    least = best.astype(np.float32)
    if device is None:

        def with_numpy(block: Array) -> tuple[Array, Array, Array]:
            found = block.astype(np.float32) @ queries.T
            found -= least
            items, numbers = np.nonzero(np.abs(found) <= MARGIN)
            return (found > MARGIN).sum(axis=0), items, numbers

        return with_numpy
    torch = sys.modules["torch"]
    there, bounds = (torch.from_numpy(one).to(device) for one in (queries, least))

    def with_torch(block: Array) -> tuple[Array, Array, Array]:
        found = torch.from_numpy(block.astype(np.float32)).to(device) @ there.T
        found -= bounds
        items, numbers = torch.nonzero(found.abs() <= MARGIN, as_tuple=True)
        sure = (found > MARGIN).sum(dim=0)
        return sure.cpu().numpy(), items.cpu().numpy(), numbers.cpu().numpy()

    return with_torch
