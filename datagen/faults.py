"""What is wrong with the rows of a batch, between an operator's stations: as columns and back."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from datagen import schema

#: Verdict, rule and detail of a row; None while nothing is wrong with it.
Fault = tuple[str, str | None, str] | None

NAMES = ("verdict", "rule", "detail")


def columns(faults: Sequence[Fault]) -> dict[str, pa.Array]:
    """Columns verdict, rule and detail; rows without a fault are kept."""
    rows = [fault or (schema.KEPT, None, None) for fault in faults]
    return {
        name: pa.array([row[place] for row in rows], pa.string())
        for place, name in enumerate(NAMES)
    }


def of(rows: pa.Table) -> list[Fault]:
    """What an earlier station said against each row; None where it is kept."""
    if "verdict" not in rows.column_names:
        return [None] * rows.num_rows
    lists = [rows[name].to_pylist() for name in NAMES]
    return [
        None if verdict in (None, schema.KEPT) else (verdict, rule, detail or "")
        for verdict, rule, detail in zip(*lists, strict=True)
    ]
