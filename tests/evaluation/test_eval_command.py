"""``datagen eval`` on real pictures with a real model, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datagen import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    """What the command printed, and on its error stream."""
    code = 0
    try:
        cli.main(["eval", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    told = capsys.readouterr()
    assert code == status, told.err
    return " ".join(told.out.split()), " ".join(told.err.split())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A FashionIQ of one category, with coloured pictures."""
    folder = tmp_path / "fiq"
    for name in ("captions", "images", "image_splits"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"B{n:03d}" for n in range(8)]
    for name in names:
        pixels = np.full((40, 30, 3), rng.integers(0, 255, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{name}.jpg")
    rows = [
        {"candidate": names[n], "target": names[n + 1], "captions": ["is red.", "has no sleeves"]}
        for n in range(7)
    ]
    (folder / "captions/cap.dress.val.json").write_text(json.dumps(rows))
    (folder / "image_splits/split.dress.val.json").write_text(json.dumps(names))
    return folder


ASKED = ("categories=[dress]", "exclude_reference=true", "-b", "fashioniq")


def test_figures_and_probes_are_printed_and_written(
    data: Path, tiny_clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    told, _ = run(capsys, tiny_clip, *ASKED, "--data", str(data), "--out", str(out))
    assert "composed" in told
    assert "7 of 2,017" in told
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    assert found["benchmark"] == "fashioniq"
    assert found["rules"]["exclude_reference"] is True
    assert found["revision"].startswith("sha256:")
    assert found["asked"]["precision"] == "auto"
    assert "device" not in found["asked"]
    first, second = found["figures"]
    assert (first["part"], first["metric"], second["metric"]) == ("dress", "R@10", "R@50")
    # Seven are left of eight: each target is among the first ten.
    assert first["composed"] == first["image alone"] == first["text alone"] == 100.0
    assert first["partial"]
    assert first["of_queries"] == 2017
    again, _ = run(capsys, tiny_clip, *ASKED, "--data", str(data), "--json", "--no-probes")
    assert json.loads(again)["figures"][0]["image alone"] is None


def test_missing_and_broken_images_are_listed_in_a_file(
    data: Path, tiny_clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    (data / "images/B003.jpg").unlink()
    asked = (tiny_clip, *ASKED, "--data", str(data), "--out", str(out))
    _, wrong = run(capsys, *asked, status=1)
    assert "1 of 8 images or clips are missing" in wrong
    assert (out / "missing.txt").read_text() == f"{data}/images/B003.jpg\tnot there\n"
    (data / "images/B005.jpg").write_bytes(b"\xff\xd8\xff no picture")
    told, _ = run(capsys, *asked, "--allow-missing")
    assert "2 images or clips are missing" in told
    assert told.count("3 of 2,017 6 of 3,817") == 2
    listed = (out / "missing.txt").read_text().splitlines()
    assert [line.split("\t")[0][-8:] for line in listed] == ["B003.jpg", "B005.jpg"]


def test_benchmarks_are_listed_and_mistakes_are_one_line(
    data: Path, tiny_clip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told, _ = run(capsys, "--list")
    for name in ("cirr", "fashioniq", "circo", "genecis", "covr", "egocvr", "icir", "itcpr", "run"):
        assert name in told
    told, _ = run(capsys, "--list", "-b", "circo")
    assert "exclude_reference=false" in told
    for arguments, said in (
        (["bundled:tinyclip", "-b", "cirrr"], "did you mean 'cirr'?"),
        (["bundled:tinyclip", "-b", "cirr"], "--data"),
        (["bundled:tinyclip"], "--benchmark"),
        ([], "name a model"),
        (["bundled:tinyclip", "-b", "cirr", "-d", "/none"], "no such folder"),
    ):
        _, wrong = run(capsys, *arguments, status=1)
        assert said in wrong
    file = data / "captions/cap.dress.val.json"
    _, wrong = run(capsys, tiny_clip, *ASKED, "-d", str(data), "-o", str(file), status=1)
    assert "a file stands here; name a folder" in wrong
    _, wrong = run(capsys, "models/mine", *ASKED, "-d", str(data), status=1)
    assert "no such folder here" in wrong
    _, wrong = run(capsys, "m", "split=dev", "-b", "cirr", "-d", str(data), status=2)
    assert "benchmark cirr.split" in wrong
    _, wrong = run(capsys, "bundled:tinyclp", *ASKED, "-d", str(data), status=1)
    assert "did you mean 'tinyclip'" in wrong
