"""The best rows of each group, beside sorting by hand."""

from __future__ import annotations

from typing import Any

import panels
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from datagen import registry, schema
from datagen.errors import DatagenError
from datagen.filters.best_of import BestOf

SCORE = "score_clip_directional"
LINE = {"operator": "paint", "model": None, "revision": None, "prompt": None, "seed": 0}


def triplets(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of id, score, members and text; a member is ``id/caption/source``."""

    def members(told: str) -> list[dict[str, Any]]:
        parts = (one.split("/") for one in told.split(","))
        return [panels.member(name, None, caption, source) for name, caption, source in parts]

    made = [
        {
            "id": row["id"],
            "references": members(row["left"]),
            "targets": members(row["right"]),
            "provenance": [{"step": step, **LINE} for step in row.get("steps", ["pair", "paint"])],
            "pair": row["id"],
            "modification": row.get("text", "make it red"),
            SCORE: row["score"],
        }
        for row in rows
    ]
    return pa.Table.from_pylist(made, schema=schema.TRIPLETS.append(pa.field(SCORE, pa.float64())))


def operator(**settings: Any) -> BestOf:
    return BestOf(BestOf.Settings(score=SCORE, **settings))


def painted(name: str, score: float | None, **changes: Any) -> dict[str, Any]:
    """A row whose target was painted for a photo."""
    plain = {"left": "photo/a dress/folder", "right": f"{name}/a red dress/paint"}
    return {"id": name, "score": score, **plain, **changes}


def test_rows_that_grew_from_one_row_compete_and_others_do_not() -> None:
    rows = triplets(
        [
            painted("a", 0.3),
            painted("b", 0.5),
            painted("c", 0.4, text="make it blue"),
            painted("d", 0.1, left="photo2/a dress/folder"),
            painted("e", 0.2, right="e/a blue dress/paint"),
        ]
    )
    assert panels.decided(operator(), rows) == {
        "a": "not_best", "b": "kept", "c": "kept", "d": "kept", "e": "kept",
    }  # fmt: skip
    detail = operator().decide(rows, rows)["detail"].to_pylist()[0]
    assert "b with 0.5000" in detail
    assert "0.3000, number 2 of 2" in detail


def test_both_panels_may_be_painted() -> None:
    made = [
        painted(name, score, left=f"r{name}/a dress/paint")
        for name, score in (("a", 0.3), ("b", 0.5), ("c", 0.4))
    ]
    rows = triplets([*made, painted("d", 0.1, left="rd/a shoe/paint")])
    assert panels.decided(operator(n=2), rows) == {
        "a": "not_best", "b": "kept", "c": "kept", "d": "kept",
    }  # fmt: skip


def test_what_an_earlier_step_painted_is_told_by_its_id() -> None:
    """References painted by one step, each edited several times by the next."""
    made = [
        painted(
            name,
            score,
            left=f"{reference}/a dress/first",
            right=f"{name}/a red dress/second",
            steps=["first", "second", "text"],
        )
        for name, reference, score in (("a", "r1", 0.3), ("b", "r1", 0.5), ("c", "r2", 0.1))
    ]
    found = panels.decided(operator(), triplets(made))
    assert found == {"a": "not_best", "b": "kept", "c": "kept"}


def test_pairs_without_texts_compete_too() -> None:
    rows = triplets([painted("a", 0.3), painted("b", 0.5)]).drop_columns(["modification", "pair"])
    assert panels.decided(operator(), rows) == {"a": "not_best", "b": "kept"}


def test_groups_may_be_those_of_a_column() -> None:
    rows = triplets(
        [
            painted("a", 0.3),
            painted("b", 0.5, text="make it blue"),
            painted("c", 0.4, left="photo2/a dress/folder"),
        ]
    )
    assert panels.decided(operator(by="references"), rows) == {
        "a": "not_best", "b": "kept", "c": "kept",
    }  # fmt: skip
    assert panels.decided(operator(by="modification"), rows) == {
        "a": "not_best", "b": "kept", "c": "kept",
    }  # fmt: skip
    assert set(panels.decided(operator(by="targets"), rows).values()) == {"kept"}
    with pytest.raises(DatagenError, match=r"best_of\.by: the rows have no column 'modificaton'"):
        operator(by="modificaton").decide(rows, rows)


def test_a_row_without_a_score_fails_and_beats_nobody() -> None:
    rows = triplets([painted("a", None), painted("b", 0.1), painted("c", None)])
    assert panels.decided(operator(), rows) == {"a": "failed", "b": "kept", "c": "failed"}


@given(
    scores=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=30),
    groups=st.integers(1, 4),
    n=st.integers(1, 5),
    lowest=st.booleans(),
    order=st.randoms(),
)
def test_the_best_are_those_of_a_plain_sort(
    scores: list[float], groups: int, n: int, lowest: bool, order: Any
) -> None:
    made = [
        painted(f"t{at:02d}", score, left=f"photo{at % groups}/a dress/folder")
        for at, score in enumerate(scores)
    ]
    order.shuffle(made)
    found = panels.decided(operator(n=n, best="lowest" if lowest else "highest"), triplets(made))
    for group in range(groups):
        of_group = [row for row in made if row["left"].startswith(f"photo{group}/")]
        sign = 1 if lowest else -1
        best = sorted(of_group, key=lambda row: (sign * row["score"], row["id"]))[:n]
        kept = {row["id"] for row in of_group if found[row["id"]] == "kept"}
        assert kept == {row["id"] for row in best}


def test_it_measures_nothing_and_needs_its_score() -> None:
    assert registry.find("filter", "best_of") is BestOf
    assert BestOf.rules == {"n", "by", "best"}
    assert operator().needs("pairs") == {"pairs", SCORE}
    rows = triplets([painted("a", 0.3)])
    assert operator()(rows.select(["id"])).column_names == ["id"]
    for wrong in ({"score": "clip"}, {"score": SCORE, "n": 0}, {}):
        with pytest.raises(ValidationError):
            BestOf.Settings(**wrong)
