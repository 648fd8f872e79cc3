"""Semantic duplicates against SemDeDup's definition, written out with loops."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import datagen
from datagen import registry, schema
from datagen.filters import _clusters
from datagen.filters.semantic_duplicates import SemanticDuplicates
from datagen.refilter import refilter
from datagen.space import Space
from datagen.step import Context, Tables

Array = np.ndarray[Any, Any]
SCORE = "score_semantic_duplicates_image"


def operator(**options: Any) -> SemanticDuplicates:
    return SemanticDuplicates(SemanticDuplicates.Settings(space="image", **options))


def named(count: int) -> list[str]:
    return [f"{number:020x}" for number in range(count)]


def items(ids: list[str]) -> pa.Table:
    rows = [{"id": one, "key": f"key {one}", "captions": [], "labels": "{}"} for one in ids]
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def measured(
    folder: Path, vectors: Array, ids: list[str] | None = None, **options: Any
) -> pa.Table:
    """The table of items with what the filter measured beside it."""
    names = named(len(vectors))
    Space.write(str(folder / "space"), names, vectors.astype(np.float32))
    table = items(ids if ids is not None else names)
    context = Context(seed=3, spaces={"image": str(folder / "space")})
    found = operator(**options).measure(Tables(table, table, "items"), context)
    assert sorted(found["id"].to_pylist()) == sorted(table["id"].to_pylist())
    table = table.take(pa.array(np.argsort(table["id"].to_pylist(), kind="stable")))
    for name in found.column_names:
        if name != "id":
            table = table.append_column(name, found[name])
    return table


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def by_hand(vectors: Array, cluster: Array, middles: Array, hard: bool) -> list[float]:
    """SemDeDup: the highest cosine to an item before, in the order of distance to the centroid."""
    wide = vectors.astype(np.float64)
    pairs = zip(wide, cluster, strict=True)
    to_centre = [round(cosine(v, middles[c].astype(np.float64)), 4) for v, c in pairs]
    scores = []
    for me in range(len(wide)):
        place = (to_centre[me] if hard else -to_centre[me], me)
        before = [
            other
            for other in range(len(wide))
            if cluster[other] == cluster[me]
            and (to_centre[other] if hard else -to_centre[other], other) < place
        ]
        scores.append(max([0.0, *(cosine(wide[me], wide[other]) for other in before)]))
    return scores


def test_the_registry_finds_the_operator_by_its_file() -> None:
    assert registry.find("filter", "semantic_duplicates") is SemanticDuplicates


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3).filter(any), min_size=1),
    st.sampled_from(["hard", "easy"]),
)
def test_few_items_are_all_compared_with_all(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], keep: str
) -> None:
    vectors = np.array(rows, dtype=np.float32)
    table = measured(tmp_path_factory.mktemp("space"), vectors, keep=keep)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    middle = (vectors / lengths).astype(np.float32).astype(np.float64).mean(axis=0)
    # Without a direction from the middle any order is as good.
    assume(np.linalg.norm(middle) >= 1e-6)
    cluster = np.zeros(len(vectors), np.int64)
    wanted = by_hand(vectors, cluster, middle.astype(np.float32)[None], keep == "hard")
    np.testing.assert_allclose(table[SCORE].to_pylist(), wanted, atol=1e-4)


def planted(seed: int, groups: int = 12, each: int = 20, width: int = 16) -> tuple[Array, Array]:
    """Unit vectors in groups, a third of which are near copies of the one before."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, width))
    vectors = np.repeat(centres, each, axis=0) + 0.4 * rng.normal(size=(groups * each, width))
    copies = np.arange(2, len(vectors), 3)
    vectors[copies] = vectors[copies - 1] + 0.01 * rng.normal(size=(len(copies), width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32), copies


@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_items_are_compared_within_their_clusters(tmp_path: Path, keep: str) -> None:
    vectors, _ = planted(0)
    table = measured(tmp_path, vectors, keep=keep, clusters=12)
    rows = np.arange(len(vectors))
    middles = _clusters.centroids(vectors, rows, 12, 3, 20)
    cluster = (vectors.astype(np.float64) @ middles.T).argmax(axis=1)
    assert 2 < len(set(cluster.tolist())) <= 12
    wanted = by_hand(vectors, cluster, middles, keep == "hard")
    np.testing.assert_allclose(table[SCORE].to_pylist(), wanted, atol=1e-4)
    of = table["semantic_duplicate_of_image"].to_pylist()
    names = named(len(vectors))
    for me, (score, other) in enumerate(zip(table[SCORE].to_pylist(), of, strict=True)):
        if other is None:
            assert score == 0
        else:
            assert score == round(cosine(*vectors[[me, names.index(other)]].astype(float)), 4)


def test_blocks_pieces_and_the_order_of_rows_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, _ = planted(1)
    whole = measured(tmp_path, vectors, clusters=7)
    for name, value in (("SIDE", 5), ("ROWS", 11), ("PAIRS", 60), ("ALL_WITH_ALL", 0)):
        monkeypatch.setattr(_clusters, name, value)
    ids = named(len(vectors))
    random.Random(0).shuffle(ids)
    assert measured(tmp_path, vectors, ids, clusters=7).equals(whole)


def test_near_copies_go_and_one_of_each_group_stays(tmp_path: Path) -> None:
    vectors, copies = planted(2)
    table = measured(tmp_path, vectors)
    decided = operator(high=0.99).decide(table, table).to_pylist()
    assert {row["rule"] for row in decided} == {None, "semantic_duplicate"}
    gone = np.array([row["verdict"] == "rejected" for row in decided])
    # Of an item and its copy exactly one goes, whichever lies nearer to the centroid.
    assert (gone[copies] ^ gone[copies - 1]).all()
    assert gone.sum() == len(copies)
    first = next(row for row in decided if row["rule"])
    assert "> 0.99 to item " in first["detail"]
    assert "(key " in first["detail"]
    kept = operator(high=1.0).decide(table, table)["verdict"].to_pylist()
    assert kept == ["kept"] * len(vectors)


def test_items_without_a_direction_fail_and_count_for_nobody(tmp_path: Path) -> None:
    vectors, _ = planted(3, groups=2, each=4)
    vectors[1], vectors[4] = 0, np.nan
    ids = [*named(len(vectors)), "f" * 20]
    table = measured(tmp_path, vectors, ids)
    verdicts = dict(zip(table["id"].to_pylist(), table["verdict"].to_pylist(), strict=True))
    lost = {ids[1], ids[4], ids[-1]}
    assert {name for name, verdict in verdicts.items() if verdict == "failed"} == lost
    assert table.filter(pa.array([one in lost for one in verdicts]))[SCORE].null_count == 3
    assert not lost & set(table["semantic_duplicate_of_image"].to_pylist())
    decided = operator().decide(table, table).to_pylist()
    assert {row["id"] for row in decided if row["verdict"] == "failed"} == lost


def test_a_changed_threshold_measures_nothing_and_other_items_do(tmp_path: Path, ray: None) -> None:
    recipe = {
        "source": {"type": "tinyworld", "count": 60, "size": 32},
        "steps": [
            {"embed": {"space": "caption", "model": "tfidf", "width": 16}},
            {"filter": {"op": "semantic_duplicates", "space": "caption", "high": 0.99}},
        ],
    }
    out = tmp_path / "run"
    first = datagen.run(recipe, str(out)).steps[-1]
    assert first.rejected.keys() == {"semantic_duplicate"}
    journals = {p: p.stat().st_mtime_ns for p in out.glob("steps/*/journal/part-*")}
    again = refilter(str(out), ["semantic_duplicates.high=0.9"]).steps[-1]
    assert again.kept < first.kept
    assert {p: p.stat().st_mtime_ns for p in out.glob("steps/*/journal/part-*")} == journals
    kept = datagen.load(str(out)).table("semantic_duplicates")
    assert max(kept["score_semantic_duplicates_caption"].to_pylist()) <= 0.9
    # Fewer items come in: none may be called a duplicate of one that is gone.
    recipe["source"]["count"] = 40  # type: ignore[index]
    datagen.run(recipe, str(out))
    run = datagen.load(str(out))
    of = set(run.table("semantic_duplicates")["semantic_duplicate_of_caption"].to_pylist())
    assert of - {None} <= set(run.items()["id"].to_pylist())


def test_a_bound_below_zero_which_the_first_of_a_cluster_would_not_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        operator(high=-0.1)
