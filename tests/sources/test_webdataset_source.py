"""The WebDataset source, against webdataset's own grouping and Python's tarfile."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile

import fsspec
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import schema
from datagen.errors import DatagenError
from datagen.registry import find
from datagen.sources._paths import braces
from datagen.step import Context

Source = find("source", "webdataset")
DATA = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    os.environ.get("DATAGEN_TEST_DATA", "../shared/data"),
)


def tar(members, kind=tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, bytes or TarInfo) in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def source(**given_settings):
    return Source(Source.Settings(**given_settings))


def records(**given_settings):
    reader = source(**given_settings)
    parts = reader.parts(Context())
    tables = [reader.read(json.loads(json.dumps(part)), Context()) for part in parts]
    assert all(table.schema == schema.RECORD for table in tables)
    return pa.concat_tables(tables).to_pylist()


def of_bytes(folder, data: bytes, **given_settings):
    (folder / "x.tar").write_bytes(data)
    return records(path=str(folder / "x.tar"), **given_settings)


def summary(found):
    return [(r["key"], r["rule"]) for r in found]


SAMPLES = [
    ("a/000.jpg", b"jpeg bytes 0"),
    ("a/000.txt", b" a red cup \n"),
    ("a/000.json", b'{"caption": ["one", "two"], "meta": {"title": "deep"}, "colour": "red"}'),
    ("a/001.JPG", b"jpeg bytes one"),
    ("a/001.txt", "ein grüner Becher".encode()),
    ("a/001.json", b'{"caption": "three", "colour": null, "n": 1}'),
]


def test_media_lie_where_the_record_says_and_keys_are_the_originals(tmp_path):
    found = of_bytes(tmp_path, tar(SAMPLES))
    assert [(r["key"], r["captions"], r["labels"]) for r in found] == [
        ("a/000", ["a red cup"], "{}"),
        ("a/001", ["ein grüner Becher"], "{}"),
    ]
    for record, content in zip(found, [b"jpeg bytes 0", b"jpeg bytes one"], strict=True):
        media = record["media"]
        with open(media["path"], "rb") as file:
            file.seek(media["offset"])
            assert file.read(media["size"]) == content
        assert media["modality"] == "image"
        assert media["sha256"] is None


def test_captions_and_labels_come_from_the_members_that_are_named(tmp_path):
    found = of_bytes(
        tmp_path, tar(SAMPLES), captions=["json.caption", "txt", "json.meta.title"], labels="json"
    )
    assert [r["captions"] for r in found] == [
        ["one", "two", "a red cup", "deep"],
        ["three", "ein grüner Becher"],
    ]
    assert [json.loads(r["labels"]) for r in found] == [
        {"meta": {"title": "deep"}, "colour": "red"},
        {"n": 1},
    ]
    found = of_bytes(tmp_path, tar(SAMPLES), captions=None, labels=["json.colour"])
    assert [(r["captions"], r["labels"]) for r in found] == [([], '{"colour":"red"}'), ([], "{}")]


names = st.text(st.sampled_from("ab./-é"), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(names, st.sampled_from(["jpg", "txt", "b.jpg", "JSON"])), max_size=8))
def test_keys_and_fields_are_those_of_webdataset(pairs):
    from datagen.sources.webdataset import split_name

    for stem, end in pairs:
        name = f"{stem}.{end}"
        key, fields = webdataset.tariterators.base_plus_ext(name)
        # webdataset takes an empty key ("dir/.jpg") and several slashes as they come.
        expected = None if key is None or not key.rpartition("/")[2] else (key, fields.lower())
        assert split_name(name) == expected


def test_the_samples_are_those_that_webdataset_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    found = of_bytes(tmp_path, tar([("README", b"no sample"), (".hidden", b"x"), *SAMPLES]))
    theirs = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    assert [r["key"] for r in found] == [sample["__key__"] for sample in theirs]
    data = (tmp_path / "x.tar").read_bytes()
    for record, sample in zip(found, theirs, strict=True):
        media = record["media"]
        assert data[media["offset"] :][: media["size"]] == sample["jpg"]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_are_read(tmp_path, kind):
    long = "d" * 90 + "/" + "n" * 200
    members = [(f"{long}.jpg", b"x"), (f"{long}.txt", b"t"), ("снимок.jpg", b"yy")]
    found = of_bytes(tmp_path, tar(members, kind))
    assert [(r["key"], r["captions"], r["media"]["size"]) for r in found] == [
        (long, ["t"], 1),
        ("снимок", [], 2),
    ]


def special(kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, link
    return info


def test_links_devices_and_sparse_members_fail_and_their_neighbours_do_not(tmp_path):
    members = [
        ("a.jpg", b"good"),
        ("a.extra", special(tarfile.SYMTYPE, "/etc/passwd")),
        ("b.jpg", special(tarfile.SYMTYPE, "../../secret")),
        ("b.txt", b"text of b"),
        ("c.jpg", special(tarfile.LNKTYPE, "a.jpg")),
        ("d.jpg", special(tarfile.CHRTYPE)),
        ("e.jpg", special(tarfile.FIFOTYPE)),
        ("dir", special(tarfile.DIRTYPE)),
        ("f.jpg", special(tarfile.GNUTYPE_SPARSE)),
        ("g.jpg", b"good too"),
    ]
    found = of_bytes(tmp_path, tar(members))
    assert sorted(summary(found), key=str) == sorted(
        [
            ("a.extra", "special_member"),
            ("b.jpg", "special_member"),
            ("c.jpg", "special_member"),
            ("d.jpg", "special_member"),
            ("e.jpg", "special_member"),
            ("f.jpg", "sparse_member"),
            ("a", None),
            ("g", None),
        ],
        key=str,
    )
    assert all(r["media"] is None for r in found if r["verdict"] == "failed")


def test_faults_of_one_sample_are_its_own(tmp_path):
    members = [
        ("a.jpg", b"x"), ("a.jpg", b"y"),
        ("b.txt", b"alone"),
        ("c.jpg", b"x"), ("c.txt", b"\xff\xff"),
        ("d.jpg", b"x"), ("d.json", b"{broken"),
        ("e.jpg", b"x"), ("e.json", b"[" * 200_000),
        ("f.jpg", b"x"), ("f.txt", b"x" * (1 << 20) + b"y"),
        ("g.jpg", b"x"), ("g.json", b'{"n": "\\ud800"}'),
    ]  # fmt: skip
    found = of_bytes(tmp_path, tar(members), labels="json")
    assert summary(found) == [
        ("a", "duplicate_member"), ("b", "no_media"), ("c", "bad_text"), ("d", "bad_json"),
        ("e", "bad_json"), ("f", "text_too_large"), ("g", None),
    ]  # fmt: skip


def test_members_of_a_key_that_are_apart_still_make_one_sample(tmp_path):
    members = [("a.jpg", b"x"), ("b.jpg", b"y"), ("a.txt", b"of a"), ("b.txt", b"of b")]
    found = of_bytes(tmp_path, tar(members))
    assert [(r["key"], r["captions"]) for r in found] == [("a", ["of a"]), ("b", ["of b"])]


def test_the_preferred_medium_of_a_sample_is_taken(tmp_path):
    members = [("a.png", b"p"), ("a.jpg", b"jj"), ("a.mp4", b"mmm")]
    for media, size in ((["png", "jpg"], 1), (["jpg"], 2), (["mp4", "png"], 3)):
        (found,) = of_bytes(tmp_path, tar(members), media=media)
        assert found["media"]["size"] == size
    assert found["media"]["modality"] == "video"


def test_a_tar_cut_anywhere_keeps_what_is_whole_and_says_so(tmp_path):
    contents = [(f"{i}.{end}", bytes([65 + i]) * 700) for i in range(3) for end in ("jpg", "txt")]
    data = tar(contents)
    whole = {r["key"]: r for r in of_bytes(tmp_path, data)}
    assert len(whole) == 3
    for length in range(0, len(contents) * 1536 + 1, 256):
        found = of_bytes(tmp_path, data[:length])
        bad = [r for r in found if r["verdict"] == "failed"]
        assert [r["rule"] for r in bad] == ["truncated_tar"]
        good = [r for r in found if r["verdict"] == "kept"]
        assert len(good) >= length // (2 * 1536) - 1
        for record in good:
            assert record["media"] == whole[record["key"]]["media"]
            # A caption is never lost silently: only where the cut is between two members.
            assert record["captions"] == whole[record["key"]]["captions"] or length % 1536 == 0


def test_a_damaged_header_ends_the_tar_there(tmp_path):
    data = bytearray(tar([(f"{i}.jpg", b"x" * 600) for i in range(4)]))
    data[2 * 1536 + 10] ^= 0xFF
    found = of_bytes(tmp_path, bytes(data))
    assert summary(found) == [("0", None), ("1", "corrupt_header")]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_makes_reading_raise_or_point_outside_the_file(tmp_path_factory, data):
    kind = data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    good = tar([("k" * 120 + ".jpg", b"a" * 20), ("b.jpg", b"b" * 600), ("b.json", b"{}")], kind)
    broken = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, 5000))
        broken[at] = data.draw(st.integers(0, 255))
    for block in range(0, 6 * 512, 512):  # make the headers' sums right again, so damage goes deep
        head = broken[block : block + 512]
        if head[257:262] == b"ustar":
            total = sum(head[:148]) + sum(head[156:]) + 8 * 32
            broken[block + 148 : block + 156] = b"%06o\0 " % total
    file = tmp_path_factory.mktemp("fuzz") / "x.tar"
    file.write_bytes(broken)
    for record in records(path=str(file), labels="json"):
        if record["verdict"] == "kept":
            media = record["media"]
            assert media["offset"] >= 512
            assert media["size"] >= 0
            assert media["offset"] + media["size"] <= len(broken)


def test_a_header_of_many_megabytes_and_a_size_that_leads_back_are_refused(tmp_path):
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 3 << 20
    data = huge.tobuf(tarfile.USTAR_FORMAT) + b"1" * (3 << 20) + tar([("a.jpg", b"x")])
    assert summary(of_bytes(tmp_path, data)) == [("x.tar", "corrupt_header")]
    back = bytearray(tar([("a.jpg", b"x"), ("b.jpg", b"x")]))
    head = back[1024:1536]
    head[124:136] = b"\xff" * 10 + b"\xfc\x00"  # base-256: -1024
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    back[1024:1536] = head
    assert summary(of_bytes(tmp_path, bytes(back)))[-1][1] == "corrupt_header"


@pytest.mark.parametrize("make", [gzip.compress, lambda data: b"BZh9" + data])
def test_a_compressed_tar_fails_with_the_mend(tmp_path, make):
    (found,) = of_bytes(tmp_path, make(tar(SAMPLES)))
    assert (found["verdict"], found["rule"]) == ("failed", "compressed_tar")
    assert "unpack it first" in found["detail"]
    (tmp_path / "y.tar.gz").write_bytes(gzip.compress(tar(SAMPLES)))
    (line,) = source(path=str(tmp_path / "y.tar.gz")).check()
    assert "unpack it to .tar first" in line


def test_paths_may_be_folders_globs_braces_and_lists(tmp_path):
    for name in ("s-008", "s-009", "s-010", "other"):
        (tmp_path / f"{name}.tar").write_bytes(tar([(f"{name}.jpg", b"x")]))
    (tmp_path / "s-008.json").write_text("{}")

    def keys(path):
        return [r["key"] for r in records(path=path)]

    assert keys(str(tmp_path)) == ["other", "s-008", "s-009", "s-010"]
    assert keys(f"{tmp_path}/s-*.tar") == ["s-008", "s-009", "s-010"]
    assert keys(f"{tmp_path}/s-{{008..010}}.tar") == ["s-008", "s-009", "s-010"]
    both = [f"{tmp_path}/{{s-010,other}}.tar", f"{tmp_path}/o*.tar"]
    assert keys(both) == ["other", "s-010"]
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path), "/wds", recursive=True)
    assert keys("memory://wds/s-{008..010}.tar") == keys("memory://wds/s-*.tar")
    (one,) = records(path="memory://wds/other.tar")
    assert one["media"]["path"] == "memory://wds/other.tar"
    media = one["media"]
    assert fs.cat_file("/wds/other.tar", media["offset"], media["offset"] + media["size"]) == b"x"


@pytest.mark.parametrize(("pattern", "count"), [("a{0..9}b", 10), ("{1..3}{a,b}", 6), ("{x}", 1)])
def test_braces_mean_what_braceexpand_says(pattern, count):
    from braceexpand import braceexpand

    assert list(braces(pattern)) == list(braceexpand(pattern))
    assert len(list(braces(pattern))) == count


@pytest.mark.parametrize(("path", "words"), [
    ("/no/such", "no such file or folder"),
    ("{folder}", "no .tar file in this folder"),
    ("{folder}/*.tar", "no file matches"),
    ("{folder}/{{0..99999999}}.tar", "more than"),
])  # fmt: skip
def test_a_path_that_means_nothing_is_one_line(tmp_path, path, words):
    reader = source(path=path.format(folder=tmp_path))
    (line,) = reader.check()
    assert words in line
    with pytest.raises(DatagenError, match=words):
        reader.parts(Context())


def test_settings_that_no_sample_answers_are_told_before_the_run(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar(SAMPLES))
    path = str(tmp_path / "x.tar")
    assert list(source(path=path, captions="json.caption", labels="json").check()) == []
    (line,) = source(path=path, captions="json.captoin").check()
    assert "did you mean 'json.caption'?" in line
    (line,) = source(path=path, media=["tif"]).check()
    assert "set `media`" in line
    assert "jpg, json, txt" in line


@pytest.mark.real_data
def test_real_photos_in_a_tar_are_found_byte_for_byte(tmp_path):
    folder = os.path.join(DATA, "photos", "fashion", "images")
    if not os.path.isdir(folder):
        pytest.skip(f"no real data at {folder} (set DATAGEN_TEST_DATA)")
    photos = {}
    for name in sorted(os.listdir(folder))[:50]:
        with open(f"{folder}/{name}", "rb") as file:
            photos[name] = file.read()
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for name, content in photos.items():
            writer.write({"__key__": name[:-4], "jpg": content, "txt": name, "json": {"n": name}})
    found = records(path=str(tmp_path), labels="json")
    data = (tmp_path / "x.tar").read_bytes()
    assert len(found) == 50
    for record in found:
        name, media = record["captions"][0], record["media"]
        assert record["key"] == name[:-4]
        assert json.loads(record["labels"]) == {"n": name}
        assert data[media["offset"] :][: media["size"]] == photos[name]
