"""Signatures of clips are those of their frames; the search for near ones misses nothing."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pytest
import tiny_clips
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import colours, frames, media, moments, perceptual
from datagen.moments import COUNT, Clips, Nearness

DATA = Path(__file__).parent / ".." / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
VIDEOS = DATA / "videos" / "exercise_2phase"
Array = np.ndarray[Any, Any]


def column(signatures: list[bytes]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(signatures, pa.large_binary())])


def clips(hashes: Array, tones: Array, seconds: Any) -> Clips:
    """Clips of these hashes (n, COUNT), each frame of one grey tone (n, COUNT)."""
    made = [
        row.astype("<u8").tobytes() + np.repeat(grey, colours.BYTES).astype(np.uint8).tobytes()
        for row, grey in zip(hashes, tones, strict=True)
    ]
    return Clips(column(made), seconds)


def brute_near(hashes: Array, tones: Array, seconds: Array, near: Nearness, a: int, b: int) -> bool:
    bits = [int(x ^ y).bit_count() for x, y in zip(hashes[a], hashes[b], strict=True)]
    levels = [abs(int(x) - int(y)) for x, y in zip(tones[a], tones[b], strict=True)]
    long, short = max(seconds[a], seconds[b]), min(seconds[a], seconds[b])
    return (
        sum(bits) / COUNT <= near.radius
        and (near.tolerance is None or sum(levels) / COUNT <= near.tolerance)
        and not long - short > near.duration * long + 1e-9
    )


def made_up(count: int, seed: int) -> tuple[Array, Array, Array]:
    """Hashes, tones and durations of clips of which some are near others."""
    rng = np.random.default_rng(seed)
    bases = rng.integers(0, 2**64, (max(1, count // 6), COUNT), dtype=np.uint64)
    bases[rng.random(bases.shape) < 0.3] = perceptual.FLAT
    hashes = bases[rng.integers(0, len(bases), count)]
    for _ in range(8):
        flip = np.uint64(1) << rng.integers(0, 64, hashes.shape, dtype=np.uint64)
        hashes = np.where(rng.random(hashes.shape) < 0.5, hashes ^ flip, hashes)
    return hashes, 100 + rng.integers(0, 24, hashes.shape), rng.choice([1.0, 1.1, 2.0], count)


@given(
    count=st.integers(0, 30),
    seed=st.integers(0, 10_000),
    radius=st.integers(0, 12),
    tolerance=st.sampled_from([None, 0, 16]),
    duration=st.sampled_from([0.0, 0.2, 1.0]),
)
@settings(max_examples=120, deadline=None)
def test_the_greedy_choice_is_that_of_brute_force(
    count: int, seed: int, radius: int, tolerance: int | None, duration: float
) -> None:
    hashes, tones, seconds = made_up(count, seed)
    near = Nearness(radius, tolerance, duration)
    expected: list[int] = []
    for one in range(count):
        kept = [at for at in range(one) if expected[at] == at]
        found = [at for at in kept if brute_near(hashes, tones, seconds, near, one, at)]

        def apart(at: int, one: int = one) -> tuple[int, int]:
            return int(np.bitwise_count(hashes[one] ^ hashes[at]).sum(dtype=int)), at

        expected.append(min(found, key=apart) if found else one)
    assert clips(hashes, tones, seconds).keep_first(near).tolist() == expected


@given(
    count=st.integers(0, 30),
    seed=st.integers(0, 10_000),
    radius=st.integers(0, 12),
    tolerance=st.sampled_from([None, 0, 16]),
    duration=st.sampled_from([0.0, 0.2, 1.0]),
)
@settings(max_examples=120, deadline=None)
def test_groups_are_the_components_of_brute_force(
    count: int, seed: int, radius: int, tolerance: int | None, duration: float
) -> None:
    hashes, tones, seconds = made_up(count, seed)
    near = Nearness(radius, tolerance, duration)
    expected = list(range(count))
    for one, other in itertools.combinations(range(count), 2):
        if brute_near(hashes, tones, seconds, near, one, other):
            low, high = sorted((expected[one], expected[other]))
            expected = [low if group == high else group for group in expected]
    assert clips(hashes, tones, seconds).groups(near).tolist() == expected


def test_the_signature_is_that_of_imagehash_and_the_colours_of_five_even_frames() -> None:
    data = tiny_clips.fade(20, 3)
    chosen = frames.sample(data, (0.25, 0.75, 1.25, 1.75, 2.25))
    hashes = [int(str(imagehash.phash(frame.image)), 16) for frame in chosen]
    middle, grid, whole = moments.signature(data)
    assert (middle, grid) == (hashes[2], colours.grid(chosen[2].image))
    assert len(whole) == moments.BYTES
    assert np.frombuffer(whole[:40], "<u8").tolist() == hashes
    found = Clips(column([whole]), [2.5])
    assert found.cells[0].tobytes() == b"".join(colours.grid(one.image) for one in chosen)


def near(left: bytes, right: bytes, **limits: Any) -> bool:
    lengths = [media.probe(data).seconds for data in (left, right)]
    both = Clips(column([moments.signature(data)[2] for data in (left, right)]), lengths)
    return bool(both.alike(0, np.array([1]), Nearness(**{"radius": 6, **limits}))[0])


def test_copies_are_near_and_other_clips_are_not() -> None:
    pictures = tiny_clips.faded(16, 1, (160, 120))
    clip = tiny_clips.encoded(pictures)
    assert near(clip, tiny_clips.encoded(pictures, crf=36))
    assert near(clip, tiny_clips.encoded(pictures, codec="mpeg4"))
    assert near(clip, tiny_clips.encoded(pictures, size=(80, 60)))
    assert near(clip, tiny_clips.encoded(pictures[::2], rate=4))
    assert not near(clip, tiny_clips.encoded(pictures[::-1]))
    assert not near(clip, tiny_clips.fade(16, 2, (160, 120)))
    half = [*pictures[:8], *tiny_clips.faded(16, 2, (160, 120))[8:]]
    assert not near(clip, tiny_clips.encoded(half))


def test_clips_of_other_lengths_are_others() -> None:
    pictures = [tiny_clips.picture(5)] * 20
    clip, trimmed = tiny_clips.encoded(pictures), tiny_clips.encoded(pictures[2:])
    assert near(clip, trimmed)
    assert not near(clip, trimmed, duration=0.05)
    assert not near(clip, tiny_clips.encoded(pictures[:10]))
    assert near(clip, tiny_clips.encoded(pictures[:10]), duration=0.5)
    whole = moments.signature(clip)[2]
    unknown = Clips(column([whole, whole]), [None, 3.0])
    assert unknown.keep_first(Nearness(6)).tolist() == [0, 0]


def test_many_clips_with_the_same_black_frame_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (600, COUNT), dtype=np.uint64)
    hashes[:, 0] = perceptual.FLAT
    hashes[300:] = hashes[:300]
    stands = clips(hashes, np.zeros((600, COUNT), np.uint8), np.ones(600)).keep_first(Nearness(6))
    assert stands.tolist() == [*range(300), *range(300)]


def test_signatures_survive_chunks_and_slices_and_wrong_ones_are_refused() -> None:
    made = [moments.signature(tiny_clips.fade(4, seed))[2] for seed in range(3)]
    chunked = pa.chunked_array([column(made[:1]).chunk(0), column(made).chunk(0).slice(1)])
    assert (
        Clips(chunked, [1.0] * 3).hashes.tolist() == Clips(column(made), [1.0] * 3).hashes.tolist()
    )
    assert len(Clips(column([]), [])) == 0
    with pytest.raises(ValueError, match="bytes a clip"):
        Clips(column([b"short"]), [1.0])


@pytest.mark.real_data
@pytest.mark.skipif(not VIDEOS.is_dir(), reason="no real clips (DATAGEN_TEST_DATA)")
def test_different_real_clips_are_no_copies_of_each_other() -> None:
    some = sorted(VIDEOS.glob("*.mp4"))[::8]
    data = [path.read_bytes() for path in some]
    made = [moments.signature(one)[2] for one in data]
    found = Clips(column([*made, made[7]]), [1.0] * (len(some) + 1)).keep_first(Nearness(6))
    assert found.tolist() == [*range(len(some)), 7]
