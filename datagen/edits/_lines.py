"""Answers of operators that paint: their columns, and lines of them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from datagen import schema
from datagen.edits._best import SCORES

ANSWER = pa.schema(
    [
        ("id", pa.string()),
        *(schema.PAIRS.field(name) for name in ("references", "targets", "evidence")),
        ("edit", pa.string()),
        *((f"score_edit_{name}", pa.float64()) for name in SCORES),
        *schema.VERDICT_FIELDS,
    ]
)


def line(
    name: str, verdict: str, rule: str | None = None, detail: str | None = None
) -> dict[str, Any]:
    """A line for a row, in which nothing else is said."""
    none = dict.fromkeys(ANSWER.names)
    return none | {"id": name, "verdict": verdict, "rule": rule, "detail": detail}
