"""What a run says of itself: ``run.json``, and a copy for every decision that it has come to."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from datagen import plan, schema, store
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


def in_force(out: str, found: Mapping[str, Any]) -> bool:
    """Whether the tables and shards in ``out`` are those of the decision ``found``."""
    current = read(out)
    return all(current.get(name) == found.get(name) for name in ("status", "rows"))


def folders_of(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Where the decision of each step lies, as the note ``found`` says."""
    return [{name: s.get(name, "") for name in ("id", "folder")} for s in found.get("steps", [])]


class Keeper:
    """Keeps run.json true while a run goes on, whichever way it ends.

    reports: what the steps did, as they end; standing: the note of the decision that a refilter
    starts from. A finished one stays in force until what it speaks of (triplets.parquet, shards)
    is about to change: a new one that fails or is killed before that leaves the run as it was.
    """

    def __init__(
        self,
        out: str,
        recipe: Recipe,
        reports: Sequence[Any],
        standing: Mapping[str, Any] | None = None,
    ) -> None:
        self.out, self.recipe, self.reports = out, recipe, reports
        self.stands = standing is not None and standing.get("status") == "finished"
        self.begun = False
        self.planned: Sequence[Planned] = ()

    def begin(self) -> None:
        """What the note speaks of is about to change: from here on the run is ``running``."""
        if not self.begun:
            self.begun = True
            self._write("running")

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note how the block ends (a SIGKILL leaves the run ``running``)."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self._fallen("stopped")
            raise
        except Exception as error:
            with contextlib.suppress(DatagenError):
                self._fallen("failed", str(error).splitlines()[0] if str(error) else "")
            raise
        if self.begun or not self.is_finished():
            self._write("finished")

    def is_finished(self) -> bool:
        """Whether run.json says that the run is finished by just these steps."""
        if not store.exists(store.join(self.out, "run.json")):
            return False
        found = read(self.out)
        return (found.get("status"), found.get("rows"), folders_of(found)) == (
            "finished",
            self.planned[-1].rows,
            folders(self.out, self.planned),
        )

    def undisturbed(self) -> bool:
        """Whether the decision that stood before still stands."""
        return self.stands and not self.begun

    def _fallen(self, status: str, error: str = "") -> None:
        if not self.undisturbed():
            self._write(status, error)

    def _write(self, status: str, error: str = "") -> None:
        funnel = [asdict(report) for report in self.reports]
        write(self.out, self.recipe, self.planned, status, funnel, error)


def nothing_left(report: Any, planned: Planned) -> str:
    """In a line, why the step of ``report`` (runs.StepReport) left no row at all."""
    reasons = sorted({**report.rejected, **report.failed}.items(), key=lambda one: -one[1])
    why = ", ".join(f"{rule} {count}" for rule, count in reasons) or "nothing came in"
    return (
        f"step {report.id} left no row of {report.rows_in} ({why}{_seen(planned.decision)}); "
        f"every row's reason stands in {planned.decision}/verdicts.parquet"
    )


def _seen(folder: str) -> str:
    """What a filter measured of its rows, from least to most; else the detail of a lost row."""
    scores = store.join(folder, "scores.parquet")
    if store.exists(scores):
        table = store.read_table(scores)
        names = [name for name in table.column_names if name.startswith("score_")]
        reach = {name: pc.min_max(table[name]).as_py() for name in names}
        told = [
            f"{name.removeprefix('score_')} {found['min']:g} to {found['max']:g}"
            for name, found in reach.items()
            if found["min"] is not None
        ]
        return "".join(f"; {one}" for one in told)
    verdicts = store.read_table(store.join(folder, "verdicts.parquet"))
    lost = verdicts.filter(pc.not_equal(verdicts["verdict"], schema.KEPT))
    details = lost["detail"].drop_null().slice(0, 1).to_pylist()
    return "".join(f"; such as: {' '.join(one.split())[:200]}" for one in details)


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
