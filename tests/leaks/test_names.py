"""Names in annotation files of benchmarks, as these publish them."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datagen.errors import DatagenError
from datagen.leaks import names

DATA = Path(__file__).resolve().parents[2] / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("./dev/dev-244-0-img0.png", "dev-244-0-img0"),
        ("dev-244-0-img0", "dev-244-0-img0"),
        ("000000002097.jpg", "2097"),
        ("COCO_val2014_000000002097.jpg", "2097"),
        ("https://host.example/a/b/B009.JPG?size=2", "B009"),
        ("C:\\photos\\x.webp", "x"),
        ("0", "0"),
        ("scene/00000050.png", "00000050"),
        ("archive.tar.gz", "archive.tar.gz"),
    ],
)
def test_names_are_compared_without_folder_and_ending(written: str, plain: str) -> None:
    assert names.plain(written) == plain


FILES: dict[str, Any] = {
    # The form of CIRR, CIRCO, FashionIQ, GeneCIS.
    "cap.json": [
        {
            "pairid": 12060,
            "reference": "dev-1-img0",
            "target_soft": {"dev-2-img1": 1.0},
            "caption": "show three",
            "img_set": {"id": 36, "members": ["dev-3-img0"]},
        }
    ],
    "split.json": {"dev-9-img0": "./dev/dev-9-img0.png"},
    "circo.json": [{"reference_img_id": 2097, "gt_img_ids": [295260, 7], "id": 4}],
    "iq.json": ["B009PMCJLW", "B0084Y8XIU"],
    "genecis.json": [{"condition": "ceiling", "gallery": [{"val_image_id": 70254}]}],
}
EXPECTED = {
    "cap.json": {"dev-1-img0", "dev-2-img1", "dev-3-img0"},
    "split.json": {"dev-9-img0"},
    "circo.json": {"2097", "295260", "7"},
    "iq.json": {"B009PMCJLW", "B0084Y8XIU"},
    "genecis.json": {"70254"},
}


@pytest.mark.parametrize("name", FILES)
def test_names_stand_anywhere_in_json_and_captions_are_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(FILES[name]))
    assert names.read(str(tmp_path / name)) == EXPECTED[name]


def test_tables_lines_and_packed_files_are_read_alike(tmp_path: Path) -> None:
    rows = [{"image": "a/x1.jpg", "others": "['y2', 'z3']", "id": "17", "text": "a dog"}]
    (tmp_path / "rows.csv").write_text("image,others,id,text\na/x1.jpg,\"['y2', 'z3']\",17,a dog\n")
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(map(json.dumps, rows))
        .replace("\"['", '["')
        .replace("']\"", '"]')
        .replace("', '", '", "')
    )
    (tmp_path / "rows.json.gz").write_bytes(
        gzip.compress(json.dumps([["x1", "y2"], "z3"]).encode())
    )
    (tmp_path / "rows.txt").write_text("x1.jpg\n\nb/y2.png\nz3\n")
    pq.write_table(
        pa.Table.from_pylist([{"image": "x1", "more": ["y2", "z3"]}]), tmp_path / "r.parquet"
    )
    for path in sorted(tmp_path.iterdir()):
        assert names.read(str(path)) == {"x1", "y2", "z3"}, path.name
    assert names.read(str(tmp_path / "rows.csv"), ["image"]) == {"x1"}
    assert names.read(str(tmp_path / "rows.csv"), ["id"]) == {"17"}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b"{"),
        ("a.json", b"[]"),
        ("a.csv", b""),
        ("a.txt", b"\xff\xfe"),
        ("a.json.gz", b"x"),
    ],
)
def test_a_file_without_names_is_one_line(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatagenError, match="a\\.") as caught:
        names.read(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "cir").is_dir(), reason="no annotations (DATAGEN_TEST_DATA)")
def test_the_names_of_published_files_are_all_found() -> None:
    cirr = json.loads((DATA / "cir/cirr/image_splits/split.rc2.val.json").read_text())
    assert names.read(str(DATA / "cir/cirr/image_splits/split.rc2.val.json")) == set(cirr)
    rows = json.loads((DATA / "cir/circo/val.json").read_text())
    wanted = {str(n) for row in rows for n in [row["reference_img_id"], *row["gt_img_ids"]]}
    assert names.read(str(DATA / "cir/circo/val.json")) == wanted
    found = names.read(str(DATA / "cir/cirr/captions/cap.rc2.val.json"))
    assert found <= set(cirr)
    rows = json.loads((DATA / "cir/fashioniq/captions/cap.dress.val.json").read_text())
    wanted = {row[side] for row in rows for side in ("target", "candidate")}
    assert names.read(str(DATA / "cir/fashioniq/captions/cap.dress.val.json")) == wanted
    path = DATA / "cir/egocvr/egocvr_annotations.csv"
    with path.open(encoding="utf-8") as file:
        clips = list(csv.DictReader(file))
    wanted = {row["video_clip_id"] for row in clips}
    wanted |= {name for row in clips for name in ast.literal_eval(row["target_clip_ids"])}
    assert names.read(str(path)) == wanted
