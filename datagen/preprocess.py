"""The half of a CLIP model's preprocessing that needs neither torch nor a GPU.

An image goes through open_clip's own preprocessing in two halves. The first, resize and crop to
the model's size, is Pillow work on any CPU worker (:class:`Geometry`) and gives uint8 pixels; the
second, scaling and normalisation, happens beside the model (:class:`datagen.clip.Clip`). Together
they equal the ``preprocess`` that open_clip returns with the model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from datagen import media, schema
from datagen.faults import Fault

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Geometry:
    """How an image becomes the model's input.

    height, width: pixels; mean, std: per channel, of values 0 to 1; interpolation: bicubic or
    bilinear; resize_mode: shortest (then crop), longest (then pad) or squash; fill: grey value
    of padding, 0 to 255.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill: int = 0

    @property
    def size(self) -> int:
        """Bytes of one image: height x width x 3."""
        return self.height * self.width * 3

    def fit(self, picture: Image.Image) -> Array:
        """Resize and crop an RGB image to uint8 (height, width, 3)."""
        bilinear = self.interpolation == "bilinear"
        how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
        if self.resize_mode == "squash":
            size = (self.width, self.height)
        elif self.resize_mode == "shortest" and self.height == self.width:
            size = _shortest(picture.size, self.width)
        else:
            if self.resize_mode == "shortest":
                # open_clip takes bicubic here whatever the model's configuration says.
                how = Image.Resampling.BICUBIC
            size = self._keep_ratio(picture.size)
        if size != picture.size:
            picture = picture.resize(size, how)
        if size != (self.width, self.height):
            fill = self.fill if self.resize_mode == "longest" else 0
            picture = _crop_or_pad(picture, self.width, self.height, fill)
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)

    def _keep_ratio(self, size: tuple[int, int]) -> tuple[int, int]:
        ratios = (size[1] / self.height, size[0] / self.width)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def _shortest(size: tuple[int, int], wanted: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return wanted, int(wanted * height / width)
    return int(wanted * width / height), wanted


def _crop_or_pad(picture: Image.Image, width: int, height: int, fill: int) -> Image.Image:
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
    media_lists: Sequence[Sequence[Mapping[str, Any] | None]], geometry: Geometry
) -> tuple[pa.Array, list[Fault]]:
    """Decode and fit the images of each row; runs on CPU workers.

    Returns a column of lists of ``geometry.size`` bytes (uint8 height x width x 3 each), and what
    is wrong with each row: one bad image spoils its row, whose list is then null.
    """
    pixels: list[list[bytes] | None] = []
    faults: list[Fault] = []
    for images in media_lists:
        try:
            fault = next((fault for fault in map(_unfit, images) if fault), None)
            row = None if fault else [geometry.fit(media.image(m)).tobytes() for m in images if m]
        except media.MediaError as error:
            fault, row = (schema.FAILED, error.rule, error.detail), None
        pixels.append(row)
        faults.append(fault)
    return pa.array(pixels, pa.large_list(pa.binary(geometry.size))), faults


def _unfit(image: Mapping[str, Any] | None) -> Fault:
    if image is None:
        return schema.REJECTED, "no_media", "the item has no image"
    if image["modality"] == "video":
        return schema.FAILED, "clips_not_supported", "CLIP models look at images only"
    return None


def pixels(rows: pa.Table, geometry: Geometry, usable: Sequence[int]) -> Array:
    """The decoded images of the ``usable`` rows in order: uint8 (n, height, width, 3)."""
    shape = (geometry.height, geometry.width, 3)
    if not len(usable):
        return np.zeros((0, *shape), np.uint8)
    flat = rows["pixels"].take(pa.array(usable, pa.int64())).combine_chunks().flatten()
    return np.stack([np.frombuffer(v.as_buffer(), np.uint8) for v in flat]).reshape(-1, *shape)
