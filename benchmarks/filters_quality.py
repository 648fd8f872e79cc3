"""What the filters that compare pictures with texts catch of wrong triplets, and at which price.

Renders a world whose captions are partly wrong, mines and words triplets, measures every score
without rejecting anything, and asks the oracle which triplets are right. For each score: the area
under its ROC curve, the share of wrong triplets that it catches where 1, 2, 5 and 10 % of right
ones are lost, and the threshold that keeps 99 % of right ones.

    python benchmarks/filters_quality.py --out /tmp/filters_quality
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

import datagen
from datagen import store
from datagen.sources.tinyworld import events, oracle

Array = np.ndarray[Any, Any]

#: Shares of clips, and of captions with each kind of mistake.
WORLD = {"clips": 0.05, "omit": 0.1, "misname": 0.15, "contradict": 0.15}
#: Shares of right triplets that may be lost.
LOST = (0.01, 0.02, 0.05, 0.1)
#: Scores by which high, not low, is bad.
HIGH_IS_BAD = ("_rank",)


def recipe(count: int, world: dict[str, float], model: str) -> dict[str, Any]:
    """Every measure, with thresholds that reject nothing."""
    clip = {"op": "clip_score", "model": model, "low": -1}
    consistency = {"op": "consistency", "space": "image", "low": -2}
    composed = {**consistency, "by": "composed"}
    return {
        "name": "filters_quality",
        "seed": 1,
        "source": {"type": "tinyworld", "count": count, **world},
        "steps": [
            {"embed": {"space": "image", "model": model}},
            {"pair": {"op": "one_word_diff", "max_items_per_caption": 10, "max_per_reference": 4}},
            {"filter": clip},
            {"filter": {**consistency, "id": "margin", "by": "margin"}},
            {"filter": {**consistency, "id": "direction", "by": "direction"}},
            {"filter": {**composed, "id": "captions"}},
            {"text": {"op": "template"}},
            {"filter": {**composed, "id": "composed", "text": "modification"}},
            {"filter": {"op": "clip_modification", "model": model, "low": -1}},
        ],
    }


def right(rows: Sequence[dict[str, Any]]) -> Array:
    """Whether each triplet's text leads from its reference to its target."""
    found = []
    for row in rows:
        sides = [
            events.shown(json.loads(row[side][0]["labels"])) for side in ("references", "targets")
        ]
        found.append(oracle.says(row["modification"], *sides).right)
    return np.array(found, dtype=bool)


def scores(table: pa.Table, rows: Sequence[dict[str, Any]], clip: dict[str, float]) -> Any:
    """Name and values of each score; the lower the worse."""
    least = [
        min(clip[one["id"]] for side in ("references", "targets") for one in row[side])
        for row in rows
    ]
    yield "score_clip", np.array(least)
    for name in table.column_names:
        if name.startswith("score_") and name != "score_clip":
            values = table[name].to_numpy().astype(np.float64)
            yield name, -values if name.endswith(HIGH_IS_BAD) else values


def area(values: Array, good: Array) -> float:
    """Probability that a right triplet has more than a wrong one (ties: half)."""
    order = np.sort(values[~good])
    below = np.searchsorted(order, values[good], "left")
    upto = np.searchsorted(order, values[good], "right")
    return float((below + upto).mean() / (2 * len(order)))


def line(name: str, values: Array, good: Array) -> list[str]:
    """A row of the table."""
    caught = []
    for lost in LOST:
        # The threshold that loses no more than this share; equal values stay.
        at = np.sort(values[good])[int(lost * good.sum())]
        caught.append(f"{(values[~good] < at).mean():.1%}")
    at = np.sort(values[good])[int(0.01 * good.sum())]
    bound = f"at most {-at:g}" if name.endswith(HIGH_IS_BAD) else f"at least {at:.3f}"
    return [f"`{name}`", f"{area(values, good):.3f}", *caught, bound]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="run directory; a finished one is read again")
    parser.add_argument("--count", type=int, default=4000, help="scenes")
    for kind, share in WORLD.items():
        parser.add_argument(f"--{kind}", type=float, default=share, help="as of source tinyworld")
    parser.add_argument("--model", default="bundled:tinyclip")
    chosen = parser.parse_args()
    world = {kind: getattr(chosen, kind) for kind in WORLD}
    made = recipe(chosen.count, world, chosen.model)
    datagen.run(made, chosen.out, report=False)
    run = datagen.load(chosen.out)
    table = run.triplets(every=True)
    rows = table.to_pylist()
    good = right(rows)
    folder = next(step["folder"] for step in run.note["steps"] if step["id"] == "clip_score")
    measured = store.read_table(f"{run.out}/{folder}/measured.parquet")
    clip = dict(zip(measured["id"].to_pylist(), measured["score_clip"].to_pylist(), strict=True))
    print(f"{len(rows):,} triplets, {good.mean():.1%} right, of {chosen.count:,} scenes\n")
    head = ["score", "area", *(f"wrong caught at {lost:.0%} lost" for lost in LOST), "keeps 99 %"]
    for cells in (
        head,
        ["---"] * len(head),
        *(line(*one, good) for one in scores(table, rows, clip)),
    ):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
