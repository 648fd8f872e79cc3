"""Training in bfloat16 with weights that are kept in float32, and their running mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import distributed


class Masters:
    """The weights of ``modules`` in float32, beside the ones that they compute with.

    Matrices, and kernels as matrices, are stepped by Muon (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon), which needs half the steps of AdamW here; all else, and
    what ``plain`` names, by AdamW. ``mean`` follows the weights with ``decay``.
    """

    def __init__(
        self, modules: torch.nn.Module, plain: Iterable[str] = (), decay: float = 0.999,
        muon: bool = True,
    ) -> None:  # fmt: skip
        self.decay, self.steps = decay, 0
        named = [(name, one) for name, one in modules.named_parameters() if one.requires_grad]
        self.names, self.live = [name for name, _ in named], [one for _, one in named]
        marks = tuple(plain)
        matrix = [
            muon and one.ndim > 1 and min(one.shape[0], one[0].numel()) > 3
            and not any(mark in name for mark in marks)
            for name, one in named
        ]  # fmt: skip
        self.kept = [
            one.detach().float().flatten(1).clone() if wide else one.detach().float().clone()
            for one, wide in zip(self.live, matrix, strict=True)
        ]
        self.mean = [one.clone() for one in self.kept]
        groups = [
            [one for one, wide in zip(self.kept, matrix, strict=True) if wide == kind]
            for kind in (True, False)
        ]
        self.optimizers: list[Any] = []
        if groups[0]:
            self.optimizers.append(
                torch.optim.Muon(groups[0], weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            )
        self.optimizers.append(torch.optim.AdamW(groups[1], betas=(0.9, 0.98), weight_decay=0.0))

    def step(self, rate: float, most: float = 1.0) -> float:
        """Step by the gradients of the modules, which are cleared; their norm before it was held
        to ``most``."""
        shared(self.live)
        gradients = [one.grad for one in self.live]
        wide = torch.stack([g.float().norm() for g in gradients if g is not None]).norm()
        scale = float(torch.clamp(most / (wide + 1e-6), max=1.0))
        for kept, gradient, live in zip(self.kept, gradients, self.live, strict=True):
            kept.grad = None if gradient is None else gradient.float().view_as(kept) * scale
            live.grad = None
        if torch.isfinite(wide):
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (self.steps + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.mean, self.kept, share)
            for kept, live in zip(self.kept, self.live, strict=True):
                live.copy_(kept.view_as(live))
        return float(wide)

    def averaged(self) -> dict[str, torch.Tensor]:
        """The running means by the names of the weights, in float32."""
        return {
            name: mean.view_as(live).clone()
            for name, mean, live in zip(self.names, self.mean, self.live, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            "kept": self.kept, "mean": self.mean, "steps": self.steps,
            "optimizers": [one.state_dict() for one in self.optimizers],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        with torch.no_grad():
            for mine, theirs in (*zip(self.kept, state["kept"], strict=True),
                                 *zip(self.mean, state["mean"], strict=True)):  # fmt: skip
                mine.copy_(theirs)
            for kept, live in zip(self.kept, self.live, strict=True):
                live.copy_(kept.view_as(live))
        self.steps = state["steps"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def place() -> tuple[int, int]:
    """Which of how many processes this is that train together: (0, 1) where it is alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def shared(live: Sequence[torch.nn.Parameter]) -> None:
    """Put the mean of all processes' gradients into each, in one message."""
    _, number = place()
    if number < 2:
        return
    for one in live:
        if one.grad is None:
            one.grad = torch.zeros_like(one)
    gradients = [one.grad for one in live if one.grad is not None]
    message = torch.cat([one.float().flatten() for one in gradients]) / number
    distributed.all_reduce(message)
    parts = message.split([one.numel() for one in gradients])
    for one, part in zip(gradients, parts, strict=True):
        one.copy_(part.view_as(one))


def rate(step: int, steps: int, peak: float, falling: float = 1 / 3) -> float:
    """The learning rate: it rises for 100 steps, stays, and falls to nothing in the last part,
    ``falling`` (0-1) of all."""
    return peak * min(1.0, (step + 1) / 100, (steps - step) / (steps * falling))
