"""Runs several miners and joins what they find.

MegaPairs (arXiv:2412.14475) mines in three spaces (image, structure, caption) and takes the union
of all three; it trains better than any one of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from datagen import registry, schema, step
from datagen.errors import DatagenError, of_settings
from datagen.pairing._table import CHUNK
from datagen.schema import Level
from datagen.step import Context, Parallel, Result, TableOperator, Tables, serial

#: The members of a pair: ids of its references and of its targets.
Members = tuple[tuple[str, ...], tuple[str, ...]]


class UnionSettings(step.Settings):
    """Settings of union."""

    #: The miners, each as in a step of its own: ``{op: knn_band, space: image}``. A pair that
    #: several find is one pair, with the evidence of the first of them: put first the one whose
    #: evidence texts are to be written from.
    of: tuple[dict[str, Any], ...] = Field(
        min_length=1, json_schema_extra={"items": {"operator": "pair"}}
    )


class Union(TableOperator[UnionSettings]):
    """What any of several miners finds.

    Two pairs are the same when their references and targets are. Such a pair keeps the evidence
    and the captions of the first miner that found it, with the reasons and the provenance lines
    of all of them. An item is kept if any miner keeps it; otherwise the rules of all are joined.
    """

    Settings = UnionSettings
    levels = ("items",)
    result = "pairs"

    def __init__(self, settings: UnionSettings) -> None:
        super().__init__(settings)
        self._miners = [_built(number, given) for number, given in enumerate(settings.of)]

    def needs(self, level: Level) -> set[str]:
        return set().union(*(miner.needs(level) for miner in self._miners))

    def gives(self, level: Level) -> set[str]:
        return set().union(*(miner.gives(level) for miner in self._miners))

    def revision(self) -> str:
        """Versions and revisions of the miners: a new one gives other pairs."""
        return ";".join(
            f"{given['op']}@{registry.code_version(type(miner))}"
            + (f":{miner.revision()}" if miner.revision() else "")
            for given, miner in zip(self.settings.of, self._miners, strict=True)
        )

    def check(self) -> Iterable[str]:
        for number, miner in enumerate(self._miners):
            absent = [
                f"of.{number}: needs '{module}': pip install 'datagen[{extra}]'"
                for module, extra in miner.requires
                if importlib.util.find_spec(module) is None
            ]
            yield from absent or (f"of.{number}: {fault}" for fault in miner.check())

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Run the miners, one after the other. Raises DatagenError where one of them does."""
        notes: dict[str, Any] = {}
        results: list[Result] = []
        for number, miner in enumerate(self._miners):
            try:
                found = miner(tables, context, parallel)
            except DatagenError as error:
                raise DatagenError(f"union: of.{number}: {error}") from error
            results.append(found)
            notes[f"of.{number}"] = {"op": self.settings.of[number]["op"], **found.notes}
        rows, several = _joined([result.rows for result in results])
        notes |= {"found_by_several": several, "pairs": len(rows)}
        found_verdicts = [result.verdicts for result in results]
        return Result(rows, _judged(tables.items["id"], found_verdicts), notes=notes)


def _built(number: int, given: dict[str, Any]) -> TableOperator[Any]:
    """The miner of one entry. Raises DatagenError with its place, the key and the fault."""
    place = f"of.{number}"
    if not isinstance(given.get("op"), str):
        known = ", ".join(registry.names("pair"))
        raise DatagenError(f"{place}.op: must be given; valid: {known}")
    op, settings = given["op"], {key: value for key, value in given.items() if key != "op"}
    try:
        cls = registry.find("pair", op)
        miner = cls(cls.Settings.model_validate(settings))
    except ValidationError as error:
        own = cls.Settings.model_fields
        raise DatagenError("; ".join(of_settings(place, error, settings, own))) from error
    except DatagenError as error:
        raise DatagenError(f"{place}: {error}") from error
    if not isinstance(miner, TableOperator) or "items" not in miner.levels:
        raise DatagenError(f"{place}.op: '{op}' does not mine pairs from a table of items")
    miner.registered_name = op.rpartition(":")[2]  # type: ignore[attr-defined]
    return miner


def _members(rows: pa.Table) -> Iterator[Members]:
    """Ids of references and targets of each row."""
    sides = []
    for name in ("references", "targets"):
        lists: list[tuple[str, ...]] = []
        for chunk in rows[name].chunks:
            ids = pc.struct_field(chunk.flatten(), "id").to_pylist()
            ends = np.cumsum(pc.fill_null(pc.list_value_length(chunk), 0).to_numpy()).tolist()
            lists += [tuple(ids[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        sides.append(lists)
    return zip(*sides, strict=True)


def _joined(found: list[pa.Table]) -> tuple[pa.Table, int]:
    """All pairs once, in the order of the miners, and how many were found by several of them."""
    # Each table in the order of its ids: what a pair gets from a miner depends on nothing else.
    tables = [table.cast(schema.PAIRS).sort_by("id") for table in found]
    first: dict[Members, tuple[int, list[int]]] = {}
    parts: list[pa.Table] = []
    # More reasons and provenance lines, by row of the joined table.
    reasons: dict[int, list[str]] = {}
    lines: dict[int, list[dict[str, Any]]] = {}
    size = 0
    for number, table in enumerate(tables):
        own: list[int] = []
        told: set[Members] = set()
        evidence = pc.struct_field(table["evidence"], "reason").to_pylist()
        for row, members in enumerate(_members(table)):
            finder, places = first.setdefault(members, (number, []))
            if finder == number:
                places.append(size + len(own))
                own.append(row)
            elif members not in told:
                told.add(members)
                for place in places:
                    reasons.setdefault(place, []).append(evidence[row])
                    lines.setdefault(place, []).extend(table["provenance"][row].as_py())
        parts.append(table.take(pa.array(own, pa.int64())))
        size += len(own)
    return _told(pa.concat_tables(parts), reasons, lines), len(reasons)


def _told(
    rows: pa.Table, reasons: dict[int, list[str]], lines: dict[int, list[dict[str, Any]]]
) -> pa.Table:
    """The rows, with more reasons and provenance lines where there are any."""
    done = []
    for start in range(0, len(rows), CHUNK):
        part = rows.slice(start, CHUNK).combine_chunks()
        at = [place - start for place in range(start, start + len(part)) if place in reasons]
        if at:
            part = _part_told(part, at, start, reasons, lines)
        done.append(part)
    return pa.concat_tables(done) if done else rows


def _part_told(
    part: pa.Table,
    at: list[int],
    start: int,
    reasons: dict[int, list[str]],
    lines: dict[int, list[dict[str, Any]]],
) -> pa.Table:
    evidence = part["evidence"].combine_chunks()
    told = evidence.field("reason").to_pylist()
    provenance = part["provenance"].to_pylist()
    for row in at:
        told[row] = "; ".join(filter(None, [told[row], *reasons[start + row]]))
        provenance[row] = [*provenance[row], *lines[start + row]]
    columns = [evidence.field(name) for name in schema.EVIDENCE.names]
    columns[schema.EVIDENCE.get_field_index("reason")] = pa.array(told, pa.string())
    whole = pa.StructArray.from_arrays(columns, fields=list(schema.EVIDENCE))
    names = schema.PAIRS.names
    part = part.set_column(names.index("evidence"), schema.PAIRS.field("evidence"), whole)
    return part.set_column(
        names.index("provenance"),
        schema.PAIRS.field("provenance"),
        pa.array(provenance, schema.PROVENANCE),
    )


def _judged(ids: pa.ChunkedArray, verdicts: list[pa.Table]) -> pa.Table:
    """Kept where any miner keeps; else rules and details joined, failed where any failed."""
    names = ids.to_pylist()
    told = [dict(zip(v["id"].to_pylist(), _lines(v), strict=True)) for v in verdicts]
    out: list[tuple[str, str | None, str | None]] = []
    for name in names:
        own = [one[name] for one in told]
        if any(verdict == schema.KEPT for verdict, _, _ in own):
            out.append((schema.KEPT, None, None))
            continue
        failed = any(verdict == schema.FAILED for verdict, _, _ in own)
        rules, details = ([one[place] for one in own if one[place]] for place in (1, 2))
        out.append(
            (
                schema.FAILED if failed else schema.REJECTED,
                "+".join(dict.fromkeys(rules)) or None,
                "; ".join(dict.fromkeys(details)) or None,
            )
        )
    columns = list(zip(*out, strict=True)) if out else [(), (), ()]
    arrays = [pa.array(column, pa.string()) for column in columns]
    return pa.table([pa.array(names, pa.string()), *arrays], schema=schema.VERDICTS)


def _lines(verdicts: pa.Table) -> Iterator[tuple[str, str | None, str | None]]:
    return zip(*(verdicts[name].to_pylist() for name in schema.VERDICTS.names[1:]), strict=True)
