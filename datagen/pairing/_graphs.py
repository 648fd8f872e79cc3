"""Scene graphs of items: what stands in which relation to what, and which nouns can be seen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import schema
from datagen.errors import DatagenError, nearest
from datagen.ingest import clean_caption
from datagen.pairing import _given_files as files
from datagen.pairing._table import Array, mix64

#: (subject, relation, object), each as it is compared.
Edge = tuple[str, str, str]

#: What is named in the notes, of each kind that was not used.
EXAMPLES = 20

_PARTS = (("subject",), ("relation", "predicate"), ("object",))


@dataclass(frozen=True)
class Edges:
    """Edges of all items, as arrays of length m, sorted by item; each once for an item.

    item: places of items; subject, relation, object: rows of ``words``; hashes: of each word, by
    its letters alone (uint64).
    """

    item: Array
    subject: Array
    relation: Array
    object: Array
    words: list[str]
    hashes: Array

    def __len__(self) -> int:
        return len(self.item)

    def taken(self, rows: Array) -> Edges:
        """The edges at ``rows`` (places, or a bool per edge)."""
        return replace(
            self,
            item=self.item[rows],
            subject=self.subject[rows],
            relation=self.relation[rows],
            object=self.object[rows],
        )

    def says(self, rows: Array) -> Array:
        """A hash of what the edges at ``rows`` say (uint64)."""
        out = self.hashes[self.subject[rows]]
        for part in (self.relation, self.object):
            out = mix64(out ^ self.hashes[part[rows]])
        return out


@dataclass
class Reading:
    """What was found in the labels: edges, and what was not used, with examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def lost(self, kind: str, text: str, count: int = 1) -> None:
        """Count what was not used, and keep some of it."""
        self.counts[kind] += count
        told = self.examples.setdefault(kind, [])
        if len(told) < EXAMPLES and text[:200] not in told:
            told.append(text[:200])

    def edges(self, labels: pa.ChunkedArray, keys: Sequence[str | None], key: str) -> Edges:
        """The edges of items whose labels hold a list of them under ``key``.

        keys: names of the items, for the examples. An edge is ``[subject, relation, object]``, or
        an object of these names (``predicate`` counts as relation).
        """
        words: dict[str, int] = {}
        found: list[tuple[int, int, int, int]] = []
        for row, text in enumerate(labels.to_pylist()):
            graph = (json.loads(text) if text else {}).get(key)
            if graph is None:
                continue
            if not isinstance(graph, list):
                self.lost("bad_graphs", f"{keys[row]}: {str(graph)[:80]}")
                continue
            own: dict[Edge, None] = {}
            for one in graph:
                edge = edge_of(one)
                if edge is None:
                    self.lost("bad_edges", f"{keys[row]}: {str(one)[:80]}")
                else:
                    own[edge] = None
            for edge in own:
                one, two, three = (words.setdefault(part, len(words)) for part in edge)
                found.append((row, one, two, three))
        # Words in their own order, whatever the order of the items.
        order = {word: place for place, word in enumerate(sorted(words))}
        number = np.array([order[word] for word in words], np.int64)
        item, *parts = np.array(found, np.int64).reshape(-1, 4).T
        subject, relation, object_ = (number[part] for part in parts)
        hashes = np.array([int(schema.content_id(word)[:16], 16) for word in order], np.uint64)
        return Edges(item, subject, relation, object_, list(order), hashes)


def edge_of(value: Any) -> Edge | None:
    """An edge as it is compared: small letters, single spaces; None where it is none."""
    if isinstance(value, Mapping):
        value = [next((value[n] for n in names if n in value), None) for names in _PARTS]
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(isinstance(one, str) for one in value):
        return None
    subject, relation, object_ = (" ".join(clean_caption(one).casefold().split()) for one in value)
    return (subject, relation, object_) if subject and relation and object_ else None


def concreteness(path: str, noun: str, score: str) -> dict[str, float]:
    """Scores of nouns from a table with a header (csv, tsv, JSON lines, Parquet).

    Raises DatagenError where a column is missing or a row has no number.
    """
    found: dict[str, float] = {}
    for number, row in files.rows(path):
        if isinstance(row, str):
            raise DatagenError(f"{path}: row {number}: {row}")
        for column in (noun, score):
            if column not in row:
                there = [str(name) for name in row]
                raise DatagenError(f"{path}: no column '{column}'; {nearest(column, there)}")
        try:
            value = float(row[score])
        except (TypeError, ValueError):
            value = float("nan")
        if not np.isfinite(value):
            raise DatagenError(
                f"{path}: row {number}: {score}: a number was expected, {str(row[score])[:40]!r} "
                "found"
            )
        found[" ".join(str(row[noun]).casefold().split())] = value
    if not found:
        raise DatagenError(f"{path}: no rows; nouns with their scores were expected")
    return found


def is_concrete(scores: Mapping[str, float], least: float) -> Callable[[str], bool]:
    """A function that tells whether a noun scores above ``least``.

    A noun of several words that has no score is judged by its last word, a plural by its singular;
    what is not known is not concrete.
    """

    def concrete(noun: str) -> bool:
        last = noun.rpartition(" ")[2]
        for name in (noun, last, last.removesuffix("s"), last.removesuffix("es")):
            if name in scores:
                return scores[name] > least
        return False

    return concrete
