"""Shards from far, and by the other readers that docs/TRAINING.md shows."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import tiny_shards
from tiny_shards import GEOMETRY, Items, chain

pytest.importorskip("torch", reason="needs datagen[models]")

from datagen import models, store
from datagen.shards._read import read_shard
from datagen.training.loader import Loader, LoaderSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "TRAINING.md"
BLOCKS = re.findall(r"<!-- runs -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return chain(Items(tmp_path_factory.mktemp("items")), 12)


@pytest.fixture(scope="module")
def run(tmp_path_factory, rows):
    return tiny_shards.write(tmp_path_factory.mktemp("run"), rows, max_count=7)


def keys(loader):
    return [key for batch in loader.batches() for key in batch["keys"]]


def shown(run, tmp_path, name):
    """What the block of the page that imports ``name`` leaves behind, on the run ``run``."""
    (block,) = [one for one in BLOCKS if name in one]
    path = tmp_path / "block.py"
    path.write_text(block.replace("runs/mine", run).replace("batch_size=32", "batch_size=8"))
    models.prepare()
    return runpy.run_path(str(path), run_name="__main__")


def test_the_loader_as_the_page_shows_it(run, rows, tmp_path, capsys):
    left = shown(run, tmp_path, "training.loader")
    assert left["epoch"] == 1
    assert len(left["batch"]["keys"]) == 8
    assert {row["id"] for row in rows} > set(left["batch"]["keys"])
    assert capsys.readouterr().out == "Counter()\n"
    left["loader"].close()


def test_torch_reads_triplets_as_a_map_style_dataset(run, rows, tmp_path):
    left = shown(run, tmp_path, "training.triplets")
    assert len(left["data"]) == 12
    assert len(left["pictures"]) == len(left["texts"]) == 8
    assert {one.size for one in left["pictures"]} == {(72, 60)}
    assert set(left["texts"]) <= {row["modification"] for row in rows}


def test_webdataset_reads_batches(run, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    left = shown(run, tmp_path, "webdataset.WebDataset")
    assert left["references"].shape == left["targets"].shape == (8, 3, 224, 224)
    assert set(left["texts"]) <= {row["modification"] for row in rows}


def test_hf_datasets_reads_rows(run, rows, tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs datagen[hf]")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    left = shown(run, tmp_path, "import datasets")
    assert len(left["rows"]) == 8
    assert left["rows"][0]["reference.jpg"].size == (72, 60)
    assert {row["txt"] for row in left["rows"]} <= {row["modification"] for row in rows}


@pytest.mark.usefixtures("ray")
def test_ray_data_reads_batches(run, rows, tmp_path):
    left = shown(run, tmp_path, "ray.data")
    assert left["batch"]["reference"].shape == left["batch"]["target"].shape == (8, 224, 224, 3)
    assert set(left["batch"]["text"]) <= {row["modification"] for row in rows}


def test_shards_on_an_object_store_give_the_same_batches(run, tmp_path, monkeypatch):
    """Each is read once for its index, and then each triplet by one request."""
    pytest.importorskip("s3fs", reason="needs datagen[s3]")
    pytest.importorskip("moto", reason="needs moto[server]")
    from s3_server import BUCKET, serving

    with serving(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for name in store.names(f"{run}/shards"):
            data = Path(f"{run}/shards/{name}").read_bytes()
            server.put(f"far/shards/{name}", data)
        settings = LoaderSettings(batch_size=4, workers=0, negatives=2)
        far = Loader(f"s3://{BUCKET}/far", GEOMETRY, settings, rank=0, ranks=1)
        mark = server.mark()
        seen = keys(far)
        assert seen == keys(Loader(run, GEOMETRY, settings, rank=0, ranks=1))
        asked = server.asked(mark)
        assert {kind for kind, _ in asked} == {"GET"}
        assert sum(asked.values()) == len(seen) == 12
        mark = server.mark()
        again = Loader(f"s3://{BUCKET}/far", GEOMETRY, settings, rank=0, ranks=1)
        got = {key: count for (kind, key), count in server.asked(mark).items() if kind == "GET"}
        assert set(got) == {f"{BUCKET}/far/shards/manifest.json"}
        copied = LoaderSettings(batch_size=4, workers=0, negatives=2, copy_shards=True)
        near = Loader(f"s3://{BUCKET}/far", GEOMETRY, copied, rank=0, ranks=1)
        mark = server.mark()
        assert keys(near) == keys(again) == seen
        known = [row["key"] for row in read_shard(f"{run}/shards/train-000000.tar")]
        assert set(known) <= set(seen)
