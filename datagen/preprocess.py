"""The half of a CLIP model's preprocessing that needs neither torch nor a GPU.

An image goes through open_clip's own preprocessing in two halves. The first, resize and crop to
the model's size, is Pillow work on any CPU worker (:class:`Geometry`) and gives uint8 pixels; the
second, scaling and normalisation, happens beside the model (:class:`datagen.clip.Clip`). Together
they equal the ``preprocess`` that open_clip returns with the model, bit for bit. Of a clip each
chosen frame goes the way of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import BeforeValidator

from datagen import frames, media, schema
from datagen.faults import Fault

Array = np.ndarray[Any, Any]

#: Frames that a model is given of one clip, at most.
MOST = 64
#: What :func:`is_ratio` wants.
RATIO = "a ratio of sides from 1 to 100 expected, or 0 for none"
_NAMED = {"first": 1, "middle": 1, "key": frames.KEYS}


def _choice(value: Any) -> Any:
    """``value`` as a :data:`datagen.frames.Choice`. Raises ValueError of one line."""
    if isinstance(value, str) and value in _NAMED:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST:
        return value
    if isinstance(value, (list, tuple)) and 1 <= len(value) <= MOST:
        numbers = [one for one in value if isinstance(one, (int, float))]
        if len(numbers) == len(value) and all(math.isfinite(n) and n >= 0 for n in numbers):
            return tuple(map(float, numbers))
    raise ValueError(
        f"first, middle, key, a number of frames (1 to {MOST}) or a list of seconds expected"
    )


#: The setting ``frames`` of an operator: which frames of a clip its model is given.
Frames = Annotated[frames.Choice, BeforeValidator(_choice)]


def frames_at_most(choice: frames.Choice) -> int:
    """How many frames of a clip ``choice`` names, at most."""
    if isinstance(choice, str):
        return _NAMED[choice]
    return choice if isinstance(choice, int) else len(choice)


@dataclass(frozen=True)
class Geometry:
    """How an image becomes the model's input.

    height, width: pixels; mean, std: per channel, of values 0 to 1; interpolation: bicubic or
    bilinear; resize_mode: shortest (then crop), longest (then pad) or squash; fill: grey value
    of padding, 0 to 255; ratio: pictures that are longer than so many times their shorter side are
    padded with black to it before all else (TargetPad of CLIP4Cir, arXiv:2308.11485), so that
    less of them is cropped; 0: none are.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0
    ratio: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of one image: height x width x 3."""
        return self.height * self.width * 3

    def fit(self, picture: Image.Image) -> Array:
        """Resize and crop an RGB image to uint8 (height, width, 3)."""
        picture = self.padded(picture)
        bilinear = self.interpolation == "bilinear"
        how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
        if self.resize_mode == "squash":
            size = (self.width, self.height)
        elif self.resize_mode == "shortest" and self.height == self.width:
            size = shortest(picture.size, self.width)
        else:
            if self.resize_mode == "shortest":
                # open_clip takes bicubic here whatever the model's configuration says.
                how = Image.Resampling.BICUBIC
            size = self._keep_ratio(picture.size)
        if size != picture.size:
            picture = picture.resize(size, how)
        if size != (self.width, self.height):
            fill = self.fill if self.resize_mode == "longest" else 0
            picture = crop_or_pad(picture, self.width, self.height, fill)
        plain = picture if picture.mode == "RGB" else picture.convert("RGB")
        return np.asarray(plain, dtype=np.uint8)

    def padded(self, picture: Image.Image) -> Image.Image:
        """``picture``, on a larger black ground where it is too long for ``ratio``."""
        size = self.ground(picture.size)
        if size == picture.size:
            return picture
        ground = Image.new(picture.mode, size)
        left, top = (size[0] - picture.width) // 2, (size[1] - picture.height) // 2
        ground.paste(picture, (left, top))
        return ground

    def ground(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of a picture of ``size`` behind :meth:`padded`."""
        longer, shorter = max(size), min(size)
        if not self.ratio or longer < self.ratio * shorter:
            return size
        width, height = (one + 2 * max(0, int((longer / self.ratio - one) / 2)) for one in size)
        return width, height

    def _keep_ratio(self, size: tuple[int, int]) -> tuple[int, int]:
        ratios = (size[1] / self.height, size[0] / self.width)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def is_ratio(value: float) -> bool:
    """Whether ``value`` can be the ``ratio`` of a :class:`Geometry`."""
    return value == 0 or 1 <= value <= 100


def shortest(size: tuple[int, int], wanted: int) -> tuple[int, int]:
    """The size of a picture whose shorter side is resized to ``wanted`` pixels."""
    width, height = size
    if width <= height:
        return wanted, int(wanted * height / width)
    return int(wanted * width / height), wanted


def crop_or_pad(picture: Image.Image, width: int, height: int, fill: int) -> Image.Image:
    """The centre of ``picture``, on a ground of grey ``fill`` where it is too small."""
    have_width, have_height = picture.size
    pad_left, pad_top = max(0, width - have_width) // 2, max(0, height - have_height) // 2
    left = round(max(0, have_width - width) / 2)
    top = round(max(0, have_height - height) / 2)
    cut = picture.crop((left, top, min(have_width, left + width), min(have_height, top + height)))
    if cut.size == (width, height):
        return cut
    ground = Image.new("RGB", (width, height), (fill, fill, fill))
    ground.paste(cut, (pad_left, pad_top))
    return ground


def decode(
    media_lists: Sequence[Sequence[Mapping[str, Any] | None]],
    geometry: Geometry,
    choice: frames.Choice,
) -> tuple[dict[str, pa.Array], list[Fault]]:
    """Decode and fit the images, and the frames ``choice`` of the clips, of each row.

    Runs on CPU workers. Returns three columns, and what is wrong with each row: ``pixels``, lists
    of ``geometry.size`` bytes (uint8 height x width x 3 each); ``frames``, how many of them belong
    to each medium; ``seconds``, the time of each. One bad medium spoils its row, whose lists are
    then null.
    """
    rows: list[_Row] = []
    faults: list[Fault] = []
    for places in media_lists:
        try:
            rows.append(_row(places, geometry, choice))
            faults.append(None)
        except media.MediaError as error:
            # What is not there is no failure of the row.
            verdict = schema.REJECTED if error.rule == "no_media" else schema.FAILED
            rows.append(_Row([], [], []))
            faults.append((verdict, error.rule, error.detail))
    lost = pa.array([fault is not None for fault in faults])
    # One copy of the pixels, where Arrow's own builder would make several.
    none = np.empty((0, geometry.height, geometry.width, 3), np.uint8)
    flat = np.concatenate([none, *(one[None] for row in rows for one in row.pixels)])
    images = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(geometry.size), len(flat), [None, pa.py_buffer(flat)]
    )
    ends = pa.array(np.cumsum([0, *(len(row.pixels) for row in rows)]), pa.int64())
    columns = {
        "pixels": pa.LargeListArray.from_arrays(ends, images, mask=lost),
        "frames": pa.array([row.counts or None for row in rows], pa.list_(pa.int32())),
        "seconds": pa.array([row.seconds or None for row in rows], pa.list_(pa.float64())),
    }
    return columns, faults


class _Row(NamedTuple):
    """Frames of a row, how many each medium has, and the time of each."""

    pixels: list[Array]
    counts: list[int]
    seconds: list[float]


def _row(
    places: Sequence[Mapping[str, Any] | None], geometry: Geometry, choice: frames.Choice
) -> _Row:
    row = _Row([], [], [])
    if any(place is None for place in places):
        raise media.MediaError("no_media", "the item has no image")
    for place in places:
        assert place is not None
        limits = media.admitted(place)
        found = frames.fitted(media.read(place, limits), geometry.fit, choice, limits)
        row.pixels.extend(pixels for pixels, _ in found)
        row.counts.append(len(found))
        row.seconds.extend(seconds for _, seconds in found)
    return row


def pixels(rows: pa.Table, geometry: Geometry, usable: Sequence[int]) -> Array:
    """The decoded frames of the ``usable`` rows in order: uint8 (n, height, width, 3)."""
    shape = (geometry.height, geometry.width, 3)
    if not len(usable):
        return np.zeros((0, *shape), np.uint8)
    column = rows["pixels"]
    if len(usable) < len(column):
        column = column.take(pa.array(usable, pa.int64()))
    flat = column.combine_chunks().flatten()
    data = np.frombuffer(flat.buffers()[1], np.uint8) if len(flat) else np.zeros(0, np.uint8)
    begin = flat.offset * geometry.size
    return data[begin : begin + len(flat) * geometry.size].reshape(-1, *shape)


def counts(rows: pa.Table, usable: Sequence[int]) -> list[list[int]]:
    """How many frames each medium of the ``usable`` rows has."""
    if not len(usable):
        return []
    found: list[list[int]] = rows["frames"].take(pa.array(usable, pa.int64())).to_pylist()
    return found
