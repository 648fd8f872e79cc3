"""Draws clips and writes them as MP4: what moves is drawn anew in each frame, the rest once."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from datagen.sources.tinyworld.events import Clip
from datagen.sources.tinyworld.family import Drawn
from datagen.sources.tinyworld.render import (
    Array,
    Stroke,
    ground,
    keys,
    paint,
    pixels_of,
    strokes_of,
)
from datagen.sources.tinyworld.scene import Dice

#: The first and the last part of a clip, in which nothing happens.
_REST = 0.1
#: BT.601 in studio swing, as players take small clips: rows are Y, Cb, Cr of R, G, B in 0-255, in
#: parts of 2 ** 16. Whole numbers, as sums of floats depend on the library that sums them.
_YUV = [(16829, 33039, 6416), (-9714, -19070, 28784), (28784, -24103, -4681)]
_BT601 = 6
_STUDIO = 1
_ENCODING = {
    "crf": "20",
    "preset": "medium",
    "tune": "animation",
    "bf": "0",
    "flags": "+bitexact",
    # One slice and one thread: else the number of cores would show in the bytes. No looking ahead:
    # of very small pictures it reads memory that nobody has set, and so bits differ now and then.
    "x264-params": "threads=1:lookahead-threads=1:sliced-threads=0"
    ":weightp=0:mbtree=0:rc-lookahead=0:scenecut=0",
}
#: Network abstraction units of type 6 carry the encoder's name and settings.
_NO_LIBRARY = "filter_units=remove_types=6"


def progress(frames: int) -> list[float]:
    """How far the event has come (0-1) in each frame: it starts and ends slowly."""
    ways = []
    for at in range(frames):
        way = min(max((at / (frames - 1) - _REST) / (1 - 2 * _REST), 0.0), 1.0)
        ways.append(way * way * (3 - 2 * way))
    return ways


def _between(a: Stroke, b: Stroke, way: float) -> Stroke:
    """A shape on its way from ``a`` to ``b``."""

    def mix(one: Any, two: Any) -> Any:
        return one + (two - one) * way

    return Stroke(
        b.shape,
        (a.textures[0], b.textures[0], way),
        mix(a.diameter, b.diameter),
        (mix(a.centre[0], b.centre[0]), mix(a.centre[1], b.centre[1])),
        mix(a.turn, b.turn),
        mix(a.rgb, b.rgb),
    )


def _moving(
    kind: str, before: Sequence[Stroke], after: Sequence[Stroke], way: float
) -> list[Stroke]:
    """The shapes of the thing that the event is about, when it has come so far."""
    if kind == "spin":
        return [replace(stroke, turn=stroke.turn + 360 * way) for stroke in before]
    if kind in ("vanish", "appear"):
        seen = way if kind == "appear" else 1 - way
        return [replace(stroke, opacity=seen) for stroke in before] if seen > 0 else []
    comes = len(after) > len(before)
    fewer, more = (before, after) if comes else (after, before)
    order = _nearest(fewer, more)
    kept, single = order[: len(fewer)], order[len(fewer) :]
    ends = zip(fewer, kept, strict=True)
    shapes = [_between(*((a, b) if comes else (b, a)), way) for a, b in ends]
    # Those that only one side has come or go one by one.
    for at, stroke in enumerate(single):
        seen = min(max(way * len(single) - at, 0.0), 1.0)
        seen = seen if comes else 1 - seen
        if seen > 0:
            shapes.append(replace(stroke, opacity=seen))
    return shapes


def _nearest(fewer: Sequence[Stroke], more: Sequence[Stroke]) -> list[Stroke]:
    """``more``, in the order that brings its first ones nearest to ``fewer``."""

    def way(order: Iterable[Stroke]) -> float:
        return sum(math.dist(a.centre, b.centre) for a, b in zip(fewer, order, strict=False))

    if len(fewer) == len(more):
        return list(more)
    return list(min(itertools.permutations(more), key=way))


def film(
    drawn: Drawn,
    seed: int,
    size: int = 96,
    frames: int = 12,
    *,
    same_layout: bool = True,
    jitter: float = 1.0,
) -> list[Array]:
    """Draw a clip of the world: ``frames`` pictures, uint8 of shape (size, size, 3).

    The first shows ``clip.start`` and the last ``clip.end``, as :func:`render.render` draws them.
    """
    clip = drawn.clip
    assert clip is not None
    layout, shade = keys(drawn, seed, same_layout)
    ways = progress(frames)
    things = clip.scene.objects
    if clip.at is None:
        strokes = [s for thing in things for s in strokes_of(thing, size, layout, shade, jitter)]
        grounds = [
            ground(name, size, Dice(shade, "ground"), jitter)
            for name in (clip.start.background, clip.end.background)
        ]
        return [_over(grounds, strokes, way) for way in ways]
    base = ground(clip.scene.background, size, Dice(shade, "ground"), jitter)
    others = [thing for at, thing in enumerate(things) if at != clip.at]
    paint(base, [s for thing in others for s in strokes_of(thing, size, layout, shade, jitter)])
    before = strokes_of(things[clip.at], size, layout, shade, jitter)
    after = strokes_of(_last(clip), size, layout, shade, jitter)
    pictures: list[Array] = []
    for at, way in enumerate(ways):
        if at and way == ways[at - 1]:
            pictures.append(pictures[-1])
            continue
        canvas = base.copy()
        paint(canvas, _moving(clip.act.kind, before, after, way))
        pictures.append(pixels_of(canvas))
    return pictures


def _last(clip: Clip) -> Any:
    """The thing that the event is about, as it is at the end (or while it is there)."""
    assert clip.at is not None
    end = clip.scene if clip.act.kind in ("vanish", "appear") else clip.end
    return end.objects[clip.at]


def _over(grounds: Sequence[Array], strokes: Sequence[Stroke], way: float) -> Array:
    canvas = grounds[0] + (grounds[1] - grounds[0]) * np.float32(way)
    paint(canvas, strokes)
    return pixels_of(canvas)


def _planes(picture: Array) -> Array:
    """The planes of a picture of even sides as 4:2:0, uint8 of shape (3 h / 2, w).

    Done here, by plain arithmetic, so that it is the same wherever it runs.
    """
    high, wide, _ = picture.shape
    red, green, blue = np.moveaxis(picture.astype(np.int32), -1, 0)
    y, *chroma = (r * red + g * green + b * blue for r, g, b in _YUV)
    small = [c.reshape(high // 2, 2, wide // 2, 2).sum(axis=(1, 3)) for c in chroma]
    luma = (y + (16 << 16) + (1 << 15)) >> 16
    flat = [luma.ravel(), *(((c + (128 << 18) + (1 << 17)) >> 18).ravel() for c in small)]
    return np.concatenate(flat).astype(np.uint8).reshape(high * 3 // 2, wide)


def encode_clip(pictures: Sequence[Array], fps: int) -> bytes:
    """``pictures`` (uint8, even sides) as MP4: H.264, 4:2:0, the index at the front.

    The same pictures give the same bytes: one thread, no times, no name of the encoder.
    """
    high, wide, _ = pictures[0].shape
    buffer = io.BytesIO()
    # Room for the index ahead of the frames, so that a player can start with the first bytes.
    options = {"fflags": "+bitexact", "moov_size": str(1000 + 16 * len(pictures))}
    with av.open(buffer, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options=dict(_ENCODING))
        stream.width, stream.height, stream.pix_fmt = wide, high, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.gop_size = len(pictures)
        context.colorspace, context.color_range = _BT601, _STUDIO
        context.color_primaries, context.color_trc = _BT601, _BT601
        clean = BitStreamFilterContext(_NO_LIBRARY, in_stream=stream)
        for picture in [*pictures, None]:
            frame = None if picture is None else _frame(picture)
            for packet in stream.encode(frame):
                for kept in clean.filter(packet):
                    container.mux(kept)
        for kept in clean.filter(None):
            container.mux(kept)
    return buffer.getvalue()


def _frame(picture: Array) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(_planes(picture), format="yuv420p")
    frame.colorspace, frame.color_range = _BT601, _STUDIO
    return frame
