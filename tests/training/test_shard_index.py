"""Indexes of shards against Python's tarfile, and triplets by number against the shards' reader."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
import tiny_shards
from hypothesis import given
from hypothesis import strategies as st
from tiny_shards import Items, chain, triplet

from datagen import cache, store
from datagen.errors import DatagenError
from datagen.shards._read import read_shard
from datagen.training import shard_index
from datagen.training.collection import collect
from datagen.training.shard_index import ROLES, scan
from datagen.training.triplets import Triplets


@pytest.fixture
def items(tmp_path):
    return Items(tmp_path / "items")


@pytest.fixture
def run(tmp_path, items):
    return tiny_shards.write(tmp_path / "run", chain(items, 12), max_count=5)


def tar(members, form=tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def told(key="k", **more) -> bytes:
    lists = {"references": [{"id": "r"}], "targets": [{"id": "t"}], "negatives": []}
    return json.dumps({"pair": f"p{key}", **lists, **more}).encode()


def whole(key="k", **more):
    return [(f"{key}.reference.jpg", b"ref"), (f"{key}.target.jpg", b"target"),
            (f"{key}.txt", b"text"), (f"{key}.json", told(key, **more))]  # fmt: skip


def indexed(tmp_path: Path, data: bytes, way: bool = True) -> shard_index.Index:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    return scan(str(path), way)


@pytest.mark.parametrize("way", [True, False])
def test_offsets_and_sizes_are_those_of_tarfile(run, way):
    for shard in collect(run).shards:
        with tarfile.open(shard.path) as archive:
            known = {info.name: (info.offset_data, info.size) for info in archive}
        found = scan(shard.path, way)
        assert (found.sha256 == store.file_hash(shard.path)) == way
        seen = set()
        for row in found.table.to_pylist():
            for one in row["members"]:
                names = {"text": "txt", "json": "json"}
                role = names.get(ROLES[one["role"]], ROLES[one["role"]])
                middle = f".{one['number']}" if one["number"] or role == "negative" else ""
                end = "" if role in names.values() else ".jpg"
                name = f"{row['key']}.{role}{middle}{end}"
                assert known[name] == (row["start"] + one["offset"], one["size"])
                seen.add(name)
        assert seen == set(known)
        assert not found.faults


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("key", ["k", "long" * 25])
@pytest.mark.parametrize("way", [True, False])
def test_names_of_any_length_are_read_in_every_format(tmp_path, form, key, way):
    if form == tarfile.USTAR_FORMAT and len(key) > 80:
        key = key[:80]
    data = tar([*whole("first"), ("folder/else.jpg", b"-"), *whole(key)], form)
    found = indexed(tmp_path, data, way).table.to_pylist()
    assert [row["key"] for row in found] == ["first", key]
    for row in found:
        parts = [data[row["start"] + one["offset"] :][: one["size"]] for one in row["members"]]
        assert parts == [b"ref", b"target", b"text", told(row["key"])]
        assert [one["item"] for one in row["members"]] == ["r", "t", None, None]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_size_of_many_gigabytes_is_read(form):
    info = tarfile.TarInfo("x.mp4")
    info.size = 9 << 30
    block = info.tobuf(form)
    if form == tarfile.GNU_FORMAT:
        assert shard_index._header(block[:512], "x", 0) == (b"0", 9 << 30)
    else:
        length = shard_index._header(block[:512], "x", 0)[1]
        assert shard_index._records(block[512 : 512 + length], "", -1) == ("", 9 << 30)


def test_a_size_that_no_disk_has_is_damage(tmp_path):
    info = tarfile.TarInfo("k.txt")
    info.size = 1 << 80
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for way in (True, False):
            with pytest.raises(shard_index.Damaged):
                indexed(tmp_path, info.tobuf(form) + bytes(2048), way)


def test_triplets_that_cannot_be_used_are_named_and_have_no_row(tmp_path):
    broken = [
        ("a.json", told("a")), *whole("b")[:3], *whole("c")[:3], ("c.json", b"{"),
        *whole("d", targets=[]), *whole("e", references=[{"id": 3}]), *whole("f", targets=3),
        *whole("g"), ("h.target.7.jpg", b""), *whole("h"),
    ]  # fmt: skip
    found = indexed(tmp_path, tar(broken))
    assert found.table["key"].to_pylist() == ["g"]
    rules = {key: rule for key, rule, _ in found.faults}
    assert rules == {
        "a": "incomplete", "b": "incomplete", **dict.fromkeys("cdefh", "broken_json"),
    }  # fmt: skip


def test_what_is_no_whole_tar_is_said(tmp_path):
    data = tar(whole())
    end = data.rstrip(b"\0")
    for wrong in (b"", b"no tar at all" * 100, end, data[:700], data[: len(end) // 512 * 512]):
        with pytest.raises(shard_index.Damaged, match=r"x\.tar: "):
            indexed(tmp_path, wrong)


@given(st.data())
def test_damage_of_any_kind_gives_an_index_or_one_line(tmp_path_factory, data):
    blob = bytearray(tar([*whole("a"), *whole("b")]))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    blob = blob[: data.draw(st.integers(0, len(blob)))]
    try:
        found = indexed(tmp_path_factory.getbasetemp(), bytes(blob), data.draw(st.booleans()))
    except shard_index.Damaged:
        return
    assert found.table.schema.equals(shard_index.INDEX)


def test_an_index_is_made_once_and_anew_when_the_shard_changes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    path, count = f"{run}/shards/train-000000.tar", []
    real = shard_index.scan
    monkeypatch.setattr(shard_index, "scan", lambda *how: count.append(how) or real(*how))
    first = shard_index.kept(path, whole=False)
    assert shard_index.kept(path, whole=False) == first
    assert len(count) == 1
    shard_index.kept(path, whole=True)  # wants a hash, which was not computed
    shard_index.kept(path, whole=True)
    shard_index.kept(path, whole=False)
    assert len(count) == 2
    Path(first).write_bytes(b"no index")
    assert len(shard_index.opened(shard_index.kept(path, whole=True)).table) == 5
    Path(path).write_bytes(tar(whole()))
    changed = shard_index.kept(path, whole=True)
    assert changed != first
    assert shard_index.opened(changed).table["key"].to_pylist() == ["k"]


def test_triplets_by_number_are_those_of_the_shards_reader(run):
    manifest = store.read_json(f"{run}/shards/manifest.json")
    known = [row for one in manifest["shards"] for row in read_shard(f"{run}/shards/{one['name']}")]
    data = Triplets.of(run)
    again = pickle.loads(pickle.dumps(data))  # noqa: S301
    assert len(data) == len(again) == len(known) == 12
    for row in (0, 7, 11, -1, 4):
        assert data[row] == again[row] == known[row]
    with pytest.raises(IndexError):
        data[12]
    assert data.column("key").to_pylist() == [row["key"] for row in known]
    assert data.shard_of().tolist() == [0] * 5 + [1] * 5 + [2] * 2


def test_only_what_is_wanted_is_read(run, monkeypatch):
    data, asked = Triplets.of(run), []
    real = data._bytes
    monkeypatch.setattr(data, "_bytes", lambda *how: asked.append(how[1:]) or real(*how))
    monkeypatch.setattr("datagen.training.triplets.NEAR_GAP", 600)
    entry = data.entry(3)
    text, target = (3, 0), (1, 0)
    found = data.read(entry, [text, target])
    assert found[text].decode().startswith(("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"))
    places = [entry.members[name][:2] for name in (target, text)]
    assert asked == places  # two reads, exactly theirs: the negatives between are larger


def test_splits_folders_single_tars_and_folders_without_manifest(tmp_path, items):
    rows = [
        triplet([items(n)], [items(n + 1)], str(n), split="val" if n < 2 else "train")
        for n in range(5)
    ]
    run = tiny_shards.write(tmp_path / "run", rows)
    assert [len(Triplets.of(run, split)) for split in ("train", "val", None)] == [3, 2, 5]
    assert len(Triplets.of(f"{run}/shards", "val")) == 2
    alone = collect(f"{run}/shards/val-000000.tar")
    assert len(Triplets(alone.shards)) == 2
    assert not alone.notes
    Path(f"{run}/shards/manifest.json").unlink()
    bare = collect(f"{run}/shards", "val")
    assert len(Triplets(bare.shards)) == 2
    assert "not checked" in bare.notes[0]
    with pytest.raises(DatagenError, match="no shards here"):
        collect(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "manifest",
    [{}, [], {"shards": [{"name": "../../etc/x.tar"}]},
     {"shards": [{"name": "../x.tar", "split": "train", "bytes": 1, "sha256": "", "triplets": 1}]}],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatagenError, match=r"manifest\.json: not a manifest of triplet shards"):
        collect(str(tmp_path))


def test_notes_name_the_first_broken_triplets_and_count_all(tmp_path):
    broken = [part for n in range(14) for part in whole(f"k{n}", targets=[])]
    (tmp_path / "x.tar").write_bytes(tar([*broken, *whole("good")]))
    found = collect(str(tmp_path / "x.tar"))
    data = Triplets(found.shards)
    assert [data[n]["key"] for n in range(len(data))] == ["good"]
    named = [line for line in found.notes if "left out: broken_json" in line]
    assert len(named) == 10
    assert "14 triplets left out in all" in found.notes[-1]


def test_the_limits_of_the_run_hold(run):
    store.write_json(f"{run}/run.json", {"recipe": {"media": {"max_pixels": 99}}})
    assert collect(run).limits.max_pixels == 99
    assert pa.types.is_struct(shard_index.MEMBER)
