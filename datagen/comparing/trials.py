"""One small retriever for each recipe and seed, on one budget, measured on the same queries."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datagen
from datagen import recipe_file, runs, store
from datagen.errors import DatagenError
from datagen.evaluation import protocols
from datagen.evaluation.measure import measure
from datagen.training import loop, retriever, settings
from datagen.training.loader_settings import Source

#: Called with what is being done.
Say = Callable[[str], None]

#: The training recipe where nobody names another.
SMALL = "small"
#: Operators that ask a language model about each of their rows.
ASKING = {"llm", "vlm", "vlm_then_llm", "staged_objects", "caption", "quadruple", "rewrite",
          "judge"}  # fmt: skip
#: Operators that paint a picture for each of their rows.
PAINTING = {"prompt_to_prompt", "instruct", "inpaint", "img2img", "two_panel"}
SPLIT, TRAIN = "val", "train"


@dataclass(frozen=True)
class Cost:
    """What the triplets of a run took: seconds of its steps, rows that a language model was asked
    about, rows that a picture was painted for. What was taken over from an earlier run is counted.
    """

    seconds: float
    asked: int
    painted: int


@dataclass(frozen=True)
class Trial:
    """A recipe: its run, its triplets in all and those trained on, and what they took; figures by
    metric, a value for each seed, shares from 0 to 1, means over what is measured on.
    """

    name: str
    run: str
    triplets: int
    trained_on: int
    cost: Cost
    figures: Mapping[str, Sequence[float]]

    def mean(self, metric: str) -> float:
        """Over seeds."""
        return statistics.fmean(self.figures[metric])

    def spread(self, metric: str) -> float:
        """The standard deviation over seeds; 0 of one."""
        values = self.figures[metric]
        return statistics.stdev(values) if len(values) > 1 else 0.0


def check(
    recipes: Sequence[str], on: Sequence[str], recipe: str = "", changes: Iterable[str] = ()
) -> None:
    """Raise DatagenError for what can be told wrong before any recipe runs."""
    if len(recipes) < 2:
        raise DatagenError("name at least two recipes or runs to compare")
    for one in on:
        if not one.startswith(protocols.RUN):
            raise DatagenError(f"--on {one}: run:DIR or run:DIR#SPLIT expected")
    _settings(recipe, changes, 1)


def made(
    recipes: Sequence[str], out: str, overrides: Iterable[str], address: str | None, say: Say
) -> dict[str, str]:
    """Run directories by name: runs as they are, recipes run below ``out`` with the same
    ``overrides``. Raises DatagenError.
    """
    found: dict[str, str] = {}
    wanted: dict[str, str] = {}
    for one in recipes:
        if store.exists(store.join(one, "run.json")):
            name, place = os.path.basename(os.path.normpath(one)), one
            status = datagen.load(one).status
            if status != "finished":
                raise DatagenError(f"{one}: this run is {status}; finish it first")
        elif os.sep in one and not one.endswith((".yaml", ".yml")):
            raise DatagenError(f"{one}: neither a run (no run.json there) nor a recipe")
        else:
            name = recipe_file.find(one).stem
            place = os.path.join(out, "runs", name)
            wanted[name] = one
        if name in found:
            raise DatagenError(f"two recipes are called '{name}'; rename a file or a folder")
        found[name] = place
    for name, one in wanted.items():
        say(f"running {name}")
        runs.run(one, found[name], overrides, address=address, report=False)
    return found


def compared(
    places: Mapping[str, str],
    out: str,
    seeds: int,
    triplets: int = 0,
    on: Sequence[str] = (),
    recipe: str = "",
    changes: Iterable[str] = (),
    say: Say = lambda what: None,
) -> list[Trial]:
    """Train on each run and measure all models alike.

    places: run directories by name; seeds: models of each; triplets: of each that are trained on
    (0: as many as the poorest has); on: ``run:DIR#SPLIT``, by default the split ``val`` of every
    run; recipe, changes: of the training. Raises DatagenError.
    """
    check(list(places), on)
    have = {name: _count(place) for name, place in places.items()}
    poorest = min(have, key=lambda name: have[name])
    if triplets > have[poorest]:
        raise DatagenError(
            f"--triplets {triplets:,}: '{poorest}' has {have[poorest]:,} in its split {TRAIN}; "
            "choose fewer, or 0 for as many as the poorest has"
        )
    most = triplets or have[poorest]
    chosen = _settings(recipe, changes, most)
    asked = list(on) or [f"{protocols.RUN}{place}#{SPLIT}" for place in places.values()]
    benchmarks = []
    for one in asked:
        protocol = protocols.protocol(one)
        benchmarks.append((protocol, protocol.read(one.removeprefix(protocols.RUN))))
    found = []
    for name, place in places.items():
        values: dict[str, list[float]] = {}
        for seed in range(seeds):
            say(f"{name}: training, seed {seed}")
            own = chosen.model_copy(
                update={
                    "seed": seed,
                    "loader": chosen.loader.model_copy(update={"seed": seed}),
                }
            )
            folder = os.path.join(out, "models", f"{name}-{seed}")
            loop.train([Source(place, split=TRAIN)], folder, own)
            say(f"{name}: measuring, seed {seed}")
            model = retriever.load(folder, device=own.device)
            tables = [_figures(model, *one) for one in benchmarks]
            for metric in tables[0]:
                mean = statistics.fmean(table[metric] for table in tables)
                values.setdefault(metric, []).append(mean)
        found.append(Trial(name, place, have[name], most, cost(place), values))
    return found


def _settings(recipe: str, changes: Iterable[str], most: int) -> settings.TrainSettings:
    """Settings of every training, with no validation of its own."""
    base = settings.read(recipe or SMALL, changes)
    loader = base.loader.model_copy(
        update={"limit": most, "batch_size": min(base.loader.batch_size, most)}
    )
    validation = base.validation.model_copy(update={"on": "none"})
    return base.model_copy(update={"loader": loader, "validation": validation})


def _figures(model: Any, protocol: Any, benchmark: Any) -> dict[str, float]:
    found = measure(model, protocol, benchmark, probes=False)
    return {line.metric: line.values["composed"] for line in found.lines}


def _count(place: str) -> int:
    """Triplets of a run's split ``train``. Raises DatagenError where it has none."""
    table = datagen.load(place).triplets()
    if "split" not in table.column_names:
        raise DatagenError(f"{place}: this run has no splits; add a split step to its recipe")
    count = int(table["split"].to_pylist().count(TRAIN))
    if not count:
        raise DatagenError(f"{place}: no triplet in its split '{TRAIN}'")
    return count


def cost(place: str) -> Cost:
    """What the run in ``place`` took, by its run.json."""
    funnel = datagen.load(place).note["funnel"]
    return Cost(
        sum(step["seconds"] for step in funnel),
        sum(step["rows_in"] for step in funnel if step["op"] in ASKING),
        sum(step["rows_in"] for step in funnel if step["op"] in PAINTING),
    )
