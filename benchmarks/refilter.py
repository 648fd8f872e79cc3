"""How long other thresholds take: ``datagen refilter`` on a run, against the same run from nothing.

python benchmarks/refilter.py --triplets 100000

Renders scenes, mines pairs and writes texts until there are so many triplets, filters them, mines
negatives, splits and writes shards; then raises and lowers thresholds. The peer is the same recipe
with the new threshold in an empty folder. Seconds are of single runs; Ray is started by each.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import datagen
from datagen.refilter import refilter


def recipe(scenes: int, low: float) -> dict[str, object]:
    """Every kind of step that a refilter passes."""
    return {
        "name": "refilter",
        "source": {"type": "tinyworld", "count": scenes, "size": 32},
        "steps": [
            {"embed": {"space": "caption", "model": "tfidf"}},
            {"pair": {"op": "one_word_diff"}},
            {"filter": {"op": "similarity", "space": "caption", "low": low}},
            {"text": {"op": "template", "texts_per_pair": 4}},
            {"filter": {"op": "duplicates"}},
            {"negatives": {"reference": True, "mined": 2, "space": "caption"}},
            {"split": {"train": 0.98, "val": 0.01, "test": 0.01}},
            {"shards": {"max_size": "64MB", "include_negatives": False}},
        ],
    }


def seconds(work: object, *arguments: object) -> tuple[float, datagen.Summary]:
    """How long a call took, and what it gave."""
    started = time.monotonic()
    summary = work(*arguments)  # type: ignore[operator]
    return time.monotonic() - started, summary


def main() -> None:
    """Run and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triplets", type=int, default=100_000)
    parser.add_argument("--scenes", type=int, default=0, help="instead of a guess from --triplets")
    arguments = parser.parse_args()
    scenes = arguments.scenes or max(400, round(arguments.triplets / 6))
    first, higher = 0.30, 0.93
    with tempfile.TemporaryDirectory(prefix="refilter-") as folder:
        out = os.path.join(folder, "run")
        lines = []
        took, summary = seconds(datagen.run, recipe(scenes, first), out)
        made = datagen.load(out).triplets(every=True).num_rows
        lines.append((f"the run, similarity.low={first:g}", took, summary))
        for change in (f"similarity.low={higher:g}", f"similarity.low={first:g}",
                       "duplicates.radius=10"):  # fmt: skip
            took, summary = seconds(refilter, out, [change])
            lines.append((f"refilter {change}", took, summary))
        fresh = os.path.join(folder, "fresh")
        took, summary = seconds(datagen.run, recipe(scenes, higher), fresh)
        lines.append((f"from nothing, similarity.low={higher:g}", took, summary))
        print(f"\n{made:,} triplets of {scenes:,} scenes\n")
        print("| | triplets kept | s |\n|---|---|---|")
        for name, took, summary in lines:
            print(f"| {name} | {summary.triplets:,} | {took:.1f} |")
        print("\nslowest steps of the last refilter:")
        again = [step for step in lines[-2][2].steps if not step.reused]
        for step in sorted(again, key=lambda one: -one.seconds)[:4]:
            print(f"  {step.id}: {step.seconds:.1f} s")


if __name__ == "__main__":
    main()
