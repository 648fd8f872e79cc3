"""What embedders share: decoding ahead of the model, captions, and the table they give back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from datagen import media, models, schema
from datagen.clip import Geometry

Array = np.ndarray[Any, Any]
Which = Literal["mean", "first"]

#: Verdict, rule and detail of a row; None while nothing is wrong with it.
Fault = tuple[str, str, str] | None

NO_CAPTION = (schema.REJECTED, "no_caption", "the item has no caption")
NO_DIRECTION = (schema.FAILED, "no_direction", "the model gave zero or no finite vector")


def decode(rows: pa.Table, geometry: Geometry) -> pa.Table:
    """``id``, ``pixels`` (uint8 height x width x 3, as bytes) and verdicts of a table with media."""
    pixels: list[bytes | None] = []
    faults: list[Fault] = []
    for item in rows["media"].to_pylist():
        try:
            if item is None:
                fault: Fault = (schema.REJECTED, "no_media", "the item has no image")
            elif item["modality"] == "video":
                fault = (schema.FAILED, "clips_not_supported", "this embedder takes images only")
            else:
                pixels.append(geometry.fit(media.image(item)).tobytes())
                faults.append(None)
                continue
        except media.MediaError as error:
            fault = (schema.FAILED, error.rule, error.detail)
        pixels.append(None)
        faults.append(fault)
    return pa.table(
        {
            "id": rows["id"],
            "pixels": pa.array(pixels, pa.binary(geometry.size)),
            **verdict_columns(faults),
        }
    )


def pixels(rows: pa.Table, geometry: Geometry, usable: Sequence[int]) -> Array:
    """The decoded images of the ``usable`` rows: uint8 (n, height, width, 3)."""
    shape = (geometry.height, geometry.width, 3)
    column = rows["pixels"]
    images = [np.frombuffer(column[i].as_buffer(), np.uint8).reshape(shape) for i in usable]
    return np.stack(images) if images else np.zeros((0, *shape), np.uint8)


def faults(rows: pa.Table) -> list[Fault]:
    """What an earlier station (:func:`decode`) already said against each row."""
    if "verdict" not in rows.column_names:
        return [None] * rows.num_rows
    columns = [rows[name].to_pylist() for name in ("verdict", "rule", "detail")]
    return [
        None if verdict in (None, schema.KEPT) else (verdict, rule or "", detail or "")
        for verdict, rule, detail in zip(*columns, strict=True)
    ]


def verdict_columns(faults: Sequence[Fault]) -> dict[str, pa.Array]:
    """Columns verdict, rule and detail."""
    return {
        name: pa.array([fault[i] if fault else None for fault in faults], pa.string())
        if i
        else pa.array([fault[0] if fault else schema.KEPT for fault in faults], pa.string())
        for i, name in enumerate(("verdict", "rule", "detail"))
    }


def caption_vectors(
    captions: Sequence[Sequence[str] | None], which: Which, encode: Callable[[list[str]], Array]
) -> tuple[list[int], Array]:
    """Row numbers that have a caption, and one unit vector for each.

    The vector of an item is that of its first caption, or the mean of the unit vectors of all its
    captions, scaled to length 1. Empty captions do not count.
    """
    kept: list[list[str]] = []
    usable: list[int] = []
    for number, texts in enumerate(captions):
        words = [text for text in texts or () if text and text.strip()]
        if words:
            usable.append(number)
            kept.append(words[:1] if which == "first" else words)
    vectors = encode([text for texts in kept for text in texts])
    if which == "first" or not kept:
        return usable, vectors
    starts = np.cumsum([0, *(len(texts) for texts in kept[:-1])])
    sums = np.add.reduceat(vectors.astype(np.float64), starts, axis=0)
    return usable, models.unit_vectors(sums)


def result(
    ids: pa.ChunkedArray, usable: Sequence[int], vectors: Array, faults: list[Fault], width: int
) -> pa.Table:
    """The embedder's table: ``vector`` of the usable rows, null with a verdict for the others."""
    flat = np.zeros((len(ids), width), dtype=np.float32)
    bad = ~np.isfinite(vectors).all(axis=1)
    for row, wrong in zip(usable, bad, strict=True):
        if wrong:
            faults[row] = NO_DIRECTION
    flat[list(usable)] = np.where(bad[:, None], 0, vectors)
    mask = np.array([fault is not None for fault in faults], dtype=bool)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(flat.reshape(-1)), width, mask=pa.array(mask)
    )
    return pa.table({"id": ids, "vector": column, **verdict_columns(faults)})
