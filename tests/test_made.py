"""Rows and items that a step makes: nothing lost, nothing twice, ids by content alone."""

from __future__ import annotations

import json
import random
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import recipe, schema, tables
from datagen.engine import journal_rows
from datagen.errors import DatagenError, RecipeError
from datagen.explode import explode
from datagen.made import Maker
from datagen.step import RowOperator, Settings

LINE = {"step": "s", "operator": "o", "model": None, "revision": None, "prompt": None, "seed": 0}
ANSWER = pa.schema(
    [
        ("id", pa.string()),
        ("modification", pa.string()),
        *(schema.PAIRS.field(name) for name in ("references", "targets", "evidence")),
        *schema.VERDICT_FIELDS,
    ]
)


def items(*captions: str, labels: str = "{}") -> pa.Table:
    rows = [
        {
            "id": schema.item_id(None, [caption], labels),
            "key": f"k{number}",
            "source": "s",
            "media": None,
            "captions": [caption],
            "labels": labels,
        }
        for number, caption in enumerate(captions)
    ]
    return pa.Table.from_pylist(rows, schema=schema.ITEMS).sort_by("id")


def new(caption: str | None, **also: Any) -> dict[str, Any]:
    return dict.fromkeys(field.name for field in schema.MEMBER) | {"caption": caption} | also


def answer(*lines: dict[str, Any]) -> pa.Table:
    whole = [dict.fromkeys(ANSWER.names) | {"verdict": "kept"} | line for line in lines]
    return pa.Table.from_pylist(whole, schema=ANSWER)


#: Seeds by number; of each the words that its edits add, some of them twice or of another seed.
EDITS = st.dictionaries(
    st.integers(0, 9), st.lists(st.sampled_from("abcd"), max_size=4), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(EDITS, st.randoms())
def test_every_kept_line_is_one_triplet_and_every_new_caption_one_item(
    edits: dict[int, list[str]], rng: random.Random
) -> None:
    seeds = items(*(f"seed {number}" for number in edits))
    # What edits lead to: a new caption, one that two seeds share, or an item that is there.
    told = {"a": "new {}", "b": "shared", "c": f"seed {min(edits)}", "d": "new  {} "}
    lines = []
    for seed in seeds.to_pylist():
        words = edits[int(seed["captions"][0].split()[1])]
        number = seed["captions"][0].split()[1]
        lines += [
            {"id": seed["id"], "modification": word, "targets": [new(told[word].format(number))]}
            for word in words
        ] or [{"id": seed["id"], "verdict": "rejected", "rule": "none"}]
    maker = Maker(seeds, "step")
    made = explode(seeds, journal_rows(seeds, answer(*lines)), LINE, maker)
    # By hand: a triplet is its reference, its text and what its target says.
    clean = {name: " ".join(text.split()) for name, text in told.items()}
    wanted = {
        (number, word, clean[word].format(number)) for number in edits for word in edits[number]
    }
    rows = made.rows.to_pylist()
    found = [
        (
            int(row["references"][0]["caption"].split()[1]),
            row["modification"],
            row["targets"][0]["caption"],
        )
        for row in rows
    ]
    assert sorted(found) == sorted(wanted)
    assert not made.same
    there = {row["captions"][0]: row for row in seeds.to_pylist()}
    items_made = maker.items().to_pylist()
    assert [row["captions"][0] for row in items_made] == [
        caption
        for _, caption in sorted(
            (schema.item_id(None, [c], "{}"), c) for c in {w[2] for w in wanted} - set(there)
        )
    ]
    assert {row["source"] for row in items_made} <= {"step"}
    for row in rows:
        (target,) = row["targets"]
        known = there.get(target["caption"])
        assert target["id"] == schema.item_id(None, [target["caption"]], "{}")
        assert (target["key"], target["source"]) == (
            (known["key"], "s") if known else (target["id"], "step")
        )
        assert row["pair"] == schema.pair_id([row["references"][0]["id"]], [target["id"]])
        assert row["id"] == schema.triplet_id(row["pair"], row["modification"])
        assert row["provenance"] == [LINE]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    # The order in which workers answered does not show.
    rng.shuffle(lines)
    again, other = Maker(seeds, "step"), journal_rows(seeds, answer(*lines))
    shuffled = explode(seeds, other.sort_by("unit"), LINE, again)
    assert shuffled.rows.equals(made.rows)
    assert again.items().equals(maker.items())


def test_media_of_a_new_item_give_its_id_and_need_their_hash() -> None:
    seeds = items("a")
    media = dict.fromkeys(field.name for field in schema.MEDIA) | {"path": "p", "offset": 0}
    line = {"id": seeds["id"][0].as_py(), "modification": "m"}
    painted = new("b", media=media | {"sha256": "ff"}, labels='{"x":1}', key="mine")
    maker = Maker(seeds, "paint")
    explode(seeds, journal_rows(seeds, answer(line | {"targets": [painted]})), LINE, maker)
    (item,) = maker.items().to_pylist()
    assert item["id"] == schema.item_id("ff", ["b"], '{"x":1}')
    assert (item["key"], item["source"], item["labels"]) == ("mine", "paint", '{"x":1}')
    for wrong in (new(None), new("\x00 "), new("b", media=media)):
        journal = journal_rows(seeds, answer(line | {"targets": [wrong]}))
        with pytest.raises(DatagenError, match="step paint: a member without an id needs"):
            explode(seeds, journal, LINE, Maker(seeds, "paint"))
    journal = journal_rows(seeds, answer(line | {"targets": [painted]}))
    with pytest.raises(DatagenError, match="must give 'collection'"):
        explode(seeds, journal, LINE, Maker(None, "paint"))
    with pytest.raises(DatagenError, match="must give 'targets'"):
        explode(seeds, journal_rows(seeds, answer(line)), LINE, Maker(seeds, "paint"))


def triplets() -> pa.Table:
    """Two triplets of one pair and one of another, with scores."""
    seeds = items("a", "b", "c")
    one, two, three = (schema.member(row) for row in seeds.to_pylist())
    rows = []
    for reference, target, text in ((one, two, "x"), (one, two, "y"), (two, three, "x")):
        pair = schema.pair_id([reference["id"]], [target["id"]])
        rows.append(
            {
                "id": schema.triplet_id(pair, text),
                "references": [reference],
                "targets": [target],
                "evidence": {"operator": "o", "reason": "r", "changes": [], "score": None},
                "provenance": [LINE],
                "pair": pair,
                "modification": text,
                "score_pair": 0.5,
                "score_text": 0.25,
            }
        )
    columns = [*schema.TRIPLETS, ("score_pair", pa.float64()), ("score_text", pa.float64())]
    return pa.Table.from_pylist(rows, schema=pa.schema(columns)).sort_by("id")


def test_another_text_is_another_triplet_and_loses_what_was_measured_of_the_old_one() -> None:
    rows = triplets()
    lines = []
    for row in rows.to_pylist():
        lines += [{"id": row["id"]}, {"id": row["id"], "modification": row["modification"] + "!"}]
    line = {**LINE, "step": "rewrite"}
    made = explode(rows, journal_rows(rows, answer(*lines)), line, None, {"score_pair"}).rows
    old = {row["id"]: row for row in rows.to_pylist()}
    assert made.num_rows == 6
    for row in made.to_pylist():
        if row["id"] in old:
            assert row == old[row["id"]]
            continue
        before = old[schema.triplet_id(row["pair"], row["modification"][:-1])]
        assert row["id"] == schema.triplet_id(before["pair"], row["modification"])
        assert (row["score_pair"], row["score_text"]) == (0.5, None)
        assert row["provenance"] == [LINE, line]
        assert (row["references"], row["targets"]) == (before["references"], before["targets"])


def test_other_members_are_another_pair_of_which_nothing_was_measured() -> None:
    rows = triplets()
    lines = [
        {"id": row["id"], "references": row["targets"], "targets": row["references"]}
        for row in rows.to_pylist()
    ]
    made = explode(rows, journal_rows(rows, answer(*lines)), LINE, None, {"score_pair"}).rows
    for row in made.to_pylist():
        ends = [[one["id"] for one in row[side]] for side in ("references", "targets")]
        assert row["pair"] == schema.pair_id(*ends)
        assert row["id"] == schema.triplet_id(row["pair"], row["modification"])
        assert (row["score_pair"], row["score_text"]) == (None, None)
    assert not set(made["id"].to_pylist()) & set(rows["id"].to_pylist())


def test_of_rows_that_come_to_the_same_one_is_left_and_the_others_are_told() -> None:
    rows = triplets()
    lines = [{"id": row["id"], "modification": "x"} for row in rows.to_pylist()]
    made = explode(rows, journal_rows(rows, answer(*lines)), LINE)
    old = {row["id"]: row for row in rows.to_pylist()}
    # The row that had this text already stays; the other one of its pair came to it.
    assert {row["id"] for row in made.rows.to_pylist()} <= set(old)
    assert made.rows.num_rows == 2
    ((lost, left),) = made.same.items()
    assert (old[lost]["modification"], old[lost]["pair"]) == ("y", old[left]["pair"])


def test_pairs_of_one_level_are_other_pairs() -> None:
    pairs = triplets().filter(pc.equal(triplets()["modification"], "x"))
    pairs = pairs.set_column(0, "id", pairs["pair"]).select([*schema.PAIRS.names, "score_pair"])
    pairs = pairs.sort_by("id")
    ids = pairs["id"].to_pylist()
    told = answer({"id": ids[0]}, {"id": ids[1], "targets": [new("painted")]})
    told = told.drop_columns(["modification"])
    maker = Maker(items("a", "b", "c"), "paint")
    made = explode(pairs, journal_rows(pairs, told), LINE, maker).rows
    assert made.column_names == pairs.column_names
    assert made.num_rows == 2
    (same,) = [row for row in made.to_pylist() if row["id"] in ids]
    (other,) = [row for row in made.to_pylist() if row["id"] not in ids]
    assert same == pairs.to_pylist()[0]
    target = schema.item_id(None, ["painted"], "{}")
    assert other["id"] == schema.pair_id([other["references"][0]["id"]], [target])
    assert other["score_pair"] is None
    assert maker.items()["id"].to_pylist() == [target]


def test_items_with_those_that_were_made_are_sorted_and_whole() -> None:
    known, made = items("a", "b"), items("c", "d")
    known = known.append_column("phash", pa.array([1, 2]))
    table = tables.with_made(known, [made])
    assert table["id"].to_pylist() == sorted([*known["id"].to_pylist(), *made["id"].to_pylist()])
    by_caption = {row["captions"][0]: row["phash"] for row in table.to_pylist()}
    measured = {row["captions"][0]: row["phash"] for row in known.to_pylist()}
    assert by_caption == {**measured, "c": None, "d": None}


def test_a_space_from_before_new_items_is_not_taken_for_one_that_holds_them() -> None:
    engine = {"kind": "server", "url": "http://localhost:1/v1", "model": "m"}
    embed = {"embed": {"op": "tfidf", "space": "caption", "model": "tfidf"}}
    steps = [
        embed,
        {"text": {"op": "quadruple", "engine": engine}},
        {"filter": {"op": "similarity", "space": "caption", "low": 0.1}},
    ]
    data = {"source": {"type": "tinyworld", "count": 9}, "steps": steps}
    for last in (steps[2], {"filter": {"op": "text_consistency", "space": "caption"}}):
        data = {**data, "steps": [*steps[:2], last]}
        with pytest.raises(RecipeError, match="space 'caption' lacks the items that a step has"):
            recipe.check(json.loads(json.dumps(data)))


def test_an_answer_that_cannot_be_a_row_is_told_in_one_line() -> None:
    seeds = items("a")
    line = {"id": seeds["id"][0].as_py(), "modification": "m", "targets": [new("b")]}
    for wrong, told in (
        ({"modification": None}, "step s: a line that is kept must give 'modification'"),
        ({"targets": []}, "step p: targets: a list of one member or more"),
        ({"targets": [None]}, "step p: targets: a list of one member or more"),
        ({"references": []}, "step p: references: a list of one member or more"),
        ({"targets": [new("b", labels="{oops")]}, r"step p: labels of .* '\{oops' found"),
        ({"targets": [new("b", labels="[1]")]}, r"step p: labels of .* '\[1\]' found"),
    ):
        journal = journal_rows(seeds, answer(line | wrong))
        with pytest.raises(DatagenError, match=told):
            explode(seeds, journal, LINE, Maker(seeds, "p"))
    maker = Maker(seeds, "p")
    odd = new("b", key="k\x00\u202ek", labels='{"b": 1, "a": 2}')
    explode(seeds, journal_rows(seeds, answer(line | {"targets": [odd]})), LINE, maker)
    (item,) = maker.items().to_pylist()
    assert (item["key"], item["labels"]) == ("k k", '{"a":2,"b":1}')
    assert item["id"] == schema.item_id(None, ["b"], '{"a":2,"b":1}')


def test_lines_that_come_to_the_same_beside_others_of_their_row_are_counted() -> None:
    rows = triplets()
    first, second, third = rows["id"].to_pylist()
    texts = dict(zip(rows["id"].to_pylist(), rows["modification"].to_pylist(), strict=True))
    lines = [
        *({"id": first, "modification": text} for text in ("q", "q", "r")),
        {"id": second, "modification": texts[second]},
        {"id": third, "modification": "s"},
    ]
    answered = journal_rows(rows, answer(*lines))
    made = explode(rows, answered, LINE)
    assert made.rows.num_rows == 4
    assert not made.same
    old = {row["id"]: row["pair"] for row in rows.to_pylist()}
    assert made.again == [(first, schema.triplet_id(old[first], "q"))]
    told = tables.not_used(answered, [(*made.again[0][:1], "same_as_another", "came to it")])
    assert told["not_used"] == {"same_as_another": 1}
    assert told["examples"] == {"same_as_another": [f"{first}: came to it"]}


class _Odd(RowOperator[Settings]):
    Settings = Settings
    levels = ("items", "pairs", "triplets")

    def __call__(self, rows: pa.Table) -> pa.Table:
        raise NotImplementedError


class Undone(_Odd):
    """Pairs of triplets, row by row."""

    result = "pairs"


class Wordless(_Odd):
    """Triplets of which it does not say that they have a text."""

    result = "triplets"


class Items(_Odd):
    """Items of items."""

    makes = True


@pytest.mark.parametrize(
    ("name", "pairs", "told"),
    [
        ("Undone", True, "makes pairs of triplets, row by row"),
        ("Wordless", False, "makes triplets; 'modification' must be among what it gives"),
        ("Items", False, "makes items of items, row by row"),
    ],
)
def test_what_no_row_operator_can_make_is_refused(name: str, pairs: bool, told: str) -> None:
    before = [{"pair": {"op": "one_word_diff"}}, {"text": {"op": "template"}}] if pairs else []
    step = {"text": {"op": f"{__file__}:{name}"}}
    data = {"source": {"type": "tinyworld", "count": 9}, "steps": [*before, step]}
    with pytest.raises(RecipeError, match=told):
        recipe.check(data)


def test_scores_of_triplets_are_not_there_behind_a_step_that_makes_pairs_of_them() -> None:
    engine = {"kind": "server", "url": "http://localhost:1/v1", "model": "m"}
    steps = [
        {"embed": {"space": "caption", "model": "hf:a/b", "op": "sentence_transformers"}},
        {"text": {"op": "quadruple", "engine": engine}},
        {"filter": {"op": "text_quality"}},
        {"pair": {"op": "caption_then_retrieve"}},
        {"filter": {"op": f"{__file__}:Scored"}},
    ]
    data = {"source": {"type": "tinyworld", "count": 9}, "steps": steps}
    with pytest.raises(RecipeError, match="needs 'score_words'"):
        recipe.check(data)


class Scored(_Odd):
    """Reads a score."""

    def needs(self, level: schema.Level) -> set[str]:
        return {"score_words"}
