"""Splits into train, val and test so that nothing leaks from one side to another.

No item stands on two sides, whether as reference, target or negative, and neither do two
near-duplicates or two items of one group. Triplets share items, so most of them hang together in
one large component; it is cut where few triplets are lost, and what crosses the cut is rejected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from datagen import moments, perceptual, schema
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.split._hashed import hashed
from datagen.split._sides import Graph, connected, place
from datagen.step import (
    Context,
    Parallel,
    Result,
    Settings,
    TableOperator,
    Tables,
    serial,
    verdicts,
)

Array = np.ndarray[Any, Any]

SIDES = ("train", "val", "test")
#: Rows whose lists are rebuilt at once; keeps every Arrow string array far below 2 GB.
ROWS = 32768


class ByGroupSettings(Settings):
    """``train``, ``val``, ``test``: shares of the triplets that remain; they sum to 1.

    ``near_duplicates``: keep together what the filter ``duplicates`` calls near-duplicates.
    ``radius``: how many of the 64 bits of their perceptual hashes differ, at most. ``tolerance``:
    by how much any of their colours differs, at most (levels of 255; null: any colours, so that
    the colour variants of a product stay together as well). Of clips both are means over five
    frames. ``duration``: by which share of the longer clip the lengths of two clips differ, at
    most. ``group_by``: keep together the items with an equal value of this label. ``max_lost``:
    the share of triplets that may be given up to reach the shares; where that is not enough, val
    and test stay smaller.
    """

    train: float = Field(0.98, ge=0, le=1)
    val: float = Field(0.01, ge=0, le=1)
    test: float = Field(0.01, ge=0, le=1)
    near_duplicates: bool = True
    radius: int = Field(6, ge=0, le=32)
    tolerance: int | None = Field(perceptual.TOLERANCE, ge=0, le=255)
    duration: float = Field(moments.DURATION, ge=0, le=1)
    group_by: str | None = None
    max_lost: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> ByGroupSettings:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, val and test must sum to 1, not {total:g}")
        return self


class ByGroup(TableOperator[ByGroupSettings]):
    """Adds ``split``; rejects rows that cross sides, removes negatives of another side.

    Items that came into the rows after ``duplicates`` measured theirs are measured here.
    """

    version = 3
    Settings = ByGroupSettings
    levels = ("pairs", "triplets")

    def needs(self, level: Level) -> set[str]:
        needed = {"pairs"}
        if self.settings.near_duplicates:
            needed.add("items.phash")
        if self.settings.group_by is not None:
            needed.add("items.labels")
        return needed

    def gives(self, level: Level) -> set[str]:
        return {"split"}

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        rows = _sorted(tables.rows)
        uses = _Uses.of(rows)
        items = tables.items
        measured: dict[str, Any] = {}
        if self.settings.near_duplicates:
            items, measured = hashed(items, uses.names, parallel)
        nodes = self._nodes(items, uses.names)
        ranks = _ranks(uses.names, nodes, context.seed)
        graph = _graph(rows, uses, nodes, ranks)
        shares = (self.settings.train, self.settings.val, self.settings.test)
        sides = place(graph, shares, self.settings.max_lost)
        low, high = _extremes(graph, sides)
        kept = low == high
        rejected = _crossings(rows, graph, sides, kept)
        _place_negatives(sides, nodes, uses, graph, np.where(kept, low, -1))
        out, removed = _written(rows, uses, sides[nodes], low, kept)
        notes = self._notes(out, uses, sides[nodes], low[kept], len(rows), removed)
        return Result(out, verdicts(rows["id"], rejected), notes=notes | measured)

    def _nodes(self, items: pa.Table, names: list[str]) -> Array:
        """Number of the node of each name: items that must stay together share one."""
        place_of = {name: at for at, name in enumerate(names)}
        at = np.array([place_of.get(name, -1) for name in items["id"].to_pylist()], dtype=np.int64)
        links: list[tuple[Array, Array]] = []
        if self.settings.near_duplicates:
            links.append(_chain(*self._near(items, at)))
        if self.settings.group_by is not None:
            links.append(_chain(*self._groups(items, at)))
        left = np.concatenate([np.empty(0, np.int64), *[link[0] for link in links]])
        right = np.concatenate([np.empty(0, np.int64), *[link[1] for link in links]])
        return connected(len(names), left, right) if names else np.empty(0, np.int64)

    def _near(self, items: pa.Table, at: Array) -> tuple[Array, Array]:
        """Items with a hash, and a number for each group of near-duplicates.

        Clips are those with ``moments``; a clip and an image are never near-duplicates. In a
        table without that column the hash of a clip's middle frame is all there is to compare.
        """
        hashed = (at >= 0) & _valid(items["phash"])
        chosen = items.filter(pa.array(hashed))
        is_clip = np.zeros(len(chosen), bool)
        if "moments" in chosen.column_names:
            is_clip = _valid(chosen["moments"])
        groups = np.empty(len(chosen), np.int64)
        groups[~is_clip] = self._images(chosen.filter(pa.array(~is_clip)))
        if is_clip.any():
            groups[is_clip] = len(chosen) + self._clips(chosen.filter(pa.array(is_clip)))
        return at[hashed], groups

    def _images(self, images: pa.Table) -> Array:
        # Where some colours are not known, any may be the same: hashes alone keep more together.
        known = "colours" in images.column_names and not images["colours"].null_count
        cells = perceptual.from_arrow(images["colours"]) if known else None
        radius, tolerance = self.settings.radius, self.settings.tolerance
        return perceptual.near_groups(_hashes(images["phash"]), radius, cells, tolerance)

    def _clips(self, clips: pa.Table) -> Array:
        limits = self.settings
        near = moments.Nearness(limits.radius, limits.tolerance, limits.duration)
        seconds = [place and place["seconds"] for place in clips["media"].to_pylist()]
        return moments.Clips(clips["moments"], seconds).groups(near)

    def _groups(self, items: pa.Table, at: Array) -> tuple[Array, Array]:
        """Items with the label ``group_by``, and a number for each distinct value."""
        key = self.settings.group_by
        labels = [json.loads(text or "{}") for text in items["labels"].to_pylist()]
        has = np.array([label.get(key) is not None for label in labels], dtype=bool)
        if len(at) and not has.any():
            raise DatagenError(
                f"split: no item has the label '{key}'; "
                "set group_by to a label of the source, or leave it out"
            )
        chosen = np.nonzero(has & (at >= 0))[0]
        values = pa.array([schema.canonical_json(labels[n][key]) for n in chosen], pa.string())
        codes = values.dictionary_encode().indices.to_numpy().astype(np.int64)
        return at[chosen], codes

    def _notes(
        self, out: pa.Table, uses: _Uses, sides: Array, low: Array, before: int, removed: int
    ) -> dict[str, Any]:
        used = np.unique(_Uses.of(out).codes_in(uses))
        wanted = (self.settings.train, self.settings.val, self.settings.test)
        notes: dict[str, Any] = {}
        for number, (name, share) in enumerate(zip(SIDES, wanted, strict=True)):
            count = int(np.sum(low == number))
            notes[name] = {
                "rows": count,
                "share": round(count / max(len(low), 1), 6),
                "asked": share,
                "items": int(np.sum(sides[used] == number)),
            }
        lost = before - len(low)
        notes["lost"] = lost
        notes["lost_share"] = round(lost / max(before, 1), 6)
        notes["removed_negatives"] = removed
        return notes


@dataclass(frozen=True)
class _Uses:
    """Which items stand in which rows: names are sorted and distinct; codes point into them."""

    names: list[str]
    owner: Array
    codes: Array
    negative_owner: Array
    negative_codes: Array

    @staticmethod
    def of(rows: pa.Table) -> _Uses:
        owner, ids = _listed(rows["references"], "id")
        target_owner, target_ids = _listed(rows["targets"], "id")
        negative_owner = np.empty(0, np.int64)
        negative_ids: list[pa.Array] = []
        if "negatives" in rows.column_names:
            negative_owner, negative_ids = _listed(rows["negatives"], ["item", "id"])
        found = pa.chunked_array([*ids, *target_ids, *negative_ids], pa.string())
        names = pc.unique(found).sort()
        codes = pc.index_in(found, names).to_numpy().astype(np.int64)
        members = np.concatenate([owner, target_owner])
        cut = len(members)
        return _Uses(names.to_pylist(), members, codes[:cut], negative_owner, codes[cut:])

    def codes_in(self, other: _Uses) -> Array:
        """Codes of these names among the names of ``other``."""
        found = pc.index_in(pa.array(self.names, pa.string()), pa.array(other.names, pa.string()))
        codes: Array = found.to_numpy(zero_copy_only=False).astype(np.int64)
        return codes


def _sorted(rows: pa.Table) -> pa.Table:
    order = pc.sort_indices(rows["id"]).to_numpy()
    return rows if np.array_equal(order, np.arange(len(rows))) else rows.take(pa.array(order))


def _listed(column: pa.ChunkedArray, field: str | list[str]) -> tuple[Array, list[pa.Array]]:
    """A field of the elements of a list column: (row number of each, values by chunk)."""
    counts, values = [np.empty(0, np.int64)], []
    for chunk in column.chunks:
        lengths = pc.fill_null(pc.list_value_length(chunk), 0)
        counts.append(lengths.to_numpy(zero_copy_only=False).astype(np.int64))
        values.append(pc.struct_field(chunk.flatten(), field))
    return np.repeat(np.arange(len(column)), np.concatenate(counts)), values


def _valid(column: pa.ChunkedArray) -> Array:
    valid: Array = column.is_valid().to_numpy()
    return valid


def _hashes(column: pa.ChunkedArray) -> Array:
    values: Array = column.to_numpy()
    return values if values.dtype.kind == "u" else values.astype(np.int64).view(np.uint64)


def _chain(members: Array, groups: Array) -> tuple[Array, Array]:
    """Links that join the members of each group one after another."""
    order = np.lexsort((members, groups))
    same = groups[order][1:] == groups[order][:-1]
    return members[order][:-1][same], members[order][1:][same]


def _ranks(names: Sequence[str], nodes: Array, seed: int) -> Array:
    """A random order of the nodes that depends on the seed and the ids of their items alone."""
    count = int(nodes.max()) + 1 if len(nodes) else 0
    key = str(seed).encode()
    drawn = np.fromiter(
        (
            int.from_bytes(hashlib.blake2b(name.encode(), key=key, digest_size=8).digest())
            for name in names
        ),
        dtype=np.uint64,
        count=len(names),
    )
    least = np.full(count, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(least, nodes, drawn)
    ranks = np.empty(count, dtype=np.int64)
    ranks[np.argsort(least, kind="stable")] = np.arange(count)
    return ranks


def _graph(rows: pa.Table, uses: _Uses, nodes: Array, ranks: Array) -> Graph:
    count = len(ranks)
    keys = np.unique(uses.owner * count + nodes[uses.codes])
    edge, node = np.divmod(keys, max(count, 1))
    return Graph(len(rows), count, edge, node, ranks)


def _extremes(graph: Graph, sides: Array) -> tuple[Array, Array]:
    """The lowest and the highest side in each row; equal where it lies inside one."""
    low = np.full(graph.edges, len(SIDES), dtype=np.int64)
    high = np.full(graph.edges, -1, dtype=np.int64)
    np.minimum.at(low, graph.edge, sides[graph.node])
    np.maximum.at(high, graph.edge, sides[graph.node])
    return low, high


def _crossings(
    rows: pa.Table, graph: Graph, sides: Array, kept: Array
) -> dict[str, tuple[str, str]]:
    present = np.zeros((graph.edges, len(SIDES)), dtype=bool)
    present[graph.edge, sides[graph.node]] = True
    lost = np.nonzero(~kept)[0]
    out = {}
    for name, flags in zip(rows["id"].take(pa.array(lost)).to_pylist(), present[lost], strict=True):
        where = [side for side, flag in zip(SIDES, flags.tolist(), strict=True) if flag]
        out[name] = ("crosses_split", "items in " + " and ".join(where))
    return out


def _place_negatives(
    sides: Array, nodes: Array, uses: _Uses, graph: Graph, row_sides: Array
) -> None:
    """Put nodes that are in no kept row but as negatives where most of those rows are."""
    inside = np.zeros(graph.nodes, dtype=bool)
    inside[graph.node[row_sides[graph.edge] >= 0]] = True
    node, row = nodes[uses.negative_codes], row_sides[uses.negative_owner]
    free = ~inside[node] & (row >= 0)
    votes = np.zeros((graph.nodes, len(SIDES)), dtype=np.int64)
    np.add.at(votes, (node[free], row[free]), 1)
    voted = votes.sum(axis=1) > 0
    sides[voted] = votes[voted].argmax(axis=1)


def _written(
    rows: pa.Table, uses: _Uses, side_of: Array, low: Array, kept: Array
) -> tuple[pa.Table, int]:
    """The kept rows with their side, without negatives of other sides; how many those were."""
    names = pa.array(SIDES, pa.string())
    removed = 0
    if "negatives" in rows.column_names:
        fine = side_of[uses.negative_codes] == low[uses.negative_owner]
        removed = int(np.sum(~fine & kept[uses.negative_owner]))
        if removed:
            rows = _without(rows, uses.negative_owner, fine)
    out = rows.filter(pa.array(kept))
    sides = names.take(pa.array(low[kept]))
    if "split" in out.column_names:
        out = out.drop_columns(["split"])
    return out.append_column(schema.SPLIT, sides), removed


def _without(rows: pa.Table, owner: Array, fine: Array) -> pa.Table:
    chunks = []
    for start in range(0, len(rows), ROWS):
        lists = rows["negatives"].slice(start, ROWS).combine_chunks()
        first, last = np.searchsorted(owner, [start, start + ROWS])
        keep = fine[first:last]
        counts = np.bincount(owner[first:last][keep] - start, minlength=len(lists))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        values = lists.flatten().filter(pa.array(keep))
        mask = lists.is_null() if lists.null_count else None
        chunks.append(
            pa.ListArray.from_arrays(offsets, values, type=schema.NEGATIVES.type, mask=mask)
        )
    column = pa.chunked_array(chunks, schema.NEGATIVES.type)
    return rows.set_column(rows.column_names.index("negatives"), schema.NEGATIVES, column)
