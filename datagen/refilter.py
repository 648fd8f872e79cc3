"""New thresholds for a finished run: other verdicts and shards, no value computed a second time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datagen import note, recipe, recipe_file, runs, store
from datagen.errors import DatagenError, RecipeError
from datagen.recipe import Step
from datagen.runs import Reporter, Summary
from datagen.step import Filter


def refilter(
    out: str,
    changes: Iterable[str],
    *,
    address: str | None = None,
    cpus: int | None = None,
    reporter: Reporter | None = None,
    report: bool = True,
) -> Summary:
    """Decide the run in ``out`` anew by other rules of its filters.

    changes: ``["similarity.low=0.7"]``, a step and one of its filter's rules. Rows that come in
    by a wider rule get what later steps never computed for them; nothing else is computed. The
    decision before stays readable (``datagen.load(out, decision=…)``), and in force until shards
    and triplets.parquet are written anew: what leaves no row, fails or is killed before that
    leaves the run as it was. Raises RecipeError and DatagenError.
    """
    out = store.local_path(out) if store.is_local(out) else out.rstrip("/")
    found = note.read(out)
    overrides = [_full(change) for change in changes]
    written = found["recipe"]["steps"]
    data = recipe_file.completed(found["recipe"], overrides)
    checked = recipe.check(
        data, str(data.get("name", "recipe")), str(found.get("base", "")), look_at_sources=False
    )
    if not overrides:
        raise DatagenError(f"give rules to change, such as STEP.low=0.7; {_rules(checked.steps)}")
    faults = [_fault(override, written, checked.steps) for override in overrides]
    if any(faults):
        raise RecipeError([fault for fault in faults if fault])
    return runs.run(
        checked,
        out,
        address=address,
        cpus=cpus,
        reporter=reporter,
        onto=found,
        report=report,
    )


def _full(change: str) -> str:
    """``similarity.low=0.7`` as the override of a recipe. Raises DatagenError."""
    name = change.removeprefix("steps.")
    if name.partition("=")[0].count(".") != 1 or "=" not in name:
        raise DatagenError(
            f"{change}: changes of rules look like STEP.RULE=VALUE: similarity.low=0.7"
        )
    return f"steps.{name}"


def _fault(override: str, written: Sequence[Mapping[str, Any]], steps: Sequence[Step]) -> str:
    """What is wrong with a change of a setting that is no rule of a filter; empty if nothing."""
    _, alias, rule = override.partition("=")[0].split(".")
    index = recipe_file.step_index(written, alias)
    operator = None if index is None else steps[index].operator
    if not isinstance(operator, Filter):
        return f"{alias}.{rule}: '{alias}' is no filter; {_rules(steps)}"
    if rule in operator.rules:
        return ""
    return (
        f"{alias}.{rule}: no rule of this filter but what it computes: 'datagen run' changes it; "
        f"{_rules(steps)}"
    )


def _rules(steps: Sequence[Step]) -> str:
    """The rules that the filters of a recipe have."""
    known = [
        f"{step.id}.{rule}"
        for step in steps
        if isinstance(step.operator, Filter)
        for rule in sorted(step.operator.rules)
    ]
    return f"rules of this run: {', '.join(known)}" if known else "this run has no filter"
