"""Pictures of references, from the tasks that decode them to the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from PIL import Image

from datagen import faults, frames, media, schema

#: Columns that carry a decoded reference from ``prepare`` to the model.
_PICTURE = ("picture_width", "picture_height", "picture_pixels")


def decoded(rows: pa.Table) -> pa.Table:
    """``rows`` with the pixels of their first reference (of a clip its middle frame)."""
    found: list[faults.Fault] = []
    sizes: list[list[Any]] = [[], [], []]
    for row in rows.select(_present(rows, ("references", "media"))).to_pylist():
        own = (row["references"] or [{}])[0].get("media") if "references" in row else row["media"]
        picture = None
        try:
            if not own:
                raise media.MediaError("no_picture", "the reference has no picture")
            picture = frames.of(own, "middle", media.admitted(own))[0].image
            found.append(None)
        except media.MediaError as error:
            found.append((schema.FAILED, error.rule, error.detail))
        width, height = picture.size if picture else (None, None)
        pixels = picture.convert("RGB").tobytes() if picture else None
        for place, value in enumerate((width, height, pixels)):
            sizes[place].append(value)
    kinds = (pa.int32(), pa.int32(), pa.large_binary())
    for name, values, kind in zip(_PICTURE, sizes, kinds, strict=True):
        rows = rows.append_column(name, pa.array(values, kind))
    for name, column in faults.columns(found).items():
        rows = rows.append_column(name, column)
    return rows


def _present(rows: pa.Table, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in rows.column_names]


def opened(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its picture in place of the pixels."""
    pixels = row.pop(_PICTURE[2], None)
    width, height = (row.pop(name, None) for name in _PICTURE[:2])
    if pixels is not None:
        row["picture"] = Image.frombytes("RGB", (width, height), pixels)
    return row
