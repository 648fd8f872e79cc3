"""Signatures per second on real photos: datagen against imagehash, one process, one run.

The peer computes the hash alone, datagen the hash and the colours from one decode. Both read the
same encoded bytes from memory. The two take turns over slices of the photos, so
that a busy machine slows both alike; each photo counts with its best of ``--repeats`` turns.

    python benchmarks/perceptual_hash.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from datagen import perceptual
from datagen.filters.duplicates import DuplicatesSettings

RADIUS = DuplicatesSettings().radius
SLICE = 40
SETS = {
    "fashion (224 px)": "photos/fashion/images/*.jpg",
    "exercises (384 px)": "photos/exercises/images/**/*.jpg",
    "clothing (400 px)": "photos/clothing/**/*.jpg",
    "COCO (640 px)": "photos/coco/images/*.jpg",
}


def peer(data: bytes) -> int:
    """The peer's hash of an encoded image."""
    return int(str(imagehash.phash(Image.open(io.BytesIO(data)))), 16)


def ours(data: bytes) -> int:
    """Hash and colours of an encoded image; the hash is compared."""
    return perceptual.signature(data)[0]


def timed(function: Callable[[bytes], int], blobs: list[bytes]) -> tuple[list[int], float]:
    """Hashes of ``blobs`` and the seconds they took."""
    start = time.perf_counter()
    hashes = [function(blob) for blob in blobs]
    return hashes, time.perf_counter() - start


def compare(name: str, blobs: list[bytes], repeats: int) -> list[str]:
    """One line of the table."""
    functions = (peer, ours)
    hashes: tuple[list[int], list[int]] = ([], [])
    seconds = [0.0, 0.0]
    for begin in range(0, len(blobs), SLICE):
        part = blobs[begin : begin + SLICE]
        best = [float("inf"), float("inf")]
        for turn in range(repeats):
            for which in (0, 1) if turn % 2 else (1, 0):
                values, took = timed(functions[which], part)
                best[which] = min(best[which], took)
                if turn == 0:
                    hashes[which].extend(values)
        seconds = [total + took for total, took in zip(seconds, best, strict=True)]
    expected, found = (np.array(values, np.uint64) for values in hashes)
    true, found_pairs = pairs(expected), pairs(found)
    both = len(true & found_pairs)
    apart = perceptual.distances(expected, found)
    rates = [len(blobs) / total for total in seconds]
    return [
        name,
        str(len(blobs)),
        f"{rates[0]:,.0f}",
        f"{rates[1]:,.0f}",
        f"{rates[1] / rates[0]:.2f}",
        f"{apart.mean():.2f} (at most {apart.max()})",
        str(len(true)),
        f"{both / len(true):.3f}" if true else "–",
        f"{both / len(found_pairs):.3f}" if found_pairs else "–",
    ]


def pairs(hashes: np.ndarray[Any, Any]) -> set[tuple[int, ...]]:
    """Pairs within the radius that the duplicates filter uses."""
    return {tuple(pair) for pair in perceptual.near_pairs(hashes, RADIUS)[0].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of real photos")
    parser.add_argument("--limit", type=int, default=2000, help="photos of a set")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    lines = []
    for name, pattern in SETS.items():
        files = sorted(chosen.data.glob(pattern))[: chosen.limit]
        if files:
            lines.append(compare(name, [path.read_bytes() for path in files], chosen.repeats))
    if not lines:
        sys.exit(f"{chosen.data}: no photos here; give their folder with --data")
    head = [
        "photos", "count", "imagehash/s", "datagen/s", "ratio", "bits from imagehash",
        f"its pairs within {RADIUS}", "recall", "precision",
    ]  # fmt: skip
    print(f"`python benchmarks/perceptual_hash.py --limit {chosen.limit}`, one process")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    for row in (head, ["---"] * len(head), *lines):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
