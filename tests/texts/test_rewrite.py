"""Texts of triplets written anew, by engines that say what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from test_llm import ENGINE, Says, member, texts

from datagen import recipe, schema, tables
from datagen.chat.ask import Ask
from datagen.engine import journal_rows
from datagen.errors import RecipeError
from datagen.explode import explode
from datagen.texts.rewrite import Rewrite, RewriteSettings

LINE = {"step": "s", "operator": "o", "model": None, "revision": None, "prompt": None, "seed": 0}


def step(answer: Callable[[Ask], str], to: str, **settings: Any) -> tuple[Rewrite, Says]:
    settings = {"engine": ENGINE, "to": to, **settings}
    operator = Rewrite(RewriteSettings.model_validate(settings))
    engine = Says(answer)
    operator.engines["engine"] = engine
    return operator, engine


def triplet(
    text: str, captions: tuple[str | None, str | None] = ("a red mug", "a blue mug"), **also: Any
) -> dict[str, Any]:
    ends = [
        {**member(one), "id": schema.item_id(None, [one or ""], "{}"), "labels": "{}"}
        for one in captions
    ]
    pair = schema.pair_id([ends[0]["id"]], [ends[1]["id"]])
    changes = [{"field": "colour", "removed": "red", "added": "blue"}]
    return {
        "id": schema.triplet_id(pair, text),
        "references": ends[:1],
        "targets": ends[1:],
        "evidence": {"operator": "o", "reason": "r", "changes": changes, "score": None},
        "provenance": [],
        "pair": pair,
        "modification": text,
        **also,
    }


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.TRIPLETS).sort_by("id")


def made(operator: Rewrite, rows: pa.Table) -> tuple[list[dict[str, Any]], pa.Table]:
    journal = journal_rows(rows, operator(rows))
    return explode(rows, journal, LINE).rows.to_pylist(), journal


def test_new_texts_take_the_place_of_the_old_one_or_stand_beside_it() -> None:
    said = texts("turn it blue", "In blue!", "the blue one", "once more in blue")
    rows = table(triplet("in blue"))
    operator, engine = step(lambda ask: said, "paraphrase", texts_per_triplet=2)
    found, journal = made(operator, rows)
    assert {row["modification"] for row in found} == {"turn it blue", "the blue one"}
    assert {row["pair"] for row in found} == {rows["pair"][0].as_py()}
    assert tables.not_used(journal)["not_used"] == {"same_text": 1}
    (ask,) = engine.asked
    assert ask.messages[-1]["content"].startswith('request: "in blue"\nin hand: "a red mug"')
    operator, _ = step(lambda ask: said, "paraphrase", texts_per_triplet=2, keep=True)
    beside, _ = made(operator, rows)
    old = rows.to_pylist()[0]
    assert [row for row in beside if row["id"] == old["id"]] == [old]
    assert sorted(row["id"] for row in beside if row["id"] != old["id"]) == sorted(
        row["id"] for row in found
    )


@pytest.mark.parametrize(
    ("to", "text", "rule"),
    [
        ("paraphrase", "Make it blue.", "same_text"),
        ("paraphrase", "a blue mug", "copies_caption"),
        ("paraphrase", "w " * 31, "too_long"),
        ("short", "make it a blue one", "not_shorter"),
        ("short", "make this blue", "not_shorter"),
        ("dense", "to blue now", "not_longer"),
    ],
)
def test_a_text_that_is_not_what_it_was_to_become_is_rejected(
    to: str, text: str, rule: str
) -> None:
    rows = table(triplet("make it blue"))
    operator, _ = step(lambda ask: texts(text), to)
    found, journal = made_or_none(operator, rows)
    assert (found, tables.unit_verdicts(journal)["rule"].to_pylist()) == ([], [rule])
    operator, _ = step(lambda ask: texts(text), to, keep=True)
    found, journal = made(operator, rows)
    assert found == rows.to_pylist()
    assert tables.not_used(journal)["not_used"] == {rule: 1}


def made_or_none(operator: Rewrite, rows: pa.Table) -> tuple[list[dict[str, Any]], pa.Table]:
    journal = journal_rows(rows, operator(rows))
    kept = "kept" in journal["verdict"].to_pylist()
    return (explode(rows, journal, LINE).rows.to_pylist() if kept else []), journal


def test_a_failed_answer_fails_the_triplet_also_where_the_old_text_is_kept() -> None:
    # Kept with its old text alone it would never be asked about again.
    operator, _ = step(lambda ask: "no", "paraphrase", keep=True)
    journal = journal_rows(table(triplet("in blue")), operator(table(triplet("in blue"))))
    assert journal["verdict"].to_pylist() == ["failed"]


def test_reverse_turns_the_pair_and_its_evidence_around() -> None:
    noise = {"field": "noise", "removed": "the old text", "added": "reference"}
    given = {"field": "text", "removed": None, "added": "a text for the way there"}
    row = triplet("in blue")
    row["evidence"]["changes"] += [noise, given]
    rows = table(row)
    operator, engine = step(lambda ask: texts("in red"), "reverse", keep=True)
    found, _ = made(operator, rows)
    (back,) = [one for one in found if one["id"] != row["id"]]
    assert (back["references"], back["targets"]) == (row["targets"], row["references"])
    assert back["modification"] == "in red"
    assert back["evidence"]["changes"] == [
        {"field": "colour", "removed": "blue", "added": "red"},
        {"field": "noise", "removed": "the old text", "added": "target"},
    ]
    assert back["id"] == schema.triplet_id(back["pair"], "in red")
    assert [one for one in found if one["id"] == row["id"]] == rows.to_pylist()
    asked = engine.asked[0].messages[-1]["content"]
    assert 'old request: "in blue"\nin hand: "a blue mug"\nwanted: "a red mug"' in asked


def test_rows_that_cannot_be_asked_about_are_rejected_by_rule() -> None:
    several = triplet("in blue")
    several["references"] *= 2
    rows = table(several, triplet("in green", (None, "a green mug")), triplet("", ("a", "b")))
    operator, engine = step(lambda ask: texts("x"), "reverse")
    rules = {r["unit"]: r["rule"] for r in journal_rows(rows, operator(rows)).to_pylist()}
    by_text = {row["modification"]: rules[row["id"]] for row in rows.to_pylist()}
    assert by_text == {"in blue": "several_references", "in green": "no_caption", "": "no_text"}
    assert not engine.asked
    # Other words need no captions.
    operator, _ = step(lambda ask: texts("x y"), "paraphrase")
    bare = table(triplet("in green", (None, None)))
    assert made(operator, bare)[0][0]["modification"] == "x y"


def test_lengths_are_not_compared_between_languages() -> None:
    operator, engine = step(lambda ask: texts("blaue Tasse bitte"), "short", language="German")
    found, _ = made(operator, table(triplet("in blue")))
    assert found[0]["modification"] == "blaue Tasse bitte"
    assert "German" in engine.asked[0].messages[0]["content"]
    assert len(engine.asked[0].messages) == 2


def test_negatives_and_a_split_come_behind_it() -> None:
    steps: list[dict[str, Any]] = [
        {"pair": {"op": "one_word_diff"}},
        {"text": {"op": "template"}},
        {"split": {"near_duplicates": False}},
        {"text": {"op": "rewrite", "engine": ENGINE, "to": "short"}},
    ]
    data = {"source": {"type": "tinyworld", "count": 9}, "steps": steps}
    with pytest.raises(RecipeError, match="rewrite: 'split' is there already"):
        recipe.check(json.loads(json.dumps(data)))


def test_only_columns_that_say_nothing_of_the_text_outlive_another_one() -> None:
    steps: list[dict[str, Any]] = [
        {"embed": {"op": "tfidf", "space": "caption", "model": "tfidf"}},
        {"pair": {"op": "one_word_diff"}},
        {"text": {"op": "template"}},
        {"filter": {"op": "similarity", "space": "caption", "low": 0.1}},
        {"filter": {"op": "text_quality"}},
        {"text": {"op": "rewrite", "engine": ENGINE, "to": "short"}},
    ]
    data = {"source": {"type": "tinyworld", "count": 9}, "steps": steps}
    last = recipe.check(json.loads(json.dumps(data))).steps[-1]
    scores = {name for name in last.lasting if name.startswith("score_")}
    assert scores == {"score_similarity_caption"}
