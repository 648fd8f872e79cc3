"""From what an operator answered to rows of their own: several for one, with ids of their content.

Items become pairs or triplets, pairs become triplets, and rows of one level other rows of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema, tables
from datagen.errors import DatagenError
from datagen.made import Maker, joined

Mask = np.ndarray[Any, np.dtype[np.bool_]]

#: What an answer may give of the pair itself.
OF_PAIR = ("references", "targets", "evidence")
#: Columns that say nothing that was measured.
_OWN = frozenset({*schema.TRIPLETS.names, "negatives", "split"})
#: Rows that are Python objects at a time.
_BATCH = 8192


@dataclass(frozen=True)
class Exploded:
    """rows: sorted by id; same: units of which no row is left, and the id of the row that another
    unit gave in the same words; again: such lines of units of which other rows are left.
    """

    rows: pa.Table
    same: dict[str, str]
    again: list[tuple[str, str]]


def explode(
    rows: pa.Table,
    answered: pa.Table,
    line: dict[str, Any],
    maker: Maker | None = None,
    lasting: Collection[str] = (),
) -> Exploded:
    """One row per kept line of ``answered``: ``rows`` (items, pairs or triplets) made anew.

    ``references``, ``targets`` and ``evidence`` that an answer gives take the place of those of
    the row (a text for the way back), which is then of another pair, with another id. ``maker``
    names members that have no id. A row in which nothing changes stays as it is, id and
    provenance included; every other one gets ``line``. What was measured of a row is null in one
    with other members, and, but for the columns ``lasting``, in one with another text.
    """
    fine = answered.filter(pc.equal(answered["verdict"], schema.KEPT))
    maker = maker or Maker(None, line["step"])
    given = _typed(fine.drop_columns(["unit", *tables.VERDICT]), maker)
    at = pc.index_in(fine["unit"], value_set=rows["id"].combine_chunks()).combine_chunks()
    old = rows.take(at)
    members = _there(given, "references") | _there(given, "targets")
    pairs = _with_members(_pairs(old), given, members)
    text = _text(old, given)
    if text is not None and text.null_count:
        raise DatagenError(f"step {line['step']}: a line that is kept must give 'modification'")
    deeper = "references" not in rows.column_names or (
        text is not None and "modification" not in rows.column_names
    )
    new_text = _differs(text, old) if text is not None and not deeper else np.zeros(len(old), bool)
    renamed = np.full(len(old), deeper) | members | new_text
    changed = renamed | _there(given, "evidence")
    table = _measured(pairs, members, new_text, lasting)
    own = [name for name in given.column_names if name not in (*OF_PAIR, "modification")]
    table = _beside(table, given.select(own))
    table = _named(table, fine["unit"], text, renamed)
    # Of equal rows one that was there before comes first, then a pair as it was mined.
    order = np.lexsort((members, changed))
    first = table["id"].to_pandas().iloc[order].drop_duplicates().index.to_numpy()
    same, again = _same(fine["unit"], table["id"], first)
    table = table.take(pa.array(first))
    touched = pa.array(changed[first])
    stay = table.filter(pc.invert(touched))
    grown = tables.add_provenance(table.filter(touched), line)
    return Exploded(tables.by_id(pa.concat_tables([stay, grown])), same, again)


def _typed(given: pa.Table, maker: Maker) -> pa.Table:
    """What was given, with the types of the tables, and an id for every member."""
    for place, name in enumerate(given.column_names):
        if name in OF_PAIR:
            column = joined(given[name].cast(schema.PAIRS.field(name).type))
            column = column if name == "evidence" else maker.named(column, name)
            given = given.set_column(place, name, column)
    return given


def _there(given: pa.Table, name: str) -> Mask:
    """Where ``given`` has a value of a column."""
    if name not in given.column_names:
        return np.zeros(given.num_rows, bool)
    found: Mask = pc.is_valid(joined(given[name])).to_numpy(zero_copy_only=False)
    return found


def _pairs(old: pa.Table) -> pa.Table:
    """Rows of any level as pairs; an item is the reference of one whose targets are null."""
    if "references" not in old.column_names:
        kind = schema.PAIRS.field("references").type
        parts = _parts(old.select(schema.ITEMS.names))
        members = [pa.array([[schema.member(item)] for item in part], kind) for part in parts]
        columns = [
            pa.array([""] * len(old), pa.string()),
            pa.chunked_array(members, kind),
            *(pa.nulls(len(old), schema.PAIRS.field(n).type) for n in schema.PAIRS.names[2:]),
        ]
        return pa.table(columns, schema=schema.PAIRS)
    if "pair" in old.column_names:
        pairs = old.set_column(old.column_names.index("id"), "id", old["pair"])
        return pairs.drop_columns(["pair", "modification"])
    return old


def _with_members(pairs: pa.Table, given: pa.Table, members: Mask) -> pa.Table:
    """``pairs`` with the references, targets and evidence of ``given`` where it has them.

    Row for row; one whose ``members`` change gets the id of the pair that it then is, as a miner
    would give it: a pair that is mined both ways is then the same pair, turned around.
    """
    for name in OF_PAIR:
        if name in given.column_names:
            place = pairs.column_names.index(name)
            own = pc.coalesce(given[name], pairs[name])
            pairs = pairs.set_column(place, name, own)
    if pc.any(pc.is_null(pairs["targets"])).as_py():
        raise DatagenError("an answer for an item must give 'targets' in every line that is kept")
    where = np.flatnonzero(members)
    made = pairs.select(list(OF_PAIR)).take(pa.array(where))
    ids = pairs["id"].to_pylist()
    for row, pair in zip(where.tolist(), (one for p in _parts(made) for one in p), strict=True):
        ids[row] = schema.id_of_pair(pair)
    return pairs.set_column(pairs.column_names.index("id"), "id", pa.array(ids, pa.string()))


def _parts(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, table.num_rows, _BATCH):
        yield table.slice(start, _BATCH).to_pylist()


def _text(old: pa.Table, given: pa.Table) -> pa.Array | None:
    """The text of every row; None where the rows are pairs."""
    if "modification" not in given.column_names:
        return joined(old["modification"]) if "modification" in old.column_names else None
    text = joined(given["modification"].cast(pa.string()))
    if "modification" in old.column_names:
        text = pc.coalesce(text, joined(old["modification"]))
    return text


def _differs(text: pa.Array, old: pa.Table) -> Mask:
    same = pc.fill_null(pc.equal(text, joined(old["modification"])), False)
    found: Mask = pc.invert(same).to_numpy(zero_copy_only=False)
    return found


def _measured(table: pa.Table, members: Mask, text: Mask, lasting: Collection[str]) -> pa.Table:
    """``table`` without what was measured of other members or another text."""
    for place, name in enumerate(table.column_names):
        if name in _OWN:
            continue
        lost = members if name in lasting else members | text
        if lost.any():
            kept = pa.array(np.arange(len(lost)), mask=lost)
            table = table.set_column(place, name, joined(table[name]).take(kept))
    return table


def _beside(table: pa.Table, given: pa.Table) -> pa.Table:
    """``table`` with the other columns of an answer, row for row."""
    for name in given.column_names:
        if name in table.column_names:
            place = table.column_names.index(name)
            column = pc.coalesce(given[name].cast(table[name].type), table[name])
            table = table.set_column(place, name, column)
        else:
            table = table.append_column(name, given[name])
    return table


def _named(table: pa.Table, units: pa.ChunkedArray, text: pa.Array | None, new: Mask) -> pa.Table:
    """Rows with their ids: those of their units but for the ``new`` ones, and their texts."""
    pairs, ids = table["id"], units.to_pylist()
    known = pairs.to_pylist()
    texts = known if text is None else text.to_pylist()
    for row in np.flatnonzero(new).tolist():
        ids[row] = known[row] if text is None else schema.triplet_id(known[row], texts[row])
    table = table.set_column(table.column_names.index("id"), "id", pa.array(ids, pa.string()))
    if text is None:
        return table
    place = table.column_names.index("provenance") + 1
    return table.add_column(place, "pair", pairs).add_column(place + 1, "modification", text)


def _same(
    units: pa.ChunkedArray, ids: pa.ChunkedArray, first: Any
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The units none of whose rows is among the ``first`` ones, and the id that they came to;
    and the lines of other units that are not among them.
    """
    frame = pd.DataFrame({"unit": units.to_pylist(), "id": ids.to_pylist()})
    gone = ~frame["unit"].isin(set(frame["unit"].iloc[first]))
    lost = frame[gone].drop_duplicates("unit")
    same = dict(zip(lost["unit"].tolist(), lost["id"].tolist(), strict=True))
    gone.iloc[first] = True
    again = frame[~gone]
    return same, list(zip(again["unit"].tolist(), again["id"].tolist(), strict=True))
