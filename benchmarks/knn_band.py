"""Mining neighbours in a band of similarity: time, memory and recall of the three indexes.

    python benchmarks/knn_band.py [--items 20000] [--width 512]

Vectors are drawn around random centres, so that there are near and far neighbours; everything is
seeded. Each index runs in a process of its own. The peer is one call of faiss' brute-force search
for the same k, without bands, caps, exact ties or tables.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

K = 20


def vectors(items: int, width: int) -> np.ndarray:
    """Unit vectors (items, width) in clusters of about 50."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(items // 50 + 1, width)).astype(np.float32)
    out = centres[random.integers(len(centres), size=items)]
    spread = random.uniform(0.2, 0.8, size=(items, 1)).astype(np.float32)
    out += spread * random.normal(size=out.shape).astype(np.float32)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    return out


def by_operator(index: str, items: int, width: int) -> dict[str, float]:
    """A table of items and their space to the table of pairs."""
    import pyarrow as pa

    from datagen import schema
    from datagen.pairing.knn_band import KnnBand, Settings
    from datagen.space import Space
    from datagen.step import Context, Tables

    rows = [
        {"id": schema.content_id(str(n)), "key": str(n), "captions": [f"item {n}"], "labels": "{}"}
        for n in range(items)
    ]
    table = pa.Table.from_pylist(rows, schema=schema.ITEMS)
    with tempfile.TemporaryDirectory() as folder:
        Space.write(f"{folder}/image", table["id"].to_pylist(), vectors(items, width))
        operator = KnnBand(Settings(index=index, low=0.6, min_recall=0, k=K))
        context = Context(spaces={"image": f"{folder}/image"})
        start = time.perf_counter()
        result = operator(Tables(table, table, "items"), context)
        seconds = time.perf_counter() - start
    recall = result.notes.get("recall_at_k", 1.0)
    return {"seconds": seconds, "pairs": result.rows.num_rows, "recall": recall}


def by_faiss(items: int, width: int) -> dict[str, float]:
    """One brute-force search."""
    import faiss

    data = vectors(items, width)
    start = time.perf_counter()
    _, found = faiss.knn(data, data, K + 1, metric=faiss.METRIC_INNER_PRODUCT)
    return {"seconds": time.perf_counter() - start, "pairs": found.size - items, "recall": 1.0}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        one = chosen.one
        size = (chosen.items, chosen.width)
        result = by_faiss(*size) if one == "faiss" else by_operator(one, *size)
        result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    print(f"{chosen.items:,} items × {chosen.width}\nindex    seconds  peak MB  recall@{K}   pairs")
    for one in ("faiss", "exact", "hnsw", "ivf"):
        sizes = ["--items", str(chosen.items), "--width", str(chosen.width)]
        command = [sys.executable, __file__, "--one", one, *sizes]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        got = json.loads(done.stdout)
        print(
            f"{one:<7} {got['seconds']:8.2f} {got['peak_mb']:8.0f} {got['recall']:9.3f} "
            f"{got['pairs']:9,.0f}"
        )


if __name__ == "__main__":
    main()
