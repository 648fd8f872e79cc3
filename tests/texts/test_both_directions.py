"""Texts for the way there and the way back of a pair."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from typing import Any

import pyarrow as pa
import pytest
from test_llm import member, pairs, step, texts

from datagen import registry, schema, tables
from datagen.chat.ask import Answer, Ask
from datagen.engine import journal_rows
from datagen.explode import explode
from datagen.step import Context, Tables

LINE = {"step": "t", "operator": "t", "model": None, "revision": None, "prompt": None, "seed": 0}
MINERS = {
    "one_word_diff": {"max_per_reference": None},
    "label_diff": {"labels": ["colour", "shape"], "max_targets": 1},
    "same_key": {"key": "place", "differ": ["colour"], "max_per_item": None},
}


def items() -> pa.Table:
    """Things of a few colours and shapes in a few places, each with two captions."""
    rows = []
    kinds = itertools.product(("red", "blue", "grey"), ("cube", "ball"), ("box", "shelf"))
    for number, (colour, shape, place) in enumerate(kinds):
        captions = [f"a {colour} {shape} in a {place}", f"one {shape} that is {colour}, {place}"]
        labels = json.dumps({"colour": colour, "shape": shape, "place": place})
        rows.append(
            {
                "id": schema.item_id(str(number), captions, labels),
                "key": f"k{number}",
                "source": "s",
                "media": None,
                "captions": captions,
                "labels": labels,
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def mined(op: str) -> pa.Table:
    cls = registry.find("pair", op)
    known = cls.Settings.model_fields
    chosen = {name: value for name, value in MINERS[op].items() if name in known}
    miner = cls(cls.Settings(**chosen, both_directions=True))
    table = items()
    return miner(Tables(table, table, "items"), Context(seed=3)).rows.sort_by("id")


def marked(ask: Ask) -> str:
    """Two texts that tell exactly what was asked, and with which seed."""
    mark = hashlib.sha256(repr((ask.messages[-1], ask.seed)).encode()).hexdigest()[:12]
    return texts(f"turn {mark}", f"show {mark}")


def made(rows: pa.Table, **settings: Any) -> tuple[pa.Table, list[Ask], pa.Table]:
    """Triplets, what was asked, and the journal."""
    operator, engine = step(marked, **settings)
    journal = journal_rows(rows, operator(rows))
    return explode(rows, journal, LINE).rows, engine.asked, journal


@pytest.mark.parametrize("op", MINERS)
def test_the_way_back_is_the_pair_that_a_miner_of_both_ways_gives(op: str) -> None:
    whole = mined(op)
    ids = set(whole["id"].to_pylist())
    wanted, _, _ = made(whole)
    ends = [
        (row["references"][0]["id"], row["targets"][0]["id"])
        for row in whole.select(["references", "targets"]).to_pylist()
    ]
    one_way = whole.filter(pa.array([a < b for a, b in ends]))
    assert 2 * len(one_way) == len(whole) >= 12
    found, asked, _ = made(one_way, both_directions=True)
    assert len(asked) == len(whole)
    # Mined one way and asked both, or mined both ways: the same triplets, told by the same texts.
    columns = ["id", "pair", "modification"]
    assert found.select(columns).equals(wanted.select(columns))
    assert set(found["pair"].to_pylist()) == ids
    both = {row["id"]: row for row in wanted.to_pylist()}
    for row in found.to_pylist():
        other = both[row["id"]]
        assert (row["references"], row["targets"]) == (other["references"], other["targets"])
        assert row["evidence"]["changes"] == other["evidence"]["changes"]
        assert row["pair"] == schema.id_of_pair(row)
        assert row["id"] == schema.triplet_id(row["pair"], row["modification"])


@pytest.mark.parametrize("op", MINERS)
def test_pairs_mined_both_ways_and_asked_both_ways_give_nothing_twice(op: str) -> None:
    whole = mined(op)
    wanted, _, _ = made(whole)
    found, asked, _ = made(whole, both_directions=True)
    assert found.equals(wanted)
    assert len({repr(ask) for ask in asked}) == len(whole)


def test_the_answer_for_a_row_does_not_hang_on_its_batch() -> None:
    whole = mined("one_word_diff")
    _, _, together = made(whole, both_directions=True)
    order = list(range(len(whole)))
    random.Random(4).shuffle(order)
    apart = pa.concat_tables([made(whole.slice(n, 1), both_directions=True)[2] for n in order])
    key = [("unit", "ascending"), ("modification", "ascending"), ("verdict", "ascending")]
    assert together.sort_by(key).to_pylist() == apart.sort_by(key).to_pylist()


def test_two_ways_of_one_id_in_other_captions_are_each_asked_in_their_own() -> None:
    rows = pairs(("a red mug", "a blue mug"), ("one blue mug", "one red mug")).to_pylist()
    for row, ends in zip(rows, ("xy", "yx"), strict=True):
        row["references"][0]["id"], row["targets"][0]["id"] = ends
        row["id"] = schema.id_of_pair(row)
    table = pa.Table.from_pylist(rows, schema=schema.PAIRS)
    _, asked, _ = made(table, both_directions=True)
    assert len({str(ask.messages[-1]["content"]) for ask in asked}) == 4
    for number in range(2):
        _, own, _ = made(table.slice(number, 1), both_directions=True)
        assert [ask for ask in asked if ask in own] == own


def test_a_pair_of_several_references_has_no_way_back_and_notes_say_so() -> None:
    row = pairs(("a red mug", "a blue mug")).to_pylist()[0]
    row["references"].append(member("a lid"))
    table = pa.Table.from_pylist([row], schema=schema.PAIRS)
    found, asked, journal = made(table, both_directions=True)
    assert len(asked) == 1
    assert found.num_rows == 2
    assert tables.unit_verdicts(journal)["verdict"].to_pylist() == ["kept"]
    assert tables.not_used(journal) == {
        "not_used": {"several_references": 1},
        "examples": {"several_references": ["0000: no text leads back to several references"]},
    }


def test_the_way_back_of_several_targets_begins_at_the_first_and_leaves_given_texts() -> None:
    row = pairs(("a red mug", "a blue mug")).to_pylist()[0]
    row["targets"].append({**member("a green mug"), "id": "other"})
    row["evidence"]["changes"] = [
        {"field": "text", "removed": None, "added": "an annotator's words"},
        {"field": "colour", "removed": "red", "added": None},
    ]
    table = pa.Table.from_pylist([row], schema=schema.PAIRS)
    found, asked, _ = made(table, both_directions=True, texts_per_pair=1)
    way = next(one for one in found.to_pylist() if one["pair"] != row["id"])
    assert [one["caption"] for one in way["references"]] == ["a blue mug"]
    assert [one["caption"] for one in way["targets"]] == ["a red mug"]
    changed = [{"field": "colour", "removed": None, "added": "red"}]
    assert way["evidence"]["changes"] == changed
    assert way["evidence"]["reason"] == "the other way round: r"
    assert 'in hand: "a blue mug"\nwanted: "a red mug"' in asked[1].messages[-1]["content"]


@pytest.mark.parametrize(
    ("there", "back", "verdict", "rule", "noted"),
    [
        ("{}", texts("a red one"), "kept", None, {"wrong_shape": 1}),
        (texts("a blue one"), "no", "kept", None, {"not_json": 1}),
        (texts("a blue one"), texts(), "kept", None, {"no_difference": 1}),
        ("{}", texts(), "failed", "wrong_shape", None),
        (texts(), "{}", "failed", "wrong_shape", None),
        (texts(), texts("A red mug"), "rejected", "no_difference", None),
    ],
)
def test_a_way_that_gives_no_text_is_told(
    there: str, back: str, verdict: str, rule: str | None, noted: dict[str, int] | None
) -> None:
    def answer(ask: Ask) -> Answer:
        content = ask.messages[-1]["content"]
        return Answer(there if 'in hand: "a red mug"' in content else back)

    rows = pairs(("a red mug", "a blue mug"))
    operator, _ = step(answer, both_directions=True)
    journal = journal_rows(rows, operator(rows))
    found = tables.unit_verdicts(journal).to_pylist()[0]
    assert (found["verdict"], found["rule"]) == (verdict, rule)
    told = tables.not_used(journal)
    assert told.get("not_used") == noted
    if noted:
        ((example,),) = told["examples"].values()
        assert example.startswith("0000: the way back: ") == (there != "{}")


def test_texts_of_an_answer_that_cannot_be_used_are_counted_beside_those_that_can() -> None:
    operator, _ = step(
        lambda ask: texts("w " * 30, "a blue mug", "make it blue", "blue", "in blue")
    )
    rows = pairs(("a red mug", "a blue mug"))
    journal = journal_rows(rows, operator(rows))
    assert journal["modification"].to_pylist() == ["make it blue", "blue", None, None]
    assert tables.not_used(journal)["not_used"] == {"copies_caption": 1, "too_long": 1}
    assert explode(rows, journal, LINE).rows.num_rows == 2
