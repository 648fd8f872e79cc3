"""The weighted sum of references and text, or the point between them on the sphere."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from datagen.step import Settings
from datagen.training.composers._contract import Asked, Composer, told_vectors
from datagen.training.towers import Towers, unit

#: Below this sine of the angle two vectors are taken to point the same way, or opposite ways.
_FLAT = 1e-4


class SumSettings(Settings):
    """how: ``mean``, the weighted sum of both vectors, or ``slerp``, the point between them on
    the great circle. weight: of the text, 0 (references alone) to 1. learned: let training move
    the weight.
    """

    how: Literal["mean", "slerp"] = "mean"
    weight: float = Field(0.5, ge=0, le=1)
    learned: bool = False

    @model_validator(mode="after")
    def _sense(self) -> SumSettings:
        if self.learned and not 0 < self.weight < 1:
            raise ValueError("weight: between 0 and 1 where it is learned")
        return self


class Sum(Composer[SumSettings]):
    """The sum is what CLIP models are asked with zero-shot; slerp follows Jang et al. 2024
    (arXiv:2405.00571). A query with one part alone is that part.
    """

    Settings = SumSettings

    def __init__(self, settings: SumSettings, towers: Towers) -> None:
        super().__init__(settings, towers)
        if settings.learned:
            start = math.log(settings.weight / (1 - settings.weight))
            self.logit = nn.Parameter(torch.tensor(start))

    def weight(self) -> Tensor:
        """The weight of the text."""
        if self.settings.learned:
            return torch.sigmoid(self.logit)
        return torch.tensor(self.settings.weight)

    def forward(self, towers: Towers, asked: Asked) -> Tensor:
        texts = told_vectors(towers, asked)
        share = self.weight().to(texts.device).expand(len(texts), 1)
        share = torch.where(asked.pictured[:, None], share, torch.ones_like(share))
        share = torch.where(asked.told[:, None], share, torch.zeros_like(share))
        if self.settings.how == "slerp":
            return slerp(asked.images, texts, share)
        return unit((1 - share) * asked.images + share * texts)


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """The point at ``share`` (n, 1) of the way from unit ``start`` to unit ``end`` (n, d) along
    the great circle; along the straight line where that is none, or not one. Of length 1.
    """
    cosine = (start * end).sum(-1, keepdim=True)
    # From both chords: the arc cosine alone is blunt where vectors are near each other.
    angle = 2 * torch.atan2(_length(start - end), _length(start + end))
    sine = torch.sin(angle)
    # Vectors that are zero have no angle.
    flat = (sine < _FLAT) | ~_present(start) | ~_present(end) | (cosine.abs() > 1 - _FLAT**2)
    safe = torch.where(flat, torch.ones_like(sine), sine)
    before = torch.where(flat, 1 - share, torch.sin((1 - share) * angle) / safe)
    behind = torch.where(flat, share, torch.sin(share * angle) / safe)
    return unit(before * start + behind * end)


def _present(vectors: Tensor) -> Tensor:
    return (vectors != 0).any(-1, keepdim=True)


def _length(vectors: Tensor) -> Tensor:
    # The gradient of a plain norm is not finite at zero.
    return torch.sqrt((vectors * vectors).sum(-1, keepdim=True) + 1e-12)
