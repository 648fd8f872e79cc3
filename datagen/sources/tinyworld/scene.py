"""The world itself: what a scene is, and which scenes are possible.

A scene is a background and one to four *things*. A thing is a group of one to four identical
shapes with a colour, a size, a texture and a position. Within a scene no two things share a shape
or a colour, so "the star" and "the red one" always mean one thing.

Everything is a pure function of (seed, index): draws come from BLAKE2b, not from a library's
random generator, so they stay the same in every version of every library.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")

SHAPES = [
    "circle", "square", "triangle", "star", "heart", "hexagon", "ring", "cross", "moon", "diamond"
]  # fmt: skip
COLOURS = ["red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown"]
SIZES = ["small", "large"]
TEXTURES = ["plain", "striped", "dotted"]
COUNTS = [1, 2, 3, 4]
BACKGROUNDS = ["white", "gray", "black", "beige", "mint", "lavender", "navy"]

#: Centres of the positions, as fractions of the width and height.
CENTRES: dict[str, tuple[float, float]] = {
    "top left": (0.25, 0.25),
    "top": (0.5, 0.25),
    "top right": (0.75, 0.25),
    "left": (0.25, 0.5),
    "centre": (0.5, 0.5),
    "right": (0.75, 0.5),
    "bottom left": (0.25, 0.75),
    "bottom": (0.5, 0.75),
    "bottom right": (0.75, 0.75),
}
POSITIONS = list(CENTRES)

#: Half the side of a cell, as a fraction of the picture's side.
CELL = 0.24
#: Diameter of one shape, as a fraction of the picture's side.
DIAMETERS = {"small": 0.185, "large": 0.37}

ATTRIBUTES = ("colour", "shape", "size", "texture", "count", "position")
VALUES: dict[str, Sequence[Any]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "texture": TEXTURES,
    "count": COUNTS,
    "position": POSITIONS,
    "background": BACKGROUNDS,
}


@dataclass(frozen=True)
class Thing:
    """A group of ``count`` identical shapes."""

    shape: str
    colour: str
    size: str = "large"
    texture: str = "plain"
    count: int = 1
    position: str = "centre"


@dataclass(frozen=True)
class Scene:
    """What a picture shows. The order of things is the order in which captions name them."""

    objects: tuple[Thing, ...]
    background: str

    def graph(self) -> dict[str, Any]:
        """The scene as plain values, ready for JSON."""
        return {"objects": [asdict(thing) for thing in self.objects], "background": self.background}

    @staticmethod
    def of(graph: Mapping[str, Any]) -> Scene:
        """The scene of a graph such as :meth:`graph` or an item's labels; other keys are ignored.

        Raises KeyError or TypeError where the graph is not one of a scene.
        """
        return Scene(tuple(Thing(**thing) for thing in graph["objects"]), graph["background"])


class Dice:
    """A stream of draws that depends on ``key`` alone."""

    def __init__(self, *key: object) -> None:
        self._key = "/".join(map(str, key)).encode()
        self._block = 0
        self._waiting: list[int] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._waiting:
            salt = self._block.to_bytes(8, "little")
            digest = hashlib.blake2b(self._key, salt=salt).digest()
            self._waiting = [
                int.from_bytes(digest[at : at + 8], "little") for at in range(0, 64, 8)
            ]
            self._block += 1
        return low + (high - low) * ((self._waiting.pop() >> 11) / 2**53)

    def pick(self, choices: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of ``choices``."""
        if weights is None:
            return choices[int(self.uniform() * len(choices))]
        left = self.uniform() * sum(weights)
        for choice, weight in zip(choices, weights, strict=True):
            left -= weight
            if left < 0:
                return choice
        return choices[-1]

    def order(self, choices: Sequence[T], weights: Sequence[float] | None = None) -> list[T]:
        """All ``choices`` in a random order; heavier ones tend to come first."""
        rest = list(range(len(choices)))
        drawn: list[T] = []
        while rest:
            at = self.pick(rest, [weights[i] for i in rest] if weights else None)
            rest.remove(at)
            drawn.append(choices[at])
        return drawn


def centres(thing: Thing) -> list[tuple[float, float]] | None:
    """Where the shapes of ``thing`` stand (fractions of the side); None where they do not fit."""
    x, y = CENTRES[thing.position]
    if thing.count == 1:
        return [(x, y)]
    near = 0.115
    if thing.size == "large":
        if thing.count > 2 and thing.position != "centre":
            return None
        near = 0.225
    if thing.count == 2:
        if thing.position in ("left", "right"):
            return [(x, y - near), (x, y + near)]
        if thing.size == "large" and thing.position not in ("top", "centre", "bottom"):
            return None
        return [(x - near, y), (x + near, y)]
    below = [(x - near, y + near), (x + near, y + near)]
    if thing.count == 3:
        return [(x, y - near), *below]
    return [(x - near, y - near), (x + near, y - near), *below]


def _room(thing: Thing) -> tuple[float, float, float, float] | None:
    """The box that belongs to ``thing`` (left, top, right, bottom)."""
    places = centres(thing)
    if places is None:
        return None
    x, y = CENTRES[thing.position]
    half = DIAMETERS[thing.size] / 2
    wide = max(CELL, *(abs(px - x) + half for px, _ in places))
    high = max(CELL, *(abs(py - y) + half for _, py in places))
    return x - wide, y - high, x + wide, y + high


def _apart(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def possible(scene: Scene) -> bool:
    """Whether ``scene`` can be drawn: everything fits, and things differ in shape and colour."""
    things = scene.objects
    if len({thing.shape for thing in things}) + len({t.colour for t in things}) != 2 * len(things):
        return False
    rooms = [_room(thing) for thing in things]
    return all(
        a is not None and b is not None and (a is b or _apart(a, b))
        for a, b in itertools.combinations_with_replacement(rooms, 2)
    )


@functools.cache
def _seatings(number: int) -> list[tuple[str, ...]]:
    """All sets of ``number`` positions whose cells do not touch."""
    found = []
    for chosen in itertools.combinations(POSITIONS, number):
        boxes = [
            (x - CELL, y - CELL, x + CELL, y + CELL) for x, y in (CENTRES[name] for name in chosen)
        ]
        if all(_apart(a, b) for a, b in itertools.combinations(boxes, 2)):
            found.append(chosen)
    return found


def invent(dice: Dice, max_objects: int) -> Scene:
    """Draw a scene of one to ``max_objects`` things."""
    number = dice.pick([1, 2, 3, 4][:max_objects], [5, 5, 3, 2][:max_objects])
    while True:
        seats = dice.order(dice.pick(_seatings(number)))
        shapes = dice.order(SHAPES)
        colours = dice.order(COLOURS)
        things = tuple(
            Thing(
                shape,
                colour,
                size=dice.pick(SIZES),
                texture=dice.pick(TEXTURES, [5, 3, 3]),
                count=dice.pick(COUNTS, [9, 2, 2, 2]),
                position=seat,
            )
            for seat, shape, colour in zip(seats, shapes, colours, strict=False)
        )
        scene = Scene(things, dice.pick(BACKGROUNDS))
        if possible(scene):
            return scene


def changes(scene: Scene, attribute: str) -> list[Scene]:
    """All possible scenes that differ from ``scene`` in one value of ``attribute`` alone."""
    found = []
    if attribute == "background":
        return [replace(scene, background=v) for v in BACKGROUNDS if v != scene.background]
    for at, thing in enumerate(scene.objects):
        for value in VALUES[attribute]:
            if value == getattr(thing, attribute):
                continue
            changed = replace(thing, **{attribute: value})
            other = replace(scene, objects=(*scene.objects[:at], changed, *scene.objects[at + 1 :]))
            if possible(other):
                found.append(other)
    return found
