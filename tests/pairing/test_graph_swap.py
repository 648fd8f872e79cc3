"""Swaps in scene graphs against brute force over all pairs of items."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import registry, schema
from datagen.pairing import _groups
from datagen.pairing.graph_swap import GraphSwap, Settings
from datagen.pairing.union import Union, UnionSettings
from datagen.step import Context, Result, Tables
from datagen.texts.given import Given, GivenSettings
from datagen.texts.template import Template, TemplateSettings

Graph = list[tuple[str, str, str]]


def make_items(graphs: list[Any], hashes: list[str] | None = None) -> pa.Table:
    rows = []
    for number, graph in enumerate(graphs):
        labels = json.dumps({} if graph is None else {"graph": graph})
        rows.append(
            {
                "id": schema.content_id("test", str(number)),
                "key": f"k{number}",
                "source": "test",
                "media": {
                    "path": f"{number}.jpg",
                    "sha256": hashes[number] if hashes else f"hash{number}",
                    "modality": "image",
                },
                "captions": [f"caption {number}"],
                "labels": labels,
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def mine(items: pa.Table, seed: int = 0, **chosen: Any) -> Result:
    operator = GraphSwap(Settings(**{"max_per_item": None} | chosen))
    assert list(operator.check()) == []
    return operator(Tables(items, items, "items"), Context(seed=seed))


def found(result: Result) -> list[tuple[str, str, str, str | None, str]]:
    """Keys of both sides, subject, removed, added; the last change is the whole text."""
    out = []
    for row in result.rows.to_pylist():
        one, two = (row[side][0]["key"] for side in ("references", "targets"))
        change, text = row["evidence"]["changes"]
        assert text == {"field": "text", "removed": None, "added": change["added"]}
        out.append((one, two, change["field"], change["removed"], change["added"]))
    assert len(set(out)) == len(out)
    return out


def rules_of(result: Result) -> dict[str, str | None]:
    keys = {schema.content_id("test", str(n)): f"k{n}" for n in range(result.verdicts.num_rows)}
    columns = result.verdicts["id"].to_pylist(), result.verdicts["rule"].to_pylist()
    return {keys[name]: rule for name, rule in zip(*columns, strict=True)}


def brute_force(
    graphs: list[Graph], swap: str, images: int = 1, objects: int = 1
) -> dict[tuple[str, str, str, str], set[str | None]]:
    """(reference, target, subject, added) and what may stand as removed."""
    shows = [{tuple(edge) for edge in graph} for graph in graphs]
    frequent = set()
    for subject in {s for own in shows for s, _, _ in own}:
        having = [own for own in shows if any(s == subject for s, _, _ in own)]
        named = {o for own in shows for s, _, o in own if s == subject}
        if len(having) >= images and len(named) >= objects:
            frequent.add(subject)

    def same(one: tuple[str, str, str], two: tuple[str, str, str]) -> bool:
        """Whether two edges of one subject say what must differ in the same way."""
        return one[2] == two[2] if swap == "object" else one[1:] == two[1:]

    out: dict[tuple[str, str, str, str], set[str | None]] = {}
    for i, mine_ in enumerate(shows):
        for j, other in enumerate(shows):
            for new in other if i != j else ():
                olds = [e for e in mine_ if e[0] == new[0] in frequent]
                if swap == "relation":
                    olds = [e for e in olds if e[2] == new[2]]
                if not olds or any(same(e, new) for e in olds):
                    continue
                gone = {
                    " ".join(e[1:])
                    for e in olds
                    if not any(same(e, o) for o in other if o[0] == e[0])
                }
                key = (f"k{i}", f"k{j}", new[0], " ".join(new[1:]))
                out[key] = set(gone) or {None}
    return out


edge = st.tuples(
    st.sampled_from("ab"), st.sampled_from(["on", "near", "in"]), st.sampled_from("xyz")
)


@settings(max_examples=150, deadline=None)
@given(
    graphs=st.lists(st.lists(edge, max_size=4), max_size=9),
    swap=st.sampled_from(["object", "relation"]),
    images=st.integers(2, 5),
    objects=st.integers(1, 3),
)
def test_pairs_equal_those_of_brute_force(
    graphs: list[Graph], swap: str, images: int, objects: int
) -> None:
    items = make_items(graphs)
    result = mine(items, swap=swap, min_images=images, min_objects=objects)
    expected = brute_force(graphs, swap, images, objects)
    pairs = found(result)
    assert {(a, b, s, new) for a, b, s, _, new in pairs} == set(expected)
    assert len(pairs) == len(expected) == result.notes["pairs"]
    for one, two, subject, old, new in pairs:
        assert old in expected[one, two, subject, new]
    used = {key for pair in pairs for key in pair[:2]}
    assert {key for key, rule in rules_of(result).items() if rule is None} == used


def world(count: int, seed: int = 0) -> list[Graph]:
    dice = random.Random(seed)
    subjects, objects = ["dog", "cat", "man", "bird"], ["sofa", "beach", "snow", "car", "tree"]
    return [
        [
            (dice.choice(subjects), dice.choice(["on", "in", "near"]), dice.choice(objects))
            for _ in range(dice.randint(1, 3))
        ]
        for _ in range(count)
    ]


def test_order_of_items_does_not_show_and_caps_hold() -> None:
    graphs = world(200)
    chosen = {"max_per_item": 6, "max_per_subject": 90, "max_per_reference": 3, "max_per_target": 2}
    items = make_items(graphs)
    first = mine(items, **chosen)
    order = random.Random(1).sample(range(200), 200)
    second = mine(items.take(pa.array(order)), **chosen)
    assert first.rows.sort_by("id").to_pylist() == second.rows.sort_by("id").to_pylist()
    assert rules_of(first) == rules_of(second)
    assert first.notes["pairs"] == second.notes["pairs"] > 100
    pairs = found(first)
    for place, most in ((0, 3), (1, 2), (2, 90)):
        assert max(Counter(pair[place] for pair in pairs).values()) <= most
    assert {(a, b, s, new) for a, b, s, _, new in pairs} <= set(brute_force(graphs, "object"))
    assert set(found(mine(items, seed=1, **chosen))) != set(pairs)


def test_a_frequent_subject_is_not_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Graph] = [[("man", "with", f"thing {n % 40}")] for n in range(2000)]
    monkeypatch.setattr(_groups, "BLOCK", 1000)
    result = mine(make_items(graphs), max_per_item=10)
    assert result.notes["candidate_pairs"] <= 2000 * 5
    uses = Counter(one for one, *_ in found(result))
    assert len(uses) == 2000
    assert max(uses.values()) <= 20


def test_what_a_target_keeps_is_not_said_to_go() -> None:
    graphs: list[Graph] = [
        [("dog", "on", "sofa")],
        [("dog", "on", "sofa"), ("dog", "with", "ball")],
        [("dog", "in", "snow")],
    ]
    pairs = set(found(mine(make_items(graphs), min_images=2)))
    assert ("k0", "k1", "dog", None, "with ball") in pairs
    assert ("k0", "k2", "dog", "on sofa", "in snow") in pairs
    assert not {pair for pair in pairs if pair[:2] == ("k1", "k0")}
    (row,) = [
        row
        for row in mine(make_items(graphs), min_images=2).rows.to_pylist()
        if (row["references"][0]["key"], row["targets"][0]["key"]) == ("k0", "k1")
    ]
    assert row["evidence"]["reason"] == "'dog' 'with ball' added"


def test_graphs_of_all_forms_are_read_and_bad_ones_counted() -> None:
    graphs = [
        [["Dog", " on ", "the  Sofa"], {"subject": "dog", "predicate": "in", "object": "snow"}],
        [["dog", "on", "grass"], ["dog", "on"], "dog on sofa", ["dog", 3, "x"], ["", "on", "x"]],
        "dog on sofa",
        None,
        [],
    ]
    result = mine(make_items(graphs), min_images=2)
    assert result.notes["bad_edges"] == 4
    assert result.notes["bad_graphs"] == 1
    assert result.notes["examples"]["bad_graphs"] == ["k2: dog on sofa"]
    assert {pair[:2] for pair in found(result)} == {("k0", "k1"), ("k1", "k0")}
    told = rules_of(result)
    assert [told[f"k{n}"] for n in (2, 3, 4)] == ["no_graph"] * 3


def test_only_concrete_nouns_count_where_a_table_is_given(tmp_path: Path) -> None:
    table = tmp_path / "words.csv"
    table.write_text("Word,Conc.M\ndog,4.85\nsofa,4.9\nsnow,4.85\nidea,1.6\nchair,4.8\n")
    graphs: list[Graph] = [
        [("black dog", "on", "sofa")],
        [("black dog", "in", "snow")],
        [("black dog", "has", "idea")],
        [("dogs", "near", "chair"), ("dogs", "near", "unicorn")],
    ]
    chosen = {"concreteness": str(table), "noun": "Word", "score": "Conc.M", "min_images": 2}
    result = mine(make_items(graphs), **chosen)
    assert {pair[:2] for pair in found(result)} == {("k0", "k1"), ("k1", "k0")}
    assert result.notes["edges_not_concrete"] == 3
    assert set(result.notes["examples"]["not_concrete"]) == {"idea", "chair", "unicorn"}
    assert [rules_of(result)[key] for key in ("k2", "k3")] == ["no_subject"] * 2
    lower = mine(make_items(graphs), min_concreteness=1.0, **chosen)
    assert lower.notes["edges_not_concrete"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("word,score\ndog,4.9\n", "no column 'noun'"),
        ("noun,score\ndog,high\n", "row 1: score: a number was expected, 'high' found"),
        ("noun,score\n", "no rows"),
        ("noun,score\ndog\n", "row 1: "),
    ],
)
def test_a_table_that_cannot_be_read_is_told_in_one_line(
    tmp_path: Path, text: str, said: str
) -> None:
    table = tmp_path / "nouns.csv"
    table.write_text(text)
    (fault,) = GraphSwap(Settings(concreteness=str(table))).check()
    assert said in fault
    assert str(table) in fault
    assert "\n" not in fault
    (absent,) = GraphSwap(Settings(concreteness=str(tmp_path / "none.csv"))).check()
    assert "no such file" in absent


def test_equal_media_are_no_pair_and_a_union_holds_the_rest() -> None:
    graphs: list[Graph] = [[("cat", "on", "mat")], [("cat", "in", "box")], [("cat", "at", "door")]]
    items = make_items(graphs, ["same", "same", "other"])
    pairs = {pair[:2] for pair in found(mine(items, min_images=2))}
    assert pairs == {("k0", "k2"), ("k2", "k0"), ("k1", "k2"), ("k2", "k1")}
    of = ({"op": "graph_swap", "min_images": 2}, {"op": "graph_swap", "min_images": 3})
    both = Union(UnionSettings(of=of))(Tables(items, items, "items"), Context())
    assert both.notes["found_by_several"] == both.rows.num_rows == 4


def test_texts_are_relation_and_object(tmp_path: Path) -> None:
    graphs: list[Graph] = [[("dog", "on", "sofa")], [("dog", "in", "snow")]]
    result = mine(make_items(graphs), min_images=2)
    told = Given(GivenSettings())(result.rows)
    assert sorted(told["modification"].to_pylist()) == ["in snow", "on sofa"]
    plain = Template(TemplateSettings(templates=("{added}",)))(result.rows)
    assert sorted(plain["modification"].to_pylist()) == ["in snow", "on sofa"]
    for row in result.rows.to_pylist():
        changes = json.dumps(row["evidence"]["changes"], sort_keys=True, separators=(",", ":"))
        ends = [[row[side][0]["id"]] for side in ("references", "targets")]
        assert row["id"] == schema.pair_id(*ends, changes)


def test_no_items_make_no_pair() -> None:
    assert registry.find("pair", "graph_swap") is GraphSwap
    for graphs in ([], [None], [[("a", "on", "b")]]):
        result = mine(make_items(graphs))
        assert result.rows.schema == schema.PAIRS
        assert result.rows.num_rows == 0
        assert result.verdicts.num_rows == len(graphs)
