"""Runs on an object store: a real S3 server, the same bytes, one line for what goes wrong."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("s3fs", reason="needs datagen[s3]")
pytest.importorskip("moto", reason="needs moto[server]")

from s3_server import BUCKET, free_port, serving
from whole_runs import OWN, ROOT, check_is_whole, command, datagen, recipe, shard_hashes

import datagen as package
from datagen import cache, lock, remote, store
from datagen.cluster.connect import connect
from datagen.errors import DatagenError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("s3")) as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started


@pytest.fixture(scope="module")
def ray(server, no_ray):
    with connect("local", cpus=2):
        yield


@pytest.fixture(scope="module")
def calm(tmp_path_factory, ray):
    """An undisturbed local run: its recipe, and the hashes of its shards."""
    folder = tmp_path_factory.mktemp("calm")
    path = recipe(folder)
    package.run(path, str(folder / "run"))
    return path, shard_hashes(folder / "run")


def far_hashes(server, run):
    """SHA-256 of every shard of a run on S3, after checking them against the manifest."""
    folder = f"{run}/shards/"
    manifest = json.loads(server.get(f"{folder}manifest.json"))
    found = {
        key.removeprefix(folder): hashlib.sha256(server.get(key)).hexdigest()
        for key in server.keys(folder)
        if key.endswith(".tar")
    }
    assert {shard["name"]: shard["sha256"] for shard in manifest["shards"]} == found
    return found


def check_objects_are_whole(server, run):
    """Read every object of a run; returns how many there are."""
    keys = server.keys(f"{run}/")
    for key in keys:
        check_is_whole(key, server.get(key))
    return len(keys)


# ------------------------------------------------------------------ whole runs


def test_a_run_on_s3_gives_the_shards_of_a_local_run_and_then_says_finished(server, calm):
    path, expected = calm
    start = server.mark()
    summary = package.run(path, f"s3://{BUCKET}/whole")
    assert summary.status == "finished"
    assert far_hashes(server, "whole") == expected
    assert not [key for key in server.keys("whole/") if "/.plan-" in key or "/.words-" in key]
    assert "whole/run.lock" not in server.keys("whole/")
    assert {"whole/README.md", "whole/report/index.html"} <= set(server.keys("whole/"))
    asked = server.asked(start)
    rendered = {key for kind, key in asked if kind == "PUT" and "/media/" in key}
    assert {asked["PUT", key] for key in rendered} == {1}, "a tar of pictures is uploaded once"
    assert not [key for kind, key in asked if kind == "HEAD" and key in rendered]
    made = sum(step.rows_out for step in summary.steps)
    lists = sum(count for (kind, _), count in asked.items() if kind == "LIST")
    assert lists < 15 * len(summary.steps) < made / 15, "something lists per row"

    start = server.mark()
    again = package.run(path, f"s3://{BUCKET}/whole")
    assert again.status == "already finished"
    changed = {key for kind, key in server.asked(start) if kind in ("PUT", "POST", "DELETE")}
    assert changed <= {f"{BUCKET}/whole/run.lock", BUCKET}  # the lock alone came and went
    run = package.load(f"s3://{BUCKET}/whole")
    assert run.triplets().num_rows == sum(1 for _ in run.samples(decode=False))
    assert len(run.space("embed_caption")) == run.items().num_rows


@pytest.mark.slow
def test_a_run_on_s3_that_is_killed_in_the_middle_goes_on_to_the_same_shards(server, calm):
    path, expected = calm
    out = f"s3://{BUCKET}/killed"
    for step in ("journal/", "shards/"):
        process = subprocess.Popen(
            command("run", path, "--out", out, "--cpus", 2, "--quiet"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up and process.poll() is None:
            if any(step in key and "lock" not in key for key in server.keys("killed/")):
                break
            time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert check_objects_are_whole(server, "killed") > 1
        assert json.loads(server.get("killed/run.json"))["status"] == "running"
    datagen("run", path, "--out", out, "--cpus", 2, "--quiet")
    assert far_hashes(server, "killed") == expected
    check_objects_are_whole(server, "killed")


# ------------------------------------------------------------------ sources


def photo(number):
    """JPEG bytes of a picture that no other number has."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    out = io.BytesIO()
    small.resize((60, 48)).save(out, "JPEG")
    return out.getvalue()


def captions(count):
    words = ["red", "blue", "green", "white", "black", "pink", "grey", "gold"]
    things = ["shirt", "dress", "shoe", "hat", "bag"]
    return [
        f"a {words[i % 8]} {things[i // 8 % 5]} on a table number {i // 40}" for i in range(count)
    ]


STEPS = [
    {"filter": {"op": f"{OWN}:CaptionLength"}},
    {"pair": {"op": "one_word_diff"}},
    {"text": {"op": "template"}},
    {"shards": {"max_size": "200KB"}},
]


def bytes_of_shards(run):
    """SHA-256 of all reference and target bytes in the shards, by item key."""
    found = {}
    for sample in run.samples(decode=False):
        for role in ("references", "targets"):
            for member, data in zip(sample["json"][role], sample[role], strict=True):
                found[member["key"]] = hashlib.sha256(data).hexdigest()
    return found


def test_a_folder_on_s3_is_read_in_place_with_one_request_per_picture(server, ray):
    photos = {f"p{number:02d}.jpg": photo(number) for number in range(40)}
    rows = [
        {"file": name, "caption": text} for name, text in zip(photos, captions(40), strict=True)
    ]
    for name, data in photos.items():
        server.put(f"photos/images/{name}", data)
    server.put("photos/images/empty.jpg", b"")
    rows += [{"file": "empty.jpg", "caption": "x y z"}, {"file": "gone.jpg", "caption": "x y z"}]
    server.put("photos/rows.jsonl", "\n".join(map(json.dumps, rows)).encode())
    source = {
        "type": "folder",
        "path": f"s3://{BUCKET}/photos",
        "annotations": "rows.jsonl",
        "media": "file",
        "media_root": "images",
        "captions": "caption",
    }
    start = server.mark()
    out = f"s3://{BUCKET}/from-folder"
    summary = package.run({"source": source, "steps": STEPS[:1]}, out, report=False)
    asked = server.asked(start)
    assert {asked["GET", f"{BUCKET}/photos/images/{name}"] for name in photos} == {1}
    assert {asked["HEAD", f"{BUCKET}/photos/images/{name}"] for name in photos} == {0}
    assert summary.steps[0].kept == 40
    assert summary.steps[0].failed == {"empty_file": 1, "missing_file": 1}
    package.run({"source": source, "steps": STEPS}, out)
    run = package.load(out)
    shards = bytes_of_shards(run)
    assert len(shards) == 40
    assert shards == {name: hashlib.sha256(photos[name]).hexdigest() for name in shards}


def test_tars_on_s3_are_read_by_byte_ranges(server, ray, tmp_path):
    photos = {f"{number:03d}": photo(100 + number) for number in range(40)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for (key, data), text in zip(photos.items(), captions(40), strict=True):
            for end, content in (("jpg", data), ("txt", text.encode())):
                info = tarfile.TarInfo(f"{key}.{end}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    server.put("tars/a-000.tar", packed.getvalue())
    (tmp_path / "a-000.tar").write_bytes(packed.getvalue())
    far, near = f"s3://{BUCKET}/tars/a-*.tar", str(tmp_path / "a-000.tar")
    start = server.mark()
    source = {"type": "webdataset", "path": far}
    package.run({"source": source, "steps": STEPS[:1]}, str(tmp_path / "far"), report=False)
    # One request per picture, and a few for the headers and texts between them.
    assert 40 < server.asked(start)["GET", f"{BUCKET}/tars/a-000.tar"] <= 45
    package.run({"source": source, "steps": STEPS}, str(tmp_path / "far"))
    package.run({"source": {**source, "path": near}, "steps": STEPS}, str(tmp_path / "near"))
    far, near = (bytes_of_shards(package.load(str(tmp_path / n))) for n in ("far", "near"))
    assert far == near == {k: hashlib.sha256(photos[k]).hexdigest() for k in far}
    assert len(far) == 40


def test_a_source_on_s3_that_changes_is_known_by_its_content(server):
    server.put("stamp/x", b"one")
    path = f"s3://{BUCKET}/stamp/x"
    first = store.stamp(path)
    fs, inner = store.filesystem(f"s3://{BUCKET}/stamp")
    listed = remote.stamp(next(one for one in fs.ls(inner, detail=True)))
    assert store.stamp(path) == first == listed
    server.put("stamp/x", b"two")
    assert store.stamp(path) != first


# ------------------------------------------------------------------ one at a time


def test_a_second_process_is_refused_and_a_killed_one_blocks_nobody(server, calm):
    out = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    code = (
        "import sys, time\nfrom datagen.lock import locked\n"
        f"with locked({out!r}):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        done = datagen("run", calm[0], "--out", out, expect=1)
        assert "another process is at work on this run" in done.stderr
        note = json.loads(store.read_bytes(f"{out}/{lock.NAME}"))
        store.write_json(f"{out}-far/{lock.NAME}", {**note, "machine": "another"})
        with (
            pytest.raises(DatagenError, match=rf"process {holder.pid} on .* was at work"),
            lock.locked(f"{out}-far"),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    assert store.exists(f"{out}/{lock.NAME}")
    with lock.locked(out):
        pass
    assert not store.exists(f"{out}/{lock.NAME}")


def test_of_many_that_create_one_object_at_the_same_moment_one_succeeds(server):
    path = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    made = []
    threads = [
        threading.Thread(
            target=lambda i=i: made.append((remote.create(path, b"%d" % i), b"%d" % i))
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [data for created, data in made if created]
    assert store.read_bytes(path) == winner


# ------------------------------------------------------------------ the local copies


def test_a_local_copy_follows_the_content_and_not_the_path(server):
    folder = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    store.write_npy(f"{folder}/v.npy", np.arange(3))
    first = cache.local_copy(folder, ["v.npy"])
    assert cache.local_copy(folder, ["v.npy"]) == first
    store.write_npy(f"{folder}/v.npy", np.arange(4))
    second = cache.local_copy(folder, ["v.npy"])
    assert len(np.load(f"{first}/v.npy")) == 3
    assert len(np.load(f"{second}/v.npy")) == 4


def test_processes_that_want_one_copy_download_it_once(server, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    name = uuid.uuid4().hex
    server.put(f"{name}/v.bin", os.urandom(3 << 20))
    code = (
        "import sys, hashlib\nfrom datagen import cache\n"
        f"place = cache.local_copy('s3://{BUCKET}/{name}', ['v.bin'])\n"
        "print(place, hashlib.sha256(open(place + '/v.bin', 'rb').read()).hexdigest())"
    )
    start = server.mark()
    run = [sys.executable, "-c", code]
    workers = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {worker.communicate()[0] for worker in workers}
    (line,) = said
    assert line.split()[1] == hashlib.sha256(server.get(f"{name}/v.bin")).hexdigest()
    assert server.asked(start)["GET", f"{BUCKET}/{name}/v.bin"] == 2  # theirs, and ours above
    place = Path(line.split()[0])
    assert place.is_relative_to(tmp_path)
    assert place.stat().st_mode & 0o077 == 0, "for this user alone"


def test_a_folder_of_another_users_in_place_of_the_cache_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"datagen-{os.getuid()}").symlink_to("/usr")
    with pytest.raises(DatagenError, match="set TMPDIR"):
        cache.own_folder("copies")


# ------------------------------------------------------------------ what goes wrong


def test_reading_past_the_end_and_empty_objects_gives_what_there_is(server):
    path = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    store.write_bytes(path, b"0123456789")
    assert store.read_bytes(path) == b"0123456789"
    assert store.read_bytes(path, 3, 4) == b"3456"
    assert store.read_bytes(path, 8, 100) == b"89"
    assert store.read_bytes(path, 10, 5) == b""
    store.write_bytes(path, b"")
    assert store.read_bytes(path) == store.read_bytes(path, 0, 5) == b""
    with pytest.raises(FileNotFoundError):
        store.read_bytes(path + "x")
    store.remove(path)
    store.remove(path)
    assert not store.exists(path)


def test_an_upload_that_fails_in_the_middle_leaves_the_old_object(server):
    path = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    store.write_bytes(path, b"old")

    def half():
        with store.writing(path) as file:
            file.write(b"half")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        half()
    assert store.read_bytes(path) == b"old"


def test_a_large_file_goes_up_in_pieces_and_is_whole(server, monkeypatch):
    monkeypatch.setattr(remote, "ONE_REQUEST", 1 << 20)
    path = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    data = os.urandom(6 << 20)
    with store.writing(path) as file:
        file.write(data)
    assert store.read_bytes(path) == data
    assert store.size(path) == len(data)


@pytest.mark.parametrize(
    ("out", "environment", "expected"),
    [
        ("s3://no-such-bucket/run", {}, "does the bucket exist?"),
        (f"s3://{BUCKET}/x", {"AWS_ACCESS_KEY_ID": None}, "no credentials for this store"),
        (f"s3://{BUCKET}/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:{port}"}, "no answer from"),
        (f"s3://{BUCKET}/x", {"AWS_ENDPOINT_URL": "nonsense"}, "Invalid endpoint: nonsense"),
        ("memory://x/run", {}, "lies in the memory of this process"),
        ("nowhere://x/run", {}, "Protocol not known: nowhere"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(
    server, calm, tmp_path, out, environment, expected
):
    mine = {**os.environ, "HOME": str(tmp_path), "COLUMNS": "400", **server.environment}
    mine |= {"AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in environment.items():
        mine.pop(name)
        if value is not None:
            mine[name] = value.format(port=free_port())
        else:
            mine.pop("AWS_SECRET_ACCESS_KEY")
    done = datagen("run", calm[0], "--out", out, expect=1, env=mine, timeout=60)
    (line,) = done.stderr.strip().splitlines()
    assert expected in line
    buckets = {bucket["Name"] for bucket in server.client.list_buckets()["Buckets"]}
    assert buckets == {BUCKET}, "a bucket that the user mistyped was made"


def test_a_source_on_a_store_that_does_not_answer_is_one_line(server, tmp_path):
    mine = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "COLUMNS": "400"}
    given = [f"source.path=s3://{BUCKET}/x", "source.annotations=a.jsonl", "source.media=f"]
    run = ["run", "covr_rule_based", *given, "source.captions=c", "--out", tmp_path / "run"]
    done = datagen(*run, expect=2, env=mine, timeout=60)
    (line,) = done.stderr.strip().splitlines()
    assert "no answer from this store" in line
