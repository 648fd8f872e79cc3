"""Perceptual hashes equal the reference definition; the search for near ones misses nothing."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import broken_media
import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen import media, perceptual

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
    assert perceptual.phash_bytes(data) == reference_hash(broken_media.scene(200, 150))


def test_a_reduced_decode_moves_few_bits() -> None:
    picture = broken_media.scene(800, 600)
    data = broken_media.encode(picture, "JPEG")
    assert media.grey(data, draft=perceptual.DRAFT).size == (200, 150)
    assert (perceptual.phash_bytes(data) ^ reference_hash(picture)).bit_count() <= 4


def test_blank_pictures_share_one_hash_that_is_near_no_other() -> None:
    blanks = [Image.new("L", (50, 40), tone) for tone in (0, 1, 128, 255)]
    noisy = np.random.default_rng(0).integers(250, 253, (64, 64)).astype(np.uint8)
    blanks.append(Image.fromarray(noisy))
    assert {perceptual.phash(blank) for blank in blanks} == {perceptual.FLAT}
    assert perceptual.phash(broken_media.scene()).bit_count() >= 28


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
    fast = np.array([perceptual.phash_bytes(blob) for blob in blobs], np.uint64)
    full = np.array([reference_hash(Image.open(path)) for path in files], np.uint64)
    assert np.quantile(perceptual.distances(fast, full), 0.99) <= 2
    found = {tuple(pair) for pair in perceptual.near_pairs(fast, 4)[0].tolist()}
    true = {tuple(pair) for pair in perceptual.near_pairs(full, 4)[0].tolist()}
    assert len(true) > 100
    assert len(found & true) / len(true) > 0.95
    assert len(found & true) / len(found) > 0.95
