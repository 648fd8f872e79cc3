"""What a report lists: the triplets of a run, or what there is before there are any.

Beside the triplets of every verdict stand the pairs that a step took away, as most methods filter
pairs before a text is written. A run that has no triplets yet shows its pairs, or its items.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema, store, tables
from datagen.errors import DatagenError
from datagen.result import Run

#: Columns by which rows are told apart in the page.
FACETS = ("level", "verdict", "step", "rule", "split")


@dataclass(frozen=True)
class Gathered:
    """The rows of a report.

    rows: those listed, sorted by id, with the columns of schema.TRIPLETS as far as there are any,
    ``level`` and ``verdict``, ``rule``, ``detail``, ``step``, ``split``; counts: of all rows of
    the run by their values of :data:`FACETS`.
    """

    rows: pa.Table
    counts: Counter[tuple[str | None, ...]]

    @property
    def total(self) -> int:
        """Rows of the run, listed or not."""
        return sum(self.counts.values())

    def number(self, level: str, verdict: str) -> int:
        """All rows of the run of this level and verdict."""
        return sum(n for key, n in self.counts.items() if key[:2] == (level, verdict))


def gather(run: Run, limit: int) -> Gathered:
    """Read the rows of ``run``, ``limit`` of them at most; at least half of these are kept ones
    where there are so many, the rest is shared out evenly among the rules. Within a group the
    first by id are taken, which is a fair sample, as ids are hashes.
    """
    parts = [_with_facets(part) for part in _parts(run)]
    if not parts:
        return Gathered(_with_facets(_level(schema.empty(schema.TRIPLETS), "triplets")), Counter())
    keys = pa.concat_tables([part.select(["id", *FACETS]) for part in parts]).to_pandas()
    keys = keys.astype(object).where(keys.notna(), None)
    counts = Counter(keys[list(FACETS)].itertuples(index=False, name=None))
    if len(keys) > limit:
        groups = keys.assign(
            group=[
                "" if verdict == schema.KEPT else f"{level} {verdict} {step} {rule}"
                for level, verdict, step, rule in zip(
                    *(keys[name] for name in FACETS[:4]), strict=True
                )
            ]
        )
        quota = shares(Counter(groups["group"]), limit)
        groups = groups.sort_values(["id"], kind="stable")
        place = groups.groupby("group").cumcount()
        chosen = set(groups.index[place < groups["group"].map(quota)])
        starts = np.cumsum([0, *(part.num_rows for part in parts)])
        parts = [
            part.filter(pa.array([at in chosen for at in range(start, start + part.num_rows)]))
            for start, part in zip(starts, parts, strict=False)
        ]
    listed = tables.by_id(pa.concat_tables(parts, promote_options="permissive"))
    return Gathered(_with_item_scores(run, listed), counts)


def shares(sizes: Counter[str], limit: int) -> dict[str, int]:
    """How many rows of each group are listed, ``limit`` in all; the group ``""`` are the kept.

    Small groups are listed whole and leave their room to the larger ones.
    """
    lost = sum(sizes.values()) - sizes[""]
    quota = {"": min(sizes[""], max(limit - lost, (limit + 1) // 2))}
    room = limit - quota[""]
    others = sorted((size, name) for name, size in sizes.items() if name)
    for done, (size, name) in enumerate(others):
        quota[name] = min(size, room // (len(others) - done))
        room -= quota[name]
    return quota


def scores_of(run: Run, step: str, ids: pa.ChunkedArray) -> pa.Table | None:
    """The scores that the filter ``step`` gave the rows ``ids``, kept or not; None where it
    measured none of them (it looks at the items of rows, or its journal is gone).

    A filter of items leaves the scores of those that it lost in its journal alone.
    """
    folder = next((s["folder"] for s in run.note["steps"] if s["id"] == step), "")
    path = store.join(run.out, folder, "scores.parquet")
    journal = store.Journal(store.join(run.out, folder.rpartition("/")[0], "journal"))
    if folder and store.exists(path):
        found = store.read_table(path)
        found = found.filter(pc.is_in(found["id"], value_set=ids.combine_chunks()))
    elif folder and journal.parts():
        try:
            found = tables.answers(journal, ids, optional=True).rename_columns({"unit": "id"})
        except DatagenError:
            return None
    else:
        return None
    names = [name for name in found.column_names if name.startswith("score_")]
    return found.select(["id", *names]) if names and found.num_rows else None


def measured(run: Run, step: str) -> pa.Table | None:
    """The scores of items (``id`` and score columns) that ``step`` measured; None of none."""
    folder = next((s["folder"] for s in run.note["steps"] if s["id"] == step), "")
    path = store.join(run.out, folder, "measured.parquet")
    if not folder or not store.exists(path):
        return None
    table = store.read_table(path)
    names = [name for name in table.column_names if name.startswith("score_")]
    return table.select(["id", *names]) if names else None


def _with_item_scores(run: Run, rows: pa.Table) -> pa.Table:
    """``rows`` with the scores of their items: the lowest of the references, of the targets."""
    steps = [entry for entry in run.funnel if entry["kind"] == "filter"]
    found = [measured(run, entry["id"]) for entry in steps if entry["level"] != "items"]
    items = [entry["id"] for entry in run.funnel if entry["level"] == "items"]
    if items and set(rows["level"].to_pylist()) - {"items"}:
        table = run.table(items[-1])
        names = [name for name in table.column_names if name.startswith("score_")]
        found.append(table.select(["id", *names]) if names else None)
    for given in found:
        if given is None:
            continue
        for name in given.column_names[1:]:
            known = dict(zip(given["id"].to_pylist(), given[name].to_pylist(), strict=True))
            for side in ("references", "targets"):
                parents, ids = tables.member_ids(rows, side)
                lowest: list[float | None] = [None] * rows.num_rows
                for row, item in zip(parents.tolist(), ids, strict=True):
                    score, have = known.get(item), lowest[row]
                    if score is not None and (have is None or score < have):
                        lowest[row] = score
                rows = rows.append_column(f"{name}_{side[:-1]}", pa.array(lowest, pa.float64()))
    return rows


def _parts(run: Run) -> Iterator[pa.Table]:
    steps = run.funnel
    last = steps[-1] if steps else {}
    path = store.join(run.out, "triplets.parquet")
    published = run.status == "finished" and store.exists(path)
    for before, after in itertools.pairwise(steps):
        if before["level"] == "items" or (before["level"] == "triplets" and published):
            continue
        if sum(after["rejected"].values()) + sum(after["failed"].values()):
            yield _lost(run, before, after)
    if published:
        yield _level(run.triplets(every=True), "triplets")
    elif last and last["rows_out"]:
        yield _level(run.table(last["id"]), last["level"])


def _lost(run: Run, before: dict[str, Any], after: dict[str, Any]) -> pa.Table:
    """Rows of the step ``before`` that ``after`` did not keep, with the reason and its scores."""
    verdicts = run.verdicts(after["id"])
    lost = verdicts.filter(pc.not_equal(verdicts["verdict"], schema.KEPT))
    rows = run.table(before["id"])
    rows = rows.filter(pc.is_in(rows["id"], value_set=lost["id"].combine_chunks()))
    given = lost.append_column("step", pa.array([after["id"]] * lost.num_rows, pa.string()))
    rows = tables.with_columns(rows, given)
    scores = scores_of(run, after["id"], rows["id"]) if after["kind"] == "filter" else None
    if scores is not None:
        rows = tables.with_columns(rows, scores)
    return _level(rows, before["level"])


def _level(rows: pa.Table, level: str) -> pa.Table:
    """``rows`` marked with their level; an item stands alone, as a reference without a target."""
    count = rows.num_rows
    if level == "items":
        items = rows.select(schema.ITEMS.names).to_pylist()
        members = [[schema.member(item)] for item in items]
        rows = rows.drop_columns([n for n in schema.ITEMS.names if n != "id"])
        references = pa.array(members, schema.PAIRS.field("references").type)
        rows = rows.append_column("references", references)
    return rows.append_column("level", pa.array([level] * count, pa.string()))


def _with_facets(rows: pa.Table) -> pa.Table:
    """``rows`` with every column that the page reads; those without a verdict are kept."""
    wanted = [*schema.TRIPLETS, schema.NEGATIVES, schema.SPLIT, *schema.VERDICT_FIELDS]
    for field in [*wanted, pa.field("step", pa.string())]:
        if field.name not in rows.column_names:
            rows = rows.append_column(field.name, pa.nulls(rows.num_rows, field.type))
    verdict = pc.fill_null(rows["verdict"], schema.KEPT)
    return rows.set_column(rows.column_names.index("verdict"), "verdict", verdict)
