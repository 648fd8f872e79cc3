"""Summaries of many numbers as few: quantiles, histograms, shares."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Percentiles of every summary.
PERCENTILES = {"p5": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95}
BINS = 20


def summary(values: Any) -> dict[str, Any] | None:
    """Count, mean, standard deviation, extremes and percentiles (linear); None of no number.

    Nulls and NaN are left out and counted as ``missing``; numbers keep 6 decimals.
    """
    every = np.asarray(values, dtype=np.float64).ravel()
    known = every[np.isfinite(every)]
    if not len(known):
        return None
    found = np.percentile(known, list(PERCENTILES.values()))
    out: dict[str, Any] = {"count": len(known), "missing": len(every) - len(known)}
    figures = {
        "mean": known.mean(),
        "std": known.std(),
        "min": known.min(),
        **dict(zip(PERCENTILES, found, strict=True)),
        "max": known.max(),
    }
    return {**out, **{name: round(float(value), 6) for name, value in figures.items()}}


def histogram(values: Any, bins: int = BINS) -> dict[str, list[float] | list[int]] | None:
    """Counts in equal bins from the least to the greatest; None of no number."""
    every = np.asarray(values, dtype=np.float64).ravel()
    known = every[np.isfinite(every)]
    if not len(known):
        return None
    counts, edges = np.histogram(known, bins=bins)
    return {"edges": [round(float(e), 6) for e in edges], "counts": [int(c) for c in counts]}


def share(part: int, whole: int) -> float:
    """``part`` of ``whole``, 0 of nothing, 6 decimals."""
    return round(part / whole, 6) if whole else 0.0


def sizes_of(codes: Array) -> Array:
    """How often each code that occurs at all occurs."""
    counts = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
    return counts[counts > 0]
