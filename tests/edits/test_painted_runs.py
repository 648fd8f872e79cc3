"""Runs that paint: killed, on few and many workers, decided anew, read back."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from whole_runs import check_files_are_whole, command, datagen, shard_hashes

import datagen as package
from datagen import media

OWN = Path(__file__).with_name("noise_painter.py")
KILLS = 6


def recipe(folder: Path, name: str = "recipe.yaml", **edit: Any) -> Path:
    told = {"op": f"{OWN}:NoisePainter", "id": "paint", "batch_size": 2, "samples": 2, **edit}
    steps = [
        {"pair": {"op": "one_word_diff", "max_per_reference": 2}},
        {"text": {"op": "template"}},
        {"edit": told},
        {"split": {"train": 0.8, "val": 0.2, "test": 0, "near_duplicates": False}},
        {"shards": {"op": "webdataset", "max_size": "200kB"}},
    ]
    source = {"type": "tinyworld", "count": 60, "size": 32}
    path = folder / name
    # JSON is YAML.
    path.write_text(json.dumps({"name": "painted", "source": source, "steps": steps}))
    return path


def media_hashes(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.glob("media/edit-*/*"))
        # The index holds places in this run's own folder, but none of its name.
        if path.is_file()
    }


@pytest.fixture(scope="module")
def calm(tmp_path_factory: Any) -> Path:
    """A run that nothing disturbed."""
    folder: Path = tmp_path_factory.mktemp("calm")
    datagen("run", recipe(folder), "--out", folder / "run", "--cpus", 2)
    return folder / "run"


def test_every_row_has_a_verdict_and_every_picture_a_place(calm: Path) -> None:
    run = package.load(str(calm))
    verdicts = run.verdicts("paint").to_pylist()
    lost = {row["id"] for row in verdicts if int(row["id"][:8], 16) % 7 == 0}
    assert 0 < len(lost) < len(verdicts)
    assert {row["id"] for row in verdicts if row["verdict"] == "failed"} == lost
    assert {row["rule"] for row in verdicts if row["verdict"] == "failed"} == {"not_finite"}
    rows = run.triplets().to_pylist()
    assert len(rows) == 2 * (len(verdicts) - len(lost))
    known = {item["id"]: item for item in run.made().to_pylist()}
    for row in rows:
        told = json.loads(row["edit"])
        assert told["operator"].endswith("NoisePainter")
        assert row["provenance"][-1]["step"] == "paint"
        for side in ("references", "targets"):
            (member,) = row[side]
            assert member["media"]["path"].startswith(str(calm / "media" / "edit-"))
            data = media.read(member["media"])
            assert hashlib.sha256(data).hexdigest() == member["media"]["sha256"]
            assert known[member["id"]]["source"] == "paint"
    assert not list(calm.glob("steps/*/staged"))


def staged(out: Path) -> int:
    return len(list(out.glob("steps/edit-*/staged/*.bin")))


def packed(out: Path) -> int:
    return len(list(out.glob("media/edit-*/*.tar")))


@pytest.mark.slow
def test_a_run_killed_while_it_paints_goes_on_to_the_same_bytes(calm: Path, tmp_path: Path) -> None:
    path, out = recipe(tmp_path), tmp_path / "killed"
    run = command("run", path, "--out", out, "--cpus", 2, "--quiet")
    moments: list[Callable[[], bool]] = [
        *(lambda n=n: staged(out) >= n for n in (1, 5, 12, 20, 30)),
        lambda: packed(out) >= 1,
    ]
    kills = 0
    for moment in moments:
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        give_up = time.monotonic() + 120
        while not moment() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        errors = process.communicate()[1].decode()
        assert process.returncode in (0, -signal.SIGKILL), errors
        check_files_are_whole(str(out))
    assert kills >= KILLS - 2
    datagen("run", path, "--out", out, "--cpus", 2, "--quiet")
    assert media_hashes(out) == media_hashes(calm)
    assert shard_hashes(out) == shard_hashes(calm)
    assert not list(out.glob("steps/*/staged"))


@pytest.mark.slow
def test_neither_workers_nor_batches_of_rows_show(calm: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, resources={"batch_size": 5}, seconds=0)
    datagen("run", path, "--out", tmp_path / "run", "--cpus", 4)
    one = [h for name, h in media_hashes(calm).items() if name.endswith(".tar")]
    other = [h for name, h in media_hashes(tmp_path / "run").items() if name.endswith(".tar")]
    assert one == other
    assert shard_hashes(calm) == shard_hashes(tmp_path / "run")


def test_pictures_read_back_as_they_were_painted(calm: Path) -> None:
    run = package.load(str(calm))
    count = 0
    for sample in run.samples():
        assert [one.size for one in (*sample["references"], *sample["targets"])] == [(24, 24)] * 2
        assert all(isinstance(one, Image.Image) for one in sample["targets"])
        count += 1
    assert count == run.triplets().num_rows
