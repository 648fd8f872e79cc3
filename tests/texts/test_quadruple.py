"""Edits and captions written for items, by engines that say what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_llm import ENGINE, Says

from datagen import schema, tables
from datagen.chat.ask import Ask
from datagen.engine import journal_rows
from datagen.errors import DatagenError
from datagen.texts.quadruple import Quadruple, QuadrupleSettings


def step(answer: Callable[[Ask], str], **settings: Any) -> tuple[Quadruple, Says]:
    operator = Quadruple(QuadrupleSettings.model_validate({"engine": ENGINE, **settings}))
    engine = Says(answer)
    operator.engines["engine"] = engine
    return operator, engine


def seeds(*captions: list[str]) -> pa.Table:
    rows = [{"id": f"{n:04d}", "captions": some} for n, some in enumerate(captions)]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([("id", pa.string()), schema.ITEMS.field("captions")])
    )


def edits(*some: tuple[str, ...]) -> str:
    names = ("modification", "caption", "reference")
    return json.dumps({"edits": [dict(zip(names, one, strict=False)) for one in some]})


def lines(table: pa.Table) -> list[tuple[Any, ...]]:
    return [
        (
            row["id"],
            row["modification"],
            row["targets"] and row["targets"][0]["caption"],
            row["verdict"],
            row["rule"],
        )
        for row in table.to_pylist()
    ]


def test_each_edit_is_a_line_with_a_new_target_and_the_item_as_reference() -> None:
    said = edits(("add a dog", "a red mug and a dog"), ("in blue", "a blue mug"), ("x", "y"))
    operator, engine = step(lambda ask: said)
    out = operator(seeds(["a red mug", "never read"]))
    assert lines(out) == [
        ("0000", "add a dog", "a red mug and a dog", "kept", None),
        ("0000", "in blue", "a blue mug", "kept", None),
    ]
    for row in out.to_pylist():
        assert row["references"] is None
        assert row["targets"][0]["id"] is None
        assert row["evidence"]["operator"] == "quadruple"
    (ask,) = engine.asked
    assert 'caption: "a red mug"\nNumber of edits: 2' in ask.messages[-1]["content"]
    assert "never read" not in str(ask.messages)


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (("make it blue", "A red mug."), "same_caption"),
        (("a blue mug", "a blue mug"), "copies_caption"),
        (("a red mug!", "a blue mug"), "copies_caption"),
        (("w " * 21, "a blue mug"), "too_long"),
        (("w" * 900, "a blue mug"), "too_long"),
        (("make it blue", "mug " * 81), "too_long"),
        (("make it blue", "m" * 4000), "too_long"),
        (("", "a blue mug"), "no_text"),
        (("make it blue", " \u0000 "), "no_text"),
        (("make it blue", '"…"'), "no_text"),
    ],
)
def test_an_edit_that_cannot_be_used_rejects_its_item_or_is_counted_beside_others(
    edit: tuple[str, str], rule: str
) -> None:
    operator, _ = step(lambda ask: edits(edit))
    assert lines(operator(seeds(["a red mug"]))) == [("0000", None, None, "rejected", rule)]
    operator, _ = step(lambda ask: edits(edit, ("in green", "a green mug")))
    rows = seeds(["a red mug"])
    journal = journal_rows(rows, operator(rows))
    assert tables.unit_verdicts(journal)["verdict"].to_pylist() == ["kept"]
    assert tables.not_used(journal)["not_used"] == {rule: 1}


def test_a_target_that_an_item_has_already_is_not_taken_twice() -> None:
    said = edits(("in blue", "a blue mug"), ("make it blue", "A blue mug"), ("bigger", "a big mug"))
    operator, _ = step(lambda ask: said, edits_per_item=3)
    found = lines(operator(seeds(["a red mug"])))
    assert [line[1] for line in found] == ["in blue", "bigger", None]
    assert found[-1][-1] == "same_target"


def test_items_without_a_caption_or_edits_are_told() -> None:
    operator, engine = step(lambda ask: edits(), max_caption_chars=20)
    found = lines(operator(seeds([], ["\u0000"], ["mug " * 9], ["a mug"])))
    assert [line[-1] for line in found] == [
        "no_caption",
        "no_caption",
        "caption_too_long",
        "no_difference",
    ]
    assert len(engine.asked) == 1
    operator, _ = step(lambda ask: '{"edits": [{"modification": "x"}]}')
    ((_, _, _, verdict, rule),) = lines(operator(seeds(["a mug"])))
    assert (verdict, rule) == ("failed", "wrong_shape")


def test_of_a_topic_both_captions_are_written_and_both_items_are_new() -> None:
    said = edits(
        ("two of them", "two cats on a mat", "a cat on a mat"),
        ("no mat", "a cat on a floor", "A cat on a floor"),
        ("at night", "a cat on a roof at night", ""),
    )
    operator, engine = step(lambda ask: said, prompt="seed_words", edits_per_item=3)
    first, *rest = operator(seeds(["cat"])).to_pylist()
    assert [row["rule"] for row in rest] == ["same_caption", "no_text"]
    assert [one["caption"] for one in first["references"]] == ["a cat on a mat"]
    assert [one["caption"] for one in first["targets"]] == ["two cats on a mat"]
    assert first["references"][0]["id"] is None
    assert "cat" in first["evidence"]["reason"]
    assert 'topic: "cat"' in engine.asked[0].messages[-1]["content"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=6),
    st.text(max_size=8),
    st.integers(1, 3),
)
def test_whatever_a_model_says_every_item_has_an_answer_and_no_line_is_a_copy(
    said: list[tuple[str, str]], caption: str, most: int
) -> None:
    operator, _ = step(lambda ask: edits(*said), edits_per_item=most)
    rows = seeds([caption], ["a red mug"])
    journal = journal_rows(rows, operator(rows))
    assert set(journal["unit"].to_pylist()) == {"0000", "0001"}
    for unit, before in (("0000", caption), ("0001", "a red mug")):
        own = [row for row in journal.to_pylist() if row["unit"] == unit]
        kept = [row for row in own if row["verdict"] == "kept"]
        assert len(kept) <= most
        assert len(kept) + sum(row["rule"] is not None for row in own) == len(own)
        targets = [row["targets"][0]["caption"].casefold() for row in kept]
        assert len(set(targets)) == len(targets)
        for row in kept:
            assert row["modification"].strip()
            assert row["targets"][0]["caption"] != before


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        ({"required": ["modification"], "properties": {"modification": {"type": "string"}}}, "cap"),
        ({}, "modification"),
    ],
)
def test_a_prompt_whose_edits_lack_a_text_is_refused(
    edit: dict[str, Any], match: str, tmp_path: Any
) -> None:
    schema_ = {
        "type": "object",
        "required": ["edits"],
        "properties": {"edits": {"type": "array", "items": {"type": "object", **edit}}},
    }
    told = {"name": "mine", "version": 1, "about": "a", "kind": "edits"}
    told |= {"template": "{{ reference }} {{ texts }}", "schema": schema_}
    (tmp_path / "mine.yaml").write_text(json.dumps(told))
    with pytest.raises(DatagenError, match=f"every edit must require '{match}"):
        step(lambda ask: "", prompt=f"file:{tmp_path}/mine.yaml")
    with pytest.raises(DatagenError, match="asks for texts, where edits are wanted"):
        step(lambda ask: "", prompt="modification")
