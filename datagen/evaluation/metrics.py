"""Metrics of retrieval as pure functions of the places of right answers.

A place is the rank of one target in the gallery, from 1. ``places`` are those of all targets of
one query, in any order (:func:`datagen.evaluation.places.places` finds them); a query has at
least one target. Every function gives a share between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
#: A metric of one query.
Metric = Callable[[Array], float]


def recall(k: int) -> Metric:
    """1 where any target is among the first ``k``, else 0: recall@k as composed retrieval has it.

    With one target it is the share of targets found; with several (EgoCVR) any of them is a hit.
    """

    def of(places: Array) -> float:
        return float(np.min(places) <= k)

    return of


def recall_of_first(k: int) -> Metric:
    """Recall@k of the first target alone; the others count as any item (CIRCO)."""

    def of(places: Array) -> float:
        return float(places[0] <= k)

    return of


def average_precision_at(k: int) -> Metric:
    """Precision at each target among the first ``k``, summed, over min(number of targets, k).

    The denominator of CIRCO (Baldrati et al. 2023, arXiv:2303.15247): a perfect ranking has 1
    however many targets there are.
    """

    def of(places: Array) -> float:
        ranks = np.sort(places)
        found = ranks[ranks <= k]
        precisions = np.arange(1, len(found) + 1) / found
        return float(precisions.sum() / min(len(ranks), k))

    return of


def average_precision(places: Array) -> float:
    """The mean over all targets of the precision at each: the whole ranking counts."""
    ranks = np.sort(places)
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def average_precision_trapezoid(places: Array) -> float:
    """Average precision by the trapezoidal rule, as i-CIR (arXiv:2510.25387) measures it.

    The precision at each target is averaged with that just before it; nothing stands before the
    first place, where it is 1.
    """
    ranks = np.sort(places).astype(np.float64)
    number = np.arange(len(ranks))
    before = np.divide(number, ranks - 1, out=np.ones_like(ranks), where=ranks > 1)
    return float(np.mean((before + (number + 1) / ranks) / 2))


def inverse_negative_penalty(places: Array) -> float:
    """Number of targets over the place of the last: what finding all of them costs.

    Its mean is mINP (Ye et al. 2021, arXiv:2001.04193), of ITCPR.
    """
    return float(len(places) / np.max(places))


def mean(metric: Metric, places: Iterable[Array]) -> float:
    """The mean of ``metric`` over queries; NaN of none."""
    found = [metric(one) for one in places]
    return float(np.mean(found)) if found else float("nan")


def by_group(
    metric: Metric, places: Iterable[Array], groups: Iterable[Sequence[Hashable]]
) -> dict[Any, float]:
    """The mean of ``metric`` in each group, by name; a query may be in several."""
    found: dict[Any, list[float]] = {}
    for one, names in zip(places, groups, strict=True):
        value = metric(one)
        for name in names:
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(found[name])) for name in sorted(found, key=str)}


def macro(metric: Metric, places: Iterable[Array], groups: Iterable[Sequence[Hashable]]) -> float:
    """The mean over groups of their means, so that groups of many queries weigh no more."""
    means = list(by_group(metric, places, groups).values())
    return float(np.mean(means)) if means else float("nan")
