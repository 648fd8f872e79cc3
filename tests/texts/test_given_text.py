"""Texts that came with pairs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from datagen import schema
from datagen.texts.given import Given, GivenSettings


def pairs(*changes: list[tuple[str, str | None]]) -> pa.Table:
    rows = [
        {
            "id": f"p{number}",
            "references": [],
            "targets": [],
            "evidence": {
                "operator": "given",
                "reason": "",
                "changes": [{"field": f, "removed": None, "added": a} for f, a in own],
                "score": None,
            },
            "provenance": [],
        }
        for number, own in enumerate(changes)
    ]
    return pa.Table.from_pylist(rows, schema=schema.PAIRS)


def write(rows: pa.Table, **chosen: Any) -> list[tuple[str, str | None, str | None]]:
    made = Given(GivenSettings(**chosen))(rows)
    names = ("id", "modification", "rule")
    return list(zip(*(made[name].to_pylist() for name in names), strict=True))


def test_each_text_becomes_one_modification_of_one_line() -> None:
    rows = pairs([("text", "make it\n red"), ("text", "now\tred "), ("text", "make it red")])
    assert write(rows) == [("p0", "make it red", None), ("p0", "now red", None)]


def test_changes_of_labels_are_no_texts() -> None:
    rows = pairs([("colour", "red")], [("text", " ")], [("text", None)], [])
    assert write(rows) == [(f"p{number}", None, "no_given_text") for number in range(4)]


def test_long_texts_are_not_used() -> None:
    rows = pairs([("text", "one two three"), ("text", "one two")], [("text", "a b c d")])
    assert write(rows, max_words=2) == [("p0", "one two", None), ("p1", None, "too_long")]


def test_so_many_texts_of_a_pair_as_asked_for() -> None:
    rows = pairs([("text", letter) for letter in "abc"])
    assert [text for _, text, _ in write(rows, texts_per_pair=2)] == ["a", "b"]


def test_no_rows_give_no_rows() -> None:
    assert write(pairs()) == []
