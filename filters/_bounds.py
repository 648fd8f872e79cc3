"""Scores as numbers, and verdicts by a band of them: what filters with thresholds share."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa

from datagen import faults, schema
from datagen.faults import Fault

Array = np.ndarray[Any, Any]

#: Whose items of a row a score speaks of.
Of = Literal["both", "reference", "target"]
_SIDES: dict[str, tuple[str, ...]] = {"reference": ("references",), "target": ("targets",)}

TOO_LOW, TOO_HIGH = "too_low", "too_high"


def numbers(column: pa.ChunkedArray) -> Array:
    """A score column as float64; NaN where it is null."""
    out: Array = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return out


def rounded(scores: Array, places: int = 4) -> pa.Array:
    """A score column: ``places`` decimals, null for NaN."""
    return pa.array(np.round(scores, places) + 0.0, pa.float64(), from_pandas=True)


def of_items(rows: pa.Table, items: pa.Table, score: str, of: Of) -> tuple[Array, Array]:
    """The lowest and the highest ``score`` of the items that ``of`` names of each row, float64;
    NaN where one of them has none. At the level of items both are the item's own.
    """
    if "references" not in rows.column_names:
        own = numbers(rows[score])
        return own, own
    known = dict(zip(items["id"].to_pylist(), numbers(items[score]).tolist(), strict=True))
    chosen = _SIDES.get(of, ("references", "targets"))
    lists = zip(*(rows[name].to_pylist() for name in chosen), strict=True)
    found = [
        [known.get(one["id"], np.nan) for members in row for one in members or ()] or [np.nan]
        for row in lists
    ]
    lowest = np.array([np.min(scores) for scores in found], dtype=np.float64)
    return lowest, np.array([np.max(scores) for scores in found], dtype=np.float64)


def banded(
    ids: pa.ChunkedArray,
    lowest: Array,
    highest: Array,
    low: float | None,
    high: float | None,
    lacks: str,
) -> pa.Table:
    """Verdicts of rows with scores from ``lowest`` to ``highest``: kept within ``low`` and
    ``high``; where they were not measured (NaN) the row fails, with ``lacks`` as its detail.
    """
    found: list[Fault] = []
    for least, most in zip(lowest.tolist(), highest.tolist(), strict=True):
        if least != least:
            found.append((schema.FAILED, None, lacks))
        else:
            found.append(below(least, low) or above(most, high))
    return verdicts(ids, found)


def sound_band(low: float | None, high: float | None) -> None:
    """Raise ValueError where there is no bound, or the lower one is above the other."""
    if low is None and high is None:
        raise ValueError("give low, high or both")
    if low is not None and high is not None and low > high:
        raise ValueError(f"low ({low}) is above high ({high})")


def below(score: float, low: float | None) -> Fault:
    """What is against a score that is too low."""
    if low is None or score >= low:
        return None
    return schema.REJECTED, TOO_LOW, f"{score:.4f} < {low:g}"


def above(score: float, high: float | None) -> Fault:
    """What is against a score that is too high."""
    if high is None or score <= high:
        return None
    return schema.REJECTED, TOO_HIGH, f"{score:.4f} > {high:g}"


def verdicts(ids: pa.ChunkedArray, found: list[Fault]) -> pa.Table:
    """Verdicts of all rows: kept where nothing was found."""
    return pa.table({"id": ids, **faults.columns(found)}, schema=schema.VERDICTS)
