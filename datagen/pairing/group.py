"""Groups of similar but not equal items, and pairs within each group.

CIRR (arXiv:2108.04024) and VDG look at the 20 nearest neighbours of an item, drop those above
0.94, walk down the rest and skip whoever is within 0.002 of the one taken last, until six are
together. Texts of a group must tell its members apart, and they are each other's hard negatives.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.pairing import _neighbours as maths
from datagen.pairing._miner import Miner
from datagen.pairing._table import (
    Array,
    Canon,
    FirstCaptions,
    pair_table,
    verdict_table,
)
from datagen.schema import Level
from datagen.step import Context, Parallel, Result, Tables, serial

RULES = [
    ("no_vector", "no vector with a direction in this space"),
    ("no_group", "in no whole group: too few of the nearest are allowed"),
    ("capped", "every group it could be in fell to a cap"),
]


class Settings(maths.Neighbours):
    """Settings of group. Similarities are cosines, rounded to four decimals."""

    #: Highest similarity of a member to the seed; above it are near duplicates. VDG: 0.94.
    high: float = Field(default=0.94, ge=-1, le=1)
    #: Lowest similarity of a member to the seed. VDG has none.
    low: float = Field(default=-1.0, ge=-1, le=1)
    #: Skip a neighbour whose similarity to the seed is less than this below that of the member
    #: taken before. VDG: 0.002; 0: skip none.
    gap: float = Field(default=0.002, ge=0, le=1)
    #: Members of a group with its seed; smaller groups are dropped. VDG: 6.
    size: int = Field(default=6, ge=2)
    #: Which members are paired, in the order seed, nearest, …, farthest. consecutive: each with
    #: the next one. star: the seed with each. cirr: both, but for seed and farthest, which close
    #: the ring the other way round (the nine pairs of a group in CIRR). all: any two.
    pairs: Literal["consecutive", "star", "cirr", "all"] = "cirr"
    #: Give each pair in both directions.
    both_directions: bool = False
    #: Groups that an item may be in, in the order of a seeded hash of their seeds; None: any
    #: number. A choice of this project; of the images in CIRR's groups most are in one.
    max_groups_per_item: int | None = Field(default=1, ge=1)
    #: Groups, at most; None: no cap.
    max_groups: int | None = Field(default=None, ge=1)


class Group(Miner[Settings]):
    """Groups of items that are near each other, but no nearer than ``high``.

    The reason of each pair starts with ``group ID``; the ID is a hash of the members.
    """

    Settings = Settings

    def needs(self, level: Level) -> set[str]:
        return {f"space.{self.settings.space}"}

    def check(self) -> Iterable[str]:
        chosen = self.settings
        if chosen.low > chosen.high:
            yield f"low={chosen.low} is above high={chosen.high}"
        if chosen.size > chosen.k + 1:
            yield f"size={chosen.size} is more than a seed and its k={chosen.k} nearest"

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Mine the groups. Raises DatagenError where an index misses more than ``min_recall``."""
        items, chosen = tables.items, self.settings
        there = maths.Placed.of(items, chosen.space, context)
        canon, able = there.canon, there.able
        cosine, place, notes = maths.of_every_item("group", chosen, there, context, parallel)
        found = whole_groups(cosine, place, canon.looks[able], chosen)
        order = np.lexsort((found[:, 0], canon.hashes[able][found[:, 0]]))
        kept = chosen_groups(found[order], chosen.max_groups_per_item, chosen.max_groups)
        group, left, right = members_paired(kept, chosen.pairs, chosen.both_directions)
        ends = able[kept[group, left]], able[kept[group, right]]
        pairs = _Pairs(group, left, right, *ends)
        pairs = pairs.taken(_first(pairs.reference * len(canon) + pairs.target))
        code = np.full(len(canon), 1)
        code[able] = 2
        code[able[np.unique(found)]] = 3
        code[able[np.unique(kept)]] = 0
        notes |= {
            "items_with_vector": len(able),
            "whole_groups": len(found),
            "groups": len(kept),
            "pairs_of_several_groups": len(group) - len(pairs.group),
            "pairs": len(pairs.group),
        }
        near = there.cosines(pairs.reference, pairs.target)
        table = self._table(items, canon, pairs, able[kept], near, context)
        return Result(table, verdict_table(items["id"], code[canon.places], RULES), notes=notes)

    def _table(
        self,
        items: pa.Table,
        canon: Canon,
        pairs: _Pairs,
        kept: Array,
        near: Array,
        context: Context,
    ) -> pa.Table:
        chosen = self.settings
        ids = items["id"]
        members = [[ids[row].as_py() for row in rows] for rows in canon.rows[kept].tolist()]
        names = [schema.content_id("group", *sorted(one)) for one in members]
        reasons = [
            f"group {names[group]}, members {one + 1} and {two + 1} of {chosen.size}, "
            f"{chosen.space} similarity {value:.3f}"
            for group, one, two, value in zip(
                pairs.group.tolist(), pairs.left.tolist(), pairs.right.tolist(), near, strict=True
            )
        ]
        ends = canon.rows[pairs.reference], canon.rows[pairs.target]
        found = FirstCaptions.of(items).mined(*ends, near, pa.array(reasons, pa.string()))
        line = self.provenance(context)
        return pair_table(items, found, operator="group", field="", provenance=line)


@dataclass(frozen=True)
class _Pairs:
    """Pairs: number of the group, places of both in it, and both items in canonical order."""

    group: Array
    left: Array
    right: Array
    reference: Array
    target: Array

    def taken(self, rows: Array) -> _Pairs:
        """The pairs at ``rows``."""
        return _Pairs(*(column[rows] for column in vars(self).values()))


def whole_groups(cosine: Array, place: Array, looks: Array, chosen: Settings) -> Array:
    """The members of the group of every seed that has one: (groups, size), the seed first.

    cosine, place: of the k nearest of each item (n, k), nearest first; looks: equal for items of
    equal media, of which a group holds one.
    """
    count = len(cosine)
    members = np.full((count, chosen.size), -1, np.int64)
    members[:, 0] = np.arange(count)
    filled = np.ones(count, np.int64)
    last = np.full(count, np.inf)
    # Half a unit of the fourth decimal: 0.902 and 0.900 are 0.002 apart, whatever binary says.
    gap = chosen.gap - 0.5 * 10**-maths.DECIMALS if chosen.gap else -np.inf
    for rank in range(cosine.shape[1]):
        value, other = cosine[:, rank], place[:, rank]
        with np.errstate(invalid="ignore"):
            good = (other >= 0) & (value <= chosen.high) & (value >= chosen.low)
            good &= (filled < chosen.size) & (last - value >= gap)
        equal = looks[np.maximum(members, 0)] == looks[np.maximum(other, 0)][:, None]
        good &= ~(equal & (members >= 0)).any(axis=1)
        rows = np.flatnonzero(good)
        members[rows, filled[rows]] = other[rows]
        filled[rows] += 1
        last[rows] = value[rows]
    whole: Array = members[filled == chosen.size]
    return whole


def chosen_groups(groups: Array, most_per_item: int | None, most: int | None) -> Array:
    """Of the groups (g, size), in their order, those that caps and earlier groups let in.

    A group is let in when no member is in ``most_per_item`` groups yet, and no group before it
    has the same members.
    """
    used: dict[int, int] = {}
    seen: set[tuple[int, ...]] = set()
    taken: list[int] = []
    for number, members in enumerate(groups.tolist()):
        if most is not None and len(taken) >= most:
            break
        same = tuple(sorted(members))
        full = most_per_item is not None and any(
            used.get(one, 0) >= most_per_item for one in members
        )
        if full or same in seen:
            continue
        seen.add(same)
        taken.append(number)
        for one in members:
            used[one] = used.get(one, 0) + 1
    return groups[np.array(taken, np.int64)]


def members_paired(groups: Array, pairs: str, both: bool) -> tuple[Array, Array, Array]:
    """Group, place of the reference and place of the target of every pair (int64, m each)."""
    size = groups.shape[1]
    chain = [(place, place + 1) for place in range(size - 1)]
    star = [(0, place) for place in range(1, size)]
    if pairs == "all":
        ends = list(itertools.combinations(range(size), 2))
    elif pairs == "star":
        ends = star
    elif pairs == "consecutive" or size == 2:
        ends = chain
    else:
        ends = [*star[:-1], *chain[1:], (size - 1, 0)]
    if both:
        ends += [(two, one) for one, two in ends]
    one, two = np.array(ends, np.int64).T
    group = np.repeat(np.arange(len(groups)), len(ends))
    return group, np.tile(one, len(groups)), np.tile(two, len(groups))


def _first(names: Array) -> Array:
    """Places of the first of each of some equal integers, ascending."""
    first: Array = np.unique(names, return_index=True)[1]
    return np.sort(first)
