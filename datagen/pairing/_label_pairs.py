"""Items whose labels differ in exactly n keys: the mathematics behind ``label_diff``.

A value is a set of elements (a plain value is a set of one). Two sets that differ in one element
share a core: what both have. ``{a, b}`` and ``{a, c}`` share ``{a}`` and swap ``b`` for ``c``;
``{a}`` and ``{a, b}`` share ``{a}`` and one has ``b`` more. So a value has a *form* for each core
that it can share, with the element that it has beyond it, and two items differ in exactly the
keys of a subset when they share a form in each of these keys and the value of every other. Forms
and values are integers that stand for the sets themselves, not hashes: nothing needs verifying.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from datagen.pairing._groups import Candidates, between_classes, refuse_too_many
from datagen.pairing._labels import Change, Column, combined
from datagen.pairing._table import Array, expand

#: The element of a form that has none beyond its core.
NOTHING = -1


@dataclass(frozen=True)
class Forms:
    """The forms of all values of one key.

    start: where the forms of each value begin (int64, v + 1); group: equal where the core, the
    parent and the way of differing are (int64, f); element: row of ``elements``, or NOTHING
    (int64, f); grows: whether one side has an element more, rather than another (bool, f).
    """

    key: str
    start: Array
    group: Array
    element: Array
    grows: Array
    elements: list[str]
    separator: str | None

    @staticmethod
    def of(column: Column, separator: str | None) -> Forms:
        """All forms of the values of ``column``.

        With a ``separator`` an element is a path, and only elements of the same parent are
        swapped.
        """
        elements = sorted({element for value in column.values for element in value})
        number = {element: place for place, element in enumerate(elements)}
        groups: dict[Any, int] = {}
        lists: list[tuple[int, int, bool]] = []
        start = [0]
        varies = len({len(value) for value in column.values}) > 1
        for value in column.values:
            if varies:
                lists.append((groups.setdefault((True, value), len(groups)), NOTHING, True))
            for element in value:
                core = tuple(one for one in value if one != element)
                swap = (False, core, parent(element, separator))
                lists.append((groups.setdefault(swap, len(groups)), number[element], False))
                if varies:
                    more = groups.setdefault((True, core), len(groups))
                    lists.append((more, number[element], True))
            start.append(len(lists))
        rows = np.array(lists, np.int64).reshape(-1, 3)
        return Forms(
            column.key,
            np.array(start, np.int64),
            rows[:, 0],
            rows[:, 1],
            rows[:, 2].astype(bool),
            elements,
            separator,
        )

    def name(self, element: int) -> str | None:
        """An element as evidence tells it: of a path the deepest level."""
        if element == NOTHING:
            return None
        return leaf(self.elements[element], self.separator)


def parent(element: str, separator: str | None) -> str:
    """The path above an element; empty at the root, and without a separator."""
    return element.rpartition(separator)[0] if separator else ""


def leaf(element: str, separator: str | None) -> str:
    """The deepest level of an element."""
    return element.rpartition(separator)[2] if separator else element


def paths(column: Column, separator: str, same_parent: bool) -> Column:
    """The column with tidy paths (no blank levels); only the deepest level, or all of them."""
    values = [
        tuple(sorted({_path(one, separator, same_parent) for one in value} - {""}))
        for value in column.values
    ]
    # Text that is nothing but separators names nothing: there is no value.
    lost = [bool(old) and not new for old, new in zip(column.values, values, strict=True)]
    distinct = sorted({value for value, gone in zip(values, lost, strict=True) if not gone})
    number = {value: place for place, value in enumerate(distinct)}
    codes = [-1 if gone else number[value] for value, gone in zip(values, lost, strict=True)]
    # The last entry is for items that have no value to begin with (code -1).
    return Column(column.key, np.array([*codes, -1], np.int64)[column.codes], distinct)


def _path(element: str, separator: str, same_parent: bool) -> str:
    levels = [level.strip() for level in element.split(separator)]
    levels = [level for level in levels if level]
    return separator.join(levels if same_parent else levels[-1:])


@dataclass(frozen=True)
class Pairs:
    """Pairs of items, as arrays of length m.

    left, right: places of items; subset: which keys differ, a row of ``subsets``; old, new: the
    elements of left and right in each of these keys (int64, m × n).
    """

    left: Array
    right: Array
    subset: Array
    old: Array
    new: Array

    def __len__(self) -> int:
        return len(self.left)

    def taken(self, rows: Array) -> Pairs:
        """The pairs at ``rows`` (places, or a bool per pair)."""
        return Pairs(*(getattr(self, field.name)[rows] for field in fields(Pairs)))

    def reversed(self, where: Array) -> Pairs:
        """The pairs with their sides exchanged where it says so (bool, m)."""
        column = where[:, None]
        return replace(
            self,
            left=np.where(where, self.right, self.left),
            right=np.where(where, self.left, self.right),
            old=np.where(column, self.new, self.old),
            new=np.where(column, self.old, self.new),
        )

    @staticmethod
    def joined(parts: Sequence[Pairs], n: int) -> Pairs:
        """All pairs of ``parts``, one after the other."""
        nothing, wide = np.empty(0, np.int64), np.empty((0, n), np.int64)
        parts = [Pairs(nothing, nothing, nothing, wide, wide), *parts]
        names = [field.name for field in fields(Pairs)]
        return Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def change_codes(self) -> Array:
        """Equal integers (int64, m) where the same labels change in the same way."""
        sides = [side[:, place] for side in (self.old, self.new) for place in range(side.shape[1])]
        return functools.reduce(combined, sides, self.subset)


def subsets_of(keys: int, n: int) -> list[tuple[int, ...]]:
    """All choices of ``n`` of the keys, in order."""
    return list(itertools.combinations(range(keys), n))


def differing(
    columns: Sequence[Column],
    forms: Sequence[Forms],
    n: int,
    turn: Array,
    most: int | None,
    allowed: Callable[[Array, Array], Array],
) -> tuple[Pairs, dict[str, int]]:
    """Every pair (once, ``left < right``) of items that differ in exactly ``n`` keys.

    columns: labels of the items (all have all of them); forms: of each column; turn: a seeded
    hash of each item (uint64); most: in a group of more items than that, each is paired with about
    so many, spread evenly; None: all; allowed: says for two arrays of items which pairs may be.
    Gives the pairs and figures. Raises DatagenError where they are too many to list.
    """
    done: list[Pairs] = []
    listed = thinned = 0
    for number, subset in enumerate(subsets_of(len(columns), n)):
        item, group, element, grows = _rows(columns, forms, subset)
        kind = np.zeros(len(item), np.int64)
        for words, more in zip(element, grows, strict=True):
            kind = combined(kind, np.where(more, (words == NOTHING).astype(np.int64), words + 1))
        order = np.lexsort((item, turn[item], kind, group))
        item, group, kind = item[order], group[order], kind[order]
        element, grows = [e[order] for e in element], [g[order] for g in grows]
        found = between_classes(group, kind, turn[item], most)
        listed += int(found.counts.sum())
        refuse_too_many("label_diff", listed, most)
        if most is not None:
            thinned += int((found.size > most + 1).sum())
        done += _real(found, item, element, grows, number, allowed)
    pairs = Pairs.joined(done, n)
    # A ring may meet a pair from both of its ends.
    name = pairs.left * (len(turn) + 1) + pairs.right
    pairs = pairs.taken(np.unique(name, return_index=True)[1])
    return pairs, {"candidate_pairs": listed, "in_groups_too_large_to_list": thinned}


def _rows(
    columns: Sequence[Column], forms: Sequence[Forms], subset: tuple[int, ...]
) -> tuple[Array, Array, list[Array], list[Array]]:
    """Item, group, and per key of the subset element and ``grows`` of every form of every item."""
    item = np.arange(len(columns[0].codes))
    group = np.zeros(len(item), np.int64)
    for place, column in enumerate(columns):
        if place not in subset:
            group = combined(group, column.codes)
    element: list[Array] = []
    grows: list[Array] = []
    for place in subset:
        form = forms[place]
        value = columns[place].codes[item]
        owner, at = expand(np.diff(form.start)[value])
        which = form.start[value][owner] + at
        item, element, grows = item[owner], [e[owner] for e in element], [g[owner] for g in grows]
        group = combined(group[owner], form.group[which])
        element.append(form.element[which])
        grows.append(form.grows[which])
        # Who is alone in a group needs no further forms.
        shared = np.bincount(group)[group] > 1 if len(group) else np.empty(0, bool)
        item, group = item[shared], group[shared]
        element, grows = [e[shared] for e in element], [g[shared] for g in grows]
    return item, group, element, grows


def _real(
    found: Candidates,
    item: Array,
    element: list[Array],
    grows: list[Array],
    subset: int,
    allowed: Callable[[Array, Array], Array],
) -> list[Pairs]:
    """Of the candidates, those that differ in every key of the subset and are allowed."""
    out = []
    for one, two in found.pairs():
        good = allowed(item[one], item[two])
        for words, more in zip(element, grows, strict=True):
            good &= words[one] != words[two]
            good &= ~more[one] | (words[one] == NOTHING) | (words[two] == NOTHING)
        one, two = one[good], two[good]
        old = np.stack([words[one] for words in element], axis=1)
        new = np.stack([words[two] for words in element], axis=1)
        pairs = Pairs(item[one], item[two], np.full(len(one), subset), old, new)
        out.append(pairs.reversed(pairs.left > pairs.right))
    return out


def told(
    pairs: Pairs, first: Array, subsets: Sequence[tuple[int, ...]], forms: Sequence[Forms]
) -> list[list[Change]]:
    """The changes of the pairs at ``first``, from left to right."""
    out: list[list[Change]] = []
    some = pairs.taken(first)
    for subset, old, new in zip(
        some.subset.tolist(), some.old.tolist(), some.new.tolist(), strict=True
    ):
        keys = [forms[place] for place in subsets[subset]]
        out.append(
            [
                (form.key, form.name(removed), form.name(added))
                for form, removed, added in zip(keys, old, new, strict=True)
            ]
        )
    return out
