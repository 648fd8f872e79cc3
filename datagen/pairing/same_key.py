"""Pairs items that share a label: the same page, video or instance.

MagicLens pairs images of one page, EgoCVR clips of one video in the order of time, OACIR pictures
of one instance. Nothing is compared across groups, and within a group only as much as the caps
can keep.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import step
from datagen.pairing._groups import (
    between_classes,
    first_in_turn,
    first_of_each,
    in_range,
    refuse_too_many,
)
from datagen.pairing._labels import Column, Rows, columns, combined, label_table, said
from datagen.pairing._miner import LabelMiner
from datagen.pairing._numbers import TOLERANCE, found_at, next_allowed, numbers, plain
from datagen.pairing._table import Array, Canon, mix64, verdict_table, within_caps
from datagen.step import Context, Parallel, Result, Tables, serial


class Settings(step.Settings):
    """Settings of same_key."""

    #: The key of the labels that both items share: page, video, instance. An item without it, or
    #: without one of the keys below, is not used.
    key: str
    #: none: any two items of a group. next: each item with the first after it, by ``by``, that the
    #: other settings allow. EgoCVR: actions of one video.
    order: Literal["none", "next"] = "none"
    #: A label that tells the place in the group: a number, or a time such as "00:01:37.05", which
    #: counts in seconds.
    by: str | None = None
    #: Smallest difference of ``by``, in its unit.
    min_gap: float | None = Field(default=None, ge=0)
    #: Largest difference of ``by``, in its unit.
    max_gap: float | None = Field(default=None, ge=0)
    #: Keys whose values must differ; they become the changes that texts are written from.
    differ: tuple[str, ...] = ()
    #: Keys whose values must be the same besides ``key``.
    same: tuple[str, ...] = ()
    #: Give each pair in both directions; otherwise in one: forward in ``by``, or, without it,
    #: chosen by a seeded hash.
    both_directions: bool = False
    #: Other items that one item is paired with at most, chosen by a seeded hash; None: all. A
    #: choice of this project: a group may hold thousands. Among more of them than that, only as
    #: many are looked at.
    max_per_item: int | None = Field(default=20, ge=1)
    #: Pairs of one group, at most; None: no cap.
    max_per_group: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is the reference, at most; None: no cap.
    max_per_reference: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is the target, at most; None: no cap.
    max_per_target: int | None = Field(default=None, ge=1)


class SameKey(LabelMiner[Settings]):
    """Items of one group: those whose label ``key`` is the same."""

    version = 3
    Settings = Settings

    def check(self) -> Iterable[str]:
        chosen = self.settings
        if chosen.by is None:
            for name, value in (("min_gap", chosen.min_gap), ("max_gap", chosen.max_gap)):
                if value is not None:
                    yield f"{name}={value:g} needs by: the label that it is a difference of"
            if chosen.order == "next":
                yield "order: next needs by: the label that says what comes next"
        if (chosen.min_gap or 0) > (chosen.max_gap if chosen.max_gap is not None else np.inf):
            yield f"min_gap={chosen.min_gap:g} is above max_gap={chosen.max_gap:g}"
        keys = [chosen.key, *chosen.same, *chosen.differ]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            yield f"key, same and differ: '{key}' is named twice"

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Mine the pairs. Raises DatagenError where they are too many to list."""
        items = tables.items
        canon = Canon.of(items, context.seed)
        group, code = self._groups(items, canon)
        pairs, listed = self._pairs(group)
        partnered = np.unique(np.concatenate([pairs.left, pairs.right]))
        pairs, dropped = self._chosen(pairs, group)
        used = np.unique(np.concatenate([pairs.left, pairs.right]))
        code[group.item] = len(self._keys()) + 2
        code[group.item[partnered]] = len(self._keys()) + 3
        code[group.item[used]] = 0
        notes = {
            "items_with_labels": len(group),
            "groups": len(np.unique(group.shared)),
            "candidate_pairs": listed,
            **dropped,
            "pairs": len(pairs),
        }
        rows = self._table(items, pairs, group, canon.rows[group.item], context)
        verdicts = verdict_table(items["id"], code[canon.places], self._rules())
        return Result(rows, verdicts, notes=notes)

    def _keys(self) -> list[str]:
        chosen = self.settings
        return [chosen.key, *chosen.same, *chosen.differ, *([chosen.by] if chosen.by else [])]

    def _groups(self, items: pa.Table, canon: Canon) -> tuple[_Items, Array]:
        """The items that can be used, in the order of their groups; verdict codes of the others."""
        chosen = self.settings
        every = [one.taken(canon.rows) for one in columns(items["labels"], self._keys())]
        # An empty list is a value like others, but names no page, video or instance.
        absent = np.stack([one.codes < 0 for one in every])
        absent[0] |= np.array([*(not value for value in every[0].values), True])[every[0].codes]
        code = np.where(absent.any(axis=0), absent.argmax(axis=0) + 1, 0)
        place = np.zeros(len(canon))
        if chosen.by is not None:
            place = numbers(every[-1])
            code[(code == 0) & np.isnan(place)] = len(every) + 1
        able = np.flatnonzero(code == 0)
        keys = every[: 1 + len(chosen.same)]
        shared = functools.reduce(combined, (key.codes[able] for key in keys), np.zeros_like(able))
        differ = every[len(keys) : len(keys) + len(chosen.differ)]
        # Without a place the first key that must differ parts those that can never be a pair.
        kind = np.arange(len(able))
        if chosen.by is None and differ:
            kind = differ[0].codes[able]
        if chosen.by is None:
            order = np.lexsort((able, canon.hashes[able], kind, shared))
        else:
            order = np.lexsort((able, place[able], shared))
        able = able[order]
        group = _Items(
            item=able,
            shared=shared[order],
            kind=kind[order],
            place=place[able],
            turn=canon.hashes[able],
            looks=canon.looks[able],
            key=every[0].taken(able),
            differ=[one.taken(able) for one in differ],
            timed=chosen.by is not None and any(":" in one[0] for one in every[-1].values if one),
        )
        return group, code

    def _pairs(self, group: _Items) -> tuple[_Pairs, int]:
        """All allowed pairs of the groups, the left one first in ``by``; candidates looked at."""
        chosen = self.settings
        different = [one.codes for one in group.differ] + [group.looks]
        if chosen.by is None:
            most = chosen.max_per_item
            found = between_classes(group.shared, group.kind, group.turn, most)
        else:
            low, high = group.later(chosen.min_gap or 0.0, chosen.max_gap)
            if chosen.order == "next":
                at = next_allowed(low, high, different)
                left = np.flatnonzero(at >= 0)
                return _Pairs(left, at[left]), len(left)
            most = chosen.max_per_item
            found = in_range(low, high, group.turn, most)
        listed = int(found.counts.sum())
        refuse_too_many("same_key", listed, most)
        done = [_Pairs(np.empty(0, np.int64), np.empty(0, np.int64))]
        for one, two in found.pairs():
            good = np.ones(len(one), bool)
            for values in different:
                good &= values[one] != values[two]
            done.append(_Pairs(np.minimum(one, two)[good], np.maximum(one, two)[good]))
        pairs = _Pairs(*(np.concatenate([getattr(p, s) for p in done]) for s in ("left", "right")))
        # A ring may meet a pair from both of its ends.
        name = pairs.left * (len(group) + 1) + pairs.right
        return pairs.taken(np.unique(name, return_index=True)[1]), listed

    def _chosen(self, pairs: _Pairs, group: _Items) -> tuple[_Pairs, dict[str, int]]:
        """Give directions and apply the caps."""
        chosen = self.settings
        # The same whichever side comes first in the column, which is not the order of ids.
        ends = np.stack([group.turn[pairs.left], group.turn[pairs.right]])
        turn = mix64(ends.min(axis=0) + mix64(ends.max(axis=0)))
        keep = np.ones(len(pairs), bool)
        if chosen.max_per_item is not None:
            order = np.lexsort((pairs.right, pairs.left, turn))
            most = chosen.max_per_item
            sides = pairs.left[order], pairs.right[order]
            keep[order] = within_caps(*sides, most, most, one_kind=True)
        dropped = {"dropped_max_per_item": int((~keep).sum())}
        pairs, turn = pairs.taken(keep), turn[keep]
        if chosen.both_directions:
            sides = (np.append(pairs.left, pairs.right), np.append(pairs.right, pairs.left))
            pairs = _Pairs(*sides)
        elif chosen.by is None:
            swap = group.turn[pairs.left] > group.turn[pairs.right]
            swap ^= (turn & np.uint64(1)).astype(bool)
            left, right = pairs.left, pairs.right
            pairs = _Pairs(np.where(swap, right, left), np.where(swap, left, right))
        turn = mix64(group.turn[pairs.left] ^ mix64(group.turn[pairs.right]))
        keep = first_of_each(group.shared_key(pairs.left), turn, chosen.max_per_group)
        dropped["dropped_max_per_group"] = int((~keep).sum())
        pairs, turn = pairs.taken(keep), turn[keep]
        keep = first_in_turn(
            pairs.left, pairs.right, turn, chosen.max_per_reference, chosen.max_per_target
        )
        dropped["dropped_per_reference_or_target"] = int((~keep).sum())
        return pairs.taken(keep), dropped

    def _table(
        self, items: pa.Table, pairs: _Pairs, group: _Items, rows: Array, context: Context
    ) -> pa.Table:
        sides = [one.codes[side] for one in group.differ for side in (pairs.left, pairs.right)]
        code = functools.reduce(combined, sides, np.zeros_like(pairs.left))
        _, first, which = np.unique(code, return_index=True, return_inverse=True)
        changes = [
            [one.change(left, right) for one in group.differ]
            for left, right in zip(
                pairs.left[first].tolist(), pairs.right[first].tolist(), strict=True
            )
        ]
        which = which.reshape(-1)
        made = Rows(
            references=rows[pairs.left],
            targets=rows[pairs.right],
            starts=np.arange(len(pairs) + 1),
            which=which,
            changes=changes,
            reasons=self._reasons(pairs, group, [said(one) for one in changes], which),
        )
        line = self.provenance(context)
        return label_table(items, made, operator="same_key", provenance=line)

    def _reasons(self, pairs: _Pairs, group: _Items, changes: list[str], which: Array) -> pa.Array:
        """One sentence a pair: ``same video 'P01', 4.23 s later, verb: 'open' → 'close'``."""
        chosen = self.settings
        gaps = group.place[pairs.right] - group.place[pairs.left]
        unit, by = (" s", "") if group.timed else ("", f" by {chosen.by}")
        out = []
        for left, gap, change in zip(
            pairs.left.tolist(), gaps.tolist(), which.tolist(), strict=True
        ):
            parts = [f"same {chosen.key} '{group.key.text(left)}'"]
            if chosen.by is not None:
                way = "later" if gap >= 0 else "earlier"
                parts.append(f"{plain(abs(gap))}{unit} {way}{by}")
            out.append(", ".join([*parts, *([changes[change]] if changes[change] else [])]))
        return pa.array(out, pa.string())

    def _rules(self) -> list[tuple[str, str]]:
        chosen = self.settings
        return [
            *[("no_label", f"no value for '{key}'") for key in self._keys()],
            ("no_number", f"'{chosen.by}' is neither a number nor a time such as 00:01:37.05"),
            ("no_partner", f"no other item of the same {chosen.key} was found that is allowed"),
            ("capped", "every pair it was in fell to a cap"),
        ]


@dataclass(frozen=True)
class _Pairs:
    """Pairs of rows of :class:`_Items` (int64, m each)."""

    left: Array
    right: Array

    def __len__(self) -> int:
        return len(self.left)

    def taken(self, rows: Array) -> _Pairs:
        """The pairs at ``rows`` (places, or a bool per pair)."""
        return replace(self, left=self.left[rows], right=self.right[rows])


@dataclass(frozen=True)
class _Items:
    """Usable items sorted by group, then by place or seeded turn.

    item: in canonical order; shared: equal where key and same are; kind: never a pair where equal;
    place: the number of ``by``; turn: seeded hash; looks: equal for equal media; key, differ:
    columns; timed: places are seconds. All of length n.
    """

    item: Array
    shared: Array
    kind: Array
    place: Array
    turn: Array
    looks: Array
    key: Column
    differ: list[Column]
    timed: bool

    def __len__(self) -> int:
        return len(self.item)

    def shared_key(self, rows: Array) -> Array:
        """The group, by ``key`` alone, of some rows."""
        return self.key.codes[rows]

    def later(self, min_gap: float, max_gap: float | None) -> tuple[Array, Array]:
        """For each row, from which to which row of its group the gap is right (after itself)."""
        here = np.arange(len(self))
        low = found_at(self.shared, self.place, self.place + min_gap - TOLERANCE)
        wide = np.full(len(self), np.inf) if max_gap is None else self.place + max_gap + TOLERANCE
        high = found_at(self.shared, self.place, wide)
        return np.maximum(low, here + 1), np.maximum(high, here + 1)
