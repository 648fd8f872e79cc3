"""Perceptual hashes equal the reference definition; the search for near ones misses nothing."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from pathlib import Path
from typing import Any

import broken_media
import imagehash
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen import colours, media, perceptual

DATA = Path(__file__).parent / ".." / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
Array = np.ndarray[Any, Any]


def reference_hash(picture: Image.Image) -> int:
    return int(str(imagehash.phash(picture)), 16)


def brute_pairs(hashes: Array, radius: int) -> tuple[Array, Array]:
    apart = np.array(
        [[int(a ^ b).bit_count() for b in hashes] for a in hashes], dtype=np.uint8
    ).reshape(len(hashes), len(hashes))
    left, right = np.nonzero(np.triu(apart <= radius, 1))
    return np.stack([left, right], axis=1), apart[left, right]


def crowded(count: int, seed: int) -> Array:
    """Hashes of which many are equal to others or a few bits from them."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 2**64, max(1, count // 4), dtype=np.uint64)
    hashes = rng.choice(seeds, count)
    for _ in range(8):
        flip = np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
        hashes = np.where(rng.random(count) < 0.4, hashes ^ flip, hashes)
    return hashes


def test_the_hash_is_that_of_imagehash_on_the_same_pixels() -> None:
    rng = np.random.default_rng(0)
    for size in ((96, 64), (31, 200), (32, 32), (300, 300)):
        noise = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        for mode in ("RGB", "L"):
            assert perceptual.phash(picture.convert(mode)) == reference_hash(picture.convert(mode))
    data = broken_media.encode(broken_media.scene(200, 150), "PNG")
    assert perceptual.signature(data)[0] == reference_hash(broken_media.scene(200, 150))


def test_a_reduced_decode_moves_few_bits() -> None:
    picture = broken_media.scene(800, 600)
    data = broken_media.encode(picture, "JPEG")
    assert media.decode(data, draft=perceptual.DRAFT).size == (100, 75)
    assert (perceptual.signature(data)[0] ^ reference_hash(picture)).bit_count() <= 4


def test_blank_pictures_share_one_hash_that_is_near_no_other() -> None:
    blanks = [Image.new("L", (50, 40), tone) for tone in (0, 1, 128, 255)]
    noisy = np.random.default_rng(0).integers(250, 253, (64, 64)).astype(np.uint8)
    blanks.append(Image.fromarray(noisy))
    assert {perceptual.phash(blank) for blank in blanks} == {perceptual.FLAT}
    assert perceptual.phash(broken_media.scene()).bit_count() >= 28


def blank(tone: Any) -> bytes:
    return broken_media.encode(Image.new("RGB", (50, 40), tone), "PNG")


def test_blank_pictures_are_near_duplicates_only_of_the_same_colour() -> None:
    tones: list[Any] = ["white", "black", (250, 250, 250), "navy", (10, 0, 120), "white"]
    hashes, grids = zip(*(perceptual.signature(blank(tone)) for tone in tones), strict=True)
    cells = cells_of(grids)
    assert set(hashes) == {perceptual.FLAT}
    values = np.array(hashes, np.uint64)
    assert perceptual.near_groups(values, 6).tolist() == [0] * 6
    assert perceptual.near_groups(values, 6, cells).tolist() == [0, 1, 0, 3, 3, 0]
    assert perceptual.keep_first(values, 6, cells).tolist() == [0, 1, 0, 3, 3, 0]


@given(
    count=st.integers(0, 60),
    seed=st.integers(0, 10_000),
    radius=st.one_of(st.integers(0, 12), st.sampled_from([16, 31, 63, 64])),
)
@settings(max_examples=120, deadline=None)
def test_near_pairs_are_those_of_brute_force(count: int, seed: int, radius: int) -> None:
    hashes = crowded(count, seed)
    pairs, apart = perceptual.near_pairs(hashes, radius)
    expected, distances = brute_pairs(hashes, radius)
    assert (pairs.dtype, apart.dtype) == (np.int64, np.uint8)
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_array_equal(apart, distances)


@given(
    seed=st.integers(0, 10_000),
    radius=st.integers(1, 10),
    more=st.integers(0, 8),
    block=st.sampled_from([1, 7, 1000]),
)
@settings(max_examples=100, deadline=None)
def test_every_way_to_cut_bands_finds_the_same_pairs(
    seed: int, radius: int, more: int, block: int
) -> None:
    bands = perceptual._cut(min(radius + 1, 3 + more), radius)
    wide = any(width > perceptual.WIDEST for _, width, allowed in bands if allowed)
    deep = max(allowed for _, _, allowed in bands) > 2
    assert sum(allowed + 1 for _, _, allowed in bands) == radius + 1
    assert sum(width for _, width, _ in bands) == 64
    if wide or deep:
        return
    hashes = crowded(40, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "plan_bands", lambda count, radius: bands)
        patch.setattr(perceptual, "BLOCK", block)
        pairs, apart = perceptual.near_pairs(hashes, radius)
    expected, distances = brute_pairs(hashes, radius)
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_array_equal(apart, distances)


def test_many_hashes_are_cut_into_bands_and_few_are_compared_directly() -> None:
    assert perceptual.plan_bands(10, 4) == []
    assert len(perceptual.plan_bands(100_000, 4)) >= 4


def components(count: int, pairs: Array) -> list[int]:
    """Smallest index reachable from each element, by following pairs until nothing changes."""
    label = list(range(count))
    changed = True
    while changed:
        changed = False
        for a, b in pairs.tolist():
            low = min(label[a], label[b])
            changed |= label[a] != low or label[b] != low
            label[a] = label[b] = low
    return label


@given(count=st.integers(0, 60), seed=st.integers(0, 10_000), radius=st.integers(0, 10))
@settings(max_examples=80, deadline=None)
def test_groups_are_the_components_of_near_pairs(count: int, seed: int, radius: int) -> None:
    hashes = crowded(count, seed)
    expected = components(count, brute_pairs(hashes, radius)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "BLOCK", 5)
        found = perceptual.near_groups(hashes, radius)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@given(count=st.integers(0, 60), seed=st.integers(0, 10_000), radius=st.integers(0, 10))
@settings(max_examples=80, deadline=None)
def test_the_first_of_near_ones_is_kept_in_order(count: int, seed: int, radius: int) -> None:
    hashes = crowded(count, seed)
    kept: list[int] = []
    for at in range(count):
        if all(int(hashes[at] ^ hashes[other]).bit_count() > radius for other in kept):
            kept.append(at)
    stands = perceptual.keep_first(hashes, radius)
    assert [at for at in range(count) if stands[at] == at] == kept
    for at, other in enumerate(stands.tolist()):
        assert other in kept
        assert other <= at
        assert int(hashes[at] ^ hashes[other]).bit_count() <= radius


def test_equal_hashes_in_thousands_cost_no_memory_to_group() -> None:
    hashes = np.concatenate([np.zeros(50_000, np.uint64), crowded(500, 1)])
    tracemalloc.start()
    groups = perceptual.near_groups(hashes, 4)
    stands = perceptual.keep_first(hashes, 4)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(groups[:50_000].tolist()) == set(stands[:50_000].tolist()) == {0}
    assert most < 100e6  # their pairs would take 20 GB


def cells_of(grids: Any) -> Array:
    return np.frombuffer(b"".join(grids), np.uint8).reshape(-1, colours.BYTES)


def crowded_cells(count: int, seed: int) -> Array:
    """Grids of which many are equal to others or a few levels from them, some with edges."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, 256, (max(1, count // 8), colours.BYTES), dtype=np.uint8)
    seeds[::2] = seeds[::2, :1]  # plain
    chosen = seeds[rng.integers(0, len(seeds), count)].astype(np.int64)
    chosen += rng.integers(-12, 13, (count, 1)) * rng.integers(0, 2, (count, 1))
    chosen[np.arange(count), rng.integers(0, colours.BYTES, count)] += rng.integers(-50, 51, count)
    return chosen.clip(0, 255).astype(np.uint8)


def brute_levels(one: Array, other: Array) -> int:
    """The definition, cell by cell."""
    worst = 0.0
    a, b = (grid.reshape(16, 16, 3).astype(int) for grid in (one, other))
    for row, column, channel in np.ndindex(16, 16, 3):
        spans = []
        for grid in (a, b):
            around = grid[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2, channel]
            spans.append(around.max() - around.min())
        gap = abs(a[row, column, channel] - b[row, column, channel])
        worst = max(worst, gap - min(spans) / colours.PLACE)
    return int(np.ceil(round(worst, 6)))


def test_colours_differ_by_the_worst_cell_less_a_part_of_the_local_contrast() -> None:
    cells = crowded_cells(24, 3)
    found = colours.distances(cells[:-1], cells[1:])
    expected = [brute_levels(a, b) for a, b in itertools.pairwise(cells)]
    assert found.dtype == np.uint8
    assert found.tolist() == expected
    assert len(set(expected)) > 5


@given(seed=st.integers(0, 10_000), tolerance=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_comparing_one_with_many_agrees_with_the_distances(seed: int, tolerance: int) -> None:
    cells = crowded_cells(50, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colours, "BLOCK", 7)
        found = colours.Colours(cells, tolerance).alike(0, np.arange(50))
        apart = colours.distances(np.repeat(cells[:1], 50, axis=0), cells)
    np.testing.assert_array_equal(found, apart <= tolerance)


@given(
    count=st.integers(0, 60),
    seed=st.integers(0, 10_000),
    radius=st.integers(0, 8),
    tolerance=st.sampled_from([0, 6, 16, 60]),
)
@settings(max_examples=80, deadline=None)
def test_near_duplicates_need_near_hashes_and_the_same_colours(
    count: int, seed: int, radius: int, tolerance: int
) -> None:
    hashes, cells = crowded(count, seed), crowded_cells(count, seed)
    left, right = np.triu_indices(count, 1)
    near = np.bitwise_count(hashes[left] ^ hashes[right]) <= radius
    near &= colours.distances(cells[left], cells[right]) <= tolerance
    pairs = np.stack([left[near], right[near]], axis=1)
    groups = perceptual.near_groups(hashes, radius, cells, tolerance)
    assert groups.dtype == np.int64
    assert groups.tolist() == components(count, pairs)
    known = {tuple(pair) for pair in pairs.tolist()}
    expected: list[int] = []
    for at in range(count):
        before = [one for one in range(at) if expected[one] == one and (one, at) in known]
        bits = [int(hashes[one] ^ hashes[at]).bit_count() for one in before]
        expected.append(min(zip(bits, before, strict=True))[1] if before else at)
    assert perceptual.keep_first(hashes, radius, cells, tolerance).tolist() == expected


def test_a_grid_for_each_hash_is_asked_for() -> None:
    with pytest.raises(ValueError, match="4 hashes, but the colours of 3"):
        perceptual.near_groups(crowded(4, 0), 6, crowded_cells(3, 0))
    with pytest.raises(ValueError, match="768"):
        colours.distances(np.zeros((2, 12), np.uint8), np.zeros((2, 12), np.uint8))


def test_colours_read_from_arrow_are_those_that_were_stored() -> None:
    cells = crowded_cells(9, 0)
    column = pa.chunked_array(
        [
            pa.array([grid.tobytes() for grid in part], pa.binary(colours.BYTES))
            for part in (cells[:4], cells[4:4], cells[4:])
        ]
    )
    np.testing.assert_array_equal(colours.from_arrow(column), cells)
    np.testing.assert_array_equal(colours.from_arrow(column.slice(2, 5)), cells[2:7])
    assert colours.from_arrow(column.slice(0, 0)).shape == (0, colours.BYTES)


def test_a_copy_keeps_its_colours_and_another_hue_does_not() -> None:
    red = Image.new("RGB", (320, 240), "white")
    red.paste((200, 40, 40), (80, 40, 240, 200))
    blue = Image.new("RGB", red.size, "white")
    blue.paste((40, 60, 200), (80, 40, 240, 200))
    copies = [
        broken_media.encode(red, "JPEG", quality=50),
        broken_media.encode(red.resize((160, 120)), "PNG"),
        broken_media.encode(red.point([round(0.95 * level) for level in range(256)] * 3), "PNG"),
        broken_media.encode(red.crop((2, 2, 320, 240)), "JPEG"),
    ]
    original = perceptual.signature(broken_media.encode(red, "PNG"))
    other = perceptual.signature(broken_media.encode(blue, "PNG"))
    assert (original[0] ^ other[0]).bit_count() <= 6
    grids = cells_of([grid for _, grid in (perceptual.signature(data) for data in copies)])
    first = cells_of([original[1]] * len(copies))
    assert colours.distances(first, grids).max() <= colours.TOLERANCE
    assert colours.distances(cells_of([original[1]]), cells_of([other[1]]))[0] > 100


def test_equal_hashes_in_thousands_of_colours_take_linear_memory() -> None:
    rng = np.random.default_rng(0)
    cells = np.repeat(rng.integers(0, 256, (2000, 1, 3), dtype=np.uint8), 256, axis=1)
    equal = np.zeros((8000, colours.BYTES), np.uint8)
    cells = np.concatenate([cells.reshape(-1, colours.BYTES), equal])
    hashes = np.zeros(10_000, np.uint64)
    tracemalloc.start()
    groups = perceptual.near_groups(hashes, 6, cells)
    stands = perceptual.keep_first(hashes, 6, cells)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 150e6  # a byte for each pair would take 100 MB, their grids 80 GB
    assert len(set(groups[2000:].tolist())) == len(set(stands[2000:].tolist())) == 1
    kept = np.flatnonzero(stands == np.arange(10_000))
    assert 500 < len(kept) < 2000
    assert (colours.distances(cells[stands], cells) <= 16).all()


def test_distances_count_bits() -> None:
    left = np.array([0, 1, 2**64 - 1, 5], np.uint64)
    right = np.array([0, 2, 0, 4], np.uint64)
    found = perceptual.distances(left, right)
    assert (found.dtype, found.tolist()) == (np.uint8, [0, 2, 64, 1])


@pytest.mark.parametrize("search", [perceptual.near_pairs, perceptual.near_groups])
def test_impossible_arguments_are_named(search: Any) -> None:
    with pytest.raises(ValueError, match="radius"):
        search(crowded(10, 0), -1)
    with pytest.raises(ValueError, match="one dimension"):
        search(np.zeros((2, 2), np.uint64), 1)


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.exists(), reason="real photos: set DATAGEN_TEST_DATA")
def test_reduced_decodes_find_the_near_duplicates_of_full_decodes() -> None:
    files = sorted(DATA.glob("photos/fashion/images/*.jpg"))[:1500]
    blobs = [path.read_bytes() for path in files]
    reduced = [perceptual.signature(blob) for blob in blobs]
    whole = [media.decode(blob) for blob in blobs]
    fast = np.array([value for value, _ in reduced], np.uint64)
    full = np.array([reference_hash(picture) for picture in whole], np.uint64)
    assert np.quantile(perceptual.distances(fast, full), 0.99) <= 2
    found = near_duplicates(fast, cells_of([grid for _, grid in reduced]))
    true = near_duplicates(full, cells_of([colours.grid(picture) for picture in whole]))
    assert len(true) > 30
    assert len(found & true) / len(true) > 0.9
    assert len(found & true) / len(found) > 0.9
    # A copy of half the size is found whatever the scale that both are decoded at.
    halves = [
        broken_media.encode(one.resize((one.width // 2, one.height // 2)), "JPEG", quality=75)
        for one in whole[:200]
    ]
    copies = [perceptual.signature(data) for data in halves]
    apart = perceptual.distances(fast[:200], np.array([value for value, _ in copies], np.uint64))
    grids = cells_of([grid for _, grid in reduced[:200]])
    levels = colours.distances(grids, cells_of([grid for _, grid in copies]))
    assert np.mean((apart <= 6) & (levels <= colours.TOLERANCE)) > 0.97


def near_duplicates(hashes: Array, cells: Array) -> set[tuple[int, ...]]:
    pairs, _ = perceptual.near_pairs(hashes, 6)
    alike = colours.distances(cells[pairs[:, 0]], cells[pairs[:, 1]]) <= colours.TOLERANCE
    return {tuple(pair) for pair in pairs[alike].tolist()}
