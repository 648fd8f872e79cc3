"""Triplet shards: written once, read back by every reader that users have."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datagen import media, schema, store
from datagen.errors import DatagenError
from datagen.registry import find
from datagen.shards import _plan, _tar
from datagen.shards._read import read_shard
from datagen.shards.webdataset import parse_size
from datagen.step import Context, Tables

Shards = find("shards", "webdataset")
DATA = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    os.environ.get("DATAGEN_TEST_DATA", "../shared/data"),
)
TRIPLETS = pa.schema(
    [*schema.TRIPLETS, schema.NEGATIVES, schema.SPLIT, pa.field("score_clip", pa.float64())]
)


def jpeg(colour) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (24, 16), colour).save(out, "JPEG")
    return out.getvalue()


def item(path, data: bytes, caption="a caption", labels="{}", form="jpeg"):
    """A member of a pair whose bytes are written to ``path``."""
    path.write_bytes(data)
    media = {
        "path": str(path), "offset": 0, "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(), "modality": "image", "format": form,
        "width": 24, "height": 16, "seconds": None, "frames": None,
    }  # fmt: skip
    name = schema.item_id(media["sha256"], [caption], labels)
    return {"id": name, "key": path.name, "media": media, "caption": caption, "labels": labels}


def triplet(references, targets, text="make it blue", negatives=(), split="train", score=0.5):
    pair = schema.pair_id([r["id"] for r in references], [t["id"] for t in targets])
    change = {"field": "caption", "removed": "red", "added": "blue"}
    return {
        "id": schema.triplet_id(pair, text),
        "references": references,
        "targets": targets,
        "evidence": {"operator": "test", "reason": "they differ", "changes": [change], "score": 1},
        "provenance": [{"step": "pair", "operator": "test", "seed": 3}],
        "pair": pair,
        "modification": text,
        "negatives": [{"kind": "mined", "score": 0.5, "item": n} for n in negatives],
        "split": split,
        "score_clip": score,
    }


def table(rows) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=TRIPLETS)


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    items = [
        item(folder / f"{n}.jpg", jpeg((n, 2 * n, 3 * n)), f"thing {n}", f'{{"n":{n}}}')
        for n in range(20)
    ]
    return [
        triplet([items[n]], [items[n + 1]], f"change {n}", [items[n], items[n - 1]],
                "train" if n % 4 else "val")
        for n in range(19)
    ]  # fmt: skip


def write(out, rows, parallel=None, **given_settings):
    operator = Shards(Shards.Settings(**given_settings))
    data = rows if isinstance(rows, pa.Table) else table(rows)
    tables = Tables(pa.table({}), data, "triplets")
    context = Context("shards", 0, str(out))
    result = operator(tables, context, parallel) if parallel else operator(tables, context)
    assert result.verdicts.schema == schema.VERDICTS
    assert result.verdicts["id"].to_pylist() == data["id"].to_pylist()
    assert operator.still_stands(context, result.notes)
    return result


def files(out) -> dict[str, bytes]:
    folder = f"{out}/shards"
    found = {}
    for name in os.listdir(folder):
        with open(f"{folder}/{name}", "rb") as file:
            found[name] = file.read()
    return found


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


def content(member) -> bytes:
    with open(member["media"]["path"], "rb") as file:
        return file.read()


def expected(row) -> dict[str, bytes]:
    """Member names and media bytes that a triplet must have, by the layout's description."""
    out = {}
    for role, entries in (("reference", row["references"]), ("target", row["targets"])):
        for number, entry in enumerate(entries):
            middle = f".{number}" if number else ""
            out[f"{row['id']}.{role}{middle}.jpg"] = content(entry)
    for number, entry in enumerate(row["negatives"]):
        out[f"{row['id']}.negative.{number}.jpg"] = content(entry["item"])
    out[f"{row['id']}.txt"] = row["modification"].encode()
    return out


def test_python_reads_back_every_byte_and_the_manifest_is_true(tmp_path, rows):
    result = write(tmp_path, rows)
    assert set(result.verdicts["verdict"].to_pylist()) == {"kept"}
    assert result.rows.num_rows == len(rows)
    found = files(tmp_path)
    assert sorted(found) == [
        "manifest.json", "train-000000.json", "train-000000.tar", "val-000000.json",
        "val-000000.tar",
    ]  # fmt: skip
    for split in ("train", "val"):
        mine = sorted((row for row in rows if row["split"] == split), key=lambda row: row["id"])
        read = members(found[f"{split}-000000.tar"])
        assert list(dict.fromkeys(name.partition(".")[0] for name in read)) == [
            r["id"] for r in mine
        ]
        wanted = {name: data for row in mine for name, data in expected(row).items()}
        rest = {name: data for name, data in read.items() if not name.endswith(".json")}
        assert rest == wanted
    manifest = json.loads(found["manifest.json"])
    assert manifest["triplets"] == len(rows)
    for shard in manifest["shards"]:
        data = found[shard["name"]]
        assert shard["bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
        assert shard["triplets"] == len({name.partition(".")[0] for name in members(data)})
    assert not os.path.exists(tmp_path / ".plan-shards")


def test_the_json_of_a_triplet_tells_everything_but_where_files_lay(tmp_path, rows):
    row = {**rows[0], "score_clip": float("nan")}
    write(tmp_path, [row])
    (sample,) = read_shard(f"{tmp_path}/shards/val-000000.tar")
    told = sample["json"]
    assert told["id"] == sample["key"] == row["id"]
    assert (told["pair"], told["split"], told["modification"]) == (row["pair"], "val", "change 0")
    assert told["scores"] == {"clip": None}
    assert told["evidence"]["changes"] == row["evidence"]["changes"]
    assert told["provenance"][0]["operator"] == "test"
    reference = told["references"][0]
    assert reference["labels"] == '{"n":0}'
    assert reference["media"]["sha256"] == row["references"][0]["media"]["sha256"]
    assert [n["file"] for n in told["negatives"]] == ["negative.0.jpg", "negative.1.jpg"]
    assert [n["kind"] for n in told["negatives"]] == ["mined", "mined"]
    assert str(tmp_path) not in json.dumps(told)
    assert sample["references"] == [content(row["references"][0])]
    assert sample["targets"] == [content(row["targets"][0])]
    assert sample["negatives"] == [content(n["item"]) for n in row["negatives"]]
    assert sample["modification"] == "change 0"


def test_gnu_tar_lists_the_members_without_a_word_of_warning(tmp_path, rows):
    if shutil.which("tar") is None:
        pytest.skip("no tar command")
    write(tmp_path, rows)
    path = f"{tmp_path}/shards/train-000000.tar"
    told = subprocess.run(["tar", "-tvf", path], capture_output=True, text=True, check=True)
    assert told.stderr == ""
    assert len(told.stdout.splitlines()) == len(members(files(tmp_path)["train-000000.tar"]))


def test_webdataset_reads_the_shards_without_pickle(tmp_path, rows, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")
    write(tmp_path, rows)
    path = f"{tmp_path}/shards/train-000000.tar"
    samples = {s["__key__"]: s for s in webdataset.WebDataset(path, shardshuffle=False)}
    mine = [row for row in rows if row["split"] == "train"]
    assert sorted(samples) == sorted(row["id"] for row in mine)
    for row in mine:
        sample = samples[row["id"]]
        assert sample["reference.jpg"] == content(row["references"][0])
        assert sample["target.jpg"] == content(row["targets"][0])
        assert sample["negative.1.jpg"] == content(row["negatives"][1]["item"])
        assert sample["txt"] == row["modification"].encode()
    decoded = next(iter(webdataset.WebDataset(path, shardshuffle=False).decode("pil")))
    assert decoded["reference.jpg"].size == (24, 16)


@pytest.mark.parametrize("streaming", [True, False])
def test_hf_datasets_reads_the_shards(tmp_path, rows, monkeypatch, streaming):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    datasets = pytest.importorskip("datasets")
    write(tmp_path, rows)
    loaded = datasets.load_dataset(
        "webdataset", data_files={"train": f"{tmp_path}/shards/train-*.tar"}, split="train",
        streaming=streaming, cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    loaded = loaded.cast_column("target.jpg", datasets.Image(decode=False))
    samples = {sample["__key__"]: sample for sample in loaded}
    mine = [row for row in rows if row["split"] == "train"]
    assert sorted(samples) == sorted(row["id"] for row in mine)
    for row in mine:
        sample = samples[row["id"]]
        assert sample["target.jpg"]["bytes"] == content(row["targets"][0])
        assert sample["txt"] == row["modification"]
        assert sample["json"]["references"][0]["labels"] == row["references"][0]["labels"]


@pytest.mark.usefixtures("ray")
def test_ray_data_reads_the_shards(tmp_path, rows):
    import ray.data

    write(tmp_path, rows)
    read = ray.data.read_webdataset(f"{tmp_path}/shards/", file_extensions=["tar"], decoder=None)
    samples = {sample["__key__"]: sample for sample in read.take_all()}
    assert sorted(samples) == sorted(row["id"] for row in rows)
    for row in rows:
        assert samples[row["id"]]["reference.jpg"] == content(row["references"][0])
        assert samples[row["id"]]["txt"] == row["modification"].encode()


def test_the_bytes_do_not_depend_on_order_chunks_workers_or_time(tmp_path, rows):
    def threads(function, arguments):
        with ThreadPoolExecutor(4) as pool:
            return iter(list(pool.map(function, arguments)))

    def backwards(function, arguments):
        return reversed([function(argument) for argument in arguments[::-1]])

    chunked = pa.concat_tables([table(rows[12:]), table(rows[:12])])
    write(tmp_path / "a", rows, max_size="8kB")
    write(tmp_path / "b", chunked, threads, max_size="8kB")
    write(tmp_path / "c", rows[::-1], backwards, max_size="8kB")
    first = files(tmp_path / "a")
    assert len(first) > 7
    assert files(tmp_path / "b") == first
    assert files(tmp_path / "c") == first


def test_without_a_split_all_is_train_and_the_limits_hold(tmp_path, rows):
    plain = table(rows).drop_columns(["split"])
    write(tmp_path, plain, max_count=4, prefix="set-")
    manifest = json.loads(files(tmp_path)["manifest.json"])
    assert [s["name"] for s in manifest["shards"]] == [f"set-train-{n:06d}.tar" for n in range(5)]
    assert [s["triplets"] for s in manifest["shards"]] == [4, 4, 4, 4, 3]
    write(tmp_path, plain, max_size=20_000)
    manifest = json.loads(files(tmp_path)["manifest.json"])
    assert len(manifest["shards"]) > 3
    assert all(shard["bytes"] <= 20_000 for shard in manifest["shards"])
    assert not any(name.startswith("set-") for name in files(tmp_path))


def test_a_triplet_larger_than_a_shard_has_one_of_its_own(tmp_path, rows):
    write(tmp_path, rows, max_size=1)
    manifest = json.loads(files(tmp_path)["manifest.json"])
    assert [shard["triplets"] for shard in manifest["shards"]] == [1] * len(rows)


def test_no_triplets_make_an_empty_manifest(tmp_path):
    result = write(tmp_path, [])
    assert sorted(files(tmp_path)) == ["manifest.json"]
    assert json.loads(files(tmp_path)["manifest.json"])["shards"] == []
    assert result.rows.num_rows == result.verdicts.num_rows == 0


def test_negatives_can_stay_out_and_are_still_told(tmp_path, rows):
    write(tmp_path, rows[1:2], include_negatives=False)
    data = files(tmp_path)["train-000000.tar"]
    assert not any(".negative." in name for name in members(data))
    (sample,) = read_shard(f"{tmp_path}/shards/train-000000.tar")
    assert [n["file"] for n in sample["json"]["negatives"]] == [None, None]
    assert sample["json"]["negatives"][0]["key"] == "1.jpg"


def test_large_media_are_written_as_they_are(tmp_path):
    big = os.urandom(5 << 20)
    row = triplet([item(tmp_path / "a", big)], [item(tmp_path / "b", b"small")])
    result = write(tmp_path, [row])
    (sample,) = read_shard(f"{tmp_path}/shards/train-000000.tar")
    assert sample["references"] == [big]
    assert result.notes["bytes"] == len(files(tmp_path)["train-000000.tar"])


def test_several_references_and_odd_formats_keep_their_names(tmp_path):
    def made(name, form):
        return item(tmp_path / name, name.encode() * 9, form=form)

    row = triplet(
        [made("a", "png"), made("b", "mp4")], [made("c", "webp"), made("d.pickle", "pickle")],
        negatives=[made("e", "mkv"), {**made("f", None), "media": None}],
    )  # fmt: skip
    write(tmp_path, [row])
    key = row["id"]
    assert list(members(files(tmp_path)["train-000000.tar"])) == [
        f"{key}.reference.png", f"{key}.reference.1.mp4", f"{key}.target.webp",
        f"{key}.target.1.bin", f"{key}.negative.0.mkv", f"{key}.txt", f"{key}.json",
    ]  # fmt: skip


def test_media_that_are_gone_or_changed_fail_their_triplet_and_no_other(tmp_path, rows):
    gone, changed, short = rows[1], rows[5], rows[9]
    os.unlink(gone["targets"][0]["media"]["path"])  # also the reference of rows[2], negative of [3]
    with open(changed["targets"][0]["media"]["path"], "r+b") as file:
        file.write(b"other")
    os.truncate(short["targets"][0]["media"]["path"], 10)
    hurt = {rows[n + step]["id"] for n in (1, 5, 9) for step in (0, 1, 2)}
    result = write(tmp_path, rows)
    for row in result.verdicts.to_pylist():
        assert row["verdict"] == ("failed" if row["id"] in hurt else "kept")
        assert row["rule"] == ("media_changed" if row["id"] in hurt else None)
    assert set(result.rows["id"].to_pylist()) == {row["id"] for row in rows} - hurt
    kept = {s["key"] for name in files(tmp_path) if name.endswith(".tar")
            for s in read_shard(f"{tmp_path}/shards/{name}")}  # fmt: skip
    assert kept == {row["id"] for row in rows} - hurt


def test_a_shard_of_which_nothing_is_left_is_not_published(tmp_path, rows):
    os.unlink(rows[1]["references"][0]["media"]["path"])
    result = write(tmp_path, rows[1:2])
    assert result.verdicts["verdict"].to_pylist() == ["failed"]
    assert sorted(files(tmp_path)) == ["manifest.json", "train-000000.json"]


def test_a_killed_writer_leaves_no_shard_and_the_next_one_finishes(tmp_path, rows):
    whole = write(tmp_path / "whole", rows, max_size="8kB")
    done = []

    def killed(function, arguments):
        for argument in arguments:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(argument["name"])
            yield function(argument)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut", rows, killed, max_size="8kB")
    assert {name for name in files(tmp_path / "cut") if name.endswith(".tar")} == {
        f"{name}.tar" for name in done
    }
    before = {name: os.stat(f"{tmp_path}/cut/shards/{name}.tar").st_mtime_ns for name in done}
    written = []

    def counted(function, arguments):
        written.extend(argument["name"] for argument in arguments)
        return map(function, arguments)

    again = write(tmp_path / "cut", rows, counted, max_size="8kB")
    assert not set(written) & set(done)
    assert len(written) == again.notes["shards"] - 2
    for name, when in before.items():
        assert os.stat(f"{tmp_path}/cut/shards/{name}.tar").st_mtime_ns == when
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert again.notes == whole.notes


def test_a_write_that_breaks_off_leaves_nothing_under_the_final_name(tmp_path, rows, monkeypatch):
    calls = itertools.count()
    read = media.again

    def breaks(where):
        if next(calls) == 5:
            raise MemoryError
        return read(where)

    monkeypatch.setattr(media, "again", breaks)
    with pytest.raises(MemoryError):
        write(tmp_path, rows)
    assert files(tmp_path) == {}


def test_finished_shards_are_left_alone_and_damaged_ones_written_again(tmp_path, rows):
    write(tmp_path, rows, max_size="8kB")
    first = files(tmp_path)
    stamps = {name: os.stat(f"{tmp_path}/shards/{name}").st_mtime_ns for name in first}
    write(tmp_path, rows, max_size="8kB")
    assert {n: os.stat(f"{tmp_path}/shards/{n}").st_mtime_ns for n in first} == stamps
    operator = Shards(Shards.Settings(max_size="8kB"))
    context = Context("shards", 0, str(tmp_path))
    notes = write(tmp_path, rows, max_size="8kB").notes
    os.truncate(tmp_path / "shards" / "train-000001.tar", 100)
    assert not operator.still_stands(context, notes)
    os.unlink(tmp_path / "shards" / "train-000002.json")
    (tmp_path / "shards" / "train-000003.json").write_text("{broken")
    write(tmp_path, rows, max_size="8kB")
    assert files(tmp_path) == first


def test_another_plan_replaces_all_that_does_not_belong_to_it(tmp_path, rows):
    write(tmp_path, rows, max_size="8kB")
    (tmp_path / "shards" / "mine.txt").write_text("not a shard")
    write(tmp_path, rows[:3])
    names = sorted(files(tmp_path))
    assert names == ["manifest.json", "mine.txt", "train-000000.json", "train-000000.tar",
                     "val-000000.json", "val-000000.tar"]  # fmt: skip
    write(tmp_path / "fresh", rows[:3])
    fresh = files(tmp_path / "fresh")
    assert {n: d for n, d in files(tmp_path).items() if n != "mine.txt"} == fresh


def test_the_old_manifest_is_gone_before_a_new_shard_is_there(tmp_path, rows):
    write(tmp_path, rows)

    def looking(function, arguments):
        assert arguments
        for argument in arguments:
            assert "manifest.json" not in files(tmp_path)
            yield function(argument)

    write(tmp_path, rows[:5], looking)
    assert "manifest.json" in files(tmp_path)


def test_a_medium_that_came_back_is_written_after_all(tmp_path, rows):
    path = rows[1]["targets"][0]["media"]["path"]
    os.rename(path, path + ".away")
    assert "failed" in write(tmp_path, rows).verdicts["verdict"].to_pylist()
    os.rename(path + ".away", path)
    assert set(write(tmp_path, rows).verdicts["verdict"].to_pylist()) == {"kept"}


def test_shards_in_memory_are_those_on_disk(tmp_path, rows):
    write(tmp_path, rows, max_size="8kB")
    fs = fsspec.filesystem("memory")
    write("memory://run-of-shards", rows, max_size="8kB")
    there = store.names("memory://run-of-shards/shards")
    found = {name: fs.cat_file(f"/run-of-shards/shards/{name}") for name in there}
    assert found == files(tmp_path)
    assert len(list(read_shard("memory://run-of-shards/shards/val-000000.tar"))) >= 1


def test_a_split_or_an_id_that_is_no_name_is_refused(tmp_path, rows):
    with pytest.raises(DatagenError, match="is no name for files"):
        write(tmp_path, [{**rows[0], "split": "../x"}])
    with pytest.raises(DatagenError, match="is no name for files"):
        write(tmp_path, [{**rows[0], "split": None}])
    result = write(tmp_path, [{**rows[1], "id": "../../evil"}, rows[2]])
    assert [v["rule"] for v in result.verdicts.to_pylist()] == ["bad_id", None]


@pytest.mark.parametrize("damage", ["cut", "text", "json"])
def test_reading_a_damaged_shard_is_one_line(tmp_path, rows, damage):
    write(tmp_path, rows)
    path = tmp_path / "shards" / "train-000000.tar"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:3000])
    elif damage == "text":
        path.write_bytes(data.replace(b".txt\0", b".tx_\0"))
    else:
        path.write_bytes(data.replace(b'{"evidence"', b'["evidence"'))
    with pytest.raises(DatagenError, match=r"train-000000\.tar"):
        list(read_shard(str(path)))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3))
def test_any_text_and_any_labels_survive(tmp_path_factory, text, caption, labels):
    out = tmp_path_factory.mktemp("any")
    written = schema.canonical_json(labels)
    row = triplet([item(out / "a", b"a", caption, written)], [item(out / "b", b"b")], text)
    write(out, [row])
    (sample,) = read_shard(f"{out}/shards/train-000000.tar")
    assert sample["modification"] == sample["json"]["modification"] == text
    assert sample["json"]["references"][0]["caption"] == caption
    assert json.loads(sample["json"]["references"][0]["labels"]) == labels


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1,
            max_size=150),
    st.integers(0, 8**11 + 5),
)  # fmt: skip
def test_headers_say_to_tarfile_what_they_were_told(name, size):
    name = f"x{name}x"
    blocks = _tar.header(name, size)
    assert len(blocks) % 512 == 0
    info = tarfile.TarInfo.frombuf(blocks[-512:], "utf-8", "surrogateescape")
    assert (info.mode, info.uid, info.mtime, info.type) == (0o644, 0, 0, tarfile.REGTYPE)
    if len(name.encode()) <= 100 and size < 8**11:
        assert (info.name, info.size) == (name, size)
        assert len(blocks) == 512
    small = _tar.header(name, 3) + b"abc" + _tar.padding(3) + _tar.END
    with tarfile.open(fileobj=io.BytesIO(small)) as archive:
        (only,) = archive.getmembers()
        assert (only.name, only.size) == (name, 3)
        assert archive.extractfile(only).read() == b"abc"


def test_a_member_of_eight_gigabytes_takes_a_pax_size():
    blocks = _tar.header("big.bin", 8**11)
    with tarfile.open(fileobj=io.BytesIO(blocks)) as archive:
        assert archive.next().size == 8**11


def test_sizes_are_planned_as_they_turn_out(tmp_path, rows):
    data = table(rows)
    planned = sum(_plan.sizes(data, True)) + 2 * len(_tar.END)
    result = write(tmp_path, data)
    assert result.notes["bytes"] <= planned
    assert result.notes["bytes"] >= 0.8 * planned
    assert sum(_plan.sizes(data, False)) < planned


@pytest.mark.parametrize(("text", "size"), [
    ("512MB", 512_000_000), ("1GiB", 1 << 30), ("100", 100), ("1.5 kB", 1500), (7, 7),
    ("2TiB", 2 << 40), ("3m", 3_000_000),
])  # fmt: skip
def test_sizes_are_read_as_written(text, size):
    assert parse_size(text) == size
    assert Shards.Settings(max_size=text).max_size == size


@pytest.mark.parametrize("wrong", ["many", "0MB", -1, "-5MB", "1PB"])
def test_sizes_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"max_size"):
        Shards.Settings(max_size=wrong)


@pytest.mark.real_data
def test_real_photos_pass_through_byte_for_byte(tmp_path):
    folder = os.path.join(DATA, "photos", "fashion", "images")
    if not os.path.isdir(folder):
        pytest.skip(f"no real data at {folder} (set DATAGEN_TEST_DATA)")
    photos = []
    for name in sorted(os.listdir(folder))[:60]:
        with open(f"{folder}/{name}", "rb") as file:
            data = file.read()
        media = {"path": f"{folder}/{name}", "offset": 0, "size": len(data), "format": "jpeg",
                 "sha256": hashlib.sha256(data).hexdigest(), "modality": "image"}  # fmt: skip
        photos.append({"id": schema.item_id(media["sha256"], [], "{}"), "key": name,
                       "media": media, "caption": name, "labels": "{}"})  # fmt: skip
    rows = [
        triplet([photos[n]], [photos[n + 1]], f"text {n}", photos[n : n + 5], "train")
        for n in range(50)
    ]
    write(tmp_path, rows, max_size="1MB")
    read = {}
    for name, data in files(tmp_path).items():
        if name.endswith(".tar"):
            assert len(data) <= 1_000_000
            read |= members(data)
    wanted = {name: data for row in rows for name, data in expected(row).items()}
    assert {name: data for name, data in read.items() if not name.endswith(".json")} == wanted


def test_triplets_without_media_are_text_and_json(tmp_path, rows, monkeypatch):
    monkeypatch.setenv("WDS_SECURE", "1")

    def bare(row):
        told = [{**n, "item": {**n["item"], "media": None}} for n in row["negatives"]]
        sides = {s: [{**m, "media": None} for m in row[s]] for s in ("references", "targets")}
        return {**row, **sides, "negatives": told, "split": "train"}

    texts = [bare(row) for row in rows]
    result = write(tmp_path, texts, max_count=10)
    assert set(result.verdicts["verdict"].to_pylist()) == {"kept"}
    shards = [f"{tmp_path}/shards/train-{n:06d}.tar" for n in range(2)]
    assert [s["triplets"] for s in result_manifest(tmp_path)["shards"]] == [10, 9]
    samples = {s["__key__"]: s for s in webdataset.WebDataset(shards, shardshuffle=False)}
    read = {s["key"]: s for shard in shards for s in read_shard(shard)}
    for row in texts:
        sample = samples.pop(row["id"])
        assert {name for name in sample if not name.startswith("__")} == {"txt", "json"}
        assert sample["txt"] == row["modification"].encode()
        told = read[row["id"]]
        assert [told[role] for role in ("references", "targets", "negatives")] == [[], [], []]
        about = told["json"]["references"][0]
        assert (about["media"], about["file"]) == (None, None)
        assert about["caption"] == row["references"][0]["caption"]
    assert not samples
    assert "items.media" not in Shards(Shards.Settings()).needs("triplets")


def result_manifest(folder):
    return json.loads(files(folder)["manifest.json"])
