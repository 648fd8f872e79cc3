"""``datagen plan``: what a run would do, before anything is computed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datagen import plan, recipe, store
from datagen.cluster.resources import fits, this_machine
from datagen.errors import DatagenError
from datagen.runs import source_parts
from datagen.step import Resources, TableOperator


@dataclass
class StepOutlook:
    """One step of a plan: ``state`` is done, going on, or to do."""

    id: str
    operator: str
    needs: list[str]
    gives: list[str]
    resources: Resources
    state: str
    rows: int | None


@dataclass
class Outlook:
    """What ``datagen plan`` knows: types checked, parts listed, states read, disk measured."""

    name: str
    parts: int
    records: int | None
    source_bytes: int | None
    free_bytes: int | None
    steps: list[StepOutlook] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def outlook(name: str, overrides: Iterable[str], out: str, address: str | None) -> Outlook:
    """Check a recipe and look at the run directory ``out``. Raises RecipeError, DatagenError."""
    checked = recipe.load(name, overrides)
    place = out or os.path.join(os.getcwd(), "runs", checked.name)
    place = store.local_path(place) if store.is_local(place) else place
    parts = source_parts(checked, place)
    counts = [part.get("count") for part in parts]
    records = sum(c for c in counts if c is not None) if None not in counts else None
    sizes = [part.get("size") for part in parts]
    found = Outlook(
        checked.name,
        len(parts),
        records,
        sum(s for s in sizes if s is not None) if None not in sizes else None,
        _free(place),
    )
    for planned in plan.plan(checked, place, parts):
        done = planned.done()
        state, rows = "to do", None
        if done:
            state, rows = "done", done["rows_in"]
        elif held := len(store.Journal(planned.journal).units()):
            state, rows = "going on", held
        step = planned.step
        level = step.before if step else "items"
        operator: Any = step.operator if step else checked.source
        found.steps.append(
            StepOutlook(
                planned.id,
                f"{planned.kind}: {planned.op}",
                sorted(operator.needs(level)),
                sorted(operator.gives(level)),
                step.resources if step else Resources(),
                state,
                rows,
            )
        )
    rows_wise = [
        (s.id, s.resources) for s in checked.steps if not isinstance(s.operator, TableOperator)
    ]
    if address is None and "RAY_ADDRESS" not in os.environ:
        found.faults = fits(rows_wise, [this_machine()])
    return found


def _free(place: str) -> int | None:
    if not store.is_local(place):
        return None
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free


def show(found: Outlook, console: Console) -> None:
    """Print a plan. Raises DatagenError where the machine cannot run it."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("step", "operator", "needs", "gives", "worker", "state"):
        table.add_column(heading, overflow="fold")
    for step in found.steps:
        want = step.resources
        worker = f"{want.cpus:g} CPU" + (f", {want.gpus:g} GPU" if want.gpus else "")
        state = step.state + (f" ({step.rows:,} rows)" if step.rows is not None else "")
        cells = (step.id, step.operator, ", ".join(step.needs), ", ".join(step.gives), worker)
        table.add_row(*(escape(cell) for cell in cells), state)
    console.print(table)
    listed = f"{found.records:,} records" if found.records is not None else "records not counted"
    console.print(f"\nsource: {listed} in {found.parts:,} parts")
    if found.source_bytes is not None:
        console.print(
            f"media: {found.source_bytes / 1e9:.2f} GB; shards hold each picture once per triplet "
            "that uses it, so plan for several times that"
        )
    if found.free_bytes is not None:
        console.print(f"free at the run directory: {found.free_bytes / 1e9:.1f} GB")
    if found.faults:
        raise DatagenError("; ".join(found.faults))
