"""Small clips for tests, encoded by PyAV: seconds to make, a few kilobytes, deterministic."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A smooth picture without a meaning; each seed has its own."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(
    pictures: Sequence[Image.Image],
    rate: Fraction | int = 8,
    size: tuple[int, int] | None = None,
    crf: int = 18,
    codec: str = "libx264",
) -> bytes:
    """``pictures`` as an mp4 of so many frames a second; ``size`` is even."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height = size or pictures[0].size
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": str(crf), "preset": "veryfast"}
        else:
            stream.bit_rate = 2_000_000
        for one in pictures:
            fitted = one.resize((stream.width, stream.height), Image.Resampling.BICUBIC)
            container.mux(stream.encode(av.VideoFrame.from_image(fitted)))
        container.mux(stream.encode())
    return out.getvalue()


def faded(frames: int, seed: int = 0, size: tuple[int, int] = (96, 72)) -> list[Image.Image]:
    """One picture that turns into another."""
    left, right = picture(2 * seed, size), picture(2 * seed + 1, size)
    return [Image.blend(left, right, at / max(1, frames - 1)) for at in range(frames)]


def fade(frames: int, seed: int = 0, size: tuple[int, int] = (96, 72)) -> bytes:
    """The clip of :func:`faded`."""
    return encoded(faded(frames, seed, size))
