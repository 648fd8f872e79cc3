"""Captions that differ in one word, against brute force and an independent method."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import registry, schema
from datagen.errors import DatagenError
from datagen.pairing import _captions, _one_word, _table
from datagen.pairing._words import is_number, normalise, word_counts
from datagen.pairing.one_word_diff import OneWordDiff, Settings
from datagen.space import Space
from datagen.step import Context, Result, Tables

ROOT = Path(__file__).parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
EVERYTHING: dict[str, Any] = {
    "skip_digits": False,
    "skip_words": (),
    "max_per_caption": None,
    "max_items_per_caption": None,
    "min_words": 1,
}


def make_items(
    captions: Sequence[Sequence[str] | None], hashes: Sequence[str] | None = None
) -> pa.Table:
    rows = []
    for number, own in enumerate(captions):
        sha256 = hashes[number] if hashes else f"hash{number}"
        rows.append(
            {
                "id": schema.item_id(f"{number}", own or [], "{}"),
                "key": f"k{number}",
                "source": "test",
                "media": {"path": f"{number}.jpg", "sha256": sha256, "modality": "image"},
                "captions": own,
                "labels": json.dumps({"number": number}),
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def mine(items: pa.Table, context: Context | None = None, **chosen: Any) -> Result:
    return OneWordDiff(Settings(**chosen))(Tables(items, items, "items"), context or Context())


def edges(result: Result) -> set[tuple[str, str, str, str]]:
    """(reference key, target key, removed, added) of every row."""
    return {
        (row["references"][0]["key"], row["targets"][0]["key"], change["removed"], change["added"])
        for row in result.rows.to_pylist()
        for change in row["evidence"]["changes"]
    }


def rules_of(result: Result) -> dict[str, str | None]:
    columns = result.verdicts["id"].to_pylist(), result.verdicts["rule"].to_pylist()
    return dict(zip(*columns, strict=True))


def plain(caption: str) -> tuple[str, ...]:
    return tuple(caption.lower().replace(".", "").replace(",", "").split())


def brute_force(captions: Sequence[str]) -> dict[tuple[int, int], int]:
    """All pairs of distinct normalised captions one word apart, and where: O(n²)."""
    out = {}
    words = [caption.split() for caption in captions]
    for (i, a), (j, b) in combinations(enumerate(words), 2):
        if len(a) == len(b):
            wrong = [place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
            if len(wrong) == 1:
                out[i, j] = wrong[0]
    return out


def masked_strings(captions: Sequence[str]) -> dict[tuple[int, int], int]:
    """The same by a dictionary of masked strings."""
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, caption in enumerate(captions):
        words = caption.split()
        for place in range(len(words)):
            groups[place, " ".join([*words[:place], "\0", *words[place + 1 :]])].append(number)
    return {
        pair: place
        for (place, _), members in groups.items()
        for pair in combinations(sorted(members), 2)
    }


def found(captions: Sequence[str], parts: int = 1, **chosen: Any) -> dict[tuple[int, int], int]:
    out: dict[tuple[int, int], int] = {}
    for part in range(parts):
        pairs, position = _one_word.one_word_pairs(captions, part=part, parts=parts, **chosen)
        assert pairs.dtype == np.int64
        assert position.dtype == np.int32
        mapped = dict(zip(map(tuple, pairs.tolist()), position.tolist(), strict=True))
        assert len(mapped) == len(pairs)
        assert not mapped.keys() & out.keys()
        out.update(mapped)
    return out


WORDS = st.sampled_from(["a", "b", "c", "ä", "猫", "dog", "b1", "10"])
CAPTIONS = st.lists(st.lists(WORDS, max_size=5).map(" ".join), max_size=40, unique=True)


@settings(max_examples=200, deadline=None)
@given(CAPTIONS)
def test_pairs_equal_brute_force_in_one_part_and_in_seven(captions: list[str]) -> None:
    expected = brute_force(captions)
    assert found(captions) == expected
    assert found(captions, parts=7) == expected
    assert masked_strings(captions) == expected


@settings(max_examples=50, deadline=None)
@given(CAPTIONS)
def test_colliding_hashes_are_told_apart_by_their_words(captions: list[str]) -> None:
    texts = pa.array(captions, pa.large_string())
    tokens, _ = _one_word.tokenise(texts)
    # Every word hashes to the same: all captions of one length collide in all masked forms.
    same = np.full_like(tokens.hashes, 3)
    clash = _one_word.Tokens(
        tokens.words,
        tokens.starts,
        _one_word._totals(tokens.words, tokens.starts, same),
        same,
        tokens.kinds,
    )
    part = _one_word.pairs_of(clash, 0, 1, None, 0)
    pairs = set(zip(part.left.tolist(), part.right.tolist(), strict=True))
    assert pairs == set(brute_force(captions))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(" ".join), max_size=30)
)
def test_blocks_of_any_size_give_the_same(captions: list[str]) -> None:
    unique = sorted(set(captions))
    before = _one_word.BLOCK
    try:
        _one_word.BLOCK = 2
        assert found(unique, parts=3) == brute_force(unique)
    finally:
        _one_word.BLOCK = before


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(codec="ascii"), max_size=20), max_size=20))
def test_normalising_ascii_is_lower_drop_split(captions: list[str]) -> None:
    # Python also splits at the control characters 0x1c to 0x1f.
    captions = [caption.translate(dict.fromkeys(range(28, 32))) for caption in captions]
    done = normalise(pa.array(captions, pa.large_string()))
    assert done.to_pylist() == [" ".join(plain(caption)) for caption in captions]
    assert word_counts(done).tolist() == [len(plain(caption)) for caption in captions]


def test_normalising_unicode_joins_composed_and_decomposed_letters() -> None:
    texts = pa.array(["Cafe\u0301 au  LAIT.", "CAFÉ\u00a0au\tlait", None, " . "], pa.large_string())
    assert normalise(texts).to_pylist() == ["café au lait", "café au lait", "", ""]
    kept = normalise(pa.array(["A, B."], pa.large_string()), ignore_case=False, drop="")
    assert kept.to_pylist() == ["A, B."]


def test_numbers_are_told_from_words() -> None:
    numbers = ["10", "1.5", "50%", "#3", "2nd", "4k", "1960s", "½", "٣"]
    words = ["two", "mp3", "b12", "10x20cm", "red", "-", "3-year-old"]
    assert is_number(pa.array(numbers + words)).tolist() == [True] * len(numbers) + [False] * len(
        words
    )


def items_strategy() -> st.SearchStrategy[list[list[str]]]:
    word = st.sampled_from(["A", "a", "the", "red", "Red.", "cat", "7", "dog,"])
    caption = st.lists(word, max_size=4).map(" ".join)
    return st.lists(st.lists(caption, max_size=3), max_size=14)


def expected_edges(
    captions: Sequence[Sequence[str]], skip_digits: bool, skip_words: Sequence[str], least: int
) -> set[tuple[str, str, str, str]]:
    out = set()
    for (i, mine_), (j, other) in combinations(enumerate(captions), 2):
        for a in {plain(caption) for caption in mine_}:
            for b in {plain(caption) for caption in other}:
                if len(a) != len(b) or len(a) < least:
                    continue
                changes = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
                if len(changes) != 1:
                    continue
                ((x, y),) = changes
                if skip_digits and (x.isdigit() or y.isdigit()):
                    continue
                if x in skip_words and y in skip_words:
                    continue
                out |= {(f"k{i}", f"k{j}", x, y), (f"k{j}", f"k{i}", y, x)}
    return out


@settings(max_examples=120, deadline=None)
@given(items_strategy())
def test_pairs_of_items_equal_brute_force(captions: list[list[str]]) -> None:
    items = make_items(captions)
    assert edges(mine(items, **EVERYTHING)) == expected_edges(captions, False, (), 1)
    result = mine(items)
    expected = expected_edges(captions, True, ("a", "an", "the"), 2)
    assert edges(result) == expected
    assert result.rows.num_rows == len(expected) == len(set(result.rows["id"].to_pylist()))
    used = {key for edge in expected for key in edge[:2]}
    for number, own in enumerate(captions):
        rule = rules_of(result)[items["id"][number].as_py()]
        lengths = [len(plain(caption)) for caption in own]
        if f"k{number}" in used:
            assert rule is None
        elif not any(lengths):
            assert rule == "no_caption"
        elif max(lengths) < 2:
            assert rule == "too_short"
        else:
            assert rule == "no_partner"


@settings(max_examples=40, deadline=None)
@given(items_strategy(), st.randoms(use_true_random=False), st.integers(1, 3))
def test_order_of_rows_does_not_show_under_any_cap(
    captions: list[list[str]], order: random.Random, cap: int
) -> None:
    items = make_items(captions)
    rows = list(range(len(captions)))
    order.shuffle(rows)
    chosen: dict[str, Any] = {
        "max_per_caption": cap,
        "max_items_per_caption": cap,
        "max_per_reference": cap,
        "max_per_target": cap + 1,
        "both_directions": cap != 2,
    }
    straight = mine(items, **chosen)
    shuffled = mine(items.take(pa.array(rows, pa.int64())), **chosen)
    assert straight.rows.sort_by("id") == shuffled.rows.sort_by("id")
    assert straight.verdicts.sort_by("id") == shuffled.verdicts.sort_by("id")
    assert straight.notes == shuffled.notes


def test_a_row_tells_what_changed_and_keeps_the_original_captions() -> None:
    items = make_items([["x", "A RED car, parked."], ["a blue car parked"]])
    rows = mine(items, Context(step="pairs", seed=5)).rows
    rows.validate(full=True)
    assert rows.schema == schema.PAIRS
    by_reference = {row["references"][0]["key"]: row for row in rows.to_pylist()}
    row = by_reference["k0"]
    first, second = items.to_pylist()
    assert row["references"] == [schema.member(first, "A RED car, parked.")]
    assert row["targets"] == [schema.member(second, "a blue car parked")]
    changes = [{"field": "caption", "removed": "red", "added": "blue"}]
    assert row["evidence"] == {
        "operator": "one_word_diff",
        "reason": "captions differ in one word: 'red' → 'blue'",
        "changes": changes,
        "score": None,
    }
    assert row["id"] == schema.pair_id(
        [first["id"]], [second["id"]], schema.canonical_json(changes)
    )
    assert row["provenance"][0]["step"] == "pairs"
    assert row["provenance"][0]["seed"] == 5


def test_ids_are_canonical_for_words_that_json_must_escape() -> None:
    items = make_items([['say "é\\ now'], ["say \t\u2028\u00a0ok now"], ["say <b>&' now"]])
    rows = mine(items).rows.to_pylist()
    assert len(rows) == 6
    for row in rows:
        ends = [row[side][0]["id"] for side in ("references", "targets")]
        changes = schema.canonical_json(row["evidence"]["changes"])
        assert row["id"] == schema.pair_id(ends[:1], ends[1:], changes)


def test_two_items_of_the_same_bytes_are_never_a_pair() -> None:
    captions = [["a red car"], ["a blue car"], ["a green car"]]
    result = mine(make_items(captions, hashes=["same", "same", "other"]))
    assert {edge[:2] for edge in edges(result)} == {
        ("k0", "k2"), ("k2", "k0"), ("k1", "k2"), ("k2", "k1"),
    }  # fmt: skip
    alone = mine(make_items(captions[:2], hashes=["same", "same"]))
    assert alone.rows.num_rows == 0
    assert set(rules_of(alone).values()) == {"no_partner"}


def test_the_same_change_through_several_captions_is_one_pair() -> None:
    captions = [["the red car", "one red car", "THE RED car"], ["one blue car", "the blue car"]]
    rows = mine(make_items(captions)).rows.to_pylist()
    assert len(rows) == 2
    # The captions that come first in the order of their text stand for it.
    assert {row["references"][0]["caption"] for row in rows} == {"one red car", "one blue car"}
    assert {row["targets"][0]["caption"] for row in rows} == {"one red car", "one blue car"}


def test_an_item_without_media_can_be_mined() -> None:
    items = make_items([["a red car"], ["a blue car"]])
    nothing = pa.array([None, None], schema.MEDIA)
    items = items.set_column(
        items.schema.get_field_index("media"), schema.ITEMS.field("media"), nothing
    )
    rows = mine(items).rows.to_pylist()
    assert len(rows) == 2
    assert rows[0]["references"][0]["media"] is None


def test_one_direction_gives_each_change_once() -> None:
    captions = [[f"a {colour} car"] for colour in ("red", "blue", "green", "black")]
    both = edges(mine(make_items(captions)))
    one = edges(mine(make_items(captions), both_directions=False))
    assert len(both) == 2 * len(one) == 12
    assert one | {(b, a, y, x) for a, b, x, y in one} == both


def test_templated_captions_are_bounded_by_the_cap_and_counted() -> None:
    captions = [[f"product number n{number} in stock"] for number in range(500)]
    result = mine(make_items(captions), max_per_caption=6)
    partners: dict[str, set[str]] = defaultdict(set)
    for one, two, _, _ in edges(result):
        partners[one].add(two)
    assert len(partners) == 500
    assert max(map(len, partners.values())) <= 6
    assert np.mean([len(own) for own in partners.values()]) > 5
    notes = result.notes
    assert notes["caption_pairs_found"] == 500 * 499 // 2
    assert notes["dropped_max_per_caption"] == 500 * 499 // 2 - notes["caption_pairs"]


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 8])
def test_no_caption_has_more_partners_than_the_cap(most: int) -> None:
    letters = "abcdefg"
    captions = [[f"{x} {y} {z}"] for x in letters for y in letters for z in letters]
    result = mine(make_items(captions), max_per_caption=most, skip_words=())
    partners: dict[str, set[str]] = defaultdict(set)
    for one, two, _, _ in edges(result):
        partners[one].add(two)
    assert max(map(len, partners.values())) == most
    assert edges(result) <= expected_edges(captions, False, (), 1)
    seeded = mine(make_items(captions), Context(seed=1), max_per_caption=most, skip_words=())
    assert edges(seeded) != edges(result)


def test_too_many_pairs_are_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [[f"item {number} here"] for number in range(100)]
    monkeypatch.setattr(_one_word, "MOST_PAIRS", 1000)
    with pytest.raises(DatagenError, match="set max_per_caption"):
        mine(make_items(captions), max_per_caption=None, skip_digits=False)
    assert mine(make_items(captions), max_per_caption=4, skip_digits=False).rows.num_rows > 0
    shared = [["a red car"]] * 30 + [["a blue car"]] * 30
    monkeypatch.setattr(_captions, "MOST_PAIRS", 800)
    with pytest.raises(DatagenError, match="lower max_items_per_caption"):
        mine(make_items(shared), max_items_per_caption=None)


def test_items_that_share_a_caption_are_limited() -> None:
    captions = [["a red car"]] * 25 + [["a blue car"]] * 3
    result = mine(make_items(captions))
    assert result.rows.num_rows == 2 * 10 * 3
    assert len({row[0] for row in edges(result)}) == 13
    assert result.notes["dropped_max_items_per_caption"] == 15 * 3
    assert sorted(map(str, rules_of(result).values())) == ["None"] * 13 + ["capped"] * 15


def test_best_by_takes_the_items_that_come_closest(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    captions = [["a red car"]] * 30 + [["a blue car"]] * 20 + [["no partner at all"]]
    items = make_items(captions)
    vectors = generator.normal(size=(51, 6)).astype(np.float32)
    Space.write(str(tmp_path / "image"), items["id"].to_pylist(), vectors)
    context = Context(spaces={"image": str(tmp_path / "image")})
    result = mine(items, context, best_by="image", max_items_per_caption=4)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = np.round(unit[:30] @ unit[30:50].T, 4)
    red = set(np.argsort(-cosine.max(1))[:4].tolist())
    blue = {30 + n for n in np.argsort(-cosine.max(0))[:4].tolist()}
    assert {edge[0] for edge in edges(result)} == {f"k{n}" for n in red | blue}
    for row in result.rows.to_pylist():
        a, b = sorted(int(row[side][0]["key"][1:]) for side in ("references", "targets"))
        assert row["evidence"]["score"] == cosine[a, b - 30]
    capped = mine(items, context, best_by="image", max_per_reference=1, max_items_per_caption=None)
    for row in capped.rows.to_pylist():
        a, b = (int(row[side][0]["key"][1:]) for side in ("references", "targets"))
        best = cosine[a].max() if a < 30 else cosine[:, a - 30].max()
        assert row["evidence"]["score"] == best


def test_an_item_outside_the_space_is_still_mined_without_a_score(tmp_path: Path) -> None:
    items = make_items([["a red car"], ["a blue car"]])
    Space.write(str(tmp_path / "s"), items["id"].to_pylist()[:1], np.ones((1, 4), np.float32))
    result = mine(items, Context(spaces={"s": str(tmp_path / "s")}), best_by="s")
    assert [row["evidence"]["score"] for row in result.rows.to_pylist()] == [None, None]


def test_captions_outside_the_limits_are_not_used() -> None:
    captions = [["cat"], ["dog"], ["one two three four"], ["one two three five"], None, ["", " . "]]
    result = mine(make_items(captions), max_words=3)
    assert list(rules_of(result).values()) == [
        "too_short", "too_short", "too_long", "too_long", "no_caption", "no_caption",
    ]  # fmt: skip
    assert list(OneWordDiff(Settings(min_words=5, max_words=4)).check())


@pytest.mark.parametrize("captions", [[], [[]], [None], [["one caption here"]]])
def test_tiny_tables_work(captions: list[list[str] | None]) -> None:
    result = mine(make_items(captions))
    assert result.rows.num_rows == 0
    assert result.rows.schema == schema.PAIRS
    assert result.verdicts.num_rows == len(captions)


def test_parts_run_in_any_process_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = "abcdefgh"
    captions = [[f"{x} {y} {z}"] for x in letters for y in letters for z in letters[:3]]
    whole = mine(make_items(captions), **EVERYTHING)
    monkeypatch.setattr(_one_word, "PART_WORDS", 100)

    def elsewhere(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        assert len(arguments) == 6
        work = pickle.dumps([partial(function, argument) for argument in arguments])
        code = (
            "import pickle, sys\n"
            "work = pickle.loads(sys.stdin.buffer.read())\n"
            "sys.stdout.buffer.write(pickle.dumps([one() for one in work]))"
        )
        done = subprocess.run([sys.executable, "-c", code], input=work, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        yield from pickle.loads(done.stdout)  # noqa: S301

    items = make_items(captions)
    context = Context(out_dir=str(tmp_path))
    cut = OneWordDiff(Settings(**EVERYTHING))(Tables(items, items, "items"), context, elsewhere)
    assert cut.rows == whole.rows
    assert list(tmp_path.iterdir()) == []


def test_chunks_and_slices_of_the_items_table_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[list[str] | None] = [
        [f"a {c} car", "x y"] for c in ("red", "blue", "tan", "dark")
    ]
    captions.insert(2, None)
    items = make_items(captions)
    whole = mine(items).rows
    pieces = pa.concat_tables([items.slice(0, 1), items.slice(1, 3), items.slice(4)])
    assert pieces["captions"].num_chunks == 3
    assert mine(pieces).rows == whole
    monkeypatch.setattr(_table, "ONE_CHUNK", 0)
    monkeypatch.setattr(_table, "CHUNK", 3)
    assert mine(pieces).rows == whole


PAIR = st.tuples(st.integers(0, 6), st.integers(0, 6))
CAP = st.one_of(st.none(), st.integers(1, 4))


@settings(max_examples=200, deadline=None)
@given(st.lists(PAIR, max_size=60), CAP, CAP, st.booleans())
def test_caps_are_those_of_serving_pairs_in_turn(
    pairs: list[tuple[int, int]], left: int | None, right: int | None, one_kind: bool
) -> None:
    used: dict[tuple[int, int], int] = defaultdict(int)
    expected = []
    for a, b in pairs:
        ends = [(0, a), (0 if one_kind else 1, b)]
        caps = [left, left if one_kind else right]
        free = all(cap is None or used[end] < cap for end, cap in zip(ends, caps, strict=True))
        expected.append(free)
        if free:
            for end in ends:
                used[end] += 1
    array = np.array(pairs, np.int64).reshape(-1, 2)
    kept = _table.within_caps(array[:, 0], array[:, 1], left, right, one_kind=one_kind)
    assert kept.tolist() == expected


def test_the_registry_finds_it() -> None:
    assert registry.find("pair", "one_word_diff") is OneWordDiff
    assert OneWordDiff(Settings(best_by="image")).needs("items") == {
        "items.captions",
        "space.image",
    }


def lines(path: str) -> list[Any]:
    place = DATA / path
    if not place.exists():
        pytest.skip(f"no real data at {place}; set DATAGEN_TEST_DATA")
    data = gzip.decompress(place.read_bytes()) if place.suffix == ".gz" else place.read_bytes()
    return [json.loads(line) for line in data.splitlines()]


def flickr() -> list[str]:
    return [caption for row in lines("captions/flickr30k.jsonl.gz") for caption in row["captions"]]


def coco() -> list[str]:
    return [row["caption"] for row in lines("photos/coco/captions.json")[0]["annotations"]]


REAL: dict[str, Callable[[], list[str]]] = {
    "flickr30k": flickr,
    "product_titles": lambda: [
        row["productDisplayName"] for row in lines("captions/product_titles.jsonl.gz")
    ],
    "epic55": lambda: [row["narration"] for row in lines("captions/epic55_narrations.jsonl.gz")],
    "fashion": lambda: [row["productDisplayName"] for row in lines("photos/fashion/items.jsonl")],
    "coco": coco,
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_captions_equal_brute_force(name: str) -> None:
    captions = REAL[name]()[:2000]
    texts = sorted({" ".join(plain(caption)) for caption in captions})
    expected = brute_force(texts)
    assert expected or name == "coco"
    assert found(texts) == expected
    assert found(texts, parts=7) == expected
    done = normalise(pa.array(captions, pa.large_string())).to_pylist()
    assert sorted(set(done)) == texts


@pytest.mark.real_data
def test_all_flickr30k_captions_equal_a_dictionary_of_masked_strings() -> None:
    captions = flickr()
    assert len(captions) == 110_000
    texts = sorted({" ".join(plain(caption)) for caption in captions})
    expected = masked_strings(texts)
    assert len(expected) > 1000
    assert found(texts) == expected


@pytest.mark.real_data
def test_real_narrations_with_many_items_per_caption_equal_brute_force() -> None:
    captions = [[caption] for caption in REAL["epic55"]()[:400]]
    result = mine(make_items(captions), **EVERYTHING)
    assert edges(result) == expected_edges(captions, False, (), 1)
