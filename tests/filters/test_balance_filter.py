"""The balance filter against brute-force counts."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from datagen import schema
from datagen.errors import DatagenError
from datagen.filters.balance import Balance, BalanceSettings

NO_ITEMS = schema.empty(schema.ITEMS)


def triplet(name: str, text: str | None = "make it red", **given: Any) -> dict[str, Any]:
    labels = given.get("labels")
    return {
        "id": name,
        "references": [{"id": one} for one in given.get("references", ["r"])],
        "targets": [{"id": one, "labels": labels} for one in given.get("targets", ["t"])],
        "evidence": {"changes": [{"removed": a, "added": b} for a, b in given.get("changes", [])]},
        "modification": text,
    }


def judge(rows: list[dict[str, Any]], **caps: Any) -> dict[str, tuple[str | None, str | None]]:
    """(rule, detail) of every row by id."""
    operator = Balance(BalanceSettings(**caps))
    table = pa.Table.from_pylist(rows, schema=schema.TRIPLETS)
    assert operator(table).column_names == ["id"]
    out = operator.decide(table, NO_ITEMS)
    assert out.schema.equals(schema.VERDICTS)
    assert out["id"].equals(table["id"])
    return {row["id"]: (row["rule"], row["detail"]) for row in out.to_pylist()}


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("per_reference", {"references": ["x", "y"]}, {"references": ["y", "y"]}),
        ("per_target", {"targets": ["x"]}, {"targets": ["x", "z"]}),
        ("per_text", {"text": "Make  it red"}, {"text": "make it RED "}),
        ("per_first_verb", {"text": '"Make" it red'}, {"text": "make, say, blue"}),
        ("per_change", {"changes": [("Red", "blue")]}, {"changes": [("red", "blue"), ("a", "b")]}),
    ],
)
def test_each_cap_counts_its_own_thing(name: str, left: Any, right: Any) -> None:
    out = judge([triplet("1", **left), triplet("2", **right)], **{name: 1})
    assert out["1"] == (None, None)
    assert out["2"][0] == f"over_{name}"
    other = {"references": ["q"], "targets": ["q"], "text": "turn", "changes": [("q", "q")]}
    assert judge([triplet("1", **left), triplet("2", **other)], **{name: 1})["2"][0] is None


def test_the_detail_tells_the_rank_and_the_cap() -> None:
    out = judge([triplet(f"{n:03}", f"make {n}") for n in range(42)], per_first_verb=40)
    assert [one for one in out.values() if one[0]] == [
        ("over_per_first_verb", "41st of 'make', cap 40"),
        ("over_per_first_verb", "42nd of 'make', cap 40"),
    ]


def test_a_share_is_of_the_rows_that_come_in_and_at_least_one() -> None:
    rows = [triplet(f"{n:02}") for n in range(10)]
    for share, kept in ((0.29, 2), (0.3, 3), (0.01, 1)):
        assert sum(rule is None for rule, _ in judge(rows, per_target=share).values()) == kept


def test_labels_of_targets_are_capped_by_value_and_broken_labels_are_not() -> None:
    values = ['{"c": "red"}', '{"c": ["blue", "red"]}', '{"c": 1}', "{", "[]", None, '{"c": null}']
    rows = [triplet(f"{n}", labels=value) for n, value in enumerate(values)]
    out = judge(rows, per_label={"c": 1})
    assert [name for name, (rule, _) in out.items() if rule] == ["1"]
    assert out["1"] == ("over_per_label", "2nd of 'c: red', cap 1")


def test_rows_without_text_members_or_changes_are_not_capped() -> None:
    bare = dict.fromkeys(schema.TRIPLETS.names)
    rows = [{**bare, "id": f"{n}"} for n in range(3)] + [triplet("4", " … "), triplet("5", "")]
    caps = {"per_text": 2, "per_first_verb": 1, "per_reference": 2, "per_change": 1}
    assert not any(rule for rule, _ in judge(rows, **caps).values())
    assert judge([], per_target=1) == {}


@pytest.mark.parametrize(
    "caps",
    [{}, *({"per_target": bad} for bad in (0, -1, 1.0, 0.0, 1.5, True, "3", float("nan")))],
)
def test_senseless_caps_are_faults(caps: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BalanceSettings(**caps)


@pytest.mark.parametrize("name", ["per_text", "per_first_verb"])
def test_a_cap_on_texts_needs_texts(name: str) -> None:
    operator = Balance(BalanceSettings(**{name: 1}))
    assert "modification" in operator.needs("pairs")
    assert Balance(BalanceSettings(per_target=1)).needs("pairs") == {"pairs"}
    with pytest.raises(DatagenError, match=name):
        operator.decide(schema.empty(schema.PAIRS), NO_ITEMS)


names = st.lists(st.sampled_from("abc"), min_size=1, max_size=2)
tables = st.lists(st.tuples(names, names, st.sampled_from(["make it", "turn", "add"])), max_size=25)


@hypothesis_settings(max_examples=60, deadline=None)
@given(tables, st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.randoms())
def test_no_cap_is_exceeded_and_no_rejected_row_could_come_back(
    drawn: list[Any], left: int, right: int, verb: int, random: Any
) -> None:
    rows = [
        triplet(f"{n:02}", text, references=a, targets=b, labels=json.dumps({}))
        for n, (a, b, text) in enumerate(drawn)
    ]
    caps = {"reference": left, "target": right, "verb": verb}
    out = judge(rows, per_reference=left, per_target=right, per_first_verb=verb)

    def counted(row: dict[str, Any]) -> set[tuple[str, str]]:
        sides = {("reference", one["id"]) for one in row["references"]}
        sides |= {("target", one["id"]) for one in row["targets"]}
        return sides | {("verb", row["modification"].split()[0])}

    kept = Counter(key for row in rows if out[row["id"]][0] is None for key in counted(row))
    assert all(count <= caps[kind] for (kind, _), count in kept.items())
    for row in rows:
        if out[row["id"]][0]:
            assert any(kept[key] + 1 > caps[key[0]] for key in counted(row))
    shuffled = random.sample(rows, len(rows))
    assert judge(shuffled, per_reference=left, per_target=right, per_first_verb=verb) == out
