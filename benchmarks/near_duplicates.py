"""All pairs of near-duplicate hashes: datagen against faiss BinaryFlat range search, one run.

The hashes are random, but for a tenth that are copies of others with a few bits turned. Both
sides must find exactly the same pairs. A second table times the filter's greedy choice and the
split's groups, with and without colours, where a tenth are copies and where all hashes are equal.

    python benchmarks/near_duplicates.py
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from typing import Any

import faiss
import numpy as np

from datagen import colours, perceptual

Array = np.ndarray[Any, Any]


def made(count: int, seed: int = 0) -> Array:
    """``count`` hashes, a tenth of which lie within some bits of another."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = rng.choice(count, count // 10, replace=False)
    near = hashes[rng.integers(0, count, len(copies))]
    for _ in range(12):
        flip = np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64)
        near = np.where(rng.random(len(copies)) < 0.4, near ^ flip, near)
    hashes[copies] = near
    return hashes


def peer(hashes: Array, radius: int) -> tuple[Array, Array]:
    """Pairs i < j within ``radius`` and their distances, by faiss, sorted."""
    codes = hashes.view(np.uint8).reshape(len(hashes), 8)
    index = faiss.IndexBinaryFlat(64)
    index.add(codes)
    # faiss finds distances strictly below its radius.
    limits, apart, right = index.range_search(codes, radius + 1)
    left = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64)))
    once = left < right
    left, right, apart = left[once], right[once], apart[once]
    order = np.lexsort((right, left))
    return np.stack([left[order], right[order]], axis=1), apart[order].astype(np.uint8)


def compare(count: int, radius: int, repeats: int) -> list[str]:
    """One line of the table; raises AssertionError where the two disagree."""
    hashes = made(count)
    best = [float("inf"), float("inf")]
    results: list[tuple[Array, Array]] = []
    for _ in range(repeats):
        results = []
        for which, function in enumerate((peer, perceptual.near_pairs)):
            start = time.perf_counter()
            results.append(function(hashes, radius))
            best[which] = min(best[which], time.perf_counter() - start)
    for theirs, ours in zip(*results, strict=True):
        np.testing.assert_array_equal(theirs, ours)
    pairs = len(results[0][0])
    ratio = f"{best[0] / best[1]:.1f}"
    return [
        f"{count:,}", str(radius), f"{pairs:,}", f"{best[0]:.3f}", f"{best[1]:.3f}", ratio, "yes",
    ]  # fmt: skip


def choice(name: str, hashes: Array, cells: Array, radius: int) -> list[str]:
    """One line of the second table: seconds of each search."""
    seconds = []
    sizes: list[str] = []
    for tolerance in (None, colours.TOLERANCE):
        for search in (perceptual.keep_first, perceptual.near_groups):
            start = time.perf_counter()
            found = search(hashes, radius, cells, tolerance)
            seconds.append(f"{time.perf_counter() - start:.2f}")
            sizes.append(f"{len(np.unique(found)):,}")
    return [name, f"{len(hashes):,}", str(radius), *seconds, sizes[0], sizes[2]]


def collections(count: int) -> list[tuple[str, Array, Array]]:
    """Hashes and grids: a tenth near others, half of these in other colours; and equal hashes."""
    rng = np.random.default_rng(1)
    tones = rng.integers(0, 256, (count, 1, 3), dtype=np.uint8)
    plain = np.repeat(tones, colours.BYTES // 3, axis=1).reshape(count, -1)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    tenth, half = count // 10, count // 20
    hashes[-tenth:] = hashes[:tenth] ^ np.uint64(5)
    plain[-half:] = plain[tenth - half : tenth]
    few = min(count, 10_000)
    noise = rng.integers(240, 248, (few, colours.BYTES)).astype(np.uint8)
    return [
        ("a tenth near others", hashes, plain),
        ("equal hashes, any tone", np.zeros(few, np.uint64), plain[:few]),
        ("equal hashes, one tone and noise", np.zeros(few, np.uint64), noise),
    ]


def show(head: list[str], lines: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *lines):
        print("| " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--radii", type=int, nargs="+", default=[6, 8])
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    head = ["hashes", "radius", "pairs", "faiss, s", "datagen, s", "ratio", "same pairs"]
    lines = [
        compare(count, radius, chosen.repeats) for count in chosen.counts for radius in chosen.radii
    ]
    threads = faiss.omp_get_max_threads()
    print(f"`python benchmarks/near_duplicates.py`, best of {chosen.repeats}")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores (faiss {threads} threads, datagen 1), "
        f"Python {platform.python_version()}, faiss {faiss.__version__}\n"
    )
    show(head, lines)
    head = [
        "hashes", "count", "radius", "keep first, s", "groups, s", "with colours: keep first, s",
        "groups, s", "kept", "kept with colours",
    ]  # fmt: skip
    most = max(chosen.counts)
    print()
    show(head, [choice(*one, chosen.radii[0]) for one in collections(most)])


if __name__ == "__main__":
    main()
