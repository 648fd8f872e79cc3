"""``datagen show``: everything that a run knows about one triplet, pair or item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from datagen import schema, store
from datagen.report import _columns, _lookup, _steps
from datagen.report.rows import scores_of
from datagen.result import Run

#: Triplets that are listed by id where a pair or an item is shown.
LISTED = 20
_ROLES = ("references", "targets", "negatives")


def show(run: Run, wanted: str) -> dict[str, Any]:
    """What the run knows of ``wanted`` (an id, the start of one, or a key), as plain values.

    kind: triplet, pair, item or record; row: its columns; scores: each with step and thresholds;
    verdicts: what every step said of it, of its pair and of its items; shard: where it lies;
    triplets: those made of it. Raises DatagenError where nothing is called so.
    """
    kind, name = _lookup.find(run, wanted)
    row = _row(run, kind, name)
    step, lost = _of_lost(run, row, name)
    row |= lost
    subjects = _subjects(kind, name, row)
    out: dict[str, Any] = {
        "run": run.out,
        "status": run.status,
        "kind": kind,
        "id": name,
        "row": {key: value for key, value in row.items() if not key.startswith("score_")},
        "scores": _scores(run, row, subjects, dict.fromkeys(lost, step)),
        "verdicts": _verdicts(run, subjects),
    }
    if kind == "triplet":
        out["shard"] = _shard(run, name, row)
    elif kind in ("pair", "item"):
        out["triplets"] = _triplets_of(run, kind, name)
    clean: dict[str, Any] = _finite(out)
    return clean


def _row(run: Run, kind: str, name: str) -> dict[str, Any]:
    """The row as the last step that had it left it, with the verdict where it was lost."""
    level = {"triplet": "triplets", "pair": "pairs", "item": "items"}.get(kind)
    row: dict[str, Any] = {}
    for _, its, folder in _lookup.tables(run):
        if its == level:
            found = _lookup.by_id(store.join(folder, "table.parquet"), [name]).to_pylist()
            row = {**row, **found[0]} if found else row
    for made in run.made_by().values() if kind == "item" else ():
        row = row or next(iter(_lookup.by_id(made, [name]).to_pylist()), {})
    path = _steps.triplets_path(run) if kind == "triplet" else None
    if path is not None:
        found = _lookup.by_id(path, [name]).to_pylist()
        # Columns that a later step added are null in the rows that an earlier one lost.
        row = {**row, **found[0]} if found else row
    return row


def _subjects(kind: str, name: str, row: Mapping[str, Any]) -> dict[str, str]:
    """Ids whose verdicts belong here, with what each is to the row."""
    found = {name: kind}
    if kind == "triplet" and row.get("pair"):
        found.setdefault(row["pair"], "pair")
    for role in _ROLES:
        for entry in row.get(role) or ():
            item = entry["item"] if role == "negatives" else entry
            if item and item["id"]:
                found.setdefault(item["id"], role[:-1])
    return found


def _verdicts(run: Run, subjects: Mapping[str, str]) -> list[dict[str, Any]]:
    """What each complete step said of the subjects, in the order of the steps."""
    order = list(subjects)
    out = []
    for step, _, folder in _lookup.tables(run):
        path = store.join(folder, "verdicts.parquet")
        found = _lookup.by_id(path, subjects).to_pylist()
        for verdict in sorted(found, key=lambda one: order.index(one["id"])):
            of = {"step": step, "of": subjects[verdict["id"]]}
            out.append(of | {key: value for key, value in verdict.items() if value is not None})
    return out


def _scores(
    run: Run, row: Mapping[str, Any], subjects: Mapping[str, str], lost_by: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Scores of the row and of its items, each with the step that measured it.

    lost_by: the step of each score by which the row was lost.
    """
    thresholds = {step["id"]: step["thresholds"] for step in _steps.described(run)}
    measured = {name: {"step": step} for name, step in lost_by.items()} | _steps.score_steps(run)
    out = []
    for column, where in sorted(measured.items()):
        about = {
            "name": column.removeprefix("score_"),
            "step": where["step"],
            "thresholds": thresholds.get(where["step"], {}),
        }
        if column in row:
            out.append({**about, "of": next(iter(subjects.values())), "value": row[column]})
            continue
        found = _lookup.by_id(where["path"], subjects, ["id", column]).to_pylist()
        for one in found:
            out.append({**about, "of": subjects[one["id"]], "id": one["id"], "value": one[column]})
    return out


def _of_lost(run: Run, row: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """The step that lost the row, and its scores there, where the row does not hold them."""
    step = next((v["step"] for v in _verdicts(run, {name: ""}) if v["verdict"] != schema.KEPT), "")
    if not step or _steps.folder(run, step) is None:
        return "", {}
    given = scores_of(run, step, pa.chunked_array([[name]], pa.string()))
    scores = given.to_pylist()[0] if given is not None else {}
    return step, {
        column: value
        for column, value in scores.items()
        if column != "id" and row.get(column) is None
    }


def _shard(run: Run, name: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tar that holds a triplet and its key there; None where it is in none.

    Shards hold the kept triplets of a split in the order of ids, so that counting finds the tar.
    """
    path = store.join(run.out, "shards", "manifest.json")
    triplets = _steps.triplets_path(run)
    if triplets is None or row.get("verdict") != schema.KEPT or not store.exists(path):
        return None
    table = _columns.kept(_columns.read(triplets, ["id", "verdict", "split"]))
    split = row.get("split") or "train"
    if "split" in table.column_names:
        table = table.filter(pc.equal(table["split"], split))
    shards = [one for one in store.read_json(path)["shards"] if one["split"] == split]
    ends = np.cumsum([one["triplets"] for one in shards])
    if not len(ends) or ends[-1] != table.num_rows:
        return None
    place = pc.sum(pc.less(table["id"], name)).as_py()
    shard = shards[int(np.searchsorted(ends, place, side="right"))]
    return {"path": store.join(run.out, "shards", shard["name"]), "key": name, "split": split}


def _triplets_of(run: Run, kind: str, name: str) -> dict[str, Any]:
    """How many triplets were made of a pair or an item, and the first of them."""
    path = _last(run, "triplets")
    if path is None:
        return {"count": 0, "ids": []}
    fields = ["references.id", "targets.id"] if kind == "item" else ["pair"]
    table = _columns.read(path, ["id", *fields])
    if kind == "pair":
        hit = pc.fill_null(pc.equal(table["pair"], name), False).to_numpy()
    else:
        hit = np.zeros(table.num_rows, dtype=bool)
        for role in ("references", "targets"):
            same = pc.equal(_columns.flat(table, role, "id"), name)
            hit[_columns.parents(table, role)[pc.fill_null(same, False).to_numpy()]] = True
    ids = table["id"].filter(pa.array(hit))
    return {"count": len(ids), "ids": ids.slice(0, LISTED).to_pylist()}


def _last(run: Run, level: str) -> str | None:
    """The table with the most rows of a level: all that were made, where the run is finished."""
    path = _steps.triplets_path(run)
    if path is not None:
        return path
    found = [folder for _, its, folder in _lookup.tables(run) if its == level]
    return store.join(found[0], "table.parquet") if found else None


def _finite(value: Any) -> Any:
    """Plain values that JSON can hold: no NaN, no infinity, no bytes."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_command(
    run: Annotated[str, typer.Argument(help="Run directory, here or on any fsspec path.")],
    wanted: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Id of a triplet, pair or item, its start, or a record's key."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show everything about one triplet, pair or item of a run, finished or not."""
    import json

    from rich.console import Console

    from datagen.report._show_text import print_found
    from datagen.result import load

    found = show(load(run), wanted)
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=True, allow_nan=False))
    else:
        print_found(found, Console())
