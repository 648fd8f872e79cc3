"""What embedders share: the vectors of captions, and the table that they give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from datagen import faults, models, schema
from datagen.faults import Fault

Array = np.ndarray[Any, Any]
Which = Literal["mean", "first"]

NO_CAPTION = (schema.REJECTED, "no_caption", "the item has no caption")
NO_DIRECTION = (schema.FAILED, "no_direction", "the model gave zero or no finite vector")


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


def without_caption(wrong: list[Fault], usable: Sequence[int]) -> None:
    """Reject the rows that are not ``usable``."""
    for number in set(range(len(wrong))).difference(usable):
        wrong[number] = wrong[number] or NO_CAPTION


def result(
    ids: pa.ChunkedArray, usable: Sequence[int], vectors: Array, wrong: list[Fault], width: int
) -> pa.Table:
    """The embedder's table: ``vector`` of the usable rows, null with a verdict for the others."""
    flat = np.zeros((len(ids), width), dtype=np.float32)
    bad: Array = np.asarray(~np.isfinite(vectors).all(axis=1))
    for row, lost in zip(usable, bad, strict=True):
        if lost:
            wrong[row] = NO_DIRECTION
    flat[list(usable)] = np.where(bad[:, None], 0, vectors)
    mask = np.array([fault is not None for fault in wrong], dtype=bool)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(flat.reshape(-1)), width, mask=pa.array(mask)
    )
    return pa.table({"id": ids, "vector": column, **faults.columns(wrong)})


def with_details(table: pa.Table, details: Mapping[int, str]) -> pa.Table:
    """``table`` with remarks on rows, by number; those that have a detail already keep it."""
    if not details:
        return table
    column = table["detail"].to_pylist()
    for row, detail in details.items():
        column[row] = column[row] or detail
    at = table.column_names.index("detail")
    return table.set_column(at, "detail", pa.array(column, pa.string()))


def with_frames(
    table: pa.Table,
    usable: Sequence[int],
    vectors: Array,
    counts: Sequence[int],
    seconds: pa.ChunkedArray | None,
) -> pa.Table:
    """``table`` with ``frame_vectors``: the vectors (n, width) of the frames of each row that has
    a vector, ``counts`` a row of the ``usable`` ones, in half precision as they are rounded; and
    with ``frame_seconds`` from ``seconds`` (lists, a row of the table each).
    """
    width = table["vector"].type.list_size
    starts = dict(zip(usable, np.cumsum([0, *counts]).tolist(), strict=False))
    number = dict(zip(usable, counts, strict=True))
    good = table["vector"].is_valid().to_pylist()
    lengths = [number[row] if well else 0 for row, well in enumerate(good)]
    chosen = [
        np.arange(starts[row], starts[row] + number[row]) for row, well in enumerate(good) if well
    ]
    flat = vectors[np.concatenate([np.arange(0), *chosen])].astype(np.float16)
    offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
    rows = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), width)
    times = [None] * len(good) if seconds is None else seconds.to_pylist()
    kept = [(time or []) if well else [] for time, well in zip(times, good, strict=True)]
    table = table.append_column("frame_vectors", pa.ListArray.from_arrays(offsets, rows))
    return table.append_column("frame_seconds", pa.array(kept, pa.list_(pa.float64())))
