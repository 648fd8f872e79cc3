"""The similarity filter against cosines computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from datagen import registry, schema
from datagen.filters.similarity import Similarity, SimilaritySettings
from datagen.space import Space
from datagen.step import Context

VECTORS = {
    "a": [1.0, 0.0],
    "b": [0.6, 0.8],
    "c": [0.0, 2.0],  # not of unit length: cosines are meant, not products
    "d": [-1.0, 0.0],
    "zero": [0.0, 0.0],
}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    Space.write(str(tmp_path / "caption"), list(VECTORS), np.array(list(VECTORS.values()), "f4"))
    return Context(spaces={"caption": str(tmp_path / "caption")})


def members(names: str) -> list[dict[str, Any]]:
    return [{"id": name} for name in names.split()]


def rows(*pairs: tuple[str, str]) -> pa.Table:
    found = [
        {"id": f"{number}", "references": members(left), "targets": members(right)}
        for number, (left, right) in enumerate(pairs)
    ]
    return pa.Table.from_pylist(found, schema=schema.PAIRS)


def judge(context: Context, table: pa.Table, **settings: Any) -> tuple[list[Any], list[Any]]:
    """Scores, and (verdict, rule, detail) of every row."""
    operator = Similarity(SimilaritySettings(space="caption", **settings))
    operator.open(context)
    measured = operator(table.select(operator.columns("pairs")))
    assert measured["id"].to_pylist() == table["id"].to_pylist()
    scored = table.append_column(operator.score, measured[operator.score])
    decided = operator.decide(scored, pa.table({"id": pa.array([], pa.string())}))
    assert decided.schema.equals(schema.VERDICTS)
    out = [(r["verdict"], r["rule"], r["detail"]) for r in decided.to_pylist()]
    return measured[operator.score].to_pylist(), out


def test_the_score_is_the_cosine_to_four_decimals(context: Context) -> None:
    scores, _ = judge(context, rows(("a", "b"), ("a", "c"), ("b", "c"), ("a", "d")), low=0)
    assert scores == [0.6, 0.0, 0.8, -1.0]


def test_a_row_outside_the_band_names_the_side_and_both_numbers(context: Context) -> None:
    _, out = judge(context, rows(("a", "c"), ("a", "b"), ("b", "b")), low=0.6, high=0.96)
    assert out == [
        ("rejected", "too_different", "0.0000 < 0.6"),
        ("kept", None, None),
        ("rejected", "too_similar", "1.0000 > 0.96"),
    ]


@pytest.mark.parametrize(("settings", "verdicts"), [({"low": 0.6}, "KRK"), ({"high": 0.6}, "KKR")])
def test_one_bound_is_enough(context: Context, settings: dict[str, Any], verdicts: str) -> None:
    _, out = judge(context, rows(("a", "b"), ("a", "d"), ("b", "b")), **settings)
    assert "".join(verdict[0].upper() for verdict, _, _ in out) == verdicts


def test_a_row_without_a_vector_fails_and_names_the_item(context: Context) -> None:
    operator = Similarity(SimilaritySettings(space="caption", low=0))
    operator.open(context)
    measured = operator(rows(("a", "nowhere"), ("a", "b"))).to_pylist()
    assert measured[0]["verdict"] == schema.FAILED
    assert "nowhere" in measured[0]["detail"]
    assert measured[0][operator.score] is None
    assert measured[1]["verdict"] == schema.KEPT
    _, out = judge(context, rows(("a", "nowhere"), ("a", "b")), low=0)
    assert [verdict for verdict, _, _ in out] == ["failed", "kept"]


def test_several_members_score_the_mean_over_all_combinations(context: Context) -> None:
    scores, _ = judge(context, rows(("a d", "b"), ("a b", "b c")), low=-1)
    assert scores == [0.0, pytest.approx((0.6 + 0.0 + 1.0 + 0.8) / 4)]


def test_an_empty_vector_is_like_nothing(context: Context) -> None:
    assert judge(context, rows(("a", "zero")), low=0.1)[0] == [0.0]


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    lists=st.lists(
        st.tuples(*[st.lists(st.sampled_from(sorted(VECTORS)), min_size=1, max_size=3)] * 2),
        min_size=1,
        max_size=8,
    )
)
def test_batches_do_not_show(
    tmp_path_factory: pytest.TempPathFactory, lists: list[tuple[list[str], list[str]]]
) -> None:
    folder = str(tmp_path_factory.mktemp("space"))
    Space.write(folder, list(VECTORS), np.array(list(VECTORS.values()), "f4"))
    table = rows(*[(" ".join(left), " ".join(right)) for left, right in lists])
    operator = Similarity(SimilaritySettings(space="caption", low=0))
    operator.open(Context(spaces={"caption": folder}))
    whole = operator(table)
    parts = [operator(table.slice(at, 1)) for at in range(len(table))]
    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()


def with_negatives(*lists: list[tuple[str, str]]) -> pa.Table:
    table = rows(*[("a", "b")] * len(lists))
    values = [
        [{"kind": kind, "score": None, "item": {"id": name}} for kind, name in found]
        for found in lists
    ]
    return table.append_column(schema.NEGATIVES, pa.array(values, schema.NEGATIVES.type))


def test_negatives_too_like_the_target_reject_the_row(context: Context) -> None:
    table = with_negatives(
        [("reference", "b"), ("mined", "c"), ("mined", "d")], [("reference", "b")], [("mined", "d")]
    )
    scores, out = judge(context, table, between="target_negative", high=0.7)
    assert scores == [0.8, None, -0.6]
    assert [verdict for verdict, _, _ in out] == ["rejected", "kept", "kept"]
    operator = Similarity(SimilaritySettings(space="caption", between="target_negative", high=0.7))
    assert operator.needs("triplets") == {"pairs", "negatives", "space.caption"}
    assert operator.gives("triplets") == {"score_negative_similarity_caption"}


def test_thresholds_alone_are_rules() -> None:
    assert Similarity.rules == {"low", "high"}
    assert registry.find("filter", "similarity") is Similarity


@pytest.mark.parametrize("settings", [{}, {"low": 0.9, "high": 0.5}, {"low": 2}])
def test_a_band_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SimilaritySettings(space="caption", **settings)


def test_an_empty_table_has_no_verdicts(context: Context) -> None:
    assert judge(context, rows(), low=0) == ([], [])
