"""Items of a finished run that stand in another collection too, and the triplets that hold them.

The same comparison as the filter ``leakage`` (bytes, perceptual hash and colours, names), without
a recipe and without changing the run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datagen import moments, perceptual, schema, store, tables
from datagen.errors import DatagenError
from datagen.leaks import Collection, Match, Matcher, fingerprints, index, match
from datagen.result import Run

#: One line for each item that leaks. ``match`` is the file or list; bits and levels are null but
#: for near-duplicates; ``triplets`` are the first of those that hold the item, of
#: ``triplets_count``.
LEAKS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "key", "rule", "match")),
        *(pa.field(name, pa.float64()) for name in ("bits", "levels")),
        pa.field("triplets", pa.list_(pa.string())),
        pa.field("triplets_count", pa.int64()),
    ]
)
RULES = ("leak_same_bytes", "leak_near_duplicate", "leak_same_name")
ROLES = ("references", "targets", "negatives")
#: Triplets that are listed of an item, and items that are listed as examples.
TRIPLETS, EXAMPLES = 20, 10
_MEASURED = ["phash", "colours", "moments"]


def leaks(
    run: Run | str,
    against: Sequence[str],
    *,
    radius: int = 6,
    tolerance: int | None = perceptual.TOLERANCE,
    duration: float = moments.DURATION,
    fields: Sequence[str] = (),
    label: str | None = None,
    write: bool = True,
) -> dict[str, Any]:
    """Compare the items of the kept triplets of ``run`` with the collections ``against``.

    radius, tolerance, duration, fields, label: as of the filter ``leakage``; a run without
    triplets is compared with all its items. write: put ``audit/leaks.parquet`` into the run, and
    the fingerprints into its ``leaks/``. Gives plain values: counts by rule and role, triplets
    that hold a leak, examples, and the line of a recipe that removes them. Raises DatagenError.
    """
    from datagen.result import load

    opened = load(run) if isinstance(run, str) else run
    if not against:
        raise DatagenError("against: name a folder, a run, a list of names or fingerprints")
    collections = sound(against, fields)
    folder = store.join(opened.out, "leaks") if write else ""
    held = [(one, fingerprints(one, folder, processes)) for one in collections]
    made = _kept(opened)
    items = _items(opened, made)
    matcher = Matcher(held, tolerance, duration)
    found, unreadable = _found(items, matcher, radius, label)
    users, roles = _users(made, {line["id"] for line in found})
    for line in found:
        line["triplets"] = users.get(line["id"], [])[:TRIPLETS]
        line["triplets_count"] = len(users.get(line["id"], []))
    if write:
        path = store.join(opened.out, "audit", "leaks.parquet")
        store.write_table(path, pa.Table.from_pylist(found, LEAKS))
    chosen = {"radius": radius, "tolerance": tolerance, "duration": duration}
    return {
        "against": [
            {"path": one.told, "kind": one.kind, "media": table.num_rows, "names": len(one.names())}
            for one, table in held
        ],
        "settings": {**chosen, "fields": list(fields), "label": label},
        "items": items.num_rows,
        "leaking": len(found),
        "rules": {rule: sum(line["rule"] == rule for line in found) for rule in RULES},
        "triplets": made.num_rows if made is not None else 0,
        "triplets_leaking": len({name for some in users.values() for name in some}),
        "roles": roles,
        "unreadable": [*index.unreadable(held), *unreadable],
        "examples": [{name: line[name] for name in LEAKS.names[:6]} for line in found[:EXAMPLES]],
        "mend": _mend(collections, radius, tolerance, fields, label) if found else None,
    }


def sound(against: Sequence[str], fields: Sequence[str] = ()) -> list[Collection]:
    """The collections at ``against``. Raises DatagenError where one cannot be compared with."""
    collections = [Collection.of(path, fields) for path in against]
    for collection in collections:
        if fault := collection.fault():
            raise DatagenError(fault)
    return collections


def processes(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
    """``map`` over processes of this machine, in argument order."""
    workers = min(len(arguments), os.cpu_count() or 1)
    if workers < 2:
        yield from map(function, arguments)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, arguments)


def _kept(run: Run) -> pa.Table | None:
    """The kept triplets; None where the run makes none."""
    if run.status == "finished" and any(report["level"] == "triplets" for report in run.funnel):
        return run.triplets()
    return None


def _items(run: Run, made: pa.Table | None) -> pa.Table:
    """The items to compare, with the hashes that a step of the run has measured."""
    items = run.items()
    if made is not None:
        used = pa.array(sorted(tables.used_items(made)), pa.string())
        items = items.filter(pc.is_in(items["id"], value_set=used))
    for place in run.note["steps"]:
        path = store.join(run.out, place["folder"], "measured.parquet")
        if store.exists(path):
            measured = store.read_table(path)
            if set(_MEASURED) <= set(measured.column_names):
                items = tables.with_columns(items, measured.select(["id", *_MEASURED]))
    return items.combine_chunks()


def _found(
    items: pa.Table, matcher: Matcher, radius: int, label: str | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """A line for each item that leaks, in order of ids, and what could not be compared."""
    rows = items.to_pylist()
    anew = [row for row in rows if row["media"] is not None and row.get("phash") is None]
    media_of = pa.table(
        [[row["id"] for row in anew], pa.array([row["media"] for row in anew], schema.MEDIA)],
        names=["name", "media"],
    )
    pieces = [media_of.slice(at, index.PIECE) for at in range(0, len(anew), index.PIECE)]
    measured = {
        row["name"]: row for table in processes(index.measure, pieces) for row in table.to_pylist()
    }
    lines, bad = [], []
    for row in rows:
        place = row["media"]
        known = measured.get(row["id"], row)
        if known.get("fault"):
            bad.append(f"{row['key']} ({known['fault']})")
        near = _nearest(known, place, matcher) if place is not None else None
        ways: list[tuple[str, str | None]] = [
            ("leak_same_bytes", matcher.same_bytes(place["sha256"]) if place else None),
            ("leak_near_duplicate", near.where if near and near.bits <= radius else None),
            (
                "leak_same_name",
                matcher.same_name(match.called(row["key"], place, row["labels"], label)),
            ),
        ]
        told = next(((rule, where) for rule, where in ways if where is not None), None)
        if told is not None:
            seen = near if told[0] == "leak_near_duplicate" else None
            lines.append(
                {
                    "id": row["id"],
                    "key": row["key"],
                    "rule": told[0],
                    "match": told[1],
                    "bits": seen.bits if seen else None,
                    "levels": seen.levels if seen else None,
                }
            )
    count = f"{len(bad):,} of {len(rows):,} items cannot be compared"
    more = ", …" if len(bad) > 3 else ""
    return lines, [f"this run: {count}: {'; '.join(bad[:3])}{more}"] if bad else []


def _nearest(known: Mapping[str, Any], place: Mapping[str, Any], matcher: Matcher) -> Match | None:
    if known.get("moments") is not None:
        return matcher.nearest_clip(known["moments"], place["seconds"])
    if known.get("phash") is not None:
        return matcher.nearest_image(known["phash"], known["colours"])
    return None


def _users(made: pa.Table | None, leaking: set[str]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Triplets that hold each item, and how many hold a leak in each role."""
    users: dict[str, list[str]] = {}
    roles: Counter[str] = Counter()
    names = made["id"].to_pylist() if made is not None else []
    for role in ROLES:
        if made is None or role not in made.column_names:
            continue
        parents, members = tables.member_ids(made, role)
        hit = {names[at] for at, item in zip(parents, members, strict=True) if item in leaking}
        roles[role] = len(hit)
        for at, item in zip(parents, members, strict=True):
            if item in leaking and names[at] not in (known := users.setdefault(item, [])):
                known.append(names[at])
    return users, dict(roles)


def _mend(
    collections: Sequence[Collection],
    radius: int,
    tolerance: int | None,
    fields: Sequence[str],
    label: str | None,
) -> str:
    """The line of a recipe that rejects what leaks, in YAML's flow style."""
    settings: dict[str, Any] = {"op": "leakage", "against": [one.told for one in collections]}
    settings |= {} if radius == 6 else {"radius": radius}
    settings |= {} if tolerance == perceptual.TOLERANCE else {"tolerance": tolerance}
    settings |= {"fields": list(fields)} if fields else {}
    settings |= {"label": label} if label else {}
    return f"- filter: {json.dumps(settings, ensure_ascii=False)}"
