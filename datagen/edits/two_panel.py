"""Paints reference and target as the two halves of one wide picture, which show the same thing.

As CIRHS and SynCPR do: a text-to-image model that paints a diptych of both captions keeps person,
thing and style alike in both halves, best with a LoRA that was trained on such pictures
(arXiv:2410.23775).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from datagen.edits._calls import Call, Picture
from datagen.edits._samples import Painted, Sample
from datagen.edits._told import ToldPainter, ToldSettings, words
from datagen.schema import Level

_PROMPT = (
    "A diptych of two photos side by side, which show the same subject. "
    "Left: {{ reference }} Right: {{ target }}"
)


class TwoPanelSettings(ToldSettings):
    """``guidance`` is a number or a range [low, high]; ``size`` is that of one half."""

    #: What the pipeline is told: Jinja2, with ``reference``, ``target`` (captions),
    #: ``modification``, ``removed`` and ``added`` (what changes).
    prompt: str = Field(_PROMPT, min_length=1, max_length=4000)


class TwoPanel(ToldPainter[TwoPanelSettings]):
    """Pairs and triplets to ones whose first reference and target are painted from their captions.

    The pipeline paints a picture twice as wide as ``size``; its left half is the reference and its
    right half the target. A row is rejected as ``no_caption`` (of the reference or the target),
    ``same_caption`` (they are equal), or ``no_modification`` and ``no_change`` where the prompt
    asks for what it lacks.
    """

    Settings = TwoPanelSettings
    kind = "text"

    def needs(self, level: Level) -> set[str]:
        return super().needs(level) | {"items.captions"}

    def unfit(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        told = words(row)
        for side in ("reference", "target"):
            if not told[side]:
                return "no_caption", f"the {side} has no caption"
        if told["reference"].casefold() == told["target"].casefold():
            return "same_caption", told["target"][:80]
        return super().unfit(row)

    def call(self, sample: Sample) -> Call:
        size = self.size
        width, height = (size, size) if isinstance(size, int) else size
        wide = (2 * width, height)
        return Call(self.told(sample.row), sample.seed, None, None, wide, sample.drawn)

    def came_of(self, sample: Sample, call: Call, picture: Picture) -> Painted:
        middle = picture.pixels.shape[1] // 2
        return Painted(
            target=picture.pixels[:, -middle:],
            reference=picture.pixels[:, :middle],
            unsafe=picture.unsafe,
            note={"prompt": call.prompt},
        )
