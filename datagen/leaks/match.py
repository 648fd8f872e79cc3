"""Which medium of other collections an item is, or is nearest to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import colours, moments, perceptual
from datagen.leaks import names
from datagen.leaks.collection import Collection

Array = np.ndarray[Any, Any]

#: Hashes farther apart than so many bits are not compared further.
REACH = 16


@dataclass(frozen=True)
class Match:
    """A medium of a collection: which one, how many bits of its hash and levels of its colours
    are between (of clips on average over their frames).
    """

    where: str
    bits: float
    levels: float


class Matcher:
    """Compares items with the media and names of several collections.

    tolerance: levels of colour, duration: share of the longer clip's, as of the filter
    ``duplicates`` (tolerance None: any colours).
    """

    def __init__(
        self,
        held: Sequence[tuple[Collection, pa.Table]],
        tolerance: int | None = perceptual.TOLERANCE,
        duration: float = moments.DURATION,
    ) -> None:
        self.tolerance, self.duration = tolerance, duration
        self._names: dict[str, str] = {}
        self._bytes: dict[str, str] = {}
        where: list[str] = []
        for collection, table in held:
            for name in sorted(collection.names()):
                self._names.setdefault(name, _where(collection, name))
            told = [_where(collection, name) for name in table["name"].to_pylist()]
            for sha256, place in zip(table["sha256"].to_pylist(), told, strict=True):
                if sha256:
                    self._bytes.setdefault(sha256, place)
            where += told
        table = pa.concat_tables([table for _, table in held]) if held else pa.table({})
        clip = table["moments"].is_valid() if held else pa.array([], pa.bool_())
        image = pc.and_(table["phash"].is_valid(), pc.invert(clip)) if held else clip
        self._images = _Images(table.filter(image), _chosen(where, image))
        self._clips = _Clips(table.filter(clip), _chosen(where, clip))

    def same_bytes(self, sha256: str | None) -> str | None:
        """The file that has these bytes."""
        return self._bytes.get(sha256) if sha256 else None

    def same_name(self, called: Sequence[str | None]) -> str | None:
        """Where one of these names stands in an annotation file."""
        found = (self._names.get(names.plain(name)) for name in called if name)
        return next((place for place in found if place), None)

    def nearest_image(self, phash: int, grid: bytes) -> Match | None:
        """The picture within REACH bits and the tolerance that has the fewest bits between."""
        return self._images.nearest(phash, grid, self.tolerance)

    def nearest_clip(self, whole: bytes, seconds: float | None) -> Match | None:
        """The clip within REACH bits, the tolerance and the duration with the fewest bits."""
        return self._clips.nearest(whole, seconds, self.tolerance, self.duration)


def called(
    key: str | None, place: Mapping[str, Any] | None, labels: str | None, label: str | None
) -> list[str | None]:
    """Names of an item: its key, its file, and the value of its label ``label``."""
    found: list[str | None] = [key]
    # Of a member of a tar the key is the name, not the tar's.
    if place and not place.get("offset"):
        found.append(place.get("path"))
    if label:
        try:
            value = json.loads(labels or "{}").get(label)
        except (ValueError, AttributeError, RecursionError):
            value = None
        found.append(str(value) if isinstance(value, (str, int)) else None)
    return found


class _Images:
    """Hashes and colours of pictures, in the order in which a tie is settled."""

    def __init__(self, table: pa.Table, where: list[str]) -> None:
        self.where = where
        self.hashes = table["phash"].to_numpy() if len(where) else np.zeros(0, np.uint64)
        self.cells = (
            perceptual.from_arrow(table["colours"])
            if len(where)
            else np.zeros((0, colours.BYTES), np.uint8)
        )

    def nearest(self, phash: int, grid: bytes, tolerance: int | None) -> Match | None:
        bits = np.bitwise_count(self.hashes ^ np.uint64(phash))
        near = np.flatnonzero(bits <= REACH)
        near = near[np.argsort(bits[near], kind="stable")]
        mine = np.frombuffer(grid, np.uint8)
        for begin in range(0, len(near), colours.BLOCK):
            some = near[begin : begin + colours.BLOCK]
            levels = colours.distances(np.tile(mine, (len(some), 1)), self.cells[some])
            good = np.flatnonzero(levels <= (255 if tolerance is None else tolerance))
            if len(good):
                at = int(some[good[0]])
                return Match(self.where[at], float(bits[at]), float(levels[good[0]]))
        return None


class _Clips:
    """Signatures of clips, in the order in which a tie is settled."""

    def __init__(self, table: pa.Table, where: list[str]) -> None:
        self.where = where
        self.clips = None
        if len(where):
            seconds = [np.nan if one is None else one for one in table["seconds"].to_pylist()]
            self.clips = moments.Clips(table["moments"], seconds)

    def nearest(
        self, whole: bytes, seconds: float | None, tolerance: int | None, duration: float
    ) -> Match | None:
        if self.clips is None:
            return None
        column = pa.chunked_array([pa.array([whole], pa.large_binary())])
        one = moments.Clips(column, [np.nan if seconds is None else seconds])
        bits = np.bitwise_count(self.clips.hashes ^ one.hashes).sum(axis=1, dtype=np.int64)
        shorter = np.fmin(self.clips.seconds, one.seconds)
        longer = np.fmax(self.clips.seconds, one.seconds)
        unknown = np.isnan(self.clips.seconds) | np.isnan(one.seconds)
        fits = unknown | (shorter >= (1 - duration) * longer)
        near = np.flatnonzero(fits & (bits <= REACH * moments.COUNT))
        near = near[np.argsort(bits[near], kind="stable")]
        most = (255 if tolerance is None else tolerance) * moments.COUNT
        for at in near.tolist():
            levels = int(colours.distances(self.clips.cells[at], one.cells[0]).sum(dtype=np.int64))
            if levels <= most:
                count = moments.COUNT
                return Match(self.where[at], round(bits[at] / count, 1), round(levels / count, 1))
        return None


def _where(collection: Collection, name: str | None) -> str:
    """A medium of a collection on one line, whatever stands in its name."""
    told = f"{collection.told}: {name}"
    return "".join(letter if letter.isprintable() else "�" for letter in told)


def _chosen(where: list[str], mask: pa.Array | pa.ChunkedArray) -> list[str]:
    return [place for place, good in zip(where, mask.to_pylist(), strict=True) if good]
