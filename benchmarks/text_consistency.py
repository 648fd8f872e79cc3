"""How well scores of texts against captions tell wrong texts from right ones.

Triplets are spoiled by `text: {op: noise}`, and nothing is rejected. For every score and kind of
noise: the area under the ROC curve, clean triplets against those of that kind.

    python benchmarks/text_consistency.py scenes --out /tmp/text_consistency
    python benchmarks/text_consistency.py captions --out /tmp/text_consistency --data ../shared/data
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

import datagen
from datagen.embed.open_clip import OpenClip
from datagen.filters.text_consistency import TextConsistency
from datagen.filters.text_quality import TextQuality
from datagen.step import Context

Array = np.ndarray[Any, Any]

KINDS = ("text", "partial", "reference", "target")


def scenes(count: int, model: str) -> dict[str, Any]:
    """Rendered scenes; the space is that of a CLIP model, whose texts are compared."""
    return {
        "source": {"type": "tinyworld", "count": count},
        "embed": [{"embed": {"op": "open_clip", "space": "image", "model": model}}],
        "pair": {"op": "one_word_diff", "max_per_reference": 4},
        "by": ["direction", "gain", "words"],
    }


def captions(path: str) -> dict[str, Any]:
    """Captions that people wrote, without a model."""
    given = {"type": "captions", "path": path, "captions": "captions", "key": "image_id"}
    pair = {"op": "one_word_diff", "max_per_reference": 2}
    return {"source": given, "embed": [], "pair": pair, "by": ["words"]}


def recipe(of: dict[str, Any]) -> dict[str, Any]:
    """Triplets of which a known part is spoiled."""
    return {
        "name": "text_consistency",
        "seed": 1,
        "source": of["source"],
        "steps": [
            *of["embed"],
            {"pair": of["pair"]},
            {"text": {"op": "template"}},
            {"text": {"op": "noise", "share": 0.4, "partial": 0.2}},
        ],
    }


def measured(table: pa.Table, ways: Sequence[str], model: str) -> Iterator[tuple[str, Array]]:
    """Name and values of every score, the lower the worse; rows without one are the worst."""
    for by in ways:
        space = None if by == "words" else "image"
        operator = TextConsistency(TextConsistency.Settings(by=by, space=space))
        if space:
            embedder = OpenClip(OpenClip.Settings(space=space, model=model))
            embedder.open(Context())
            operator.encode = embedder.texts
        values = operator(table)[operator.score].to_numpy(zero_copy_only=False)
        yield operator.score, np.nan_to_num(values.astype(np.float64), nan=-2.0)
    things = TextQuality(TextQuality.Settings())(table)["score_unfounded"]
    yield "score_unfounded", -things.to_numpy(zero_copy_only=False).astype(np.float64)


def area(bad: Array, good: Array) -> float:
    """Probability that a good triplet has more than a bad one (ties: half)."""
    order = np.sort(bad)
    both = np.searchsorted(order, good, "left") + np.searchsorted(order, good, "right")
    return float(both.mean() / (2 * len(order)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=["scenes", "captions"])
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, default=1500, help="scenes")
    parser.add_argument("--model", default="bundled:tinyclip")
    parser.add_argument("--data", default="../shared/data")
    chosen = parser.parse_args()
    if chosen.world == "scenes":
        of = scenes(chosen.count, chosen.model)
    else:
        of = captions(f"{chosen.data}/captions/flickr30k.jsonl.gz")
    out = f"{chosen.out}/{chosen.world}"
    datagen.run(recipe(of), out, report=False)
    table = datagen.load(out).triplets(every=True)
    scores = dict(measured(table, of["by"], chosen.model))
    noise = []
    for evidence in table["evidence"].to_pylist():
        told = [one["added"] for one in evidence["changes"] if one["field"] == "noise"]
        noise.append(told[0] if told else "")
    kinds = np.array(noise)
    counts = ", ".join(f"{(kinds == kind).sum()} {kind}" for kind in KINDS)
    print(f"{len(kinds):,} triplets, {(kinds == '').sum()} clean, {counts}\n")
    print("| score | " + " | ".join(KINDS) + " | all noise |\n" + "|---" * (len(KINDS) + 2) + "|")
    for name, values in scores.items():
        good = values[kinds == ""]
        cells = [f"{area(values[kinds == kind], good):.3f}" for kind in KINDS]
        print(f"| `{name}` | {' | '.join(cells)} | {area(values[kinds != ''], good):.3f} |")


if __name__ == "__main__":
    main()
