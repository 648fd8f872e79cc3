"""What a run lets be seen: the tables of a step in their place, and the triplets of all steps."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from datagen import plan, schema, store, tables
from datagen.plan import Planned


def step(planned: Planned, made: Mapping[str, pa.Table]) -> None:
    """Write the tables of a step, by name. Other rows than before give later steps other places.

    Rows change under a decision that stands where failed ones were tried again. The order matters
    to a kill in between: first the step is no longer done, then later steps are told, then the
    tables change.
    """
    paths = {name: store.join(planned.decision, f"{name}.parquet") for name in made}
    if store.exists(paths["table"]):
        store.remove(store.join(planned.decision, "done.json"))
        standing = {name: path for name, path in paths.items() if store.exists(path)}
        if any(not store.read_table(path).equals(made[n]) for n, path in standing.items()):
            store.write_json(store.join(planned.decision, plan.RETRIED), uuid.uuid4().hex)
    for name, table in made.items():
        store.write_table(paths[name], table)


@dataclass(frozen=True)
class Left:
    """What a step left behind: the folder of its decision, and the level of its table."""

    id: str
    folder: str
    level: str


def triplets(out: str, steps: Sequence[Left]) -> None:
    """triplets.parquet: every triplet that was ever made, with the verdict it met.

    Where the recipe makes none, those of an earlier recipe go.
    """
    path = store.join(out, "triplets.parquet")
    made = gathered(steps)
    if made is not None:
        store.write_table(path, made)
    else:
        store.remove(path)


def gathered(steps: Sequence[Left]) -> pa.Table | None:
    """Every triplet that ``steps`` made, sorted by id, with verdict, rule, detail and step.

    None where they made none.
    """
    made: list[pa.Table] = []
    for before, after in itertools.pairwise(steps):
        if before.level != "triplets":
            continue
        verdicts = store.read_table(store.join(after.folder, "verdicts.parquet"))
        lost = verdicts.filter(pc.not_equal(verdicts["verdict"], schema.KEPT))
        if not lost.num_rows:
            continue
        rows = store.read_table(store.join(before.folder, "table.parquet"))
        rows = rows.filter(pc.is_in(rows["id"], value_set=lost["id"].combine_chunks()))
        scores = store.join(after.folder, "scores.parquet")
        if store.exists(scores):
            rows = tables.with_columns(rows, store.read_table(scores))
        given = lost.append_column("step", pa.array([after.id] * lost.num_rows, pa.string()))
        made.append(tables.with_columns(rows, given))
    if steps and steps[-1].level == "triplets":
        rows = store.read_table(store.join(steps[-1].folder, "table.parquet"))
        count = rows.num_rows
        for name in ("verdict", "rule", "detail", "step"):
            value = schema.KEPT if name == "verdict" else None
            rows = rows.append_column(name, pa.array([value] * count, pa.string()))
        made.append(rows)
    return tables.by_id(pa.concat_tables(made, promote_options="permissive")) if made else None
