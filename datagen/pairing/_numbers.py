"""Labels as numbers and times, and what comes next by them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from datagen.pairing._groups import runs
from datagen.pairing._labels import Column
from datagen.pairing._table import Array

#: What the binary form of decimal fractions may hide when differences are compared.
TOLERANCE = 1e-6

_TIME = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")


def number(text: str) -> float:
    """A number, or a time ``HH:MM:SS.ss`` or ``MM:SS`` in seconds; NaN where it is neither."""
    time = _TIME.fullmatch(text)
    if time is not None:
        hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in time.groups())
        return hours * 3600 + minutes * 60 + seconds
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def numbers(column: Column) -> Array:
    """The number of each item (float64, n); NaN where it has none, or several."""
    values = [number(value[0]) if len(value) == 1 else math.nan for value in column.values]
    # The last entry is for items without a value (code -1).
    return np.array([*values, math.nan])[column.codes]


def plain(value: float) -> str:
    """A number to four decimals at most, without trailing zeros."""
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return text if text != "-0" else "0"


def found_at(group: Array, place: Array, wanted: Array) -> Array:
    """The first row of each row's own group whose place is at least ``wanted`` (int64, m).

    Rows are sorted by group, then place; the end of the group where there is no such row.
    """
    start, size = runs(group)
    low, high = start.copy(), start + size
    while (open_ := low < high).any():
        middle = (low + high) // 2
        below = open_ & (place[np.minimum(middle, len(place) - 1)] < wanted)
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low


def next_allowed(low: Array, high: Array, different: Sequence[Array]) -> Array:
    """For each row the first of the rows ``low`` to ``high`` that differs from it in every column.

    Gives places (int64, m), -1 for none. Where a column is the same it skips to the end of the
    run of that value, so long stretches of one action cost one look.
    """
    ends = [start + size for start, size in map(runs, different)]
    out = np.full(len(low), -1, np.int64)
    row, at = np.arange(len(low)), low.copy()
    while len(row):
        inside = at < high[row]
        row, at = row[inside], at[inside]
        ahead = at.copy()
        for values, end in zip(different, ends, strict=True):
            ahead = np.where(values[at] == values[row], np.maximum(ahead, end[at]), ahead)
        done = ahead == at
        out[row[done]] = at[done]
        row, at = row[~done], ahead[~done]
    return out
