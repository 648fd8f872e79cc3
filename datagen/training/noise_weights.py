"""Weights of training samples by how much they lose: noisy triplets lose more.

A model that has learned a little loses less on right triplets than on wrong ones. A mixture of two
normal distributions over the losses of all samples tells both apart, and a sample's weight is the
probability that it belongs to the lower one (DivideMix, Li et al. 2020, arXiv:2002.07394; for
composed retrieval TME, Li et al. 2025, and NCL-CIR, Gao et al. 2025, arXiv:2504.04339).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from datagen.errors import DatagenError
from datagen.step import Settings

Array = np.ndarray[Any, Any]

#: Added to the variances of the mixture, of losses scaled to 0 … 1 (as DivideMix has it).
_LEAST = 5e-4


class NoiseSettings(Settings):
    """floor: the least weight of a sample; below: a sample with a weight below it gets the floor;
    keep: how much of a sample's weight of the epoch before stays (0: none).
    """

    floor: float = Field(0.0, ge=0, le=1)
    below: float = Field(0.0, ge=0, le=1)
    keep: float = Field(0.0, ge=0, lt=1)


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions of losses, the lower one first.

    means, deviations, shares: of both, in units of the losses; clean: float64 (n), the probability
    that a sample belongs to the lower one.
    """

    means: tuple[float, float]
    deviations: tuple[float, float]
    shares: tuple[float, float]
    clean: Array


def mixture(losses: Array, seed: int = 0) -> Mixture:
    """The mixture of ``losses`` (n).

    A loss below the lower mean is as clean as that mean, one above the higher mean as noisy as
    that: between two means the probability always falls, beyond them a wide distribution would
    turn it around. Where all losses are alike all are clean. Raises DatagenError for losses that
    are not finite.
    """
    wide = np.asarray(losses, np.float64).reshape(-1)
    if not np.isfinite(wide).all():
        raise DatagenError(
            f"noise weights: {int((~np.isfinite(wide)).sum())} of {len(wide)} losses are not finite"
        )
    low, spread = (float(wide.min()), float(np.ptp(wide))) if len(wide) else (0.0, 0.0)
    if len(np.unique(wide)) < 2 or not spread > 1e-9 * max(1.0, abs(low)):
        return Mixture((low, low), (0.0, 0.0), (1.0, 0.0), np.ones(len(wide)))
    from sklearn.mixture import GaussianMixture

    scaled = (wide - low) / spread
    found = GaussianMixture(
        2,
        max_iter=200,
        tol=1e-4,
        reg_covar=_LEAST,
        means_init=np.quantile(scaled, [0.25, 0.95])[:, None] + [[0.0], [1e-6]],
        random_state=seed,
    ).fit(scaled[:, None])
    first, second = np.argsort(found.means_[:, 0])
    means = found.means_[[first, second], 0]
    clean = found.predict_proba(np.clip(scaled, *means)[:, None])[:, first]
    deviations = np.sqrt(found.covariances_[[first, second], 0, 0]) * spread
    shares = found.weights_[[first, second]]
    places = means * spread + low
    return Mixture(_two(places), _two(deviations), _two(shares), clean)


def weights(losses: Array, settings: NoiseSettings, before: Array | None = None) -> Array:
    """Weights (n), float32, 0 to 1, of samples that lost ``losses``.

    before: their weights of the epoch before. Raises DatagenError.
    """
    clean = mixture(losses).clean
    if before is not None:
        clean = settings.keep * np.asarray(before, np.float64) + (1 - settings.keep) * clean
    out = np.where(clean < settings.below, settings.floor, np.maximum(clean, settings.floor))
    return out.astype(np.float32)


def _two(values: Array) -> tuple[float, float]:
    return float(values[0]), float(values[1])
