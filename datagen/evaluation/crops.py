"""Parts of images that are cut out for the time of a call: boxes of a benchmark as files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from datagen import media
from datagen.evaluation.benchmark import Picture


@contextlib.contextmanager
def places(pictures: Sequence[Picture]) -> Iterator[list[Mapping[str, Any] | None]]:
    """Shaped like schema.MEDIA for each of ``pictures``; files of cut-out boxes until the block
    ends.

    Raises MediaError where an image with a box cannot be read.
    """
    if not any(picture.box for picture in pictures):
        yield [picture.place for picture in pictures]
        return
    with tempfile.TemporaryDirectory(prefix="datagen-crops-") as folder:
        found: list[Mapping[str, Any] | None] = []
        for number, picture in enumerate(pictures):
            if picture.box is None:
                found.append(picture.place)
                continue
            assert picture.place is not None
            path = os.path.join(folder, f"{number}.png")
            cut(media.image(picture.place), picture.box).save(path, compress_level=1)
            found.append(Picture(path).place)
        yield found


def cut(picture: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    """``box`` (left, top, right, bottom) of ``picture``, as far as it lies in it, made a square by
    black at its sides.
    """
    width, height = picture.size
    left, top, right, bottom = box
    inside = (max(0.0, left), max(0.0, top), min(width, right), min(height, bottom))
    whole = [round(side) for side in inside]
    part = picture.crop(
        (whole[0], whole[1], max(whole[2], whole[0] + 1), max(whole[3], whole[1] + 1))
    )
    side = max(part.size)
    ground = Image.new("RGB", (side, side))
    ground.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return ground
