"""Finds rows of a run by id, prefix or key, reading only the row groups that can hold them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datagen import store
from datagen.errors import DatagenError
from datagen.report import _columns, _steps
from datagen.result import Run

#: Answers to an ambiguous prefix that are named.
_NAMED = 5
#: Keys that are compared letter by letter for the nearest one.
_COMPARED = 5_000


def rows(path: str, where: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file for which ``where`` holds."""
    chosen = list(columns) if columns is not None else None
    fs, inner = (None, store.local_path(path)) if store.is_local(path) else store.filesystem(path)
    return pq.read_table(inner, columns=chosen, filters=where, filesystem=fs, partitioning=None)


def by_id(path: str, ids: Iterable[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows with these ids, in the order of the file."""
    return rows(path, pc.field("id").isin(pa.array(sorted(set(ids)), pa.string())), columns)


def tables(run: Run) -> list[tuple[str, str, str]]:
    """(step, level, folder) of every complete step, in order."""
    levels = {step["id"]: step["level"] for step in run.funnel}
    found = ((step, _steps.folder(run, step)) for step in run.steps)
    return [(step, levels.get(step, ""), folder) for step, folder in found if folder is not None]


def find(run: Run, wanted: str) -> tuple[str, str]:
    """What ``wanted`` means: (``triplet``, ``pair``, ``item`` or ``record``, its id).

    wanted: an id, the start of one, or the key of a record. A record is one that became no item.
    Raises DatagenError where nothing, or more than one thing, is meant.
    """
    if not wanted:
        raise DatagenError("ID: give an id of a triplet, pair or item, its start, or a key")
    found: dict[str, str] = {}
    for step, level, folder in tables(run):
        kind = {"items": "item", "pairs": "pair", "triplets": "triplet"}.get(level, "item")
        table = store.join(folder, "table.parquet")
        found = {**dict.fromkeys(_matching(table, wanted, step == "source"), kind), **found}
        if step == "source":
            lost = _matching(store.join(folder, "verdicts.parquet"), wanted, True)
            found |= {name: "record" for name in lost if name not in found}
    for path in run.made_by().values():
        found = {**dict.fromkeys(_matching(path, wanted, True), "item"), **found}
    if wanted in found:
        return found[wanted], wanted
    if len(found) == 1:
        name, kind = next(iter(found.items()))
        return kind, name
    if found:
        named = ", ".join(f"{name} ({kind})" for name, kind in sorted(found.items())[:_NAMED])
        more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
        raise DatagenError(f"{wanted}: more than one begins or is called so: {named}{more}")
    raise DatagenError(f"{run.out}: nothing is called '{wanted}'; {_nearest(run, wanted)}")


def _matching(path: str, wanted: str, with_key: bool) -> list[str]:
    """Ids that are or begin with ``wanted``, and those of records with that key."""
    starts = (pc.field("id") >= wanted) & (pc.field("id") < wanted + "\U0010ffff")
    if with_key and "key" in _columns.names(path):
        starts = starts | (pc.field("key") == wanted)
    names: list[str] = rows(path, starts, ["id"])["id"].to_pylist()
    return names


def _nearest(run: Run, wanted: str) -> str:
    """A hint: the id with the longest common start, or the nearest key."""
    best, length = "", 3
    for _, _, folder in tables(run):
        ids = _columns.read(store.join(folder, "table.parquet"), ["id"])["id"]
        while length < len(wanted) and ids:
            starts = pc.starts_with(ids, wanted[: length + 1])
            if not pc.any(starts).as_py():
                break
            best, length = ids.filter(starts)[0].as_py(), length + 1
    if best:
        return f"did you mean '{best}'?"
    source = _steps.folder(run, "source")
    if source is None:
        return "no step of this run is complete"
    keys = _columns.read(store.join(source, "table.parquet"), ["key"])["key"]
    close = keys.filter(pc.match_substring(keys, wanted, ignore_case=True)).slice(0, 1).to_pylist()
    some = keys.slice(0, _COMPARED).to_pylist()
    close += difflib.get_close_matches(wanted, [key for key in some if key], n=1, cutoff=0.5)
    if close:
        return f"did you mean the item '{close[0]}'?"
    return f"give an id of a triplet, pair or item, its start, or a key such as '{some[0]}'"
