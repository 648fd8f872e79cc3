"""A transformer over the tokens of references and text (TransAgg)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from datagen.step import Settings
from datagen.training.composers._contract import Asked, Composer, divided
from datagen.training.towers import Towers, unit


class FusionSettings(Settings):
    """layers, heads: of the transformer, which is as wide as the space; dropout: in training."""

    layers: int = Field(2, ge=1, le=24)
    heads: int = Field(8, ge=1, le=64)
    dropout: float = Field(0.1, ge=0, lt=1)


class Fusion(Composer[FusionSettings]):
    """Liu et al. 2023 (arXiv:2306.07272): both token sets go through one transformer, and the
    query is a weighted sum of the text's vector, the references' and the fused one, with weights
    that hang on the query. Tokens are brought to the width of the space by layers of their own;
    a part that is absent is one learned token, and has no weight in the sum.
    """

    Settings = FusionSettings
    wants_tokens = True

    def __init__(self, settings: FusionSettings, towers: Towers) -> None:
        super().__init__(settings, towers)
        width = towers.width
        divided(width, settings.heads, "composer.fusion")
        self.image = nn.Sequential(
            nn.LayerNorm(towers.image_width), nn.Linear(towers.image_width, width)
        )
        self.text = nn.Sequential(
            nn.LayerNorm(towers.text_width), nn.Linear(towers.text_width, width)
        )
        layer = nn.TransformerEncoderLayer(
            width,
            settings.heads,
            4 * width,
            settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        # Which side a token is of, and what stands for a side that is absent.
        self.side = nn.Parameter(torch.randn(2, width) * 0.02)
        self.absent = nn.Parameter(torch.randn(2, width) * 0.02)
        self.out = nn.Sequential(
            nn.Linear(2 * width, 8 * width),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(8 * width, width),
        )
        self.weights = nn.Linear(width, 3)
        # It begins as the plain sum.
        nn.init.zeros_(self.weights.weight)
        nn.init.ones_(self.weights.bias)

    def forward(self, towers: Towers, asked: Asked) -> Tensor:
        assert asked.tokens is not None
        assert asked.mask is not None
        texts = towers.texts(asked.ids, tokens=True)
        assert texts.tokens is not None
        assert texts.mask is not None
        told, pictured = asked.told[:, None], asked.pictured[:, None]
        words = unit(texts.pooled) * told
        # The vectors of both sides stand before their tokens, and are read again behind.
        heads = [
            torch.where(told, words, self.absent[0]),
            torch.where(pictured, asked.images, self.absent[1]),
        ]
        tokens = [self.text(texts.tokens.float()), self.image(asked.tokens.float())]
        masks = [texts.mask & told, asked.mask & pictured]
        sides = [
            torch.cat([head[:, None], some], dim=1) + self.side[number]
            for number, (head, some) in enumerate(zip(heads, tokens, strict=True))
        ]
        there = [torch.cat([torch.ones_like(told), mask], dim=1) for mask in masks]
        found = self.layers(torch.cat(sides, dim=1), src_key_padding_mask=~torch.cat(there, dim=1))
        second = sides[0].shape[1]
        fused = self.out(torch.cat([found[:, 0], found[:, second]], dim=-1))
        shares = self.weights(fused)
        return unit(shares[:, :1] * words + shares[:, 1:2] * fused + shares[:, 2:] * asked.images)
