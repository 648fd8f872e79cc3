"""Reads a scene back from pixels alone: colours by the nearest of the palette, shapes and
textures by comparison with what the renderer draws.

It serves pictures of the renderer and pictures that a model edited, so it leans on no coordinates
or seeds: only on the palette, the drawings of the shapes, and the fact that the things of a scene
differ in colour.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from datagen.sources.tinyworld.render import BACKGROUND_RGB, COLOUR_RGB, MARK_RGB, stamp
from datagen.sources.tinyworld.scene import (
    CENTRES,
    COUNTS,
    DIAMETERS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
    centres,
)

Array = np.ndarray[Any, Any]

#: Pictures are brought to this side before they are read.
SIDE = 96
#: Side of the square on which a shape is compared with the renderer's.
_PATCH = 20
#: RGB distance below which a pixel belongs to the background, and around a colour.
_GROUND_NEAR = 40.0
_COLOUR_NEAR = 62.0
#: A patch of colour smaller than this (pixels) is noise.
_LEAST = 24


@dataclass(frozen=True)
class _Piece:
    """One connected shape: its colour, box, and coverage of its colour on a square of _PATCH."""

    colour: str
    box: tuple[int, int, int, int]
    likeness: Array


def _distance(pixels: Array, rgb: Sequence[float] | Array) -> Array:
    apart: Array = np.linalg.norm(pixels - np.asarray(rgb, dtype=np.float32), axis=-1)
    return apart


def _ground(pixels: Array) -> tuple[str, Array]:
    """The background's name and its colour as it is here: what most of the border shows."""
    border = np.concatenate(
        [pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3), pixels[:, :3].reshape(-1, 3),
         pixels[:, -3:].reshape(-1, 3)]
    )  # fmt: skip
    seen = np.median(border, axis=0)
    names = list(BACKGROUND_RGB)
    return names[int(np.argmin([_distance(seen, BACKGROUND_RGB[n]) for n in names]))], seen


def _pieces(pixels: Array, ground: Array) -> list[_Piece]:
    """The connected shapes that stand out from the background."""
    apart = _distance(pixels, ground)
    # The shadow of a thing is a darker background, so it must not count as standing out.
    level = (pixels @ ground) / max(float(ground @ ground), 1.0)
    shaded = (_distance(pixels, level[..., None] * ground) < 14) & (level < 1) & (level > 0.7)
    labels, _ = ndimage.label((apart > _GROUND_NEAR) & ~shaded, structure=np.ones((3, 3)))
    pieces = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        seen = pixels[box][labels[box] == label]
        if len(seen) < _LEAST:
            continue
        colour, own = _colour(seen, ground)
        piece = _piece(pixels, labels, label, box, own)
        if piece is not None:
            pieces.append(_Piece(colour, *piece))
    return pieces


def _colour(seen: Array, ground: Array) -> tuple[str, Array]:
    """The colour of a piece whose pixels are ``seen`` (n, 3), and what it is like here.

    Every pixel is taken as a mixture of the colour with the background (at the edge) or with the
    marks: else a red shape with white stripes, seen unsharply, would be pink.
    """
    costs = {}
    for name, rgb in COLOUR_RGB.items():
        base = np.asarray(rgb, dtype=np.float32)
        away: Array = np.full(len(seen), np.inf, dtype=np.float32)
        for other in (ground, np.asarray(MARK_RGB, dtype=np.float32)):
            line = other - base
            share = np.clip((seen - base) @ line / (line @ line), 0, 1)
            away = np.minimum(away, _distance(seen, base + share[:, None] * line))
        # Brown is also a mixture of orange with a dark background: pure colours are likelier.
        away = np.minimum(away, 120) + 0.15 * _distance(seen, base)
        costs[name] = float(away.mean())
    winner = min(costs, key=lambda name: costs[name])
    apart = _distance(seen, COLOUR_RGB[winner])
    purest = seen[apart <= np.quantile(apart, 0.35)]
    return winner, np.median(purest, axis=0)


def _piece(
    pixels: Array, labels: Array, label: int, box: tuple[slice, slice], own: Array
) -> tuple[tuple[int, int, int, int], Array] | None:
    """The tight box of the piece's colour, and how much each place of it is of that colour."""
    rows, columns = box
    window = (slice(max(rows.start - 1, 0), rows.stop + 1),
              slice(max(columns.start - 1, 0), columns.stop + 1))  # fmt: skip
    foreign = (labels[window] != label) & (labels[window] != 0)
    like = np.exp(-((_distance(pixels[window], own) / _COLOUR_NEAR) ** 2))
    like[foreign] = 0
    firm = like > 0.4
    if firm.sum() < _LEAST // 2:
        return None
    down, across = np.flatnonzero(firm.any(axis=1)), np.flatnonzero(firm.any(axis=0))
    top, bottom = int(down[0]), int(down[-1]) + 1
    left, right = int(across[0]), int(across[-1]) + 1
    origin = (window[0].start, window[1].start)
    placed = (left + origin[1], top + origin[0], right + origin[1], bottom + origin[0])
    return placed, patch(like[top:bottom, left:right])


def patch(coverage: Array) -> Array:
    """``coverage`` (h, w) in the middle of a square that keeps its proportions, resized and
    flattened to float32 of shape (_PATCH²,)."""
    high, wide = coverage.shape
    side = max(high, wide)
    square = np.zeros((side, side), dtype=np.float32)
    top, left = (side - high) // 2, (side - wide) // 2
    square[top : top + high, left : left + wide] = coverage
    image = Image.fromarray(square).resize((_PATCH, _PATCH), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32).ravel()


@functools.cache
def _drawings() -> tuple[Array, list[tuple[str, str]]]:
    """Patches of the renderer's shapes, (n, _PATCH²), with (shape, texture) of each."""
    patches, names = [], []
    shifts = ((0.0, 0.0), (0.5, 0.5), (0.0, 0.5), (0.5, 0.0))
    for shape in SHAPES:
        for texture in TEXTURES:
            for size in SIZES:
                diameter = DIAMETERS[size] * SIDE
                for at, turn in enumerate((-8.0, -5.3, -2.7, 0.0, 2.7, 5.3, 8.0)):
                    for shift in (shifts[at % 2 * 2], shifts[at % 2 * 2 + 1]):
                        body, marks = stamp(shape, texture, diameter, turn, shift)
                        cover = body - marks
                        firm = cover > 0.5
                        down = np.flatnonzero(firm.any(axis=1))
                        across = np.flatnonzero(firm.any(axis=0))
                        tight = cover[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
                        patches.append(patch(tight))
                        names.append((shape, texture))
    return np.stack(patches), names


def _name(pieces: Sequence[_Piece]) -> tuple[str, str]:
    """The shape and texture whose drawing is nearest to all of ``pieces`` together."""
    patches, names = _drawings()
    total: dict[tuple[str, str], float] = {}
    for piece in pieces:
        apart = ((patches - piece.likeness) ** 2).sum(axis=1)
        best: dict[tuple[str, str], float] = {}
        for name, value in zip(names, apart.tolist(), strict=True):
            best[name] = min(best.get(name, value), value)
        for name, value in best.items():
            total[name] = total.get(name, 0.0) + value
    return min(total, key=lambda name: (total[name], name))


def _thing(colour: str, pieces: Sequence[_Piece]) -> Thing:
    shape, texture = _name(pieces)
    spans = [max(p.box[2] - p.box[0], p.box[3] - p.box[1]) / SIDE for p in pieces]
    span = float(np.median(spans))
    size = min(SIZES, key=lambda name: abs(span - DIAMETERS[name]))
    left, top = min(p.box[0] for p in pieces), min(p.box[1] for p in pieces)
    right, bottom = max(p.box[2] for p in pieces), max(p.box[3] for p in pieces)
    x, y = (left + right) / 2 / SIDE, (top + bottom) / 2 / SIDE
    count = min(len(pieces), COUNTS[-1])

    def away(position: str) -> float:
        home = CENTRES[position]
        places = centres(Thing(shape, colour, size, texture, count, position)) or [home]
        middle = [(min(axis) + max(axis)) / 2 for axis in zip(*places, strict=True)]
        return math.dist((x, y), middle)

    return Thing(shape, colour, size, texture, count, min(CENTRES, key=away))


def read_scene(image: Image.Image) -> Scene:
    """The scene that ``image`` shows, things in reading order. Any size; read at 96 pixels."""
    image = image.convert("RGB")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float32)
    name, ground = _ground(pixels)
    groups: dict[str, list[_Piece]] = {}
    for piece in _pieces(pixels, ground):
        groups.setdefault(piece.colour, []).append(piece)
    things = [_thing(colour, pieces) for colour, pieces in groups.items()]
    order = list(CENTRES)
    things.sort(key=lambda thing: (order.index(thing.position), thing.colour))
    return Scene(tuple(things), name)
