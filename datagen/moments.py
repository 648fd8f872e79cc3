"""Perceptual signatures of clips, and exact search for near-duplicates among them.

A clip is known by COUNT of its frames, those shown in the middles of so many equal parts of its
duration: the hash and the colours of each, as :mod:`datagen.perceptual` has them of images. Frames
of two clips are compared in their order. Clips are near-duplicates when the hashes differ by at
most ``radius`` bits on average over the frames, the colours by at most ``tolerance`` levels on
average, and the durations by at most a share of the longer one.

On average, as a codec, another frame rate or a trimmed end moves single frames by more than two
copies of a photo differ; yet one frame that is another picture (32 bits of 64 differ in two
unrelated ones) is more than the average of five can bear at the default radius of 6.

Searching is exact: where the average is within the radius, so is the distance of some frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import colours, frames, media, perceptual

Array = np.ndarray[Any, Any]

COUNT = 5
_HASHES = 8 * COUNT
#: Bytes of a clip's signature: the hashes (little-endian), then the grids of colours.
BYTES = _HASHES + COUNT * colours.BYTES

#: Share of the longer duration by which those of near-duplicates may differ.
DURATION = 0.2

#: Clips whose colours are compared with those of one at a time.
_BLOCK = 512


def signature(data: bytes, limits: media.Limits = media.DEFAULT) -> tuple[int, bytes, bytes]:
    """Hash and colours (768 bytes) of the middle frame of a clip, and BYTES of all its frames.

    Raises MediaError (see frames.sample).
    """
    pictures = [frame.image for frame in frames.sample(data, COUNT, limits)]
    hashes = [perceptual.phash(picture) for picture in pictures]
    grids = [colours.grid(picture) for picture in pictures]
    whole = b"".join([*(value.to_bytes(8, "little") for value in hashes), *grids])
    return hashes[COUNT // 2], grids[COUNT // 2], whole


@dataclass(frozen=True)
class Nearness:
    """How far near-duplicates may be apart, bounds included: ``radius`` bits of 64 and
    ``tolerance`` levels of 255 (None: any) on average over the frames, and ``duration``, a share
    of the longer one.
    """

    radius: int
    tolerance: int | None = perceptual.TOLERANCE
    duration: float = DURATION


class Clips:
    """Signatures of n clips. ``seconds`` is NaN where a duration is not known: it fits any."""

    def __init__(self, column: pa.ChunkedArray, seconds: Sequence[float | None] | Array) -> None:
        data = _from_arrow(column)
        self.hashes = np.ascontiguousarray(data[:, :_HASHES]).view("<u8")
        self.cells = data[:, _HASHES:].reshape(-1, COUNT, colours.BYTES)
        self.seconds = np.array(seconds, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.hashes)

    def bits(self, one: int, others: Array) -> Array:
        """Bits between ``one`` and each of ``others`` (int64[n]), summed over the frames."""
        apart: Array = np.bitwise_count(self.hashes[others] ^ self.hashes[one]).sum(
            axis=1, dtype=np.int64
        )
        return apart

    def levels(self, one: int, others: Array) -> Array:
        """Levels of colour between ``one`` and each of ``others``, summed over the frames."""
        out = np.empty(len(others), np.int64)
        for begin in range(0, len(others), _BLOCK):
            some = self.cells[others[begin : begin + _BLOCK]].reshape(-1, colours.BYTES)
            mine = np.tile(self.cells[one], (len(some) // COUNT, 1))
            apart = colours.distances(mine, some).reshape(-1, COUNT)
            out[begin : begin + _BLOCK] = apart.sum(axis=1, dtype=np.int64)
        return out

    def alike(self, one: int, others: Array, near: Nearness) -> Array:
        """Which of ``others`` (int64[n]) are near-duplicates of ``one``: bool[n]."""
        shorter = np.fmin(self.seconds[others], self.seconds[one])
        longer = np.fmax(self.seconds[others], self.seconds[one])
        unknown = np.isnan(self.seconds[others]) | np.isnan(self.seconds[one])
        good: Array = unknown | (shorter >= (1 - near.duration) * longer)
        good &= self.bits(one, others) <= near.radius * COUNT
        if near.tolerance is not None:
            at = np.flatnonzero(good)
            good[at] = self.levels(one, others[at]) <= near.tolerance * COUNT
        return good

    def keep_first(self, near: Nearness) -> Array:
        """Greedy choice in their order: keep what no kept one is near to.

        Gives int64[n]: the index of the kept clip that stands for each; its own where it is kept.
        Of those kept before it that it is near to, the nearest by bits, then the first.
        """
        indices = [_Index(self.hashes[:, frame], near.radius) for frame in range(COUNT)]
        stands = np.arange(len(self))
        for one in np.flatnonzero(_company(indices)).tolist():
            others = np.unique(np.concatenate([index.kept_near(one) for index in indices]))
            alike = others[self.alike(one, others, near)]
            if len(alike):
                stands[one] = alike[np.argmin(self.bits(one, alike))]
                continue
            for index in indices:
                index.keep(one)
        return stands

    def groups(self, near: Nearness) -> Array:
        """Connected components of clips under "near-duplicates": int64[n], the smallest index of
        each clip's component.
        """
        indices = [_Index(self.hashes[:, frame], near.radius) for frame in range(COUNT)]
        label = np.arange(len(self))
        seen = np.zeros(len(self), bool)
        for first in np.flatnonzero(_company(indices)).tolist():
            waiting = [] if seen[first] else [first]
            seen[first] = True
            while waiting:
                one = waiting.pop()
                others = np.unique(np.concatenate([index.near(one, ~seen) for index in indices]))
                found = others[self.alike(one, others, near)]
                seen[found], label[found] = True, first
                waiting.extend(found.tolist())
        return label


class _Index:
    """Clips by the hash of one of their frames, and those of them that are kept."""

    def __init__(self, hashes: Array, radius: int) -> None:
        values, self._place, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
        (left, right), _ = (part.T for part in perceptual.near_pairs(values, radius))
        here, self._there = np.append(left, right), np.append(right, left)
        order = np.argsort(here, kind="stable")
        self._there = self._there[order]
        self._begin = np.searchsorted(here[order], np.arange(len(values) + 1))
        #: Clips that have another one near by this frame: bool[n].
        self.company = ((sizes > 1) | (np.diff(self._begin) > 0))[self._place]
        self._kept: dict[int, list[int]] = {}
        # Clips by the number of their hash, and of those looked up by `near` the ones left.
        self._members = np.argsort(self._place, kind="stable")
        self._starts = np.append(0, np.cumsum(sizes))
        self._left: dict[int, Array] = {}

    def near(self, one: int, among: Array) -> Array:
        """Clips whose frame has a hash near that of ``one``, of those ``among`` (bool[n]), which
        may lose clips from one call to the next but not gain any.
        """
        parts = [self._members[:0]]
        for place in self._around(one):
            left = self._left.get(place)
            if left is None:
                left = self._members[self._starts[place] : self._starts[place + 1]]
            self._left[place] = left[among[left]]
            parts.append(self._left[place])
        return np.concatenate(parts)

    def keep(self, one: int) -> None:
        self._kept.setdefault(int(self._place[one]), []).append(one)

    def kept_near(self, one: int) -> Array:
        """Kept clips whose frame has a hash near that of ``one``."""
        return np.array([other for part in self._parts(one) for other in part], dtype=np.int64)

    def _parts(self, one: int) -> Iterator[list[int]]:
        for place in self._around(one):
            if place in self._kept:
                yield self._kept[place]

    def _around(self, one: int) -> list[int]:
        """Numbers of the hashes near that of ``one``, its own first."""
        own = int(self._place[one])
        return [own, *self._there[self._begin[own] : self._begin[own + 1]].tolist()]


def _company(indices: Sequence[_Index]) -> Array:
    """Clips that have another one near by any of their frames: bool[n]."""
    found: Array = np.any([index.company for index in indices], axis=0)
    return found


def _from_arrow(column: pa.ChunkedArray) -> Array:
    """A column of signatures without nulls (large binary) as uint8[n, BYTES]."""
    parts = []
    for chunk in column.cast(pa.large_binary()).chunks:
        if not len(chunk):
            continue
        if chunk.null_count or set(pc.binary_length(chunk).unique().to_pylist()) != {BYTES}:
            raise ValueError(f"moments: {BYTES} bytes a clip expected")
        offsets = np.frombuffer(chunk.buffers()[1], np.int64)
        begin = int(offsets[chunk.offset])
        data = np.frombuffer(chunk.buffers()[2], np.uint8)
        parts.append(data[begin : begin + len(chunk) * BYTES].reshape(-1, BYTES))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.empty((0, BYTES), np.uint8), *parts])
