"""Draws scenes: antialiased shapes with soft light, the same pixels for the same arguments."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datagen.sources.tinyworld.family import Drawn
from datagen.sources.tinyworld.scene import DIAMETERS, Dice, Scene, Thing, centres

Array = np.ndarray[Any, Any]
Point = tuple[float, float]
Outline = list[Point]

#: RGB of the colours of things.
COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 48),
    "orange": (247, 132, 20),
    "yellow": (252, 208, 30),
    "green": (44, 160, 68),
    "turquoise": (28, 186, 190),
    "blue": (44, 100, 228),
    "purple": (138, 58, 190),
    "pink": (248, 112, 178),
    "brown": (146, 88, 48),
}
#: RGB of the backgrounds: pale, dark or gray, so that no thing melts into one.
BACKGROUND_RGB: dict[str, tuple[int, int, int]] = {
    "white": (252, 252, 250),
    "gray": (166, 170, 176),
    "black": (26, 26, 30),
    "beige": (236, 222, 192),
    "mint": (186, 232, 208),
    "lavender": (208, 200, 242),
    "navy": (26, 36, 84),
}
#: Stripes and dots are painted in this colour.
MARK_RGB = (255, 252, 246)

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
_ENCODING: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 6},
    "jpeg": {"quality": 92, "subsampling": 0},
    "webp": {"quality": 92, "method": 4},
}
_FINE = 4  # subpixels a pixel, in each direction
_RIM = 0.12  # unmarked edge of striped shapes, in radii
_DOT = 0.16  # radius of a dot, in radii of its shape


def _arc(centre: Point, radius: float, start: float, stop: float, points: int) -> Outline:
    angles = [start + (stop - start) * at / (points - 1) for at in range(points)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _regular(corners: int, radius: float, start: float) -> Outline:
    turn = 2 * math.pi / corners
    return [
        (radius * math.cos(start + turn * at), radius * math.sin(start + turn * at))
        for at in range(corners)
    ]


def _star() -> Outline:
    outer = _regular(5, 1.06, -math.pi / 2)
    inner = _regular(5, 0.48, -math.pi / 2 + math.pi / 5)
    return [(x, y + 0.06) for pair in zip(outer, inner, strict=True) for x, y in pair]


def _heart() -> Outline:
    points = []
    for at in range(64):
        t = 2 * math.pi * at / 64
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 16.6, -(y + 2.3) / 15.4))
    return points


def _moon() -> Outline:
    # A disc of radius 1 with a bite of radius 0.82 whose centre lies 0.52 to the right.
    x = (1 - 0.82**2 + 0.52**2) / (2 * 0.52)
    angle = math.acos(x)
    outer = _arc((0, 0), 1.0, angle, 2 * math.pi - angle, 48)
    bite = math.atan2(math.sin(angle), x - 0.52)
    inner = _arc((0.52, 0), 0.82, 2 * math.pi - bite, bite, 36)
    return [(px + 0.2, py) for px, py in outer + inner]


def _cross() -> Outline:
    arm, end = 0.34, 0.96
    quarter = [(arm, -end), (arm, -arm), (end, -arm)]
    points: Outline = []
    for _ in range(4):
        points += quarter
        quarter = [(-y, x) for x, y in quarter]
    return points


@functools.cache
def outlines(shape: str) -> tuple[Outline, ...]:
    """The outline of ``shape`` within [-1, 1], then those of its holes."""
    makers: dict[str, Callable[[], tuple[Outline, ...]]] = {
        "circle": lambda: (_regular(72, 0.96, 0),),
        "square": lambda: ([(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],),
        "triangle": lambda: ([(0, -0.98), (1.0, 0.8), (-1.0, 0.8)],),
        "star": lambda: (_star(),),
        "heart": lambda: (_heart(),),
        "hexagon": lambda: (_regular(6, 1.0, 0),),
        "ring": lambda: (_regular(72, 1.0, 0), _regular(72, 0.5, 0)),
        "cross": lambda: (_cross(),),
        "moon": lambda: (_moon(),),
        "diamond": lambda: ([(0, -1.06), (0.74, 0), (0, 1.06), (-0.74, 0)],),
    }
    return makers[shape]()


def _depth(rings: tuple[Outline, ...], points: Array) -> Array:
    """How far inside the shape each of ``points`` (n, 2) lies; negative outside it."""
    inside = np.zeros(len(points), dtype=bool)
    nearest = np.full(len(points), np.inf)
    px, py = points[:, 0], points[:, 1]
    for ring in rings:
        for (ax, ay), (bx, by) in zip(ring, [*ring[1:], ring[0]], strict=True):
            along = (px - ax) * (bx - ax) + (py - ay) * (by - ay)
            t = np.clip(along / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
            away = np.hypot(px - ax - t * (bx - ax), py - ay - t * (by - ay))
            nearest = np.minimum(nearest, away)
            if ay != by:
                crosses = (ay > py) != (by > py)
                inside ^= crosses & (px < ax + (py - ay) / (by - ay) * (bx - ax))
    return np.where(inside, nearest, -nearest)


@functools.cache
def _dots(shape: str) -> tuple[Point, ...]:
    """Centres of whole dots on ``shape``: of all shifts of a lattice, the one that fits most."""
    if shape == "ring":
        return tuple(_regular(9, 0.75, -math.pi / 2))
    rows, columns = np.mgrid[-3:4, -3:4]
    lattice = np.stack([(columns + (rows % 2) / 2) * 0.56, rows * 0.485], axis=-1).reshape(-1, 2)
    fine = np.asarray(np.mgrid[-1:1:0.05, -1:1:0.05]).reshape(2, -1)[::-1].T
    middle = fine[_depth(outlines(shape), fine) > 0].mean(axis=0)
    best: tuple[float, Array] = (-1.0, lattice[:0])
    for across in np.linspace(0, 0.56, 9)[:-1]:
        for down in np.linspace(0, 0.97, 17)[:-1]:
            moved = lattice + np.asarray([across, down])
            depth = _depth(outlines(shape), moved)
            kept = moved[depth > _DOT + 0.06]
            # Lopsided dots look worse than one dot fewer.
            lean = float(np.abs(kept.mean(axis=0) - middle).sum()) if len(kept) else 0.0
            worth = len(kept) - 9 * lean
            if worth > best[0] + 1e-9:
                best = (worth, kept)
    return tuple((float(x), float(y)) for x, y in best[1])


@functools.cache
def _marks(shape: str, texture: str) -> tuple[Outline, ...]:
    """The stripes or dots of ``shape``; stripes reach over its edge."""
    if texture == "striped":
        slant = math.sqrt(0.5)
        bands = []
        for at in range(-3, 4):
            low, high = at * 0.54 - 0.13, at * 0.54 + 0.13
            corners = [(-2.0, low), (2.0, low), (2.0, high), (-2.0, high)]
            bands.append([((x - y) * slant, (x + y) * slant) for x, y in corners])
        return tuple(bands)
    return tuple([(x + px, y + py) for px, py in _regular(20, _DOT, 0)] for x, y in _dots(shape))


def stamp(
    shape: str, texture: str, diameter: float, turn: float, shift: Point = (0.0, 0.0)
) -> tuple[Array, Array]:
    """Coverage of one shape and of the marks on it, each float32 in 0-1, of shape (n, n).

    diameter: pixels; turn: degrees clockwise; shift: of the centre from that of the square, in
    pixels. ``n`` is even, and the square leaves a margin of two pixels or more.
    """
    half = math.ceil(diameter * 0.56) + 3
    side = 2 * half * _FINE
    radius = diameter / 2 * _FINE
    angle = math.radians(turn)
    right, down = radius * math.cos(angle), radius * math.sin(angle)
    # Pillow puts the centre of a pixel at whole numbers; ours is half a pixel further.
    middle = (side / 2 + shift[0] * _FINE - 0.5, side / 2 + shift[1] * _FINE - 0.5)

    def placed(outline: Outline) -> Outline:
        return [
            (middle[0] + x * right - y * down, middle[1] + x * down + y * right) for x, y in outline
        ]

    body = Image.new("L", (side, side))
    pen = ImageDraw.Draw(body)
    rings = [placed(ring) for ring in outlines(shape)]
    for ring, fill in zip(rings, (255, 0), strict=False):
        pen.polygon(ring, fill=fill)
    body_small = np.asarray(body.reduce(_FINE), dtype=np.float32) / 255
    if texture == "plain":
        return body_small, np.zeros_like(body_small)
    marks = Image.new("L", (side, side))
    pen = ImageDraw.Draw(marks)
    for mark in _marks(shape, texture):
        pen.polygon(placed(mark), fill=255)
    if texture == "striped":
        rim = max(2, round(2 * _RIM * radius))
        for ring in rings:
            pen.line([*ring, ring[0], ring[1]], fill=0, width=rim, joint="curve")
    painted = np.asarray(marks.reduce(_FINE), dtype=np.float32) / 255
    return body_small, painted * body_small


@functools.lru_cache(maxsize=8)
def _light(size: int) -> tuple[Array, Array]:
    """Two fields of shape (size, size): down the picture in -1…1, and distance from the middle."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    return np.repeat(line[:, None], size, axis=1), line[:, None] ** 2 + line[None, :] ** 2


def ground(name: str, size: int, dice: Dice, jitter: float) -> Array:
    """The background: its colour, a little lighter at the top and darker in the corners."""
    down, far = _light(size)
    shade = 1 + jitter * dice.uniform(-0.025, 0.025)
    field = shade - down * 0.02 * (0.9 + jitter * dice.uniform(-0.5, 0.5)) - far * 0.018
    return np.asarray(BACKGROUND_RGB[name], dtype=np.float32) * field[:, :, None]


def _window(canvas: Array, x: int, y: int, n: int) -> tuple[Array, tuple[slice, slice]]:
    """The part of ``canvas`` under an (n, n) square at (x, y), and the part of the square."""
    size = canvas.shape[0]
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + n, size), min(x + n, size)
    return canvas[top:bottom, left:right], (slice(top - y, bottom - y), slice(left - x, right - x))


@dataclass(frozen=True)
class Stroke:
    """One shape as it is painted.

    textures: the texture, or two with the share (0-1) of the second; diameter and centre: pixels;
    turn: degrees clockwise; rgb: float32 (3,); opacity: 0-1.
    """

    shape: str
    textures: tuple[str, str, float]
    diameter: float
    centre: Point
    turn: float
    rgb: Array
    opacity: float = 1.0

    def stamp(self) -> tuple[int, int, Array, Array]:
        """Left and top of its square, and coverage of the shape and of its marks."""
        x, y = math.floor(self.centre[0]), math.floor(self.centre[1])
        shift = (self.centre[0] - x, self.centre[1] - y)
        one, two, share = self.textures
        body, marks = stamp(self.shape, one, self.diameter, self.turn, shift)
        if share > 0 and two != one:
            body, others = stamp(self.shape, two, self.diameter, self.turn, shift)
            marks = marks + (others - marks) * share
        half = body.shape[0] // 2
        return x - half, y - half, body, marks


def paint(canvas: Array, strokes: Sequence[Stroke]) -> None:
    """Put ``strokes`` on ``canvas``, after the shadows that they throw."""
    size = canvas.shape[0]
    stamps = [stroke.stamp() for stroke in strokes]
    drop = round(size * 0.016)
    for stroke, (x, y, body, _) in zip(strokes, stamps, strict=True):
        soft = Image.fromarray((body * 255).astype(np.uint8))
        soft = soft.filter(ImageFilter.GaussianBlur(size * 0.012))
        under, part = _window(canvas, x + drop // 2, y + drop, body.shape[0])
        depth = 0.14 * stroke.opacity
        under *= 1 - depth * (np.asarray(soft, dtype=np.float32)[part] / 255)[:, :, None]
    for stroke, (x, y, body, marks) in zip(strokes, stamps, strict=True):
        n = body.shape[0]
        light = 1.05 - 0.1 * (np.arange(n, dtype=np.float32) + 0.5) / n
        colour = stroke.rgb * light[:, None, None]
        colour = colour + (np.asarray(MARK_RGB, dtype=np.float32) - colour) * marks[:, :, None]
        under, part = _window(canvas, x, y, n)
        if stroke.opacity < 1:
            body = body * np.float32(stroke.opacity)
        under += (colour[part] - under) * body[part][:, :, None]


def strokes_of(thing: Thing, size: int, layout: str, shade: str, jitter: float) -> list[Stroke]:
    """The shapes of ``thing``, with the accidents of their place; see :func:`render`."""
    dice = Dice(layout, thing.position)
    tone = Dice(shade, thing.position)
    gain = 1 + jitter * tone.uniform(-0.05, 0.05)
    rgb = np.asarray(COLOUR_RGB[thing.colour], dtype=np.float32) * gain
    lean = dice.uniform(-5, 5)
    shift = (dice.uniform(-0.014, 0.014), dice.uniform(-0.014, 0.014))
    strokes = []
    for x, y in centres(thing) or ():
        place = (
            (x + jitter * (shift[0] + dice.uniform(-0.004, 0.004))) * size,
            (y + jitter * (shift[1] + dice.uniform(-0.004, 0.004))) * size,
        )
        turn = jitter * (lean + dice.uniform(-3, 3))
        textures = (thing.texture, thing.texture, 0.0)
        diameter = DIAMETERS[thing.size] * size
        strokes.append(Stroke(thing.shape, textures, diameter, place, turn, rgb))
    return strokes


def pixels_of(canvas: Array) -> Array:
    """A canvas as bytes: uint8 of shape (size, size, 3)."""
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def render(scene: Scene, size: int, layout: str, shade: str, jitter: float = 1.0) -> Image.Image:
    """Draw ``scene`` as an RGB image of ``size`` by ``size`` pixels.

    layout: key of the small shifts and turns; shade: key of the light and of the tones. The same
    keys give the same pixels, and a thing that stays where it is keeps its shifts when the rest
    of the scene changes. jitter scales all of them; 0 draws every scene in one way only.
    """
    canvas = ground(scene.background, size, Dice(shade, "ground"), jitter)
    strokes = [s for thing in scene.objects for s in strokes_of(thing, size, layout, shade, jitter)]
    paint(canvas, strokes)
    return Image.fromarray(pixels_of(canvas))


def keys(drawn: Drawn, seed: int, same_layout: bool) -> tuple[str, str]:
    """The keys of layout and shade of a scene of the world. With ``same_layout`` it takes its
    layout from its root."""
    origin = drawn.root if same_layout else drawn.index
    return f"layout/{seed}/{origin}", f"shade/{seed}/{drawn.index}"


def picture(
    drawn: Drawn, seed: int, size: int = 96, *, same_layout: bool = True, jitter: float = 1.0
) -> Image.Image:
    """Draw a scene of the world; of a clip, its scene."""
    return render(drawn.scene, size, *keys(drawn, seed, same_layout), jitter)


def encode(image: Image.Image, form: str) -> bytes:
    """The bytes of ``image`` as ``png``, ``jpeg`` or ``webp``."""
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[form], **_ENCODING[form])
    return buffer.getvalue()
