from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest

from datagen import registry, schema
from datagen.step import Context, Embedder

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")

ROOT = Path(__file__).parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
WEIGHTS = DATA / "models" / "mobilenet_v2_1.0_224_quant.tflite"
PHOTOS = DATA / "photos" / "fashion"
COUNT = 300

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not WEIGHTS.is_file(), reason="no real data (DATAGEN_TEST_DATA)"),
]


@pytest.fixture(scope="module")
def labels() -> dict[str, str]:
    with (PHOTOS / "items.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: schema.content_id(row["id"]))
    return {row["image"]: row["subCategory"] for row in rows[:COUNT]}


def table(paths: dict[str, Path]) -> pa.Table:
    names = [field.name for field in schema.MEDIA]
    rows = [
        {
            "id": name,
            "media": {**dict.fromkeys(names), "path": str(path), "offset": 0, "modality": "image"},
        }
        for name, path in paths.items()
    ]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([("id", pa.string()), ("media", schema.MEDIA)])
    )


@pytest.fixture(scope="module")
def embedder() -> Embedder[Any]:
    """The operator as a worker gets it: found by its file, pickled, opened there."""
    cls = registry.find("embed", "mobilenet_space.py:MobileNet", str(Path(__file__).parent))
    operator = cls(cls.Settings(space="photo", weights=str(WEIGHTS)))
    assert list(operator.check()) == []
    there = cloudpickle.loads(cloudpickle.dumps(operator))
    there.open(Context())
    assert isinstance(there, Embedder)
    return there


def test_neighbours_of_photos_are_of_the_same_kind_far_above_chance(
    embedder: Embedder[Any], labels: dict[str, str]
) -> None:
    out = embedder(embedder.prepare(table({name: PHOTOS / "images" / name for name in labels})))
    assert out["vector"].null_count == 0
    vectors = np.stack(out["vector"].to_numpy(zero_copy_only=False))
    kinds = np.array([labels[name] for name in out["id"].to_pylist()])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    nearest = np.argsort(-cosines, axis=1)[:, :5]
    same = (kinds[nearest] == kinds[:, None]).mean()
    shares = np.unique(kinds, return_counts=True)[1] / len(kinds)
    chance = float((shares**2).sum())
    print(f"same subCategory among the nearest five: {same:.3f}, by chance {chance:.3f}")
    assert same > 0.6
    assert same > 3 * chance


def test_a_broken_photo_fails_and_changes_nothing_else(
    embedder: Embedder[Any], labels: dict[str, str], tmp_path: Path
) -> None:
    good = {name: PHOTOS / "images" / name for name in list(labels)[:3]}
    (tmp_path / "cut.jpg").write_bytes((PHOTOS / "images" / next(iter(labels))).read_bytes()[:200])
    alone = embedder(embedder.prepare(table(good))).to_pylist()
    mixed = embedder(embedder.prepare(table({"cut": tmp_path / "cut.jpg", **good}))).to_pylist()
    assert mixed[1:] == alone
    assert mixed[0]["verdict"] == schema.FAILED
    assert mixed[0]["vector"] is None


def test_a_missing_model_is_told_before_any_row() -> None:
    cls = registry.find("embed", "mobilenet_space.py:MobileNet", str(Path(__file__).parent))
    operator = cls(cls.Settings(space="photo", weights="/nowhere.tflite"))
    assert list(operator.check()) == ["weights: /nowhere.tflite: no such file"]
