"""What an evaluation leaves: a table, results.json, submissions, the list of missing media."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import datagen
from datagen import store
from datagen.evaluation._files import printable
from datagen.evaluation.benchmark import Protocol
from datagen.evaluation.measure import COMPOSED, IMAGE, KINDS, TEXT, Line, Measured

#: What is asked with, as columns are headed.
HEADINGS = {COMPOSED: "composed", IMAGE: "image", TEXT: "text"}
FILE, MISSING = "results.json", "missing.txt"


def record(
    measured: Measured,
    protocol: Protocol[Any],
    model: str,
    data: str,
    revision: str = "",
    asked: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole of an evaluation as plain values; figures in per cent, to four decimals.

    asked: settings of the model that figures hang on (composer, frames, precision).
    """
    return {
        "benchmark": protocol.name,
        "paper": protocol.paper,
        "rules": protocol.settings.model_dump(mode="json"),
        "model": model,
        "revision": revision or None,
        "asked": dict(asked or {}),
        "data": data,
        "datagen": datagen.__version__,
        "notes": measured.notes,
        "missing": len(measured.lost),
        "figures": [
            {
                "part": line.part,
                "metric": line.metric,
                **{kind: _percent(line.values.get(kind)) for kind in KINDS},
                "queries": line.queries,
                "of_queries": line.whole_queries,
                "items": line.items,
                "of_items": line.whole_items,
                "each": line.each,
                "partial": bool(line.partial),
            }
            for line in measured.lines
        ],
    }


def _percent(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(100 * value, 4)


def table(measured: Measured) -> Table:
    """A line per metric: asked with both, with the reference or the text alone, and on what."""
    kinds = [kind for kind in KINDS if any(kind in line.values for line in measured.lines)]
    out = Table(box=None, header_style="bold", pad_edge=False)
    out.add_column("part", overflow="fold")
    out.add_column("metric", overflow="fold")
    for kind in kinds:
        out.add_column(HEADINGS[kind], justify="right", no_wrap=True)
    out.add_column("queries", justify="right", no_wrap=True)
    out.add_column("gallery", justify="right", no_wrap=True)
    before = ""
    for line in measured.lines:
        values = [_percent(line.values.get(kind)) for kind in kinds]
        out.add_row(
            escape(line.part if line.part != before else ""),
            escape(line.metric.replace("_", " ")),
            *("–" if value is None else f"{value:.2f}" for value in values),
            _of(line.queries, line.whole_queries),
            _of(line.items, line.whole_items) + _each(line),
        )
        before = line.part
    return out


def _each(line: Line) -> str:
    """How long the lists are that queries have of their own."""
    if line.each is None:
        return ""
    low, high = line.each
    return f", {low:,} each" if low == high else f", {low:,}–{high:,} each"


def _of(have: int, whole: int) -> str:
    return f"{have:,}" if have == whole else f"[yellow]{have:,} of {whole:,}[/]"


def show(
    console: Console, found: Mapping[str, Any], measured: Measured, written: Sequence[str]
) -> None:
    """Print the figures, what was left out, and what was written."""
    rules = ", ".join(
        f"{name}={value if value == str(value).strip() else json.dumps(value)}"
        for name, value in found["rules"].items()
        if value != ""
    )
    told = f"[bold]{escape(found['benchmark'])}[/], {escape(found['model'])}"
    console.print(told, soft_wrap=True, highlight=False)
    console.print(f"[dim]{escape(rules)}[/]\n", soft_wrap=True, highlight=False)
    if measured.lines:
        console.print(table(measured))
    else:
        console.print("Right answers are known to the benchmark's server alone.")
        if not written:
            console.print("--out DIR writes the files that it takes.")
    if measured.lost:
        console.print(f"\n[yellow]{len(measured.lost):,} images or clips are missing[/]")
        if not measured.lines:
            console.print("No submission is written of a part.")
    for note in measured.notes:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True, highlight=False)
    for path in written:
        console.print(f"wrote {escape(path)}", soft_wrap=True, highlight=False)


def write(out: str, found: Mapping[str, Any], files: Mapping[str, Any]) -> list[str]:
    """Write results.json and the submissions ``files`` to the folder ``out``; gives their paths."""
    store.make_folder(out)
    path = store.join(out, FILE)
    store.write_json(path, found)
    written = [path]
    for name, content in files.items():
        written.append(store.join(out, name))
        store.write_json(written[-1], content)
    return written


def write_missing(out: str, lost: Mapping[str, str]) -> str:
    """Write a line for each missing medium, its path and what is wrong; gives the list's path."""
    store.make_folder(out)
    path = store.join(out, MISSING)
    lines = [f"{printable(name)}\t{printable(reason)}" for name, reason in sorted(lost.items())]
    store.write_bytes(path, ("\n".join(lines) + "\n").encode())
    return path
