"""Masks of what is painted anew: grown, softened inwards, and pasted back."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def grown(mask: Mask, share: float) -> Mask:
    """``mask`` (height, width) and all that lies within ``share`` of the longer side around it."""
    radius = share * max(mask.shape)
    if not radius or not mask.any():
        return mask
    near: Mask = ndimage.distance_transform_edt(~mask) <= radius
    return near


def softened(mask: Mask, share: float) -> Array:
    """How much of the painted picture shows at each pixel: float32 (height, width), 0 to 1.

    0 outside of ``mask`` always; within it the border is blurred, by a Gaussian whose standard
    deviation is ``share`` of the longer side.
    """
    radius = share * max(mask.shape)
    if not radius:
        return mask.astype(np.float32)
    grey = Image.fromarray(mask.astype(np.uint8) * 255, "L")
    blurred = np.asarray(grey.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255
    # On a straight border the blurred mask is a half.
    inwards: Array = np.clip(2 * blurred - 1, 0, 1, dtype=np.float32) * mask
    return inwards


def pasted(own: Array, painted: Array, weight: Array) -> Array:
    """``own`` (height, width, 3, uint8) with ``painted`` (floats, any size) where ``weight`` says.

    Floats 0 to 1 of the size of ``own``; where the weight is 0 each value is that of ``own``
    exactly. What is not finite in ``painted`` stays so where it shows.
    """
    ground = own.astype(np.float32) / 255
    high, wide = own.shape[:2]
    if painted.shape[:2] != (high, wide):
        planes = [Image.fromarray(painted[..., one].astype(np.float32), "F") for one in range(3)]
        sized = [one.resize((wide, high), Image.Resampling.BICUBIC) for one in planes]
        painted = np.stack([np.asarray(one) for one in sized], axis=-1)
        painted = np.clip(painted, 0, 1)
    part = weight[..., None]
    mixed = ground * (1 - part) + painted * part
    return np.where(part > 0, mixed, ground).astype(np.float32)
