"""Removes near-duplicate pictures and clips: among items, within a pair, and across triplets.

Near-duplicates have the same structure and the same colours everywhere: a 64-bit DCT hash within
``radius`` (as ``imagehash.phash``; it sees shapes and brightness, not hue), and on a grid of
16 x 16 cells no colour that differs by more than ``tolerance`` (see datagen.colours). So the same
dress in another colour, or a navy ground in place of a black one, is another picture.

The defaults were set on copies of 680 real photos and 2,397 pairs of rendered scenes that differ
in one thing (``benchmarks/duplicates_quality.py``). Found are 100 % of JPEG copies of quality 50
to 95, 94 to 100 % of WebP copies and of sizes 0.5 to 2, 99.5 to 100 % of those 5 % lighter or
darker, 82 to 84 % of crops by one hundredth and 37 to 47 % by two. Of scenes with another colour,
background, size, count or place 0.1 % are wrongly called the same, of those with another texture
3 %, another shape 8 % (45 of 46 are small shapes); of products of different colour labels 6 of
the 576 whose hashes are near, among them exact copies that are labelled twice.

Clips are compared by five frames at even distances, by the same two measures on average (see
datagen.moments); a clip and an image are never near-duplicates. Of copies of 58 real clips
(``benchmarks/clip_duplicates.py``) all of other bitrates, codecs and sizes, lighter ones and crops
by one hundredth are found, 89 to 100 % of other frame rates and 68 to 72 % of crops by two
hundredths; of clips that lost a tenth of their length 95 to 100 % where things move slowly, 17 %
where they move fast. Of 114,960 pairs of other clips none is called the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from datagen import media, moments, perceptual, schema
from datagen.schema import Level
from datagen.step import Filter, Resources, Settings, verdicts

Array = np.ndarray[Any, Any]
Reasons = dict[str, tuple[str, str]]


class DuplicatesSettings(Settings):
    """``radius``: bits of 64 in which hashes of near-duplicates may differ (unrelated pictures
    differ in about 32). ``tolerance``: levels of 255 by which their colours may differ; null: any
    colours. Of clips both are means over five frames. ``duration``: share of the longer clip's
    duration by which those of near-duplicates may differ. ``same_text``: also reject a row that
    repeats an earlier one: the same text between near-duplicates of the same pictures.
    """

    radius: int = Field(6, ge=0, le=24)
    tolerance: int | None = Field(perceptual.TOLERANCE, ge=0, le=255)
    duration: float = Field(moments.DURATION, ge=0, le=1)
    same_text: bool = True


class Duplicates(Filter[DuplicatesSettings]):
    """Measures ``phash`` (uint64) and ``colours`` (768 bytes) of items, rejects near-duplicates.

    Of clips they are those of the middle frame, and ``moments`` has both of five frames (null for
    images).

    - Items: of near-duplicates the one with the smallest id is kept, greedily in the order of
      ids, so that no two kept items are near-duplicates (rule ``near_duplicate``).
    - Pairs and triplets: a row of which any reference is a near-duplicate of any target, so also
      one that has an item on both sides (rule ``same_picture``); and with ``same_text`` a row
      that repeats a kept row of smaller id (rule ``repeated_triplet``). Pairs have no text yet:
      there, what changes between reference and target stands for it.

    Items that cannot be decoded fail, and with them the rows that use them.
    """

    version = 3
    Settings = DuplicatesSettings
    on_items = True
    rules = frozenset({"radius", "tolerance", "duration", "same_text"})

    def needs(self, level: Level) -> set[str]:
        return {"items.media"} if level == "items" else {"items.media", "pairs"}

    def gives(self, level: Level) -> set[str]:
        return {"items.phash", "items.colours", "items.moments"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "media"]

    def resources(self) -> Resources:
        return Resources(batch_size=128)

    def __call__(self, rows: pa.Table) -> pa.Table:
        measured = [_measure(place) for place in rows["media"].to_pylist()]
        hashes, grids, clips, verdict, rule, detail = (
            zip(*measured, strict=True) if measured else ((),) * 6
        )
        return pa.table(
            {
                "id": rows["id"].cast(pa.string()),
                "phash": pa.array(hashes, pa.uint64()),
                "colours": pa.array(grids, pa.binary(perceptual.BYTES)),
                "moments": pa.array(clips, pa.large_binary()),
                "verdict": pa.array(verdict, pa.string()),
                "rule": pa.array(rule, pa.string()),
                "detail": pa.array(detail, pa.string()),
            }
        )

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        pictures = _Pictures(items, self.settings)
        if "references" in rows.column_names:
            return self._decide_rows(rows, pictures)
        ids = rows["id"].to_pylist()
        failed = {name: pictures.fault(name) for name in ids if name not in pictures}
        rejected: Reasons = {}
        for name in ids:
            kept = pictures.stands.get(name, name)
            if kept != name:
                apart = _told(*pictures.apart(name, kept))
                detail = f"{apart} from the kept item {kept} ({pictures.keys[kept]})"
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
            lost = next((name for name in members if name not in pictures), None)
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
        """What to say of the nearest reference and target that are near; empty if none are."""
        near = []
        for reference in references:
            for target in targets:
                if pictures.near(reference, target):
                    near.append((*pictures.apart(reference, target), reference, target))
        if not near:
            return ""
        bits, levels, reference, target = min(near)
        if reference == target:
            return f"item {reference} is both reference and target"
        return f"reference {reference} and target {target} are {_told(bits, levels)} apart"


def _told(bits: float, levels: float) -> str:
    return f"{bits:g} bits and {levels:g} levels of colour"


def _measure(
    place: dict[str, Any] | None,
) -> tuple[int | None, bytes | None, bytes | None, str, str | None, str | None]:
    """Hash and colours of one picture, those of a clip's frames; verdict, rule and detail."""
    try:
        if place is None:
            raise media.MediaError("no_media", "the item has no picture")
        limits = media.admitted(place)
        data = media.read(place, limits)
        if place["modality"] == "video":
            return (*moments.signature(data, limits), schema.KEPT, None, None)
        return (*perceptual.signature(data, limits), None, schema.KEPT, None, None)
    except media.MediaError as error:
        return None, None, None, schema.FAILED, error.rule, error.detail


class _Pictures:
    """The signatures of items, and which kept item stands for each (greedy in order of ids)."""

    def __init__(self, items: pa.Table, settings: DuplicatesSettings) -> None:
        self.keys = dict(zip(items["id"].to_pylist(), items["key"].to_pylist(), strict=True))
        measured = items.filter(items["phash"].is_valid()).sort_by("id")
        clips = measured.slice(0, 0)
        if "moments" in measured.column_names:
            is_clip = measured["moments"].is_valid()
            clips, measured = measured.filter(is_clip), measured.filter(pc.invert(is_clip))
        self.kinds = (_Images(measured, settings), _Clips(clips, settings))
        self.stands = {
            name: kind.names[at]
            for kind in self.kinds
            for name, at in zip(kind.names, kind.first, strict=True)
        }

    def __contains__(self, name: str) -> bool:
        return name in self.stands

    def near(self, left: str, right: str) -> bool:
        """Whether two measured items are near-duplicates; a clip and an image are not."""
        kind = self._kind(left)
        return right in kind.place and kind.near(kind.place[left], kind.place[right])

    def apart(self, left: str, right: str) -> tuple[float, float]:
        """Bits and levels of colour between two images, or on average between two clips."""
        kind = self._kind(left)
        return kind.apart(kind.place[left], kind.place[right])

    def _kind(self, name: str) -> _Images | _Clips:
        return next(kind for kind in self.kinds if name in kind.place)

    def fault(self, name: str) -> str:
        """Why rows that use this item fail."""
        key = self.keys.get(name)
        return f"item {name}{f' ({key})' if key else ''} has no hash: its picture cannot be decoded"


class _Images:
    """Signatures of images in the order of ids; ``first``: which kept one stands for each."""

    def __init__(self, items: pa.Table, settings: DuplicatesSettings) -> None:
        self.radius, self.tolerance = settings.radius, settings.tolerance
        self.names: list[str] = items["id"].to_pylist()
        self.place = {name: at for at, name in enumerate(self.names)}
        self.hashes = items["phash"].to_numpy()
        self.cells = perceptual.from_arrow(items["colours"])
        self.first = perceptual.keep_first(self.hashes, self.radius, self.cells, self.tolerance)

    def near(self, left: int, right: int) -> bool:
        bits, levels = self.apart(left, right)
        return bits <= self.radius and (self.tolerance is None or levels <= self.tolerance)

    def apart(self, left: int, right: int) -> tuple[float, float]:
        bits = (int(self.hashes[left]) ^ int(self.hashes[right])).bit_count()
        a, b = (self.cells[place][None] for place in (left, right))
        return bits, int(perceptual.colour_distances(a, b)[0])


class _Clips:
    """Signatures of clips in the order of ids; ``first``: which kept one stands for each."""

    def __init__(self, items: pa.Table, settings: DuplicatesSettings) -> None:
        self.limits = moments.Nearness(settings.radius, settings.tolerance, settings.duration)
        self.names: list[str] = items["id"].to_pylist()
        self.place = {name: at for at, name in enumerate(self.names)}
        self.clips = moments.Clips(_column(items, "moments"), _seconds(items))
        self.first = self.clips.keep_first(self.limits)

    def near(self, left: int, right: int) -> bool:
        return bool(self.clips.alike(left, np.array([right]), self.limits)[0])

    def apart(self, left: int, right: int) -> tuple[float, float]:
        other = np.array([right])
        bits, levels = self.clips.bits(left, other), self.clips.levels(left, other)
        return round(bits[0] / moments.COUNT, 1), round(levels[0] / moments.COUNT, 1)


def _column(items: pa.Table, name: str) -> pa.ChunkedArray:
    empty = pa.chunked_array([pa.array([], pa.large_binary())])
    return items[name] if name in items.column_names else empty


def _seconds(items: pa.Table) -> list[float | None]:
    """Durations of clips; None where one is not known."""
    return [place and place["seconds"] for place in items["media"].to_pylist()]


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
