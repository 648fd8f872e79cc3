"""All pairs of near-duplicate hashes: datagen against faiss BinaryFlat range search, one run.

The hashes are random, but for a tenth that are copies of others with a few bits turned. Both
sides must find exactly the same pairs.

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

from datagen import perceptual

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--radii", type=int, nargs="+", default=[4, 8])
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
    for row in (head, ["---"] * len(head), *lines):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
