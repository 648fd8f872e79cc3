"""The picture with a part of it hidden, and the picture itself: pairs from pictures with captions.

Masked tuning (arXiv:2311.07622) hides patches at random and has text and masked picture find the
whole one; PTG-FSCIR (arXiv:2407.06001) makes its pseudo triplets so, of pictures alone.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from datagen.edits._regions import Region, blocks, covered, hidden, patches
from datagen.edits._samples import Painted, Range, Sample
from datagen.edits._self_pair import (
    Aspects,
    SelfPair,
    SelfPairSettings,
    Shares,
    dice,
    idle,
    own_caption,
)

#: More than this share is not hidden: nothing would be left to see.
_MOST = 0.95
#: Settings that only one way of choosing looks at.
_OF = {
    "blocks": ("block", "aspect"),
    "patches": ("grid",),
    "boxes": ("area", "count", "boxes"),
}


class MaskSettings(SelfPairSettings):
    """What is hidden, and under what. ``share`` is a number or a range [low, high]."""

    #: blocks (random rectangles), patches (random cells of a grid), or boxes (of labels).
    by: Literal["blocks", "patches", "boxes"] = "blocks"
    #: Of blocks and patches: how much of the picture is hidden, above 0 to 0.95.
    share: Range = (0.3, 0.6)
    #: Share of the picture that one block has.
    block: float = Field(0.04, ge=0.001, le=_MOST)
    #: Width over height of blocks, from and to.
    aspect: Aspects = (0.3, 3.3)
    #: Patches across and down: 14 are those of a ViT of 16 pixels at 224.
    grid: int = Field(14, ge=1, le=256)
    #: Share of the picture that a box must have, from and to.
    area: Shares = (0.02, 0.8)
    #: Boxes that are hidden, at most; chosen by the seed.
    count: int = Field(1, ge=1, le=64)
    #: What stands in their place: gray, blur, noise.
    fill: Literal["gray", "blur", "noise"] = "gray"
    #: Of blur: its standard deviation, as a share of the longer side.
    radius: float = Field(0.05, gt=0, le=1)

    @model_validator(mode="after")
    def _sense(self) -> MaskSettings:
        ends = self.share if isinstance(self.share, tuple) else (self.share, self.share)
        if not 0 < ends[0] <= ends[1] <= _MOST:
            raise ValueError(f"share: a number above 0 to {_MOST}, or a range of such, low first")
        others = [name for by, names in _OF.items() if by != self.by for name in names]
        others += ["share"] if self.by == "boxes" else []
        idle(self.model_fields_set, others, self.by)
        if self.fill != "blur" and "radius" in self.model_fields_set:
            raise ValueError("radius: only fill: blur has one")
        return self


class Mask(SelfPair[MaskSettings]):
    """Items to pairs: the reference is the picture with a part of it hidden, the target the item.

    The masked picture has the item's caption, and so does evidence, as the text of the pair. By
    boxes an item is rejected as ``no_boxes``, ``bad_boxes``, ``too_small`` or ``too_large`` (all of
    its boxes are); one whose picture cannot be read fails.
    """

    Settings = MaskSettings
    ranges = ("share",)

    def cut(self, sample: Sample) -> Painted:
        picture = sample.row["picture"]
        random = dice(sample.seed)
        regions = self._regions(sample, random)
        mask = covered(regions, *picture.size)
        if mask.mean() > _MOST:
            return Painted(fault=("too_large", "nothing of the picture would be left"))
        chosen = self.settings
        pixels = hidden(picture, mask, chosen.fill, chosen.radius, random)
        note: dict[str, Any] = {
            "by": chosen.by,
            "fill": chosen.fill,
            "hidden": round(float(mask.mean()), 4),
            "regions": [[one.left, one.top, one.right, one.bottom] for one in regions],
        }
        return Painted(reference=pixels, note=note)

    def _regions(self, sample: Sample, random: Any) -> list[Region]:
        width, height = sample.row["picture"].size
        chosen = self.settings
        if chosen.by == "boxes":
            fitting = self.fitting(sample.row)
            order = sorted(random.permutation(len(fitting))[: chosen.count].tolist())
            return [fitting[at] for at in order]
        share = sample.drawn["share"]
        if chosen.by == "patches":
            return patches(random, width, height, share, chosen.grid)
        return blocks(random, width, height, share, chosen.block, chosen.aspect)

    def misfit(self, region: Region, width: int, height: int) -> tuple[str, str] | None:
        low, high = self.settings.area
        share = region.area / (width * height)
        if low <= share <= high:
            return None
        rule = "too_small" if share < low else "too_large"
        return rule, f"its box has {share:.3f} of the picture; {low:g} to {high:g} expected"

    def evidence(self, sample: Sample, painted: Painted) -> dict[str, Any]:
        regions = [Region(*one) for one in painted.note["regions"]]
        return {
            "operator": self.name,
            "reason": f"the picture with {painted.note['hidden']:.0%} of it hidden",
            "changes": self.told(own_caption(sample), regions),
            "score": painted.note["hidden"],
        }

    def captions(self, sample: Sample) -> tuple[str | None, str | None]:
        caption = own_caption(sample)
        return caption, caption
