"""Labels that differ in exactly n keys, against brute force over all pairs."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import registry, schema
from datagen.errors import DatagenError
from datagen.pairing import _groups, _labels
from datagen.pairing.label_diff import LabelDiff, Settings
from datagen.step import Context, Result, Tables
from datagen.texts.template import Template, TemplateSettings

ROOT = Path(__file__).parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
Edge = tuple[str, str, tuple[tuple[str, str | None, str | None], ...]]


def make_items(
    labels: Sequence[Mapping[str, Any]],
    captions: Sequence[str] | None = None,
    hashes: Sequence[str] | None = None,
) -> pa.Table:
    rows = []
    for number, own in enumerate(labels):
        said = [captions[number]] if captions else []
        rows.append(
            {
                "id": schema.item_id(f"{number}", said, json.dumps(own)),
                "key": f"k{number}",
                "source": "test",
                "media": {
                    "path": f"{number}.jpg",
                    "sha256": hashes[number] if hashes else f"hash{number}",
                    "modality": "image",
                },
                "captions": said,
                "labels": json.dumps(own),
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def mine(items: pa.Table, context: Context | None = None, **chosen: Any) -> Result:
    chosen = {"max_per_item": None} | chosen
    operator = LabelDiff(Settings(**chosen))
    assert list(operator.check()) == []
    return operator(Tables(items, items, "items"), context or Context())


def edges(result: Result) -> list[Edge]:
    """(reference key, target key, changes) of every reference and target."""
    out = []
    for row in result.rows.to_pylist():
        changes = tuple((c["field"], c["removed"], c["added"]) for c in row["evidence"]["changes"])
        out += [(row["references"][0]["key"], one["key"], changes) for one in row["targets"]]
    return out


def rules_of(result: Result) -> dict[str, str | None]:
    columns = result.verdicts["id"].to_pylist(), result.verdicts["rule"].to_pylist()
    return dict(zip(*columns, strict=True))


def as_set(value: Any, separator: str | None, same_parent: bool) -> frozenset[tuple[str, ...]]:
    found = value if isinstance(value, list) else [value]
    out = {tuple(str(one).split(separator)) if separator else (str(one),) for one in found}
    return frozenset(out if same_parent else {path[-1:] for path in out})


def brute_force(
    labels: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    n: int = 1,
    other: Sequence[str] = (),
    separator: str | None = None,
    same_parent: bool = True,
) -> set[Edge]:
    """Straight from the words of the settings, two items at a time: O(n²)."""
    out: set[Edge] = set()
    for (i, a), (j, b) in itertools.permutations(enumerate(labels), 2):
        if any(row.get(key) in (None, "") for row in (a, b) for key in (*keys, *other)):
            continue
        changes: list[tuple[str, str | None, str | None]] = []
        sound = all(a[key] != b[key] for key in other)
        for key in keys:
            one, two = (as_set(row[key], separator, same_parent) for row in (a, b))
            if one == two:
                continue
            old, new = sorted(one - two), sorted(two - one)
            sound &= len(old) <= 1 and len(new) <= 1
            if old and new and old[0][:-1] != new[0][:-1]:
                sound = False
            changes.append((key, old[0][-1] if old else None, new[0][-1] if new else None))
        if sound and len(changes) == n:
            out.add((f"k{i}", f"k{j}", tuple(changes)))
    return out


PLAIN = st.sampled_from(["a", "b", "c"])
LISTS = st.one_of(PLAIN, st.lists(st.sampled_from("abcd"), max_size=3, unique=True))
PATHS = st.one_of(
    st.sampled_from(["g/d/x", "g/d/y", "g/s/x", "g/d", "g", "x"]),
    st.lists(st.sampled_from(["g/d/x", "g/d/y", "g/s/z", "g/s"]), max_size=3, unique=True),
)


def collections(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries(
        {"one": values}, optional={"two": values, "three": PLAIN, "page": st.integers(0, 2)}
    )
    return st.lists(row, max_size=14)


@settings(max_examples=150, deadline=None)
@given(collections(LISTS), st.integers(1, 3), st.booleans())
def test_pairs_equal_brute_force(labels: list[dict[str, Any]], n: int, elsewhere: bool) -> None:
    other = ("page",) if elsewhere else ()
    keys = ("one", "two", "three")
    found = edges(mine(make_items(labels), labels=keys, n=n, other=other))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(labels, keys, n, other)


@settings(max_examples=150, deadline=None)
@given(collections(PATHS), st.booleans(), st.integers(1, 2))
def test_levels_of_a_thesaurus_equal_brute_force(
    labels: list[dict[str, Any]], same_parent: bool, n: int
) -> None:
    keys = ("one", "two")
    chosen: dict[str, Any] = {"separator": "/", "same_parent": same_parent}
    found = edges(mine(make_items(labels), labels=keys, n=n, **chosen))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(labels, keys, n, (), **chosen)


@settings(max_examples=60, deadline=None)
@given(collections(LISTS), st.randoms(use_true_random=False), st.integers(1, 3))
def test_order_of_rows_does_not_show_under_any_cap(
    labels: list[dict[str, Any]], order: random.Random, cap: int
) -> None:
    items = make_items(labels)
    rows = list(range(len(labels)))
    order.shuffle(rows)
    chosen: dict[str, Any] = {
        "labels": ("one", "two"),
        "max_per_item": cap,
        "max_per_reference": cap,
        "max_per_target": cap + 1,
        "max_per_value_pair": cap,
        "targets": cap,
        "both_directions": cap != 2,
    }
    straight = mine(items, **chosen)
    shuffled = mine(items.take(pa.array(rows, pa.int64())), **chosen)
    assert straight.rows.sort_by("id") == shuffled.rows.sort_by("id")
    assert straight.verdicts.sort_by("id") == shuffled.verdicts.sort_by("id")
    assert straight.notes == shuffled.notes
    assert set(edges(straight)) <= brute_force(labels, ("one", "two"))


def test_a_row_tells_what_changed_and_that_all_else_is_equal() -> None:
    labels = [{"baseColour": "red", "usage": "Casual"}, {"baseColour": "blue", "usage": "Casual"}]
    items = make_items(labels, ["a red one", "a blue one"])
    rows = mine(items, Context(step="pairs", seed=5), labels=("baseColour", "usage")).rows
    rows.validate(full=True)
    assert rows.schema == schema.PAIRS
    row = {row["references"][0]["key"]: row for row in rows.to_pylist()}["k0"]
    first, second = items.to_pylist()
    assert row["references"] == [schema.member(first)]
    assert row["targets"] == [schema.member(second)]
    changes = [{"field": "baseColour", "removed": "red", "added": "blue"}]
    assert row["evidence"] == {
        "operator": "label_diff",
        "reason": "baseColour: 'red' → 'blue', all else equal",
        "changes": changes,
        "score": None,
    }
    text = schema.canonical_json(changes)
    assert row["id"] == schema.pair_id([first["id"]], [second["id"]], text)
    assert row["provenance"][0]["step"] == "pairs"
    assert row["provenance"][0]["seed"] == 5


def test_reasons_tell_additions_removals_and_several_changes() -> None:
    labels = [{"m": ["wood"], "k": "x"}, {"m": ["wood", "iron"], "k": "x"}]
    reasons = mine(make_items(labels), labels=("m", "k")).rows["evidence"].combine_chunks()
    assert sorted(reasons.field("reason").to_pylist()) == [
        "m: 'iron' added, all else equal",
        "m: 'iron' removed, all else equal",
    ]
    both = [{"m": "a", "k": "x"}, {"m": "b", "k": "y"}]
    reasons = mine(make_items(both), labels=("m", "k"), n=2, both_directions=False).rows
    (reason,) = reasons["evidence"].combine_chunks().field("reason").to_pylist()
    assert reason in ("m: 'a' → 'b', k: 'x' → 'y'", "m: 'b' → 'a', k: 'y' → 'x'")


def test_an_item_that_lacks_a_label_is_rejected_with_the_key() -> None:
    whole = {"colour": "red", "use": "x", "page": "1"}
    labels = [
        whole,
        {**whole, "colour": "blue", "page": "2"},
        {**whole, "use": None},
        {**whole, "colour": ""},
        {"colour": "red", "use": "x"},
        {**whole, "use": "alone"},
    ]
    result = mine(make_items(labels), labels=("colour", "use"), other=("page",))
    assert list(rules_of(result).values()) == [
        None, None, "no_label", "no_label", "no_label", "no_partner",
    ]  # fmt: skip
    assert result.verdicts["detail"].to_pylist()[2:5] == [
        "no value for 'use'",
        "no value for 'colour'",
        "no value for 'page'",
    ]


def test_values_are_compared_as_text_without_outer_space() -> None:
    labels = [{"n": 1, "c": " red"}, {"n": "1", "c": "blue "}, {"n": True, "c": "blue"}]
    assert {edge[:2] for edge in edges(mine(make_items(labels), labels=("n", "c")))} == {
        ("k0", "k1"), ("k1", "k0"), ("k1", "k2"), ("k2", "k1"),
    }  # fmt: skip


def test_blank_levels_of_a_path_do_not_count() -> None:
    labels = [{"t": "garment / dress/ "}, {"t": "garment/coat"}, {"t": " / "}]
    result = mine(make_items(labels), labels=("t",), separator="/")
    assert {edge[2] for edge in edges(result)} == {
        (("t", "dress", "coat"),),
        (("t", "coat", "dress"),),
    }
    assert list(rules_of(result).values()) == [None, None, "no_label"]


#: A thesaurus of garments: what is worn, what it is made of, and where it was made.
THESAURUS = {
    "ball gown": ("garment/dress/evening dress", ["fibre/silk"], "Europe/France/Paris"),
    "day dress": ("garment/dress/day dress", ["fibre/silk"], "Europe/France/Paris"),
    "frock coat": ("garment/coat/frock coat", ["fibre/silk"], "Europe/France/Paris"),
    "lined gown": (
        "garment/dress/evening dress",
        ["fibre/silk", "fibre/linen"],
        "Europe/France/Paris",
    ),
    "wool gown": ("garment/dress/evening dress", ["fibre/wool"], "Europe/France/Paris"),
    "fur gown": ("garment/dress/evening dress", ["skin/fur"], "Europe/France/Paris"),
    "lyon gown": ("garment/dress/evening dress", ["fibre/silk"], "Europe/France/Lyon"),
    "texas gown": ("garment/dress/evening dress", ["fibre/silk"], "America/USA/Paris"),
}


def test_objects_of_a_thesaurus_differ_in_one_term_of_the_same_parent() -> None:
    names = list(THESAURUS)
    labels = [
        dict(zip(("type", "material", "place"), row, strict=True)) for row in THESAURUS.values()
    ]
    chosen: dict[str, Any] = {"labels": ("type", "material", "place"), "separator": "/"}

    def told(**more: Any) -> set[tuple[str, str, str | None, str | None]]:
        found = edges(mine(make_items(labels), both_directions=True, **chosen, **more))
        assert all(len(changes) == 1 for _, _, changes in found)
        return {
            (names[int(one[1:])], names[int(two[1:])], *changes[0][1:])
            for one, two, changes in found
            if int(one[1:]) < int(two[1:])
        }

    siblings = {
        ("ball gown", "day dress", "evening dress", "day dress"),
        ("ball gown", "lined gown", None, "linen"),
        ("ball gown", "wool gown", "silk", "wool"),
        ("ball gown", "lyon gown", "Paris", "Lyon"),
    }
    assert told() == siblings
    # Without their parents a frock coat is as near as a day dress, and Paris is Paris.
    assert told(same_parent=False) == siblings | {
        ("ball gown", "frock coat", "evening dress", "frock coat"),
        ("day dress", "frock coat", "day dress", "frock coat"),
        ("ball gown", "fur gown", "silk", "fur"),
        ("wool gown", "fur gown", "wool", "fur"),
        ("day dress", "texas gown", "day dress", "evening dress"),
        ("frock coat", "texas gown", "frock coat", "evening dress"),
        ("lined gown", "texas gown", "linen", None),
        ("wool gown", "texas gown", "wool", "silk"),
        ("fur gown", "texas gown", "fur", "silk"),
        ("lyon gown", "texas gown", "Lyon", "Paris"),
    }


def test_two_items_of_the_same_bytes_are_never_a_pair() -> None:
    items = make_items([{"c": "a"}, {"c": "b"}], hashes=["same", "same"])
    result = mine(items, labels=("c",))
    assert result.rows.num_rows == 0
    assert set(rules_of(result).values()) == {"no_partner"}


def test_one_direction_gives_each_pair_once() -> None:
    labels = [{"c": letter} for letter in "abcdefgh"]
    both = set(edges(mine(make_items(labels), labels=("c",))))
    one = set(edges(mine(make_items(labels), labels=("c",), both_directions=False)))
    assert len(both) == 2 * len(one) == 56
    turned = {(b, a, tuple((f, y, x) for f, x, y in changes)) for a, b, changes in one}
    assert one | turned == both


def test_targets_make_the_same_change_and_are_the_true_ones() -> None:
    labels = [{"c": "red"}] * 3 + [{"c": "blue"}] * 7 + [{"c": "tan"}] * 2
    items = make_items(labels)
    every = mine(items, labels=("c",), targets=None)
    assert set(edges(every)) == brute_force(labels, ("c",))
    shapes = Counter(len(row["targets"]) for row in every.rows.to_pylist())
    assert shapes == {7: 5, 2: 10, 3: 9}
    four = mine(items, labels=("c",), targets=4)
    assert max(len(row["targets"]) for row in four.rows.to_pylist()) == 4
    assert four.rows.num_rows == every.rows.num_rows
    assert set(edges(four)) < set(edges(every))
    row = every.rows.to_pylist()[0]
    members = [one["id"] for one in row["targets"]]
    changes = schema.canonical_json(row["evidence"]["changes"])
    assert row["id"] == schema.pair_id([row["references"][0]["id"]], members, changes)


@pytest.mark.parametrize("targets", [1, 3])
def test_caps_hold(targets: int) -> None:
    labels = [{"c": f"c{n % 5}", "s": f"s{n % 3}"} for n in range(60)]
    chosen: dict[str, Any] = {"labels": ("c", "s"), "targets": targets}
    items = make_items(labels)
    for cap in (1, 2, 5):
        rows = mine(items, **chosen, max_per_reference=cap).rows.to_pylist()
        assert max(Counter(row["references"][0]["key"] for row in rows).values()) == cap
        found = edges(mine(items, **chosen, max_per_target=cap))
        assert max(Counter(edge[1] for edge in found).values()) == cap
        result = mine(items, **chosen, max_per_value_pair=cap)
        changes = [json.dumps(row["evidence"]["changes"]) for row in result.rows.to_pylist()]
        assert set(Counter(changes).values()) == {cap}
        found = edges(mine(items, **chosen, max_per_item=cap))
        partners: dict[str, set[str]] = defaultdict(set)
        for reference, target, _ in found:
            partners[reference].add(target)
        assert max(map(len, partners.values())) == cap
    seeded = mine(items, Context(seed=1), **chosen, max_per_item=2)
    assert set(edges(seeded)) != set(edges(mine(items, **chosen, max_per_item=2)))


def test_thousands_that_are_equal_in_all_else_are_bounded_and_spread() -> None:
    labels = [{"c": f"c{n % 4}", "s": "s"} for n in range(6000)]
    labels += [{"c": "rare", "s": "s"}]
    result = mine(make_items(labels), labels=("c", "s"), max_per_item=8)
    assert result.notes["candidate_pairs"] <= 6001 * 4
    found = edges(result)
    partners = Counter(edge[0] for edge in found)
    assert max(partners.values()) == 8
    assert sum(partners.values()) / len(partners) > 5
    assert partners["k6000"] >= 4
    changes = Counter(edge[2] for edge in found if "rare" not in edge[2][0])
    assert len(changes) == 12
    assert max(changes.values()) < 1.3 * min(changes.values())


def test_too_many_pairs_are_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items([{"c": f"c{n}"} for n in range(100)])
    monkeypatch.setattr(_groups, "MOST_PAIRS", 1000)
    with pytest.raises(DatagenError, match=r"4,950 candidate pairs.*set max_per_item"):
        mine(items, labels=("c",))
    assert mine(items, labels=("c",), max_per_item=4).rows.num_rows > 0


def test_blocks_and_chunks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [{"c": f"c{n % 5}", "s": ["x", f"s{n % 3}"]} for n in range(30)]
    items = make_items(labels)
    whole = mine(items, labels=("c", "s"), targets=3)
    pieces = pa.concat_tables([items.slice(0, 7), items.slice(7, 1), items.slice(8)])
    monkeypatch.setattr(_groups, "BLOCK", 5)
    monkeypatch.setattr(_labels, "CHUNK", 4)
    cut = mine(pieces, labels=("c", "s"), targets=3)
    assert cut.rows.combine_chunks() == whole.rows.combine_chunks()
    assert cut.verdicts == whole.verdicts


@pytest.mark.parametrize("labels", [[], [{}], [{"c": "red"}], [{"c": []}, {"c": []}]])
def test_tiny_tables_work(labels: list[dict[str, Any]]) -> None:
    result = mine(make_items(labels), labels=("c",))
    assert result.rows.num_rows == 0
    assert result.rows.schema == schema.PAIRS
    assert result.verdicts.num_rows == len(labels)


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        ({"labels": ("a", "b"), "n": 3}, "n=3 is more than the 2 labels"),
        ({"labels": ("a", "b"), "other": ("b",)}, "'b' is named twice"),
        ({"labels": tuple("abcdefghijklmnop"), "n": 8}, "12,870 ways"),
    ],
)
def test_settings_that_make_no_sense_are_faults(chosen: dict[str, Any], fault: str) -> None:
    assert fault in "\n".join(LabelDiff(Settings(**chosen)).check())


def test_the_registry_finds_it() -> None:
    assert registry.find("pair", "label_diff") is LabelDiff
    assert LabelDiff(Settings(labels=("c",))).needs("items") == {"items.labels"}


def test_template_texts_tell_the_labels_that_change() -> None:
    labels = [
        {"baseColour": "Red", "season": "Summer", "materials": ["wood"]},
        {"baseColour": "Blue", "season": "Summer", "materials": ["wood"]},
        {"baseColour": "Blue", "season": "Winter", "materials": ["wood"]},
        {"baseColour": "Blue", "season": "Winter", "materials": ["wood", "iron"]},
    ]
    keys = ("baseColour", "season", "materials")
    rows = mine(make_items(labels, ["Acme Red Shirt", *["Acme Blue Shirt"] * 3]), labels=keys).rows
    writer = Template(TemplateSettings(texts_per_pair=100))
    writer.open(Context())
    done = writer(rows)
    assert set(done["verdict"].to_pylist()) == {schema.KEPT}
    ends = {
        row["id"]: (row["references"][0]["key"], row["targets"][0]["key"])
        for row in rows.to_pylist()
    }
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, text in zip(done["id"].to_pylist(), done["modification"].to_pylist(), strict=True):
        said[ends[name]].append(text.lower())
    assert all("red" in text or "blue" in text for text in said["k0", "k1"])
    assert all("blue" in text for text in said["k0", "k1"])
    assert all("winter" in text for text in said["k1", "k2"])
    assert all("iron" in text and "none" not in text for text in said["k2", "k3"])
    assert all("iron" in text and "none" not in text for text in said["k3", "k2"])


def lines(path: str) -> list[dict[str, Any]]:
    place = DATA / path
    if not place.exists():
        pytest.skip(f"no real data at {place}; set DATAGEN_TEST_DATA")
    data = gzip.decompress(place.read_bytes()) if place.suffix == ".gz" else place.read_bytes()
    return [json.loads(line) for line in data.splitlines()]


FASHION = ("gender", "masterCategory", "subCategory", "baseColour", "season", "usage")


@pytest.mark.real_data
@pytest.mark.parametrize("n", [1, 2])
def test_fashion_labels_equal_brute_force(n: int) -> None:
    labels = lines("photos/fashion/items.jsonl")[::12][:400]
    found = edges(mine(make_items(labels), labels=FASHION, n=n))
    assert len(found) == len(set(found)) > 1000
    assert set(found) == brute_force(labels, FASHION, n)


@pytest.mark.real_data
def test_narrations_of_other_videos_equal_brute_force() -> None:
    labels = lines("captions/epic55_narrations.jsonl.gz")[::30][:420]
    chosen: dict[str, Any] = {"labels": ("verb", "noun"), "other": ("video_id",)}
    expected = brute_force(labels, ("verb", "noun"), 1, ("video_id",))
    assert expected
    assert set(edges(mine(make_items(labels), **chosen))) == expected
    assert set(edges(mine(make_items(labels), **chosen, targets=None))) == expected


@pytest.mark.real_data
def test_all_fashion_pairs_under_caps_are_true_and_use_nearly_every_item() -> None:
    labels = lines("photos/fashion/items.jsonl")
    result = mine(make_items(labels), labels=FASHION, targets=4, max_per_item=8)
    for reference, target, changes in edges(result):
        a, b = labels[int(reference[1:])], labels[int(target[1:])]
        different = [(key, a[key], b[key]) for key in FASHION if a[key] != b[key]]
        assert different == list(changes)
    assert sum(rule is None for rule in rules_of(result).values()) > 0.99 * len(labels)
