"""Paints a picture again, freely: variations of items, and targets from a reference and a caption.

The picture is laid under noise and denoised after a text (SDEdit, Meng et al. 2022,
arXiv:2108.01073): a small strength leaves nearly the same picture, a strength of 1 nothing of it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from datagen.edits._calls import Call, fitted
from datagen.edits._samples import Painted, Range, Sample
from datagen.edits._told import ToldPainter, ToldSettings
from datagen.schema import Level


class Img2imgSettings(ToldSettings):
    """``guidance`` and ``strength`` are a number or a range [low, high]."""

    #: What the pipeline is told: Jinja2, with ``target`` and ``reference`` (captions; of an item
    #: its own), ``modification``, ``removed`` and ``added`` (what changes).
    prompt: str = Field("{{ target }}", min_length=1, max_length=4000)
    #: How much is painted anew, 0 to 1.
    strength: Range = (0.4, 0.8)


class Img2img(ToldPainter[Img2imgSettings]):
    """Items to pairs: an item, and a variation of it. Pairs and triplets: their target is painted
    from the first reference's picture and the target's caption.

    Of a clip it is the middle frame. The new target keeps the caption of the old one, or of the
    item. A row is rejected as ``no_caption``, ``no_modification`` or ``no_change`` where the prompt
    asks for what it lacks, and fails where its picture cannot be read.
    """

    Settings = Img2imgSettings
    levels = ("items", "pairs", "triplets")
    kind = "img2img"
    ranges = ("guidance", "strength")
    reads_picture = True

    def leaves(self, level: Level) -> Level:
        """Items become pairs."""
        return "pairs" if level == "items" else level

    def call(self, sample: Sample) -> Call:
        own = fitted(sample.row["picture"], self.size)
        return Call(self.told(sample.row), sample.seed, own, None, own.size, sample.drawn)

    def evidence(self, sample: Sample, painted: Painted) -> dict[str, Any]:
        found = super().evidence(sample, painted)
        if "references" not in sample.row:
            found["reason"] = f"a variation of it, at a strength of {sample.drawn['strength']:g}"
        return found
