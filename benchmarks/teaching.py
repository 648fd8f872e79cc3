"""What a small retriever learns from triplets: spoiled and filtered ones, and those of recipes.

`scenes`: the recipe `demo`, with none, some or many of its triplets spoiled (`text: {op: noise}`).
For each share a retriever is trained on all triplets that were made, on those that filters left,
and on those that the oracle calls right; all are asked the same queries, of another world, whose
captions are true and whose right answers the oracle names.

`photos`: product photos with titles and labels, cut in two by item. Recipes make triplets of one
half; queries of the other ask for another kind, gender or colour, and every photo with the labels
that are asked for is a right answer. Then the same comparison of spoiled and filtered triplets.

Items keep the vectors of a frozen model, a Combiner is trained (benchmarks/small_retriever.py).

    python benchmarks/teaching.py scenes --out /tmp/teaching
    python benchmarks/teaching.py photos --out /tmp/teaching --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml
from small_retriever import (
    BOTH,
    IMAGE,
    SEVERAL,
    TEXT,
    Triplets,
    Words,
    asked,
    several,
    summed,
    trained,
)

import datagen
from datagen import models, schema
from datagen.audit.judge import judge_for
from datagen.training import towers

Array = np.ndarray[Any, Any]

HERE = Path(__file__).parent
CLIP = "bundled:tinyclip"
OWN = HERE.parent / "tests" / "own" / "mobilenet_space.py"
WEIGHTS = "models/mobilenet_v2_1.0_224_quant.tflite"
#: Labels of products that a photo shows.
LABELS = ("gender", "subCategory", "baseColour")
#: Main directions of the classifier's features that are kept.
WIDTH = 128
METRICS = ("R@1", SEVERAL, "R@10", "mAP")


@dataclass(frozen=True)
class Items:
    """Items with their vectors: ids by row; vectors (n, d) of length 1."""

    rows: Mapping[str, int]
    vectors: torch.Tensor

    def triplets(self, rows: Iterable[Mapping[str, Any]]) -> Triplets:
        """Of rows of a run; those whose items have no vector, or one item on both sides, are left
        out."""
        found: list[tuple[int, str, list[int]]] = []
        for row in rows:
            names = [one["id"] for one in (*row["references"], *row["targets"])]
            at = [self.rows[name] for name in names if name in self.rows]
            if len(at) == len(names) and at[0] not in at[1:]:
                found.append((at[0], row["modification"], at[1:]))
        references, texts, targets = zip(*found, strict=True)
        return Triplets(references, texts, targets)


def noise(share: float) -> list[dict[str, Any]]:
    """A quarter of the noise each: another reference, text or target, or one wrong word."""
    if not share:
        return []
    return [{"text": {"op": "noise", "share": 0.75 * share, "partial": 0.25 * share}}]


def every(run: datagen.Run) -> list[dict[str, Any]]:
    """All triplets that were made, with what became of them."""
    table = run.triplets(every=True).select(
        ["id", "references", "targets", "modification", "evidence", "verdict", "step"]
    )
    return [row for row in table.to_pylist() if row["modification"]]


# --- rendered scenes ------------------------------------------------------------------------------


def demo(count: int, share: float, writer: bool, filters: bool = True, **world: Any) -> Any:
    """The recipe `demo` up to its filters, with the image space; two bounds are those of a noisy
    collection: the similarity of captions that keeps 99 % of right rows, and texts that name half
    of the words in which the captions differ."""
    recipe = yaml.safe_load((HERE.parent / "recipes" / "demo.yaml").read_text(encoding="utf-8"))
    recipe["source"] |= {"count": count, **world}
    steps = [one for one in recipe["steps"] if not {"negatives", "split", "shards"} & set(one)]
    at = next(row for row, one in enumerate(steps) if "text" in one)
    texts = steps[at] if writer else {"text": {"op": "template", "texts_per_pair": 2}}
    steps[at : at + 1] = [texts, *noise(share)]
    kept = []
    for one in steps:
        filtered = one.get("filter")
        if filtered and not filters:
            continue
        kept.append(one)
        if filtered and filtered["op"] == "similarity":
            filtered["low"] = 0.79
            kept.append({"filter": {"op": "text_consistency", "by": "words", "low": 0.5}})
    return {**recipe, "steps": [{"embed": {"space": "image", "model": CLIP}}, *kept]}


def scenes_of(run: datagen.Run) -> Items:
    space = run.space("embed_image")
    rows = {name.decode(): row for row, name in enumerate(space.ids.tolist())}
    return Items(rows, torch.from_numpy(np.array(space.vectors, np.float32)))


def told(texts: Iterable[str]) -> dict[str, Array]:
    """What the text tower makes of ``texts``."""
    models.prepare()
    found = towers.load(towers.TowerSettings(model=CLIP))
    listed = sorted(set(texts))
    with torch.inference_mode():
        parts = [found.texts(found.tokenize(listed[at : at + 64])).pooled
                 for at in range(0, len(listed), 64)]  # fmt: skip
    return dict(zip(listed, torch.cat(parts).numpy(), strict=True))


def truths(items: Items, run: datagen.Run) -> Triplets:
    """Queries of a run that the oracle calls right, complete and minimal, with all answers that it
    names among the items."""
    judge = judge_for(run)
    assert judge is not None
    found: dict[tuple[int, str], list[int]] = {}
    for row in every(run):
        said = judge.triplet(row)
        if said.right and said.complete and said.minimal and not said.ambiguous:
            reference = items.rows[row["references"][0]["id"]]
            named = {items.rows[name] for name in judge.answers(row) or ()}
            named |= {items.rows[one["id"]] for one in row["targets"]}
            found[reference, row["modification"]] = sorted(named - {reference})
    asked_of, answers = zip(*sorted((k, v) for k, v in found.items() if v), strict=True)
    return Triplets([one for one, _ in asked_of], [text for _, text in asked_of], answers)


def scenes(chosen: argparse.Namespace) -> None:
    folder = Path(chosen.out)
    clean = {"seed": 1000, "omit": 0, "misname": 0, "contradict": 0}
    recipe = demo(chosen.queries, 0, chosen.writer, filters=False, **clean)
    datagen.run(recipe, str(folder / "held_out"), report=False)
    held = datagen.load(str(folder / "held_out"))
    gallery = scenes_of(held)
    queries = truths(gallery, held)
    made = {}
    for share in chosen.share:
        recipe = demo(chosen.count, share, chosen.writer)
        datagen.run(recipe, str(folder / "scenes"), report=False)
        run = datagen.load(str(folder / "scenes"))
        judge = judge_for(run)
        assert judge is not None
        made[share] = [(row, bool(judge.triplet(row).right)) for row in every(run)]
    items = scenes_of(run)
    lists = [row["modification"] for rows in made.values() for row, _ in rows]
    frozen = told([*lists, *queries.texts])
    asked_twice = f"{len(several(queries)):,} of references that are asked for several things"
    print(f"\n{len(queries):,} queries ({asked_twice}), {len(gallery.rows):,} items\n")
    width = items.vectors.shape[1]
    test = Test(gallery.vectors, queries, lambda: Words(lists, width, frozen), chosen)
    for weight in (0.0, 0.5, 1.0):
        found = summed(gallery.vectors, frozen, queries, weight)
        told_of = {0.0: "image alone", 0.5: "the sum of both", 1.0: "text alone"}[weight]
        line([f"untrained, {told_of}", "–"], [found])
    for share, rows in made.items():
        sets = subsets(rows)
        if not share:
            probes(test, items, [row for row, _ in sets["what the filters left"]])
        for name, some in sets.items():
            compared(test, items, f"{share:.0%} spoiled, {name}", some)


def subsets(rows: Sequence[tuple[Any, bool]]) -> dict[str, list[tuple[Any, bool]]]:
    """Triplets to train on, by name."""
    return {
        "all that were made": list(rows),
        "what the filters left": [one for one in rows if one[0]["verdict"] == schema.KEPT],
        "what is right": [one for one in rows if one[1]],
    }


# --- product photos -------------------------------------------------------------------------------


def halves(data: Path, folder: Path) -> dict[str, Path]:
    """Annotations of both halves of the photos, by a hash of their names."""
    lines = (data / "photos" / "fashion" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    sides: dict[str, list[str]] = {"train": [], "held_out": []}
    for text in lines:
        number = int(schema.content_id(json.loads(text)["id"])[:8], 16)
        sides["held_out" if number % 3 == 0 else "train"].append(text)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {side: folder / f"{side}.jsonl" for side in sides}
    for side, some in sides.items():
        paths[side].write_text("\n".join(some) + "\n", encoding="utf-8")
    return paths


def given(data: Path, annotations: Path) -> list[str]:
    """Overrides that name the photos."""
    return [
        f"source.path={data / 'photos' / 'fashion'}",
        f"source.annotations={annotations.resolve()}",
        "source.media=image",
        "source.media_root=images",
        "source.captions=productDisplayName",
        f"source.labels=[{','.join(LABELS)}]",
    ]


def photo_space(data: Path) -> dict[str, Any]:
    return {"op": f"{OWN}:MobileNet", "space": "image", "weights": str(data / WEIGHTS)}


def recipes(data: Path) -> dict[str, list[str]]:
    """Recipes that need no model of language or pictures but this classifier, and the overrides
    by which they do not."""
    space = f"steps.embed_image={json.dumps(photo_space(data))}"
    caption = ["steps.embed_caption.model=tfidf", "steps.similarity.low=0.3"]
    template = "steps.llm={op: template}"
    return {
        "eufcc_cir": [],
        "covr_rule_based": [],
        "cc_coir": [space, *caption, template],
        "facap": [space, "steps.pair.same_label=subCategory", "steps.vlm_then_llm={op: template}"],
        "spn4cir": [space, "steps.caption=null", "steps.rank_band.low=0.1",
                    "steps.rank_band.high=0.2"],
    }  # fmt: skip


def spoiled(share: float, data: Path, annotations: Path) -> dict[str, Any]:
    """Pairs that differ in one label, with noise, and filters that look at photos and texts."""
    source = dict(one.removeprefix("source.").split("=", 1) for one in given(data, annotations))
    return {
        "name": "spoiled",
        "source": {"type": "folder", **source, "labels": list(LABELS)},
        "steps": [
            {"embed": {"space": "caption", "model": "tfidf"}},
            {"embed": photo_space(data)},
            {"pair": {"op": "one_word_diff", "max_per_reference": 4}},
            {"text": {"op": "template"}},
            *noise(share),
            {"filter": {"op": "similarity", "space": "caption", "low": 0.3}},
            {"filter": {"op": "text_consistency", "by": "words", "low": 0.5}},
            {"filter": {"op": "duplicates"}},
        ],
    }


def photos_of(items: pa.Table, space: Any, directions: Array, middle: Array) -> Items:
    rows = {name.decode(): row for row, name in enumerate(space.ids.tolist())}
    reduced = (np.array(space.vectors, np.float32) - middle) @ directions
    return Items(rows, torch.nn.functional.normalize(torch.from_numpy(reduced), dim=-1))


def labelled(items: Items, run: datagen.Run) -> Triplets:
    """Queries of pairs that differ in one label; answers are all items with the target's labels."""
    same: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for item in run.items().to_pylist():
        if item["id"] in items.rows:
            same[labels(item)].append(items.rows[item["id"]])
    found: dict[tuple[int, str], list[int]] = {}
    for row in every(run):
        reference = items.rows[row["references"][0]["id"]]
        found[reference, row["modification"]] = same[labels(row["targets"][0])]
    asked_of, answers = zip(*sorted(found.items()), strict=True)
    return Triplets([one for one, _ in asked_of], [text for _, text in asked_of], answers)


def labels(item: Mapping[str, Any]) -> tuple[str, ...]:
    found = json.loads(item["labels"])
    return tuple(str(found.get(name)) for name in LABELS)


def photos(chosen: argparse.Namespace) -> None:
    folder, data = Path(chosen.out), chosen.data.resolve()
    paths = halves(data, folder)
    ended = ["steps.shards=null", "steps.split=null", "steps.negatives=null"]

    held_out = str(folder / "held_out_photos")
    recipe = spoiled(0, data, paths["held_out"])
    recipe["steps"] = [
        {"embed": photo_space(data)},
        {"pair": {"op": "label_diff", "labels": list(LABELS), "max_per_reference": 1}},
        {"text": {"op": "template"}},
    ]
    datagen.run(recipe, held_out, report=False)
    held = datagen.load(held_out)
    made: dict[float, Any] = {}
    for share in chosen.share:
        datagen.run(spoiled(share, data, paths["train"]), str(folder / "photos"), report=False)
        run = datagen.load(str(folder / "photos"))
        made[share] = [(row, not spoils(row)) for row in every(run)]
    vectors = np.array(run.space("embed_image").vectors, np.float32)
    middle = vectors.mean(0)
    directions = np.linalg.svd(vectors - middle, full_matrices=False)[2][:WIDTH].T
    items = photos_of(run.items(), run.space("embed_image"), directions, middle)
    gallery = photos_of(held.items(), held.space("embed_image"), directions, middle)
    queries = labelled(gallery, held)
    print(f"\n{len(queries):,} queries, {len(gallery.rows):,} items\n")
    for share, rows in made.items():
        texts = sorted({row["modification"] for row, _ in rows})
        test = Test(gallery.vectors, queries, words(texts), chosen)
        if not share:
            probes(test, items, [row for row, _ in rows])
        for name, some in subsets(rows).items():
            compared(test, items, f"{share:.0%} spoiled, {name}", some)
    for name, changes in recipes(data).items():
        out = str(folder / "recipes" / name)
        datagen.run(name, out, [*given(data, paths["train"]), *changes, *ended], report=False)
        rows = [(row, None) for row in every(datagen.load(out)) if row["verdict"] == schema.KEPT]
        texts = sorted({row["modification"] for row, _ in rows})
        test = Test(gallery.vectors, queries, words(texts), chosen)
        compared(test, items, name, rows)


def words(texts: Sequence[str]) -> Callable[[], Words]:
    return lambda: Words(texts, WIDTH)


def spoils(row: Mapping[str, Any]) -> bool:
    changes = (row["evidence"] or {}).get("changes") or []
    return any(one["field"] == "noise" for one in changes)


# --- training and telling -------------------------------------------------------------------------


@dataclass(frozen=True)
class Test:
    """What every retriever is asked: queries in a gallery, and how it is trained."""

    vectors: torch.Tensor
    queries: Triplets
    side: Callable[[], Any]
    chosen: argparse.Namespace

    def figures(self, items: Items, triplets: Triplets, kind: str = BOTH) -> list[Any]:
        """Of each seed; trained and asked with ``kind`` alone."""
        chosen, found = self.chosen, []
        for seed in range(chosen.seeds):
            model = trained(
                items.vectors, self.side, triplets, seed, chosen.steps, chosen.batch, kind
            )
            found.append(asked(model, self.vectors, self.queries, kind))
        return found


def probes(test: Test, items: Items, rows: Sequence[Mapping[str, Any]]) -> None:
    """Models that are trained and asked with one part alone."""
    triplets = items.triplets(rows)
    for kind, name in ((IMAGE, "image alone"), (TEXT, "text alone")):
        found = test.figures(items, triplets, kind)
        line([f"trained and asked with {name}", f"{len(triplets):,}"], found)


def compared(test: Test, items: Items, name: str, rows: Sequence[tuple[Any, bool]]) -> None:
    """One line: how many triplets, how many of them are right, and what was learned."""
    begin = time.perf_counter()
    triplets = items.triplets(row for row, _ in rows)
    found = test.figures(items, triplets)
    judged = [good for _, good in rows if good is not None]
    right = f" ({np.mean(judged):.1%} right)" if judged else ""
    line([f"{name}{right}", f"{len(triplets):,}"], found)
    if test.chosen.times:
        print(f"  {(time.perf_counter() - begin) / len(found):.1f} s a training")


def line(cells: Sequence[str], found: Sequence[Mapping[str, float]]) -> None:
    """A row of the table: means over seeds, and standard deviations."""
    out = list(cells)
    for metric in METRICS:
        values = [100 * one[metric] for one in found if metric in one]
        if not values:
            continue
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        out.append(f"{statistics.fmean(values):.1f}{spread}")
    print("| " + " | ".join(out) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=("scenes", "photos"))
    parser.add_argument("--out", required=True, help="folder for the runs; old ones are reused")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=1200, help="scenes to make triplets of")
    parser.add_argument("--queries", type=int, default=800, help="scenes to ask about")
    parser.add_argument("--share", type=float, nargs="+", default=[0.0, 0.3, 0.6])
    parser.add_argument("--writer", action="store_true", help="texts of the recipe's own writer")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--times", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    {"scenes": scenes, "photos": photos}[chosen.world](chosen)


if __name__ == "__main__":
    main()
