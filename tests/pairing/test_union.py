"""Several miners joined, against what each of them finds alone."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import recipe, registry, schema
from datagen.errors import DatagenError, RecipeError
from datagen.pairing import union as module
from datagen.pairing.union import Union, UnionSettings
from datagen.space import Space
from datagen.step import Context, Result, Tables

ROOT = Path(__file__).parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
WORDS: dict[str, Any] = {"op": "one_word_diff"}
LABELS: dict[str, Any] = {"op": "label_diff", "labels": ["c", "s"]}
PAGES: dict[str, Any] = {"op": "same_key", "key": "page", "both_directions": True}


def make_items(rows: list[tuple[str, str, str, str | None]]) -> pa.Table:
    """Items of (caption, label c, label s, label page)."""
    out = []
    for number, (caption, c, s, page) in enumerate(rows):
        labels = json.dumps({"c": c, "s": s} | ({"page": page} if page else {}))
        out.append(
            {
                "id": schema.item_id(f"{number}", [caption], labels),
                "key": f"k{number}",
                "source": "test",
                "media": {"path": f"{number}.jpg", "sha256": f"hash{number}"},
                "captions": [caption],
                "labels": labels,
            }
        )
    return pa.Table.from_pylist(out, schema=schema.ITEMS)


def mine(items: pa.Table, *of: dict[str, Any], context: Context | None = None) -> Result:
    operator = Union(UnionSettings(of=of))
    return operator(Tables(items, items, "items"), context or Context())


def alone(items: pa.Table, given_: dict[str, Any], context: Context | None = None) -> Result:
    cls = registry.find("pair", given_["op"])
    own = {key: value for key, value in given_.items() if key != "op"}
    operator = cls(cls.Settings.model_validate(own))
    operator.registered_name = given_["op"]  # type: ignore[attr-defined]
    return operator(Tables(items, items, "items"), context or Context())  # type: ignore[operator]


def by_members(rows: pa.Table) -> dict[tuple[str, str], list[dict[str, Any]]]:
    out: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows.sort_by("id").to_pylist():
        sides = ["\n".join(one["id"] for one in row[s]) for s in ("references", "targets")]
        out.setdefault((sides[0], sides[1]), []).append(row)
    return out


CAPTION = st.lists(st.sampled_from(["red", "blue", "cat", "dog"]), min_size=1, max_size=3)
ITEMS = st.lists(
    st.tuples(
        CAPTION.map(" ".join),
        st.sampled_from("ab"),
        st.sampled_from("xy"),
        st.sampled_from([None, "p", "q"]),
    ),
    max_size=10,
).map(make_items)
MINERS = st.permutations([WORDS, LABELS, PAGES]).flatmap(
    lambda every: st.integers(1, 3).map(lambda count: every[:count])
)


@settings(max_examples=80, deadline=None)
@given(ITEMS, MINERS)
def test_a_union_is_what_its_miners_find_alone(items: pa.Table, of: list[dict[str, Any]]) -> None:
    result = mine(items, *of)
    singles = [alone(items, one) for one in of]
    found = [by_members(single.rows) for single in singles]
    joined = by_members(result.rows)
    assert set(joined) == set().union(*found)
    for members, rows in joined.items():
        finders = [one[members] for one in found if members in one]
        first = finders[0]
        assert [row["id"] for row in rows] == [row["id"] for row in first]
        for row, original in zip(rows, first, strict=True):
            others = [other[0] for other in finders[1:]]
            reasons = [one["evidence"]["reason"] for one in (original, *others)]
            assert row["evidence"] == original["evidence"] | {"reason": "; ".join(reasons)}
            operators = [one["evidence"]["operator"] for one in (original, *others)]
            assert [line["operator"] for line in row["provenance"]] == operators
            assert (row["references"], row["targets"]) == (
                original["references"],
                original["targets"],
            )
    rules = [
        dict(zip(*(one.verdicts[c].to_pylist() for c in ("id", "rule")), strict=True))
        for one in singles
    ]
    for name, verdict, rule in zip(
        *(result.verdicts[column].to_pylist() for column in ("id", "verdict", "rule")), strict=True
    ):
        own = [one[name] for one in rules]
        if None in own:
            assert (verdict, rule) == (schema.KEPT, None)
        else:
            assert (verdict, rule) == (schema.REJECTED, "+".join(dict.fromkeys(own)))


@settings(max_examples=30, deadline=None)
@given(ITEMS, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_show(items: pa.Table, order: random.Random) -> None:
    rows = list(range(len(items)))
    order.shuffle(rows)
    straight = mine(items, WORDS, LABELS, PAGES)
    shuffled = mine(items.take(pa.array(rows, pa.int64())), WORDS, LABELS, PAGES)
    assert straight.rows.sort_by("id") == shuffled.rows.sort_by("id")
    assert straight.verdicts.sort_by("id") == shuffled.verdicts.sort_by("id")
    assert straight.notes == shuffled.notes


def test_a_pair_found_twice_is_one_with_both_reasons() -> None:
    items = make_items([("a red cat", "red", "x", None), ("a blue cat", "blue", "x", None)])
    result = mine(items, WORDS, LABELS, context=Context(step="both", seed=3))
    assert result.rows.schema == schema.PAIRS
    result.rows.validate(full=True)
    reasons = {row["evidence"]["reason"] for row in result.rows.to_pylist()}
    assert (
        "captions differ in one word: 'red' → 'blue'; c: 'red' → 'blue', all else equal" in reasons
    )
    assert len(reasons) == 2
    row = result.rows.to_pylist()[0]
    assert row["evidence"]["operator"] == "one_word_diff"
    lines = [(line["step"], line["operator"], line["seed"]) for line in row["provenance"]]
    assert lines == [("both", "one_word_diff", 3), ("both", "label_diff", 3)]
    assert result.notes["found_by_several"] == result.notes["pairs"] == 2
    assert result.notes["of.1"]["op"] == "label_diff"
    turned = mine(items, LABELS, WORDS).rows.to_pylist()[0]
    assert turned["evidence"]["operator"] == "label_diff"


def test_pairs_of_several_targets_are_the_same_only_with_all_of_them() -> None:
    rows = [("x", "red", "x", None), ("y", "blue", "x", None), ("z", "blue", "x", None)]
    items = make_items(rows)
    many = {**LABELS, "targets": 2}
    result = mine(items, many, LABELS)
    sizes = sorted(len(row["targets"]) for row in result.rows.to_pylist())
    # red → blue twice by two targets; blue → red is the same pair to both miners.
    assert sizes == [1, 1, 1, 1, 2]
    assert result.notes["found_by_several"] == 2


def test_chunks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items([(f"a {c} cat", c, s, "p") for c in ("red", "blue", "tan") for s in "xy"])
    whole = mine(items, PAGES, WORDS, LABELS)
    monkeypatch.setattr(module, "CHUNK", 3)
    assert mine(items, PAGES, WORDS, LABELS).rows.combine_chunks() == whole.rows.combine_chunks()


@pytest.mark.parametrize(
    ("of", "fault"),
    [
        (
            [WORDS, {"op": "knn_bend"}],
            r"of\.1: no pair operator 'knn_bend'; did you mean 'knn_band'",
        ),
        ([WORDS, {"k": 3}], r"of\.1\.op: must be given; valid: .*knn_band"),
        ([{**WORDS, "min_word": 3}], r"of\.0\.min_word: unknown setting; did you mean 'min_words'"),
        ([{"op": "label_diff", "labels": "a"}], r"of\.0\.labels: a list expected, 'a' found"),
        ([{**WORDS, "min_words": "x"}], r"of\.0\.min_words: .* \(found 'x'\)"),
        ([WORDS, {"op": "same_key"}], r"of\.1\.key: must be given"),
        ([WORDS, {"op": "union", "of": [{"op": "nothing"}]}], r"of\.1: of\.0: no pair operator"),
    ],
)
def test_a_fault_tells_the_miner_and_the_setting(of: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(DatagenError, match=fault) as caught:
        Union(UnionSettings(of=tuple(of)))
    assert "\n" not in str(caught.value)


def test_faults_of_a_recipe_name_the_step_and_the_miner() -> None:
    pair = {"op": "union", "of": [{"op": "knn_band", "space": "look"}, WORDS]}
    data = {"source": {"type": "tinyworld", "count": 3}, "steps": [{"pair": pair}]}
    with pytest.raises(RecipeError, match=r"steps\.union: needs 'space\.look'"):
        recipe.check(data)
    pair["of"] = [WORDS, {**WORDS, "min_words": 3, "max_words": 2}]
    with pytest.raises(RecipeError, match=r"steps\.union: of\.1: max_words=2 is below"):
        recipe.check(data)
    pair["of"] = [WORDS, {**WORDS, "worms": 2}]
    with pytest.raises(RecipeError, match=r"steps\.union: of\.1\.worms: unknown setting"):
        recipe.check(data)


def test_a_miner_in_a_file_beside_the_recipe_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text(
        "from datagen.pairing.label_diff import LabelDiff\n\n\nclass Own(LabelDiff):\n    pass\n"
    )
    (tmp_path / "mine" / "r.yaml").write_text(
        "source: {type: tinyworld, count: 3}\nsteps:\n"
        "  - pair: {op: union, of: [{op: 'own.py:Own', labels: [background]}]}\n"
    )
    monkeypatch.chdir(tmp_path)
    found = recipe.load("mine/r.yaml")
    assert found.steps[0].operator.needs("items") == {"items.labels"}


def test_needs_are_those_of_all_miners_and_their_versions_show() -> None:
    band = {"op": "knn_band", "space": "image"}
    operator = Union(UnionSettings(of=(WORDS, band, LABELS)))
    assert operator.needs("items") == {"items.captions", "space.image", "items.labels"}
    assert operator.gives("items") == {"pairs"}
    assert operator.revision() == "one_word_diff@1;knn_band@1;label_diff@1"
    assert registry.find("pair", "union") is Union


def test_what_a_miner_refuses_names_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from datagen.pairing import _groups

    monkeypatch.setattr(_groups, "MOST_PAIRS", 1)
    items = make_items([("a", c, "x", None) for c in ("red", "blue", "tan")])
    with pytest.raises(DatagenError, match=r"union: of\.1: label_diff: 3 candidate pairs"):
        mine(items, WORDS, LABELS)


@pytest.mark.parametrize("count", [0, 1])
def test_tiny_tables_work(count: int) -> None:
    result = mine(make_items([("a cat", "c", "s", "p")] * count), WORDS, LABELS)
    assert result.rows.num_rows == 0
    assert result.rows.schema == schema.PAIRS
    assert result.verdicts.num_rows == count


@pytest.mark.real_data
def test_neighbours_titles_and_labels_of_real_products_join(tmp_path: Path) -> None:
    place = DATA / "photos/fashion/items.jsonl"
    if not place.exists():
        pytest.skip(f"no real data at {place}; set DATAGEN_TEST_DATA")
    rows = [json.loads(line) for line in place.read_text().splitlines()[:600]]
    items = make_items(
        [(r["productDisplayName"], r["baseColour"], r["subCategory"], r["season"]) for r in rows]
    )
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    Space.write(str(tmp_path / "image"), items["id"].to_pylist(), vectors)
    context = Context(spaces={"image": str(tmp_path / "image")})
    of: list[dict[str, Any]] = [{"op": "knn_band", "low": 0.5}, WORDS, LABELS]
    result = mine(items, *of, context=context)
    found = [set(by_members(alone(items, one, context).rows)) for one in of]
    assert all(found)
    assert set(by_members(result.rows)) == set().union(*found)
    several = set().union(*(a & b for n, a in enumerate(found) for b in found[:n]))
    assert result.notes["found_by_several"] >= len(several) > 0
