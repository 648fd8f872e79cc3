"""Places of targets against a plain sort of all cosines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.evaluation import places as module
from datagen.evaluation.places import places

Array = np.ndarray[Any, Any]


@st.composite
def galleries(draw: st.DrawFn) -> dict[str, Any]:
    """Few directions among many items: most galleries have ties."""
    items, queries = draw(st.integers(3, 40)), draw(st.integers(1, 6))
    numbers = st.integers(-2, 2)
    vectors = np.array(
        draw(st.lists(st.tuples(numbers, numbers, numbers), min_size=items, max_size=items))
    )
    asked = np.array(
        draw(st.lists(st.tuples(numbers, numbers, numbers), min_size=queries, max_size=queries))
    )
    targets, without, among = [], [], []
    for _ in range(queries):
        order = draw(st.permutations(range(items)))
        hidden = draw(st.integers(0, 2))
        number = draw(st.integers(0, items - hidden))
        without.append(list(order[:hidden]))
        targets.append(list(order[hidden : hidden + number]))
        rest = draw(st.integers(0, items - hidden - number))
        own = [*order[: hidden + number], *order[items - rest :]] if rest else order
        among.append(draw(st.sampled_from([None, list(own)])))
    return {
        "queries": asked.astype(np.float32),
        "gallery": vectors.astype(np.float32),
        "targets": targets,
        "without": without,
        "among": among,
        "top": draw(st.integers(0, items)),
    }


def cosine(left: Array, right: Array) -> float:
    length = float(np.linalg.norm(left.astype(float)) * np.linalg.norm(right.astype(float)))
    return round(float(left.astype(float) @ right.astype(float)) / length, 6) if length else 0.0


@given(galleries(), st.sampled_from([3, 7, 1 << 14]), st.sampled_from([1, 2, 1 << 10]))
def test_places_are_those_of_a_plain_sort_with_ties_against_the_query(
    case: dict[str, Any], block: int, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "QUERIES", chunk)
        found = places(**case)
    for row, query in enumerate(case["queries"]):
        seen = case["among"][row]
        seen = range(len(case["gallery"])) if seen is None else seen
        seen = sorted(set(seen) - set(case["without"][row]))
        scores = {item: cosine(query, case["gallery"][item]) for item in seen}
        wanted = case["targets"][row]
        # Of equals: what is no target, then the target that was given last.
        order = sorted(
            seen,
            key=lambda item: (
                -scores[item],
                item in wanted,
                -wanted.index(item) if item in wanted else 0,
            ),
        )
        assert found.targets[row].tolist() == [order.index(item) + 1 for item in wanted]
        first = sorted(seen, key=lambda item: (-scores[item], item))[: case["top"]]
        assert found.first[row].tolist() == first
        assert found.sizes[row] == len(seen)


def test_equal_vectors_rank_the_target_last() -> None:
    found = places(np.ones((1, 2)), np.ones((5, 2)), [[2]], [[0]], top=2)
    assert found.targets[0].tolist() == [4]
    assert found.first[0].tolist() == [1, 2]


def test_places_of_random_vectors_are_those_of_argsort() -> None:
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(5000, 16)).astype(np.float32)
    queries = rng.normal(size=(40, 16)).astype(np.float32)
    targets = [rng.choice(5000, size=5, replace=False).tolist() for _ in queries]
    found = places(queries, gallery, targets, top=50)
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    order = np.argsort(-(queries.astype(np.float64) @ unit.T.astype(np.float64)), axis=1)
    for row, wanted in enumerate(targets):
        back = np.empty(5000, int)
        back[order[row]] = np.arange(1, 5001)
        # Cosines are rounded to six decimals: close neighbours may change places.
        assert np.abs(found.targets[row] - back[wanted]).max() <= 2
    assert np.mean([np.isin(found.first[r], order[r][:50]).mean() for r in range(40)]) > 0.99


@pytest.mark.parametrize("among", [None, [[0, 1, 2]]])
def test_a_target_that_the_query_does_not_see_is_an_error(among: Any) -> None:
    with pytest.raises(ValueError, match="target"):
        places(np.ones((1, 2)), np.ones((4, 2)), [[2]], [[2]], among)
    if among:
        with pytest.raises(ValueError, match="target 3"):
            places(np.ones((1, 2)), np.ones((4, 2)), [[3]], None, among)


def test_vectors_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        places(np.full((1, 2), np.nan), np.ones((4, 2)), [[2]])
