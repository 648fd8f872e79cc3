"""Pairs items that show the same subject in another relation to another object.

GeneCIS (arXiv:2306.07969) mines training triplets from scene graphs of the captions of CC3M: the
reference and the target have one subject and different objects, and the condition is what the
target says of it ("dog": "in snow"). Subjects stand in five images or more and with two objects
or more; nouns are concrete (above 4.8 of 5).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import step, store
from datagen.errors import DatagenError
from datagen.pairing._graphs import Edges, Reading, concreteness, is_concrete
from datagen.pairing._groups import (
    between_classes,
    first_in_turn,
    first_of_each,
    refuse_too_many,
)
from datagen.pairing._labels import Rows, combined, label_table
from datagen.pairing._miner import LabelMiner
from datagen.pairing._table import Array, Canon, mix64, verdict_table
from datagen.step import Context, Parallel, Result, Tables, serial


class Settings(step.Settings):
    """Settings of graph_swap."""

    #: The key of the labels that holds the graph: a list of [subject, relation, object].
    key: str = "graph"
    #: object: the same subject with another object, in any relation (GeneCIS). relation: the same
    #: subject and object in another relation.
    swap: Literal["object", "relation"] = "object"
    #: Items that must show a subject for it to count. GeneCIS: 5.
    min_images: int = Field(default=5, ge=2)
    #: Objects that a subject must have among all items. GeneCIS: 2.
    min_objects: int = Field(default=2, ge=1)
    #: A table of nouns with their concreteness (csv, tsv, JSON lines, Parquet); None: every noun
    #: counts.
    concreteness: str | None = None
    #: With a table: subject and object must score more than this. GeneCIS: 4.8 of 5.
    min_concreteness: float = 4.8
    #: The column of the table with the noun.
    noun: str = "noun"
    #: The column of the table with the score.
    score: str = "score"
    #: About how many edges of others each edge is compared with, chosen by a seeded hash; None:
    #: all. A choice of this project: a subject may stand in thousands of images.
    max_per_item: int | None = Field(default=20, ge=1)
    #: Pairs of one subject, in a seeded order; None: no cap.
    max_per_subject: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is the reference, at most, in a seeded order; None: no cap.
    max_per_reference: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is a target, at most, in a seeded order; None: no cap.
    max_per_target: int | None = Field(default=None, ge=1)


class GraphSwap(LabelMiner[Settings]):
    """The same subject with another object, or in another relation to it.

    The change is that of the subject, from the reference's relation and object to the target's. A
    target never shows what the reference has of the same subject already. The text of GeneCIS,
    relation and object, goes with the pair: ``text: given`` takes it.
    """

    Settings = Settings

    def revision(self) -> str:
        """The hash of the table of nouns: other scores give other pairs."""
        path = self.settings.concreteness
        return _file_hash(path, store.stamp(path)) if path and store.exists(path) else ""

    def check(self) -> Iterable[str]:
        path = self.settings.concreteness
        if path is None:
            return
        if not store.exists(path):
            yield f"{path}: no such file; set concreteness to a table of nouns with their scores"
            return
        try:
            self._scores(path)
        except DatagenError as error:
            yield str(error)

    def _scores(self, path: str) -> dict[str, float]:
        return concreteness(path, self.settings.noun, self.settings.score)

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Mine the pairs. Raises DatagenError where they are too many to list."""
        items, chosen = tables.items, self.settings
        canon = Canon.of(items, context.seed)
        reading = Reading()
        rows = pa.array(canon.rows)
        labels, keys = items["labels"].take(rows), items["key"].take(rows).to_pylist()
        every = reading.edges(labels, keys, chosen.key)
        edges, dropped = self._usable(every, reading)
        found, listed = self._swaps(edges, canon)
        pairs, capped = self._chosen(found, edges, canon)
        code = np.full(len(canon), 1)
        code[every.item] = 2
        code[edges.item] = 3
        code[found.ends(edges)] = 4
        code[pairs.ends(edges)] = 0
        notes = {
            "items_with_graph": len(np.unique(every.item)),
            "edges": len(every),
            **{name: reading.counts[name] for name in ("bad_graphs", "bad_edges")},
            **dropped,
            "edges_used": len(edges),
            "subjects": len(np.unique(edges.subject)),
            "candidate_pairs": listed,
            **capped,
            "pairs": len(pairs),
            "examples": reading.examples,
        }
        return Result(
            self._table(items, edges, pairs, canon, context),
            verdict_table(items["id"], code[canon.places], self._rules()),
            notes=notes,
        )

    def _usable(self, edges: Edges, reading: Reading) -> tuple[Edges, dict[str, int]]:
        """Edges of concrete nouns whose subject is frequent; how many are not."""
        chosen = self.settings
        dropped = {}
        if chosen.concreteness is not None:
            concrete = is_concrete(self._scores(chosen.concreteness), chosen.min_concreteness)
            some = np.unique(np.append(edges.subject, edges.object))
            good = np.zeros(len(edges.words) + 1, bool)
            good[some] = [concrete(edges.words[one]) for one in some.tolist()]
            for noun in some[~good[some]].tolist():
                reading.lost("not_concrete", edges.words[noun])
            keep = good[edges.subject] & good[edges.object]
            dropped["edges_not_concrete"] = int((~keep).sum())
            edges = edges.taken(keep)
        images = _distinct_per(edges.subject, edges.item)
        objects = _distinct_per(edges.subject, edges.object)
        keep = (images >= chosen.min_images) & (objects >= chosen.min_objects)
        dropped["edges_of_rare_subjects"] = int((~keep).sum())
        return edges.taken(keep), dropped

    def _swaps(self, edges: Edges, canon: Canon) -> tuple[_Pairs, int]:
        """Directed pairs of edges; candidates looked at."""
        most = self.settings.max_per_item
        group, kind = edges.subject, edges.object
        if self.settings.swap == "relation":
            group, kind = combined(edges.subject, edges.object), edges.relation
        turn = mix64(canon.hashes[edges.item] ^ edges.says(np.arange(len(edges))))
        order = np.lexsort((edges.object, edges.relation, edges.item, turn, kind, group))
        candidates = between_classes(group[order], kind[order], turn[order], most)
        listed = int(candidates.counts.sum())
        refuse_too_many("graph_swap", listed, most)
        shown = _Shown.of(edges, group, kind)
        nothing = np.empty(0, np.int64)
        done = [_Pairs(nothing, nothing, np.empty(0, bool))]
        for one, two in candidates.pairs():
            one, two = order[one], order[two]
            good = canon.looks[edges.item[one]] != canon.looks[edges.item[two]]
            one, two = one[good], two[good]
            # Whether the first item shows of the subject what the second edge says, and so on.
            there, back = shown.has(one, two), shown.has(two, one)
            done.append(_Pairs(one[~there], two[~there], back[~there]))
            done.append(_Pairs(two[~back], one[~back], there[~back]))
        return _Pairs.joined(done).once(edges, turn), listed

    def _chosen(self, pairs: _Pairs, edges: Edges, canon: Canon) -> tuple[_Pairs, dict[str, int]]:
        """Apply the caps, in a seeded order."""
        chosen = self.settings
        turn = _turn(pairs, edges, canon.hashes)
        keep = first_of_each(edges.subject[pairs.left], turn, chosen.max_per_subject)
        dropped = {"dropped_max_per_subject": int((~keep).sum())}
        pairs, turn = pairs.taken(keep), turn[keep]
        sides = edges.item[pairs.left], edges.item[pairs.right]
        keep = first_in_turn(*sides, turn, chosen.max_per_reference, chosen.max_per_target)
        dropped["dropped_per_reference_or_target"] = int((~keep).sum())
        return pairs.taken(keep), dropped

    def _table(
        self, items: pa.Table, edges: Edges, pairs: _Pairs, canon: Canon, context: Context
    ) -> pa.Table:
        sides = [
            part[side]
            for part in (edges.subject, edges.relation, edges.object)
            for side in (pairs.left, pairs.right)
        ]
        sides.append(pairs.stays.astype(np.int64))
        code = functools.reduce(combined, sides, np.zeros(len(pairs), np.int64))
        _, first, which = np.unique(code, return_index=True, return_inverse=True)
        which = which.reshape(-1)
        heads = pairs.taken(first)
        told = []
        for left, right, stays in zip(
            heads.left.tolist(), heads.right.tolist(), heads.stays.tolist(), strict=True
        ):
            subject = edges.words[edges.subject[left]]
            old, new = (
                f"{edges.words[edges.relation[edge]]} {edges.words[edges.object[edge]]}"
                for edge in (left, right)
            )
            told.append((subject, None if stays else old, new))
        reasons = [
            f"'{subject}' '{new}' added" if old is None else f"'{subject}' '{old}' → '{new}'"
            for subject, old, new in told
        ]
        made = Rows(
            references=canon.rows[edges.item[pairs.left]],
            targets=canon.rows[edges.item[pairs.right]],
            starts=np.arange(len(pairs) + 1),
            which=which,
            changes=[[change, ("text", None, change[2])] for change in told],
            reasons=pa.array(reasons, pa.string()).take(pa.array(which)),
        )
        line = self.provenance(context)
        return label_table(items, made, operator="graph_swap", provenance=line)

    def _rules(self) -> list[tuple[str, str]]:
        chosen = self.settings
        return [
            ("no_graph", f"no edge of a graph under '{chosen.key}'"),
            ("no_subject", "no subject of its graph is concrete and frequent enough"),
            ("no_partner", f"no other item was found with the same subject, another {chosen.swap}"),
            ("capped", "every pair it was in fell to a cap"),
        ]


@functools.lru_cache(maxsize=16)
def _file_hash(path: str, stamp: str) -> str:
    return store.file_hash(path)


def _distinct_per(group: Array, value: Array) -> Array:
    """How many distinct values the group of each row has (int64, m)."""
    if not len(group):
        return np.empty(0, np.int64)
    pairs = np.unique(np.stack([group, value], axis=1), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=int(group.max()) + 1)
    return np.asarray(counts[group])


def _turn(pairs: _Pairs, edges: Edges, hashes: Array) -> Array:
    """A seeded hash of each pair (uint64, m), of both items, the subject and the target's edge."""
    target = mix64(hashes[edges.item[pairs.right]] ^ edges.says(pairs.right))
    return mix64(hashes[edges.item[pairs.left]] ^ mix64(target))


@dataclass(frozen=True)
class _Shown:
    """What items show of a subject: sorted codes of (item, group, kind); base: of the code."""

    item: Array
    class_: Array
    codes: Array
    base: int

    @staticmethod
    def of(edges: Edges, group: Array, kind: Array) -> _Shown:
        """All edges; ``group`` and ``kind`` say what of them must be the same, and differ."""
        class_ = combined(group, kind)
        base = int(class_.max()) + 1 if len(class_) else 1
        return _Shown(edges.item, class_, np.unique(edges.item * base + class_), base)

    def has(self, one: Array, two: Array) -> Array:
        """Whether the item of each edge ``one`` shows what edge ``two`` says (bool, m)."""
        wanted = self.item[one] * self.base + self.class_[two]
        at = np.minimum(np.searchsorted(self.codes, wanted), len(self.codes) - 1)
        return np.asarray(self.codes[at] == wanted)


@dataclass(frozen=True)
class _Pairs:
    """Directed pairs of edges (int64, m each); stays: the target shows the left edge as well."""

    left: Array
    right: Array
    stays: Array

    def __len__(self) -> int:
        return len(self.left)

    def taken(self, rows: Array) -> _Pairs:
        """The pairs at ``rows`` (places, or a bool per pair)."""
        return _Pairs(*(column[rows] for column in vars(self).values()))

    def ends(self, edges: Edges) -> Array:
        """The items on both sides."""
        return np.asarray(edges.item[np.append(self.left, self.right)])

    @staticmethod
    def joined(parts: list[_Pairs]) -> _Pairs:
        """All pairs of ``parts``, one after the other."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return _Pairs(*(np.concatenate(column) for column in columns))

    def once(self, edges: Edges, turn: Array) -> _Pairs:
        """One pair of each reference and target's edge: that which says best what goes.

        Edges of the reference that the target does not show come first, then the seeded turn.
        """
        reference = edges.item[self.left]
        order = np.lexsort((self.left, turn[self.left], self.stays, self.right, reference))
        new = np.ones(len(order), bool)
        same = reference[order][1:] == reference[order][:-1]
        new[1:] = ~same | (self.right[order][1:] != self.right[order][:-1])
        return self.taken(np.sort(order[new]))
