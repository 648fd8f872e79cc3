"""Perceptual signatures of images, and exact search for near-duplicates among them.

Near-duplicates have near hashes and the same colours (:mod:`datagen.colours`).
The hash is the common DCT hash of 64 bits: greyscale, 32 x 32 pixels (Lanczos), 8 x 8 lowest
frequencies, each bit telling whether a coefficient lies above their median. On the same picture
it equals ``imagehash.phash``; the first bit of the first row is the highest bit.

Searching follows the pigeonhole principle: cut 64 bits into m bands; two hashes that differ in
at most r bits differ in at most r // m bits within one of the bands. So it is enough to compare
hashes of which one band agrees, or nearly agrees.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import comb
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datagen import media
from datagen.colours import BYTES, TOLERANCE, Colours, from_arrow, grid
from datagen.colours import distances as colour_distances

__all__ = [
    "BYTES", "TOLERANCE", "colour_distances", "distances", "from_arrow", "keep_first",
    "near_groups", "near_pairs", "phash", "signature",
]  # fmt: skip

Array = np.ndarray[Any, Any]

BITS = 64
SIDE = 32
LOW = 8

#: A JPEG is decoded at a scale that leaves this many pixels a side: the hash of real photos is
#: then that of a full decode to within a bit on average.
DRAFT = 48

#: Pictures of a single tone have no low frequencies to compare: their bits would be noise. Where
#: the darkest and the lightest of 32 x 32 pixels are at most this many levels of 255 apart, the
#: hash is FLAT. Blank pictures are then near each other, and only their colours tell them apart;
#: no other picture is near them, as its hash has about 32 bits set.
FLAT_LEVELS = 4
FLAT = 0

#: Pairs that are compared at once; bounds the memory of a search (about 30 bytes each).
BLOCK = 1 << 21

_BASIS = 2 * np.cos(np.pi / (2 * SIDE) * np.outer(np.arange(LOW), 2 * np.arange(SIDE) + 1))
_WEIGHTS = np.uint64(1) << np.arange(BITS - 1, -1, -1, dtype=np.uint64)


def phash(picture: Image.Image) -> int:
    """The 64-bit hash of an image (0 to 2**64 - 1); FLAT for one of a single tone."""
    small = picture if picture.mode == "L" else picture.convert("L")
    pixels = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    if pixels.max() - pixels.min() <= FLAT_LEVELS:
        return FLAT
    # Rounded, so that another processor's order of additions cannot turn a bit.
    low = np.rint((_BASIS @ pixels @ _BASIS.T).ravel() * 1000)
    middle = np.partition(low, (BITS // 2 - 1, BITS // 2))[BITS // 2 - 1 : BITS // 2 + 1]
    return int(_WEIGHTS[low > middle.mean()].sum())


def signature(data: bytes, limits: media.Limits = media.DEFAULT) -> tuple[int, bytes]:
    """Hash and colours (768 bytes) of an encoded image as it is displayed, from one decode.

    Raises MediaError (see media.decode).
    """
    picture = media.decode(data, draft=DRAFT, limits=limits)
    return phash(picture), grid(picture)


def distances(left: Array, right: Array) -> Array:
    """Hamming distances of two uint64 arrays, element by element: uint8, of their shape."""
    apart: Array = np.bitwise_count(np.asarray(left, np.uint64) ^ np.asarray(right, np.uint64))
    return apart


def near_pairs(hashes: Array, radius: int) -> tuple[Array, Array]:
    """All pairs of ``hashes`` (uint64[n]) at most ``radius`` bits apart; exact.

    Gives (int64[m, 2], uint8[m]): indices i < j, sorted, and their distances. Equal hashes are
    searched once, but all their pairs are listed: where n hashes are equal, n² / 2 pairs come
    out. :func:`near_groups` and :func:`keep_first` never list those.
    """
    unique, members, starts = _unique(hashes)
    sizes = np.diff(starts)
    found: list[tuple[Array, Array, Array]] = []
    for row in np.flatnonzero(sizes > 1):
        same = members[starts[row] : starts[row + 1]]
        left, right = np.triu_indices(len(same), 1)
        found.append((same[left], same[right], np.zeros(len(left), np.uint8)))
    for a, b, apart in _near_unique(unique, radius):
        times = sizes[a] * sizes[b]
        pair = np.repeat(np.arange(len(a)), times)
        step = np.arange(len(pair)) - np.repeat(np.cumsum(times) - times, times)
        left = members[starts[a[pair]] + step // sizes[b[pair]]]
        right = members[starts[b[pair]] + step % sizes[b[pair]]]
        found.append((np.minimum(left, right), np.maximum(left, right), apart[pair]))
    if not found:
        return np.empty((0, 2), np.int64), np.empty(0, np.uint8)
    left, right, apart = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((right, left))
    return np.stack([left[order], right[order]], axis=1), apart[order]


def near_groups(
    hashes: Array, radius: int, cells: Array | None = None, tolerance: int | None = TOLERANCE
) -> Array:
    """Connected components of ``hashes`` (uint64[n]) under "at most ``radius`` bits apart", and
    where ``cells`` (grids, uint8[n, 768]) are given also "at most ``tolerance`` levels apart".

    Gives int64[n]: the smallest index of each element's component. Without colours equal hashes
    cost nothing extra, and pairs are merged while they are found, so few are ever held.
    """
    if cells is not None and tolerance is not None:
        return _Candidates(hashes, radius, cells, tolerance).groups()
    unique, members, starts = _unique(hashes)
    first = np.minimum.reduceat(members, starts[:-1]) if len(unique) else members
    label = np.arange(len(unique))
    waiting: list[tuple[Array, Array]] = []
    held = 0
    for a, b, _ in _near_unique(unique, radius):
        waiting.append((a, b))
        held += len(a)
        if held > BLOCK:
            label, waiting, held = _merge(label, waiting), [], 0
    label = _merge(label, waiting)
    smallest = np.full(len(unique), len(members), np.int64)
    np.minimum.at(smallest, label, first)
    out = np.empty(len(members), np.int64)
    out[members] = np.repeat(smallest[label], np.diff(starts))
    return out


def _merge(label: Array, edges: list[tuple[Array, Array]]) -> Array:
    """Component labels after the elements of ``edges`` have been joined."""
    if not edges:
        return label
    a, b = (label[np.concatenate(ends)] for ends in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(label), len(label)))
    joined: Array = connected_components(graph, directed=False)[1][label]
    return joined


def keep_first(
    hashes: Array, radius: int, cells: Array | None = None, tolerance: int | None = TOLERANCE
) -> Array:
    """Greedy choice in the order of ``hashes`` (uint64[n]): keep what no kept one is near to.

    Gives int64[n]: the index of the kept element that stands for each; its own where it is kept.
    No two kept elements are within ``radius`` bits and, where ``cells`` (grids, uint8[n, 768])
    are given, within ``tolerance`` levels. Every other one is so near to the one that stands for
    it: of those kept before it the nearest by bits, then the first. Holds all near pairs of
    distinct hashes (17 bytes each).
    """
    if cells is not None and tolerance is not None:
        return _Candidates(hashes, radius, cells, tolerance).keep_first()
    unique, members, starts = _unique(hashes)
    if not len(unique):
        return members
    # Only the first of equal hashes can be kept, so the choice is one among first elements.
    first = np.minimum.reduceat(members, starts[:-1])
    rank = np.argsort(np.argsort(first))
    a, b, apart = _all_near(unique, radius)
    early, late = np.minimum(rank[a], rank[b]), np.maximum(rank[a], rank[b])
    order = np.lexsort((early, apart, late))
    early, late = early[order].astype(np.int64), late[order]
    stands = np.arange(len(unique))
    nodes, begin = np.unique(late, return_index=True)
    for node, start, end in zip(nodes, begin, np.append(begin, len(late))[1:], strict=True):
        before = early[start:end]
        kept = before[stands[before] == before]
        if len(kept):
            stands[node] = kept[0]
    by_rank = np.sort(first)
    out = np.empty(len(members), np.int64)
    out[members] = np.repeat(by_rank[stands[rank]], np.diff(starts))
    return out


class _Candidates:
    """Elements with near hashes, to be compared by their colours.

    Each is compared with those that were kept before it, or that belong to no group yet, so pairs
    are never listed: thousands of equal hashes take linear memory.
    """

    def __init__(self, hashes: Array, radius: int, cells: Array, tolerance: int) -> None:
        unique, self._members, self._starts = _unique(hashes)
        if len(cells) != len(self._members):
            raise ValueError(f"{len(self._members)} hashes, but the colours of {len(cells)}")
        a, b, apart = _all_near(unique, radius)
        here, there, apart = np.append(a, b), np.append(b, a), np.append(apart, apart)
        order = np.argsort(here, kind="stable")
        self._there, self._apart = there[order], apart[order]
        self._begin = np.searchsorted(here[order], np.arange(len(unique) + 1))
        sizes = np.diff(self._starts)
        self._place = np.empty(len(self._members), np.int64)
        self._place[self._members] = np.repeat(np.arange(len(unique)), sizes)
        company = (sizes > 1) | (np.diff(self._begin) > 0)
        # Only elements that have another one near by hash are ever compared.
        some = np.flatnonzero(company[self._place])
        self._colours = Colours(cells[some], tolerance)
        self._row = np.zeros(len(self._members), np.int64)
        self._row[some] = np.arange(len(some))
        self._some = some.tolist()

    def _alike(self, one: int, others: Array) -> Array:
        return self._colours.alike(int(self._row[one]), self._row[others])

    def _around(self, one: int) -> list[tuple[int, int]]:
        """Numbers of the hashes near that of ``one``, its own first, and the bits between."""
        own = int(self._place[one])
        near = slice(self._begin[own], self._begin[own + 1])
        return [(own, 0), *zip(self._there[near].tolist(), self._apart[near].tolist(), strict=True)]

    def keep_first(self) -> Array:
        stands = np.arange(len(self._members))
        kept: dict[int, Array] = {}
        for one in self._some:
            found = [(kept[place], bits) for place, bits in self._around(one) if place in kept]
            others = np.concatenate([stands[:0], *(part for part, _ in found)])
            alike = np.flatnonzero(self._alike(one, others))
            if len(alike):
                bits = np.concatenate([np.full(len(part), bits) for part, bits in found])
                stands[one] = others[alike[np.lexsort((others[alike], bits[alike]))[0]]]
                continue
            own = int(self._place[one])
            kept[own] = np.append(kept[own], one) if own in kept else np.array([one])
        return stands

    def groups(self) -> Array:
        label = np.arange(len(self._members))
        seen = np.zeros(len(self._members), bool)
        rest: dict[int, Array] = {}
        for first in self._some:
            waiting = [] if seen[first] else [first]
            seen[first] = True
            while waiting:
                one = waiting.pop()
                for place, _ in self._around(one):
                    if (left := rest.get(place)) is None:
                        left = self._members[self._starts[place] : self._starts[place + 1]]
                    left = rest[place] = left[~seen[left]]
                    if len(left):
                        found = left[self._alike(one, left)]
                        seen[found], label[found] = True, first
                        waiting.extend(found.tolist())
        return label


def _unique(hashes: Array) -> tuple[Array, Array, Array]:
    """Distinct hashes, the indices that hold them one after another, and where each begins."""
    values = np.asarray(hashes, dtype=np.uint64)
    if values.ndim != 1:
        raise ValueError(f"hashes: one dimension expected, not {values.ndim}")
    members = np.argsort(values, kind="stable")
    unique, starts = np.unique(values[members], return_index=True)
    return unique, members, np.append(starts, len(values))


# A band of bits: its lowest bit, its width, and how many bits may differ within it.
Band = tuple[int, int, int]

#: Bands in which bits may differ are looked up in a table of 2 ** width places.
WIDEST = 20


def plan_bands(count: int, radius: int) -> list[Band]:
    """Bands for ``count`` distinct hashes; none where comparing all with all is cheaper.

    The allowances of m bands sum to radius - m + 1: were each band over its own, the whole would
    differ in more than ``radius`` bits. Few wide bands compare fewer pairs but look up more
    neighbours; the estimate weighs both (nanoseconds, measured, of which only ratios matter).
    """
    pairs = count * (count - 1) / 2
    best: list[Band] = []
    lowest = 4.0 * pairs
    for number in range(1, min(radius + 1, BITS) + 1):
        bands = _cut(number, radius)
        if any(width > WIDEST for _, width, allowed in bands if allowed):
            continue
        cost = 0.0
        for _, width, allowed in bands:
            flips = sum(comb(width, size) for size in range(allowed + 1))
            places = min(count, 1 << width)
            cost += flips * (30_000 + 25.0 * places) + 120.0 * count
            # Bits of real pictures are not independent: buckets are fuller than chance.
            cost += 2 * 15.0 * pairs * flips / 2.0**width
        if cost < lowest:
            best, lowest = bands, cost
    return best


def _cut(number: int, radius: int) -> list[Band]:
    edges = [BITS * place // number for place in range(number + 1)]
    spare = radius - number + 1
    allowed = [spare // number + (place < spare % number) for place in range(number)]
    return [
        (low, high - low, more)
        for low, high, more in zip(edges[:-1], edges[1:], allowed, strict=True)
    ]


def _near_unique(unique: Array, radius: int) -> Iterator[tuple[Array, Array, Array]]:
    """Pairs of distinct hashes within ``radius``, each once: blocks of indices and distances."""
    if radius < 0:
        raise ValueError(f"radius: 0 to {BITS} expected, not {radius}")
    if radius == 0 or len(unique) < 2:
        return
    bands = plan_bands(len(unique), radius)
    if not bands:
        yield from _compare(unique, *_within(np.array([0, len(unique)])), radius)
        return
    for number, (low, width, allowed) in enumerate(bands):
        keys = unique >> np.uint64(low) & np.uint64((1 << width) - 1)
        order = np.argsort(keys, kind="stable")
        ordered = unique[order]
        places, starts = np.unique(keys[order], return_index=True)
        bounds = np.append(starts, len(keys))
        for left, count, right in _candidates(places, bounds, width, allowed):
            for a, b, apart in _compare(ordered, left, count, right, radius):
                fresh = _not_seen(ordered[a] ^ ordered[b], bands[:number])
                yield order[a[fresh]], order[b[fresh]], apart[fresh]


def _all_near(unique: Array, radius: int) -> Iterator[Array]:
    """What :func:`_near_unique` gives, in one piece."""
    none = np.empty(0, np.int64)
    blocks = zip((none, none, none), *_near_unique(unique, radius), strict=True)
    return (np.concatenate(part) for part in blocks)


def _not_seen(differ: Array, earlier: list[Band]) -> Array:
    """Which differences no earlier band has found."""
    fresh = np.ones(len(differ), bool)
    for low, width, allowed in earlier:
        inside = differ >> np.uint64(low) & np.uint64((1 << width) - 1)
        fresh &= np.bitwise_count(inside) > allowed
    return fresh


def _candidates(
    places: Array, bounds: Array, width: int, allowed: int
) -> Iterator[tuple[Array, Array, Array]]:
    """Runs of candidates: positions, how many partners each has, and where these begin."""
    yield _within(bounds)
    if not allowed:
        return
    table = np.full(1 << width, -1, np.int32)
    table[places] = np.arange(len(places), dtype=np.int32)
    sizes = np.diff(bounds)
    for size in range(1, allowed + 1):
        for bits in itertools.combinations(range(width), size):
            flip = np.uint64(sum(1 << bit for bit in bits))
            # Of two buckets the one without the highest flipped bit looks for the other.
            here = np.flatnonzero(places >> np.uint64(bits[-1]) & np.uint64(1) == 0)
            there = table[places[here] ^ flip]
            here, there = here[there >= 0], there[there >= 0]
            left = _ranges(bounds[here], sizes[here])
            yield left, np.repeat(sizes[there], sizes[here]), np.repeat(bounds[there], sizes[here])


def _within(bounds: Array) -> tuple[Array, Array, Array]:
    """Every position of every bucket, with the positions after it in the same bucket."""
    left = np.arange(bounds[-1])
    ends = np.repeat(bounds[1:], np.diff(bounds))
    return left, ends - left - 1, left + 1


def _ranges(begin: Array, size: Array) -> Array:
    """The integers of ranges, one range after another."""
    integers: Array = np.arange(int(size.sum())) + np.repeat(begin - (np.cumsum(size) - size), size)
    return integers


def _compare(
    ordered: Array, left: Array, count: Array, right: Array, radius: int
) -> Iterator[tuple[Array, Array, Array]]:
    """Compare each ``left`` with ``count`` partners from ``right`` on, a block at a time."""
    ends = np.cumsum(count)
    begin = 0
    while begin < len(left):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + BLOCK, side="right")))
        size = count[begin:end]
        b = _ranges(right[begin:end], size)
        a = np.repeat(left[begin:end], size)
        apart = np.bitwise_count(ordered[a] ^ ordered[b])
        near = np.flatnonzero(apart <= radius)
        if len(near):
            yield a[near], b[near], apart[near]
        begin = end
