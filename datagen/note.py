"""What a run says of itself: ``run.json``, and a copy for every decision that it has come to."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from datagen import plan, store
from datagen.errors import DatagenError
from datagen.plan import Planned
from datagen.recipe import Recipe

#: Folder of the notes of finished runs, by the fingerprint of their rows.
DECISIONS = "decisions"


def versions() -> dict[str, str]:
    """Versions of what makes the data."""
    out = {"python": ".".join(str(n) for n in sys.version_info[:3])}
    for name in ("datagen", "ray", "pyarrow", "numpy", "pillow", "av", "torch", "open_clip_torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            out[name] = importlib.metadata.version(name)
    return out


def folders(out: str, planned: Sequence[Planned]) -> list[dict[str, str]]:
    """Where the decision of each step lies, relative to ``out``."""
    return [{"id": p.id, "folder": p.decision[len(out) :].lstrip("/")} for p in planned]


def write(
    out: str,
    recipe: Recipe,
    planned: Sequence[Planned],
    status: str,
    funnel: Sequence[Mapping[str, Any]],
    error: str | None = None,
) -> None:
    """Write run.json; that of a finished run stays readable when a later one decides anew."""
    note = {
        "status": status,
        **({"error": error} if error else {}),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "layout": plan.LAYOUT,
        "rows": planned[-1].rows,
        "listed": planned[0].rows,
        "recipe": recipe.resolved,
        "base": recipe.base,
        "seed": recipe.seed,
        "versions": versions(),
        "steps": [
            {**place, "revision": _revision(recipe, p)}
            for p, place in zip(planned, folders(out, planned), strict=True)
        ],
        "funnel": list(funnel),
    }
    store.write_json(store.join(out, "run.json"), note)
    if status == "finished":
        store.write_json(store.join(out, DECISIONS, f"{planned[-1].rows[:8]}.json"), note)


def _revision(recipe: Recipe, planned: Planned) -> str:
    """What identifies the weights or files behind a step."""
    if planned.step is not None:
        return planned.step.operator.revision()
    return ", ".join(filter(None, (origin.source.revision() for origin in recipe.sources)))


def read(out: str) -> dict[str, Any]:
    """run.json of the run in ``out``. Raises DatagenError where there is none."""
    path = store.join(out, "run.json")
    if not store.exists(path):
        raise DatagenError(f"{out}: no run here (run.json is missing)")
    return _mapping(path)


def decisions(out: str) -> list[str]:
    """Names of the decisions that the run in ``out`` has come to, the last one last."""
    folder = store.join(out, DECISIONS)
    found = [name[:-5] for name in store.names(folder) if name.endswith(".json")]
    times = {name: _mapping(store.join(folder, f"{name}.json")).get("time", "") for name in found}
    current = str(read(out).get("rows", ""))[:8]
    return sorted(found, key=lambda name: (name == current, times[name], name))


def decision(out: str, name: str) -> dict[str, Any]:
    """The note of a decision of the run in ``out``. Raises DatagenError where there is none."""
    known = decisions(out)
    if name not in known:
        there = ", ".join(known) or "none"
        raise DatagenError(f"{out}: no decision '{name}'; there are: {there}")
    return _mapping(store.join(out, DECISIONS, f"{name}.json"))


def _mapping(path: str) -> dict[str, Any]:
    note = store.read_json(path)
    if not isinstance(note, dict):
        raise DatagenError(f"{path}: not the note of a run")
    return note
