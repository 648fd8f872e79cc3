"""Paints a region of the reference's picture anew, and leaves all else as it is.

What changes between two members names the region: a box that the labels hold, or what CLIPSeg
(arXiv:2112.10003) finds for the words. So the target differs from the reference in one thing, as
in sets of counterfactual pictures.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field, field_validator, model_validator

from datagen import models
from datagen.edits import _masks, _segment
from datagen.edits._calls import Call, Picture, kept_shape
from datagen.edits._regions import BadBoxes, Region, covered, labelled
from datagen.edits._samples import Painted, Range, Sample, caption_of
from datagen.edits._told import ToldPainter, ToldSettings
from datagen.errors import DatagenError
from datagen.schema import Level

#: Phrases of a row that are looked for, at most.
_PHRASES = 8
#: Marks at the ends of words.
_MARKS = ".,;:!?\"'()[]"
#: Field of a change that is a whole text, and tells nothing of what it changes.
_TEXT = "text"


class InpaintSettings(ToldSettings):
    """``guidance`` and ``strength`` are a number or a range [low, high]."""

    #: What the pipeline is told: Jinja2, with ``target``, ``reference`` (captions),
    #: ``modification``, ``removed`` and ``added`` (what changes).
    prompt: str = Field("{{ target }}", min_length=1, max_length=4000)
    #: How much is painted anew, 0 to 1; null: as the pipeline has it.
    strength: Range | None = 1.0
    #: Where regions come from: boxes (of the reference's labels), or segmenter.
    region: Literal["boxes", "segmenter"] = "boxes"
    #: What the region shows; null: what the row's changes remove or, where no change is known, the
    #: words that the reference's caption alone has. Of boxes, an empty text: any.
    phrase: str | None = Field(None, max_length=200)
    #: The label that holds the boxes.
    boxes: str = "boxes"
    #: A model of transformers that finds what a text names: CLIPSeg, hf:org/name or file:/path.
    segmenter: str = "hf:CIDAS/clipseg-rd64-refined"
    #: From which share on the segmenter's answer belongs to the region, 0 to 1.
    threshold: float = Field(0.4, gt=0, lt=1)
    #: The region is grown by so much, in shares of the picture's longer side.
    grow: float = Field(0.02, ge=0, le=0.5)
    #: Its border is blurred inwards by so much, in shares of the longer side.
    blur: float = Field(0.01, ge=0, le=0.2)
    #: Shares of the picture, [low, high], that a region has.
    area: tuple[float, float] = (0.005, 0.8)

    @field_validator("area")
    @classmethod
    def _shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError("shares [low, high] from 0 to 1 expected")
        return value

    @model_validator(mode="after")
    def _named(self) -> InpaintSettings:
        if self.region == "segmenter" and self.phrase is not None and not self.phrase.strip():
            raise ValueError("phrase: a segmenter needs a text, or null")
        return self


class Inpaint(ToldPainter[InpaintSettings]):
    """Pairs and triplets whose target is the first reference's picture, a region painted anew.

    The target has the size of the reference's picture, and its pixels outside of the region. It
    keeps the caption of the old target. A row is rejected as ``no_phrase`` (nothing is removed),
    ``no_region`` (no box has that label, or the segmenter finds nothing), ``bad_boxes``,
    ``too_small`` and ``too_large`` (the region), ``no_caption``, ``no_modification`` or
    ``no_change`` (the prompt asks for what it lacks), and fails where its picture cannot be read.
    """

    Settings = InpaintSettings
    kind = "inpaint"
    ranges = ("guidance", "strength")
    reads_picture = True

    def __init__(self, settings: InpaintSettings) -> None:
        super().__init__(settings)
        self._segments = settings.region == "segmenter"
        self.segmenter = models.parse(settings.segmenter) if self._segments else None
        self._finds: _segment.Segmenter | None = None
        self._regions: dict[str, _masks.Mask] = {}

    def needs(self, level: Level) -> set[str]:
        return super().needs(level) | (set() if self._segments else {"items.labels"})

    def weights(self) -> str:
        own = super().weights()
        if self.segmenter is None:
            return own
        found = models.revision(self.segmenter)
        self.segmenter = models.at(self.segmenter, found)
        return f"{own}+{found}"

    def check(self) -> Iterable[str]:
        yield from super().check()
        try:
            if self.segmenter is not None:
                _segment.check(self.segmenter)
        except DatagenError as error:
            yield str(error)

    def load(self) -> None:
        super().load()
        if self.segmenter is not None:
            device = models.device(self.settings.device)
            self._finds = _segment.load(self.segmenter, device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        self._regions.clear()
        return super().__call__(rows)

    # ------------------------------------------------------------ regions

    def unfit(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        if fault := super().unfit(row):
            return fault
        phrases = self._phrases(row)
        if not phrases and self.settings.phrase != "":
            return "no_phrase", "nothing is told that is removed"
        try:
            mask = self._found(row, phrases)
        except (BadBoxes, ValueError, RecursionError) as error:
            return "bad_boxes", " ".join(str(error).split())[:200]
        if not mask.any():
            what = f"'{', '.join(phrases)[:80]}'" if phrases else "anything"
            return "no_region", f"no region shows {what}"
        mask = _masks.grown(mask, self.settings.grow)
        share = float(mask.mean())
        low, high = self.settings.area
        if not low <= share <= high:
            rule = "too_small" if share < low else "too_large"
            return rule, f"the region is {share:.3f} of the picture; {low:g} to {high:g} expected"
        self._regions[row["id"]] = mask
        return None

    def _phrases(self, row: Mapping[str, Any]) -> list[str]:
        """What the region shows, in words."""
        if self.settings.phrase is not None:
            return [self.settings.phrase.strip()] if self.settings.phrase.strip() else []
        changes = (row.get("evidence") or {}).get("changes") or []
        removed = [one["removed"] for one in changes if (one["removed"] or "").strip()]
        if all(one["field"] == _TEXT for one in changes):
            removed = _gone(*(caption_of(row, side) or "" for side in ("references", "targets")))
        return list(dict.fromkeys(removed))[:_PHRASES]

    def _found(self, row: Mapping[str, Any], phrases: Sequence[str]) -> _masks.Mask:
        picture = row["picture"]
        if self._finds is not None:
            return self._finds(picture, phrases, self.settings.threshold)
        width, height = picture.size
        own = labelled(row["references"][0]["labels"], self.settings.boxes, width, height)
        fitting = [one for one in own if not phrases or _shows(one, phrases)]
        return covered(fitting, width, height)

    # ------------------------------------------------------------ pictures

    def call(self, sample: Sample) -> Call:
        picture, mask = sample.row["picture"], self._regions[sample.row["id"]]
        size = self.size
        if isinstance(size, int):
            size = kept_shape(picture.size, size)
        # Both are stretched alike, so that what is painted lies where the region is.
        own = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        grey = Image.fromarray(mask.astype(np.uint8) * 255, "L")
        # All that a region touches belongs to it.
        there = grey.resize(size, Image.Resampling.BOX).point(lambda value: 255 if value else 0)
        return Call(self.told(sample.row), sample.seed, own, there, size, sample.drawn)

    def came_of(self, sample: Sample, call: Call, picture: Picture) -> Painted:
        mask = self._regions[sample.row["id"]]
        weight = _masks.softened(mask, self.settings.blur)
        own = np.asarray(sample.row["picture"].convert("RGB"))
        left, top, right, bottom = _bounds(mask)
        return Painted(
            _masks.pasted(own, picture.pixels, weight),
            unsafe=picture.unsafe,
            note={
                "prompt": call.prompt,
                "region": [left, top, right, bottom],
                "region_share": round(float(mask.mean()), 4),
            },
        )


def _shows(region: Region, phrases: Sequence[str]) -> bool:
    """Whether a box's label stands in a phrase, or a phrase in it, word for word."""
    label = _plain(region.label)
    return bool(label.strip()) and any(
        label in _plain(one) or _plain(one) in label for one in phrases if _plain(one).strip()
    )


def _plain(text: str) -> str:
    """Words in small letters, each between spaces."""
    return f" {' '.join(word.strip(_MARKS) for word in text.casefold().split())} "


def _bounds(mask: _masks.Mask) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is in ``mask``, the last two without."""
    down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1


def _gone(before: str, after: str) -> list[str]:
    """Runs of words that a caption has and another one has not."""
    words, others = before.split(), after.split()
    old, new = ([_plain(one).strip() for one in some] for some in (words, others))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    runs = [" ".join(words[a:b]) for kind, a, b, *_ in matcher.get_opcodes() if kind != "equal"]
    return [run.strip(_MARKS) for run in runs if run.strip(_MARKS)]
