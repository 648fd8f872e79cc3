"""The work of the filter semantic_duplicates beside scikit-learn's KMeans and plain NumPy.

    python benchmarks/semantic_duplicates.py [--items 20000] [--width 256] [--clusters 100]

Vectors lie in planted clusters; a tenth of them are near copies (cosine 0.99 and more) of another.
Both sides cluster from starts of their own, so they are compared by the adjusted Rand index with
the planted clusters and with each other, and by the duplicates that they find. Both run on one
thread, and seconds are those of the processor; rounds alternate, the median counts. Then the same
items at several numbers of clusters: the share of the duplicates of one cluster, where all are
compared with all, that is still found.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from datagen.filters import _clusters
from datagen.space import Space

Array = np.ndarray[Any, Any]
HIGH = 0.95
ITERATIONS = 20


def planted(items: int, width: int, clusters: int, seed: int) -> tuple[Array, Array, Array]:
    """Unit vectors, the cluster of each, and which are copies of the one before."""
    rng = np.random.default_rng(seed)
    cluster = np.sort(rng.integers(0, clusters, items))
    centres = rng.normal(size=(clusters, width))
    vectors = centres[cluster] + 0.9 * rng.normal(size=(items, width))
    copies = np.arange(5, items, 10)
    copies = copies[cluster[copies] == cluster[copies - 1]]
    vectors[copies] = vectors[copies - 1] + 0.08 * rng.normal(size=(len(copies), width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32), cluster, copies


def plain(vectors: Array, clusters: int, seed: int) -> tuple[Array, Array]:
    """Cluster of each vector by scikit-learn, and SemDeDup's score by whole cosine matrices."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = KMeans(clusters, n_init=1, max_iter=ITERATIONS, random_state=seed).fit(unit)
    centres = found.cluster_centers_
    centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    score = np.zeros(len(unit))
    for number in range(clusters):
        members = np.flatnonzero(found.labels_ == number)
        order = members[np.argsort(unit[members] @ centres[number], kind="stable")]
        before = np.triu(unit[order] @ unit[order].T, k=1)
        score[order] = before.max(axis=0, initial=0)
    return found.labels_, score


def ours(folder: str, rows: Array, clusters: int, seed: int) -> Array:
    """The filter's score of each vector."""
    found, _ = _clusters.nearest_before(folder, rows, clusters, True, seed, ITERATIONS)
    return found.cosine


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    vectors, truth, copies = planted(chosen.items, chosen.width, chosen.clusters, chosen.seed)
    rows = np.arange(chosen.items)
    # The two sides would use different numbers of threads.
    with tempfile.TemporaryDirectory() as place, threadpool_limits(1):
        folder = f"{place}/space"
        Space.write(folder, [f"{number:020x}" for number in rows], vectors)
        seconds: dict[str, list[float]] = {"datagen": [], "scikit-learn": []}
        for _ in range(chosen.rounds):
            start = time.process_time()
            score = ours(folder, rows, chosen.clusters, chosen.seed)
            seconds["datagen"].append(time.process_time() - start)
            start = time.process_time()
            label, other = plain(vectors, chosen.clusters, chosen.seed)
            seconds["scikit-learn"].append(time.process_time() - start)
        middles = _clusters.centroids(vectors, rows, chosen.clusters, chosen.seed, ITERATIONS)
        mine = _clusters.assigned(rows, folder, middles)[0]
        show(seconds, score, other, copies, {"datagen": mine, "scikit-learn": label}, truth)
        numbers = sorted({1, 10, round(chosen.items**0.5), 1000})
        across(folder, rows, numbers, chosen.seed)


def show(
    seconds: dict[str, list[float]],
    score: Array,
    other: Array,
    copies: Array,
    labels: dict[str, Array],
    truth: Array,
) -> None:
    """Times, agreement of clusters, and duplicates."""
    print(
        "| | CPU s | Rand index with the planted clusters | duplicates | planted pairs with one |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, scores in (("datagen", score), ("scikit-learn", other)):
        gone = scores > HIGH
        pairs = (gone[copies] | gone[copies - 1]).mean()
        rand = adjusted_rand_score(truth, labels[name])
        middle = statistics.median(seconds[name])
        print(f"| {name} | {middle:.2f} | {rand:.3f} | {gone.sum():,} | {pairs:.2%} |")
    both = ((score > HIGH) & (other > HIGH)).sum() / max(1, ((score > HIGH) | (other > HIGH)).sum())
    rand = adjusted_rand_score(labels["datagen"], labels["scikit-learn"])
    print(
        f"\nclusters of the two: Rand index {rand:.3f}; same items called duplicates: {both:.2%}\n"
    )


def across(folder: str, rows: Array, numbers: list[int], seed: int) -> None:
    """What more clusters miss, and what they save."""
    print("| clusters | CPU s | duplicates found |")
    print("| --- | --- | --- |")
    whole = None
    for number in numbers:
        start = time.process_time()
        found = int((ours(folder, rows, number, seed) > HIGH).sum())
        took = time.process_time() - start
        whole = whole or found
        print(f"| {number:,} | {took:.1f} | {found:,} ({found / max(1, whole):.1%}) |")


if __name__ == "__main__":
    main()
