"""How many copies of real clips the duplicates filter finds, and how many other clips it takes
for copies, with its default settings.

    python benchmarks/clip_duplicates.py --data ../shared/data

Copies are made of the first 120 frames by PyAV, from a clip that was encoded at high quality
first. "On average" is the filter's rule; "every frame" stands beside it: all five frames within
the radius and the tolerance.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from PIL import Image

from datagen import colours, media, moments
from datagen.filters.duplicates import DuplicatesSettings

Array = np.ndarray[Any, Any]
SETTINGS = DuplicatesSettings()
NEAR = moments.Nearness(SETTINGS.radius, SETTINGS.tolerance, SETTINGS.duration)
SETS = {"exercises": "exercise_2phase/*.mp4", "others": "[im]*/*.m*"}
FRAMES, SIDE = 120, 480


def decoded(path: Path) -> tuple[list[Image.Image], Fraction]:
    """The first frames of a clip, SIDE pixels a side at most, and their rate."""
    with av.open(str(path)) as container:
        rate = Fraction(container.streams.video[0].average_rate or 25).limit_denominator(1000)
        frames = [f.to_image() for f in itertools.islice(container.decode(video=0), FRAMES)]
    for frame in frames:
        frame.thumbnail((SIDE, SIDE))
    return frames, rate


def encoded(frames: list[Image.Image], rate: Fraction, scale: float = 1, crf: int = 18) -> bytes:
    """An H.264 clip of ``frames``; MPEG-4 where ``crf`` is 0."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264" if crf else "mpeg4", rate=rate)
        size = [max(2, round(side * scale) // 2 * 2) for side in frames[0].size]
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast"} if crf else {}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame.resize(size))))
        container.mux(stream.encode())
    return out.getvalue()


def cropped(frames: list[Image.Image], share: float) -> list[Image.Image]:
    width, height = frames[0].size
    left, top = round(width * share / 2), round(height * share / 2)
    return [frame.crop((left, top, width - left, height - top)) for frame in frames]


def copies(frames: list[Image.Image], rate: Fraction) -> Iterator[tuple[str, bytes]]:
    """Kinds of copies, and their bytes."""
    count = len(frames)
    yield "low bitrate (crf 35)", encoded(frames, rate, crf=35)
    yield "other codec (MPEG-4)", encoded(frames, rate, crf=0)
    yield "half the size (crf 28)", encoded(frames, rate, 0.5, 28)
    yield "size x 1.5", encoded(frames, rate, 1.5, 23)
    yield "half the frame rate", encoded(frames[::2], rate / 2)
    more = [frames[at * 4 // 5] for at in range(count * 5 // 4)]
    yield "frame rate x 1.25", encoded(more, rate * 5 / 4)
    yield "5 % lighter", encoded([f.point(lambda v: min(255, v * 1.05)) for f in frames], rate)
    yield "1 % cropped", encoded(cropped(frames, 0.01), rate)
    yield "2 % cropped", encoded(cropped(frames, 0.02), rate)
    cut = max(1, round(count * 0.05))
    yield "5 % trimmed at the end", encoded(frames[:-cut], rate)
    cut = max(1, round(count * 0.1))
    yield "10 % trimmed at the end", encoded(frames[:-cut], rate)
    yield "10 % trimmed at the start", encoded(frames[cut:], rate)
    yield "played backwards (another clip)", encoded(frames[::-1], rate)


def measured(data: bytes) -> tuple[bytes, float]:
    return moments.signature(data)[2], media.probe(data).seconds or float("nan")


def judged(left: tuple[bytes, float], right: tuple[bytes, float]) -> tuple[bool, bool]:
    """Whether two clips are near-duplicates on average, and by every frame."""
    column, seconds = zip(left, right, strict=True)
    clips = moments.Clips(pa.chunked_array([pa.array(column, pa.large_binary())]), seconds)
    bits = np.bitwise_count(clips.hashes[0] ^ clips.hashes[1])
    apart = colours.distances(clips.cells[0], clips.cells[1])
    every = (bits <= NEAR.radius).all() and (apart <= (NEAR.tolerance or 255)).all()
    return bool(clips.alike(0, np.array([1]), NEAR)[0]), bool(every)


def found_copies(files: list[Path]) -> dict[str, list[tuple[bool, bool]]]:
    rows: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for file in files:
        frames, rate = decoded(file)
        original = measured(encoded(frames, rate))
        for kind, copy in copies(frames, rate):
            rows[kind].append(judged(original, measured(copy)))
    return rows


def wrong(files: list[Path]) -> tuple[int, list[str]]:
    """How many pairs of different clips there are, and those that are taken for copies."""
    column, seconds = zip(*(measured(file.read_bytes()) for file in files), strict=True)
    clips = moments.Clips(pa.chunked_array([pa.array(column, pa.large_binary())]), seconds)
    taken = []
    for one in range(len(files)):
        others = np.arange(one + 1, len(files))
        for other in others[clips.alike(one, others, NEAR)]:
            taken.append(f"{files[one].name} = {files[other].name}")
    return len(files) * (len(files) - 1) // 2, taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of real clips")
    parser.add_argument("--limit", type=int, default=40, help="clips of a set to copy")
    chosen = parser.parse_args()
    sets = {name: sorted((chosen.data / "videos").glob(glob)) for name, glob in SETS.items()}
    rng = random.Random(0)
    found = {}
    for name, files in sets.items():
        some = rng.sample(files, min(chosen.limit, len(files)))
        found[f"{name} ({len(some)})"] = found_copies(some)
    print(f"| copies found on average (by every frame) | {' | '.join(found)} |")
    print("| --- " * (1 + len(found)) + "|")
    for kind in next(iter(found.values())):
        shares = [np.mean(rows[kind], axis=0) for rows in found.values()]
        print(f"| {kind} | " + " | ".join(f"{a:.0%} ({b:.0%})" for a, b in shares) + " |")
    pairs, taken = wrong([file for files in sets.values() for file in files])
    print(f"\nother clips taken for copies: {len(taken)} of {pairs:,} pairs {taken[:5]}")


if __name__ == "__main__":
    main()
