"""Weights of triplets that follow their losses, epoch after epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datagen.training import noise_weights
from datagen.training.across import Ranks
from datagen.training.batch import Batch
from datagen.training.hooks import Hook
from datagen.training.samples import COMPOSED, number_of
from datagen.training.settings import NoisyTriplets


class Noisy(Hook):
    """Remembers what each triplet lost, and weighs it by that in the next epoch.

    A triplet that was not seen in the epoch before weighs 1. All ranks hold the same. mixed:
    queries of one part alone are drawn now and then; these lose more for that, whatever the
    triplet is worth, and are not remembered.
    """

    def __init__(self, settings: NoisyTriplets, ranks: Ranks, mixed: bool = False) -> None:
        self.settings, self.ranks, self.mixed = settings, ranks, mixed
        self.at = 0
        self._lost: dict[int, float] = {}
        self._weights: dict[int, float] = {}

    def epoch(self, number: int) -> None:
        while self.at < number:
            self._next()

    def batch(self, batch: Batch) -> Batch:
        """With ``weights`` (B) of the samples, but in epochs of warm-up."""
        if self.at < self.settings.warmup:
            return batch
        found = [self._weights.get(number_of(key), 1.0) for key in batch["keys"]]
        return {**batch, "weights": torch.tensor(found)}

    def saw(self, batch: Batch, lost: Tensor) -> None:
        numbers = torch.tensor([number_of(key) for key in batch["keys"]], device=lost.device)
        every, _ = self.ranks.rows(numbers)
        losses, _ = self.ranks.rows(lost.detach().float())
        kinds, _ = self.ranks.rows(batch["kinds"].to(lost.device))
        self._lost.update(
            (key, loss)
            for key, loss, kind in zip(every.tolist(), losses.tolist(), kinds.tolist(), strict=True)
            if kind == COMPOSED or not self.mixed
        )

    def _next(self) -> None:
        self.at += 1
        if not self._lost or self.at < self.settings.warmup:
            self._lost = {}
            return
        keys = sorted(self._lost)
        losses = np.asarray([self._lost[key] for key in keys])
        before = None
        if self._weights:
            before = np.asarray([self._weights.get(key, 1.0) for key in keys])
        found = noise_weights.weights(losses, self.settings, before)
        self._weights = dict(zip(keys, found.tolist(), strict=True))
        self._lost = {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.at,
            **{
                name: (
                    torch.tensor(list(one), dtype=torch.int64),
                    torch.tensor(list(one.values()), dtype=torch.float64),
                )
                for name, one in (("lost", self._lost), ("weights", self._weights))
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at = int(state["epoch"])
        pairs = {
            name: dict(zip(state[name][0].tolist(), state[name][1].tolist(), strict=True))
            for name in ("lost", "weights")
        }
        self._lost, self._weights = pairs["lost"], pairs["weights"]
