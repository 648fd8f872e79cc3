"""Searching: galleries of files, their order by brute force, and a page that runs nothing."""

from __future__ import annotations

import hashlib
import html
import re
import tarfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs datagen[models]")

import tiny_shards  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from datagen import cli  # noqa: E402
from datagen.errors import DatagenError  # noqa: E402
from datagen.search import gallery, page  # noqa: E402

WICKED = '<script>alert("x")</script>'


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(6):
        place = folder / "more" if number % 2 else folder
        (place / f"{number}.jpg").write_bytes(tiny_shards.jpeg(number))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.jpg").write_bytes(tiny_shards.jpeg(9))
    return folder


class Known:
    """Vectors that follow from names alone."""

    def __init__(self) -> None:
        self.calls = 0

    def targets(self, media: Any, texts: Any = None) -> Any:
        self.calls += 1
        vectors = np.zeros((len(media), 8), np.float32)
        for row, one in enumerate(media):
            vectors[row, int(Path(one["path"]).stem)] = 1
        return vectors


def test_a_gallery_is_the_images_of_a_folder_and_nothing_else(photos: Path) -> None:
    names = [item.name for item in gallery.listed(str(photos))]
    assert names == ["0.jpg", "2.jpg", "4.jpg", "more/1.jpg", "more/3.jpg", "more/5.jpg"]
    empty = photos / "empty"
    empty.mkdir()
    with pytest.raises(DatagenError, match="no images or clips"):
        gallery.listed(str(empty))


def test_vectors_are_kept_until_a_file_changes(photos: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(gallery.cache, "own_folder", lambda name: str(photos.parent))
    known, items = Known(), gallery.listed(str(photos))
    for _ in range(2):
        _, vectors, lost = gallery.embedded(known, items, "m", lambda what, done, of: None)
    assert known.calls == 1
    assert not lost
    assert vectors.argmax(axis=1).tolist() == [0, 2, 4, 1, 3, 5]
    (photos / "0.jpg").write_bytes(tiny_shards.jpeg(77))
    gallery.embedded(known, gallery.listed(str(photos)), "m", lambda what, done, of: None)
    assert known.calls == 2


def test_the_nearest_are_those_of_brute_force() -> None:
    random = np.random.default_rng(0)
    items, query = random.normal(size=(50, 7)), random.normal(size=7)
    found = gallery.nearest(query, items, 5)
    known = sorted(((float(row @ query), -n) for n, row in enumerate(items)), reverse=True)[:5]
    assert [row for row, _ in found] == [-n for _, n in known]
    np.testing.assert_allclose([score for _, score in found], [score for score, _ in known])


def test_what_a_page_is_told_runs_nothing(photos: Path, tmp_path: Path) -> None:
    items = gallery.listed(str(photos))
    told = gallery.Item(WICKED, items[0].place, WICKED)
    out = tmp_path / "page.html"
    page.write(str(out), [told], WICKED, [page.Shown(told, 1, 0.5)], WICKED)
    text = out.read_text()
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "default-src 'none'" in html.unescape(text)


def found(given: list[str], out: Path) -> list[tuple[str, float]]:
    """Names and scores that the command tells, best first."""
    cli._mount()
    done = CliRunner().invoke(
        cli.app, ["search", "bundled:tinyclip", *given, "--device", "cpu", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    return [(line[2], float(line[1])) for line in lines if line and line[0].isdigit()]


def test_a_reference_is_no_answer_and_its_pixels_are_the_first(
    photos: Path, tmp_path: Path
) -> None:
    """Of a folder: not the file itself and no copy of it; the same pixels as PNG stand first."""
    (photos / "copy.jpg").write_bytes((photos / "2.jpg").read_bytes())
    Image.open(photos / "2.jpg").save(photos / "same.png")
    out = tmp_path / "found.html"
    given = ["--image", str(photos / "2.jpg"), "--gallery", str(photos), "--top", "3"]
    answers = found(given, out)
    assert answers[0] == ("same.png", 1.0)
    assert len(answers) == 3
    assert not {"2.jpg", "copy.jpg"} & {name for name, _ in answers}
    assert out.read_text().count("<figure>") == 4


def test_a_reference_is_no_answer_of_a_run_that_holds_its_bytes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items that lie in a tar, a copy of the reference among them: known by its SHA-256 alone."""
    tar = tmp_path / "media.tar"
    with tarfile.open(tar, "w") as file:
        for path in sorted(photos.rglob("*.jpg")):
            file.add(path, path.name)
    rows = []
    with tarfile.open(tar) as file:
        for member in file.getmembers():
            data = file.extractfile(member).read()  # type: ignore[union-attr]
            place = {
                "path": str(tar), "offset": member.offset_data, "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(), "modality": "image", "format": "jpeg",
            }  # fmt: skip
            rows.append({"id": member.name, "media": place, "captions": [member.name]})
    (tmp_path / "run.json").write_text("{}")
    run = types.SimpleNamespace(items=lambda: pa.Table.from_pylist(rows))
    monkeypatch.setattr(gallery.datagen, "load", lambda out: run)
    elsewhere = tmp_path / "elsewhere.jpg"
    elsewhere.write_bytes((photos / "2.jpg").read_bytes())
    given = ["--image", str(elsewhere), "--gallery", str(tmp_path), "--text", "other"]
    names = [name for name, _ in found(given, tmp_path / "found.html")]
    assert sorted([*names, "2.jpg"]) == sorted(row["id"] for row in rows)
