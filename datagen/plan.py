"""Fingerprints: where each step's values and decisions lie, and what must be done again.

Two fingerprints follow a recipe down its steps. The fingerprint of *values* covers a step's
operator, settings, code version and model revision, and the values of the columns that it reads;
it names the folder of the step's journal. The fingerprint of *rows* covers which rows are in the
table at that point: every rule and threshold above it; it names the folder of the decision. So a
changed threshold makes new decisions and keeps every score, text and image that was computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datagen import registry, schema, store
from datagen.ingest import part_id
from datagen.recipe import OF_ITEMS, Origin, Recipe, Step
from datagen.step import Embedder, Filter, Operator, RowOperator, TableFilter, TableOperator

#: Raised when the layout of run directories changes.
LAYOUT = 1

#: Beside the tables of a step whose failed rows were tried again with success.
RETRIED = "retried.json"


def fingerprint(*parts: Any) -> str:
    """A short hash of plain values."""
    text = schema.canonical_json(list(parts))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Planned:
    """A step with its place in the run directory.

    folder holds the journal (values), decision the tables (rows); ``spaces`` are the folders of
    the spaces that the step may open, ``embedders`` the operators that made them. onward is what
    later steps know of its rows: ``rows``, and what trying failed rows again has changed in them.
    """

    id: str
    kind: str
    op: str
    values: str
    rows: str
    folder: str
    spaces: Mapping[str, str]
    step: Step | None = None
    embedders: Mapping[str, Operator[Any]] = field(default_factory=dict)

    @property
    def onward(self) -> str:
        """The fingerprint of the rows that later steps see."""
        path = store.join(self.decision, RETRIED)
        return fingerprint(self.rows, store.read_json(path)) if store.exists(path) else self.rows

    @property
    def journal(self) -> str:
        """Folder of the journal parts."""
        return store.join(self.folder, "journal")

    @property
    def decision(self) -> str:
        """Folder of the tables and of done.json."""
        return store.join(self.folder, self.rows[:8])

    def done(self) -> dict[str, Any] | None:
        """What done.json says, or None while the step is not complete."""
        path = store.join(self.decision, "done.json")
        return store.read_json(path) if store.exists(path) else None


def out_of_reach(planned: Sequence[Planned], retry_failed: bool = False) -> list[str]:
    """What steps that are not done need from elsewhere (a server) and cannot get, a line each."""
    faults: list[str] = []
    for place in planned:
        done = place.done()
        if place.step is not None and (done is None or (retry_failed and done["failed"])):
            faults += [f"steps.{place.id}: {fault}" for fault in place.step.operator.reach()]
    return faults


def _settings(operator: Operator[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that make values, and settings that only decide."""
    everything = operator.settings.model_dump(mode="json")
    rules = operator.rules if isinstance(operator, Filter) else frozenset()
    return (
        {name: value for name, value in everything.items() if name not in rules},
        {name: value for name, value in everything.items() if name in rules},
    )


def of_source(origin: Origin) -> str:
    """The fingerprint of a source: its operator, settings, code version, revision, and its id."""
    settings, _ = _settings(origin.source)
    version = registry.code_version(type(origin.source))
    return fingerprint(origin.type, origin.id, version, settings, origin.source.revision())


def plan(
    recipe: Recipe, out: str, parts: Sequence[dict[str, Any]], listed: str | None = None
) -> list[Planned]:
    """Place every step of ``recipe`` in the run directory ``out``; the source comes first.

    ``parts`` are the units of work of all sources, each with the fingerprint of its source;
    ``listed`` is what they came to when they were listed before.
    """
    steps_folder = store.join(out, "steps")
    # What sources say of themselves stands in their parts: one more source reads nothing again.
    values = fingerprint(LAYOUT, recipe.media.model_dump(), recipe.seed)
    rows = listed or fingerprint(values, sorted(part_id(part) for part in parts))
    folder = store.join(steps_folder, f"source-{values[:8]}")
    types = ", ".join(origin.type for origin in recipe.sources)
    planned = [Planned("source", "source", types, values, rows, folder, {})]
    # Ids of items are hashes of their content, so their columns need no other lineage.
    lineage = {
        given: "content" for origin in recipe.sources for given in origin.source.gives("items")
    }
    lineage["collection"] = planned[0].onward
    spaces: dict[str, str] = {}
    embedders: dict[str, Operator[Any]] = {}
    for step in recipe.steps:
        before = planned[-1].onward
        place = _place(step, before, lineage, spaces, recipe.seed, steps_folder)
        planned.append(replace(place, embedders=embedders))
        for given in step.operator.gives(step.before):
            lineage[given] = planned[-1].values
            if given.startswith("space."):
                name = given.removeprefix("space.")
                spaces = {**spaces, name: planned[-1].decision}
                embedders = {**embedders, name: step.operator}
                lineage[f"collection.{name}"] = planned[-1].onward
        if step.after == "items" or step.makes_items:
            lineage["collection"] = planned[-1].onward
        if step.makes_rows:
            lineage["pairs"] = planned[-1].values
        # What a filter changes by its rules hangs on all that decided about its rows.
        for name in step.operator.settles if isinstance(step.operator, Filter) else ():
            lineage[name] = planned[-1].onward
    return planned


def _read(step: Step, lineage: Mapping[str, str]) -> set[str]:
    """What a step reads: what it says that it needs, and columns that an earlier step changed."""
    needs = step.operator.needs(step.before)
    if not isinstance(step.operator, RowOperator):
        return needs
    level = "items" if step.operator.on_items else step.before
    columns = {f"items.{name}" for name in step.operator.columns(level)} if level == "items" else ()
    return needs.union(
        name for name in OF_ITEMS.intersection(columns) if lineage.get(name, "content") != "content"
    )


def _place(
    step: Step,
    rows_before: str,
    lineage: Mapping[str, str],
    spaces: Mapping[str, str],
    seed: int,
    steps_folder: str,
) -> Planned:
    operator = step.operator
    values_settings, rules = _settings(operator)
    # A whole-table step depends on every row; the id stands in the provenance it writes.
    whole = None
    if isinstance(operator, (TableOperator, TableFilter)):
        whole = [rows_before] if isinstance(operator, Filter) else [rows_before, step.id]
    values = fingerprint(
        step.kind,
        step.op,
        registry.code_version(type(operator)),
        values_settings,
        operator.revision(),
        seed,
        sorted((need, lineage.get(need, "")) for need in _read(step, lineage)),
        whole,
    )
    # An operator that writes its line of provenance writes the id of its step with it.
    settles = isinstance(operator, Filter) and bool(operator.settles)
    writes = step.makes_rows or not isinstance(operator, (Filter, Embedder)) or settles
    rows = fingerprint(rows_before, values, rules, step.id if writes else None)
    name = f"{step.kind}-{step.op.rpartition(':')[2]}-{values[:8]}"
    folder = store.join(steps_folder, name)
    return Planned(step.id, step.kind, step.op, values, rows, folder, dict(spaces), step)
