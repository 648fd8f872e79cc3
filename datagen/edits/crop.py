"""A part of a picture, and the picture itself: pairs from pictures with boxes or captions.

IDMR (arXiv:2504.00954) cuts objects out by the boxes of detection data sets, and has the object
and a description of the scene find the picture.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from datagen.edits._regions import Region, block, grown
from datagen.edits._samples import Painted, Sample
from datagen.edits._self_pair import (
    Aspects,
    SelfPair,
    SelfPairSettings,
    Shares,
    dice,
    idle,
    own_caption,
)

#: Settings that only one way of choosing looks at.
_OF = {"random": ("aspect",), "boxes": ("margin", "boxes")}


class CropSettings(SelfPairSettings):
    """What is cut out, and which side of the pair it is."""

    #: boxes (of labels), or random (rectangles drawn by the seed).
    by: Literal["boxes", "random"] = "boxes"
    #: Which member is the reference: the crop (its target is the item), or the whole (the item).
    reference: Literal["crop", "whole"] = "crop"
    #: Share of the picture, from and to: that a box must have, or a random crop gets.
    area: Shares = (0.02, 0.5)
    #: The shortest side of a crop, in pixels.
    least_side: int = Field(32, ge=1)
    #: Width over height of random crops, from and to.
    aspect: Aspects = (0.5, 2.0)
    #: What is cut around a box on every side, as a share of the box's own.
    margin: float = Field(0.0, ge=0, le=2)

    @model_validator(mode="after")
    def _sense(self) -> CropSettings:
        others = [name for by, names in _OF.items() if by != self.by for name in names]
        idle(self.model_fields_set, others, self.by)
        return self


class Crop(SelfPair[CropSettings]):
    """Items to pairs of a crop and the whole.

    A crop has the label of its box as its caption, where it has one. The text of the pair, in
    evidence, is the target's caption: the item's, or with ``reference: whole`` that label. Each of
    ``samples`` takes another box; those beyond the last one are counted as ``no_more_boxes``. An
    item is rejected as ``no_boxes``, ``bad_boxes``, ``too_small`` or ``too_large`` (all of its
    boxes are, or its picture is too small for random crops); one whose picture cannot be read
    fails.
    """

    Settings = CropSettings

    def unfit(self, row: Any) -> tuple[str, str] | None:
        if self.by_boxes:
            return super().unfit(row)
        width, height = row["picture"].size
        least, (low, high) = self.settings.least_side, self._shares(width, height)
        if low <= high and least <= min(width, height):
            return None
        return "too_small", f"{width} x {height} pixels; crops of {least} a side expected"

    def _shares(self, width: int, height: int) -> tuple[float, float]:
        """Shares of random crops, of which none has a side that is too short."""
        (low, high), (flat, wide) = self.settings.area, self.settings.aspect
        # A side may be rounded down by half a pixel.
        least = (self.settings.least_side + 0.5) ** 2 / min(flat, 1 / wide, 1.0)
        return max(low, least / (width * height)), high

    def misfit(self, region: Region, width: int, height: int) -> tuple[str, str] | None:
        low, high = self.settings.area
        share = region.area / (width * height)
        side = min(region.right - region.left, region.bottom - region.top)
        if share > high:
            return "too_large", f"its box has {share:.3f} of the picture; {high:g} at most expected"
        if share < low:
            return "too_small", f"its box has {share:.3f} of the picture; {low:g} at least expected"
        if side < self.settings.least_side:
            return "too_small", f"a side of {side} pixels; {self.settings.least_side} expected"
        return None

    def cut(self, sample: Sample) -> Painted:
        region = self._region(sample)
        if region is None:
            return Painted(fault=("no_more_boxes", "every box that fits is a pair already"))
        picture = sample.row["picture"]
        part = region.of(np.asarray(picture, np.uint8)).astype(np.float32) / 255
        place = [region.left, region.top, region.right, region.bottom]
        share = round(region.area / (picture.width * picture.height), 4)
        note = {"by": self.settings.by, "region": place, "share": share, "label": region.label}
        if self.settings.reference == "crop":
            return Painted(reference=part, note=note)
        return Painted(target=part, note=note)

    def _region(self, sample: Sample) -> Region | None:
        width, height = sample.row["picture"].size
        if not self.by_boxes:
            random = dice(sample.seed)
            share = random.uniform(*self._shares(width, height))
            return block(random, width, height, share, self.settings.aspect)
        fitting = self.fitting(sample.row)
        # One order for all samples of an item, so that each takes another box.
        order = dice(self.sample(sample.row, 0).seed).permutation(len(fitting))
        if sample.number >= len(order):
            return None
        return grown(fitting[int(order[sample.number])], self.settings.margin, width, height)

    def captions(self, sample: Sample) -> tuple[str | None, str | None]:
        region = self._region(sample)
        label = (region.label or None) if region else None
        whole = own_caption(sample)
        return (label, whole) if self.settings.reference == "crop" else (whole, label)

    def evidence(self, sample: Sample, painted: Painted) -> dict[str, Any]:
        note = painted.note
        what = f"the {note['label']}" if note["label"] else "a part"
        sides = (f"{what} of it", "the picture")
        if self.settings.reference == "whole":
            sides = sides[::-1]
        return {
            "operator": self.name,
            "reason": f"{sides[0]}, and {sides[1]}",
            "changes": self.told(self.captions(sample)[1], [Region(*note["region"])]),
            "score": note["share"],
        }
