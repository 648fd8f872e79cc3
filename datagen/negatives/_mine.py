"""Chooses mined negatives row by row: what is near, not a member, and not another right answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen.negatives._neighbours import MARGIN, search, similarity
from datagen.space import Space
from datagen.step import Parallel

Array = np.ndarray[Any, Any]

#: Candidates looked at together; about 100 bytes each.
ENTRIES = 2_000_000


@dataclass(frozen=True)
class Mining:
    """How many, in which band (see the settings of ``nearest``), near which members."""

    count: int
    low: float | None
    high: float | None
    of: str


@dataclass(frozen=True)
class Mined:
    """Chosen negatives: row number (rising), item number, score; in the order of their lists."""

    owner: Array
    items: Array
    scores: Array

    @staticmethod
    def none() -> Mined:
        """No negatives at all."""
        return Mined(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def within(self, start: int, count: int) -> Mined:
        """Those of ``count`` rows from ``start``, with row numbers from zero."""
        low, high = np.searchsorted(self.owner, [start, start + count])
        part = slice(low, high)
        return Mined(self.owner[part] - start, self.items[part], self.scores[part])


@dataclass(frozen=True)
class _Members:
    """Row numbers of members in the space, by row of the table: CSR offsets and values."""

    offsets: Array
    rows: Array

    def of(self, which: Array) -> tuple[Array, Array]:
        """Members of the rows ``which``: (position in ``which``, row in the space)."""
        counts = self.offsets[which + 1] - self.offsets[which]
        owner = np.repeat(np.arange(len(which)), counts)
        inner = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self.rows[self.offsets[which][owner] + inner]


@dataclass(frozen=True)
class _Inputs:
    space: Space
    gallery: Array  # rows in the space of the items at hand
    near: _Members  # whose neighbours are candidates
    targets: _Members
    own: _Members  # references, targets, present negatives, what fits: never candidates
    captions: Array  # sorted keys: row in the space * codes + caption code
    target_captions: Array  # caption codes, aligned with targets.rows; -1 none
    codes: int


def listed(column: pa.ChunkedArray | pa.Array) -> tuple[Array, pa.ChunkedArray]:
    """A list column as (row number of each element, elements)."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    counts, values = [np.empty(0, np.int64)], []
    for chunk in chunks:
        lengths = pc.fill_null(pc.list_value_length(chunk), 0)
        counts.append(lengths.to_numpy(zero_copy_only=False).astype(np.int64))
        values.append(chunk.flatten())
    owner = np.repeat(np.arange(len(column)), np.concatenate(counts))
    return owner, pa.chunked_array(values, column.type.value_type)


def mine(
    rows: pa.Table, items: pa.Table, space: Space, mining: Mining, parallel: Parallel
) -> Mined:
    """Mined negatives of every row, searching deeper only for rows that still lack some."""
    inputs, item_of = _inputs(rows, items, space, mining)
    counts = np.diff(inputs.targets.offsets)
    have = np.ones(len(rows), dtype=bool)
    lacking = np.repeat(np.arange(len(rows)), counts)[inputs.targets.rows < 0]
    have[lacking] = False  # without the target's vector, a right answer cannot be told
    have &= np.diff(inputs.near.offsets) > 0
    todo = np.nonzero(have)[0]
    depth = mining.count + 12
    owners, rows_found, scores = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    while len(todo):
        unfinished = []
        step = max(1, ENTRIES // min(depth, max(len(inputs.gallery), 1)))
        for start in range(0, len(todo), step):
            part = todo[start : start + step]
            found, done = _choose(inputs, part, depth, mining, parallel)
            keep = done[found.owner]
            owners.append(part[found.owner[keep]])
            rows_found.append(found.items[keep])
            scores.append(found.scores[keep])
            unfinished.append(part[~done])
        todo = np.concatenate(unfinished)
        depth *= 4
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    chosen = item_of[np.concatenate(rows_found)[order]]
    return Mined(owner[order], chosen, np.concatenate(scores)[order])


def _choose(
    inputs: _Inputs, rows: Array, depth: int, mining: Mining, parallel: Parallel
) -> tuple[Mined, Array]:
    """The best of the ``depth`` nearest for ``rows``, and which of them need not look deeper."""
    owner, queries = inputs.near.of(rows)
    unique, which = np.unique(queries, return_inverse=True)
    near = search(inputs.space, inputs.gallery, unique, depth, parallel)
    bound = np.full(len(rows), -np.inf)
    np.maximum.at(bound, owner, near.bounds[which])
    keys = (owner[:, None] * len(inputs.space) + near.rows[which])[near.rows[which] >= 0]
    keys = np.setdiff1d(keys, _own_keys(inputs, rows))
    row, candidate = np.divmod(keys, len(inputs.space))
    keep = ~_right_caption(inputs, rows, row, candidate)
    row, candidate = row[keep], candidate[keep]
    truth = _highest(inputs.space, inputs.targets, rows, row, candidate)
    rank = truth
    if mining.of == "reference":
        rank = _highest(inputs.space, inputs.near, rows, row, candidate)
    fit = np.ones(len(row), dtype=bool)
    if mining.high is not None:
        fit &= truth <= mining.high
    if mining.low is not None:
        fit &= rank >= mining.low
    row, candidate, truth, rank = row[fit], candidate[fit], truth[fit], rank[fit]
    # The space is sorted by id, so its row numbers break ties by id.
    order = np.lexsort((candidate, -rank, row))
    row, candidate, truth, rank = row[order], candidate[order], truth[order], rank[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    last = np.full(len(rows), -np.inf)
    final = place == mining.count - 1
    last[row[final]] = rank[final]
    done = np.isneginf(bound) | (last > bound + MARGIN)
    if mining.low is not None:
        done |= bound + MARGIN < mining.low
    first = place < mining.count
    return Mined(row[first], candidate[first], truth[first]), done


def _own_keys(inputs: _Inputs, rows: Array) -> Array:
    owner, members = inputs.own.of(rows)
    keys: Array = (owner * len(inputs.space) + members)[members >= 0]
    return keys


def _right_caption(inputs: _Inputs, rows: Array, row: Array, candidate: Array) -> Array:
    """Whether a candidate has the caption of a target of its row."""
    out = np.zeros(len(row), dtype=bool)
    captions = _Members(inputs.targets.offsets, inputs.target_captions)
    entry, code = captions.of(rows[row])
    keys = candidate[entry] * inputs.codes + code
    if not len(inputs.captions):
        return out
    at = np.minimum(np.searchsorted(inputs.captions, keys), len(inputs.captions) - 1)
    out[entry[(inputs.captions[at] == keys) & (code >= 0)]] = True
    return out


def _highest(space: Space, members: _Members, rows: Array, row: Array, candidate: Array) -> Array:
    """The highest cosine of each candidate to the members of its row."""
    entry, member = members.of(rows[row])
    out = np.full(len(row), -np.inf)
    np.maximum.at(out, entry, similarity(space, member, candidate[entry]))
    return out


def _inputs(rows: pa.Table, items: pa.Table, space: Space, mining: Mining) -> tuple[_Inputs, Array]:
    at = space.rows(items["id"])
    item_of = np.full(len(space), -1, dtype=np.int64)
    item_of[at[at >= 0]] = np.nonzero(at >= 0)[0]
    references, _ = _members(rows["references"], space)
    targets, target_values = _members(rows["targets"], space)
    parts = [references, targets]
    if "negatives" in rows.column_names:
        parts.append(_members(rows["negatives"], space, inner=True)[0])
    # Items that fit as well as a target, which the filter of that name found.
    known = [name for name in rows.column_names if name.startswith("false_negatives_")]
    parts += [_members(rows[name], space)[0] for name in known]
    near = targets if mining.of == "target" else _with_vectors(references)
    captions, codes, count = _caption_codes(items, at, pc.struct_field(target_values, "caption"))
    inputs = _Inputs(
        space=space,
        gallery=np.sort(at[at >= 0]),
        near=near,
        targets=targets,
        own=_joined(parts),
        captions=captions,
        target_captions=codes,
        codes=count,
    )
    return inputs, item_of


def _members(
    column: pa.ChunkedArray, space: Space, inner: bool = False
) -> tuple[_Members, pa.ChunkedArray]:
    owner, values = listed(column)
    ids = pc.struct_field(values, ["item", "id"] if inner else "id")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(column)))])
    return _Members(offsets, space.rows(ids)), values


def _with_vectors(members: _Members) -> _Members:
    owner = np.repeat(np.arange(len(members.offsets) - 1), np.diff(members.offsets))
    have = members.rows >= 0
    counts = np.bincount(owner[have], minlength=len(members.offsets) - 1)
    return _Members(np.concatenate([[0], np.cumsum(counts)]), members.rows[have])


def _joined(parts: list[_Members]) -> _Members:
    count = len(parts[0].offsets) - 1
    owner = np.concatenate([np.repeat(np.arange(count), np.diff(part.offsets)) for part in parts])
    order = np.argsort(owner, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))])
    return _Members(offsets, np.concatenate([part.rows for part in parts])[order])


def _caption_codes(
    items: pa.Table, at: Array, targets: pa.ChunkedArray
) -> tuple[Array, Array, int]:
    """Sorted keys of (space row, caption) for items, caption codes of targets, number of codes.

    Captions are equal where they differ in case and outer spaces only; an empty one equals none.
    """
    owner, values = listed(items["captions"])
    texts = pa.chunked_array([*values.chunks, *targets.chunks], pa.string()).cast(pa.large_string())
    texts = pc.utf8_trim_whitespace(pc.utf8_lower(texts))
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.large_string()), texts)
    encoded = texts.combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    count = max(len(encoded.dictionary), 1)
    of_items, of_targets = codes[: len(owner)], codes[len(owner) :]
    known = (at[owner] >= 0) & (of_items >= 0)
    keys = np.unique(at[owner][known] * count + of_items[known])
    return keys, of_targets, count
