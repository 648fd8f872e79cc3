"""What Ray and the journal add to a plain loop over the same operators.

    python benchmarks/overhead.py [--rows 50000]

The peer calls the very same operators on the very same rows: a pool of two processes for row
operators, plain calls for whole-table ones, no Ray, no journal, no files. Fixed cost is the
difference on 64 rows of a recipe of ten steps; the marginal share is what each further row costs
more. Every row is an item of its own that the source reads, hashes and decodes, and that the
duplicates filter hashes again; every item finds one partner.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from typing import Any

import pyarrow as pa

from datagen import ingest, plan, recipe, runs, schema, tables
from datagen.explode import explode
from datagen.plan import LAYOUT
from datagen.sources.tinyworld import TinyWorld
from datagen.space import Space
from datagen.step import Context, Embedder, Filter, RowOperator, TableOperator, Tables

PROCESSES = 2
PICTURES = 500
BATCH = 256
OWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "own")


def make_collection(folder: str, rows: int) -> None:
    """``rows`` captions over 500 rendered pictures; captions 2n and 2n+1 differ in one word."""
    world = TinyWorld(TinyWorld.Settings(count=PICTURES, size=256, format="jpeg"))
    context = Context(media_dir=folder, seed=1)
    places = [r["media"] for p in world.parts(context) for r in world.read(p, context).to_pylist()]
    for number, place in enumerate(places):
        with open(place["path"], "rb") as tar, open(f"{folder}/{number}.jpg", "wb") as picture:
            tar.seek(place["offset"])
            picture.write(tar.read(place["size"]))
    with open(f"{folder}/items.jsonl", "w") as file:
        for number in range(rows):
            name = f"{number * 7 % PICTURES}.jpg"
            colour = ("red", "blue")[number % 2]
            caption = f"a {colour} thing called w{number // 2} or v{number // 2}"
            file.write(json.dumps({"file": name, "caption": caption}) + "\n")


def ten_steps(folder: str) -> recipe.Recipe:
    """A recipe whose ten steps (the source counts) are of every kind."""
    own = f"{OWN}/caption_length.py:CaptionLength"
    source = {"type": "folder", "path": folder, "annotations": "items.jsonl"}
    return recipe.check(
        {
            "name": "overhead",
            "source": {**source, "media": "file", "captions": "caption"},
            "steps": [
                {"filter": {"op": own, "id": "words", "low": 1}},
                {"embed": {"space": "caption", "model": "tfidf", "width": 16}},
                {"pair": {"op": "one_word_diff"}},
                {"filter": {"op": "similarity", "space": "caption", "low": -1}},
                {"filter": {"op": "duplicates", "radius": 0, "same_text": False}},
                {"text": {"op": "template"}},
                {"filter": {"op": "similarity", "id": "again", "space": "caption", "high": 1}},
                {"negatives": {"mined": 0}},
                {"split": {"train": 1.0, "val": 0.0, "test": 0.0}},
            ],
        }
    )


_worker: dict[str, Any] = {}


def _open(operator: RowOperator[Any], context: Context) -> None:
    operator.open(context)
    _worker["operator"] = operator


def _call(rows: pa.Table) -> pa.Table:
    operator = _worker["operator"]
    return operator(operator.prepare(rows))


def over_rows(operator: RowOperator[Any], context: Context, rows: pa.Table, size: int) -> pa.Table:
    """The operator over all rows, in two processes; a kept verdict where it gives none."""
    batches = [rows.slice(i, size) for i in range(0, rows.num_rows, size)]
    with multiprocessing.Pool(PROCESSES, _open, (operator, context)) as pool:
        out = pa.concat_tables(pool.map(_call, batches, 1), promote_options="permissive")
    for name in tables.VERDICT:
        if name not in out.column_names:
            value = schema.KEPT if name == "verdict" else None
            out = out.append_column(name, pa.array([value] * out.num_rows, pa.string()))
    return out


def plain_loop(made: recipe.Recipe, scratch: str) -> int:
    """The recipe without Ray, journal and files; returns the number of triplets."""
    context = Context("source", made.seed, scratch, scratch)
    (origin,) = made.sources
    name = plan.of_source(origin)
    parts = [{"source": name, "part": part} for part in origin.source.parts(context)]
    units = [(ingest.part_id(part), schema.canonical_json(part)) for part in parts]
    table = pa.table([list(column) for column in zip(*units, strict=True)], schema=ingest.PARTS)
    reader = ingest.Ingest({name: origin}, made.media)
    items, _ = ingest.settle(over_rows(reader, context, table, 1))
    rows, level, spaces = items, "items", {}
    for step in made.steps:
        operator = step.operator
        context = Context(step.id, made.seed, scratch, scratch, spaces)
        if isinstance(operator, TableOperator):
            result = operator(Tables(items, rows, level), context)
            rows = tables.by_id(result.rows)
            if result.vectors is not None:
                name = operator.settings.space
                spaces = {**spaces, name: f"{scratch}/{name}"}
                Space.write(spaces[name], result.rows["id"].to_pylist(), result.vectors)
        else:
            assert isinstance(operator, RowOperator)
            assert not isinstance(operator, Embedder)
            subjects = items if operator.on_items else rows
            names = sorted({"id", *operator.columns("items" if operator.on_items else level)})
            out = over_rows(operator, context, subjects.select(names), BATCH)
            if isinstance(operator, Filter):
                scores = out.drop_columns(list(tables.VERDICT))
                if operator.on_items:
                    items = tables.with_columns(items, scores)
                else:
                    rows = tables.with_columns(rows, scores)
                rows = tables.kept(rows, operator.decide(rows, items))
            else:
                out = out.rename_columns(["unit", *out.column_names[1:]])
                rows = explode(rows, out, operator.provenance(context)).rows
        items = rows if step.after == "items" else items
        level = step.after
    return int(rows.num_rows)


def measured(rows: int) -> tuple[float, float]:
    """Seconds of the plain loop and of a run, on a fresh collection of ``rows`` rows."""
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(f"{folder}/data")
        make_collection(f"{folder}/data", rows)
        made = ten_steps(f"{folder}/data")
        started = time.perf_counter()
        plain = plain_loop(made, f"{folder}/plain")
        middle = time.perf_counter()
        ours = runs.run(made, f"{folder}/run", cpus=PROCESSES)
        ended = time.perf_counter()
        assert ours.triplets == plain, (ours.triplets, plain)
        return middle - started, ended - middle


def main() -> None:
    """Measure, and print the table of docs/PERFORMANCE.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=50_000)
    rows = parser.parse_args().rows
    small_plain, small_run = measured(64)
    big_plain, big_run = measured(rows)
    loop, run = big_plain - small_plain, big_run - small_run
    print(f"`python benchmarks/overhead.py --rows {rows}` (layout {LAYOUT}, {PROCESSES} CPUs)\n")
    print("| rows | plain loop, s | datagen run, s |\n|---|---|---|")
    print(f"| 64 | {small_plain:.1f} | {small_run:.1f} |")
    print(f"| {rows:,} | {big_plain:.1f} | {big_run:.1f} |\n")
    print(f"fixed: {small_run - small_plain:.1f} s for ten steps; ", end="")
    print(f"marginal: {loop:.1f} s become {run:.1f} s, {run / loop - 1:+.0%}")


if __name__ == "__main__":
    main()
