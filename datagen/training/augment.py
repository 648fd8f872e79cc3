"""Media as pixels of a model's size: exact as everywhere in datagen, or augmented for training.

Augmentation is that of open_clip's training (names and defaults are those of its
``AugmentationCfg``), with two differences: a JPEG may be decoded at a half, a quarter or an eighth
of its size where the crop has pixels to spare, and there is no flip or colour change unless asked
for, as modifications speak of sides and colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance
from pydantic import Field

from datagen import containers, frames, media
from datagen.containers import VIDEO_FORMATS
from datagen.preprocess import Geometry
from datagen.step import Settings

Array = np.ndarray[Any, Any]

#: A share, and a pair of positive numbers.
Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

_TRIES = 10


class Augmentation(Settings):
    """How pictures are changed in training. Clips: all frames in the same way.

    scale, ratio: area of the random crop as a share of the picture's, and its width by its
    height; flip: chance of a mirror image; color_jitter: largest change of brightness, contrast,
    saturation (shares) and hue (a share of the circle, up to 0.5); color_jitter_prob,
    gray_scale_prob: chances of that change, and of a grey picture; frame_jitter: frames of a clip
    at random times of their parts, not at the middles.
    """

    scale: Range = (0.9, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip: Share = 0.0
    color_jitter: tuple[Share, Share, Share, Annotated[float, Field(ge=0, le=0.5)]] = (0, 0, 0, 0)
    color_jitter_prob: Share = 0.0
    gray_scale_prob: Share = 0.0
    frame_jitter: bool = False


class Box(NamedTuple):
    """A rectangle of a picture, in its own pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Eye:
    """Turns the bytes of images and clips into uint8 pictures (n, height, width, 3).

    choice: frames of clips; augmentation: None for the exact pixels of ``geometry``; draft: how
    many decoded pixels must be left for one of the result, along a side, for a JPEG to be decoded
    smaller (0: never, and the pixels are exact).
    """

    geometry: Geometry
    choice: frames.Choice = 8
    augmentation: Augmentation | None = None
    draft: float = 0.0
    limits: media.Limits = media.DEFAULT

    def pictures(self, data: bytes, about: Mapping[str, Any], random: np.random.Generator) -> Array:
        """``about``: width, height and seconds as the source told them, where it did.

        Raises MediaError.
        """
        clip = containers.sniff(data) in VIDEO_FORMATS
        change = None
        if self.augmentation is not None:
            change = _Change.drawn(self.augmentation, random)
        if not clip:
            size = _size(about)
            ground = self.geometry.ground(size) if size else None
            scale = self._scale(change.box(ground) if change and ground else None, ground)
            whole = scale == 1 or size is None
            draft = None if whole else min(size or (1, 1)) // scale
            picture = media.decode(data, draft=draft, limits=self.limits)
            return self._fitted(picture, size or picture.size, change)[None]
        choice = self._frames(about, random)
        found = frames.fitted(
            data, lambda one: self._fitted(one, one.size, change), choice, self.limits
        )
        return np.stack([picture for picture, _ in found])

    def _scale(self, box: Box | None, size: tuple[int, int] | None) -> int:
        """How much smaller a JPEG may be decoded: 1, 2, 4 or 8."""
        if not self.draft or size is None:
            return 1
        wide, high = (box.width, box.height) if box else (min(size), min(size))
        need = (
            (self.geometry.width, self.geometry.height)
            if box
            else (max(self.geometry.width, self.geometry.height),) * 2
        )
        room = min(wide / need[0], high / need[1]) / self.draft
        return max(scale for scale in (1, 2, 4, 8) if scale <= max(1, room))

    def _fitted(self, picture: Image.Image, size: tuple[int, int], change: _Change | None) -> Array:
        """``size``: of the picture as it was before a smaller decode."""
        if change is None:
            return self.geometry.fit(picture)
        picture, size = self.geometry.padded(picture), self.geometry.ground(size)
        box = change.box(size)
        bilinear = self.geometry.interpolation == "bilinear"
        how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
        wanted = (self.geometry.width, self.geometry.height)
        right, bottom = box.left + box.width, box.top + box.height
        if picture.size == size:
            cut = picture.crop((box.left, box.top, right, bottom)).resize(wanted, how)
        else:
            across, down = picture.width / size[0], picture.height / size[1]
            place = (
                *(box.left * across, box.top * down),
                *(min(right * across, picture.width), min(bottom * down, picture.height)),
            )
            cut = picture.resize(wanted, how, box=place)
        return np.asarray(change.colours(cut), dtype=np.uint8)

    def _frames(self, about: Mapping[str, Any], random: np.random.Generator) -> frames.Choice:
        seconds = about.get("seconds")
        jitter = self.augmentation is not None and self.augmentation.frame_jitter
        if not jitter or not isinstance(self.choice, int) or not _positive(seconds):
            return self.choice
        times = (np.arange(self.choice) + random.random(self.choice)) / self.choice
        return tuple(float(time) for time in times * float(seconds or 0))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _size(about: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = about.get("width"), about.get("height")
    known = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    return (int(width), int(height)) if known else None  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Change:
    """One drawing of an augmentation; the same for all frames of a clip."""

    settings: Augmentation
    tries: Array
    mirrored: bool
    #: Factors of brightness, contrast and saturation, the turn of the hue, and their order.
    colour: tuple[tuple[float, float, float, float], tuple[int, ...]] | None
    grey: bool

    @staticmethod
    def drawn(settings: Augmentation, random: np.random.Generator) -> _Change:
        tries, flip = random.random((_TRIES, 4)), bool(random.random() < settings.flip)
        colour = None
        jittered = random.random() < settings.color_jitter_prob
        factors, order = random.uniform(-1, 1, 4), random.permutation(4)
        if jittered and any(settings.color_jitter):
            brightness, contrast, saturation, hue = map(float, factors * settings.color_jitter)
            colour = (
                (1 + brightness, 1 + contrast, 1 + saturation, hue),
                tuple(int(one) for one in order),
            )
        grey = bool(random.random() < settings.gray_scale_prob)
        return _Change(settings, tries, flip, colour, grey)

    def box(self, size: tuple[int, int]) -> Box:
        """The crop of a picture of ``size``, drawn as torchvision's RandomResizedCrop does: ten
        tries, then the largest one in the middle that keeps the ratio."""
        width, height = size
        (small, large), (low, high) = self.settings.scale, self.settings.ratio
        for area, ratio, left, top in self.tries:
            pixels = width * height * (small + area * (large - small))
            shape = math.exp(math.log(low) + ratio * (math.log(high) - math.log(low)))
            wide, tall = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
            if 0 < wide <= width and 0 < tall <= height:
                return Box(*_at(left, width - wide, top, height - tall), wide, tall)
        wide, tall = width, height
        if width / height < low:
            tall = max(1, min(height, round(width / low)))
        elif width / height > high:
            wide = max(1, min(width, round(height * high)))
        return Box((width - wide) // 2, (height - tall) // 2, wide, tall)

    def colours(self, picture: Image.Image) -> Image.Image:
        """Mirrored, changed in colour, or grey, as it was drawn."""
        if self.mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.colour:
            factors, order = self.colour
            for which in order:
                if self.settings.color_jitter[which]:
                    picture = _coloured(picture, which, factors[which])
        return picture.convert("L").convert("RGB") if self.grey else picture


def _coloured(picture: Image.Image, which: int, factor: float) -> Image.Image:
    """Brightness, contrast and saturation by a factor; hue by a turn."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    if which < len(kinds):
        return kinds[which](picture).enhance(factor)
    hue, saturation, value = picture.convert("HSV").split()
    turn = int(factor * 255)
    turned = hue.point([(level + turn) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _at(left: float, across: int, top: float, down: int) -> tuple[int, int]:
    return int(left * (across + 1)), int(top * (down + 1))
