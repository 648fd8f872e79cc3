"""Losses that teach small diffusion models what texts say and what pictures show. Their heads are
thrown away afterwards.

A text encoder tells which thing stands where (of captions) or what changes (of modification
texts). A denoiser tells of each part of the picture what stands there in the reference, half-way
down, and what shall stand there in the end, in its middle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from datagen.bundled import _edits, _scenes
from datagen.sources.tinyworld.scene import POSITIONS

_THINGS = {name: width for name, width in _edits.WIDTHS.items() if name != "ground"}
_GROUNDS = _edits.WIDTHS["ground"]
_HEADS = 4
#: Marks what no loss is made of.
SILENT = -100


class Aside(nn.Module):  # type: ignore[misc]
    """The heads. width: of the text encoder; deep: of the denoiser at half its side."""

    def __init__(self, width: int, deep: int) -> None:
        super().__init__()
        things = sum(_THINGS.values())
        self.queries = nn.Parameter(torch.randn(len(POSITIONS) + 2, width))
        self.keys, self.values = nn.Linear(width, width), nn.Linear(width, width)
        self.thing = _head(width, things)
        self.ground = nn.Linear(width, _GROUNDS)
        self.asked = _head(width, sum(_edits.ASKED.values()))
        self.before = nn.Conv2d(deep, things + _GROUNDS, 1)
        self.after = nn.Conv2d(deep, things + _GROUNDS, 1)

    def _gathered(self, tokens: torch.Tensor) -> torch.Tensor:
        """What each query finds in ``tokens`` (n, length, width): (n, queries, width)."""
        n, length, width = tokens.shape
        keys, values = (
            part(tokens).view(n, length, _HEADS, -1).transpose(1, 2)
            for part in (self.keys, self.values)
        )
        queries = self.queries.view(-1, _HEADS, width // _HEADS).transpose(0, 1)
        weights = (queries @ keys.transpose(2, 3) * (width // _HEADS) ** -0.5).softmax(-1)
        found: torch.Tensor = (weights @ values).transpose(1, 2).reshape(n, -1, width)
        return found

    def told(self, tokens: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """How badly captions (n, length, width) tell what stands where; truth: (n, 46)."""
        found = self._gathered(tokens)
        places = self.thing(found[:, : len(POSITIONS)]).float()
        ground = functional.cross_entropy(self.ground(found[:, -2]).float(), truth[:, -1])
        slots = truth[:, :-1].view(len(truth), len(POSITIONS), -1)
        return ground + _of_things(places.flatten(0, 1), slots.flatten(0, 1), 2.0)

    def wanted(self, tokens: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        """How badly modification texts tell the answers (n, 4) to :data:`_edits.ASKED`."""
        found = self.asked(self._gathered(tokens)[:, -1]).float()
        parts = found.split(list(_edits.ASKED.values()), dim=1)
        return torch.stack(
            [functional.cross_entropy(one, answers[:, at]) for at, one in enumerate(parts)]
        ).sum()

    def shown(
        self, head: nn.Module, seen: torch.Tensor, truth: torch.Tensor, cells: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How badly each part of ``seen`` (n, deep, PARTS, PARTS) tells what stands there; and
        which parts with a thing tell its shape and colour right, NaN for those without one.

        truth: (n, 46); cells: (n, PARTS, PARTS), as ``_edits.cells``.
        """
        logits = head(seen).float().permute(0, 2, 3, 1)
        n = len(logits)
        slots = truth[:, :-1].view(n, len(POSITIONS), -1)
        at = cells.view(n, -1).clamp(min=0)
        there = slots.gather(1, at[:, :, None].expand(-1, -1, slots.shape[2]))
        there = torch.where(cells.view(n, -1, 1) >= 0, there, _edits.NOTHING).flatten(0, 1)
        things, grounds = logits.flatten(0, 2).split([sum(_THINGS.values()), _GROUNDS], 1)
        ground = truth[:, -1:].expand(-1, cells[0].numel()).flatten()
        total = functional.cross_entropy(grounds, ground) + _of_things(things, there, 2.0)
        with torch.no_grad():
            widths = list(_THINGS.values())
            shape, colour = things.split(widths, 1)[:2]
            right = (shape.argmax(1) == there[:, 0]) & (colour.argmax(1) == there[:, 1])
            found = torch.where(there[:, 0] >= 0, right.float(), torch.nan)
        return total, found.view(cells.shape)


def _head(width: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, out))


def _of_things(logits: torch.Tensor, there: torch.Tensor, shaped: float) -> torch.Tensor:
    """Cross entropy of all attributes; logits (m, all widths), there (m, slots). shaped: weight
    of what shape stands there, if any."""
    parts = logits.split(list(_THINGS.values()), 1)
    wanted = torch.where(there[:, 0] < 0, _THINGS["shape"] - 1, there[:, 0])
    total = shaped * functional.cross_entropy(parts[0], wanted)
    filled = there[:, 0] >= 0
    if bool(filled.any()):
        for at, part in enumerate(parts[1:], start=1):
            total = total + functional.cross_entropy(part[filled], there[filled, at])
    return total


@contextlib.contextmanager
def watching(unet: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Catches what ``unet`` makes half-way down (``before``) and in its middle (``after``)."""
    caught: dict[str, torch.Tensor] = {}
    hooks = [
        unet.down_blocks[-1].register_forward_hook(
            lambda _, __, found: caught.__setitem__("before", found[0])
        ),
        unet.mid_block.register_forward_hook(
            lambda _, __, found: caught.__setitem__("after", found)
        ),
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


assert list(_THINGS) == list(_scenes.SLOTS)
