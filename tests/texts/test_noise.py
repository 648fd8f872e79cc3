"""Noise: how much, which rows, that it is wrong, that it nests, and that nothing else changes."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datagen
from datagen import recipe, schema
from datagen.errors import DatagenError, RecipeError
from datagen.step import Context, Tables
from datagen.texts.noise import Noise, NoiseSettings

COLOURS = ("red", "blue", "green", "black")
THINGS = ("mug", "lamp", "orange chair")


def item(number, caption, **labels):
    return {
        "id": schema.content_id(str(number)),
        "key": f"{number}.jpg",
        "source": "photos",
        "media": None,
        "caption": caption,
        "labels": json.dumps(labels),
    }


def triplet(reference, target, text, changes):
    pair = schema.pair_id([reference["id"]], [target["id"]], schema.canonical_json(changes))
    return {
        "id": schema.triplet_id(pair, text),
        "references": [reference],
        "targets": [target],
        "evidence": {"operator": "o", "reason": "r", "changes": changes, "score": 0.5},
        "provenance": [],
        "pair": pair,
        "modification": text,
        "score_likeness": 0.25,
    }


def change(removed, added, field="caption"):
    return {"field": field, "removed": removed, "added": added}


def table(rows, labels=()):
    unique = {row["id"]: row for row in rows}
    kind = schema.TRIPLETS.append(pa.field("score_likeness", pa.float64()))
    made = pa.Table.from_pylist([unique[name] for name in sorted(unique)], schema=kind)
    members = [member for row in rows for side in ("references", "targets") for member in row[side]]
    listed = [{**one, "captions": [one["caption"]]} for one in members] + list(labels)
    found = {one["id"]: {name: one[name] for name in schema.ITEMS.names} for one in listed}
    return Tables(pa.Table.from_pylist(list(found.values()), schema=schema.ITEMS), made, "triplets")


def world(count, seed=0):
    """Triplets of coloured things: a text says the colour, in one of two ways."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        thing = draw.choice(THINGS)
        old, new = draw.sample(COLOURS, 2)
        reference = item(2 * number, f"a {old} {thing} on table {number % 7}")
        target = item(2 * number + 1, f"a {new} {thing} on table {number % 7}")
        text = draw.choice([f"make it {new}", f"a {new} {thing}, not {old}"])
        rows.append(triplet(reference, target, text, [change(old, new)]))
    return table(rows)


def spoiled(tables, **settings):
    return Noise(NoiseSettings(**settings))(tables, Context("noise", seed=4))


def told(row):
    """What the noise says of itself: what stood there, and its kind."""
    found = [one for one in row["evidence"]["changes"] if one["field"] == "noise"]
    return [(one["removed"], one["added"]) for one in found]


def changed(result):
    return [row for row in result.rows.to_pylist() if told(row)]


def ids(members):
    return [one["id"] for one in members]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60),
    st.sampled_from([0.0, 0.1, 0.35, 0.6]),
    st.sampled_from([0.0, 0.2, 0.4]),
    st.integers(0, 3),
)
def test_every_changed_row_differs_in_what_it_says_and_all_others_are_as_they_were(
    count, share, partial, seed
):
    if not share and not partial:
        share = 0.5
    tables = world(count, seed)
    result = spoiled(tables, share=share, partial=partial)
    before = {row["id"]: row for row in tables.rows.to_pylist()}
    assert sorted(result.verdicts["id"].to_pylist()) == sorted(before)
    assert set(result.verdicts["verdict"].to_pylist()) == {"kept"}
    assert result.rows.num_rows == len(before)
    assert len(set(result.rows["id"].to_pylist())) == len(before)
    whole = [row for row in result.rows.to_pylist() if not told(row)]
    assert all(before.pop(row["id"]) == row for row in whole)
    lost = sum((result.notes.get("nothing_else_to_give") or {}).values())
    short = (result.notes.get("no_word_to_exchange") or {}).get("lacking", 0)
    rows = tables.rows.num_rows
    assert len(before) == int(share * rows + 0.5) + int(partial * rows + 0.5) - lost - short
    by_rest = {}
    for row in before.values():
        for kind in ("reference", "target", "text"):
            by_rest.setdefault((kind, rest(row, kind)), []).append(row)
    for row in changed(result):
        ((stood, kind),) = told(row)
        side = "text" if kind == "partial" else kind
        (old,) = [one for one in by_rest[side, rest(row, side)] if stood == value(one, side)]
        assert value(row, side) != stood
        assert row["score_likeness"] is None
        assert [line["operator"] for line in row["provenance"]] == ["Noise"]
        assert not set(ids(row["references"])) & set(ids(row["targets"]))
        if kind in ("reference", "target"):
            assert row[f"{kind}s"][0]["caption"] != old[f"{kind}s"][0]["caption"]


def value(row, kind):
    return row["modification"] if kind == "text" else " ".join(ids(row[f"{kind}s"]))


def rest(row, kind):
    """Everything of a row but what ``kind`` exchanges."""
    own = [one for one in row["evidence"]["changes"] if one["field"] != "noise"]
    others = [name for name in ("reference", "target", "text") if name != kind]
    return json.dumps([own, *(value(row, name) for name in others)])


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 80), st.integers(0, 3))
def test_kinds_get_equal_parts_and_smaller_shares_stand_among_larger_ones(count, seed):
    tables = world(count, seed)
    names = []
    for share, partial in ((0.2, 0.1), (0.5, 0.3)):
        rows = changed(spoiled(tables, share=share, partial=partial))
        kinds = [told(row)[0][1] for row in rows]
        sizes = [kinds.count(kind) for kind in ("reference", "text", "target")]
        assert max(sizes) - min(sizes) <= 1
        names.append({row["id"] for row in rows})
    assert names[0] < names[1]


def test_the_same_rows_are_spoiled_alike_in_any_order_and_otherwise_by_another_seed():
    tables = world(40)
    first = spoiled(tables, share=0.5).rows.sort_by("id")
    order = list(range(tables.rows.num_rows))
    random.Random(1).shuffle(order)
    turned = Tables(tables.items, tables.rows.take(order), "triplets")
    assert spoiled(turned, share=0.5).rows.sort_by("id").equals(first)
    other = spoiled(tables, share=0.5, seed=9).rows.sort_by("id")
    assert other["id"] != first["id"]
    assert spoiled(tables, share=0.5, seed=4).rows.sort_by("id").equals(first)


def test_a_wrong_word_is_one_of_the_run_and_true_of_nothing_there():
    tables = world(60)
    before = {row["modification"]: row for row in tables.rows.to_pylist()}
    rows = changed(spoiled(tables, share=0.0, partial=0.5))
    assert len(rows) == 30
    for row in rows:
        ((stood, kind),) = told(row)
        assert kind == "partial"
        assert stood in before
        old, new = stood.split(), row["modification"].split()
        strip = [(a.strip(","), b.strip(",")) for a, b in zip(old, new, strict=True) if a != b]
        # One word, and where it needs one its article.
        words = [pair for pair in strip if pair[0] not in ("a", "an")]
        ((was, now),) = words
        own = row["evidence"]["changes"][0]
        assert was == own["added"]
        assert now in COLOURS
        assert now not in (was, own["removed"])
        assert now not in row["targets"][0]["caption"].split()


@pytest.mark.parametrize(
    ("text", "added", "now"),
    [
        ("change the mug to a lamp", "lamp", "change the mug to an apple"),
        ("Lamp, not lamp shade", "lamp", "Apple, not lamp shade"),
        ("a lampshade and a lamp", "lamp", "a lampshade and an apple"),
        ("only lampshades", "lamp", None),
        ("turn it (lamp)", "lamp", "turn it (apple)"),
    ],
)
def test_the_word_gives_way_where_it_stands_alone_with_its_article(text, added, now):
    rows = [
        triplet(item(1, "a mug"), item(2, "a lamp"), text, [change("mug", added)]),
        triplet(item(3, "a mug"), item(4, "an apple"), "no word", [change("mug", "apple")]),
    ]
    result = spoiled(table(rows), share=0, partial=0.5)
    texts = [row["modification"] for row in changed(result)]
    if now is None:
        assert not texts
        assert result.notes["no_word_to_exchange"]["lacking"] == 1
    else:
        assert texts == [now]


def test_values_of_a_label_give_way_to_other_values_of_that_label():
    labels = [
        {**item(100 + n, "x", colour=colour, size=9), "captions": ["x"]}
        for n, colour in enumerate(("ochre", "red", "navy"))
    ]
    row = triplet(
        item(1, "mug", colour="red"),
        item(2, "mug", colour="navy"),
        "make it navy",
        [change("red", "navy", "colour"), change("9", "4", "size")],
    )
    (found,) = changed(spoiled(table([row], labels), share=0, partial=1.0))
    assert found["modification"] == "make it ochre"


def test_a_run_with_one_text_gets_no_noise_of_texts_and_says_so():
    rows = [
        triplet(item(n, f"mug {n}"), item(n + 50, f"cup {n}"), "make it  RED"[: 9 + n], [])
        for n in range(1)
    ]
    rows += [
        triplet(item(n, f"mug {n}"), item(n + 50, f"cup {n}"), "make it red", [])
        for n in range(1, 12)
    ]
    rows[0]["modification"] = "Make  it red"
    result = spoiled(table(rows), share=1.0, kinds=["text"])
    assert not changed(result)
    assert result.notes["noise"] == {}
    assert result.notes["nothing_else_to_give"] == {"text": 12}


def test_an_item_is_not_exchanged_for_one_with_its_caption_or_from_the_other_side():
    mug, copy, cup = item(1, "a mug"), item(2, "A  mug"), item(3, "a cup")
    rows = [triplet(mug, cup, "a cup", []), triplet(copy, cup, "a cup please", [])]
    result = spoiled(table(rows), share=1.0, kinds=["reference"])
    assert not changed(result)
    back = triplet(cup, mug, "a mug", [])
    result = spoiled(table([rows[0], back]), share=1.0, kinds=["reference"])
    assert not changed(result)


def test_a_second_step_leaves_spoiled_rows_as_they_are():
    clean = world(90)
    once = spoiled(clean, share=0.4, kinds=("text",), partial=0.2)
    again = Noise(NoiseSettings(share=0.8))(
        Tables(clean.items, once.rows, "triplets"), Context("noise_2", seed=8)
    )
    count = once.rows.num_rows
    before = {row["id"]: row for row in changed(once)}
    assert again.notes["noisy_already"] == len(before) == round(0.4 * count) + round(0.2 * count)
    after = {row["id"]: row for row in again.rows.to_pylist()}
    assert all(after[name] == row for name, row in before.items())
    assert {len(told(row)) for row in after.values()} == {1}


@pytest.mark.parametrize(
    ("step", "late"),
    [({"split": {"near_duplicates": False}}, "split"), ({"negatives": {"mined": 0}}, "negatives")],
)
def test_noise_after_negatives_or_split_is_a_fault_of_the_recipe(step, late):
    steps = [*RECIPE["steps"][:2], step, {"text": {"op": "noise"}}]
    with pytest.raises(RecipeError, match=rf"steps\.noise: '{late}' is there already"):
        recipe.check({**RECIPE, "steps": steps})


def test_noise_after_negatives_is_refused_in_a_line():
    tables = world(10)
    rows = tables.rows.append_column(schema.NEGATIVES, pa.nulls(10, schema.NEGATIVES.type))
    with pytest.raises(DatagenError, match="noise: the rows have negatives already"):
        spoiled(Tables(tables.items, rows, "triplets"))


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        ({"share": 0}, "leave the step out"),
        ({"share": 0.8, "partial": 0.3}, "more than 1"),
        ({"kinds": []}, "one of them at least"),
        ({"kinds": ["text", "text"]}, "each once"),
    ],
)
def test_settings_without_sense_are_faults_of_the_recipe(chosen, fault):
    data = {**RECIPE, "steps": [*RECIPE["steps"][:2], {"text": {"op": "noise", **chosen}}]}
    with pytest.raises(RecipeError, match=fault):
        recipe.check(data)


RECIPE = {
    "name": "small",
    "source": {"type": "tinyworld", "count": 60, "size": 32},
    "steps": [
        {"pair": {"op": "one_word_diff"}},
        {"text": {"op": "template"}},
        {"filter": {"op": "text_quality"}},
        {"negatives": {"mined": 0}},
    ],
}


def test_a_step_put_into_a_finished_run_computes_what_is_new_and_nothing_else(
    tmp_path: Path, ray: None
):
    out = str(tmp_path / "run")
    datagen.run(RECIPE, out, cpus=1, report=False)
    clean = datagen.load(out).triplets()
    steps = [*RECIPE["steps"]]
    steps.insert(2, {"text": {"op": "noise", "share": 0.3, "partial": 0.1}})
    made = datagen.run({**RECIPE, "steps": steps}, out, cpus=1, report=False)
    reused = {step.id: step.reused for step in made.steps}
    assert reused == {
        **dict.fromkeys(["source", "one_word_diff", "template"], True),
        **dict.fromkeys(["noise", "text_quality", "negatives"], False),
    }
    rows = datagen.load(out).triplets(every=True).to_pylist()
    spoilt = [row for row in rows if told(row)]
    assert len(spoilt) == int(0.3 * len(clean) + 0.5) + int(0.1 * len(clean) + 0.5)
    # The filter met the spoiled rows alone: one answer for each, beside those of the first run.
    (journal,) = Path(out).glob("steps/filter-text_quality-*/journal")
    parts = [pq.read_table(part) for part in journal.glob("*.parquet")]
    assert sum(part.num_rows for part in parts) == len(clean) + len(spoilt)
    assert len(datagen.load(out).decisions()) == 2
