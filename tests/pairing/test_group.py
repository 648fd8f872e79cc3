"""Groups of near but not equal items against brute force in plain Python."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datagen import registry, schema
from datagen.pairing.group import Group, Settings, members_paired
from datagen.space import Space
from datagen.step import Context, Result, Tables

ROOT = Path(__file__).parents[2]
CIRR = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data") / "cir/cirr/captions"


def name_of(number: int) -> str:
    return schema.content_id("test", str(number))


def make_items(count: int, hashes: list[str] | None = None) -> pa.Table:
    rows = [
        {
            "id": name_of(number),
            "key": f"k{number}",
            "source": "test",
            "media": {
                "path": f"{number}.jpg",
                "sha256": hashes[number] if hashes else f"hash{number}",
                "modality": "image",
            },
            "captions": [f"caption {number}"] if number % 3 else [],
            "labels": "{}",
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def mine(
    folder: Path, items: pa.Table, vectors: np.ndarray, seed: int = 0, **chosen: Any
) -> Result:
    place = str(folder / f"space-{schema.content_id(vectors.tobytes())}")
    Space.write(place, [name_of(n) for n in range(len(vectors))], vectors.astype(np.float32))
    operator = Group(Settings(**chosen))
    assert list(operator.check()) == []
    context = Context(step="groups", seed=seed, spaces={"image": place})
    result = operator(Tables(items, items, "items"), context)
    result.rows.validate(full=True)
    assert result.rows.schema == schema.PAIRS
    return result


def groups_of(result: Result) -> dict[str, set[str]]:
    """Members of each group, by its id."""
    out: dict[str, set[str]] = defaultdict(set)
    for row in result.rows.to_pylist():
        name = row["evidence"]["reason"].split(",")[0].removeprefix("group ")
        out[name] |= {row["references"][0]["key"], row["targets"][0]["key"]}
    return dict(out)


def cosine(vectors: np.ndarray, one: int, two: int) -> float:
    a, b = (vectors[n].astype(np.float32).astype(np.float64) for n in (one, two))
    return round(float(a @ b / np.sqrt((a @ a) * (b @ b))), 4)


def brute_force(
    vectors: np.ndarray, k: int, high: float, gap: float, size: int, low: float = -1.0
) -> dict[int, list[int]]:
    """Straight from the words of the settings: the group of every seed that has a whole one."""
    out = {}
    for seed in range(len(vectors)):
        near = sorted(
            (-cosine(vectors, seed, other), name_of(other), other)
            for other in range(len(vectors))
            if other != seed
        )[:k]
        members, last = [seed], None
        for value, _, other in near:
            value = -value
            if not low <= value <= high:
                continue
            if last is not None and round(last - value, 4) < gap:
                continue
            if len(members) < size:
                members.append(other)
                last = value
        if len(members) == size:
            out[seed] = members
    return out


def clustered(count: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, count // 20), width))
    spread = random.uniform(0.02, 0.4, size=(count, 1))
    return centres[random.integers(len(centres), size=count)] + spread * random.normal(
        size=(count, width)
    )


@pytest.mark.parametrize(
    ("k", "high", "gap", "size"), [(20, 0.94, 0.002, 6), (8, 0.99, 0.0, 4), (12, 0.9, 0.03, 3)]
)
def test_groups_equal_those_of_brute_force(
    tmp_path: Path, k: int, high: float, gap: float, size: int
) -> None:
    vectors = clustered(300, 16, size)
    chosen = {"k": k, "high": high, "gap": gap, "size": size}
    result = mine(
        tmp_path, make_items(300), vectors, pairs="all", max_groups_per_item=None, **chosen
    )
    expected = brute_force(vectors, **chosen)
    assert len(expected) > 30
    assert result.notes["whole_groups"] == len(expected)
    sets = {frozenset(f"k{n}" for n in members) for members in expected.values()}
    assert result.notes["groups"] == len(sets)
    pairs = {
        frozenset(pair) for members in sets for pair in itertools.combinations(sorted(members), 2)
    }
    found = [
        frozenset((row["references"][0]["key"], row["targets"][0]["key"]))
        for row in result.rows.to_pylist()
    ]
    assert set(found) == pairs
    judged = dict(zip(*(result.verdicts[n].to_pylist() for n in ("id", "rule")), strict=True))
    inside = {name for members in sets for name in members}
    assert {name_of(n) for n in range(300) if f"k{n}" in inside} == {
        name for name, rule in judged.items() if rule is None
    }
    assert set(judged.values()) <= {None, "no_group"}


def test_a_pair_tells_its_group_its_places_and_its_own_similarity(tmp_path: Path) -> None:
    vectors = clustered(200, 16, 3)
    result = mine(tmp_path, make_items(200), vectors, size=4, high=0.97)
    truth = brute_force(vectors, 20, 0.97, 0.002, 4)
    by_ids: dict[str, list[list[int]]] = defaultdict(list)
    for members in truth.values():
        by_ids[schema.content_id("group", *sorted(map(name_of, members)))].append(members)
    assert result.rows.num_rows > 50
    for row in result.rows.to_pylist():
        reference, target = (int(row[s][0]["key"][1:]) for s in ("references", "targets"))
        group, places, near = row["evidence"]["reason"].split(", ")
        one, two = map(int, re.fullmatch(r"members (\d+) and (\d+) of 4", places).groups())
        orders = by_ids[group.removeprefix("group ")]
        assert (reference, target) in [(order[one - 1], order[two - 1]) for order in orders]
        assert row["evidence"]["score"] == cosine(vectors, reference, target)
        assert near == f"image similarity {row['evidence']['score']:.3f}"
        assert row["id"] == schema.pair_id([name_of(reference)], [name_of(target)])
        assert row["provenance"][0]["step"] == "groups"


@pytest.mark.parametrize("most", [1, 2])
def test_no_item_is_in_more_groups_than_allowed(tmp_path: Path, most: int) -> None:
    vectors = clustered(300, 16, 4)
    free = mine(tmp_path, make_items(300), vectors, max_groups_per_item=None, high=0.97)
    result = mine(tmp_path, make_items(300), vectors, max_groups_per_item=most, high=0.97)
    held = Counter(key for members in groups_of(result).values() for key in members)
    assert max(held.values()) <= most
    assert all(len(members) == 6 for members in groups_of(result).values()) or most > 1
    assert 0 < result.notes["groups"] < free.notes["groups"]
    assert "capped" in result.verdicts["rule"].to_pylist()
    # Greedy: whoever was left out has a member that is full.
    whole = brute_force(vectors, 20, 0.97, 0.002, 6)
    full = {key for key, count in held.items() if count >= most}
    if most == 1:
        assert all(full & {f"k{n}" for n in members} for members in whole.values())


def test_order_of_rows_does_not_show(tmp_path: Path) -> None:
    vectors = clustered(200, 16, 5)
    items = make_items(200)
    order = np.random.default_rng(0).permutation(200)
    straight = mine(tmp_path, items, vectors, seed=9, high=0.97)
    mixed = mine(tmp_path, items.take(pa.array(order)), vectors, seed=9, high=0.97)
    assert straight.rows.num_rows > 0
    assert straight.rows.sort_by("id") == mixed.rows.sort_by("id")
    assert straight.verdicts.sort_by("id") == mixed.verdicts.sort_by("id")
    assert straight.notes == mixed.notes


def test_items_of_equal_media_never_share_a_group(tmp_path: Path) -> None:
    vectors = clustered(120, 12, 6)
    vectors[60:] = vectors[:60]
    hashes = [f"hash{n % 60}" for n in range(120)]
    result = mine(tmp_path, make_items(120, hashes), vectors, high=1, gap=0, size=4, pairs="all")
    assert result.rows.num_rows > 0
    for members in groups_of(result).values():
        looks = [int(key[1:]) % 60 for key in members]
        assert len(set(looks)) == len(looks)


def test_items_without_a_direction_are_rejected_and_few_items_make_no_group(tmp_path: Path) -> None:
    vectors = clustered(4, 8, 7)
    vectors[0] = 0
    result = mine(tmp_path, make_items(4), vectors)
    assert result.rows.num_rows == 0
    assert sorted(result.verdicts["rule"].to_pylist()) == ["no_group"] * 3 + ["no_vector"]
    empty = mine(tmp_path, make_items(0), np.zeros((0, 8)))
    assert (empty.rows.num_rows, empty.verdicts.num_rows) == (0, 0)


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_an_inexact_index_finds_nearly_the_same_groups(tmp_path: Path, index: str) -> None:
    vectors = clustered(400, 16, 8)
    exact = mine(tmp_path, make_items(400), vectors, high=0.97)
    other = mine(tmp_path, make_items(400), vectors, high=0.97, index=index, effort=256)
    assert other.notes["recall_at_k"] >= 0.9
    assert abs(other.notes["groups"] - exact.notes["groups"]) <= exact.notes["groups"] * 0.2


def ends(pairs: str, size: int, both: bool = False) -> list[tuple[int, int]]:
    _, one, two = members_paired(np.zeros((1, size), np.int64), pairs, both)
    return list(zip(one.tolist(), two.tolist(), strict=True))


def test_the_ways_of_pairing_members() -> None:
    assert ends("consecutive", 4) == [(0, 1), (1, 2), (2, 3)]
    assert ends("star", 4) == [(0, 1), (0, 2), (0, 3)]
    assert ends("all", 3) == [(0, 1), (0, 2), (1, 2)]
    assert ends("cirr", 2) == [(0, 1)]
    assert sorted(ends("star", 3, both=True)) == [(0, 1), (0, 2), (1, 0), (2, 0)]
    for kind, size in itertools.product(("consecutive", "star", "cirr", "all"), range(2, 8)):
        found = ends(kind, size)
        assert len(set(found)) == len(found)
        assert all(one != two for one, two in found)


@pytest.mark.real_data
@pytest.mark.skipif(not CIRR.is_dir(), reason="no annotation files (DATAGEN_TEST_DATA)")
def test_pairs_of_a_group_are_those_of_cirr() -> None:
    rows = json.loads((CIRR / "cap.rc2.val.json").read_text())
    published = {(row["img_set"]["reference_rank"], row["img_set"]["target_rank"]) for row in rows}
    assert set(ends("cirr", 6)) == published


def test_impossible_settings_are_found_before_any_row() -> None:
    assert list(Group(Settings(low=0.95)).check()) == ["low=0.95 is above high=0.94"]
    (fault,) = Group(Settings(k=3)).check()
    assert "size=6 is more than a seed and its k=3 nearest" in fault


def test_it_is_found_by_its_name() -> None:
    assert registry.find("pair", "group") is Group
