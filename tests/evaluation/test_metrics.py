"""Metrics against their definitions written out as loops over whole rankings, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.evaluation import metrics

PLACES = st.sets(st.integers(1, 60), min_size=1, max_size=12).map(sorted)


def ranking(places: list[int]) -> list[bool]:
    """Whether each of the items of a gallery of 60 is right, best first."""
    return [place in places for place in range(1, 61)]


@given(PLACES, st.integers(1, 60))
def test_recall_and_precision_at_k_are_those_of_the_whole_ranking(
    places: list[int], k: int
) -> None:
    right = ranking(places)
    shuffled = np.array(places[::-1])
    assert metrics.recall(k)(shuffled) == float(any(right[:k]))
    summed = sum(sum(right[: place + 1]) / (place + 1) for place in range(k) if right[place])
    expected = summed / min(len(places), k)
    assert metrics.average_precision_at(k)(shuffled) == pytest.approx(expected)


@given(PLACES)
def test_average_precision_and_penalty_are_those_of_the_whole_ranking(places: list[int]) -> None:
    right = ranking(places)
    precisions = [sum(right[: at + 1]) / (at + 1) for at in range(60) if right[at]]
    values = np.array(places)
    assert metrics.average_precision(values) == pytest.approx(sum(precisions) / len(places))
    last = max(at for at in range(60) if right[at]) + 1
    assert metrics.inverse_negative_penalty(values) == pytest.approx(len(places) / last)


@given(PLACES)
def test_the_trapezoid_is_the_area_below_precision_over_recall(places: list[int]) -> None:
    right = ranking(places)
    area = 0.0
    for at in range(60):
        if right[at]:
            before = sum(right[:at]) / at if at else 1.0
            area += (before + sum(right[: at + 1]) / (at + 1)) / 2 / len(places)
    assert metrics.average_precision_trapezoid(np.array(places)) == pytest.approx(area)


@given(PLACES)
def test_a_perfect_ranking_has_one_everywhere(places: list[int]) -> None:
    perfect = np.arange(1, len(places) + 1)
    for metric in (
        metrics.average_precision,
        metrics.average_precision_trapezoid,
        metrics.inverse_negative_penalty,
        metrics.recall(1),
        *(metrics.average_precision_at(k) for k in (1, 5, 50)),
    ):
        assert metric(perfect) == pytest.approx(1.0)


def test_values_worked_out_by_hand() -> None:
    # Targets at 1, 3 and 10: precisions 1, 2/3 and 3/10.
    places = np.array([10, 1, 3])
    assert metrics.average_precision_at(5)(places) == pytest.approx((1 + 2 / 3) / 3)
    assert metrics.average_precision_at(2)(places) == pytest.approx(1 / 2)
    assert metrics.average_precision(places) == pytest.approx((1 + 2 / 3 + 0.3) / 3)
    assert metrics.inverse_negative_penalty(places) == pytest.approx(0.3)
    # Before them: nothing (1), 1 of 2, 2 of 9.
    trapezoid = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 9 + 3 / 10) / 2) / 3
    assert metrics.average_precision_trapezoid(places) == pytest.approx(trapezoid)
    assert metrics.recall_of_first(5)(places) == 0.0
    assert metrics.recall(5)(places) == 1.0


def test_macro_means_weigh_each_group_the_same() -> None:
    places = [np.array([1]), np.array([1]), np.array([1]), np.array([2])]
    groups = [("a",), ("a",), ("a", "b"), ("b",)]
    assert metrics.mean(metrics.recall(1), places) == pytest.approx(3 / 4)
    assert metrics.by_group(metrics.recall(1), places, groups) == {"a": 1.0, "b": 0.5}
    assert metrics.macro(metrics.recall(1), places, groups) == pytest.approx(3 / 4)
    assert np.isnan(metrics.mean(metrics.recall(1), []))
