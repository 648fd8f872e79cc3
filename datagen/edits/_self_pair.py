"""Pairs of a picture and a part of itself: what ``mask`` and ``crop`` have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from datagen import models
from datagen.edits._painter import Painter, PaintSettings
from datagen.edits._regions import BadBoxes, Region, labelled, told
from datagen.edits._samples import Painted, Sample, caption_of
from datagen.schema import Level
from datagen.step import Resources

#: Regions that evidence names one by one.
_NAMED = 16


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] <= value[1]:
        raise ValueError("[low, high] expected, low first")
    return value


_Share = Annotated[float, Field(gt=0, le=1)]
#: From, to: shares of a picture.
Shares = Annotated[tuple[_Share, _Share], AfterValidator(_ascending)]
_Aspect = Annotated[float, Field(ge=0.05, le=20)]
#: From, to: widths over heights.
Aspects = Annotated[tuple[_Aspect, _Aspect], AfterValidator(_ascending)]


class SelfPairSettings(PaintSettings):
    """Settings of operators that pair a picture with a part of itself."""

    batch_size: int = Field(32, ge=1, le=1024)
    #: Of webp and jpeg; 100 is webp without loss, in which every pixel stays as it is.
    quality: int = Field(100, ge=1, le=100)
    #: The label that holds boxes: {"boxes": [{"label": "dog", "box": [x0, y0, x1, y1]}, …]}.
    boxes: str = "boxes"


S = TypeVar("S", bound=SelfPairSettings)


class SelfPair(Painter[S], Generic[S]):
    """Items to pairs of an item and what is cut out of its picture, or hidden in it.

    Of a clip it is the middle frame. Where a caption says what the text of the pair is, evidence
    holds it for ``text: {op: given}``.
    """

    levels = ("items",)
    result = "pairs"
    requires: ClassVar[tuple[tuple[str, str], ...]] = ()
    reads_picture = True
    fills = False
    # Pictures have their full size here, and no model wants several at once.
    singly = True

    def __init__(self, settings: S) -> None:
        super().__init__(settings)
        if settings.keep is not None:
            needed = (("torch", "models"), ("open_clip", "models"))
            self.requires = needed  # type: ignore[misc]  # a choice of this step alone

    @property
    def by_boxes(self) -> bool:
        """Whether the labels of items say where regions are."""
        return str(getattr(self.settings, "by", "boxes")) == "boxes"

    def needs(self, level: Level) -> set[str]:
        return super().needs(level) | ({"items.labels"} if self.by_boxes else set())

    def resources(self) -> Resources:
        rows = max(1, self.settings.batch_size // self.settings.samples)
        if self.settings.keep is None:
            return Resources(batch_size=rows)
        return Resources(gpus=models.gpus(self.settings.keep.device), batch_size=rows, actor=True)

    def paint(self, samples: Sequence[Sample]) -> list[Painted]:
        return [self.cut(sample) for sample in samples]

    @abstractmethod
    def cut(self, sample: Sample) -> Painted:
        """What comes of one sample."""

    def unfit(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        if not self.by_boxes:
            return None
        try:
            found = self.found(row)
        except (BadBoxes, ValueError, RecursionError) as error:
            return "bad_boxes", " ".join(str(error).split())[:200]
        if not found:
            return "no_boxes", f"the label '{self.settings.boxes}' holds none"
        faults = [self.misfit(one, *row["picture"].size) for one in found]
        if all(faults):
            return next(fault for fault in faults if fault)
        return None

    def found(self, row: Mapping[str, Any]) -> list[Region]:
        """The boxes of an item's labels, the largest first. Raises BadBoxes."""
        width, height = row["picture"].size
        found = labelled(row["labels"], self.settings.boxes, width, height)
        return sorted(dict.fromkeys(found), key=lambda one: (-one.area, str(one), one.label))

    def fitting(self, row: Mapping[str, Any]) -> list[Region]:
        """Those of them that may be taken."""
        size = row["picture"].size
        return [one for one in self.found(row) if not self.misfit(one, *size)]

    @abstractmethod
    def misfit(self, region: Region, width: int, height: int) -> tuple[str, str] | None:
        """Why a box may not be taken: rule and detail."""

    def told(self, caption: str | None, regions: Sequence[Region]) -> list[dict[str, Any]]:
        """What changes within a pair: the text that asks for its target, and where it was cut."""
        text = [{"field": "text", "removed": None, "added": caption}] if caption else []
        return [*text, *(told(regions) if len(regions) <= _NAMED else ())]


def dice(seed: int) -> np.random.Generator:
    """Draws by a seed, the same on every machine."""
    return np.random.Generator(np.random.PCG64(seed))


def own_caption(sample: Sample) -> str | None:
    """The caption of the item that a sample is of."""
    return caption_of(sample.row, "references")


def idle(given: Iterable[str], names: Iterable[str], by: str) -> None:
    """Raise ValueError where settings are given that ``by`` does not look at."""
    if strange := sorted(set(given) & set(names)):
        raise ValueError(f"{', '.join(strange)}: nothing that by: {by} looks at")
