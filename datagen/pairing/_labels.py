"""Labels of items as columns of integers, and pairs whose change is one of labels as a table."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import schema
from datagen.pairing._table import (
    CHUNK,
    Array,
    FirstCaptions,
    blocks,
    pair_table,
)

#: (key, removed, added): one label that differs; None where nothing is removed or added.
Change = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class Column:
    """One key of the labels of all items.

    codes: row of ``values`` of each item (int64, n), -1 where it has none; values: the distinct
    values in their own order, each the sorted texts of a list, or one text.
    """

    key: str
    codes: Array
    values: list[tuple[str, ...]]

    def taken(self, rows: Array) -> Column:
        """The column of some items."""
        return Column(self.key, self.codes[rows], self.values)

    def text(self, item: int) -> str:
        """The value of an item in a reader's words."""
        return ", ".join(self.values[self.codes[item]])

    def change(self, old: int, new: int) -> Change:
        """What one item has that another has not, and the other way round."""
        before, after = self.values[self.codes[old]], self.values[self.codes[new]]
        removed = ", ".join(one for one in before if one not in after)
        added = ", ".join(one for one in after if one not in before)
        return self.key, removed or None, added or None


def columns(labels: pa.ChunkedArray, keys: Sequence[str]) -> list[Column]:
    """Read ``keys`` from labels (JSON objects); one column per key, in the order of the items."""
    found: list[list[tuple[str, ...] | None]] = [[] for _ in keys]
    for chunk in labels.chunks:
        for text in chunk.to_pylist():
            own = json.loads(text) if text else {}
            for key, column in zip(keys, found, strict=True):
                column.append(elements(own.get(key)))
    out = []
    for key, column in zip(keys, found, strict=True):
        values = sorted({value for value in column if value is not None})
        code = {value: number for number, value in enumerate(values)}
        codes = [-1 if value is None else code[value] for value in column]
        out.append(Column(key, np.array(codes, np.int64), values))
    return out


def elements(value: Any) -> tuple[str, ...] | None:
    """A value as the sorted texts of a set: one for plain values; None for null and empty text.

    Numbers, truth values and objects become JSON; an empty list is a value, the empty set.
    """
    if isinstance(value, list):
        return tuple(sorted({text for one in value if (text := _text(one))}))
    text = _text(value)
    return (text,) if text else None


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else schema.canonical_json(value)
    return unicodedata.normalize("NFC", text).strip()


def combined(one: Array, two: Array) -> Array:
    """Equal integers (int64, m, from 0) where both of two columns of integers are equal."""
    if not len(one):
        return np.empty(0, np.int64)
    low = int(two.min())
    return np.asarray(
        np.unique(one * (int(two.max()) - low + 1) + two - low, return_inverse=True)[1]
    ).reshape(-1)


def said(changes: Sequence[Change]) -> str:
    """Changes as a reader's words: ``baseColour: 'red' → 'blue', season: 'Fall' added``."""
    parts = []
    for key, removed, added in changes:
        if removed is None:
            parts.append(f"{key}: '{added}' added")
        elif added is None:
            parts.append(f"{key}: '{removed}' removed")
        else:
            parts.append(f"{key}: '{removed}' → '{added}'")
    return ", ".join(parts)


@dataclass(frozen=True)
class Rows:
    """Pairs of one reference and one or more targets.

    references: rows of the items table (int64, m); targets: the same, flat (int64, t); starts:
    where the targets of each pair begin (int64, m + 1); which: row of ``changes`` of each pair
    (int64, m); changes: the distinct changes; reasons: a sentence for each pair (m); scores: of
    each pair (float64, m; NaN for none), or None where there are none; reference_texts: captions
    of the references (rows of :func:`flat_captions`, m), or None for the first ones.
    """

    references: Array
    targets: Array
    starts: Array
    which: Array
    changes: list[list[Change]]
    reasons: pa.Array
    scores: Array | None = None
    reference_texts: Array | None = None


def label_table(
    items: pa.Table, rows: Rows, *, operator: str, provenance: dict[str, Any]
) -> pa.Table:
    """The table of pairs (:data:`datagen.schema.PAIRS`), in the order of ``rows``."""
    captions = FirstCaptions.of(items)
    items = items.select(["id", "key", "source", "media", "labels"]).combine_chunks()
    named = [
        [dict(zip(("field", "removed", "added"), change, strict=True)) for change in changes]
        for changes in rows.changes
    ]
    lists = pa.array(named, schema.EVIDENCE.field("changes").type)
    json_texts = [schema.canonical_json(changes) if changes else "" for changes in named]
    done = []
    for low, high in blocks(np.diff(rows.starts), CHUNK):
        owner = np.repeat(np.arange(low, high), np.diff(rows.starts[low : high + 1]))
        ends = rows.references[owner], rows.targets[rows.starts[low] : rows.starts[high]]
        scores = np.full(len(owner), np.nan) if rows.scores is None else rows.scores[owner]
        found = captions.mined(*ends, scores, rows.reasons.take(pa.array(owner)))
        if rows.reference_texts is not None:
            found = replace(found, reference_texts=rows.reference_texts[owner])
        single = pair_table(items, found, operator=operator, field="", provenance=provenance)
        starts = rows.starts[low : high + 1] - rows.starts[low]
        done.append(_gathered(single, starts, lists, json_texts, rows.which[low:high]))
    return pa.concat_tables(done) if done else schema.empty(schema.PAIRS)


def _gathered(
    single: pa.Table, starts: Array, lists: pa.Array, json_texts: list[str], which: Array
) -> pa.Table:
    """Rows of one target each (those of a pair in a row) as pairs with their changes."""
    heads = single.take(pa.array(starts[:-1])).combine_chunks()
    flat = single["targets"].combine_chunks().flatten()
    targets = pa.ListArray.from_arrays(
        pa.array(starts, pa.int32()), flat, type=schema.PAIRS.field("targets").type
    )
    references = heads["references"].combine_chunks()
    owners = references.flatten().field("id").to_pylist()
    names = flat.field("id").to_pylist()
    ids = [
        schema.pair_id((owner,), names[low:high], json_texts[change])
        for owner, low, high, change in zip(
            owners, starts[:-1].tolist(), starts[1:].tolist(), which.tolist(), strict=True
        )
    ]
    old = heads["evidence"].combine_chunks()
    evidence = pa.StructArray.from_arrays(
        [
            old.field("operator"),
            old.field("reason"),
            lists.take(pa.array(which)),
            old.field("score"),
        ],
        fields=list(schema.EVIDENCE),
    )
    arrays = [pa.array(ids, pa.string()), references, targets, evidence, heads["provenance"]]
    return pa.table(arrays, schema=schema.PAIRS)
