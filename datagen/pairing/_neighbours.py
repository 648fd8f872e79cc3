"""Cosines and nearest neighbours: the mathematics behind ``knn_band``."""

from __future__ import annotations

import numpy as np

from datagen.pairing._table import Array

#: Similarities are rounded to so many decimals before anything is ordered by them.
DECIMALS = 4

#: Numbers (float64) that one block of vectors may hold.
BLOCK = 1 << 22


def cosines(vectors: Array, left: Array, right: Array) -> Array:
    """Cosine of ``vectors[left]`` and ``vectors[right]`` (float64, m), to four decimals.

    Row -1, a vector of zeros and one that is not finite give NaN. Each value is computed from its
    own two rows in double precision: it does not depend on what else is asked for.
    """
    out = np.full(len(left), np.nan)
    step = max(1, BLOCK // max(1, vectors.shape[1]))
    rows = np.flatnonzero((left >= 0) & (right >= 0))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        a = np.asarray(vectors[left[some]], np.float64)
        b = np.asarray(vectors[right[some]], np.float64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            norm = np.sqrt(np.einsum("ij,ij->i", a, a)) * np.sqrt(np.einsum("ij,ij->i", b, b))
            value = np.einsum("ij,ij->i", a, b) / norm
        value[~np.isfinite(value)] = np.nan
        out[some] = np.round(value, DECIMALS)
    return out
