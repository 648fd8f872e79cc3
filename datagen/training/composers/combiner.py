"""A network that mixes the vectors of references and text (CLIP4Cir)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from datagen.step import Settings
from datagen.training.composers._contract import Asked, Composer, told_vectors
from datagen.training.towers import Towers, unit


class CombinerSettings(Settings):
    """projection, hidden: widths of the layers, as multiples of the space's; dropout: of all
    hidden layers, in training.
    """

    projection: int = Field(4, ge=1, le=64)
    hidden: int = Field(8, ge=1, le=64)
    dropout: float = Field(0.5, ge=0, lt=1)


class Combiner(Composer[CombinerSettings]):
    """Baldrati et al. 2023 (arXiv:2308.11485): a mixture of both vectors, whose share the network
    tells, and what the network adds to it. A part that is absent is zero, and has no share.
    """

    Settings = CombinerSettings

    def __init__(self, settings: CombinerSettings, towers: Towers) -> None:
        super().__init__(settings, towers)
        width = towers.width
        projected, hidden = settings.projection * width, settings.hidden * width
        self.text = _layer(width, projected, settings.dropout)
        self.image = _layer(width, projected, settings.dropout)
        self.both = _layer(2 * projected, hidden, settings.dropout)
        self.out = nn.Linear(hidden, width)
        self.share = nn.Sequential(
            _layer(2 * projected, hidden, settings.dropout), nn.Linear(hidden, 1)
        )

    def forward(self, towers: Towers, asked: Asked) -> Tensor:
        texts, images = told_vectors(towers, asked), asked.images
        told, pictured = asked.told[:, None], asked.pictured[:, None]
        projected = [self.text(texts) * told, self.image(images) * pictured]
        both = torch.cat(projected, dim=-1)
        share = torch.sigmoid(self.share(both))
        share = torch.where(pictured, share, torch.ones_like(share))
        share = torch.where(told, share, torch.zeros_like(share))
        return unit(self.out(self.both(both)) + share * texts + (1 - share) * images)


def _layer(width: int, out: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(width, out), nn.ReLU(), nn.Dropout(dropout))
