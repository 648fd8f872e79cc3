"""Scores as numbers, and verdicts by a band of them: what filters with thresholds share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from datagen import faults, schema
from datagen.faults import Fault

Array = np.ndarray[Any, Any]

TOO_LOW, TOO_HIGH = "too_low", "too_high"


def numbers(column: pa.ChunkedArray) -> Array:
    """A score column as float64; NaN where it is null."""
    out: Array = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return out


def rounded(scores: Array, places: int = 4) -> pa.Array:
    """A score column: ``places`` decimals, null for NaN."""
    return pa.array(np.round(scores, places) + 0.0, pa.float64(), from_pandas=True)


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
