"""Targets by their exact rank, against sorting all cosines in plain Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from datagen import registry, schema
from datagen.errors import DatagenError
from datagen.pairing import _everything, rank_band
from datagen.pairing.rank_band import RankBand, Settings, ranks_of
from datagen.pairing.union import Union, UnionSettings
from datagen.space import Space
from datagen.step import Context, Result, Tables


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


def context_of(folder: Path, vectors: np.ndarray, seed: int = 0) -> Context:
    place = str(folder / f"space-{schema.content_id(vectors.tobytes())}")
    Space.write(place, [name_of(n) for n in range(len(vectors))], vectors.astype(np.float32))
    return Context(seed=seed, spaces={"image": place})


def mine(
    folder: Path, items: pa.Table, vectors: np.ndarray, seed: int = 0, **chosen: Any
) -> Result:
    operator = RankBand(Settings(**chosen))
    assert list(operator.check()) == []
    return operator(Tables(items, items, "items"), context_of(folder, vectors, seed))


def ends(result: Result) -> list[tuple[str, str]]:
    return [
        (row["references"][0]["id"], row["targets"][0]["id"]) for row in result.rows.to_pylist()
    ]


def rules_of(result: Result) -> dict[str, str | None]:
    columns = result.verdicts["id"].to_pylist(), result.verdicts["rule"].to_pylist()
    return dict(zip(*columns, strict=True))


def true_order(vectors: np.ndarray) -> dict[str, list[tuple[str, float]]]:
    """All others of each item, nearest first: cosines to four decimals, equals by id."""
    wide = vectors.astype(np.float32).astype(np.float64)
    lengths = np.sqrt((wide**2).sum(1))
    able = [n for n in range(len(wide)) if lengths[n] > 0]
    out = {}
    for one in able:
        cosine = {
            name_of(two): round(
                float((wide[one] * wide[two]).sum() / lengths[one] / lengths[two]), 4
            )
            for two in able
            if two != one
        }
        out[name_of(one)] = sorted(cosine.items(), key=lambda pair: (-pair[1], pair[0]))
    return out


def test_a_whole_band_equals_that_of_brute_force(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(120, 6))
    result = mine(tmp_path, make_items(120), vectors, low=10, high=25, per_reference=100)
    expected = {(one, two) for one, near in true_order(vectors).items() for two, _ in near[9:25]}
    assert set(ends(result)) == expected
    assert len(ends(result)) == len(expected) == result.notes["pairs"] == 120 * 16


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_equal_and_crowded_vectors_have_the_ranks_of_brute_force(
    tmp_path: Path, data: st.DataObject
) -> None:
    """Few directions: most cosines are equal, so ranks hang on ids alone."""
    count = data.draw(st.integers(2, 24))
    grid = st.lists(st.integers(-1, 1), min_size=2, max_size=2)
    vectors = np.array([data.draw(grid) for _ in range(count)], float)
    near = true_order(vectors)
    if len(near) < 2:
        return
    low = data.draw(st.integers(1, len(near) - 1))
    high = data.draw(st.integers(low, len(near) + 2))
    result = mine(tmp_path, make_items(count), vectors, low=low, high=high, per_reference=count)
    assert set(ends(result)) == {
        (a, b) for a, order in near.items() for b, _ in order[low - 1 : high]
    }
    assert result.rows.num_rows == len(set(ends(result)))


def test_two_thousand_random_vectors_have_exact_ranks_and_cosines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_everything, "PRODUCTS", 1 << 16)
    monkeypatch.setattr(_everything, "BLOCK", 1 << 12)
    vectors = np.random.default_rng(1).normal(size=(2000, 16))
    result = mine(tmp_path, make_items(2000), vectors, low=0.25, high=0.5)
    wide = vectors.astype(np.float32).astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1)[:, None]
    number = {name_of(n): n for n in range(2000)}
    low, high = result.notes["low_rank"], result.notes["high_rank"]
    assert (low, high) == (500, 999)
    assert result.rows.num_rows == 2000
    for row in result.rows.to_pylist():
        one, two = (number[row[side][0]["id"]] for side in ("references", "targets"))
        cosine = np.round(wide @ wide[one], 4)
        before = (cosine > cosine[two]).sum() - 1
        equals = [
            n
            for n in np.flatnonzero(cosine == cosine[two]).tolist()
            if name_of(n) < name_of(two) and n != one
        ]
        rank = 1 + int(before) + len(equals)
        assert low <= rank <= high
        assert row["evidence"]["score"] == cosine[two]
        assert f"rank {rank:,} of 1,999, in 500–999" in row["evidence"]["reason"]
        assert row["evidence"]["changes"] == []
        assert row["id"] == schema.pair_id([row["references"][0]["id"]], [row["targets"][0]["id"]])
    result.rows.validate(full=True)


def test_targets_are_drawn_from_all_of_the_band_and_change_with_the_seed(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).normal(size=(400, 8))
    items, order = make_items(400), true_order(vectors)
    first = mine(tmp_path, items, vectors, low=101, high=300)
    ranks = [[two for two, _ in order[one]].index(target) + 1 for one, target in ends(first)]
    assert min(ranks) >= 101
    assert max(ranks) <= 300
    assert 185 < np.mean(ranks) < 215
    assert ends(mine(tmp_path, items, vectors, low=101, high=300)) == ends(first)
    assert set(ends(mine(tmp_path, items, vectors, seed=1, low=101, high=300))) != set(ends(first))


def test_more_targets_of_a_reference_hold_the_fewer(tmp_path: Path) -> None:
    vectors = np.random.default_rng(3).normal(size=(80, 8))
    few, many = (
        set(ends(mine(tmp_path, make_items(80), vectors, low=20, high=60, per_reference=n)))
        for n in (2, 7)
    )
    assert few < many
    assert (len(few), len(many)) == (160, 560)


def test_order_of_the_table_and_of_work_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(4).normal(size=(150, 8))
    items = make_items(150)
    chosen = {"low": 0.1, "high": 0.4, "per_reference": 3, "max_per_target": 4, "references": 90}
    first = mine(tmp_path, items, vectors, **chosen)
    monkeypatch.setattr(rank_band, "PART", 7)
    monkeypatch.setattr(_everything, "PRODUCTS", 1)
    shuffled = items.take(pa.array(np.random.default_rng(0).permutation(150)))
    second = mine(tmp_path, shuffled, vectors, **chosen)
    assert first.rows.sort_by("id").to_pylist() == second.rows.sort_by("id").to_pylist()
    assert rules_of(first) == rules_of(second)
    assert {one for one, _ in ends(first)} <= {name_of(n) for n in range(150)}
    assert len({one for one, _ in ends(first)}) <= 90
    assert first.notes == second.notes


def test_caps_and_what_is_lost_are_told(tmp_path: Path) -> None:
    vectors = np.random.default_rng(5).normal(size=(60, 4))
    vectors[7] = 0
    result = mine(
        tmp_path, make_items(60), vectors, low=1, high=5, per_reference=2, max_per_target=2
    )
    uses = [target for _, target in ends(result)]
    assert max(map(uses.count, uses)) == 2
    assert result.notes["pairs"] + result.notes["dropped_max_per_target"] == 59 * 2
    told = rules_of(result)
    assert told[name_of(7)] == "no_vector"
    used = {one for pair in ends(result) for one in pair}
    assert {name for name, rule in told.items() if rule is None} == used


def test_items_of_equal_media_are_no_pair_but_have_a_rank(tmp_path: Path) -> None:
    vectors = np.random.default_rng(6).normal(size=(30, 4))
    hashes = ["same"] * 10 + [f"h{n}" for n in range(10, 30)]
    result = mine(tmp_path, make_items(30, hashes), vectors, low=1, high=12, per_reference=30)
    same = {name_of(n) for n in range(10)}
    expected = {
        (one, two)
        for one, near in true_order(vectors).items()
        for two, _ in near[:12]
        if not {one, two} <= same
    }
    assert set(ends(result)) == expected
    assert result.notes["too_few_in_band"] == 30 * 30 - len(expected)


def test_shares_part_the_ranks_without_gap_or_overlap() -> None:
    for others in (1, 7, 10, 99, 1000, 20_000):
        edges = [ranks_of(n / 10, (n + 1) / 10, others) for n in range(10)]
        covered = [rank for low, high in edges for rank in range(low, high + 1)]
        assert covered == list(range(1, others + 1))
    assert ranks_of(0.0, 1.0, 50) == (1, 50)
    assert ranks_of(10, 0.5, 50) == (10, 25)


def test_a_band_beyond_the_collection_names_the_mend(tmp_path: Path) -> None:
    vectors = np.random.default_rng(7).normal(size=(20, 4))
    with pytest.raises(DatagenError, match=r"among 19 other items.*low: 0\.1") as caught:
        mine(tmp_path, make_items(20), vectors)
    assert "\n" not in str(caught.value)


def test_no_items_and_one_item_make_no_pair(tmp_path: Path) -> None:
    for count in (0, 1):
        result = mine(tmp_path, make_items(count), np.ones((count, 3)), low=1, high=3)
        assert result.rows.num_rows == 0
        assert result.rows.schema == schema.PAIRS
        assert result.verdicts.num_rows == count


def test_settings_are_checked() -> None:
    assert registry.find("pair", "rank_band") is RankBand
    assert list(RankBand(Settings(low=9, high=3)).check()) == ["low=9 is above high=3"]
    for wrong in ({"low": -1}, {"low": 1.5}, {"high": -0.1}, {"per_reference": 0}, {"low": True}):
        with pytest.raises(ValidationError):
            Settings(**wrong)
    assert ranks_of(Settings(low=0).low, 1.0, 9) == (1, 9)
    assert Settings(low=0.5, high=1.0).model_dump(mode="json")["high"] == 1.0
    assert RankBand(Settings(space="s")).needs("items") == {"space.s"}


def test_a_union_holds_what_it_finds(tmp_path: Path) -> None:
    vectors = np.random.default_rng(8).normal(size=(40, 4))
    items = make_items(40)
    of = ({"op": "rank_band", "low": 1, "high": 3}, {"op": "knn_band", "low": -1, "high": 1})
    found = Union(UnionSettings(of=of))(
        Tables(items, items, "items"), context_of(tmp_path, vectors)
    )
    alone = mine(tmp_path, items, vectors, low=1, high=3)
    assert set(ends(alone)) <= set(ends(found))
    assert found.notes["of.0"]["pairs"] == alone.rows.num_rows
