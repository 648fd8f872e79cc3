"""`datagen compare` over five recipes: of one rendered world, and of real product photos.

`scenes`: recipes make triplets of the same scenes, a quarter of whose captions are wrong; queries
are one-word pairs with true captions of another world. `photos`: product photos with titles and
labels, cut in two by item (benchmarks/teaching.py); queries ask for another label of the other
half, and every photo with the labels that are asked for is a right answer.

Every recipe runs without a model hub: captions are compared by TF-IDF, pictures by
`bundled:tinyclip` or the image classifier of the test data, and texts that a large model would
write are those of `template`, or of `bundled:tinywriter` for scenes.

    python benchmarks/recipes_compared.py scenes --out /tmp/compared
    python benchmarks/recipes_compared.py photos --out /tmp/compared --data ../shared/data
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import teaching
from rich.console import Console

import datagen
from datagen.comparing import results, trials
from datagen.libraries import import_torch

WRITER = "{kind: transformers, model: 'bundled:tinywriter', batch_size: 64}"
WORLD = "type: tinyworld, count: {count}, omit: 0.08, misname: 0.08, contradict: 0.08"
SPACE = "steps.embed_image.model=bundled:tinyclip"
CAPTION = ["steps.embed_caption.model=tfidf", "steps.similarity.low=0.3"]
#: Recipes of scenes, and what lets them run here.
SCENES: Mapping[str, Sequence[str]] = {
    "demo": [],
    "covr_rule_based": [],
    "cc_coir": [SPACE, *CAPTION, f"steps.llm.engine={WRITER}"],
    "facap": [SPACE, "steps.pair.same_label=background", "steps.vlm_then_llm={op: template}"],
    "spn4cir": [SPACE, "steps.caption=null", "steps.rank_band.low=0.1",
                "steps.rank_band.high=0.2"],
}  # fmt: skip
TRAIN = "steps.split={train: 1, val: 0, test: 0}"
TEST = "steps.split={train: 0, val: 0, test: 1}"


def of_scenes(out: Path, count: int) -> dict[str, str]:
    """Runs by recipe, and the one that is asked."""
    source = f"source={{{WORLD.format(count=count)}}}"
    places = {"held_out": str(out / "held_out")}
    held = "source={type: tinyworld, count: 800, seed: 1000}"
    datagen.run("covr_rule_based", places["held_out"], [held, TEST], report=False)
    for name, changes in SCENES.items():
        places[name] = str(out / name)
        datagen.run(name, places[name], [source, *changes, TRAIN], report=False)
    return places


def of_photos(out: Path, data: Path) -> dict[str, str]:
    """The same of product photos."""
    halves = teaching.halves(data, out)
    places = {"held_out": str(out / "held_out")}
    every = ["steps.label_diff.targets=null", "steps.label_diff.max_per_item=null",
             "steps.label_diff.max_per_reference=1"]  # fmt: skip
    given = teaching.given(data, halves["held_out"])
    datagen.run("eufcc_cir", places["held_out"], [*given, *every, TEST], report=False)
    given = teaching.given(data, halves["train"])
    for name, changes in teaching.recipes(data).items():
        places[name] = str(out / name)
        datagen.run(name, places[name], [*given, *changes], report=False)
    return places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", choices=("scenes", "photos"))
    parser.add_argument("--out", required=True, type=Path, help="folder of runs and models")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=1200, help="scenes to make triplets of")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    chosen = parser.parse_args()
    import_torch()
    out, changes = chosen.out / chosen.world, [f"steps={chosen.steps}"]
    if chosen.world == "scenes":
        places, metric = of_scenes(out, chosen.count), "R@1"
    else:
        # The model knows rendered scenes: photos are learned by the image tower too.
        places, metric = of_photos(out, chosen.data.resolve()), "R@10"
        changes += ["model.image=all", "towers_learning_rate=0.0003"]
    asked = f"run:{places.pop('held_out')}#test"
    found = trials.compared(
        places, str(out / "compared"), chosen.seeds, 0, [asked], "small", changes, print
    )
    rows = results.record(found, metric)
    about = f"{found[0].trained_on:,} triplets of each, {chosen.seeds} seeds; measured on {asked}"
    Console(width=110).print(results.table(rows, metric))
    print(about)
    results.write(str(out / "compared"), rows, metric, about)


if __name__ == "__main__":
    main()
