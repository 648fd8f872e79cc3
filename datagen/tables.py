"""The canonical rewrite: from a step's journal to its table and verdicts, in one fixed order.

Everything that could depend on workers, batches or kills ends here: rows are sorted by id, a
unit that was journalled twice counts once, and every input row gets exactly one verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema
from datagen.errors import DatagenError
from datagen.space import FrameRows, Space
from datagen.store import Journal

VERDICT = ("verdict", "rule", "detail")
#: What embedders give that is read one part at a time, and never as one table.
VECTORS = ("vector", "frame_vectors", "frame_seconds")
_RANK = {schema.KEPT: 0, schema.REJECTED: 1, schema.FAILED: 2}
#: Rows of each kind that notes name.
EXAMPLES = 3


def by_id(table: pa.Table) -> pa.Table:
    """Rows sorted by id, in one chunk."""
    return table.take(pc.sort_indices(table["id"])).combine_chunks()


def answers(
    journal: Journal,
    ids: pa.ChunkedArray,
    without: tuple[str, ...] = (),
    optional: bool = False,
) -> pa.Table:
    """Journal rows for ``ids``, each unit once, sorted by unit and by order within it.

    A unit may stand in two parts when a worker of a killed run was still writing, or when it was
    tried again; the better verdict counts, then fewer failures, then the name of the part.
    Raises DatagenError when a unit has no answer.
    """
    tables = []
    for part in journal.parts():
        table = journal.read_part(part, without)
        name = part.rsplit("/", 1)[-1]
        table = table.append_column("_part", pa.array([name] * table.num_rows, pa.string()))
        table = table.append_column("_row", pa.array(np.arange(table.num_rows)))
        tables.append(table.filter(pc.is_in(table["unit"], value_set=ids.combine_chunks())))
    if not tables:
        raise DatagenError(f"{journal.folder}: the journal is empty")
    joined = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    keys = joined.select(["unit", "verdict", "_part", "_row"]).to_pandas()
    keys["_rank"] = keys["verdict"].map(_RANK)
    # Of two answers of several rows (a source's part, read again) the one with fewer failures.
    failed = keys[keys["verdict"] == schema.FAILED].groupby(["unit", "_part"]).size()
    keys["_lost"] = 0
    if len(failed):
        places = pd.MultiIndex.from_frame(keys[["unit", "_part"]])
        keys["_lost"] = failed.reindex(places, fill_value=0).to_numpy()
    owner = keys.sort_values(["_rank", "_lost", "_part"], kind="stable").drop_duplicates("unit")
    if len(owner) < len(ids) and not optional:
        raise DatagenError(f"{journal.folder}: {len(ids) - len(owner)} rows have no answer")
    owning = keys["unit"].map(owner.set_index("unit")["_part"])
    keys = keys[keys["_part"] == owning].sort_values(["unit", "_row"], kind="stable")
    return joined.take(pa.array(keys.index.to_numpy())).drop_columns(["_part", "_row"])


def unit_verdicts(answered: pa.Table) -> pa.Table:
    """One verdict per unit: kept if any of its rows is, else that of its first row."""
    frame = answered.select(["unit", *VERDICT]).to_pandas()
    frame["_rank"] = frame["verdict"].map(_RANK)
    best = frame.sort_values(["unit", "_rank"], kind="stable").drop_duplicates("unit")
    columns = [pa.array(best[name], pa.string(), from_pandas=True) for name in ("unit", *VERDICT)]
    return pa.table(columns, schema=schema.VERDICTS)


def with_columns(rows: pa.Table, given: pa.Table) -> pa.Table:
    """``rows`` with the columns of ``given`` (by id) put beside, null where it has no row."""
    at = pc.index_in(rows["id"], value_set=given["id"].combine_chunks())
    for name in given.column_names:
        if name == "id":
            continue
        column = given[name].combine_chunks().take(at.combine_chunks())
        if name in rows.column_names:
            old = rows[name].combine_chunks()
            if pa.types.is_null(column.type):
                column = old
            elif column.type == old.type:
                column = pc.coalesce(column, old)
            rows = rows.set_column(rows.column_names.index(name), name, column)
        else:
            rows = rows.append_column(name, column)
    return rows


def with_made(items: pa.Table, made: Sequence[pa.Table]) -> pa.Table:
    """``items`` and those that steps ``made``, sorted by id where that is among the columns."""
    if not any(table.num_rows for table in made):
        return items
    table = pa.concat_tables([items, *made], promote_options="permissive")
    return by_id(table) if "id" in table.column_names else table


def kept(rows: pa.Table, verdicts: pa.Table) -> pa.Table:
    """The rows whose verdict is kept."""
    good = verdicts.filter(pc.equal(verdicts["verdict"], schema.KEPT))["id"]
    return rows.filter(pc.is_in(rows["id"], value_set=good.combine_chunks()))


def member_ids(rows: pa.Table, column: str) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Row numbers and item ids of all members of ``column`` (references, targets, negatives)."""
    lists = rows[column].combine_chunks()
    members = lists.flatten()
    if column == "negatives":
        members = members.field("item")
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    return parents, members.field("id").to_pylist()


def used_items(rows: pa.Table) -> set[str]:
    """Ids of the items that pairs or triplets use as reference, target or negative."""
    used: set[str] = set()
    for column in ("references", "targets", "negatives"):
        if column in rows.column_names:
            used.update(member_ids(rows, column)[1])
    return used


def fail_users(rows: pa.Table, verdicts: pa.Table, failed: pa.Table) -> pa.Table:
    """Verdicts of ``rows``, each of which shares the fate of its references and targets.

    failed: id, verdict, rule and detail of the items that were rejected or have failed;
    verdicts: those that the rows would have without, in the order of ``rows``.
    """
    fate = {row["id"]: row for row in failed.select(schema.VERDICTS.names).to_pylist()}
    changed: dict[int, tuple[str, ...]] = {}
    for column in ("references", "targets"):
        for parent, item in zip(*member_ids(rows, column), strict=True):
            if (found := fate.get(item)) is not None:
                detail = f"{column[:-1]} {item}: {found['detail']}"
                changed[int(parent)] = (found["verdict"], found["rule"], detail)
    columns = [verdicts["id"]]
    for place, name in enumerate(VERDICT):
        values = verdicts[name].to_pylist()
        for row, fate_of_row in changed.items():
            values[row] = fate_of_row[place]
        columns.append(pa.array(values, pa.string()))
    return pa.table(columns, schema=schema.VERDICTS)


def not_used(answered: pa.Table, others: Sequence[tuple[str, str, str]] = ()) -> dict[str, Any]:
    """Notes on texts that came to nothing in units that are kept: counts by rule, and examples.

    others: unit, rule and detail of further ones.
    """
    frame = answered.select(["unit", *VERDICT]).to_pandas()
    kept = frame.loc[frame["verdict"] == schema.KEPT, "unit"]
    lost = frame[(frame["verdict"] != schema.KEPT) & frame["unit"].isin(kept)]
    if others:
        more = pd.DataFrame(others, columns=["unit", "rule", "detail"])
        lost = pd.concat([lost[more.columns], more], ignore_index=True)
    if lost.empty:
        return {}
    told: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for rule, some in lost.fillna({"rule": "error"}).groupby("rule", sort=True):
        counts[str(rule)] = len(some)
        pairs = zip(some["unit"].head(EXAMPLES), some["detail"].head(EXAMPLES), strict=True)
        told[str(rule)] = [f"{unit}: {detail or ''}"[:200] for unit, detail in pairs]
    return {"not_used": counts, "examples": told}


def add_provenance(table: pa.Table, line: dict[str, Any]) -> pa.Table:
    """``table`` with ``line`` appended to the provenance of every row."""
    old = table["provenance"].combine_chunks()
    count = table.num_rows
    lengths = pc.fill_null(pc.list_value_length(old), 0).to_numpy(zero_copy_only=False)
    flat = pa.concat_arrays([old.flatten(), pa.array([line], schema.PROVENANCE.value_type)])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    new_lengths = lengths + 1
    offsets = np.concatenate([[0], np.cumsum(new_lengths)]).astype(np.int32)
    index = np.full(int(offsets[-1]), len(flat) - 1, dtype=np.int64)
    mask = np.ones(len(index), dtype=bool)
    mask[offsets[1:] - 1] = False
    index[mask] = np.arange(int(starts[-1]))
    column = pa.ListArray.from_arrays(pa.array(offsets), flat.take(pa.array(index)))
    assert len(column) == count
    return table.set_column(table.column_names.index("provenance"), "provenance", column)


def credited(rows: pa.Table, items: pa.Table, lines: Sequence[Mapping[str, Any]]) -> pa.Table:
    """``rows`` whose provenance begins with those of ``lines`` whose model wrote the captions of
    one of their members, as the column ``captions_by`` of the items says.
    """
    if not lines or "captions_by" not in items.column_names or not rows.num_rows:
        return rows
    writers = dict(zip(items["id"].to_pylist(), items["captions_by"].to_pylist(), strict=True))
    own: list[set[str | None]] = [set() for _ in range(rows.num_rows)]
    for column in ("references", "targets"):
        for row, item in zip(*member_ids(rows, column), strict=True):
            own[row].add(writers.get(item))
    heads = [[dict(line) for line in lines if line["model"] in found] for found in own]
    old = rows["provenance"].to_pylist()
    both = [[*head, *(rest or ())] for head, rest in zip(heads, old, strict=True)]
    at = rows.column_names.index("provenance")
    return rows.set_column(at, "provenance", pa.array(both, schema.PROVENANCE))


def write_space(folder: str, journal: Journal, ids: pa.ChunkedArray) -> None:
    """The space of the kept ``ids``, from the journal's vectors, one part in memory at a time."""

    def chunks() -> Iterator[tuple[list[str], np.ndarray[Any, Any], FrameRows | None]]:
        for part in journal.parts():
            table = journal.read_part(part)
            if "vector" not in table.column_names:
                continue
            table = table.filter(pc.is_valid(table["vector"])).combine_chunks()
            if table.num_rows:
                yield table["unit"].to_pylist(), _matrix(table["vector"]), _frames(table)

    Space.build(folder, ids.to_pylist(), chunks())


def _matrix(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column of fixed-size lists, none null, as (n, size)."""
    values = column.combine_chunks()
    flat: np.ndarray[Any, Any] = values.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, values.type.list_size)


def _frames(table: pa.Table) -> FrameRows | None:
    """The frames that an embedder kept beside its vectors; None where it kept none."""
    if "frame_vectors" not in table.column_names:
        return None
    lists = table["frame_vectors"].combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    seconds = table["frame_seconds"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return FrameRows(_matrix(pa.chunked_array([lists.flatten()])), seconds, counts.astype(np.int64))
