"""The folder source, against Python's own readers of the same files."""

from __future__ import annotations

import csv
import gzip
import json
import os
import pathlib

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import cells, schema
from datagen.errors import DatagenError
from datagen.registry import find
from datagen.sources import _annotations
from datagen.step import Context

Folder = find("source", "folder")
DATA = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    os.environ.get("DATAGEN_TEST_DATA", "../shared/data"),
)


def source(**settings):
    return Folder(Folder.Settings(**settings))


def records(**settings):
    """All records, with every part sent through JSON as it is between workers."""
    reader = source(**settings)
    assert list(reader.check()) == []
    tables = []
    for part in reader.parts(Context()):
        table = reader.read(json.loads(json.dumps(part)), Context())
        assert table.schema == schema.RECORD
        tables.append(table)
    return pa.concat_tables(tables).to_pylist()


@pytest.fixture
def place(tmp_path):
    for name in ("a.jpg", "sub/b.png", "clip.mp4"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(name.encode() * 3)
    return tmp_path


ROWS = [
    {"file": "a.jpg", "title": "A red cup", "tags": "x", "n": 1},
    {"file": "sub/b.png", "title": "A blue cup", "tags": "y", "n": 2},
    {"file": "clip.mp4", "title": "", "tags": "", "n": 3},
]


def write_rows(folder: pathlib.Path, kind: str) -> str:
    name = f"rows.{kind}"
    file, frame = folder / name, pd.DataFrame(ROWS)
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "json":
        file.write_text(json.dumps(ROWS))
    elif kind in ("csv", "tsv"):
        frame.to_csv(file, sep="," if kind == "csv" else "\t", index=False)
    elif kind == "parquet":
        frame.to_parquet(file)
    else:
        file.write_bytes(gzip.compress((folder / write_rows(folder, kind[:-3])).read_bytes()))
    return name


@pytest.mark.parametrize(
    "kind", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "json.gz", "csv.gz", "tsv.gz"]
)
def test_every_format_gives_the_same_records(place, kind):
    found = records(
        path=str(place), annotations=write_rows(place, kind), media="file", captions="title",
        labels=["tags"],
    )  # fmt: skip
    assert [(r["key"], r["captions"], r["labels"], r["verdict"]) for r in found] == [
        ("a.jpg", ["A red cup"], '{"tags":"x"}', "kept"),
        ("sub/b.png", ["A blue cup"], '{"tags":"y"}', "kept"),
        ("clip.mp4", [], "{}", "kept"),
    ]
    for record in found:
        media = record["media"]
        assert media["path"] == str(place / record["key"])
        assert (media["offset"], media["size"]) == (0, os.path.getsize(media["path"]))
        rest = set(media) - {"path", "offset", "size", "modality"}
        assert all(media[name] is None for name in rest)
    assert [r["media"]["modality"] for r in found] == ["image", "image", "video"]


def test_templates_lists_and_all_labels(place):
    rows = [
        {"f": ["a.jpg", "sub/b.png"], "name": "Curl", "kit": ["bar", "bench"], "id": "c1", "x": 1},
        {"f": ["clip.mp4"], "name": "Jump", "kit": None, "id": "c2", "x": float("nan")},
    ]
    (place / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = records(
        path=str(place), annotations="r.jsonl", media="f", key="id", labels="all",
        captions=["name", "{name}, with {kit}"],
    )  # fmt: skip
    assert [(r["key"], r["media"]["path"], r["captions"]) for r in found] == [
        ("c1", str(place / "a.jpg"), ["Curl", "Curl, with bar, bench"]),
        ("c1", str(place / "sub/b.png"), ["Curl", "Curl, with bar, bench"]),
        ("c2", str(place / "clip.mp4"), ["Jump"]),
    ]
    assert json.loads(found[0]["labels"]) == {"kit": ["bar", "bench"], "x": 1}
    assert found[2]["labels"] == "{}"


def test_a_folder_without_annotations_gives_its_media_and_the_texts_beside_them(place):
    (place / "a.txt").write_text("first line\n\nsecond line\n", encoding="utf-8-sig")
    (place / "notes.md").write_text("no medium")
    (place / ".hidden.jpg").write_bytes(b"x")
    (place / "clip.txt").write_bytes(b"\xff\xfe\x00")
    found = {r["key"]: r for r in records(path=str(place))}
    assert sorted(found) == ["a.jpg", "clip.mp4", "sub/b.png"]
    assert found["a.jpg"]["captions"] == ["first line", "second line"]
    assert found["sub/b.png"]["captions"] == []
    assert (found["clip.mp4"]["verdict"], found["clip.mp4"]["rule"]) == ("failed", "bad_text")


@pytest.mark.parametrize(
    "name",
    ["../secret.jpg", "sub/../../secret.jpg", "/etc/passwd", "~/secret.jpg", "file:///etc/passwd",
     "http://127.0.0.1/x.jpg", "link.jpg", "linked/secret.jpg", "a\0.jpg", "\\\\host\\x.jpg"],
)  # fmt: skip
def test_nothing_outside_the_root_is_ever_listed(tmp_path, name):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "linked").symlink_to(tmp_path)
    (root / "r.jsonl").write_text(json.dumps({"f": name}) + "\n")
    (found,) = records(path=str(root), annotations="r.jsonl", media="f")
    assert (found["verdict"], found["rule"]) == ("failed", "outside_root")
    assert found["media"] is None


def test_links_within_the_root_and_dots_that_stay_inside_are_fine(place):
    (place / "again.jpg").symlink_to(place / "a.jpg")
    (place / "r.jsonl").write_text('{"f": "again.jpg"}\n{"f": "sub/../a.jpg"}\n')
    found = records(path=str(place), annotations="r.jsonl", media="f")
    assert [r["verdict"] for r in found] == ["kept", "kept"]
    assert [r["media"]["size"] for r in found] == [os.path.getsize(place / "a.jpg")] * 2


def test_faulty_rows_fail_by_name_and_the_others_are_kept(place):
    lines = [
        b'{"f": "a.jpg"}',
        b"{broken",
        b"",
        b'["a.jpg"]',
        b'{"f": "gone.jpg"}',
        b'{"f": "sub"}',
        b'{"f": null}',
        b'{"f": []}',
        b'{"f": "a.jpg\xff"}',
        b"[" * 100_000,
        b'{"f": "\\ud800.jpg"}',
        b'{"f": "sub/b.png"}',
    ]
    (place / "r.jsonl").write_bytes(b"\r\n".join(lines))
    found = records(path=str(place), annotations="r.jsonl", media="f")
    assert [r["rule"] for r in found] == [
        None, "bad_row", "bad_row", "missing_file", "missing_file", "no_media", "no_media",
        "bad_row", "bad_row", "missing_file", None,
    ]  # fmt: skip
    assert f"{place}/r.jsonl, line 2:" in found[1]["detail"]
    assert found[2]["key"] == "r.jsonl:4"


def test_a_line_of_many_megabytes_is_a_bad_row_and_is_not_held(place, monkeypatch):
    monkeypatch.setattr(cells, "MAX_LINE", 1000)
    rows = ['{"f": "a.jpg"}', json.dumps({"f": "x" * 5000}), '{"f": "a.jpg"}', "y" * 3000]
    (place / "r.jsonl").write_text("\n".join(rows))
    found = records(path=str(place), annotations="r.jsonl", media="f")
    assert [r["rule"] for r in found] == [None, "bad_row", None, "bad_row"]


def test_csv_rows_that_do_not_fit_the_header_fail(place):
    (place / "r.csv").write_bytes(
        b'\xef\xbb\xbff,t\na.jpg,"two\nlines, ""quoted"""\nsub/b.png\na.jpg,x,y\na.jpg,\xff\n\n'
        b'a.jpg,5" pipe\n'
    )
    found = records(path=str(place), annotations="r.csv", media="f", captions="t")
    assert [(r["rule"], r["captions"]) for r in found] == [
        (None, ['two\nlines, "quoted"']),
        ("bad_row", []),
        ("bad_row", []),
        ("bad_row", []),
        (None, ['5" pipe']),
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "json.gz"])
def test_parts_cut_a_file_without_losing_or_repeating_a_row(place, monkeypatch, kind):
    monkeypatch.setattr(_annotations, "ROWS", 7)
    rows = [{"f": "a.jpg", "t": f'row {i}\n"quoted", {i}' if i % 3 else f"row {i}"}
            for i in range(50)]  # fmt: skip
    file = place / f"many.{kind}"
    if kind == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows))  # no newline at the end
    elif kind == "csv":
        with open(file, "w", newline="") as out:
            writer = csv.DictWriter(out, ["f", "t"])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=20)
    else:
        file.write_bytes(gzip.compress(json.dumps(rows).encode()))
    reader = source(path=str(place), annotations=file.name, media="f", captions="t")
    parts = reader.parts(Context())
    assert parts == reader.parts(Context())
    assert len(parts) >= 8
    assert sum(part["count"] for part in parts) == 50 or kind == "csv"
    found = [r for part in parts for r in reader.read(part, Context()).to_pylist()]
    assert [r["captions"] for r in found] == [[row["t"]] for row in rows]
    backwards = [r for part in parts[::-1] for r in reader.read(part, Context()).to_pylist()]
    assert sorted(map(str, backwards)) == sorted(map(str, found))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=20), st.integers(1, 5))
def test_csv_in_parts_is_what_the_csv_module_reads_at_once(tmp_path_factory, cells, rows):
    file = tmp_path_factory.mktemp("csv") / "x.csv"
    with open(file, "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["f", "t"], *cells])
    with open(file, newline="", encoding="utf-8") as whole:
        expected = [row for row in csv.reader(whole) if row][1:]
    before, _annotations.ROWS = _annotations.ROWS, rows
    try:
        parts = _annotations.parts(str(file), "csv")
        found = [row for part in parts for _, row in _annotations.rows(part, None)]
    finally:
        _annotations.ROWS = before
    assert [list(row.values()) for row in found] == expected


@pytest.mark.parametrize("mend", [
    ({"media": "fil"}, "media names column 'fil'", "did you mean 'file'?"),
    ({"media": "file", "captions": "{titel} x"}, "column 'titel'", "did you mean 'title'?"),
    ({"media": "file", "labels": ["tag"]}, "labels names column 'tag'", "'tags'"),
    ({"media": "file", "key": "zzz"}, "key names column 'zzz'", "valid: file, n, tags, title"),
    ({"media": None}, "set `media`", "file, title, tags, n"),
])  # fmt: skip
def test_a_wrong_column_is_told_before_the_run_with_the_nearest_name(place, mend):
    given_settings, what, hint = mend
    reader = source(path=str(place), annotations=write_rows(place, "jsonl"), **given_settings)
    (line,) = reader.check()
    assert what in line
    assert hint in line
    assert "rows.jsonl" in line
    assert "\n" not in line
    with pytest.raises(DatagenError, match=r"rows\.jsonl"):
        reader.parts(Context())


@pytest.mark.parametrize("settings_and_words", [
    ({"path": "/no/such/folder"}, "no such folder"),
    ({"annotations": "none.jsonl", "media": "f"}, "no such annotation file"),
    ({"annotations": ".", "media": "f", "format": "jsonl"}, "a folder; name the file in it"),
    ({"annotations": "a.jpg", "media": "f"}, "unknown kind of annotations"),
    ({"captions": "title"}, "`annotations` must name a file"),
    ({"media_root": "../x"}, "must lie in"),
    ({"annotations": "bad.jsonl.gz", "media": "f"}, "damaged gzip"),
    ({"annotations": "bad.json", "media": "f"}, "cannot be read as json"),
    ({"annotations": "bad.parquet", "media": "f"}, "not a Parquet file"),
    ({"annotations": "bad.json", "format": "coco"}, "cannot be read as coco"),
    ({"annotations": "empty.csv", "media": "f"}, "empty; the first line must name"),
])  # fmt: skip
def test_what_cannot_be_read_at_all_is_one_line(place, settings_and_words):
    given_settings, words = settings_and_words
    for name in ("bad.jsonl.gz", "bad.json", "bad.parquet"):
        (place / name).write_bytes(b"\x00 not this")
    (place / "empty.csv").write_bytes(b"")
    reader = source(**{"path": str(place), **given_settings})
    (line,) = reader.check()
    assert words in line
    assert "\n" not in line
    with pytest.raises(DatagenError):
        reader.parts(Context())


def test_a_changed_packed_file_is_unpacked_again(place):
    file = place / "r.jsonl.gz"
    for name in ("a.jpg", "sub/b.png"):
        file.write_bytes(gzip.compress(json.dumps({"f": name}).encode()))
        os.utime(file, ns=(len(name), len(name)))
        (found,) = records(path=str(place), annotations="r.jsonl.gz", media="f")
        assert found["key"] == name


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "jsonl.gz"])
def test_the_source_works_in_memory_as_on_disk(place, kind):
    fs = fsspec.filesystem("memory")
    root = f"/folder-{kind.replace('.', '-')}"
    write_rows(place, kind)
    fs.put(str(place), root, recursive=True)
    settings_ = {"annotations": f"rows.{kind}", "media": "file", "captions": "title"}
    local = records(path=str(place), **settings_)
    remote = records(path=f"memory:/{root}", **settings_)
    for here, there in zip(local, remote, strict=True):
        assert there["media"]["path"] == f"memory:/{root}/{there['key']}"
        assert there["media"]["size"] is None  # a store is not asked after every file
        for record in (here, there):
            del record["media"]["path"], record["media"]["size"]
        assert here == there
    names = {r["key"] for r in records(path=f"memory:/{root}")}
    assert names == {"a.jpg", "sub/b.png", "clip.mp4"}


def test_media_root_and_modality_are_as_set(place):
    (place / "r.jsonl").write_text('{"f": "b.png"}\n{"f": "../../a.jpg"}\n{"f": "../a.jpg"}\n')
    found = records(path=str(place), annotations="r.jsonl", media="f", media_root="sub",
                    modality="video")  # fmt: skip
    assert [(r["rule"], (r["media"] or {}).get("modality")) for r in found] == [
        (None, "video"), ("outside_root", None), ("outside_root", None)]  # fmt: skip


def need(*path: str) -> str:
    folder = os.path.join(DATA, *path)
    if not os.path.isdir(folder):
        pytest.skip(f"no real data at {folder} (set DATAGEN_TEST_DATA)")
    return folder


@pytest.mark.real_data
def test_the_coco_photos_carry_their_five_captions():
    root = need("photos", "coco")
    found = records(path=root, annotations="captions.json", format="coco", media_root="images",
                    labels=["license"])  # fmt: skip
    with open(os.path.join(root, "captions.json")) as file:
        data = json.load(file)
    names = {image["id"]: image["file_name"] for image in data["images"]}
    expected: dict[str, set[str]] = {}
    for note in data["annotations"]:
        expected.setdefault(names[note["image_id"]], set()).add(note["caption"].strip())
    assert {r["key"]: set(r["captions"]) for r in found} == expected
    assert all(r["verdict"] == "kept" and len(r["captions"]) >= 5 for r in found)


@pytest.mark.real_data
def test_the_real_collections_are_read_whole():
    fashion = records(path=need("photos", "fashion"), annotations="items.jsonl", media="image",
                      media_root="images", captions="productDisplayName", labels="all")  # fmt: skip
    assert len(fashion) == 4806
    assert {r["verdict"] for r in fashion} == {"kept"}
    clothing = records(path=need("photos", "clothing"), annotations="items.jsonl", media="image",
                       labels=["class"])  # fmt: skip
    assert len(clothing) == 372
    assert {r["verdict"] for r in clothing} == {"kept"}
    clips = records(path=need("videos"), annotations="items.jsonl", media="video",
                    captions="caption")  # fmt: skip
    assert {(r["verdict"], r["media"]["modality"]) for r in clips} == {("kept", "video")}


def test_media_may_be_templates_over_columns(tmp_path):
    for name in ("a_0.jpg", "a_1.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "items.jsonl").write_text('{"id": "a", "name": "two phases"}\n')
    source = Folder(
        Folder.Settings(
            path=str(tmp_path),
            annotations="items.jsonl",
            media=["{id}_0.jpg", "{id}_1.jpg"],
            captions="name",
        )
    )
    assert list(source.check()) == []
    (part,) = source.parts(Context())
    assert source.read(part, Context())["key"].to_pylist() == ["a_0.jpg", "a_1.jpg"]


def test_rows_that_are_added_leave_the_parts_above_alone(tmp_path):
    lines = [f'{{"file": "{n}.jpg", "caption": "picture {n}"}}\n' for n in range(1200)]
    file = tmp_path / "items.jsonl"
    source = Folder(Folder.Settings(path=str(tmp_path), annotations="items.jsonl", media="file"))
    file.write_text("".join(lines[:1100]))
    before = source.parts(Context())
    file.write_text("".join(lines))
    after = source.parts(Context())
    assert after[:2] == before[:2]
    assert after[2:] != before[2:]
    file.write_text("".join([lines[0].replace("picture 0", "painting")[:-2] + "}\n", *lines[1:]]))
    assert source.parts(Context())[0] != after[0]


def test_a_file_whose_name_is_not_utf8_fails_alone(tmp_path):
    (tmp_path / "grün.png").write_bytes(b"x")
    try:
        with open(os.path.join(os.fsencode(tmp_path), b"\xff.png"), "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = {row["key"]: row["rule"] for row in records(path=str(tmp_path))}
    assert found == {"\\xff.png": "bad_name", "grün.png": None}


def test_the_csv_of_webvid_names_its_clips_by_page_and_id(tmp_path):
    rows = [
        {"videoid": 21179416, "contentUrl": "https://example.com/a.mp4", "duration": "PT00H00M11S",
         "page_dir": "006001_006050", "name": "Aerial shot, winter forest"},
        {"videoid": 5629184, "contentUrl": "https://example.com/b.mp4", "duration": "PT00H00M29S",
         "page_dir": "071501_071550", "name": 'Senior couple looking through "binoculars".'},
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "results_2M_train.csv", index=False)
    for row in rows:
        clip = tmp_path / "videos" / row["page_dir"] / f"{row['videoid']}.mp4"
        clip.parent.mkdir(parents=True)
        clip.write_bytes(b"x")
    found = records(path=str(tmp_path), annotations="results_2M_train.csv", captions="name",
                    media="{page_dir}/{videoid}.mp4", media_root="videos", key="videoid",
                    labels=["duration"])  # fmt: skip
    assert [(r["key"], r["captions"], r["verdict"], r["media"]["modality"]) for r in found] == [
        (str(row["videoid"]), [row["name"]], "kept", "video") for row in rows
    ]
    assert found[0]["media"]["path"].endswith("/videos/006001_006050/21179416.mp4")


def test_numbers_stay_numbers_in_labels(place):
    row = {"file": "a.jpg", "n": 3, "x": 1e-3, "big": 2**53 + 1, "flag": False, "text": "3"}
    (place / "r.jsonl").write_text(json.dumps(row) + "\n")
    pq.write_table(pa.Table.from_pylist([row]), place / "r.parquet")
    for name in ("r.jsonl", "r.parquet"):
        (found,) = records(path=str(place), annotations=name, media="file", labels="all")
        told = json.loads(found["labels"])
        assert told == {key: value for key, value in row.items() if key != "file"}
        assert [type(told[key]) for key in ("n", "x", "flag", "text")] == [int, float, bool, str]


@pytest.mark.real_data
def test_the_clips_of_the_exercises_are_found_by_a_template():
    root = os.path.dirname(need("videos"))
    found = records(path=root, annotations=os.path.join("photos", "exercises", "items.jsonl"),
                    media="{id}.mp4", media_root="videos/exercise_2phase",
                    captions=["name", "{name}, with {equipment}"],
                    labels=["category", "primaryMuscles"])  # fmt: skip
    clips = os.listdir(os.path.join(root, "videos", "exercise_2phase"))
    assert sorted(os.path.basename(r["media"]["path"]) for r in found) == sorted(clips)
    assert {(r["verdict"], r["media"]["modality"]) for r in found} == {("kept", "video")}
    assert json.loads(found[0]["labels"])["primaryMuscles"] == ["abdominals"]
