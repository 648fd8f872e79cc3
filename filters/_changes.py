"""What differs between two pictures of one size, and what a picture is made of, in pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

Array = np.ndarray[Any, Any]

#: Pixels over which pictures are blurred before they are compared: grain and coding go with it.
BLUR = 1.0
#: Cells of a side at which :func:`structure` looks, the width of its window in cells, and SSIM's
#: constant (0.03 of 255, squared), as published (Wang et al. 2004).
CELLS, WINDOW, STEADY = 32, 3.0, (0.03 * 255) ** 2
#: Sides at which :func:`noise` looks for neighbours that have nothing in common.
SCALES = (128, 64, 32)


def differences(left: Array, right: Array, reach: int) -> Array:
    """By how many levels of 255 each place differs: uint8 (height, width), of uint8 pictures
    (height, width, 3).

    Both are blurred a little. A place differs by what its colour lies outside of those that the
    other picture has within ``reach`` pixels, in the channel where that is most; of both pictures
    the larger. So edges may lie a little elsewhere, and a hue or a small thing still shows.
    """
    a, b = (Image.fromarray(one).filter(ImageFilter.GaussianBlur(BLUR)) for one in (left, right))
    return np.maximum(_outside(a, b, reach), _outside(b, a, reach))


def _outside(one: Image.Image, other: Image.Image, reach: int) -> Array:
    """How far each pixel lies outside of the colours around it in ``other``."""
    most, least = (
        np.asarray(other.filter(kind(2 * reach + 1)), np.int16)
        for kind in (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    )
    values = np.asarray(one, np.int16)
    away: Array = np.maximum(values - most, least - values).max(axis=2)
    return np.maximum(away, 0).astype(np.uint8)


def structure(left: Array, right: Array) -> float:
    """How alike two pictures are in structure, 0 to 1: the mean of SSIM's term for contrast and
    structure (Wang et al. 2004), without its sign, over the brightness of 32 x 32 cells of uint8
    pictures (height, width, 3).

    Without the term for brightness a plain ground of another tone counts as the same, and without
    the sign so does a thing that was lighter than its ground and is darker than the other one.
    """
    x, y = (_brightness(one) for one in (left, right))
    mean_x, mean_y = _smooth(x), _smooth(y)
    spread = _smooth(x * x) - mean_x**2 + _smooth(y * y) - mean_y**2
    both = np.abs(_smooth(x * y) - mean_x * mean_y)
    return float(((2 * both + STEADY) / (spread + STEADY)).mean())


def contrast(picture: Array) -> float:
    """Levels of 255 between the darkest and the lightest of 32 x 32 cells of a picture (height,
    width, 3), in the channel where that is most.
    """
    cells = _cells(picture, 32)
    return float((cells.max(axis=(0, 1)) - cells.min(axis=(0, 1))).max())


def noise(picture: Array) -> float:
    """How little neighbours in a picture (height, width, 3) have in common, 0 (plain) to about 1
    (white noise): 1 less their correlation, at the scale where it is least.
    """
    found = [_strangeness(_cells(picture, side)) for side in SCALES if side <= picture.shape[0]]
    return max(found, default=0.0)


def _strangeness(cells: Array) -> float:
    """1 less the correlation of neighbours of (n, n, 3) values; 0 where all are equal."""
    away = cells - cells.mean(axis=(0, 1))
    spread = float((away**2).mean())
    # One level of 255 is what rounding to bytes makes of a plain ground.
    if spread < 1:
        return 0.0
    beside = (away[:, 1:] * away[:, :-1]).mean() + (away[1:] * away[:-1]).mean()
    return float(1 - beside / (2 * spread))


def _cells(picture: Array, side: int) -> Array:
    """Means of ``side`` x ``side`` cells of a picture, float64 (side, side, 3)."""
    if picture.shape[:2] == (side, side):
        return picture.astype(np.float64)
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.float64)


def _brightness(picture: Array) -> Array:
    """Brightness of cells, float64 (CELLS, CELLS)."""
    small = Image.fromarray(picture).convert("L")
    return np.asarray(small.resize((CELLS, CELLS), Image.Resampling.BOX), np.float64)


def _smooth(values: Array) -> Array:
    out: Array = ndimage.gaussian_filter(values, WINDOW, truncate=3.5)
    return out
