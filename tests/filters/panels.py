"""Pairs of pictures as filters see them, written to files by the tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from datagen import schema
from datagen.step import Context

PANELS = pa.schema(
    [
        ("id", pa.string()),
        ("references", pa.list_(schema.MEMBER)),
        ("targets", pa.list_(schema.MEMBER)),
    ]
)


def place(path: Path, **changes: Any) -> dict[str, Any]:
    """Where the media of a file lie."""
    data = path.read_bytes() if path.exists() else b""
    known = {"path": str(path), "offset": 0, "size": len(data), "modality": "image"}
    named = {"sha256": hashlib.sha256(data).hexdigest(), "format": path.suffix.removeprefix(".")}
    return {**dict.fromkeys(field.name for field in schema.MEDIA), **known, **named, **changes}


def saved(folder: Path, name: str, picture: Image.Image | np.ndarray[Any, Any]) -> dict[str, Any]:
    """A picture in a file, without loss, and its place."""
    made = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    made.save(folder / f"{name}.png")
    return place(folder / f"{name}.png")


def member(
    name: str, media: dict[str, Any] | None, caption: str | None = None, source: str = "test"
) -> dict[str, Any]:
    """An item as it stands in a pair."""
    return {
        "id": name, "key": name, "source": source, "media": media, "caption": caption,
        "labels": "{}",
    }  # fmt: skip


def pairs(
    rows: Sequence[tuple[str, Sequence[dict[str, Any]], Sequence[dict[str, Any]]]],
) -> pa.Table:
    """A table of (id, references, targets)."""
    made = [{"id": name, "references": left, "targets": right} for name, left, right in rows]
    return pa.Table.from_pylist(made, schema=PANELS)


def measured(operator: Any, rows: pa.Table, size: int = 100) -> dict[str, dict[str, Any]]:
    """What an opened operator says of each row, ``size`` rows a batch."""
    columns = [name for name in operator.columns("pairs") if name in rows.column_names]
    parts = [
        operator(operator.prepare(rows.select(columns).slice(start, size)))
        for start in range(0, rows.num_rows, size)
    ]
    return {row["id"]: row for part in parts for row in part.to_pylist()}


def scored(rows: pa.Table, found: dict[str, dict[str, Any]], *names: str) -> pa.Table:
    """``rows`` with the score columns that were measured."""
    for name in names:
        values = [found[one][name] for one in rows["id"].to_pylist()]
        rows = rows.append_column(name, pa.array(values, pa.float64()))
    return rows


def decided(operator: Any, rows: pa.Table, items: pa.Table | None = None) -> dict[str, str]:
    """The rule, or the verdict where there is none, by id."""
    table = operator.decide(rows, rows if items is None else items)
    assert table.schema == schema.VERDICTS
    assert table["id"].to_pylist() == rows["id"].to_pylist()
    return {row["id"]: row["rule"] or row["verdict"] for row in table.to_pylist()}


def opened(operator: Any) -> Any:
    """The operator, checked and open."""
    assert list(operator.check()) == []
    operator.open(Context())
    return operator
