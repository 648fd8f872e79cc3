"""Weights by losses, against known mixtures and the densities of two normal distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

torch = pytest.importorskip("torch", reason="needs datagen[models]")

from datagen.errors import DatagenError  # noqa: E402
from datagen.training import noise_weights  # noqa: E402
from datagen.training.across import Ranks  # noqa: E402
from datagen.training.noise_weights import NoiseSettings  # noqa: E402
from datagen.training.noisy import Noisy  # noqa: E402
from datagen.training.samples import number_of  # noqa: E402
from datagen.training.settings import NoisyTriplets  # noqa: E402


def losses(clean: int = 800, noisy: int = 200, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    return np.concatenate([random.normal(1.0, 0.3, clean), random.normal(4.0, 0.6, noisy)])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_noisy_samples_are_found(share: float) -> None:
    noisy = int(1000 * share)
    found = noise_weights.mixture(losses(1000 - noisy, noisy))
    told = found.clean < 0.5
    truth = np.arange(1000) >= 1000 - noisy
    assert (told == truth).mean() > 0.99
    assert found.means == pytest.approx((1.0, 4.0), abs=0.25)
    assert found.shares[1] == pytest.approx(share, abs=0.02)


def test_the_probability_is_that_of_the_two_densities() -> None:
    values = losses()
    found = noise_weights.mixture(values)
    between = np.clip(values, *found.means)
    density = [
        share * stats.norm.pdf(between, mean, deviation)
        for share, mean, deviation in zip(found.shares, found.means, found.deviations, strict=True)
    ]
    np.testing.assert_allclose(found.clean, density[0] / sum(density), atol=1e-6)


@given(st.lists(st.floats(0, 50), min_size=2, max_size=60))
@settings(max_examples=40)
def test_a_sample_that_loses_more_never_weighs_more(values: list[float]) -> None:
    wide = np.asarray(values)
    weights = noise_weights.mixture(wide).clean[np.argsort(wide)]
    assert (np.diff(weights) <= 1e-9).all()
    assert ((weights >= 0) & (weights <= 1)).all()


def test_the_unit_of_losses_does_not_matter() -> None:
    values = losses()
    one, other = noise_weights.mixture(values), noise_weights.mixture(values * 1000 - 7)
    np.testing.assert_allclose(one.clean, other.clean, atol=1e-6)


def test_losses_that_are_alike_are_all_clean() -> None:
    for values in ([], [2.0], [3.0] * 50):
        assert (noise_weights.mixture(np.asarray(values)).clean == 1).all()


def test_floor_threshold_and_memory() -> None:
    values, before = losses(), np.zeros(1000)
    clean = noise_weights.mixture(values).clean
    found = noise_weights.weights(values, NoiseSettings(below=0.5, floor=0.1))
    assert (found[clean < 0.5] == np.float32(0.1)).all()
    np.testing.assert_allclose(found[clean >= 0.5], clean[clean >= 0.5], rtol=1e-6)
    slow = noise_weights.weights(values, NoiseSettings(keep=0.75), before)
    np.testing.assert_allclose(slow, clean / 4, atol=1e-6)


def test_queries_of_one_part_tell_nothing_of_their_triplets() -> None:
    lost = {"keys": ["a", "b", "c"], "kinds": torch.tensor([0, 2, 0])}
    for mixed, known in ((True, {"a", "c"}), (False, {"a", "b", "c"})):
        hook = Noisy(NoisyTriplets(), Ranks(), mixed)
        hook.saw(lost, torch.tensor([1.0, 9.0, 2.0]))
        assert set(hook.state_dict()["lost"][0].tolist()) == set(map(number_of, known))


def test_a_loss_that_is_not_finite_is_one_line() -> None:
    with pytest.raises(DatagenError, match="1 of 3 losses"):
        noise_weights.mixture(np.asarray([1.0, np.nan, 2.0]))
