"""Neighbours in a band against brute force in plain NumPy and Python."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen import registry, schema
from datagen.errors import DatagenError
from datagen.pairing import _neighbours as maths
from datagen.pairing.knn_band import KnnBand, Settings, spaced
from datagen.space import Space
from datagen.step import Context, Result, Tables


def name_of(number: int) -> str:
    return schema.content_id("test", str(number))


def make_items(count: int, labels: list[dict[str, Any]] | None = None) -> pa.Table:
    rows = [
        {
            "id": name_of(number),
            "key": f"k{number}",
            "source": "test",
            "media": {"path": f"{number}.jpg", "sha256": f"hash{number}", "modality": "image"},
            "captions": [f"caption {number}"] if number % 3 else [],
            "labels": json.dumps(labels[number] if labels else {}),
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def mine(
    folder: Path, items: pa.Table, vectors: np.ndarray, seed: int = 0, **chosen: Any
) -> Result:
    """Run the operator on ``items`` whose ids are name_of(0), name_of(1), …"""
    place = str(folder / f"space-{schema.content_id(vectors.tobytes())}")
    Space.write(place, [name_of(n) for n in range(len(vectors))], vectors.astype(np.float32))
    context = Context(seed=seed, spaces={"image": place})
    return KnnBand(Settings(**chosen))(Tables(items, items, "items"), context)


def ends(result: Result) -> set[tuple[str, str]]:
    return {
        (row["references"][0]["id"], row["targets"][0]["id"]) for row in result.rows.to_pylist()
    }


def rules_of(result: Result) -> dict[str, str | None]:
    columns = result.verdicts["id"].to_pylist(), result.verdicts["rule"].to_pylist()
    return dict(zip(*columns, strict=True))


def true_neighbours(vectors: np.ndarray, k: int) -> dict[int, list[tuple[float, int]]]:
    """Of each row the k nearest others: by cosine to four decimals, then by id."""
    wide = vectors.astype(np.float32).astype(np.float64)
    lengths = np.sqrt((wide**2).sum(1))
    out = {}
    for one in range(len(wide)):
        if not lengths[one] > 0:
            continue
        near = [
            (
                -round(float(wide[one] @ wide[two] / (lengths[one] * lengths[two])), 4),
                name_of(two),
                two,
            )
            for two in range(len(wide))
            if two != one and lengths[two] > 0
        ]
        out[one] = [(-cosine, two) for cosine, _, two in sorted(near)[:k]]
    return out


def clustered(count: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, count // 10), width))
    spread = random.uniform(0.05, 0.6, size=(count, 1))
    return centres[random.integers(len(centres), size=count)] + spread * random.normal(
        size=(count, width)
    )


@pytest.mark.parametrize("both", [True, False])
def test_pairs_equal_those_of_brute_force(tmp_path: Path, both: bool) -> None:
    vectors = clustered(400, 24, 1)
    result = mine(tmp_path, make_items(400), vectors, low=0.7, high=0.95, k=7, both_directions=both)
    found = {
        (one, two): rank
        for one, near in true_neighbours(vectors, 7).items()
        for rank, (cosine, two) in enumerate(near)
        if 0.7 <= cosine <= 0.95
    }
    if both:
        expected = set(found) | {(two, one) for one, two in found}
    else:
        expected = set()
        for one, two in found:
            mutual = found.get((two, one))
            mine_first = mutual is None or (found[one, two], name_of(one)) < (mutual, name_of(two))
            expected.add((one, two)) if mine_first else None
    assert len(expected) > 300
    assert ends(result) == {(name_of(a), name_of(b)) for a, b in expected}
    assert result.notes["pairs"] == len(expected) == result.rows.num_rows


def test_rows_carry_score_reason_members_and_valid_ids(tmp_path: Path) -> None:
    vectors = clustered(60, 8, 2)
    result = mine(tmp_path, make_items(60), vectors, low=0.5, high=0.99, k=5)
    near = true_neighbours(vectors, 5)
    number = {name_of(n): n for n in range(60)}
    result.rows.validate(full=True)
    assert result.rows.schema == schema.PAIRS
    for row in result.rows.to_pylist():
        (one,), (two,) = row["references"], row["targets"]
        assert row["id"] == schema.pair_id([one["id"]], [two["id"]])
        assert one["caption"] == (f"caption {one['key'][1:]}" if int(one["key"][1:]) % 3 else None)
        assert one["media"]["path"] == f"{one['key'][1:]}.jpg"
        evidence = row["evidence"]
        assert evidence["operator"] == "knn_band"
        assert evidence["changes"] == []
        a, b = number[one["id"]], number[two["id"]]
        ranks = {other: (rank, cosine) for rank, (cosine, other) in enumerate(near[a], 1)}
        if b in ranks:
            rank, cosine = ranks[b]
            tail = f"neighbour {rank} of 5"
        else:
            rank, cosine = {o: (r, c) for r, (c, o) in enumerate(near[b], 1)}[a]
            tail = f"neighbour {rank} of 5 of the target"
        assert evidence["score"] == cosine
        assert evidence["reason"].startswith("image similarity 0.")
        assert evidence["reason"].endswith(f" in 0.5–0.99, {tail}")
        assert len(row["provenance"]) == 1


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=2, max_size=40),
    st.integers(1, 6),
)
def test_ties_go_to_the_smaller_id_however_many_there_are(
    tmp_path: Path, rows: list[list[int]], k: int
) -> None:
    # Small integers in the plane: nearly every cosine occurs many times.
    vectors = np.array(rows, np.float64)
    result = mine(
        tmp_path, make_items(len(rows)), vectors, low=-1.0, high=1.0, k=k, both_directions=True
    )
    directed = {(a, b) for a, near in true_neighbours(vectors, k).items() for _, b in near}
    assert ends(result) == {
        (name_of(a), name_of(b)) for pair in directed for a, b in (pair, pair[::-1])
    }


def test_hundreds_of_equal_vectors_are_resolved_by_id(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(3), 200, axis=0)
    result = mine(tmp_path, make_items(600), vectors, low=0.9, high=1.0, k=4, both_directions=False)
    directed = [(a, b) for a, near in true_neighbours(vectors, 4).items() for _, b in near]
    unordered = {frozenset((name_of(a), name_of(b))) for a, b in directed}
    assert {frozenset(pair) for pair in ends(result)} == unordered


def test_what_is_equal_only_after_rounding_is_resolved_by_id_too(tmp_path: Path) -> None:
    # Cosines with the query fall by 1e-7 from 0.9 in the order that is worst for small ids, so
    # that the nearest ones before rounding are the last ones after it.
    count, k = 150, 4
    order = sorted(range(count), key=name_of)
    query, *others = order
    vectors = np.zeros((count, 2))
    vectors[query] = [1, 0]
    cosine = 0.9 + 1e-7 * np.arange(len(others))
    vectors[others] = np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)
    result = mine(tmp_path, make_items(count), vectors, low=0.5, high=0.95, k=k)
    assert ends(result) == {
        pair
        for n in others[:k]
        for pair in [(name_of(query), name_of(n)), (name_of(n), name_of(query))]
    }


def test_order_of_rows_does_not_show(tmp_path: Path) -> None:
    items, vectors = make_items(200), clustered(200, 16, 3)
    chosen: dict[str, Any] = {"low": 0.6, "high": 0.95, "k": 6, "max_per_reference": 2}
    straight = mine(tmp_path, items, vectors, **chosen)
    order = np.random.default_rng(0).permutation(200)
    shuffled = mine(tmp_path, items.take(pa.array(order)), vectors, **chosen)
    assert straight.rows.sort_by("id") == shuffled.rows.sort_by("id")
    assert straight.verdicts.sort_by("id") == shuffled.verdicts.sort_by("id")
    assert straight.notes == shuffled.notes


def test_caps_take_the_most_similar_first(tmp_path: Path) -> None:
    vectors = clustered(150, 8, 4)
    free = mine(tmp_path, make_items(150), vectors, low=0.4, high=0.97, k=10)
    capped = mine(
        tmp_path, make_items(150), vectors, low=0.4, high=0.97, k=10,
        max_per_reference=2, max_per_target=3,
    )  # fmt: skip
    ordered = sorted(
        (-row["evidence"]["score"], row["references"][0]["id"], row["targets"][0]["id"])
        for row in free.rows.to_pylist()
    )
    used: dict[tuple[str, str], int] = {}
    expected = set()
    for _, one, two in ordered:
        if used.get(("r", one), 0) < 2 and used.get(("t", two), 0) < 3:
            used["r", one] = used.get(("r", one), 0) + 1
            used["t", two] = used.get(("t", two), 0) + 1
            expected.add((one, two))
    assert ends(capped) == expected
    dropped = capped.notes["dropped_per_reference_or_target"]
    assert dropped == free.rows.num_rows - len(expected) > 0


def test_every_item_has_its_verdict(tmp_path: Path) -> None:
    #            near 1    near 0      alone    zero    not finite
    vectors = [[1, 0, 0], [0.9, 0.4, 0], [0, 0, 1], [0, 0, 0], [np.nan, 1, 0]]
    items = make_items(6)  # the sixth is not in the space at all
    result = mine(tmp_path, items, np.array(vectors), low=0.8, high=0.96, k=3)
    rules = rules_of(result)
    assert [rules[name_of(n)] for n in range(6)] == [
        None, None, "no_neighbour_in_band", "no_vector", "no_vector", "no_vector",
    ]  # fmt: skip
    assert result.verdicts["id"].to_pylist() == items["id"].to_pylist()


def test_an_item_whose_pairs_all_fall_to_caps_is_capped(tmp_path: Path) -> None:
    first, second, third = sorted(range(3), key=name_of)
    vectors = np.empty((3, 2))
    vectors[[first, second, third]] = [[1, 0], [0.95, 0.3], [0.8, 0.6]]
    # Each has one neighbour: first and second have each other, third has second.
    result = mine(
        tmp_path, make_items(3), vectors, low=0.5, high=0.999, k=1, both_directions=False,
        max_per_target=1,
    )  # fmt: skip
    assert ends(result) == {(name_of(first), name_of(second))}
    assert rules_of(result)[name_of(third)] == "capped"


def test_labels_must_agree_or_differ(tmp_path: Path) -> None:
    vectors = clustered(120, 8, 5)
    labels = [
        {"colour": ["red", "blue"][n % 2], "kind": n % 3} if n % 7 else {} for n in range(120)
    ]
    result = mine(
        tmp_path, make_items(120, labels), vectors, low=0.3, high=1.0, k=12,
        same_label="kind", other_label="colour",
    )  # fmt: skip
    directed = {
        (a, b)
        for a, near in true_neighbours(vectors, 12).items()
        for cosine, b in near
        if cosine >= 0.3
        and labels[a]
        and labels[b]
        and labels[a]["kind"] == labels[b]["kind"]
        and labels[a]["colour"] != labels[b]["colour"]
    }
    assert directed
    assert ends(result) == {(name_of(a), name_of(b)) for p in directed for a, b in (p, p[::-1])}


def test_two_items_of_the_same_bytes_are_never_a_pair(tmp_path: Path) -> None:
    rows = make_items(2).to_pylist()
    rows[1]["media"]["sha256"] = rows[0]["media"]["sha256"]
    items = pa.Table.from_pylist(rows, schema=schema.ITEMS)
    result = mine(tmp_path, items, np.array([[1, 0.0], [0.9, 0.4]]), low=0.5, high=1.0)
    assert result.rows.num_rows == 0


def test_neighbours_closer_than_the_gap_to_the_last_one_are_skipped() -> None:
    cosine = np.array([[0.95, 0.9495, 0.948, 0.9475, 0.94, 0.9385]])
    allowed = np.array([[True, True, True, True, False, True]])
    assert spaced(cosine, allowed, 0.002).tolist() == [[True, False, True, False, False, True]]
    assert spaced(cosine, allowed, 0.0).tolist() == allowed.tolist()


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_merged_shards_give_the_top_of_the_whole(seed: int, parts: int, k: int) -> None:
    random = np.random.default_rng(seed)
    cosine = np.round(random.uniform(-1, 1, size=(3, 30)), 1)  # many ties
    lists = []
    for low, high in maths.shards(30, -(-30 // parts)):
        places = np.broadcast_to(np.arange(low, high), (3, high - low))
        order = np.lexsort((places, -cosine[:, low:high]), axis=1)[:, :k]
        lists.append(
            (
                np.take_along_axis(cosine[:, low:high], order, 1),
                np.take_along_axis(places, order, 1),
            )
        )
    found, place = maths.merge_top(lists, k)
    for row in range(3):
        best = sorted((-cosine[row, n], n) for n in range(30))[:k]
        assert place[row].tolist() == [n for _, n in best]
        assert found[row].tolist() == [-c for c, _ in best]


def test_shards_do_not_show_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, vectors = make_items(300), clustered(300, 12, 6)
    whole = mine(tmp_path, items, vectors, low=0.5, high=0.97, k=8)
    one_range = maths.shards
    monkeypatch.setattr(maths, "shards", lambda rows: one_range(rows, 70))
    monkeypatch.setattr(maths, "BLOCK", 500)
    assert mine(tmp_path, items, vectors, low=0.5, high=0.97, k=8).rows == whole.rows


@pytest.mark.parametrize("index", ["hnsw", "ivf"])
def test_an_approximate_index_reports_the_recall_it_has(tmp_path: Path, index: str) -> None:
    items, vectors = make_items(1500), clustered(1500, 16, 7)
    chosen: dict[str, Any] = {"low": 0.3, "high": 0.99, "k": 10}
    exact = ends(mine(tmp_path, items, vectors, **chosen))
    result = mine(tmp_path, items, vectors, index=index, recall_sample=1500, **chosen)
    again = mine(tmp_path, items, vectors, index=index, recall_sample=1500, **chosen)
    assert result.rows == again.rows
    assert result.notes["recall_at_k"] >= 0.9
    shared = len(exact & ends(result)) / len(exact)
    assert shared == pytest.approx(result.notes["recall_at_k"], abs=0.03)


def test_an_index_that_misses_too_much_is_refused(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(2000, 32))
    with pytest.raises(DatagenError, match=r"finds 0\.\d+ of the 20 nearest.*raise effort"):
        mine(tmp_path, make_items(2000), vectors, index="ivf", effort=1, low=0.0)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_tables_work(tmp_path: Path, count: int) -> None:
    vectors = np.array([[1, 0.0], [0.9, 0.4], [0.8, 0.5]])
    result = mine(tmp_path, make_items(count), vectors, low=0.5)
    assert result.rows.num_rows == (2 if count == 2 else 0)
    assert result.verdicts.num_rows == count


def test_recall_counts_equals_as_found() -> None:
    true = np.array([[0.9, 0.8], [0.9, np.nan]])
    assert maths.recall(true, true) == 1.0
    assert maths.recall(np.array([[0.9, 0.7], [0.9, 0.1]]), true) == pytest.approx(2 / 3)


def test_the_registry_finds_it_and_bad_settings_are_named() -> None:
    assert registry.find("pair", "knn_band") is KnnBand
    assert list(KnnBand(Settings(low=0.9, high=0.8)).check()) == ["low=0.9 is above high=0.8"]
    assert KnnBand(Settings(space="dino")).needs("items") == {"space.dino"}


def test_cosines_of_a_pair_do_not_depend_on_the_order_or_the_block() -> None:
    vectors = clustered(50, 33, 8).astype(np.float32)
    pairs = np.array(list(combinations(range(50), 2)))
    there = maths.cosines(vectors, pairs[:, 0], pairs[:, 1])
    back = maths.cosines(vectors, pairs[:, 1], pairs[:, 0])
    alone = [maths.cosines(vectors, p[:1], p[1:])[0] for p in pairs[::97]]
    assert there.tolist() == back.tolist()
    assert there[::97].tolist() == alone
