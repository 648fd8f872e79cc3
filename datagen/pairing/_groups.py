"""Who is paired with whom in a group of items: everyone, or so many of a seeded ring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datagen.errors import DatagenError
from datagen.pairing._table import Array, blocks, expand, mix64, within_caps

#: Candidate pairs that are looked at together.
BLOCK = 1 << 20

#: Pairs that are listed at most.
MOST_PAIRS = 100_000_000


@dataclass(frozen=True)
class Candidates:
    """For each row of a sorted column, the later rows that it may be paired with.

    start, size: of the ring of each row's group (int64, m); first: place in the column where its
    candidates begin; offset, stride: which of them is taken first, and the way to the next;
    among: how many it has; counts: how many are taken.
    """

    start: Array
    size: Array
    first: Array
    offset: Array
    stride: Array
    among: Array
    counts: Array

    def pairs(self) -> Iterator[tuple[Array, Array]]:
        """Rows of both sides (int64 each), a block at a time."""
        for low, high in blocks(self.counts, BLOCK):
            one, step = expand(self.counts[low:high])
            one += low
            ahead = (self.offset[one] + step * self.stride[one]) % self.among[one]
            ring = (self.first[one] - self.start[one] + ahead) % self.size[one]
            yield one, self.start[one] + ring


def runs(column: Array) -> tuple[Array, Array]:
    """Start and length of the run of equal values that each row of a sorted column is in."""
    if not len(column):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    new = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]]))
    length = np.diff(np.append(new, len(column)))
    return np.repeat(new, length), np.repeat(length, length)


def between_classes(group: Array, kind: Array, turn: Array, most: int | None) -> Candidates:
    """Candidates of another kind in the same group; rows are sorted by group, then kind.

    A group of at most ``most`` + 1 rows is listed whole, each pair once. In a larger one each row
    takes half of ``most``, spread evenly over the rows of other kinds from a place that ``turn``
    (uint64, seeded) chooses: no one lists pairs that are going to be dropped. There a pair may
    come up twice.
    """
    start, size = runs(group)
    of_kind, kind_size = runs(combined_runs(group, kind))
    first = of_kind + kind_size
    among = size - kind_size
    whole = np.ones(len(size), bool) if most is None else size <= most + 1
    half = 0 if most is None else -(-most // 2)
    counts = np.where(whole, start + size - first, np.minimum(half, among))
    stride = np.where(whole, 1, among // np.maximum(1, counts))
    some = np.maximum(1, among)
    spread = (mix64(turn) % some.astype(np.uint64)).astype(np.int64)
    return Candidates(start, size, first, np.where(whole, 0, spread), stride, some, counts)


def combined_runs(one: Array, two: Array) -> Array:
    """Numbers of the runs (int64, m) of equal pairs of values in two columns."""
    if not len(one):
        return np.empty(0, np.int64)
    new = (one[1:] != one[:-1]) | (two[1:] != two[:-1])
    return np.concatenate([[0], np.cumsum(new)]).astype(np.int64)


def in_range(low: Array, high: Array, turn: Array, most: int | None) -> Candidates:
    """Candidates at the places ``low`` to ``high`` (int64, m) of each row.

    More than ``most`` are thinned to half of that, spread evenly.
    """
    among = np.maximum(0, high - low)
    counts = among if most is None else np.where(among > most, -(-most // 2), among)
    some = np.maximum(1, among)
    whole = counts == among
    spread = (mix64(turn) % some.astype(np.uint64)).astype(np.int64)
    stride = np.where(whole, 1, among // np.maximum(1, counts))
    # A ring as long as the range: the candidates of a row never wrap into another's.
    return Candidates(low, some, low, np.where(whole, 0, spread), stride, some, counts)


def refuse_too_many(operator: str, count: int, most: int | None) -> None:
    """Raises DatagenError where more pairs would be listed than memory can hold."""
    if count > MOST_PAIRS:
        raise DatagenError(
            f"{operator}: {count:,} candidate pairs, {MOST_PAIRS:,} at most; set max_per_item "
            f"(now {most}) to a smaller number"
        )


def first_in_turn(
    left: Array, right: Array, turn: Array, most_left: int | None, most_right: int | None
) -> Array:
    """Which pairs (bool, m) stay under caps for their ends, served in the order of ``turn``."""
    order = np.lexsort((right, left, turn))
    keep = np.empty(len(order), bool)
    keep[order] = within_caps(left[order], right[order], most_left, most_right)
    return keep


def first_of_each(code: Array, turn: Array, most: int | None) -> Array:
    """Which rows (bool, m) are among the first ``most`` of their code, by ``turn``."""
    if most is None:
        return np.ones(len(code), bool)
    order = np.lexsort((turn, code))
    start, _ = runs(code[order])
    keep = np.empty(len(order), bool)
    keep[order] = np.arange(len(order)) - start < most
    return keep
