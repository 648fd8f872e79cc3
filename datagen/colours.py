"""Where colours lie in a picture, as a small grid, and whether two pictures have the same ones.

The greyscale hash of :mod:`datagen.perceptual` sees neither hue nor the tone of a plain ground: a
dress in red and in blue, a black and a navy background have the same one. The grid has the mean
RGB of 16 x 16 cells, each weighted with a part of its neighbours. Two pictures have the same
colours where no channel of any cell differs by more than a tolerance.

A crop moves every edge by a part of a cell, which changes the cells on it in proportion to the
contrast there. So a tenth of the local contrast (the largest less the smallest value of the 3 x 3
cells around, in the picture that has less) does not count as a difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

Array = np.ndarray[Any, Any]

SIDE = 16
#: Bytes of a grid: rows of cells, red, green and blue of each.
BYTES = SIDE * SIDE * 3
#: One part in so many of the local contrast is put down to the place of edges.
PLACE = 10
#: Levels of 255 by which cells may differ; 5 % more or less light is up to 13.
TOLERANCE = 16
#: Grids that are compared at once (about 6 KB each).
BLOCK = 4096


def grid(picture: Image.Image) -> bytes:
    """The colours of an RGB image: 768 bytes, rows of cells, red, green and blue of each.

    Overlapping cells (Pillow's bilinear filter) stay the same at every scale of a picture, where
    its box filter would count whole pixels to one cell or the other.
    """
    return picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR).tobytes()


def from_arrow(column: pa.ChunkedArray) -> Array:
    """A column of grids without nulls (fixed-size binary) as uint8[n, 768]."""
    parts = [np.empty(0, np.uint8)]
    for chunk in column.cast(pa.binary(BYTES)).chunks:
        if len(chunk):
            data = np.frombuffer(chunk.buffers()[1], np.uint8)
            parts.append(data[chunk.offset * BYTES : (chunk.offset + len(chunk)) * BYTES])
    return np.concatenate(parts).reshape(-1, BYTES)


def distances(left: Array, right: Array) -> Array:
    """The largest difference between the cells of grids (uint8[n, 768] each), beyond the part of
    local contrast: uint8[n], in levels of 255, rounded up.
    """
    a, b = _rows(left), _rows(right)
    out = np.empty(len(a), np.uint8)
    for begin in range(0, len(a), BLOCK):
        part = slice(begin, begin + BLOCK)
        excess = _excess(a[part], b[part], contrast(a[part]), contrast(b[part]))
        out[part] = -(-np.maximum(excess, 0) // PLACE)
    return out


def contrast(cells: Array) -> Array:
    """Largest less smallest value of the 3 x 3 cells around each cell: uint8[n, 768]."""
    square = np.pad(cells.reshape(-1, SIDE, SIDE, 3), ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    high = np.maximum(np.maximum(square[:, :-2], square[:, 1:-1]), square[:, 2:])
    low = np.minimum(np.minimum(square[:, :-2], square[:, 1:-1]), square[:, 2:])
    high = np.maximum(np.maximum(high[:, :, :-2], high[:, :, 1:-1]), high[:, :, 2:])
    low = np.minimum(np.minimum(low[:, :, :-2], low[:, :, 1:-1]), low[:, :, 2:])
    span: Array = high - low
    return span.reshape(-1, BYTES)


def _rows(cells: Array) -> Array:
    grids = np.asarray(cells, np.uint8)
    if grids.ndim != 2 or grids.shape[1] != BYTES:
        raise ValueError(f"colours: uint8[n, {BYTES}] expected, not {grids.shape}")
    return grids


def _excess(a: Array, b: Array, contrast_a: Array, contrast_b: Array) -> Array:
    """PLACE times the largest difference beyond the part of contrast: int16[n]."""
    apart = (np.maximum(a, b) - np.minimum(a, b)).astype(np.int16)
    apart *= PLACE
    apart -= np.minimum(contrast_a, contrast_b)
    excess: Array = apart.max(axis=1)
    return excess


#: Cells a side of the squares whose sums are compared before the cells are: all, then 4 x 4.
SQUARES = (SIDE, SIDE // 4)


class Colours:
    """Grids of which one is compared with many, at a tolerance in levels of 255."""

    def __init__(self, cells: Array, tolerance: int) -> None:
        self._cells = _rows(cells)
        self._limit = PLACE * tolerance
        self._sums: list[tuple[Array, Array]] = []
        for side in SQUARES:
            shape = (len(cells), (SIDE // side) ** 2 * 3)
            sums, spare = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
            for begin in range(0, len(cells), BLOCK):
                part = slice(begin, begin + BLOCK)
                grids = self._cells[part]
                most = _summed(contrast(grids), side) + side * side * self._limit
                sums[part], spare[part] = _summed(grids, side), np.minimum(most // PLACE, 65535)
            self._sums.append((sums, spare))

    def alike(self, one: int, others: Array) -> Array:
        """Which of ``others`` (int64[n]) have the colours of ``one``: bool[n].

        Where all cells are near enough, so are their sums: that rules out most others unseen.
        """
        left = np.arange(len(others))
        for sums, spare in self._sums:
            chosen = others[left]
            apart = np.maximum(sums[chosen], sums[one]) - np.minimum(sums[chosen], sums[one])
            left = left[(apart <= np.minimum(spare[chosen], spare[one])).all(axis=1)]
        near = np.zeros(len(others), bool)
        if not len(left):
            return near
        mine = self._cells[one : one + 1]
        around = contrast(mine)
        for begin in range(0, len(left), BLOCK):
            at = left[begin : begin + BLOCK]
            grids = self._cells[others[at]]
            near[at] = _excess(grids, mine, contrast(grids), around) <= self._limit
        return near


def _summed(values: Array, side: int) -> Array:
    """Sums over squares of ``side`` x ``side`` cells: int64[n, squares * 3]."""
    squares = values.reshape(-1, SIDE // side, side, SIDE // side, side, 3)
    sums: Array = squares.sum(axis=(2, 4), dtype=np.int64)
    return sums.reshape(len(values), -1)
