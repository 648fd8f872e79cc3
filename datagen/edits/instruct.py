"""Edits the reference's picture after the modification: a target for every instruction.

For pipelines that take a picture and an instruction: InstructPix2Pix (Brooks et al. 2023,
arXiv:2211.09800), FLUX.1 Kontext (arXiv:2506.15742), Qwen-Image-Edit (arXiv:2508.02324).
"""

from __future__ import annotations

from pydantic import Field

from datagen.edits._calls import Call, fitted
from datagen.edits._samples import Range, Sample
from datagen.edits._told import ToldPainter, ToldSettings


class InstructSettings(ToldSettings):
    """``guidance`` and ``image_guidance`` are a number or a range [low, high]."""

    #: What the pipeline is told: Jinja2, with ``modification``, ``reference``, ``target``
    #: (captions), ``removed`` and ``added`` (what changes).
    prompt: str = Field("{{ modification }}", min_length=1, max_length=4000)
    #: How closely the target keeps to the reference's picture, for pipelines of InstructPix2Pix;
    #: null: as the pipeline has it.
    image_guidance: Range | None = None


class Instruct(ToldPainter[InstructSettings]):
    """Triplets whose target is the first reference's picture, edited after the modification.

    Of a clip it is the middle frame. The new target keeps the caption of the old one. A row is
    rejected as ``no_modification`` or ``no_caption`` where the prompt asks for what it lacks, and
    fails where its picture cannot be read.
    """

    Settings = InstructSettings
    kind = "instruct"
    ranges = ("guidance", "image_guidance")
    reads_picture = True

    def call(self, sample: Sample) -> Call:
        own = fitted(sample.row["picture"], self.size)
        return Call(self.told(sample.row), sample.seed, own, None, own.size, sample.drawn)
