"""The report page of a large run: its size, the time to write it, and the time to see it.

Writes the tables of a run of many triplets directly (rendered pictures, two filters, five
negatives each, two verdicts), then its page, and opens that in headless Chromium from the disk:
time to the first paint, to the first cards, of a search through all texts, and of a sort.

    python benchmarks/report_page.py --triplets 50000 --items 2000
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import datagen
from datagen import schema, store
from datagen.report import page
from datagen.sources.tinyworld import TinyWorld
from datagen.step import Context

CHROMIUM = os.environ.get("DATAGEN_CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
RULE = ("rejected", "too_low", "0.1800 < 0.2")


def items(out: str, count: int) -> list[dict[str, Any]]:
    """Rendered scenes as rows of the items table."""
    source = TinyWorld(TinyWorld.Settings(count=count))
    context = Context("source", 0, out, store.join(out, "media"))
    rows = []
    for part in source.parts(context):
        for record in source.read(part, context).to_pylist():
            row = {name: record[name] for name in ("key", "media", "captions", "labels")}
            row["media"].update(modality="image", width=96, height=96)
            name = schema.item_id(None, row["captions"], row["labels"])
            rows.append({"id": name, "source": "tinyworld", **row})
    return rows


def triplets(rows: list[dict[str, Any]], count: int) -> pa.Table:
    """Random triplets of ``rows``; a tenth of them rejected by a filter."""
    rng = np.random.default_rng(0)
    members = [schema.member(row) for row in rows]
    chosen = rng.integers(0, len(rows), (count, 7))
    made = []
    for number, picks in enumerate(chosen.tolist()):
        text = f"make it number {number}: {members[picks[1]]['caption']}"
        negatives = [{"kind": "mined", "score": 0.5, "item": members[at]} for at in picks[2:]]
        lost = number % 10 == 0
        changes = [{"field": "caption", "removed": "one", "added": "two"}]
        row = {
            "id": schema.triplet_id(str(number), text),
            "references": [members[picks[0]]],
            "targets": [members[picks[1]]],
            "evidence": {"operator": "made", "reason": "two captions are near", "changes": changes},
            "provenance": [{"step": "made", "operator": "made", "seed": 0}],
            "pair": schema.content_id(str(number)),
            "modification": text,
            "score_similarity_caption": round(float(rng.beta(5, 2)), 4),
            "score_clip_score": round(float(rng.normal(0.3, 0.05)), 4),
            "negatives": negatives,
            "split": None if lost else ("train", "val", "test")[number % 3],
        }
        told = (*RULE, "clip_score") if lost else ("kept", None, None, None)
        row.update(zip(("verdict", "rule", "detail", "step"), told, strict=True))
        made.append(row)
    scores = ("score_similarity_caption", "score_clip_score")
    added = [*schema.VERDICT_FIELDS, pa.field("step", pa.string())]
    fields = [*schema.TRIPLETS, *(pa.field(name, pa.float64()) for name in scores)]
    made.sort(key=lambda row: str(row["id"]))
    whole = pa.schema([*fields, schema.NEGATIVES, schema.SPLIT, *added])
    return pa.Table.from_pylist(made, whole)


def run(out: str, count: int, number: int) -> None:
    """Write a finished run of ``number`` triplets over ``count`` items into ``out``."""
    rows = items(out, count)
    table = triplets(rows, number)
    folder = store.join(out, "steps/source-tinyworld/0")
    store.make_folder(folder)
    verdicts = pa.table({"id": [row["id"] for row in rows], "verdict": ["kept"] * len(rows)})
    store.write_table(store.join(folder, "table.parquet"), pa.Table.from_pylist(rows, schema.ITEMS))
    store.write_table(store.join(folder, "verdicts.parquet"), verdicts)
    store.write_json(store.join(folder, "done.json"), {})
    store.write_table(store.join(out, "triplets.parquet"), table)
    step = {"id": "source", "kind": "source", "op": "tinyworld", "level": "items"}
    done = {"rows_in": count, "kept": count, "rejected": {}, "failed": {}, "rows_out": count}
    recipe = {"name": "large", "seed": 0, "source": {"type": "tinyworld", "count": count}}
    note = {
        "status": "finished",
        "rows": "0",
        "seed": 0,
        "versions": {"datagen": datagen.__version__},
        "recipe": {**recipe, "steps": []},
        "steps": [{"id": "source", "folder": "steps/source-tinyworld/0", "revision": ""}],
        "funnel": [{**step, **done, "seconds": 0.0, "notes": {}, "reused": False}],
    }
    store.write_json(store.join(out, "run.json"), note)


def seen(path: str) -> dict[str, float]:
    """Milliseconds in Chromium: first paint, first cards, a search, a sort."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(f"file://{path}")
        tab.wait_for_selector("#list[data-drawn='1']")
        paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        cards = "performance.getEntriesByName('gallery')[0].startTime"
        times = {"first paint": tab.evaluate(paint), "first cards": tab.evaluate(cards)}
        started = time.perf_counter()
        tab.fill("#q", "striped turquoise moon")
        tab.wait_for_selector("#list[data-drawn='2']")
        times["first search"] = 1000 * (time.perf_counter() - started)
        started = time.perf_counter()
        tab.fill("#q", "purple heart")
        tab.wait_for_selector("#list[data-drawn='3']")
        times["next search"] = 1000 * (time.perf_counter() - started)
        tab.click("#clear")
        tab.wait_for_selector("#list[data-drawn='4']")
        started = time.perf_counter()
        tab.select_option("#sort", "score_clip_score")
        tab.wait_for_selector("#list[data-drawn='5']")
        times["sort by a score"] = 1000 * (time.perf_counter() - started)
        browser.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triplets", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument("--out", help="a folder to keep the run in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or folder
        run(out, options.items, options.triplets)
        started = time.perf_counter()
        path = page.write(datagen.load(out))
        print(f"write                {time.perf_counter() - started:8.1f} s")
        files = [file for file in Path(path).parent.rglob("*") if file.is_file()]
        print(f"index.html           {os.path.getsize(path) / 1e6:8.2f} MB")
        for ending in (".js", ".webp"):
            sizes = [file.stat().st_size for file in files if file.suffix == ending]
            print(f"{ending:12} {len(sizes):5} × {sum(sizes) / 1e6 / max(1, len(sizes)):8.2f} MB")
        if CHROMIUM:
            for name, value in seen(path).items():
                print(f"{name:20} {value:8.0f} ms")
        else:
            print("no Chromium (DATAGEN_CHROMIUM): nothing was opened")


if __name__ == "__main__":
    main()
