"""Removes near-duplicate pictures: among items, within a pair, and repeated across triplets.

Pictures are compared by a 64-bit DCT hash (``imagehash.phash``; see datagen.perceptual), which
sees shapes and brightness, not hue. Hashes differ in an even number of bits nearly always.

The radius of 4 was set on real photos. Copies that were recompressed (JPEG quality 40 and 75),
halved, doubled or made a tenth brighter are found by 94 to 100 % (radius 2: 75 to 100 %), while of
72,000 pairs of different everyday photos none lies as close. Catalogue photos in one pose are the
exception, as the hash does not see hue: of 9,621 pairs of products whose titles differ by one
word, 325 lie within 4 bits, and 257 of these differ in colour (radius 2: 81 and 67). Take
``radius: 2`` or 0 there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import media, perceptual, schema
from datagen.schema import Level
from datagen.step import Filter, Resources, Settings, verdicts

Array = np.ndarray[Any, Any]
Reasons = dict[str, tuple[str, str]]


class DuplicatesSettings(Settings):
    """``radius``: bits of 64 in which near-duplicates may differ (unrelated pictures differ in
    about 32). ``same_text``: also reject a row that repeats an earlier one: the same text between
    near-duplicates of the same pictures.
    """

    radius: int = Field(4, ge=0, le=24)
    same_text: bool = True


class Duplicates(Filter[DuplicatesSettings]):
    """Measures ``phash`` (uint64) of items and rejects near-duplicates.

    - Items: of near-duplicates the one with the smallest id is kept, greedily in the order of
      ids, so that no two kept items are within ``radius`` (rule ``near_duplicate``).
    - Pairs and triplets: a row of which any reference is within ``radius`` of any target, so also
      one that has an item on both sides (rule ``same_picture``); and with ``same_text`` a row
      that repeats a kept row of smaller id (rule ``repeated_triplet``). Pairs have no text yet:
      there, what changes between reference and target stands for it.

    Items that cannot be decoded fail, and with them the rows that use them; clips do, as yet only
    images are hashed.
    """

    Settings = DuplicatesSettings
    on_items = True
    rules = frozenset({"radius", "same_text"})

    def needs(self, level: Level) -> set[str]:
        return {"items.media"} if level == "items" else {"items.media", "pairs"}

    def gives(self, level: Level) -> set[str]:
        return {"items.phash"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "media"]

    def resources(self) -> Resources:
        return Resources(batch_size=128)

    def __call__(self, rows: pa.Table) -> pa.Table:
        measured = [_measure(place) for place in rows["media"].to_pylist()]
        hashes, verdict, rule, detail = zip(*measured, strict=True) if measured else ((),) * 4
        return pa.table(
            {
                "id": rows["id"].cast(pa.string()),
                "phash": pa.array(hashes, pa.uint64()),
                "verdict": pa.array(verdict, pa.string()),
                "rule": pa.array(rule, pa.string()),
                "detail": pa.array(detail, pa.string()),
            }
        )

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        pictures = _Pictures(items, self.settings.radius)
        if "references" in rows.column_names:
            return self._decide_rows(rows, pictures)
        ids = rows["id"].to_pylist()
        failed = {name: pictures.fault(name) for name in ids if name not in pictures.hashes}
        rejected: Reasons = {}
        for name in ids:
            kept = pictures.stands.get(name, name)
            if kept != name:
                apart = pictures.apart(name, kept)
                detail = f"{apart} bits from the kept item {kept} ({pictures.keys[kept]})"
                rejected[name] = ("near_duplicate", detail)
        return verdicts(ids, rejected, failed)

    def _decide_rows(self, rows: pa.Table, pictures: _Pictures) -> pa.Table:
        ids = rows["id"].to_pylist()
        references, targets = _members(rows, "references"), _members(rows, "targets")
        texts = _texts(rows)
        failed: dict[str, str] = {}
        rejected: Reasons = {}
        seen: dict[tuple[Any, ...], str] = {}
        # Which of several repeats stays must not depend on the order of the rows.
        for at in sorted(range(len(ids)), key=ids.__getitem__):
            members = [*references[at], *targets[at]]
            lost = next((name for name in members if name not in pictures.hashes), None)
            if lost is not None:
                failed[ids[at]] = pictures.fault(lost)
                continue
            same = self._same_picture(references[at], targets[at], pictures)
            if same:
                rejected[ids[at]] = ("same_picture", same)
            elif self.settings.same_text:
                groups = [
                    tuple(pictures.stands[name] for name in side[at])
                    for side in (references, targets)
                ]
                first = seen.setdefault((*groups, texts[at]), ids[at])
                if first != ids[at]:
                    detail = f"the same text between near-duplicates of the pictures of {first}"
                    rejected[ids[at]] = ("repeated_triplet", detail)
        return verdicts(ids, rejected, failed)

    def _same_picture(
        self, references: Sequence[str], targets: Sequence[str], pictures: _Pictures
    ) -> str:
        """What to say of the nearest reference and target within the radius; empty if none."""
        near = []
        for reference in references:
            for target in targets:
                apart = pictures.apart(reference, target)
                if apart <= self.settings.radius:
                    near.append((apart, reference, target))
        if not near:
            return ""
        apart, reference, target = min(near)
        if reference == target:
            return f"item {reference} is both reference and target (0 bits apart)"
        return f"reference {reference} and target {target} are {apart} bits apart"


def _measure(place: dict[str, Any] | None) -> tuple[int | None, str, str | None, str | None]:
    """The hash of one picture, and its verdict, rule and detail."""
    try:
        if place is None:
            raise media.MediaError("no_media", "the item has no picture")
        return perceptual.phash_bytes(media.read(place)), schema.KEPT, None, None
    except media.MediaError as error:
        return None, schema.FAILED, error.rule, error.detail


class _Pictures:
    """The hashes of items, and which kept item stands for each (greedy in the order of ids)."""

    def __init__(self, items: pa.Table, radius: int) -> None:
        names = items["id"].to_pylist()
        self.keys = dict(zip(names, items["key"].to_pylist(), strict=True))
        found = zip(names, items["phash"].to_pylist(), strict=True)
        self.hashes: dict[str, int] = {
            name: value for name, value in sorted(found) if value is not None
        }
        ordered = list(self.hashes)
        values = np.array(list(self.hashes.values()), dtype=np.uint64)
        first = perceptual.keep_first(values, radius)
        self.stands = {name: ordered[at] for name, at in zip(ordered, first, strict=True)}

    def apart(self, left: str, right: str) -> int:
        """Bits between two items that have a hash."""
        return (self.hashes[left] ^ self.hashes[right]).bit_count()

    def fault(self, name: str) -> str:
        """Why rows that use this item fail."""
        key = self.keys.get(name)
        return f"item {name}{f' ({key})' if key else ''} has no hash: its picture cannot be decoded"


def _members(rows: pa.Table, column: str) -> list[list[str]]:
    """Item ids of the references or targets of every row."""
    lists = rows[column].combine_chunks()
    ids = lists.flatten().field("id").to_pylist()
    ends = np.cumsum(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)).tolist()
    return [ids[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _texts(rows: pa.Table) -> list[str]:
    """The modification text of every row, or for pairs what changes, as text."""
    if "modification" in rows.column_names:
        return [text or "" for text in rows["modification"].to_pylist()]
    evidence = rows["evidence"].combine_chunks()
    return [
        json.dumps(changes, sort_keys=True) for changes in evidence.field("changes").to_pylist()
    ]
