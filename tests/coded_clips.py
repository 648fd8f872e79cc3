"""Clips whose every frame says which one it is: its number, as black and white blocks.

The blocks outlive lossy coding, so a test reads from the pixels alone which frame came out.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

BITS, COLUMNS = 10, 5
WIDTH, HEIGHT = 80, 48


def coded(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray[Any, Any]:
    """An RGB picture of two rows of five blocks, the bits of ``number``, over a red ground.

    The ground is only at the bottom, so that no turn or flip of the picture is itself.
    """
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = (200, 30, 40)
    down, across = height // 3, width // COLUMNS
    for bit in range(BITS):
        row, column = divmod(bit, COLUMNS)
        block = picture[row * down : (row + 1) * down, column * across : (column + 1) * across]
        block[:] = 235 if number >> bit & 1 else 20
    return picture


def number(picture: Image.Image) -> int:
    """Which frame ``picture`` is; an AssertionError where the picture is not upright."""
    pixels = np.asarray(picture.convert("RGB").resize((WIDTH, HEIGHT))).astype(int)
    down, across = HEIGHT // 3, WIDTH // COLUMNS
    ground = pixels[2 * down + 4 :].mean(axis=(0, 1))
    assert ground[0] > 120 > ground[1] + 10, f"no ground at the bottom: {ground}"
    found = 0
    for bit in range(BITS):
        row, column = divmod(bit, COLUMNS)
        middle = pixels[
            row * down + 4 : (row + 1) * down - 4, column * across + 4 : (column + 1) * across - 4
        ]
        found |= int(middle.mean() > 128) << bit
    return found


def clip(
    kind: str = "mp4",
    codec: str = "libx264",
    frames: int = 24,
    times: Sequence[int] | None = None,
    *,
    rate: int = 12,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    turn: float = 0,
    hflip: bool = False,
    vflip: bool = False,
    ratio: Fraction | None = None,
    sound: bool = False,
    full: bool = False,
) -> bytes:
    """A clip of ``frames`` numbered frames; ``times`` (milliseconds) shows them at these."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind, container_options=container or {}) as writer:
        stream: Any = writer.add_stream(
            codec, rate=rate, options={**quiet(codec), **(options or {})}
        )
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        if full:
            stream.codec_context.color_range = 2
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turn or hflip or vflip:
            stream.set_display_rotation(turn, hflip=hflip, vflip=vflip)
        if sound:
            add_sound(writer)
        for at in range(frames if times is None else len(times)):
            picture = av.VideoFrame.from_ndarray(coded(at, *size), format="rgb24")
            if times is not None:
                picture.time_base, picture.pts = Fraction(1, 1000), times[at]
            else:
                picture.time_base, picture.pts = Fraction(1, rate), at
            writer.mux(stream.encode(picture))
        writer.mux(stream.encode())
    return out.getvalue()


def quiet(codec: str) -> dict[str, str]:
    """Options that keep an encoder quick and off the terminal."""
    return {
        "libx264": {"preset": "veryfast", "crf": "12"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:crf=12"},
        "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime", "crf": "10", "b": "4000000"},
        "libvpx": {"cpu-used": "8", "deadline": "realtime", "crf": "4", "b": "4000000"},
        "mpeg4": {"qscale": "2", "b": "4000000"},
    }.get(codec, {})


def add_sound(writer: Any) -> None:
    """Write some silence."""
    stream = writer.add_stream("aac", rate=16_000, layout="mono")
    for _ in range(40):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        writer.mux(stream.encode(frame))
    writer.mux(stream.encode())


def shown(data: bytes) -> list[tuple[Fraction, int]]:
    """(time, number) of every frame of a clip, by a plain decode of everything."""
    with av.open(io.BytesIO(data)) as reader:
        frames = list(reader.decode(video=0))
        unit = Fraction(frames[0].time_base)
        first = min(frame.pts for frame in frames)
        return [((f.pts - first) * unit, number(upright(f))) for f in frames]


def upright(frame: Any) -> Image.Image:
    """A frame as a picture; turned by right angles as it says."""
    return frame.to_image().rotate(frame.rotation, expand=True)
