"""Which candidates of a gallery are hard negatives of a query, by their scores.

``drop`` follows QuRe (Kwak et al. 2025, arXiv:2507.12416): behind the target, the ranking falls
steeply twice, and what lies between both steps is near the query and yet no answer. ``top`` takes
the nearest, with a margin to the target where one is set (NV-Retriever, de Souza P. Moreira et al.
2024, arXiv:2407.15831): what is nearer than the target less the margin may be an answer.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from datagen.step import Settings


class HardNegativeSettings(Settings):
    """choice: ``drop``, what lies between the two largest drops of score behind the target, or
    ``top``, the nearest. keep: at most so many of a query, the nearest ones. depth: ranks behind
    the target that ``drop`` looks at (0: all). margin: ``top`` leaves out candidates whose cosine
    is above that of the target less so much (None: none are left out).
    """

    choice: Literal["drop", "top"] = "drop"
    keep: int = Field(50, ge=1)
    depth: int = Field(1000, ge=0)
    margin: float | None = Field(None, ge=0, le=2)


def hard(scores: Tensor, right: Tensor, settings: HardNegativeSettings) -> Tensor:
    """Numbers int64 (n, keep) of each query's hard negatives, the nearest first, -1 for none.

    scores: cosines (n, g) with a gallery, nan for what is not there; right: int64 (n, any),
    numbers of right answers, -1 for none. Of several answers the one with the lowest score counts.
    A query without one among the gallery has no negatives.
    """
    known = ~torch.isnan(scores)
    scores = scores.masked_fill(~known, -float("inf"))
    held = torch.where(right < 0, scores.shape[1], right)
    answers = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
    answers = answers.scatter(1, held, True)[:, :-1]
    there = answers.any(1)
    lowest = scores.masked_fill(~answers, float("inf")).amin(1)
    if settings.choice == "top":
        most = torch.full_like(lowest, float("inf"))
        if settings.margin is not None:
            most = lowest - settings.margin
        allowed = ~answers & (scores <= most[:, None])
    else:
        allowed = ~answers & (scores <= lowest[:, None])
    allowed &= there[:, None] & known
    ranked, order = scores.masked_fill(~allowed, -float("inf")).sort(
        dim=1, descending=True, stable=True
    )
    counts = allowed.sum(1)
    begin, end = torch.zeros_like(counts), counts
    if settings.choice == "drop":
        if settings.depth:
            counts = counts.clamp(max=settings.depth)
        begin, end = between(ranked, counts)
    places = begin[:, None] + torch.arange(settings.keep, device=scores.device)
    found = order.gather(1, places.clamp(max=scores.shape[1] - 1))
    return torch.where(places < end[:, None], found, -1)


def between(ranked: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Where what lies between the two largest drops begins and ends, both int64 (n).

    ranked: scores (n, g), falling; counts: how many of each row are looked at. The drops are more
    than one place apart; of equal ones the earlier counts. Where there are no two, all that is
    looked at is between.
    """
    width = ranked.shape[1]
    if width < 2:
        return torch.zeros_like(counts), counts
    at = torch.arange(width - 1, device=ranked.device)
    inside = at + 1 < counts[:, None]
    # Beyond the last score there is no number to reckon with.
    finite = ranked.masked_fill(~torch.isfinite(ranked), 0)
    drops = (finite[:, :-1] - finite[:, 1:]).masked_fill(~inside, -1.0)
    first = drops.argmax(1)
    apart = drops.masked_fill((at - first[:, None]).abs() <= 1, -1.0)
    second = apart.argmax(1)
    two = apart.amax(1) >= 0
    begin = torch.where(two, torch.minimum(first, second) + 1, 0)
    end = torch.where(two, torch.maximum(first, second) + 1, counts)
    return begin, end
