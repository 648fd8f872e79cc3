"""How many of the other right answers `false_negatives` finds, and how much of it is right.

In a world of rendered scenes every second scene stands twice: drawn anew, without small shifts,
turns and lights, and told by a caption that leaves something out in half the cases. The world is
paired, told by templates and searched in all four ways. The truth is asked of the oracle, for every
item and a sample of the triplets, by brute force: whether the text leads from the reference to that
item too.

    python benchmarks/false_negatives.py --out /tmp/false_negatives
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import datagen
from datagen.sources.tinyworld import events, oracle

MARGINS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
WAYS: dict[str, dict[str, Any]] = {
    "captions": {},
    "labels": {"labels": ["objects", "background"]},
    "composed": {"space": "image", "margin": 2},
    "target": {"space": "image", "margin": 2},
}


def recipe(count: int, model: str) -> dict[str, Any]:
    """Pairs and texts, and every way to find what fits, with nothing rejected."""
    ways = [
        {"filter": {"op": "false_negatives", "id": by, "by": by, **settings}}
        for by, settings in WAYS.items()
    ]
    return {
        "name": "false_negatives",
        "seed": 0,
        "source": [
            {"id": "first", "type": "tinyworld", "count": count},
            {"id": "again", "type": "tinyworld", "count": count // 2, "jitter": 0.0, "omit": 0.5},
        ],
        "steps": [
            {"embed": {"op": "open_clip", "space": "image", "model": model}},
            {"pair": {"op": "one_word_diff", "max_per_reference": 4}},
            {"text": {"op": "template"}},
            *ways,
        ],
    }


def truth(rows: list[dict[str, Any]], shown: Mapping[str, Any]) -> list[set[str]]:
    """Of each row the other items that its text leads to from its reference."""
    out = []
    for row in rows:
        reference, targets = row["references"][0]["id"], {one["id"] for one in row["targets"]}
        others = shown.keys() - targets - {reference}
        text = row["modification"]
        out.append(
            {name for name in others if oracle.says(text, shown[reference], shown[name]).right}
        )
    return out


def line(name: str, found: list[set[str]], right: list[set[str]]) -> str:
    hits = sum(len(a & b) for a, b in zip(found, right, strict=True))
    told, there = sum(map(len, found)), sum(map(len, right))
    precision = f"{hits / told:.3f}" if told else "–"
    return f"| {name} | {told} | {precision} | {hits / max(there, 1):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="run directory; an old one is gone on with")
    parser.add_argument("--count", type=int, default=400, help="scenes of the world")
    parser.add_argument("--sample", type=int, default=150, help="triplets that are looked into")
    parser.add_argument("--model", default="bundled:tinyclip")
    chosen = parser.parse_args()
    datagen.run(recipe(chosen.count, chosen.model), chosen.out, report=False)
    made = datagen.load(chosen.out)
    items = made.items().select(["id", "labels"]).to_pylist()
    shown = {one["id"]: events.shown(json.loads(one["labels"])) for one in items}
    every = made.triplets().to_pylist()
    rows = [row for row in every if _is_right(row, shown)][: chosen.sample]
    right = truth(rows, shown)
    print(f"{len(items)} items, {len(every)} triplets; {len(rows)} right ones looked into:")
    print(f"{sum(map(bool, right))} have other right answers, {sum(map(len, right))} in all\n")
    print("| way | found | precision | recall |\n|---|---|---|---|")
    for by, settings in WAYS.items():
        column = "_".join(["false_negatives", by, *filter(None, [settings.get("space")])])
        lists = [row[column] for row in rows]
        if "space" not in settings:
            print(line(f"`{by}`", [{one["id"] for one in found} for found in lists], right))
        for margin in MARGINS if "space" in settings else ():
            found = [{one["id"] for one in some if one["lead"] >= -margin} for some in lists]
            print(line(f"`{by}`, margin {margin:g}", found, right))


def _is_right(row: dict[str, Any], shown: Mapping[str, Any]) -> bool:
    reference, target = (shown[row[side][0]["id"]] for side in ("references", "targets"))
    return bool(oracle.says(row["modification"], reference, target).right)


if __name__ == "__main__":
    main()
