"""Reads a clip back from its frames: the scenes at both ends, and what led from one to the other.

Where both ends look alike, a thing that looked otherwise in between has spun.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from datagen.sources.tinyworld.events import Act, Clip, Shown, clips_of
from datagen.sources.tinyworld.pixels import SIDE, Array, read_scene
from datagen.sources.tinyworld.scene import CENTRES, DIAMETERS, Scene, Thing, centres

#: Colours further apart than this are not grain or compression (RGB distance).
_OTHER = 60.0
#: A thing spins when so much of its box (share of pixels) looks otherwise in between.
_TURNED = 0.04


def read_clip(pictures: Sequence[Image.Image]) -> Shown:
    """The clip that frames show, in order; a scene where nothing happens. Needs one frame."""
    first, last = read_scene(pictures[0]), read_scene(pictures[-1])
    happened = _happened(first, last)
    if happened is not None:
        return happened
    at = _spinning(pictures, first)
    return first if at is None else Clip(first, at, Act("spin"))


def _unlikeness(one: Scene, other: Scene) -> float:
    """How far two scenes are apart: attributes of things of the same colour or shape."""
    total = 3.0 * (one.background != other.background)
    rest = list(other.objects)
    for thing in one.objects:
        if not rest:
            total += 3
            continue
        nearest = min(rest, key=lambda near: _apart(thing, near))
        total += min(_apart(thing, nearest), 3)
        rest.remove(nearest)
    return total + 3 * len(rest)


def _apart(one: Thing, other: Thing) -> float:
    names = ("shape", "colour", "size", "texture", "count", "position")
    return sum(1.01 if name == "shape" else 1.0 for name in names if
               getattr(one, name) != getattr(other, name))  # fmt: skip


def _happened(first: Scene, last: Scene) -> Clip | None:
    """The one event that leads from the first scene nearest to the last; None if none does."""
    options = [clip for clip in clips_of(first) if clip.act.kind != "spin"]
    options += [clip for clip in clips_of(last) if clip.act.kind == "appear"]

    def misfit(clip: Clip) -> float:
        return _unlikeness(clip.start, first) + _unlikeness(clip.end, last)

    best = min(options, key=misfit, default=None)
    if best is None or misfit(best) >= _unlikeness(first, last):
        return None
    return best


def _spinning(pictures: Sequence[Image.Image], scene: Scene) -> int | None:
    """The thing that looks most unlike the first frame in between; None where none does."""
    size = (SIDE, SIDE)
    frames = [
        np.asarray(p.convert("RGB").resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
        for p in pictures
    ]
    if len(frames) < 3:
        return None
    other = np.stack([np.linalg.norm(f - frames[0], axis=-1) > _OTHER for f in frames[1:-1]])
    shares = [_share(other, thing) for thing in scene.objects]
    best = max(range(len(shares)), key=lambda at: shares[at], default=None)
    return best if best is not None and shares[best] > _TURNED else None


def _share(other: Array, thing: Thing) -> float:
    """The greatest share (over frames) of pixels around ``thing`` that are ``other``."""
    places = centres(thing) or [CENTRES[thing.position]]
    half = DIAMETERS[thing.size] / 2 + 0.02
    left, right = min(x for x, _ in places) - half, max(x for x, _ in places) + half
    top, bottom = min(y for _, y in places) - half, max(y for _, y in places) + half
    rows = slice(max(int(top * SIDE), 0), int(bottom * SIDE) + 1)
    columns = slice(max(int(left * SIDE), 0), int(right * SIDE) + 1)
    return float(other[:, rows, columns].mean(axis=(1, 2)).max())
