"""Paints both pictures of a pair from their two captions, alike but for what the captions change.

Prompt-to-Prompt (Hertz et al. 2022, arXiv:2208.01626), as InstructPix2Pix (arXiv:2211.09800) and
CompoDiff (arXiv:2303.11916) make their data with: both captions are denoised from one noise, and
for a share of the steps the second picture takes over attention of the first. How much it must
take differs from edit to edit, so every sample draws its own share, and the best are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from datagen.edits import _shared_attention as shared
from datagen.edits._alignment import Alignment, align
from datagen.edits._calls import Call, Loaded
from datagen.edits._painter import Painter, PaintSettings
from datagen.edits._pipelines import Named, PipelineSettings
from datagen.edits._samples import Painted, Range, Sample, caption_of
from datagen.errors import DatagenError
from datagen.schema import Level


class PromptToPromptSettings(PaintSettings, PipelineSettings):
    """``cross_share``, ``self_share`` and ``guidance`` are a number or a range [low, high]."""

    #: Pairs of pictures of one forward pass; with guidance it holds four times as many.
    batch_size: int = Field(4, ge=1, le=1024)
    #: How strongly the captions are followed; 1: without classifier-free guidance.
    guidance: Range = (7.5, 15.0)
    #: Share of the steps, from the first on, with cross-attention of the reference at the words
    #: that both captions hold. InstructPix2Pix: 0.
    cross_share: Range = 0.8
    #: Share of the steps with self-attention of the reference.
    self_share: Range = (0.1, 0.9)
    #: Parts of the UNet that share self-attention.
    self_blocks: tuple[shared.Block, ...] = shared.BLOCKS
    #: Share self-attention only in layers so many times coarser than the latents. At 512 pixels
    #: 1 means all, 4 grids of 16 and 8, as Prompt-to-Prompt has it.
    self_coarseness: Literal[1, 2, 4, 8] = 1
    #: A single word that stands for another takes over the other's cross-attention: the new thing
    #: has the place of the old one. false: like all new words it finds its own.
    swapped_words: bool = True

    @field_validator("guidance", "cross_share", "self_share")
    @classmethod
    def _ordered(cls, value: Range) -> Range:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("a range [low, high] expected")
        return value

    @model_validator(mode="after")
    def _bounded(self) -> PromptToPromptSettings:
        for name, most in (("guidance", 100.0), ("cross_share", 1.0), ("self_share", 1.0)):
            value = getattr(self, name)
            ends = value if isinstance(value, tuple) else (value,)
            if not all(0 <= end <= most for end in ends):
                raise ValueError(f"{name}: from 0 to {most:g}")
        return self


class PromptToPrompt(Painter[PromptToPromptSettings]):
    """Pairs and triplets to ones whose first reference and target are painted from their captions.

    A row is rejected as ``no_caption`` (of the reference or the target), or as ``same_caption``
    (they differ in nothing that the text encoder reads: case, spaces, or words beyond its length).
    """

    Settings = PromptToPromptSettings
    ranges = ("guidance", "cross_share", "self_share")

    def __init__(self, settings: PromptToPromptSettings) -> None:
        super().__init__(settings)
        self.named = Named(settings, "text", {"guidance": settings.guidance})
        self._loaded: Loaded | None = None
        self._tokenizers: list[Any] = []

    def needs(self, level: Level) -> set[str]:
        return super().needs(level) | {"items.captions"}

    def weights(self) -> str:
        return self.named.revision()

    def check(self) -> Iterable[str]:
        yield from super().check()
        faults = list(self.named.faults())
        yield from faults
        if not faults:
            import diffusers

            name = self.named.class_name(self.named.index())
            if fault := shared.unfit(getattr(diffusers, name)):
                yield f"model '{self.named.ref}': {fault}"

    def load(self) -> None:
        self._loaded = self.named.load()
        pipeline = self._loaded.pipeline
        if fault := shared.unfit(type(pipeline)):
            raise DatagenError(f"model '{self.named.ref}': {fault}")
        found = (getattr(pipeline, name, None) for name in ("tokenizer", "tokenizer_2"))
        self._tokenizers = [one for one in found if one is not None]

    def unfit(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        captions = [caption_of(row, side) for side in ("references", "targets")]
        for side, caption in zip(("reference", "target"), captions, strict=True):
            if not caption:
                return "no_caption", f"the {side} has none"
        if self._aligned(*captions).same:
            return "same_caption", f"nothing differs for the text encoder: {captions[0]!r:.80}"
        return None

    def _aligned(self, reference: str | None, target: str | None) -> Alignment:
        swapped = self.settings.swapped_words
        return align(self._tokenizers, reference or "", target or "", swapped=swapped)

    def paint(self, samples: Sequence[Sample]) -> list[Painted]:
        assert self._loaded is not None
        # A UNet that is told its guidance is told one for all pictures of a call.
        together = self._loaded.pipeline.unet.config.time_cond_proj_dim is None
        parts = [samples] if together else [[sample] for sample in samples]
        return [painted for part in parts for painted in self._painted_at_once(part)]

    def _painted_at_once(self, samples: Sequence[Sample]) -> list[Painted]:
        assert self._loaded is not None
        calls: list[Call] = []
        shares: list[shared.Shares] = []
        known: dict[tuple[str | None, str | None], Alignment] = {}
        for sample in samples:
            texts = self.captions(sample)
            if texts not in known:
                known[texts] = self._aligned(*texts)
            drawn = sample.drawn
            guidance = {"guidance": drawn["guidance"]}
            # One seed, so one noise.
            calls += [
                Call(text or "", sample.seed, None, None, self._size(), guidance) for text in texts
            ]
            shares.append(shared.Shares(drawn["cross_share"], drawn["self_share"], known[texts]))
        layers = shared.Layers(self.settings.self_blocks, self.settings.self_coarseness)
        with shared.Sharing(self._loaded.pipeline.unet, shares, layers) as sharing:
            found = self._loaded.at_once(calls, callback_on_step_end=sharing.step_end)
        told = [
            {"prompts": [one.prompt for one in calls[at : at + 2]]}
            for at in range(0, len(calls), 2)
        ]
        return [
            Painted(target.pixels, reference.pixels, reference.unsafe or target.unsafe, note)
            for reference, target, note in zip(found[::2], found[1::2], told, strict=True)
        ]

    def _size(self) -> tuple[int, int] | None:
        size = self.settings.size
        return (size, size) if isinstance(size, int) else size
