"""Items that fit as the target does: found as brute force finds them, and what becomes of rows."""

import json
import random
import string
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datagen
from datagen import plan, recipe, schema
from datagen.errors import RecipeError
from datagen.filters import _fits as fits
from datagen.filters._nearest import nearest
from datagen.filters.false_negatives import FalseNegatives, FalseNegativesSettings
from datagen.negatives.nearest import Nearest, NearestSettings
from datagen.refilter import refilter
from datagen.sources.tinyworld import events, oracle
from datagen.space import Space
from datagen.step import Context, Tables


def item(number, captions, labels=None):
    return {
        "id": schema.content_id(str(number)),
        "key": f"{number}.jpg",
        "source": "photos",
        "media": None,
        "captions": captions,
        "labels": json.dumps(labels or {}),
    }


def triplet(references, targets, text="text", negatives=()):
    members = [[schema.member(one) for one in side] for side in (references, targets)]
    ids = [[one["id"] for one in side] for side in members]
    pair = schema.pair_id(*ids, "[]")
    return {
        "id": schema.triplet_id(pair, text),
        "references": members[0],
        "targets": members[1],
        "evidence": {"operator": "o", "reason": "r", "changes": [], "score": None},
        "provenance": [],
        "pair": pair,
        "modification": text,
        "negatives": [
            {"kind": "mined", "score": 0.5, "item": schema.member(one)} for one in negatives
        ],
    }


def tables(items, rows):
    kind = schema.TRIPLETS.append(schema.NEGATIVES)
    return pa.Table.from_pylist(items, schema=schema.ITEMS), pa.Table.from_pylist(rows, schema=kind)


def measured(items, rows, folder, context=None, **chosen):
    """The rows with what the filter measured, and the filter."""
    step = FalseNegatives(FalseNegativesSettings(**chosen))
    pq.write_table(items, f"{folder}/items.parquet")
    step.open(context or Context("f", table=f"{folder}/items.parquet"))
    out = step(rows.select(step.columns("triplets")))
    for name in (step.score, step.column):
        rows = rows.append_column(name, out[name])
    return rows, step, out


def settled(rows, items, step):
    verdicts = step.decide(rows, items)
    kept = rows.filter(pc.equal(verdicts["verdict"], "kept"))
    return *step.settle(kept, items, Context("f")), verdicts


def found(rows, step):
    return [{one["id"] for one in row} for row in rows[step.column].to_pylist()]


SAME = ["A red mug", "a  red mug.", "“A RED mug”"]
OTHER = ["a blue mug", "a red mug on a table", "", "???"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([*SAME, *OTHER]), min_size=3, max_size=12), st.booleans())
def test_captions_count_as_equal_but_for_case_and_punctuation(tmp_path_factory, captions, second):
    made = [
        item(n, ["something else", text] if second else [text]) for n, text in enumerate(captions)
    ]
    rows = [triplet([made[0]], [{**made[1], "captions": made[1]["captions"][-1:]}])]
    items, rows = tables(made, rows)
    rows, step, out = measured(items, rows, tmp_path_factory.mktemp("t"))
    plain = [text.translate(str.maketrans("", "", string.punctuation + "“”")) for text in captions]
    plain = [" ".join(text.lower().split()) for text in plain]
    fits = {made[n]["id"] for n, text in enumerate(plain) if n > 1 and text and text == plain[1]}
    assert found(rows, step) == [fits]
    if plain[1]:
        assert rows[step.score].to_pylist() == [len(fits)]
    else:
        assert out["verdict"].to_pylist() == ["failed"]
        assert out["rule"].to_pylist() == ["no_caption"]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([(), ("colour",), ("colour", "size")]))
def test_labels_count_as_equal_where_all_that_are_named_are(tmp_path_factory, seed, names):
    draw = random.Random(seed)
    made = []
    for number in range(15):
        labels = {"colour": draw.choice(["red", "blue"]), "size": draw.choice([1, 2, None])}
        if draw.random() < 0.2:
            del labels["size"]
        made.append(item(number, ["x"], labels))
    items, rows = tables(made, [triplet([made[0]], [made[1]])])
    rows, step, out = measured(items, rows, tmp_path_factory.mktemp("t"), by="labels", labels=names)
    told = [json.loads(one["labels"]) for one in made]
    lacks = any(told[1].get(name) is None for name in names)
    fits = {
        one["id"]
        for one, labels in zip(made[2:], told[2:], strict=True)
        if (all(labels.get(n) == told[1].get(n) for n in names) if names else labels == told[1])
    }
    assert found(rows, step) == [set() if lacks else fits]
    assert (out["verdict"].to_pylist() == ["failed"]) == lacks


class Fake:
    """An embedder that knows the vectors of its texts."""

    def __init__(self, known):
        self.known = known

    def open(self, context):
        pass

    def texts(self, texts):
        return np.array([self.known[text] for text in texts], np.float32).reshape(len(texts), -1)


def around(folder, count, rows, seed):
    """Items with vectors, triplets of them, and the context to open."""
    draw = np.random.default_rng(seed)
    made = [item(n, [f"thing {n}"]) for n in range(count)]
    vectors = draw.normal(size=(count, 4)).astype(np.float32)
    vectors[draw.random(count) < 0.3] = vectors[0]  # ties
    Space.write(str(folder), [one["id"] for one in made], vectors)
    texts = {f"text {n}": draw.normal(size=4) for n in range(rows)}
    chosen = [draw.choice(count, 3, replace=False).tolist() for _ in range(rows)]
    triplets = [
        triplet([made[a]], [made[b], made[c]], text)
        for (a, b, c), text in zip(chosen, texts, strict=True)
    ]
    items, table = tables(made, triplets)
    context = Context("f", spaces={"image": str(folder)}, embedders={"image": Fake(texts)})
    return made, vectors, texts, chosen, items, table, context


@settings(deadline=None, max_examples=25)
@given(st.integers(4, 60), st.integers(0, 1000), st.sampled_from(["composed", "target"]))
def test_what_is_as_near_as_the_target_is_what_a_sort_of_all_cosines_says(
    tmp_path_factory, count, seed, by
):
    folder = tmp_path_factory.mktemp("space")
    made, vectors, texts, chosen, items, rows, context = around(folder, count, 5, seed)
    options = {"by": by, "space": "image", "most": 3, "margin": 0.1}
    rows, step, _ = measured(items, rows, folder, context, **options)
    unit = vectors / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    fitting = step._fitting(rows, items)
    for number, ((a, b, c), text) in enumerate(zip(chosen, texts, strict=True)):
        query = unit[b] + unit[c]
        if by == "composed":
            said = texts[text].astype(np.float32).astype(float)
            query = 0.5 * said / np.linalg.norm(said) + 0.5 * unit[a]
        cosines = np.round(unit @ (query / np.linalg.norm(query)), 6)
        others = sorted((-cosines[n], made[n]["id"]) for n in range(count) if n not in (a, b, c))[
            :3
        ]
        best = max(cosines[b], cosines[c])
        # Where float64 sums differ in their order, the sixth place may.
        told = rows[step.column].to_pylist()[number]
        assert [one["lead"] for one in told] == pytest.approx(
            [-cosine - best for cosine, _ in others], abs=3e-6
        )
        clear = [name for cosine, name in others if -cosine - best > -0.1 + 1e-5]
        assert set(clear) <= set(fitting[number])


@given(st.integers(1, 50), st.integers(1, 8), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_the_nearest_of_a_space_are_the_same_in_blocks_of_any_size(count, wanted, seed):
    draw = np.random.default_rng(seed)
    vectors = draw.integers(-1, 2, size=(count, 3)).astype(np.float32)  # many ties
    space = Space(np.array(sorted(f"{n:04}" for n in range(count)), "S"), vectors)
    queries = draw.normal(size=(6, 3))
    without = [draw.choice(count, min(count, 2), replace=False).tolist() for _ in range(6)]
    whole = nearest(space, queries, wanted, without)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datagen.filters._nearest.BLOCK", 7)
        assert nearest(space, queries, wanted, without) == whole
    alone = [nearest(space, queries[n : n + 1], wanted, without[n : n + 1])[0] for n in range(6)]
    assert alone == whole
    for query, left_out, told in zip(queries, without, whole, strict=True):
        norms = np.linalg.norm(vectors, axis=1)
        cosines = vectors @ query / np.linalg.norm(query) / np.where(norms, norms, 1)
        order = sorted((-round(c, 6), n) for n, c in enumerate(cosines) if n not in left_out)
        assert [row for row, _ in told] == [row for _, row in order[:wanted]]


def colours():
    """Red, blue (thrice) and green mugs; a row that asks for a blue one and its mirror."""
    texts = ["a red mug", "a blue mug", "a blue mug!", "A blue mug", "a green mug"]
    made = [item(n, [text]) for n, text in enumerate(texts)]
    red, blue, second, third, green = made
    rows = [
        triplet([red], [blue], "make it blue", [second, green, red]),
        triplet([red], [second], "make it blue", [third, green]),
        triplet([red], [green], "make it green", [blue]),
    ]
    return made, tables(made, rows)


def test_items_that_fit_leave_the_negatives_and_nothing_else_changes(tmp_path):
    _made, (items, rows) = colours()
    rows, step, _ = measured(items, rows, tmp_path)
    out, notes, verdicts = settled(rows, items, step)
    assert set(verdicts["verdict"].to_pylist()) == {"kept"}
    by_id = {row["id"]: row for row in out.to_pylist()}
    for row in rows.to_pylist():
        fits = {one["id"] for one in row[step.column]}
        after = by_id[row["id"]]
        assert after.pop("negatives") == [
            one for one in row.pop("negatives") if one["item"]["id"] not in fits
        ]
        assert after == row
    assert notes["removed_negatives"] == 2
    assert (notes["rows"], notes["rows_with"], notes["items"]) == (3, 2, 3)


def test_items_that_fit_become_targets_of_a_row_with_a_new_id(tmp_path):
    made, (items, rows) = colours()
    rows, step, _ = measured(items, rows, tmp_path, action="add", max_targets=4)
    out, notes, verdicts = settled(rows, items, step)
    # Both rows ask for a blue mug, and would have the three as their targets.
    assert sorted(verdicts["verdict"].to_pylist()) == ["kept", "kept", "rejected"]
    assert "same_targets" in verdicts["rule"].to_pylist()
    blue = next(row for row in out.to_pylist() if row["modification"] == "make it blue")
    assert {one["id"] for one in blue["targets"]} == {one["id"] for one in made[1:4]}
    assert not {one["item"]["id"] for one in blue["negatives"]} & {o["id"] for o in made[1:4]}
    assert blue["id"] not in rows["id"].to_pylist()
    ids = [[one["id"] for one in blue[side]] for side in ("references", "targets")]
    assert blue["id"] == schema.triplet_id(schema.pair_id(*ids, "[]"), "make it blue")
    assert [line["operator"] for line in blue["provenance"]] == ["FalseNegatives"]
    assert notes["added_targets"] == 2
    rows, step, _ = measured(items, colours()[1][1], tmp_path, action="add", max_targets=2)
    out, notes, _ = settled(rows, items, step)
    assert max(len(row["targets"]) for row in out.to_pylist()) == 2


def test_rows_with_more_than_so_many_that_fit_are_rejected(tmp_path):
    _made, (items, rows) = colours()
    rows, step, _ = measured(items, rows, tmp_path, action="reject", max=1)
    _, _, verdicts = settled(rows, items, step)
    told = dict(zip(rows["modification"].to_pylist(), verdicts["rule"].to_pylist(), strict=True))
    assert told == {"make it blue": "several_fit", "make it green": None}
    rows, step, _ = measured(items, colours()[1][1], tmp_path, action="reject", max=2)
    assert set(settled(rows, items, step)[2]["verdict"].to_pylist()) == {"kept"}


def test_items_that_a_filter_rejected_are_not_made_targets(tmp_path):
    made, (items, rows) = colours()
    rows, step, _ = measured(items, rows, tmp_path, action="add")
    fewer = items.filter(pc.not_equal(items["id"], made[3]["id"]))
    out, _, _ = settled(rows, fewer, step)
    targets = {one["id"] for row in out.to_pylist() for one in row["targets"]}
    assert made[3]["id"] not in targets


def test_negatives_that_are_mined_later_leave_out_what_fits(tmp_path):
    draw = np.random.default_rng(0)
    made = [item(n, [f"thing {n}"], {"kind": n % 3}) for n in range(30)]
    Space.write(str(tmp_path / "s"), [m["id"] for m in made], draw.normal(size=(30, 4)))
    items, rows = tables(made, [triplet([made[0]], [made[1]])])
    rows = rows.drop_columns(["negatives"])
    rows, step, _ = measured(items, rows, tmp_path, by="labels", labels=["kind"])
    fits = found(rows, step)[0]
    assert len(fits) == 9
    out, _, _ = settled(rows, items, step)
    context = Context("n", spaces={"s": str(tmp_path / "s")})
    miner = Nearest(NearestSettings(mined=25, space="s", high=None))
    mined = miner(Tables(items, out, "triplets"), context).rows["negatives"].to_pylist()[0]
    names = {one["item"]["id"] for one in mined}
    assert len(names) == 30 - 1 - 9  # all but the target and what fits; the reference is one
    assert not names & fits


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        ({"by": "composed"}, "space: must be given"),
        ({"by": "captions", "space": "image"}, "for no other"),
        ({"by": "captions", "margin": 0.1}, "margin: only"),
        ({"labels": ["colour"]}, "labels: only"),
        ({"action": "reject", "max": 20}, "must be below most"),
        ({"by": "composed", "space": "caption"}, "texts"),
    ],
)
def test_settings_without_sense_are_faults_of_the_recipe(chosen, fault):
    steps = [
        {"embed": {"space": "caption", "model": "tfidf"}},
        *RECIPE["steps"],
        {"filter": {"op": "false_negatives", **chosen}},
    ]
    with pytest.raises(RecipeError, match=fault):
        recipe.check({**RECIPE, "steps": steps})


RECIPE = {
    "name": "small",
    "source": {"type": "tinyworld", "count": 120, "size": 32},
    "steps": [
        {"pair": {"op": "one_word_diff", "max_per_reference": 2}},
        {"text": {"op": "template"}},
        {"negatives": {"mined": 0}},
    ],
}


def test_other_rules_measure_again_what_reads_the_negatives_and_nothing_else(tmp_path):
    def folders(**rules):
        steps = [
            {"embed": {"space": "caption", "model": "tfidf"}},
            *RECIPE["steps"],
            {"filter": {"op": "false_negatives", **rules}},
            {"filter": {"op": "text_quality"}},
            {"filter": {"op": "similarity", "space": "caption", "high": 1,
                        "between": "target_negative"}},
        ]  # fmt: skip
        checked = recipe.check({**RECIPE, "steps": steps})
        return [planned.folder for planned in plan.plan(checked, str(tmp_path), [])][-3:]

    found, quality, negatives = folders()
    assert folders() == [found, quality, negatives]
    other = folders(action="add")
    assert other[:2] == [found, quality]
    assert other[2] != negatives
    assert folders(by="labels")[0] != found


def test_a_run_finds_what_the_truth_of_the_world_knows_and_decides_again_without_measuring(
    tmp_path: Path, ray: None
):
    out = str(tmp_path / "run")
    steps = [*RECIPE["steps"], {"filter": {"op": "false_negatives", "by": "labels"}}]

    datagen.run({**RECIPE, "steps": steps}, out, cpus=1, report=False)
    made = datagen.load(out)
    shown = {row["id"]: events.shown(json.loads(row["labels"])) for row in made.items().to_pylist()}
    for row in made.triplets().to_pylist():
        reference, target = row["references"][0]["id"], row["targets"][0]["id"]
        own = {one["id"] for one in row["false_negatives_labels"]}
        if oracle.says(row["modification"], shown[reference], shown[target]).right:
            right = {
                name
                for name in own
                if oracle.says(row["modification"], shown[reference], shown[name]).right
            }
            assert right == own
    (journal,) = Path(out).glob("steps/filter-false_negatives-*/journal")
    before = sorted(journal.iterdir())
    summary = refilter(out, ["false_negatives.action=add"], cpus=1, report=False)
    assert sorted(journal.iterdir()) == before
    last = summary.steps[-1]
    assert last.notes["rows"] == last.rows_out


@pytest.mark.parametrize(("one", "other"), [("की", "का"), ("กี", "กา"), ("דָג", "דֹג")])
def test_marks_that_are_vowels_tell_words_apart(one, other):
    assert fits.words(one) != fits.words(other)
    assert fits.words(f"«{one}», ") == fits.words(one) != ""


def test_a_letter_and_its_accent_are_one_however_they_are_written():
    assert fits.words("Cafe\u0301!") == fits.words("café") != fits.words("cafe")
    assert fits.words("a cat \u2764\ufe0f") == fits.words("a cat")


def test_labels_of_which_nothing_is_known_are_equal_to_none(tmp_path):
    made = [item(n, ["x"], {"colour": None, "size": None}) for n in range(3)]
    items, rows = tables(made, [triplet([made[0]], [made[1]])])
    rows, step, out = measured(items, rows, tmp_path, by="labels")
    assert found(rows, step) == [set()]
    assert out["rule"].to_pylist() == ["no_labels"]


def test_a_row_that_has_all_targets_anyway_stays_and_no_id_stands_twice(tmp_path):
    made = [item(n, [text]) for n, text in enumerate(["red", "blue", "Blue"])]
    for number in range(12):
        text = f"text {number}"
        grown = triplet([made[0]], [made[1]], text)
        whole = triplet([made[0]], [made[1], made[2]], text)
        items, rows = tables(made, [grown, whole])
        rows, step, _ = measured(items, rows, tmp_path, action="add")
        out, _, verdicts = settled(rows, items, step)
        assert verdicts["verdict"].to_pylist() == ["rejected", "kept"]
        assert out["id"].to_pylist() == [whole["id"]]


def test_targets_are_not_added_across_a_split():
    steps = [*RECIPE["steps"], {"split": {"near_duplicates": False}}]
    for action, fault in (("negatives", None), ("reject", None), ("add", "'split' is there")):
        changed = [*steps, {"filter": {"op": "false_negatives", "action": action}}]
        if fault is None:
            recipe.check({**RECIPE, "steps": changed})
        else:
            with pytest.raises(RecipeError, match=fault):
                recipe.check({**RECIPE, "steps": changed})


def test_what_two_spaces_find_stands_side_by_side():
    columns = [
        FalseNegatives(FalseNegativesSettings(by="target", space=space)).column
        for space in ("image", "structure")
    ]
    assert columns == ["false_negatives_target_image", "false_negatives_target_structure"]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_items_whose_vector_has_no_value_take_nobodys_place(seed):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(25, 3)).astype(np.float32)
    lost = draw.choice(25, 8, replace=False)
    vectors[lost] = np.nan
    space = Space(np.array([f"{n:02}" for n in range(25)], "S"), vectors)
    (query,) = queries = draw.normal(size=(1, 3))
    cosines = vectors @ query / np.linalg.norm(query) / np.linalg.norm(vectors, axis=1)
    order = sorted(set(range(25)) - set(lost.tolist()), key=lambda n: -cosines[n])
    assert [row for row, _ in nearest(space, queries, 6, [[]])[0]] == order[:6]
