"""Mined negatives against a brute-force search in plain NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from datagen import registry, schema
from datagen.negatives import _mine, _neighbours
from datagen.negatives.nearest import Nearest, NearestSettings
from datagen.space import Space
from datagen.step import Context, Tables


def item(name: str, captions: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "key": f"key of {name}",
        "source": "s",
        "media": {"path": f"{name}.jpg", "offset": 0, "size": 3, "modality": "image"},
        "captions": captions,
        "labels": "{}",
    }


class World:
    """Items with vectors and rows over them, in random order."""

    def __init__(self, folder: Path, seed: int, items: int = 60, rows: int = 25, width: int = 6):
        rng = np.random.default_rng(seed)
        names = [f"{number:04d}" for number in rng.permutation(items)]
        vectors = rng.normal(size=(items, width)).astype(np.float32)
        # Near copies and exact copies: right answers to skip, and ties to break by id.
        vectors[items // 2 :] = vectors[: items - items // 2]
        vectors[items // 2 :: 2] += 0.02 * rng.normal(size=vectors[items // 2 :: 2].shape)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        captions = [[f"Caption {n}", f"other {m}"] for n, m in rng.integers(0, 20, (items, 2))]
        self.items = [item(n, c) for n, c in zip(names, captions, strict=True)]
        exact = vectors.astype(np.float64)
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        self.vectors = dict(zip(names, exact, strict=True))
        Space.write(str(folder / "space"), names, vectors)
        self.context = Context(spaces={"image": str(folder / "space")})
        self.rows = []
        for number in range(rows):
            chosen = rng.choice(items, size=int(rng.integers(2, 5)), replace=False)
            members = [schema.member(self.items[at]) for at in chosen]
            cut = int(rng.integers(1, len(members)))
            self.rows.append(
                {"id": f"r{number:03d}", "references": members[:cut], "targets": members[cut:]}
            )

    def tables(self, rows: list[dict[str, Any]] | None = None) -> Tables:
        table = pa.Table.from_pylist(rows if rows is not None else self.rows, schema=schema.PAIRS)
        return Tables(pa.Table.from_pylist(self.items, schema=schema.ITEMS), table, "pairs")

    def expected(self, row: dict[str, Any], settings: NearestSettings) -> list[tuple[str, float]]:
        targets = [member["id"] for member in row["targets"]]
        own = {member["id"] for member in row["references"] + row["targets"]}
        right = {member["caption"].lower() for member in row["targets"]}
        near = [m["id"] for m in row[f"{settings.of}s"]]
        found = []
        for other in self.items:
            name = other["id"]
            if name in own or right & {caption.lower() for caption in other["captions"]}:
                continue
            truth = max(round(float(self.vectors[t] @ self.vectors[name]), 4) for t in targets)
            rank = max(round(float(self.vectors[t] @ self.vectors[name]), 4) for t in near)
            if settings.high is not None and truth > settings.high:
                continue
            if settings.low is not None and rank < settings.low:
                continue
            found.append((-rank, name, truth))
        return [(name, truth) for _, name, truth in sorted(found)[: settings.mined]]


def run(world: World, rows: list[dict[str, Any]] | None = None, **settings: Any) -> Any:
    operator = Nearest(NearestSettings(space="image", **settings))
    return operator(world.tables(rows), world.context)


def mined(row: dict[str, Any]) -> list[tuple[str, float]]:
    return [(n["item"]["id"], n["score"]) for n in row["negatives"] if n["kind"] == "mined"]


@pytest.mark.parametrize("of", ["target", "reference"])
@pytest.mark.parametrize(("low", "high"), [(None, 0.96), (0.3, 0.9), (None, None), (0.99, None)])
def test_mined_negatives_are_those_of_a_brute_force_search(
    tmp_path: Path, of: str, low: float | None, high: float | None
) -> None:
    for seed in range(4):
        world = World(tmp_path / str(seed), seed)
        result = run(world, of=of, low=low, high=high, mined=5)
        settings = NearestSettings(space="image", of=of, low=low, high=high, mined=5)
        for row, out in zip(world.rows, result.rows.to_pylist(), strict=True):
            assert mined(out) == world.expected(row, settings)


def test_more_negatives_than_the_gallery_holds_are_all_found(tmp_path: Path) -> None:
    world = World(tmp_path, 3, items=12, rows=6)
    result = run(world, mined=50, high=None)
    settings = NearestSettings(space="image", mined=50, high=None)
    for row, out in zip(world.rows, result.rows.to_pylist(), strict=True):
        assert [n for n, _ in mined(out)] == [n for n, _ in world.expected(row, settings)]
    assert result.notes["rows_with_fewer"] == 6


@hypothesis_settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_negative_is_never_a_member_nor_a_target_caption(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    world = World(tmp_path_factory.mktemp("world"), seed, items=20, rows=8)
    captions = {item["id"]: {c.lower() for c in item["captions"]} for item in world.items}
    for row in run(world, mined=6).rows.to_pylist():
        own = {member["id"] for member in row["references"] + row["targets"]}
        right = {member["caption"].lower() for member in row["targets"]}
        names = [name for name, _ in mined(row)]
        assert len(set(names)) == len(names)
        assert not own & set(names)
        assert not any(right & captions[name] for name in names)


def test_the_reference_is_the_first_negative_with_the_caption_of_the_pair(tmp_path: Path) -> None:
    world = World(tmp_path, 0)
    world.rows[0]["references"][0]["caption"] = "the caption that the pair uses"
    for row, out in zip(world.rows, run(world).rows.to_pylist(), strict=True):
        first = out["negatives"][: len(row["references"])]
        assert [n["kind"] for n in first] == ["reference"] * len(first)
        assert [n["item"]["id"] for n in first] == [m["id"] for m in row["references"]]
        assert [n["item"]["caption"] for n in first] == [m["caption"] for m in row["references"]]
        for negative in first:
            name = negative["item"]["id"]
            cosines = [world.vectors[name] @ world.vectors[t["id"]] for t in row["targets"]]
            assert negative["score"] == pytest.approx(max(cosines), abs=1e-4)


def test_the_member_of_a_mined_negative_is_its_item_with_the_first_caption(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    items = {item["id"]: item for item in world.tables().items.to_pylist()}
    for row in run(world).rows.to_pylist():
        for negative in row["negatives"]:
            if negative["kind"] == "mined":
                assert negative["item"] == schema.member(items[negative["item"]["id"]])


def test_references_alone_need_no_space(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    operator = Nearest(NearestSettings(mined=0))
    assert operator.needs("pairs") == {"pairs"}
    result = operator(world.tables(), Context())
    for row, out in zip(world.rows, result.rows.to_pylist(), strict=True):
        assert [n["item"]["id"] for n in out["negatives"]] == [m["id"] for m in row["references"]]
        assert all(n["score"] is None for n in out["negatives"])


def test_a_reference_that_is_its_own_target_is_no_negative(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    member = world.rows[0]["references"][0]
    row = {"id": "self", "references": [member], "targets": [member]}
    out = run(world, [row]).rows.to_pylist()[0]
    assert all(n["kind"] == "mined" for n in out["negatives"])
    assert len(out["negatives"]) == 4


def test_a_target_without_a_vector_gets_no_mined_negatives_and_is_counted(tmp_path: Path) -> None:
    world = World(tmp_path, 5)
    world.items.append(item("unseen", ["nobody embedded this"]))
    row = {
        "id": "x",
        "references": world.rows[0]["references"][:1],
        "targets": [schema.member(world.items[-1])],
    }
    result = run(world, [row, *world.rows])
    out = {r["id"]: r["negatives"] for r in result.rows.to_pylist()}["x"]
    assert [(n["kind"], n["score"]) for n in out] == [("reference", None)]
    assert result.notes["rows_with_fewer"] == 1


def test_items_that_left_the_table_are_never_negatives(tmp_path: Path) -> None:
    world = World(tmp_path, 6)
    tables = world.tables()
    left = tables.items.slice(0, 30)
    names = set(left["id"].to_pylist())
    operator = Nearest(NearestSettings(space="image"))
    result = operator(Tables(left, tables.rows, "pairs"), world.context)
    for row in result.rows.to_pylist():
        assert {name for name, _ in mined(row)} <= names


def test_chunks_row_order_and_workers_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, 7)
    whole = run(world).rows
    monkeypatch.setattr(_neighbours, "QUERIES", 3)
    monkeypatch.setattr(_mine, "ENTRIES", 40)
    monkeypatch.setattr("datagen.negatives.nearest.ROWS", 4)
    again = run(world, world.rows[::-1]).rows
    assert again.sort_by("id").to_pylist() == whole.to_pylist()


def test_a_second_step_adds_to_the_first_without_repeats(tmp_path: Path) -> None:
    world = World(tmp_path, 8)
    first = run(world, mined=2)
    operator = Nearest(NearestSettings(space="image", mined=2))
    tables = Tables(world.tables().items, first.rows, "pairs")
    both = operator(tables, world.context)
    together = run(world, mined=4).rows.to_pylist()
    for one, other in zip(both.rows.to_pylist(), together, strict=True):
        assert one["negatives"] == other["negatives"]


def test_every_row_is_kept_and_other_columns_are_untouched(tmp_path: Path) -> None:
    world = World(tmp_path, 9)
    result = run(world)
    assert set(result.verdicts["verdict"].to_pylist()) == {schema.KEPT}
    assert result.rows.drop_columns(["negatives"]).equals(world.tables().rows)
    assert result.rows.schema.field("negatives").type == schema.NEGATIVES.type


def test_an_empty_table_stays_empty(tmp_path: Path) -> None:
    result = run(World(tmp_path, 9), [])
    assert len(result.rows) == 0
    assert "negatives" in result.rows.column_names


@pytest.mark.parametrize(
    "settings", [{}, {"mined": 0, "reference": False}, {"space": "a", "low": 0.9, "high": 0.1}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NearestSettings(**settings)


def test_it_is_the_default_operator_of_its_kind() -> None:
    assert registry.find("negatives", registry.KINDS["negatives"].default or "") is Nearest
