"""Items that a step makes: a caption written for a target, a picture painted for it.

An answer of a row operator may hold members without an id. Such a member is an item that stands in
no table: its content (media, caption and labels) gives it its id, and the step that made it is its
source. From there on it is an item like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema
from datagen.errors import DatagenError
from datagen.ingest import clean_caption

#: The file beside a step's table that holds the items which it made (schema.ITEMS, sorted by id).
FILE = "made.parquet"


class Maker:
    """Names the members of one step that have no id, and keeps the items that they are.

    items: those that stand in the collection; a member that equals one of them is that item.
    None: the operator has not said that it makes items.
    """

    def __init__(self, items: pa.Table | None, step: str) -> None:
        self._known = items
        self._step = step
        self._made: dict[str, dict[str, Any]] = {}

    def named(self, lists: pa.Array | pa.ChunkedArray, column: str = "members") -> pa.Array:
        """``lists`` (lists of schema.MEMBER, or null) with an id for every member.

        Raises DatagenError for an empty list, for a member that holds nothing by which it could be
        told, and for any without an id where the operator makes no items.
        """
        lists = joined(lists)
        flat = lists.flatten()
        if flat.null_count or pc.any(pc.equal(pc.list_value_length(lists), 0)).as_py():
            raise DatagenError(
                f"step {self._step}: {column}: a list of one member or more expected, or null"
            )
        new = pc.is_null(flat.field("id"))
        places = np.flatnonzero(new.to_numpy(zero_copy_only=False))
        if not len(places):
            return lists
        if self._known is None:
            raise DatagenError(
                f"step {self._step}: a member without an id is an item that the step makes; the "
                "operator must give 'collection'"
            )
        drafts = [self._draft(row) for row in flat.take(pa.array(places)).to_pylist()]
        members = pa.array(self._members(drafts, self._known), schema.MEMBER)
        index = np.arange(len(flat))
        index[places] = len(flat) + np.arange(len(places))
        flat = pa.concat_arrays([flat, members]).take(pa.array(index))
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, flat, mask=pc.is_null(lists))

    def items(self) -> pa.Table:
        """The items that were made: schema.ITEMS, sorted by id."""
        rows = [self._made[name] for name in sorted(self._made)]
        return pa.Table.from_pylist(rows, schema=schema.ITEMS)

    def _draft(self, member: Mapping[str, Any]) -> dict[str, Any]:
        """The item that a member without an id is."""
        media, labels = member["media"], self._labels(member["labels"])
        caption = clean_caption(member["caption"])
        sha256 = media and media["sha256"]
        if not (caption or media) or (media and not sha256):
            raise DatagenError(
                f"step {self._step}: a member without an id needs a caption, or media with their "
                "sha256, to be an item that the step makes"
            )
        captions = [caption] if caption else []
        name = schema.item_id(sha256, captions, labels)
        return {
            "id": name,
            "key": clean_caption(member["key"]) or name,
            "source": self._step,
            "media": media,
            "captions": captions,
            "labels": labels,
        }

    def _labels(self, text: str | None) -> str:
        """Labels as items hold them."""
        try:
            labels = json.loads(text or "{}")
        except (ValueError, RecursionError):
            labels = None
        if not isinstance(labels, dict):
            raise DatagenError(
                f"step {self._step}: labels of a new item: a JSON object expected, "
                f"{str(text)[:40]!r} found"
            )
        return schema.canonical_json(labels)

    def _members(self, drafts: list[dict[str, Any]], items: pa.Table) -> list[dict[str, Any]]:
        """The members that these items are; of equal ones the first, or that of the collection."""
        names = pa.array(sorted({one["id"] for one in drafts}), pa.string())
        there = items.filter(pc.is_in(items["id"], value_set=names))
        known = {row["id"]: row for row in there.select(schema.ITEMS.names).to_pylist()}
        return [
            schema.member(known.get(one["id"]) or self._made.setdefault(one["id"], one))
            for one in drafts
        ]


def joined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
