"""AdamW, the rate of learning over steps, and the running mean of weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from datagen.errors import DatagenError
from datagen.training.objective import Objective
from datagen.training.settings import TrainSettings


def trained(objective: Objective) -> dict[str, Any]:
    """What is trained, by name. Raises DatagenError where nothing is."""
    out = {name: one for name, one in objective.named_parameters() if one.requires_grad}
    if not out:
        raise DatagenError(
            "nothing is trained: the composer has no weights and the towers are frozen; choose "
            "another composer, or set model.image or model.text to projection, all, or a number"
        )
    return out


def optimizer(weights: Mapping[str, Any], settings: TrainSettings) -> Any:
    """AdamW; vectors and single numbers do not decay, towers may have a rate of their own."""
    towers_rate = settings.towers_learning_rate or settings.learning_rate
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, one in weights.items():
        groups.setdefault((name.startswith("model.towers."), one.ndim > 1), []).append(one)
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "lr": towers_rate if tower else settings.learning_rate,
                "peak": towers_rate if tower else settings.learning_rate,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (tower, decays), members in groups.items()
        ],
        betas=settings.betas,
    )


def share_of_peak(step: int, steps: int, settings: TrainSettings) -> float:
    """The rate of step ``step`` (from 0) as a share of its peak: linear over the warm-up, then a
    half cosine down to 0 at ``steps``, or constant.
    """
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.schedule == "constant" or steps <= settings.warmup:
        return 1.0
    done = (step - settings.warmup) / (steps - settings.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_rate(made: Any, share: float) -> float:
    """Set the rates of all groups to ``share`` of their peaks; the composer's, or the first."""
    for group in made.param_groups:
        group["lr"] = group["peak"] * share
    return float(made.param_groups[-1]["lr"])


class Mean:
    """The exponential mean of trained weights; with a decay of 0 the weights themselves.

    The decay grows from 0 as ``(1 + step) / (10 + step)`` up to its value, so that the beginning
    does not linger.
    """

    def __init__(self, weights: Mapping[str, Any], decay: float) -> None:
        self.weights, self.decay, self.step = weights, decay, 0
        self.kept = {name: one.detach().clone() for name, one in weights.items() if decay}

    def update(self) -> None:
        """After a step of the optimizer."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        for name, kept in self.kept.items():
            kept.lerp_(self.weights[name].detach(), 1 - decay)

    def values(self) -> dict[str, Tensor]:
        """Copies of what is to be validated and written."""
        found = self.kept if self.decay else self.weights
        return {name: one.detach().clone() for name, one in found.items()}

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Let the mean stand in the model's place for the length of a block."""
        if not self.decay:
            yield
            return
        own = {name: one.detach().clone() for name, one in self.weights.items()}
        put(self.weights, self.kept)
        try:
            yield
        finally:
            put(self.weights, own)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "kept": dict(self.kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])
        put(self.kept, state["kept"])


def put(weights: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
    """Copy ``values`` into ``weights`` of the same names. Raises DatagenError where they differ."""
    if weights.keys() != values.keys():
        raise DatagenError("these are weights of another model, or of other parts of it")
    with torch.no_grad():
        for name, one in weights.items():
            one.copy_(values[name])
