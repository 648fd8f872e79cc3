"""The huggingface source, against datasets' own readers and the bytes that went in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import dataset_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen import ingest, libraries, media, schema
from datagen.errors import DatagenError
from datagen.recipe import MediaLimits, Origin
from datagen.registry import find
from datagen.sources import _datasets, _features, huggingface
from datagen.step import Context

libraries.quiet()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
datasets = pytest.importorskip("datasets", reason="needs datagen[hf]")
HuggingFace = find("source", "huggingface")
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()
    _datasets.opened_again.cache_clear()


def picture(colour: int, kind: str = "JPEG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 12), (colour, 40, 90)).save(data, kind)
    return data.getvalue()


def source(**given_settings):
    return HuggingFace(HuggingFace.Settings(**given_settings))


def records(folder: Path, **given_settings):
    """All records, with every part sent through JSON as it is between workers."""
    reader = source(**given_settings)
    assert list(reader.check()) == []
    context = Context(media_dir=str(folder / "media"))
    tables = []
    for part in reader.parts(context):
        table = reader.read(json.loads(json.dumps(part)), context)
        assert table.schema == schema.RECORD
        tables.append(table)
    return pa.concat_tables(tables).to_pylist()


def read(record) -> bytes:
    return media.read(record["media"])


def pets(folder: Path) -> tuple[str, list[bytes]]:
    """A saved dataset whose pictures come as bytes, as a file, and as an array; their bytes."""
    (folder / "file.png").write_bytes(picture(9, "PNG"))
    rows = {
        "image": [{"bytes": picture(1), "path": "one.jpg"}, str(folder / "file.png"),
                  np.full((5, 7, 3), 200, np.uint8)],
        "label": [1, 0, -1],
        "texts": [["a dog", "it barks"], [], [" one ", None]],
        "n": [1, 2, 3],
        "x": [0.5, float("nan"), 1.5],
    }  # fmt: skip
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": names,
                                  "texts": [datasets.Value("string")],
                                  "n": datasets.Value("int32"),
                                  "x": datasets.Value("float64")})  # fmt: skip
    place = folder / "saved"
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(place))
    stored = datasets.load_from_disk(str(place)).cast_column("image", datasets.Image(decode=False))
    return str(place), [row["image"]["bytes"] for row in stored]


def test_bytes_inside_a_dataset_go_to_a_shard_untouched(tmp_path):
    place, expected = pets(tmp_path)
    assert expected[0] == picture(1)
    found = records(tmp_path, path=place, media="image", captions="texts", labels="all")
    assert [r["verdict"] for r in found] == ["kept"] * 3
    assert [read(r) for r in found] == expected
    assert [r["captions"] for r in found] == [["a dog", "it barks"], [], ["one"]]
    assert [json.loads(r["labels"]) for r in found] == [
        {"label": "dog", "n": 1, "x": 0.5}, {"label": "cat", "n": 2}, {"n": 3, "x": 1.5}
    ]  # fmt: skip
    assert [r["key"] for r in found] == ["one.jpg", "file.png", "row:00000002"]
    (shard,) = (tmp_path / "media").iterdir()
    with tarfile.open(shard) as tar:
        members = [(m.name, m.mtime, m.uname, m.uid) for m in tar]
    assert members == [("00000000-0.jpeg", 0, "", 0), ("00000001-1.png", 0, "", 0),
                       ("00000002-2.png", 0, "", 0)]  # fmt: skip


def test_a_part_that_is_read_again_writes_the_same_shard(tmp_path):
    place, _ = pets(tmp_path)
    first = records(tmp_path, path=place, media="image", captions="{label}")
    (shard,) = (tmp_path / "media").iterdir()
    data, before = shard.read_bytes(), shard.stat().st_mtime_ns
    assert records(tmp_path, path=place, media="image", captions="{label}") == first
    assert shard.stat().st_mtime_ns == before
    shard.write_bytes(b"half")
    assert records(tmp_path, path=place, media="image", captions="{label}") == first
    assert shard.read_bytes() == data


def test_ingest_makes_items_of_them(tmp_path):
    place, expected = pets(tmp_path)
    reader = source(path=place, media="image", captions="texts")
    context = Context(media_dir=str(tmp_path / "media"))
    work = ingest.Ingest({"s": Origin("hf", "huggingface", reader)}, MediaLimits())
    work.open(context)
    (part,) = reader.parts(context)
    unit = schema.canonical_json({"source": "s", "part": part})
    row = pa.table({"id": ["u"], "part": [unit]}, schema=ingest.PARTS)
    found = work(row).to_pylist()
    assert [(r["verdict"], r["media"]["format"]) for r in found] == [
        ("kept", "jpeg"), ("kept", "png"), ("kept", "png")]  # fmt: skip
    assert [r["media"]["sha256"] for r in found] == [
        hashlib.sha256(data).hexdigest() for data in expected]  # fmt: skip


def test_nothing_is_decoded(tmp_path, monkeypatch):
    place, expected = pets(tmp_path)

    def never(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", never)
    found = records(tmp_path, path=place, media="image", captions="texts")
    assert [read(r) for r in found] == expected


def test_clips_are_listed_without_a_decoder(tmp_path):
    clip = b"\x1a\x45\xdf\xa3 webm, nearly"
    (tmp_path / "a.webm").write_bytes(clip)
    features = datasets.Features({"clip": datasets.Video(), "t": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"clip": [str(tmp_path / "a.webm")], "t": ["x"]}, features)
    rows.save_to_disk(str(tmp_path / "clips"))
    (found,) = records(tmp_path, path=str(tmp_path / "clips"), media="clip", captions="t")
    assert (found["media"]["modality"], read(found)) == ("video", clip)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 9), st.integers(1, 80))
def test_parts_are_bounded_and_hold_every_row_once(sizes, rows, size):
    before = huggingface.ROWS, huggingface.BYTES
    huggingface.ROWS, huggingface.BYTES = rows, size
    try:
        found = list(huggingface._ranges(np.array(sizes, np.int64)))
    finally:
        huggingface.ROWS, huggingface.BYTES = before
    assert [at for start, stop in found for at in range(start, stop)] == list(range(len(sizes)))
    for start, stop in found:
        assert stop - start <= rows
        assert stop - start == 1 or sum(sizes[start:stop]) <= size


def test_parts_tell_their_bytes_and_several_parts_give_what_one_gives(tmp_path, monkeypatch):
    place, expected = pets(tmp_path)
    whole = records(tmp_path, path=place, media="image", captions="texts")
    monkeypatch.setattr(huggingface, "BYTES", 1)
    parts = source(path=place, media="image").parts(Context())
    assert [(part["count"], part["size"]) for part in parts] == [(1, len(b)) for b in expected]
    cut = records(tmp_path, path=place, media="image", captions="texts")
    assert [read(r) for r in cut] == [read(r) for r in whole]
    assert [r["key"] for r in cut] == [r["key"] for r in whole]


def parquet(folder: Path, name: str = "data/train-0.parquet", more: int = 0) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": picture(n), "path": None} for n in range(3 + more)]
    by = [{"who": "x"}, {"who": "y"}]
    told = [{"title": f"cup {n}", "by": by} for n in range(3 + more)]
    pq.write_table(pa.table({"pic": cells, "meta": told}), file)
    return file


def test_parquet_files_are_read_as_a_folder_a_glob_or_a_file(tmp_path):
    file = parquet(tmp_path / "set")
    chosen = {"media": "pic", "captions": ["meta.title", "{meta.title} by {meta.by.who}"],
              "labels": ["meta.by"], "modality": "image"}  # fmt: skip
    for path in (tmp_path / "set", file.parent / "*.parquet", file):
        found = records(tmp_path, path=str(path), **chosen)
        assert [r["captions"] for r in found] == [
            [f"cup {n}", f"cup {n} by x, y"] for n in range(3)]  # fmt: skip
        assert [read(r) for r in found] == [picture(n) for n in range(3)]
        assert json.loads(found[0]["labels"]) == {"meta.by": [{"who": "x"}, {"who": "y"}]}


def test_changed_files_change_the_parts_and_stop_a_run_that_reads_them(tmp_path):
    file = parquet(tmp_path / "set")
    reader = source(path=str(tmp_path / "set"), media="pic")
    before = reader.parts(Context())
    assert reader.parts(Context()) == before
    parquet(tmp_path / "set", more=1)
    os.utime(file, ns=(1, 1))
    after = source(path=str(tmp_path / "set"), media="pic").parts(Context())
    assert after[0]["content"] != before[0]["content"]
    with pytest.raises(DatagenError, match="changed since the run began"):
        reader.read(before[0], Context(media_dir=str(tmp_path)))


def test_an_image_folder_is_referenced_where_it_lies(tmp_path):
    for number, name in enumerate(("cat/a.png", "dog/b.png")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(picture(number, "PNG"))
    found = records(tmp_path, path=str(tmp_path / "photos"), media="image",
                    captions="a photo of a {label}", labels=["label"])  # fmt: skip
    assert [(r["key"], r["captions"], r["labels"]) for r in found] == [
        ("a.png", ["a photo of a cat"], '{"label":"cat"}'),
        ("b.png", ["a photo of a dog"], '{"label":"dog"}'),
    ]
    assert [r["media"]["path"] for r in found] == [
        str(tmp_path / "photos" / name) for name in ("cat/a.png", "dog/b.png")]  # fmt: skip
    assert not (tmp_path / "media").exists()


def test_webdataset_tars_are_read_by_datasets_too(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key in ("k1", "k2"):
            for end, data in (("jpg", picture(3)), ("json", b'{"caption": "a cup"}')):
                info = tarfile.TarInfo(f"{key}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    found = records(tmp_path, path=str(tmp_path / "*.tar"), media="jpg", key="__key__",
                    captions="json.caption")  # fmt: skip
    assert [(r["key"], r["captions"], read(r)) for r in found] == [
        (key, ["a cup"], picture(3)) for key in ("k1", "k2")]  # fmt: skip


def test_a_dataset_cannot_name_files_outside_its_own_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(1, "PNG"))
    inside = tmp_path / "set" / "in.png"
    inside.parent.mkdir()
    inside.write_bytes(picture(2, "PNG"))
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    names = [str(tmp_path / "secret.png"), "../secret.png", "https://example.com/a.png",
             "s3://other/a.png", str(inside), "in.png", "link.png", "gone.png", None,
             str(tmp_path / "set" / ".." / "secret.png")]  # fmt: skip
    pq.write_table(pa.table({"f": names, "t": ["x"] * len(names)}), inside.parent / "x.parquet")
    path = str(inside.parent / "*.parquet")
    found = records(tmp_path, path=path, media="f", captions="t")
    assert [r["rule"] for r in found] == [
        "outside_root", "missing_file", "outside_root", "outside_root", None, None,
        "missing_file", "missing_file", "no_media", "outside_root",
    ]  # fmt: skip
    assert all(r["media"] is None for r in found if r["rule"])
    assert "set `media_root`" in found[0]["detail"]
    wide = records(tmp_path, path=path, media="f", captions="t", media_root=str(tmp_path))
    assert [wide[0]["rule"], wide[4]["rule"], wide[5]["rule"]] == [None, None, "missing_file"]


def test_captions_alone_and_rows_without_any(tmp_path):
    rows = datasets.Dataset.from_dict({"t": ["a cup", " ", None], "n": [1, 2, 3]})
    rows.save_to_disk(str(tmp_path / "texts"))
    found = records(tmp_path, path=str(tmp_path / "texts"), captions="t", labels=["n"])
    assert [(r["rule"], r["media"], r["captions"]) for r in found] == [
        (None, None, ["a cup"]), ("no_caption", None, []), ("no_caption", None, [])]  # fmt: skip
    assert found[0]["labels"] == '{"n":1}'


def test_a_column_of_several_pictures_gives_a_record_each(tmp_path):
    features = datasets.Features({"pics": [datasets.Image()], "t": datasets.Value("string")})
    cells = [[{"bytes": picture(n), "path": f"{n}.jpg"} for n in range(count)] for count in (2, 0)]
    rows = datasets.Dataset.from_dict({"pics": cells, "t": ["x", "y"]}, features=features)
    rows.save_to_disk(str(tmp_path / "many"))
    (part,) = source(path=str(tmp_path / "many"), media="pics").parts(Context())
    assert part["size"] == len(picture(0)) + len(picture(1))
    found = records(tmp_path, path=str(tmp_path / "many"), media="pics", captions="t")
    assert [(r["key"], r["rule"]) for r in found] == [
        ("0.jpg", None), ("1.jpg", None), ("row:00000001", "no_media")]  # fmt: skip
    assert [read(r) for r in found[:2]] == [picture(0), picture(1)]


def test_names_of_classes_stand_for_their_numbers_however_deep():
    kind = datasets.ClassLabel(names=["cat", "dog"])
    assert _features.told([kind], [1, None, 0, 7]) == ["dog", None, "cat", None]
    assert _features.told({"a": kind, "b": [{"c": kind}]}, {"a": 0, "b": [{"c": 1}]}) == {
        "a": "cat", "b": [{"c": "dog"}]}  # fmt: skip
    old = datasets.Sequence({"c": kind, "t": datasets.Value("string")})
    assert _features.told(old, {"c": [1, 0], "t": ["x", "y"]}) == {
        "c": ["dog", "cat"], "t": ["x", "y"]}  # fmt: skip


def test_columns_of_json_are_read_as_deep_as_settings_name_them(tmp_path):
    if not hasattr(datasets, "Json"):
        pytest.skip("this version of datasets has no columns of JSON")
    told = {"about": datasets.Json(), "all": datasets.List(datasets.Json())}
    rows = {"about": [{"title": "a cup", "n": 1}, {"title": "a jug"}], "all": [[{"n": 2}], []]}
    place = str(tmp_path / "json")
    datasets.Dataset.from_dict(rows, features=datasets.Features(told)).save_to_disk(place)
    found = records(tmp_path, path=place, captions="about.title", labels=["about.n", "all"])
    assert [r["captions"] for r in found] == [["a cup"], ["a jug"]]
    assert [json.loads(r["labels"]) for r in found] == [
        {"about.n": 1, "all": [{"n": 2}]}, {"all": []}]  # fmt: skip


def test_fields_within_columns_are_those_that_their_types_have():
    text = datasets.Value("string")
    columns = {"a": {"b": {"c": text}}, "old": {"c": datasets.List(text)}, "t": text,
               "many": datasets.List({"raw": text}), "x.y": {"z": text}}  # fmt: skip
    for name in ("a.b", "a.b.c", "old.c", "many.raw"):
        assert _features.holds(columns, name), name
    for name in ("a.d", "a.b.c.e", "old.d", "many.row", "t.en", "b.c", "many", "many."):
        assert not _features.holds(columns, name), name


@pytest.fixture
def two_splits(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a cup"], "pic": [{"bytes": b"x", "path": None}]},
                                      features=datasets.Features({
                                          "text": datasets.Value("string"),
                                          "pic": datasets.Image()}))  # fmt: skip
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(str(tmp_path / "two"))
    return str(tmp_path / "two")


@pytest.mark.parametrize("fault", [
    ({}, "has several splits; set `split` to one of train, test"),
    ({"split": "tain"}, "no split 'tain'; set `split` to one of train, test"),
    ({"split": "train", "captions": "txt"}, "'txt', which is not there; did you mean 'text'"),
    ({"split": "train", "media": "text2"}, "media names column 'text2'"),
    ({"split": "train", "media": "{text}.jpg"}, "media names column '{text}.jpg'"),
    ({"split": "train", "captions": "text.en"}, "captions names column 'text.en'"),
    ({"split": "train", "key": "pic.name"}, "key names column 'pic.name'"),
    ({"split": "train", "captions": "no {column"}, "'no {column' names no column"),
    ({"split": "train", "config": "en"}, "leave out `config`"),
    ({"path": "NOROWS"}, "holds no row"),
    ({"path": "none.parquet"}, "holds no row"),
    ({"path": "*.csv"}, "no file matches this pattern"),
    ({"path": "bad.jsonl"}, "JSON parse error"),
    ({"split": "train", "captions": "pic"}, "column 'pic' of type Image; texts expected"),
    ({"split": "train", "captions": None}, "set `captions`, `media` or both"),
    ({"split": "train", "revision": "main"}, "only datasets of the hub have one"),
    ({"split": "train", "media_root": "/no/such"}, "no such folder"),
    ({"path": "/no/such/folder"}, "no such file or folder"),
    ({"path": "EMPTY"}, "holds no file that datasets can read"),
    ({"path": "README"}, "files of a known kind"),
    ({"path": "PICKLE"}, "holds no file that datasets can read"),
    ({"path": "SCRIPT"}, "is made by code of its own, which is never run"),
    ({"path": "org/name"}, "hf download org/name --repo-type dataset"),
])  # fmt: skip
def test_what_cannot_be_opened_is_one_line_with_the_mend(tmp_path, two_splits, monkeypatch, fault):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for name in ("EMPTY", "PICKLE", "SCRIPT"):
        (tmp_path / name).mkdir()
    (tmp_path / "README").write_text("x")
    none = datasets.Dataset.from_dict({"text": []})
    none.save_to_disk(str(tmp_path / "NOROWS"))
    none.to_parquet(str(tmp_path / "none.parquet"))
    (tmp_path / "bad.jsonl").write_text('{"text": "a" "b"}\n')
    (tmp_path / "PICKLE" / "x.pkl").write_bytes(b"\x80\x04")
    (tmp_path / "SCRIPT" / "SCRIPT.py").write_text("raise SystemExit('it ran')")
    chosen, words = fault
    with pytest.raises(DatagenError) as caught:
        source(**{"path": two_splits, "captions": "text", **chosen}).parts(Context())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_split_of_a_saved_dataset_is_read(tmp_path, two_splits):
    (found,) = records(tmp_path, path=two_splits, split="test", captions="text")
    assert found["captions"] == ["a cup"]


# --- the hub ------------------------------------------------------------------------------------

ASK = """
import json, sys
from datagen.registry import find
from datagen.step import Context
source = find("source", "huggingface")
for chosen in json.loads(sys.argv[1]):
    reader = source(source.Settings(**{"path": "org/name", "captions": "t", **chosen}))
    try:
        parts = reader.parts(Context())
        texts = [r["captions"][0] for p in parts for r in reader.read(p, Context()).to_pylist()]
        print(json.dumps([reader.revision(), parts[0]["revision"], texts]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def asked(folder: Path, url: str, *chosen: dict, offline: bool = False) -> list[list]:
    """What the source finds with these settings, each in turn, in a process of its own."""
    env = {**os.environ, "HF_HOME": str(folder / "home"), "HF_ENDPOINT": url,
           "HF_HUB_OFFLINE": str(int(offline))}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", ASK, json.dumps(chosen)], env=env, cwd=folder,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def files(*texts: str) -> dict[str, bytes]:
    data = io.BytesIO()
    pq.write_table(pa.table({"t": texts}), data)
    return {"README.md": b"# cups\n", "data/train-00000-of-00001.parquet": data.getvalue()}


def test_a_branch_of_the_hub_is_held_to_its_commit(tmp_path):
    with dataset_hub.serving() as hub:
        first = hub.add(files("a cup"))
        hub.branches["old"] = first
        assert asked(tmp_path, hub.url, {}) == [[first, first, ["a cup"]]]
        second = hub.add(files("a mug", "a jug"))
        faults = [{"revision": "nope"}, {"path": "org/other"}, {"split": "tain"}, {"config": "x"},
                  {"path": "org/gated"}]  # fmt: skip
        found = asked(tmp_path, hub.url, {}, {"revision": "old"}, {"revision": first}, *faults)
    assert found[0] == [second, second, ["a mug", "a jug"]]
    assert found[1] == found[2] == [first, first, ["a cup"]]
    words = ["no such revision", "no such dataset on the hub", "set `split` to one of train",
             "set `config` to one of 'default'", "it is gated"]  # fmt: skip
    for (kind, line), word in zip(found[3:], words, strict=True):
        assert kind == "DatagenError"
        assert word in line
        assert "\n" not in line


def test_without_a_network_the_cache_is_read_and_told(tmp_path):
    with dataset_hub.serving() as hub:
        first = hub.add(files("a cup"))
        asked(tmp_path, hub.url, {})
    alone = asked(tmp_path, hub.url, {}, {"revision": first}, {"revision": "main"},
                  {"revision": "0" * 40}, {"path": "org/other"}, offline=True)  # fmt: skip
    assert alone[:2] == [[first, first, ["a cup"]]] * 2
    assert f"the local cache holds commit {first}: set `revision`" in alone[2][1]
    assert f"commit {'0' * 40} is not in the local cache (commit {first} is)" in alone[3][1]
    assert "hf download org/other --repo-type dataset" in alone[4][1]


@pytest.mark.real_data
def test_real_photos_come_through_as_they_are(tmp_path):
    folder = (DATA / "photos" / "clothing").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real photos at {folder} (set DATAGEN_TEST_DATA)")
    found = records(tmp_path, path=str(folder), media="image", captions="{label}", labels="all")
    with open(folder / "items.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    told = {Path(r["media"]["path"]).relative_to(folder).as_posix(): r["captions"] for r in found}
    assert told == {row["image"]: [row["class"]] for row in rows}
