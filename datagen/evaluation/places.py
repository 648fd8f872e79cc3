"""Where right answers stand in a gallery, and what stands first, in bounded memory.

Cosines are taken in float64 and rounded to 6 decimals, so that blocks and threads do not show.
Ties count against the query: a target stands behind every equally near item that is none, so a
gallery of equal vectors ranks targets last. Official code sorts, and leaves ties to the sort;
where vectors differ, both say the same. Lists of what stands first keep the order of the gallery
among equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datagen.ranks import unit

Array = np.ndarray[Any, Any]

#: Items that are compared at a time, and queries: 128 MB of cosines.
BLOCK, QUERIES = 1 << 14, 1 << 10
#: Single cosines that are computed at a time.
_PAIRS = 1 << 14
DECIMALS = 6


@dataclass(frozen=True)
class Places:
    """How each query ranks its gallery.

    targets: for each query the places (int64, from 1) of its targets, in the order in which they
    were given; first: gallery rows of what stands first, best first (lists of ``top`` or fewer);
    sizes: how many items each query was compared with.
    """

    targets: list[Array]
    first: list[Array]
    sizes: list[int]


def places(
    queries: Array,
    gallery: Array,
    targets: Sequence[Sequence[int]],
    without: Sequence[Sequence[int]] | None = None,
    among: Sequence[Sequence[int] | None] | None = None,
    top: int = 0,
) -> Places:
    """Rank ``gallery`` (m, d) for each of ``queries`` (n, d).

    targets: rows of the gallery (none: only ``first`` is asked for); without: rows that the query
    does not see (its references); among: the only rows that it sees (None: all), each once; top:
    how long the lists of ``first`` are. All targets must be seen. Raises ValueError where they
    are not, or where a vector is not finite.
    """
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise ValueError("vectors that are not finite cannot be ranked")
    number = len(queries)
    without = without or [()] * number
    limited = among or [None] * number
    out = Places([_NONE] * number, [_NONE] * number, [0] * number)
    wide = [row for row, seen in enumerate(limited) if seen is None]
    for at in range(0, len(wide), QUERIES):
        chunk = wide[at : at + QUERIES]
        hidden = [np.unique(np.asarray(without[row], dtype=np.int64)) for row in chunk]
        wanted = [np.asarray(targets[row], dtype=np.int64) for row in chunk]
        found = _against_all(unit(queries[chunk]), gallery, wanted, hidden, top)
        for row, (ranks, first), away in zip(chunk, found, hidden, strict=True):
            out.targets[row], out.first[row] = ranks, first
            out.sizes[row] = len(gallery) - len(away)
    held: tuple[Any, Array] = (None, gallery[:0])
    for row, seen in enumerate(limited):
        if seen is None:
            continue
        if held[0] is not seen:  # the same list for many queries: a database of their own
            held = seen, unit(gallery[np.asarray(seen, dtype=np.int64)])
        rows = np.asarray(seen, dtype=np.int64)
        wanted_here = np.asarray(targets[row], dtype=np.int64)
        scores = np.round(held[1] @ unit(queries[row : row + 1])[0], DECIMALS) + 0.0
        out.targets[row], out.first[row], out.sizes[row] = _in_list(
            rows, scores, wanted_here, np.asarray(without[row], dtype=np.int64), top
        )
    return out


_NONE: Array = np.zeros(0, dtype=np.int64)


def _in_list(
    rows: Array, scores: Array, targets: Array, hidden: Array, top: int
) -> tuple[Array, Array, int]:
    """Places of ``targets`` among ``rows``, the first ``top``, and how many are seen."""
    seen = ~np.isin(rows, hidden)
    at = {row: place for place, row in enumerate(rows.tolist())}
    missing = [row for row in targets.tolist() if row not in at or not seen[at[row]]]
    if missing:
        raise ValueError(f"target {missing[0]} is not in its query's gallery")
    own = np.array([at[row] for row in targets.tolist()], dtype=np.int64)
    others = seen.copy()
    others[own] = False
    ranks = _ranks(scores[own], _at_least(scores[own], scores[others]))
    open_rows = np.flatnonzero(seen)
    order = np.lexsort((rows[open_rows], -scores[open_rows]))[:top]
    return ranks, rows[open_rows][order], int(seen.sum())


def _against_all(
    queries: Array, gallery: Array, targets: list[Array], hidden: list[Array], top: int
) -> list[tuple[Array, Array]]:
    """For each query the places of its targets in the whole gallery, and the first ``top``."""
    for wanted, away in zip(targets, hidden, strict=True):
        if np.isin(wanted, away).any():
            raise ValueError("a target is hidden from its query")
    scores = _single(queries, gallery, targets)
    nearer = [np.zeros(len(wanted), dtype=np.int64) for wanted in targets]
    best = [(np.zeros(0), _NONE) for _ in targets]
    for start in range(0, len(gallery), BLOCK):
        block = np.round(queries @ unit(gallery[start : start + BLOCK]).T, DECIMALS) + 0.0
        for row, line in enumerate(block):
            line[_within(hidden[row], start, len(line))] = -np.inf
            if top:
                best[row] = _merged(best[row], line, start, top)
            if len(targets[row]):
                line[_within(targets[row], start, len(line))] = -np.inf
                nearer[row] += _at_least(scores[row], line)
    return [
        (_ranks(own, count), first[1])
        for own, count, first in zip(scores, nearer, best, strict=True)
    ]


def _within(rows: Array, start: int, length: int) -> Array:
    """``rows`` that lie in the block that begins at ``start``, counted from there."""
    return rows[(rows >= start) & (rows < start + length)] - start


def _single(queries: Array, gallery: Array, rows: list[Array]) -> list[Array]:
    """The cosines of each query and its own ``rows``."""
    lengths = [len(one) for one in rows]
    owner = np.repeat(np.arange(len(rows)), lengths)
    flat = np.concatenate([_NONE, *rows])
    found = np.empty(len(flat))
    for at in range(0, len(flat), _PAIRS):
        part = slice(at, at + _PAIRS)
        found[part] = np.einsum("ij,ij->i", queries[owner[part]], unit(gallery[flat[part]]))
    return np.split(np.round(found, DECIMALS) + 0.0, np.cumsum(lengths)[:-1]) if rows else []


def _at_least(scores: Array, others: Array) -> Array:
    """For each of ``scores`` how many of ``others`` are as large or larger."""
    if not len(scores):
        return _NONE
    rising = np.sort(scores)
    # How many scores each of the others reaches; the sum from behind counts who reaches each.
    reached = np.bincount(np.searchsorted(rising, others, side="right"), minlength=len(scores) + 1)
    behind: Array = np.cumsum(reached[::-1])[::-1][1:]
    back = np.empty(len(scores), dtype=np.int64)
    back[np.argsort(scores, kind="stable")] = behind
    return back


def _ranks(scores: Array, nearer: Array) -> Array:
    """Places of targets of ``scores`` with so many nearer items beside them.

    Among equal targets the one that was given first is last: its own recall is no luck.
    """
    order = np.lexsort((-np.arange(len(scores)), -scores))
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[order] = np.arange(1, len(scores) + 1)
    return ranks + nearer


def _merged(best: tuple[Array, Array], line: Array, start: int, top: int) -> tuple[Array, Array]:
    """The ``top`` best of those so far and of a block; the earlier row of equals first."""
    rows = np.arange(len(line))
    if len(line) > top:
        least = np.partition(line, len(line) - top)[len(line) - top]
        rows = np.flatnonzero(line >= least)
    rows = rows[np.isfinite(line[rows])]
    scores = np.concatenate([best[0], line[rows]])
    names = np.concatenate([best[1], rows + start])
    order = np.lexsort((names, -scores))[:top]
    return scores[order], names[order]
