"""What the steps of a run were: settings with defaults, thresholds, models, scores, funnel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from datagen import note, recipe_file, registry, store
from datagen.report import _columns
from datagen.report._columns import flat
from datagen.report._numbers import share
from datagen.result import Run

_LINE = ("step", "operator", "model", "revision", "prompt", "seed")
#: Lines of provenance that are listed.
MOST_LINES = 200


def described(run: Run) -> list[dict[str, Any]]:
    """The steps after the source: id, kind, operator, settings, thresholds, model, revision.

    Settings include defaults where the operator is one of this package or of an installed one.
    A recipe's own files are never run for it: their settings are what the recipe says.
    """
    places = {place["id"]: place for place in run.note["steps"]}
    given = run.note["recipe"].get("steps") or []
    steps = []
    for name, step in zip(recipe_file.step_ids(given), given, strict=True):
        kind, settings = next(iter(step.items()))
        settings = dict(settings or {})
        op = str(settings.pop("op", None) or _default_op(kind, settings))
        settings.pop("id", None)
        settings.pop("resources", None)
        complete, rules = _complete(kind, op, settings)
        model = complete.get("model")
        steps.append(
            {
                "id": name,
                "kind": kind,
                "op": op,
                "settings": complete,
                "thresholds": {key: complete[key] for key in rules if _scalar(complete.get(key))},
                "model": model if isinstance(model, str) else None,
                "revision": places.get(name, {}).get("revision") or None,
            }
        )
    return steps


def _default_op(kind: str, settings: Mapping[str, Any]) -> str:
    if kind == "embed":
        from datagen.embed import operator_for

        return str(operator_for(settings) or "embed")
    return registry.KINDS[kind].default or kind if kind in registry.KINDS else kind


def _complete(kind: str, op: str, settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings with their defaults, and the names of those that only decide."""
    rules = [key for key, value in settings.items() if kind == "filter" and _scalar(value)]
    if ":" in op or op not in _known(kind):
        return settings, rules
    try:
        cls = registry.find(kind, op)
        complete = cls.Settings.model_validate(settings).model_dump(mode="json")
    except Exception:  # another version's settings, an extra that is not installed
        return settings, rules
    return complete, sorted(getattr(cls, "rules", ()))


def _known(kind: str) -> list[str]:
    return registry.names(kind) if kind in registry.KINDS else []


def _scalar(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def folder(run: Run, step: str) -> str | None:
    """Where the tables of a step stand; None where it is not done."""
    if all(entry["id"] != step for entry in run.funnel):
        return None
    for place in run.note["steps"]:
        if place["id"] == step:
            path = store.join(run.out, place["folder"])
            return path if store.exists(store.join(path, "done.json")) else None
    return None


def triplets_path(run: Run) -> str | None:
    """The file that holds the triplets of the run; None where it has none, or none yet.

    That of a finished run holds the lost ones too, but only those of its current decision.
    """
    if run.status != "finished":
        return None
    path = store.join(run.out, "triplets.parquet")
    if note.read(run.out).get("rows") == run.note.get("rows"):
        return path if store.exists(path) else None
    last = run.funnel[-1]
    place = folder(run, last["id"]) if last["level"] == "triplets" else None
    return store.join(place, "table.parquet") if place else None


def score_steps(run: Run) -> dict[str, dict[str, str]]:
    """For each score column the step that measured it and the file that holds it first."""
    found: dict[str, dict[str, str]] = {}
    for step in run.steps:
        place = folder(run, step)
        for name in ("table.parquet", "measured.parquet") if place else ():
            path = store.join(str(place), name)
            if name != "table.parquet" and not store.exists(path):
                continue
            for column in _columns.names(path):
                if column.startswith("score_"):
                    found.setdefault(column, {"step": step, "path": path, "file": name})
    return found


def funnel(run: Run) -> list[dict[str, Any]]:
    """What each step did, with the share that each rule took of the rows that came in."""
    out = []
    for step in run.funnel:
        reasons = [
            {"verdict": verdict, "rule": rule, "count": count, "share": share(count, rows_in)}
            for verdict in ("rejected", "failed")
            for rule, count in sorted(step[verdict].items(), key=lambda one: (-one[1], one[0]))
            for rows_in in (step["rows_in"],)
        ]
        kept = {name: step[name] for name in ("id", "kind", "op", "level", "rows_in", "kept")}
        counted = {"rows_out": step["rows_out"], "kept_share": share(step["kept"], step["rows_in"])}
        out.append({**kept, **counted, "reasons": reasons, "seconds": step["seconds"]})
    return out


def provenance(path: str) -> list[dict[str, Any]]:
    """Every different line of provenance of the kept triplets, with the triplets that carry it."""
    counts: pd.Series[int] | None = None
    for batch in _columns.batches(path, ["provenance", "verdict"]):
        table = _columns.kept(batch)
        columns = {name: flat(table, "provenance", name).to_pandas() for name in _LINE}
        frame = pd.DataFrame(columns).astype(object)
        here = frame.groupby(list(_LINE), dropna=False, sort=False).size()
        counts = here if counts is None else _added(counts, here)
    if counts is None:
        return []
    lines = [
        {**dict(zip(_LINE, map(_plain, key), strict=True)), "triplets": int(n)}
        for key, n in zip(counts.index.tolist(), counts.tolist(), strict=True)
    ]
    lines.sort(key=lambda line: (-line["triplets"], str(line["step"]), str(line["prompt"])))
    return lines[:MOST_LINES]


def _added(one: pd.Series[int], other: pd.Series[int]) -> pd.Series[int]:
    both = pd.concat([one, other])
    summed: pd.Series[int] = both.groupby(list(_LINE), dropna=False, sort=False).sum()
    return summed


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return int(value) if isinstance(value, (int, float)) or hasattr(value, "item") else value


def models(steps: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every model with its revision and the steps that used it."""
    used: dict[tuple[str, str | None], list[str]] = {}
    for one in [{**step, "step": step["id"]} for step in steps] + lines:
        if one["model"]:
            names = used.setdefault((one["model"], one["revision"]), [])
            if one["step"] not in names:
                names.append(one["step"])
    return [
        {"model": model, "revision": revision, "steps": names}
        for (model, revision), names in used.items()
    ]
