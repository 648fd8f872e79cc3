"""Regions of pictures: boxes that labels tell, and blocks and patches that a seed draws."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from datagen.ingest import clean_caption

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
#: Two numbers: from, to.
Range = tuple[float, float]

#: Names under which an entry of labels tells what its box shows.
NAMES = ("label", "name", "category", "class")
#: Grey of a region that is hidden, 0 to 1: the middle.
GREY = 0.5
#: Pixels that a fraction of a side may be off by.
_NEAR = 1e-6


@dataclass(frozen=True)
class Region:
    """A part of a picture: pixels from left and top, up to (without) right and bottom.

    label: what it shows, where that is known.
    """

    left: int
    top: int
    right: int
    bottom: int
    label: str = ""

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    def __str__(self) -> str:
        return f"{self.left} {self.top} {self.right} {self.bottom}"

    def of(self, picture: Array) -> Array:
        """That part of a picture (height, width, …)."""
        return picture[self.top : self.bottom, self.left : self.right]


class BadBoxes(ValueError):
    """Labels do not hold boxes as they should."""


def labelled(labels: str | None, field: str, width: int, height: int) -> list[Region]:
    """The boxes that ``labels`` (a JSON object) hold in ``field``, within the picture.

    ``{"boxes": [{"label": "dog", "box": [x0, y0, x1, y1]}, …]}``: pixels of the upright picture,
    or fractions of its sides where none of the four is above 1. ``bbox`` instead of ``box`` is
    COCO's (x, y, width, height); four numbers alone are a ``box``. What reaches out of the picture
    is cut off, and a box of which nothing is left is passed over. Raises BadBoxes.
    """
    found = json.loads(labels or "{}").get(field)
    if found is None:
        return []
    if not isinstance(found, list):
        raise BadBoxes(f"{field}: a list of boxes was expected")
    regions = [_region(entry, field, width, height) for entry in found]
    return [region for region in regions if region is not None]


def _region(entry: Any, field: str, width: int, height: int) -> Region | None:
    named = entry if isinstance(entry, Mapping) else {"box": entry}
    box = named.get("box", named.get("bbox"))
    numbers = box if isinstance(box, list) and len(box) == 4 else ()
    sound = [isinstance(one, (int, float)) and math.isfinite(one) for one in numbers]
    if not sound or not all(sound):
        raise BadBoxes(f"{field}: {str(entry)[:60]}: a box of four numbers was expected")
    values = [float(one) for one in numbers]
    scale = (width, height) * 2 if all(abs(one) <= 1 for one in values) else (1, 1, 1, 1)
    left, top, right, bottom = (one * by for one, by in zip(values, scale, strict=True))
    if "box" not in named:
        right, bottom = left + right, top + bottom
    label = next((named[name] for name in NAMES if isinstance(named.get(name), str)), "")
    region = Region(
        max(0, math.floor(left + _NEAR)),
        max(0, math.floor(top + _NEAR)),
        min(width, math.ceil(right - _NEAR)),
        min(height, math.ceil(bottom - _NEAR)),
        clean_caption(label),
    )
    inside = region.left < region.right and region.top < region.bottom
    return region if inside else None


def block(random: np.random.Generator, width: int, height: int, share: float, by: Range) -> Region:
    """A rectangle of ``share`` of the picture at a random place, as exactly as pixels allow.

    by: its width over its height, drawn evenly on the logarithm, and bent where the rectangle
    would not fit.
    """
    area = max(1.0, share * width * height)
    ratio = math.exp(random.uniform(math.log(by[0]), math.log(by[1])))
    wide = min(width, max(1, round(math.sqrt(area * ratio))))
    high = max(1, round(area / wide))
    if high >= height:
        high, wide = height, min(width, max(1, round(area / height)))
    left = int(random.integers(width - wide + 1))
    top = int(random.integers(height - high + 1))
    return Region(left, top, left + wide, top + high)


def blocks(
    random: np.random.Generator, width: int, height: int, share: float, each: float, by: Range
) -> list[Region]:
    """Random rectangles of ``each`` of the picture, until ``share`` of it is covered."""
    covered = np.zeros((height, width), bool)
    found: list[Region] = []
    while covered.mean() < share:
        found.append(block(random, width, height, each, by))
        found[-1].of(covered)[...] = True
    return found


def patches(
    random: np.random.Generator, width: int, height: int, share: float, grid: int
) -> list[Region]:
    """``share`` of the cells of a grid laid over the picture (at least one), in reading order."""
    columns, rows = min(grid, width), min(grid, height)
    count = min(columns * rows, max(1, round(share * columns * rows)))
    chosen = np.sort(random.permutation(columns * rows)[:count])
    across = np.linspace(0, width, columns + 1).round().astype(int).tolist()
    down = np.linspace(0, height, rows + 1).round().astype(int).tolist()
    cells = (divmod(int(one), columns) for one in chosen)
    return [Region(across[x], down[y], across[x + 1], down[y + 1]) for y, x in cells]


def covered(regions: Sequence[Region], width: int, height: int) -> Mask:
    """(height, width): what lies in any of the regions."""
    found = np.zeros((height, width), bool)
    for region in regions:
        region.of(found)[...] = True
    return found


def grown(region: Region, margin: float, width: int, height: int) -> Region:
    """A region with ``margin`` of its own sides added on every side, within the picture."""
    wide = round(margin * (region.right - region.left))
    high = round(margin * (region.bottom - region.top))
    return Region(
        max(0, region.left - wide),
        max(0, region.top - high),
        min(width, region.right + wide),
        min(height, region.bottom + high),
        region.label,
    )


def hidden(
    picture: Image.Image, mask: Mask, fill: str, radius: float, random: np.random.Generator
) -> Array:
    """A picture (RGB) as floats (height, width, 3), 0 to 1, with what ``mask`` covers filled.

    fill: ``gray``; ``blur``, a Gaussian of ``radius`` of the longer side; ``noise``, even noise.
    Outside of the mask stays every pixel as it is.
    """
    own = np.asarray(picture, np.uint8)
    if fill == "blur":
        by = ImageFilter.GaussianBlur(radius * max(picture.size))
        other = np.asarray(picture.filter(by), np.uint8).astype(np.float32) / 255
    elif fill == "noise":
        other = random.integers(0, 256, own.shape, np.uint8).astype(np.float32) / 255
    else:
        other = np.full(own.shape, GREY, np.float32)
    return np.where(mask[..., None], other, own.astype(np.float32) / 255)


def told(regions: Sequence[Region], most: int = 16) -> Iterator[dict[str, str | None]]:
    """Regions as what changes between two members: ``left top right bottom``, in pixels."""
    for region in regions[:most]:
        yield {"field": "position", "removed": str(region), "added": None}
