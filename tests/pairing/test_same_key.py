"""Items that share a label, against brute force over all pairs."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import registry, schema
from datagen.errors import DatagenError
from datagen.pairing import _groups
from datagen.pairing._numbers import found_at, number, plain
from datagen.pairing.same_key import SameKey, Settings
from datagen.step import Context, Result, Tables
from datagen.texts.template import Template, TemplateSettings

ROOT = Path(__file__).parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
Labels = Sequence[Mapping[str, Any]]


def make_items(labels: Labels, hashes: Sequence[str] | None = None) -> pa.Table:
    rows = [
        {
            "id": schema.item_id(f"{n}", [], json.dumps(own)),
            "key": f"k{n}",
            "source": "test",
            "media": {"path": f"{n}.mp4", "sha256": hashes[n] if hashes else f"hash{n}"},
            "captions": [],
            "labels": json.dumps(own),
        }
        for n, own in enumerate(labels)
    ]
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def mine(items: pa.Table, context: Context | None = None, **chosen: Any) -> Result:
    operator = SameKey(Settings(**({"max_per_item": None} | chosen)))
    assert list(operator.check()) == []
    return operator(Tables(items, items, "items"), context or Context())


def edges(result: Result) -> list[tuple[int, int]]:
    return [
        (int(row["references"][0]["key"][1:]), int(row["targets"][0]["key"][1:]))
        for row in result.rows.to_pylist()
    ]


def rules_of(result: Result) -> list[str | None]:
    return list(result.verdicts["rule"].to_pylist())


def seconds(text: Any) -> float:
    parts = [float(part) for part in str(text).split(":")]
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def usable(labels: Labels, keys: Sequence[str]) -> list[int]:
    return [n for n, row in enumerate(labels) if all(row.get(k) not in (None, "") for k in keys)]


def fits(a: Mapping[str, Any], b: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    """Whether ``b`` may follow ``a``, straight from the words of the settings."""
    equal = all(a[key] == b[key] for key in (chosen["key"], *chosen.get("same", ())))
    if not equal or any(a[key] == b[key] for key in chosen.get("differ", ())):
        return False
    if "by" not in chosen:
        return True
    gap = seconds(b[chosen["by"]]) - seconds(a[chosen["by"]])
    low, high = chosen.get("min_gap") or 0, chosen.get("max_gap")
    return gap >= low - 1e-7 and (high is None or gap <= high + 1e-7)


def brute_force(items: pa.Table, labels: Labels, chosen: Mapping[str, Any]) -> set[tuple[int, int]]:
    """Forward pairs, or with no ``by`` both directions."""
    keys = [chosen["key"], *chosen.get("same", ()), *chosen.get("differ", ())]
    able = usable(labels, [*keys, *([chosen["by"]] if "by" in chosen else [])])
    ids = items["id"].to_pylist()
    if "by" not in chosen:
        return {
            (i, j) for i, j in itertools.permutations(able, 2) if fits(labels[i], labels[j], chosen)
        }
    order = sorted(able, key=lambda n: (seconds(labels[n][chosen["by"]]), ids[n]))
    out = set()
    for place, i in enumerate(order):
        later = [j for j in order[place + 1 :] if fits(labels[i], labels[j], chosen)]
        out |= {(i, j) for j in (later[:1] if chosen.get("order") == "next" else later)}
    return out


ROWS = st.lists(
    st.fixed_dictionaries(
        {"page": st.sampled_from(["p", "q"])},
        optional={
            "at": st.sampled_from(["0", "1.5", "3", "00:00:04.25", "1:00", 2]),
            "verb": st.sampled_from("ab"),
            "noun": st.sampled_from("xyz"),
        },
    ),
    max_size=16,
)
GAP = st.sampled_from([None, 0.0, 1.5, 2.75])


@settings(max_examples=150, deadline=None)
@given(ROWS, st.sampled_from([(), ("verb",), ("verb", "noun")]), st.booleans())
def test_pairs_without_an_order_equal_brute_force(
    labels: Labels, differ: tuple[str, ...], alike: bool
) -> None:
    items = make_items(labels)
    same = ("noun",) if alike and "noun" not in differ else ()
    chosen = {"key": "page", "differ": differ, "same": same}
    expected = brute_force(items, labels, chosen)
    both = edges(mine(items, **chosen, both_directions=True))
    assert len(both) == len(set(both))
    assert set(both) == expected
    one = edges(mine(items, **chosen))
    assert len(one) * 2 == len(expected)
    assert {*one, *((b, a) for a, b in one)} == expected


@settings(max_examples=200, deadline=None)
@given(ROWS, st.sampled_from(["none", "next"]), GAP, GAP, st.sampled_from([(), ("verb", "noun")]))
def test_pairs_in_order_equal_brute_force(
    labels: Labels, order: str, low: float | None, more: float | None, differ: tuple[str, ...]
) -> None:
    items = make_items(labels)
    high = None if more is None else (low or 0) + more
    chosen = {"key": "page", "by": "at", "order": order, "differ": differ}
    chosen |= {"min_gap": low, "max_gap": high}
    found = edges(mine(items, **chosen))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(items, labels, chosen)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 3), st.booleans(), st.booleans())
def test_order_of_rows_does_not_show_under_any_cap(
    labels: Labels, order: random.Random, cap: int, timed: bool, following: bool
) -> None:
    items = make_items(labels)
    rows = list(range(len(labels)))
    order.shuffle(rows)
    chosen: dict[str, Any] = {"key": "page", "max_per_item": cap, "max_per_group": 2 * cap}
    chosen |= {"max_per_reference": cap, "max_per_target": cap, "both_directions": cap != 2}
    chosen |= {"by": "at", "order": "next" if following else "none"} if timed else {}
    straight = mine(items, **chosen)
    shuffled = mine(items.take(pa.array(rows, pa.int64())), **chosen)
    assert straight.rows.sort_by("id") == shuffled.rows.sort_by("id")
    assert straight.verdicts.sort_by("id") == shuffled.verdicts.sort_by("id")
    assert straight.notes == shuffled.notes


def test_times_and_numbers_are_read() -> None:
    assert number("00:01:37.05") == 97.05
    assert number("1:02:03") == 3723
    assert number("02:03,5") == 123.5
    assert [number(text) for text in ("7", "-1.5", "1e3")] == [7, -1.5, 1000]
    assert all(math.isnan(number(text)) for text in ("", "soon", "inf", "nan", "1:2:3:4", "0x1"))
    assert [plain(value) for value in (2.0, 4.2300001, 0.1 + 0.2, 10.0)] == [
        "2",
        "4.23",
        "0.3",
        "10",
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20), st.integers(-1, 6))
def test_the_first_place_in_a_group_is_that_of_a_scan(
    rows: list[tuple[int, int]], wanted: int
) -> None:
    rows.sort()
    group = np.array([one for one, _ in rows], np.int64)
    place = np.array([two for _, two in rows], float)
    found = found_at(group, place, np.full(len(rows), float(wanted)))
    for row, at in enumerate(found.tolist()):
        inside = [n for n in range(len(rows)) if group[n] == group[row]]
        reach = [n for n in inside if place[n] >= wanted]
        assert at == (reach[0] if reach else inside[-1] + 1)


def test_the_next_action_of_the_same_video_tells_gap_and_change() -> None:
    labels = [
        {"video": "P01", "start": "00:00:07.00", "verb": "close"},
        {"video": "P01", "start": "00:00:04.37", "verb": "open"},
        {"video": "P01", "start": "00:00:05.00", "verb": "open"},
        {"video": "P02", "start": "00:00:06.00", "verb": "close"},
    ]
    chosen = {"key": "video", "order": "next", "by": "start", "differ": ("verb",)}
    items = make_items(labels)
    result = mine(items, Context(step="pairs", seed=5), **chosen)
    result.rows.validate(full=True)
    assert result.rows.schema == schema.PAIRS
    assert set(edges(result)) == {(1, 0), (2, 0)}
    assert rules_of(result) == [None, None, None, "no_partner"]
    row = {r["references"][0]["key"]: r for r in result.rows.to_pylist()}["k1"]
    changes = [{"field": "verb", "removed": "open", "added": "close"}]
    assert row["evidence"] == {
        "operator": "same_key",
        "reason": "same video 'P01', 2.63 s later, verb: 'open' → 'close'",
        "changes": changes,
        "score": None,
    }
    ends = [[row[side][0]["id"]] for side in ("references", "targets")]
    assert row["id"] == schema.pair_id(*ends, schema.canonical_json(changes))
    back = mine(items, **chosen, both_directions=True).rows.to_pylist()
    reasons = [row["evidence"]["reason"] for row in back]
    assert "same video 'P01', 2 s earlier, verb: 'close' → 'open'" in reasons


def test_without_differ_there_is_no_change_and_the_id_is_that_of_the_members() -> None:
    (row,) = mine(make_items([{"page": 7}, {"page": "7"}]), key="page").rows.to_pylist()
    assert row["evidence"]["reason"] == "same page '7'"
    assert row["evidence"]["changes"] == []
    assert row["id"] == schema.pair_id(*([row[s][0]["id"]] for s in ("references", "targets")))


def test_lists_that_differ_tell_what_each_has_alone() -> None:
    labels = [{"page": 1, "tags": ["a", "b"], "n": 1}, {"page": 1, "tags": ["b", "c", "d"], "n": 3}]
    (row,) = mine(make_items(labels), key="page", by="n", differ=("tags",)).rows.to_pylist()
    assert row["evidence"]["changes"] == [{"field": "tags", "removed": "a", "added": "c, d"}]
    assert row["evidence"]["reason"] == "same page '1', 2 later by n, tags: 'a' → 'c, d'"


def test_an_item_that_lacks_a_label_or_a_number_is_rejected() -> None:
    whole = {"page": "p", "at": "1", "verb": "a"}
    labels = [whole, {**whole, "verb": "b"}, {"page": "p", "at": "1"}, {**whole, "at": "soon"}]
    labels += [{**whole, "at": ["1", "2"]}, {**whole, "page": ""}]
    result = mine(make_items(labels), key="page", by="at", differ=("verb",))
    assert rules_of(result) == [None, None, "no_label", "no_number", "no_number", "no_label"]
    assert result.verdicts["detail"].to_pylist()[2:4] == [
        "no value for 'verb'",
        "'at' is neither a number nor a time such as 00:01:37.05",
    ]


def test_an_empty_list_is_no_key_but_a_value_that_may_differ() -> None:
    labels: Labels = [{"page": []}, {"page": [""]}, {"page": ["a"], "tags": []},
                      {"page": "a", "tags": ["x"]}]  # fmt: skip
    result = mine(make_items(labels), key="page", differ=("tags",))
    assert {frozenset(edge) for edge in edges(result)} == {frozenset((2, 3))}
    assert rules_of(result) == ["no_label", "no_label", None, None]


def test_two_items_of_the_same_bytes_are_never_a_pair() -> None:
    labels = [{"page": "p", "at": n} for n in range(3)]
    items = make_items(labels, hashes=["same", "same", "other"])
    assert set(edges(mine(items, key="page", by="at", order="next"))) == {(0, 2), (1, 2)}
    assert len(edges(mine(items, key="page"))) == 2


def test_caps_hold() -> None:
    labels = [{"page": f"p{n % 3}", "at": n} for n in range(60)]
    items = make_items(labels)
    for cap in (1, 2, 5):
        for more in ({}, {"by": "at"}):
            chosen: dict[str, Any] = {"key": "page", "both_directions": True, **more}
            found = edges(mine(items, **chosen, max_per_reference=cap))
            assert max(Counter(a for a, _ in found).values()) == cap
            found = edges(mine(items, **chosen, max_per_target=cap))
            assert max(Counter(b for _, b in found).values()) == cap
            found = edges(mine(items, **chosen, max_per_group=cap))
            assert set(Counter(a % 3 for a, _ in found).values()) == {cap}
            partners: dict[int, set[int]] = defaultdict(set)
            for a, b in edges(mine(items, **chosen, max_per_item=cap)):
                partners[a].add(b)
            assert max(map(len, partners.values())) == cap


@pytest.mark.parametrize("more", [{}, {"by": "at"}, {"differ": ("verb",)}])
def test_a_group_of_thousands_is_bounded(more: dict[str, Any]) -> None:
    labels = [{"page": "p", "at": n, "verb": f"v{n % 3}"} for n in range(5000)]
    result = mine(make_items(labels), key="page", max_per_item=8, both_directions=True, **more)
    assert result.notes["candidate_pairs"] <= 5000 * 8
    partners = Counter(a for a, _ in edges(result))
    assert len(partners) > 4990
    assert max(partners.values()) == 8


def test_long_runs_of_one_action_cost_one_look() -> None:
    labels = [{"page": "p", "at": n, "verb": "a" if n < 9999 else "b"} for n in range(10_000)]
    chosen: dict[str, Any] = {"key": "page", "by": "at", "order": "next", "differ": ("verb",)}
    assert set(edges(mine(make_items(labels), **chosen))) == {(n, 9999) for n in range(9999)}


def test_too_many_pairs_are_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items([{"page": "p"}] * 100)
    monkeypatch.setattr(_groups, "MOST_PAIRS", 1000)
    with pytest.raises(DatagenError, match=r"same_key: 4,950 candidate pairs.*set max_per_item"):
        mine(items, key="page")


@pytest.mark.parametrize("labels", [[], [{}], [{"page": "p"}], [{"page": "p"}, {"page": "q"}]])
@pytest.mark.parametrize("more", [{}, {"by": "page", "order": "next"}])
def test_tiny_tables_work(labels: Labels, more: dict[str, Any]) -> None:
    result = mine(make_items(labels), key="page" if not more else "other", **more)
    assert result.rows.num_rows == 0
    assert result.rows.schema == schema.PAIRS
    assert result.verdicts.num_rows == len(labels)


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        ({"min_gap": 1.0}, "min_gap=1 needs by"),
        ({"max_gap": 2.0}, "max_gap=2 needs by"),
        ({"order": "next"}, "order: next needs by"),
        ({"by": "at", "min_gap": 3.0, "max_gap": 2.0}, "min_gap=3 is above max_gap=2"),
        ({"same": ("page",)}, "'page' is named twice"),
    ],
)
def test_settings_that_make_no_sense_are_faults(chosen: dict[str, Any], fault: str) -> None:
    assert fault in "\n".join(SameKey(Settings(key="page", **chosen)).check())


def test_the_registry_finds_it() -> None:
    assert registry.find("pair", "same_key") is SameKey
    assert SameKey(Settings(key="page")).needs("items") == {"items.labels"}


def test_template_texts_tell_the_next_action() -> None:
    labels = [
        {"video": "P01", "at": 1, "verb": "open", "noun": "tap"},
        {"video": "P01", "at": 2, "verb": "close", "noun": "door"},
    ]
    chosen: dict[str, Any] = {"key": "video", "by": "at", "differ": ("verb", "noun")}
    writer = Template(TemplateSettings(texts_per_pair=100))
    writer.open(Context())
    done = writer(mine(make_items(labels), **chosen).rows)
    assert set(done["verdict"].to_pylist()) == {schema.KEPT}
    for text in done["modification"].to_pylist():
        assert "closing" in text
        assert "door" in text


def narrations() -> list[dict[str, Any]]:
    place = DATA / "captions/epic55_narrations.jsonl.gz"
    if not place.exists():
        pytest.skip(f"no real data at {place}; set DATAGEN_TEST_DATA")
    return [json.loads(line) for line in gzip.decompress(place.read_bytes()).splitlines()]


REAL: dict[str, Any] = {"key": "video_id", "by": "start_timestamp", "differ": ("verb", "noun")}


@pytest.mark.real_data
@pytest.mark.parametrize("more", [{"order": "next"}, {"min_gap": 2.0, "max_gap": 20.0}])
def test_real_narrations_equal_brute_force(more: dict[str, Any]) -> None:
    labels = narrations()[:700]
    assert len({row["video_id"] for row in labels}) > 3
    items = make_items(labels)
    expected = brute_force(items, labels, REAL | more)
    assert len(expected) > 500
    assert set(edges(mine(items, **REAL, **more))) == expected


@pytest.mark.real_data
def test_all_narrations_have_a_next_action() -> None:
    labels = narrations()
    found = edges(mine(make_items(labels), **REAL, order="next", max_gap=30.0))
    assert len(found) > 0.9 * len(labels)
    for a, b in found:
        one, two = labels[a], labels[b]
        assert one["video_id"] == two["video_id"]
        assert one["verb"] != two["verb"]
        assert one["noun"] != two["noun"]
        assert 0 <= seconds(two["start_timestamp"]) - seconds(one["start_timestamp"]) < 30.0001
