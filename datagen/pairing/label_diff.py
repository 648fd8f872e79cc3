"""Pairs items whose labels differ in exactly n keys and agree in all others.

Follows EUFCC-CIR (heritage objects that differ in one term of a thesaurus; every object that makes
the change is a right answer) and TF-CoVR (actions that differ in one label, from another video;
3.9 targets per query). The search is exact (see ``_label_pairs``), compares no two items that
share nothing, and stays bounded where thousands are equal in everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import comb

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import step
from datagen.pairing import _label_pairs as maths
from datagen.pairing._groups import first_in_turn, first_of_each, runs
from datagen.pairing._labels import Column, Rows, columns, label_table, said
from datagen.pairing._miner import LabelMiner
from datagen.pairing._table import Array, Canon, mix64, verdict_table, within_caps
from datagen.step import Context, Parallel, Result, Tables, serial

#: Choices of n among the keys; each costs a pass over all items.
MOST_SUBSETS = 1000


class Settings(step.Settings):
    """Settings of label_diff."""

    #: The keys of the labels that count. An item that lacks one of them is not used. Values that
    #: are lists are compared as sets, and differ by one element that is removed, added, or both.
    labels: tuple[str, ...] = Field(min_length=1)
    #: In how many of the keys the two items differ; in the others they agree. EUFCC-CIR: 1.
    n: int = Field(default=1, ge=1)
    #: Keys in which they must differ besides, such as the video that a clip is from. TF-CoVR:
    #: another video.
    other: tuple[str, ...] = ()
    #: What separates the levels of a value such as "garment/dress/evening dress"; None: values
    #: have no levels. Only the deepest level is said to change.
    separator: str | None = Field(default=None, min_length=1)
    #: With a separator: the levels above must agree. Otherwise they do not count at all.
    same_parent: bool = True
    #: Targets of one pair, all of which make the same change to the reference, at most; None: all.
    #: TF-CoVR: 3.9 on average, EUFCC-CIR: all matches.
    targets: int | None = Field(default=1, ge=1)
    #: Other items that one item is paired with at most, chosen by a seeded hash; None: all. A
    #: choice of this project: thousands of items may be equal in everything else. Among more of
    #: them than that, only as many are looked at, and those that ``other`` forbids not replaced.
    max_per_item: int | None = Field(default=20, ge=1)
    #: Pairs that make the same change ("red" → "blue"), at most; None: no cap.
    max_per_value_pair: int | None = Field(default=None, ge=1)
    #: Give each pair in both directions; otherwise in one, chosen by a seeded hash.
    both_directions: bool = True
    #: Pairs in which an item is the reference, at most; None: no cap.
    max_per_reference: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is a target, at most; None: no cap.
    max_per_target: int | None = Field(default=None, ge=1)


class LabelDiff(LabelMiner[Settings]):
    """Items that differ in exactly ``n`` of their labels and agree in the rest."""

    Settings = Settings

    def check(self) -> Iterable[str]:
        chosen = self.settings
        keys = [*chosen.labels, *chosen.other]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            yield f"labels and other: '{key}' is named twice"
        if chosen.n > len(chosen.labels):
            yield f"n={chosen.n} is more than the {len(chosen.labels)} labels"
        elif comb(len(chosen.labels), chosen.n) > MOST_SUBSETS:
            yield (
                f"n={chosen.n} of {len(chosen.labels)} labels can be chosen in "
                f"{comb(len(chosen.labels), chosen.n):,} ways, {MOST_SUBSETS:,} at most"
            )

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Mine the pairs. Raises DatagenError where they are too many to list."""
        items, chosen = tables.items, self.settings
        canon = Canon.of(items, context.seed)
        labels, other = self._columns(items, canon)
        lacking = _lacking([*labels, *other])
        able = np.flatnonzero(lacking < 0)
        labels, other = ([one.taken(able) for one in many] for many in (labels, other))
        forms = [
            maths.Forms.of(one, chosen.separator if chosen.same_parent else None) for one in labels
        ]
        looks = canon.looks[able]

        def allowed(one: Array, two: Array) -> Array:
            good: Array = looks[one] != looks[two]
            for column in other:
                good &= column.codes[one] != column.codes[two]
            return good

        hashes = canon.hashes[able]
        found, notes = maths.differing(
            labels, forms, chosen.n, hashes, chosen.max_per_item, allowed
        )
        partnered = np.unique(np.concatenate([found.left, found.right]))
        pairs, starts, dropped = self._chosen(found, hashes)
        used = np.unique(np.concatenate([pairs.left, pairs.right]))
        code = lacking + 1
        code[able] = len(lacking_rules := self._keys()) + 1
        code[able[partnered]] = len(lacking_rules) + 2
        code[able[used]] = 0
        notes |= {"items_with_labels": len(able)} | dropped | {"pairs": len(starts) - 1}
        rows = self._table(items, pairs, starts, forms, canon.rows[able], context)
        return Result(
            rows, verdict_table(items["id"], code[canon.places], self._rules()), notes=notes
        )

    def _keys(self) -> list[str]:
        return [*self.settings.labels, *self.settings.other]

    def _columns(self, items: pa.Table, canon: Canon) -> tuple[list[Column], list[Column]]:
        """The labels that count, and those that must differ besides, in canonical order."""
        chosen = self.settings
        every = [one.taken(canon.rows) for one in columns(items["labels"], self._keys())]
        labels, other = every[: len(chosen.labels)], every[len(chosen.labels) :]
        if chosen.separator is not None:
            labels = [maths.paths(one, chosen.separator, chosen.same_parent) for one in labels]
        return labels, other

    def _chosen(
        self, found: maths.Pairs, hashes: Array
    ) -> tuple[maths.Pairs, Array, dict[str, int]]:
        """Give directions, apply the caps, put targets of one change together.

        Returns directed pairs with the targets of each row one after the other, where the rows
        begin (m + 1), and what was dropped.
        """
        chosen = self.settings
        turn = mix64(hashes[found.left] + mix64(hashes[found.right]))
        keep = np.ones(len(found), bool)
        if chosen.max_per_item is not None:
            order = np.lexsort((found.right, found.left, turn))
            most = chosen.max_per_item
            ends = found.left[order], found.right[order]
            keep[order] = within_caps(*ends, most, most, one_kind=True)
        dropped = {"dropped_max_per_item": int((~keep).sum())}
        found, turn = found.taken(keep), turn[keep]
        backward = (turn & np.uint64(1)).astype(bool)
        if chosen.both_directions:
            sides = [found.reversed(np.full(len(found), way)) for way in (False, True)]
            found = maths.Pairs.joined(sides, chosen.n)
        else:
            found = found.reversed(backward)
        rows = _Rows.of(found, mix64(hashes[found.left] ^ mix64(hashes[found.right])))
        rows, dropped["dropped_targets"] = rows.with_targets(chosen.targets)
        rows, dropped["dropped_max_per_value_pair"] = rows.with_changes(chosen.max_per_value_pair)
        rows, dropped["dropped_per_reference_or_target"] = rows.with_ends(
            chosen.max_per_reference, chosen.max_per_target, single=chosen.targets == 1
        )
        return rows.pairs, rows.starts(), dropped

    def _table(
        self,
        items: pa.Table,
        pairs: maths.Pairs,
        starts: Array,
        forms: list[maths.Forms],
        rows: Array,
        context: Context,
    ) -> pa.Table:
        chosen = self.settings
        heads = pairs.taken(starts[:-1])
        _, first, which = np.unique(heads.change_codes(), return_index=True, return_inverse=True)
        subsets = maths.subsets_of(len(forms), chosen.n)
        changes = maths.told(heads, first, subsets, forms)
        rest = ", all else equal" if chosen.n < len(forms) else ""
        sentences = pa.array([said(one) + rest for one in changes], pa.string())
        which = which.reshape(-1)
        made = Rows(
            references=rows[heads.left],
            targets=rows[pairs.right],
            starts=starts,
            which=which,
            changes=changes,
            reasons=sentences.take(pa.array(which)),
        )
        line = self.provenance(context)
        return label_table(items, made, operator="label_diff", provenance=line)

    def _rules(self) -> list[tuple[str, str]]:
        count = f"{self.settings.n} label" + ("s" if self.settings.n > 1 else "")
        return [
            *[("no_label", f"no value for '{key}'") for key in self._keys()],
            ("no_partner", f"no other item was found that differs from it in exactly {count}"),
            ("capped", "every pair it was in fell to a cap"),
        ]


def _lacking(every: list[Column]) -> Array:
    """The first column in which each item has no value (int64, n); -1: it has all."""
    absent = np.stack([one.codes < 0 for one in every])
    return np.where(absent.any(axis=0), absent.argmax(axis=0), -1)


class _Rows:
    """Directed pairs in rows: those of one reference and one change, their targets in turn."""

    def __init__(self, pairs: maths.Pairs, turn: Array, row: Array) -> None:
        self.pairs, self.turn, self.row = pairs, turn, row

    @staticmethod
    def of(pairs: maths.Pairs, turn: Array) -> _Rows:
        """Every pair in the row of its reference and change; ``turn`` is a hash of each pair."""
        change = pairs.change_codes()
        order = np.lexsort((pairs.right, turn, change, pairs.left))
        pairs, turn, change = pairs.taken(order), turn[order], change[order]
        new = np.ones(len(pairs), bool)
        new[1:] = (pairs.left[1:] != pairs.left[:-1]) | (change[1:] != change[:-1])
        return _Rows(pairs, turn, np.cumsum(new) - 1)

    def taken(self, keep: Array) -> _Rows:
        """The pairs for which ``keep`` (bool, m) holds."""
        return _Rows(self.pairs.taken(keep), self.turn[keep], self.row[keep])

    def starts(self) -> Array:
        """Where each row begins, and the end of the last (int64, rows + 1)."""
        new = np.ones(len(self.row), bool)
        new[1:] = self.row[1:] != self.row[:-1]
        return np.append(np.flatnonzero(new), len(self.row)).astype(np.int64)

    def with_targets(self, most: int | None) -> tuple[_Rows, int]:
        """At most ``most`` targets a row; with one, every pair is a row of its own."""
        if most == 1:
            return _Rows(self.pairs, self.turn, np.arange(len(self.row))), 0
        start, _ = runs(self.row)
        keep = np.arange(len(self.row)) - start < (len(self.row) if most is None else most)
        return self.taken(keep), int((~keep).sum())

    def with_changes(self, most: int | None) -> tuple[_Rows, int]:
        """At most ``most`` rows of the same change, by the turn of their first pair."""
        heads = self.starts()[:-1]
        keep = first_of_each(self.pairs.change_codes()[heads], self.turn[heads], most)
        return self._rows_taken(keep), int((~keep).sum())

    def with_ends(
        self, references: int | None, targets: int | None, *, single: bool
    ) -> tuple[_Rows, int]:
        """Rows of a reference and uses of a target under their caps; what is dropped are pairs.

        Rows of one target are served with both caps in view; otherwise rows first.
        """
        before = len(self.row)
        if single:
            ends = self.pairs.left, self.pairs.right
            kept = self.taken(first_in_turn(*ends, self.turn, references, targets))
            return kept, before - len(kept.row)
        heads = self.starts()[:-1]
        keep = first_of_each(self.pairs.left[heads], self.turn[heads], references)
        kept = self._rows_taken(keep)
        kept = kept.taken(first_of_each(kept.pairs.right, kept.turn, targets))
        return kept, before - len(kept.row)

    def _rows_taken(self, keep: Array) -> _Rows:
        """The rows for which ``keep`` (bool, rows) holds."""
        sizes = np.diff(self.starts())
        return self.taken(np.repeat(keep, sizes))
