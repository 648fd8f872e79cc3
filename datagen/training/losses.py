"""Losses of retrievers: queries against targets, references and hard negatives of a batch.

One loss, by its settings InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) or HN-NCE
(Radenovic et al. 2023, arXiv:2301.02280, as CoVR trains with, arXiv:2308.14746). All is reckoned
in float32, and in logarithms, whatever the type of the vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from datagen.step import Settings

#: The highest scale that is learned, as in CLIP.
_STEEPEST = 100.0
#: A score that counts for nothing, and leaves sums and gradients finite.
_NOTHING = -1e9

#: Whose references or hard negatives a query is compared with: none, its own, or all of the batch.
Whose = Literal["none", "own", "all"]


class LossSettings(Settings):
    """alpha: weight of the target in the denominator; beta: how much harder negatives weigh more
    (alpha 1 and beta 0: InfoNCE; CoVR trains with 1 and 0.5). temperature: cosines are divided by
    it; learned: let training move it. both: also compare each target with all queries; the mean of
    both directions is the loss. targets: whether a query is compared with the targets of ``all``
    queries of a batch or with its ``own`` alone; references, negatives: with which references and
    hard negatives besides. caption: weight of a second loss of the same kind, of queries against
    the captions of their targets. distance: weight of half the squared distance between a query
    and its target; contrast: weight of the comparison itself (0: the distance alone).
    """

    alpha: float = Field(1.0, ge=0)
    beta: float = Field(0.0, ge=0)
    temperature: float = Field(0.07, gt=0.001, le=10)
    learned: bool = False
    both: bool = True
    targets: Literal["own", "all"] = "all"
    references: Whose = "all"
    negatives: Whose = "all"
    caption: float = Field(0.0, ge=0)
    distance: float = Field(0.0, ge=0)
    contrast: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _sense(self) -> LossSettings:
        if not self.contrast + self.distance + self.caption > 0:
            raise ValueError("contrast: above 0 expected where distance and caption are 0")
        if self.targets == "own" and self.both:
            raise ValueError("both: false expected where targets is own")
        return self


@dataclass(frozen=True)
class Candidates:
    """What n queries are compared with.

    vectors: (c, d) of length 1; ids: int64 (c), equal for equal items; targets, references,
    negatives: int64 (n, any), numbers of candidates, -1 for none; right: int64 (n, any), ids of
    all right answers of each query, 0 for none: a candidate with one of them is no negative.
    """

    vectors: Tensor
    ids: Tensor
    targets: Tensor
    references: Tensor
    negatives: Tensor
    right: Tensor


@dataclass(frozen=True)
class Losses:
    """What a batch has lost.

    total: the scalar to train with; each: (n), what each query lost against its targets, without
    weights, detached; parts: the scalars that the total is made of, detached.
    """

    total: Tensor
    each: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Contrast(nn.Module):  # type: ignore[misc]
    """The loss of a batch, with its temperature."""

    def __init__(self, settings: LossSettings) -> None:
        super().__init__()
        self.settings = settings
        scale = torch.tensor(-math.log(settings.temperature))
        if settings.learned:
            self.log_scale = nn.Parameter(scale)
        else:
            self.register_buffer("log_scale", scale, persistent=False)

    def scale(self) -> Tensor:
        """What cosines are multiplied by."""
        if self.settings.learned:
            # The weight itself is held: beyond a bound in the graph it would have no gradient, and
            # never come back.
            most = max(_STEEPEST, 1 / self.settings.temperature)
            self.log_scale.data.clamp_(max=math.log(most))
        return self.log_scale.exp()

    def forward(
        self,
        queries: Tensor,
        candidates: Candidates,
        weights: Tensor | None = None,
        captions: Tensor | None = None,
        captioned: Tensor | None = None,
    ) -> Losses:
        """The loss of ``queries`` (n, d).

        weights: (n), of each query, 0 or more; the total is the mean by them. captions: (n, d), of
        the targets; captioned: bool (n), which of them there are.
        Raises ValueError where a query has no target.
        """
        with torch.autocast(queries.device.type, enabled=False):
            return self._all(queries.float(), candidates, weights, captions, captioned)

    def _all(
        self,
        queries: Tensor,
        candidates: Candidates,
        weights: Tensor | None,
        captions: Tensor | None,
        captioned: Tensor | None,
    ) -> Losses:
        scores = queries @ candidates.vectors.float().T * self.scale()
        positive, right = chosen(candidates.targets, scores.shape[1]), answers(candidates)
        there = positive.any(1)
        if not bool(there.all()):
            raise ValueError(f"query {int((~there).nonzero()[0])} of the batch has no target")
        given, parts = self.settings, dict[str, Tensor]()
        each = scores.new_zeros(len(scores))
        if given.contrast:
            lost = self._contrast(scores, positive, right, self._pool(candidates, positive))
            parts["contrast"] = mean(lost, weights).detach()
            each = each + given.contrast * lost
        if given.distance:
            lost = apart(queries, candidates.vectors.float(), positive)
            parts["distance"] = mean(lost, weights).detach()
            each = each + given.distance * lost
        total = mean(each, weights)
        if self.settings.caption and captions is not None:
            if captioned is None:
                captioned = torch.ones(len(queries), dtype=torch.bool, device=queries.device)
            lost = self._told(queries, captions.float(), candidates.right, captioned)
            told = mean(lost, captioned.float() if weights is None else weights * captioned)
            parts["caption"] = told.detach()
            total = total + self.settings.caption * told
        return Losses(total, each.detach(), parts)

    def _pool(self, candidates: Candidates, positive: Tensor) -> Tensor:
        """Bool (n, c): which candidates a query is compared with, right ones among them."""
        pool = positive.any(0).expand(positive.shape)
        if self.settings.targets == "own":
            pool = positive
        for name in ("references", "negatives"):
            whose = getattr(self.settings, name)
            own = chosen(getattr(candidates, name), positive.shape[1])
            if whose == "own":
                pool = pool | own
            elif whose == "all":
                pool = pool | own.any(0)
        return pool

    def _contrast(self, scores: Tensor, positive: Tensor, right: Tensor, pool: Tensor) -> Tensor:
        """Losses (n), each the mean over a query's targets, and over the directions."""
        alpha, beta = self.settings.alpha, self.settings.beta
        query, target = positive.nonzero(as_tuple=True)
        own = scores[query, target]
        against = denominator(scores, pool & ~right & ~positive, beta)
        lost = _lost(own, against[query], alpha)
        if self.settings.both:
            # A query that a target answers too is no negative of that target.
            negative = ~right[:, target].T
            negative[torch.arange(len(query), device=query.device), query] = False
            lost = (lost + _lost(own, denominator(scores.T[target], negative, beta), alpha)) / 2
        sums = lost.new_zeros(len(scores)).index_add(0, query, lost)
        return sums / positive.sum(1)

    def _told(self, queries: Tensor, captions: Tensor, right: Tensor, captioned: Tensor) -> Tensor:
        """Losses (n) against captions; 0 for a query whose target has none."""
        rows = captioned.nonzero()[:, 0]
        lost = queries.new_zeros(len(queries))
        if not len(rows):
            return lost
        scores = queries[rows] @ captions[rows].T * self.scale()
        own = torch.eye(len(rows), dtype=torch.bool, device=queries.device)
        # A caption of another query's target may be one of a right answer.
        alike = shared(right[rows], right[rows])
        found = self._contrast(scores, own, alike, torch.ones_like(own))
        return lost.index_put((rows,), found)


def apart(queries: Tensor, vectors: Tensor, positive: Tensor) -> Tensor:
    """Half the squared distance (n) of queries (n, d) to their targets, the mean over these.

    vectors: (c, d); positive: bool (n, c), which of them are targets.
    """
    query, target = positive.nonzero(as_tuple=True)
    lost = (queries[query] - vectors[target]).square().sum(1) / 2
    return lost.new_zeros(len(queries)).index_add(0, query, lost) / positive.sum(1)


def denominator(scores: Tensor, negative: Tensor, beta: float = 0.0) -> Tensor:
    """The logarithm (n) of the weighted sum of exponents of each row's negatives.

    The weight of a negative j among m is ``m exp(beta s_j) / sum_k exp(beta s_k)``; with beta 0
    each is 1. Far below any score where a row has no negatives.
    """
    kept = scores.masked_fill(~negative, _NOTHING)
    if not beta:
        return torch.logsumexp(kept, 1)
    hard = (beta * scores).masked_fill(~negative, _NOTHING)
    count = negative.sum(1, keepdim=True).clamp(min=1)
    weights = hard - torch.logsumexp(hard, 1, keepdim=True) + count.log()
    return torch.logsumexp((weights + scores).masked_fill(~negative, _NOTHING), 1)


def _lost(own: Tensor, against: Tensor, alpha: float) -> Tensor:
    """``-log(exp(own) / (alpha exp(own) + exp(against)))``."""
    if alpha == 0:
        # Without negatives there is nothing to lose.
        return torch.where(against > _NOTHING / 2, against - own, torch.zeros_like(own))
    return nn.functional.softplus(against - own - math.log(alpha)) + math.log(alpha)


def chosen(numbers: Tensor, count: int) -> Tensor:
    """Bool (n, count): which of ``count`` candidates stand in ``numbers`` (n, any), -1 for none."""
    out = torch.zeros(len(numbers), count + 1, dtype=torch.bool, device=numbers.device)
    out.scatter_(1, torch.where(numbers < 0, count, numbers), True)
    return out[:, :count]


def answers(candidates: Candidates) -> Tensor:
    """Bool (n, c): which candidates are right answers of a query, by their ids."""
    return shared(candidates.right, candidates.ids[:, None])


def shared(one: Tensor, other: Tensor) -> Tensor:
    """Bool (n, m): whether rows of ``one`` (n, any) and ``other`` (m, any) share a number but 0."""
    out = torch.zeros(len(one), len(other), dtype=torch.bool, device=one.device)
    for left in one.T:
        for right in other.T:
            out |= (left[:, None] == right) & (left != 0)[:, None]
    return out


def mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of ``values`` (n) by ``weights`` (n); 0 where all of these are 0."""
    if weights is None:
        return values.mean()
    kept = weights.to(values)
    return (values * kept).sum() / kept.sum().clamp(min=torch.finfo(kept.dtype).tiny)
