"""The captions source, against Python's own readers of the same files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import schema
from datagen.errors import DatagenError
from datagen.registry import find
from datagen.sources import _annotations
from datagen.step import Context

Captions = find("source", "captions")
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")

ROWS = [
    {"id": "a", "text": "A red cup", "n": 1, "x": 0.5},
    {"id": "b", "text": 'Two "cups"\non a line', "n": 2, "x": 1e-3},
]


def source(**given_settings):
    return Captions(Captions.Settings(**given_settings))


def records(**given_settings):
    """All records, with every part sent through JSON as it is between workers."""
    reader = source(**given_settings)
    assert list(reader.check()) == []
    tables = []
    for part in reader.parts(Context()):
        table = reader.read(json.loads(json.dumps(part)), Context())
        assert table.schema == schema.RECORD
        tables.append(table)
    return pa.concat_tables(tables).to_pylist()


def write(folder: Path, kind: str) -> str:
    """ROWS in a file of a kind; its path."""
    file, frame = folder / f"rows.{kind}", pd.DataFrame(ROWS)
    if kind.endswith(".gz"):
        file.write_bytes(gzip.compress(Path(write(folder, kind[:-3])).read_bytes()))
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "json":
        file.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        frame.to_parquet(file)
    else:
        frame.to_csv(file, sep="\t" if kind == "tsv" else ",", index=False)
    return str(file)


@pytest.mark.parametrize(
    "kind", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "json.gz", "csv.gz"]
)
def test_every_format_gives_the_same_items_without_media(tmp_path, kind):
    found = records(path=write(tmp_path, kind), captions="text", labels="all", key="id")
    typed = "csv" not in kind and "tsv" not in kind
    assert [(r["key"], r["media"], r["captions"], r["verdict"]) for r in found] == [
        (row["id"], None, [row["text"]], "kept") for row in ROWS
    ]
    told = [{"n": row["n"], "x": row["x"]} for row in ROWS]
    if not typed:  # cells of csv are texts
        told = [{"n": "1", "x": "0.5"}, {"n": "2", "x": "0.001"}]
    assert [json.loads(r["labels"]) for r in found] == told


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=8)), st.integers(1, 4), st.booleans()
)
def test_a_text_file_gives_the_lines_that_python_reads(tmp_path_factory, lines, rows, packed):
    data = "\n".join(lines).encode()
    file = tmp_path_factory.mktemp("txt") / ("x.txt.gz" if packed else "x.txt")
    file.write_bytes(gzip.compress(data) if packed else data)
    expected = [line.strip() for line in io.StringIO(data.decode(), newline="\n")]
    before, _annotations.ROWS = _annotations.ROWS, rows
    try:
        reader = source(path=str(file))
        found = [r for part in reader.parts(Context())
                 for r in reader.read(part, Context()).to_pylist()]  # fmt: skip
    finally:
        _annotations.ROWS = before
    wanted = [(f"{file.name}:{number}", [line]) for number, line in enumerate(expected, 1)
              if line.removeprefix("\ufeff").strip()]  # fmt: skip
    assert [(r["key"], [text.removeprefix("\ufeff") for text in r["captions"]]) for r in found] == [
        (key, [text.removeprefix("\ufeff").strip() for text in texts]) for key, texts in wanted
    ]


def test_a_coco_file_gives_an_item_per_image_with_all_its_captions(tmp_path):
    notes = [(3, 7, "third"), (1, 7, "first"), (2, 8, "other")]
    data = {"annotations": [dict(zip(("id", "image_id", "caption"), n, strict=True))
                            for n in notes]}  # fmt: skip
    file = tmp_path / "captions.json"
    for images in ({}, {"images": [{"id": 7, "licence": 4}, {"id": 8}, {"id": 9}]}):
        file.write_text(json.dumps({**data, **images}))
        found = records(path=str(file), format="coco")
        assert [(r["key"], r["captions"]) for r in found[:2]] == [
            ("7", ["first", "third"]), ("8", ["other"])]  # fmt: skip
        assert [r["rule"] for r in found[2:]] == ["no_caption"] * (1 if images else 0)


def test_faulty_rows_fail_by_name_and_the_others_are_kept(tmp_path):
    lines = [b'{"t": "x"}', b"{broken", b'["x"]', b'{"t": " "}', b'{"t": null}', b'{"t": "\xff"}',
             b"[" * 100_000, b"", b'{"t": ["y", "z", ""]}', b'{"t": "a \\ud800 b"}']  # fmt: skip
    (tmp_path / "r.jsonl").write_bytes(b"\r\n".join(lines))
    found = records(path=str(tmp_path / "r.jsonl"), captions="t")
    assert [r["rule"] for r in found] == [
        None, "bad_row", "bad_row", "no_caption", "no_caption", "bad_row", "bad_row", None, None,
    ]  # fmt: skip
    assert found[1]["key"] == "r.jsonl:2"
    assert f"{tmp_path}/r.jsonl, line 2" in found[1]["detail"]
    assert found[7]["captions"] == ["y", "z"]
    (tmp_path / "t.txt").write_bytes(b"good\nbad \xff\nlong\n")
    assert [r["rule"] for r in records(path=str(tmp_path / "t.txt"))] == [None, "bad_row", None]


def test_many_files_are_named_by_a_folder_a_glob_braces_or_a_list(tmp_path):
    for number in range(3):
        (tmp_path / f"part-{number}.txt").write_text(f"caption {number}\n")
    (tmp_path / "notes.md").write_text("no caption")
    expected = [f"caption {number}" for number in range(3)]
    for path in (tmp_path, f"{tmp_path}/part-*.txt", f"{tmp_path}/part-{{0..2}}.txt",
                 [f"{tmp_path}/part-{n}.txt" for n in (2, 0, 1)]):  # fmt: skip
        path = path if isinstance(path, list) else str(path)
        assert [r["captions"][0] for r in records(path=path)] == expected


@pytest.mark.parametrize("fault", [
    ({"path": "/no/such/file.txt"}, "no such file or folder"),
    ({"path": "rows.jsonl"}, "set `captions` to the column with the texts (id, text, n, x)"),
    ({"path": "rows.jsonl", "captions": "txt"}, "captions names column 'txt'"),
    ({"path": "rows.jsonl", "captions": "{text} {m}"}, "captions names column 'm'"),
    ({"path": "rows.jsonl", "captions": "text", "labels": ["colour"]}, "labels names column"),
    ({"path": "rows.jsonl", "captions": "text", "key": "idd"}, "did you mean 'id'?"),
    ({"path": "rows.jsonl", "captions": "{}"}, "'{}' names no column; a template has columns"),
    ({"path": "rows.jsonl", "captions": ["text", "{text"]}, "'{text' names no column"),
    ({"path": "rows.jsonl", "captions": "text", "key": "{id}"}, "key names column '{id}'"),
    ({"path": "rows.jsonl", "captions": "text", "labels": ["{n}"]}, "labels names column '{n}'"),
    ({"path": "odd.dat"}, "unknown kind of annotations"),
    ({"path": "bad.json", "captions": "t"}, "cannot be read as json"),
    ({"path": "bad.txt.gz"}, "damaged gzip file"),
    ({"path": "empty.csv", "captions": "t"}, "empty; the first line must name the columns"),
])  # fmt: skip
def test_what_cannot_be_read_at_all_is_one_line(tmp_path, monkeypatch, fault):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "jsonl")
    for name in ("odd.dat", "bad.json", "bad.txt.gz"):
        (tmp_path / name).write_bytes(b"\x00 not this")
    (tmp_path / "empty.csv").write_bytes(b"")
    chosen, words = fault
    reader = source(**chosen)
    if chosen["path"] != "bad.txt.gz":  # a file of lines has one column whatever is in it
        (line,) = reader.check()
        assert words in line
    with pytest.raises(DatagenError) as caught:
        reader.parts(Context())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_media_column_is_sent_to_captions(tmp_path):
    write(tmp_path, "csv")
    folder = find("source", "folder")
    (line,) = folder(folder.Settings(path=str(tmp_path), annotations="rows.csv")).check()
    assert "type: captions" in line


@pytest.mark.real_data
def test_flickr30k_is_cut_into_parts_and_read_whole():
    file = DATA / "captions" / "flickr30k.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"no real captions at {file} (set DATAGEN_TEST_DATA)")
    reader = source(path=str(file), captions="captions", key="image_id")
    parts = reader.parts(Context())
    assert len(parts) == 44
    assert max(len(json.dumps(part)) for part in parts) < 1000
    found = [r for part in parts for r in reader.read(part, Context()).to_pylist()]
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert [r["key"] for r in found] == [row["image_id"] for row in rows]
    assert sum(len(r["captions"]) for r in found) == 110_000
    assert {r["verdict"] for r in found} == {"kept"}


def test_csv_cells_with_lines_are_one_caption(tmp_path):
    file = tmp_path / "x.csv"
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows([["t"], ["one\ntwo"], ["three"]])
    assert [r["captions"] for r in records(path=str(file), captions="t")] == [
        ["one\ntwo"], ["three"]]  # fmt: skip
