"""The three measures of consistency against NumPy, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import queries
from pydantic import ValidationError

from datagen import registry, schema
from datagen.filters.consistency import Consistency, ConsistencySettings
from datagen.step import Context

WAYS: dict[str, dict[str, Any]] = {
    "direction": {},
    "margin": {},
    "composed": {"low": -0.2, "weight": 0.3, "text": "modification"},
    "captions": {"low": -0.2, "weight": 0.3, "by": "composed"},
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return queries.world(tmp_path_factory.mktemp("space"), noise=0.4)


def opened(context: Context, by: str, **settings: Any) -> Consistency:
    chosen = {"by": by, **WAYS[by], **settings}
    operator = Consistency(ConsistencySettings(space="image", **chosen))
    operator.open(context)
    return operator


def units(vectors: Any) -> np.ndarray[Any, Any]:
    wide = np.asarray(vectors, dtype=np.float64)
    scaled: np.ndarray[Any, Any] = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
    return scaled


def by_hand(context: Context, by: str, left: list[str], right: list[str], text: str) -> float:
    space = context.space("image")
    shown = {name: units(space.of([name]))[0] for name in (*left, *right)}
    told = {name: units(queries.vector(queries.caption(name))) for name in shown}
    if by == "margin":
        margins = [
            min(shown[one] @ told[one] - shown[one] @ told[other] for other in others)
            for own, others in ((right, left), (left, right))
            for one in own
        ]
        return float(min(margins))

    def mean(names: list[str], of: dict[str, Any]) -> Any:
        return units(np.mean([of[name] for name in names], axis=0))

    said = mean(right, told) - mean(left, told)
    if by == "direction":
        way = mean(right, shown) - mean(left, shown)
        return float(units(way) @ units(said))
    word = said if by == "captions" else units(queries.vector(text))
    reference = mean(left, shown)
    query = units(0.3 * word + 0.7 * reference)

    def nearest(one: Any) -> float:
        return max(float(shown[name] @ one) for name in right)

    return nearest(query) - max(nearest(units(word)), nearest(reference))


@pytest.mark.parametrize("by", list(WAYS))
def test_scores_are_those_of_numpy(context: Context, by: str) -> None:
    rows = queries.drawn(50)
    found = queries.measured(opened(context, by), queries.triplets(rows))
    expected = [by_hand(context, by, *row) for row in rows]
    scores = found[f"score_consistency_{by}"].to_numpy()
    assert np.abs(scores - expected).max() <= 5.1e-5
    assert np.std(scores) > 0.05


def test_the_rank_is_that_of_the_sum_of_both(context: Context) -> None:
    rows = queries.drawn(40, several=False)
    found = queries.measured(opened(context, "composed"), queries.triplets(rows))
    space = context.space("image")
    names = [name.decode() for name in space.ids]
    expected = []
    for (left,), (right,), text in rows:
        query = 0.3 * units(queries.vector(text)) + 0.7 * units(space.of([left]))[0]
        near = dict(zip(names, units(space.vectors) @ units(query), strict=True))
        rivals = [near[name] for name in names if name not in (left, right)]
        expected.append(1 + sum(one >= near[right] for one in rivals))
    assert found["score_consistency_composed_rank"].to_pylist() == expected


@pytest.mark.parametrize("by", list(WAYS))
@pytest.mark.parametrize("batch", [1, 9])
def test_batches_do_not_show(context: Context, by: str, batch: int) -> None:
    table, operator = queries.triplets(queries.drawn(40, seed=9)), opened(context, by)
    assert queries.measured(operator, table, batch).equals(queries.measured(operator, table))


@pytest.mark.parametrize(
    ("by", "settings", "least"),
    [
        ("direction", {}, 0.2),
        ("direction", {"low": 0.5}, 0.5),
        ("margin", {}, 0.0),
        ("margin", {"low": 0.4}, 0.4),
        ("composed", {"low": -0.4}, -0.4),
        ("captions", {"low": -0.1}, -0.1),
    ],
)
def test_rows_below_the_bound_are_rejected(
    context: Context, by: str, settings: dict[str, Any], least: float
) -> None:
    table = queries.triplets(queries.drawn(60, seed=1))
    operator = opened(context, by, **settings)
    scores = queries.measured(operator, table)
    low = scores[operator.score].to_numpy() < least
    expected = [(schema.REJECTED, "too_low") if one else (schema.KEPT, None) for one in low]
    assert queries.decided(operator, table, scores) == expected
    assert 0 < low.sum() < 60


def test_rows_whose_target_is_far_are_rejected(context: Context) -> None:
    table = queries.triplets(queries.drawn(60, seed=1))
    operator = opened(context, "composed", low=None, max_rank=3)
    scores = queries.measured(operator, table)
    far = scores["score_consistency_composed_rank"].to_numpy() > 3
    expected = [(schema.REJECTED, "too_far") if one else (schema.KEPT, None) for one in far]
    assert queries.decided(operator, table, scores) == expected
    assert 0 < far.sum() < 60


def test_the_threshold_in_force_by_default_is_told() -> None:
    for by, low in (("margin", 0.0), ("direction", 0.2)):
        assert ConsistencySettings.model_validate({"space": "x", "by": by, "low": None}).low == low
    assert ConsistencySettings(space="x").model_dump()["low"] == 0.0


def test_captions_told_the_wrong_way_round_score_low(context: Context) -> None:
    right = [(f"i{n:03d}", f"i{n + 1:03d}") for n in range(0, 60, 2)]
    swapped = [
        ([queries.member(a, queries.caption(b))], [queries.member(b, queries.caption(a))], "x")
        for a, b in right
    ]
    table = queries.triplets([([a], [b], "x") for a, b in right] + swapped)
    for by in ("direction", "margin"):
        operator = opened(context, by)
        verdicts = queries.decided(operator, table, queries.measured(operator, table))
        assert sum(verdict == schema.KEPT for verdict, _ in verdicts[:30]) >= 27
        assert sum(verdict == schema.KEPT for verdict, _ in verdicts[30:]) == 0


def test_rows_that_lack_something_fail(context: Context) -> None:
    lost, silent = f"i{queries.ITEMS - 1:03d}", queries.member("i005", None)
    table = queries.triplets(
        [
            (["i000"], ["i001"], "a change"),
            (["i000"], [lost], "a change"),
            ([silent], ["i001"], None),
            ([queries.member("i000", "same")], [queries.member("i001", "same")], "nothing"),
            ([], ["i001"], "a change"),
        ]
    )
    expected = {
        "direction": [None, "no_vector", "no_text", "no_direction", "no_vector"],
        "margin": [None, "no_vector", "no_text", None, "no_vector"],
        "composed": [None, "no_vector", "no_text", "no_direction", "no_vector"],
    }
    for by, rules in expected.items():
        operator = opened(context, by)
        scores = queries.measured(operator, table)
        assert scores["rule"].to_pylist() == rules
        failed = [schema.FAILED if rule else schema.KEPT for rule in rules]
        assert scores["verdict"].to_pylist() == failed


def test_it_is_found_by_its_name_and_says_what_it_reads() -> None:
    assert registry.find("filter", "consistency") is Consistency
    captions = Consistency(ConsistencySettings(space="x"))
    assert captions.needs("pairs") == {"pairs", "space.x", "texts.x", "images.x"}
    assert captions.gives("pairs") == {"score_consistency_margin"}
    composed = Consistency(
        ConsistencySettings(space="x", by="composed", low=0, text="modification")
    )
    assert composed.needs("triplets") == {
        *("pairs", "modification", "space.x", "texts.x", "collection.x")
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"by": "composed"},
        {"by": "margin", "max_rank": 3},
        {"weight": 0.2},
        {"text": "modification"},
        {"by": "composed", "low": 0, "weight": 1},
        {"low": 3},
    ],
)
def test_settings_without_sense_are_told(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConsistencySettings(space="x", **settings)
