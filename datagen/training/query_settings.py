"""Queries that a training makes itself, in place of those that triplets hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from datagen.step import Settings

#: Where a template says the caption of the target and that of the reference.
TARGET, OTHER = "{target}", "{reference}"

#: The usual forms, after the kinds of change that people name.
TEMPLATES = (
    "{target} instead of {reference}",
    "not {reference} but {target}",
    "change {reference} to {target}",
    "unlike {reference}, show {target}",
    "{target}, no longer {reference}",
)


class NeighbourSettings(Settings):
    """Triplets of images and captions alone.

    share: where the reference stands, from the target (0) to its neighbour (1). templates: texts
    with ``{target}`` and ``{reference}``, the captions of the target and of its neighbour. images,
    captions: shares of queries that are the reference alone, and the target's caption alone.
    """

    op: Literal["neighbours"] = "neighbours"
    share: float = Field(0.5, gt=0, le=1)
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = TEMPLATES
    images: float = Field(0.0, ge=0, le=1)
    captions: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _sense(self) -> NeighbourSettings:
        if self.images + self.captions > 1:
            raise ValueError("images, captions: more than 1 together")
        for template in self.templates:
            if TARGET not in template:
                raise ValueError(f"templates: {TARGET} is missing in '{template}'")
        return self


class MaskedSettings(Settings):
    """Captions alone, whose keywords are replaced by their own vector.

    noise: the vector is moved by a random one, up to so many times as long, before it becomes a
    word. keep: words that are never keywords (None: English words without a meaning of their own).
    """

    op: Literal["masked"] = "masked"
    noise: float = Field(1.0, ge=0)
    keep: tuple[str, ...] | None = None


class CaptionSettings(Settings):
    """Captions of references, texts and captions of targets, without pictures.

    noise: as of ``masked``, on the vector that stands for the reference. negatives: the captions
    of references are hard negatives.
    """

    op: Literal["captions"] = "captions"
    noise: float = Field(1.0, ge=0)
    negatives: bool = True


Queries = Annotated[NeighbourSettings | MaskedSettings | CaptionSettings, Field(discriminator="op")]
