"""``datagen plan``: what a run would do, before anything is computed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field

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
    counts = [part["part"].get("count") for part in parts]
    records = sum(c for c in counts if c is not None) if None not in counts else None
    sizes = [part["part"].get("size") for part in parts]
    found = Outlook(
        checked.name,
        len(parts),
        records,
        sum(s for s in sizes if s is not None) if None not in sizes else None,
        _free(place),
    )
    given = {one for origin in checked.sources for one in origin.source.gives("items")}
    places = plan.plan(checked, place, parts)
    for planned in places:
        done = planned.done()
        state, rows = "to do", None
        if done:
            state, rows = "done", done["rows_in"]
        elif held := len(store.Journal(planned.journal).units()):
            state, rows = "going on", held
        step = planned.step
        level = step.before if step else "items"
        needs = step.operator.needs(level) if step else set()
        gives = step.operator.gives(level) if step else given
        found.steps.append(
            StepOutlook(
                planned.id,
                f"{planned.kind}: {planned.op}",
                sorted(needs),
                sorted(gives),
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
    found.faults += plan.out_of_reach(places)
    return found


def _free(place: str) -> int | None:
    if not store.is_local(place):
        return None
    while not os.path.exists(place):
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free


def show(found: Outlook, console: Console) -> None:
    """Print a plan. Raises DatagenError where the machine cannot run it."""
    ordinary = Resources()
    special = [s for s in found.steps if (s.resources.cpus, s.resources.gpus) != (ordinary.cpus, 0)]
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for heading in ("step", "operator"):
        table.add_column(heading, overflow="fold")
    table.add_column("needs", no_wrap=True)
    table.add_column("gives", overflow="fold")
    table.add_column("state", no_wrap=True)
    if special:
        table.add_column("worker", no_wrap=True)
    for step in found.steps:
        state = step.state + (f", {step.rows:,} rows" if step.rows is not None else "")
        cells = [step.id, step.operator, "\n".join(step.needs), "\n".join(step.gives), state]
        table.add_row(*(escape(cell) for cell in cells), *[_worker(step.resources)] * bool(special))
    console.print(table)
    parts = f"{found.parts:,} part{'s' if found.parts != 1 else ''}"
    listed = f"{found.records:,} records" if found.records is not None else "records"
    size = f", {_size(found.source_bytes)} to read" if found.source_bytes else ""
    console.print(f"\nsource: {listed} in {parts}{size}", highlight=False)
    if found.free_bytes is not None:
        console.print(
            f"free at the run directory: {_size(found.free_bytes)}; the shards hold a picture once "
            "for each triplet that uses it",
            highlight=False,
        )
    if found.faults:
        raise DatagenError("; ".join(found.faults))


def _worker(want: Resources) -> str:
    many = f"{want.workers} × " if want.workers > 1 else ""
    return f"{many}{want.cpus:g} CPU" + (f", {want.gpus:g} GPU" if want.gpus else "")


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit in ("B", "kB") else f"{value:.1f} {unit}"
