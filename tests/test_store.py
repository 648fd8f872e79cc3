"""Files are whole or absent, on every file system."""

import errno
import os
import subprocess
import sys
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from datagen import store
from datagen.errors import DatagenError


def write_half(path):
    with store.writing(path) as file:
        file.write(b"half")
        raise ValueError("boom")


def test_an_error_in_the_middle_leaves_nothing_under_the_final_name(tmp_path):
    with pytest.raises(ValueError, match="boom"):
        write_half(str(tmp_path / "a" / "b.bin"))
    assert store.names(str(tmp_path / "a")) == []
    assert os.listdir(tmp_path / "a") == []


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = str(tmp_path / "x")
    store.write_bytes(path, b"old")
    with store.writing(path) as file:
        file.write(b"new")
        assert store.read_bytes(path) == b"old"
    assert store.read_bytes(path) == b"new"


def test_a_killed_writer_leaves_only_a_temporary_name_that_is_never_listed(tmp_path):
    code = (
        "import os, signal, sys\nfrom datagen import store\n"
        f"with store.writing({str(tmp_path / 'x')!r}) as f:\n"
        "    f.write(b'half'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(os.listdir(tmp_path)) == 1
    assert store.names(str(tmp_path)) == []
    store.clean(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line_with_the_mend(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatagenError, match="the disk is full; free some space") as caught:
        store.write_bytes(str(tmp_path / "x"), b"data")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatagenError, match=r"file"):
        store.make_folder(str(tmp_path / "file" / "below"))


def test_a_folder_behind_a_link_that_leads_nowhere_is_one_line(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "disk" / "runs")
    with pytest.raises(DatagenError, match=r"runs/deep/er: No such file or directory$"):
        store.write_bytes(str(tmp_path / "runs" / "deep" / "er" / "file"), b"x")


@pytest.fixture(params=["file", "memory"])
def folder(request, tmp_path):
    return str(tmp_path) if request.param == "file" else f"memory://{uuid.uuid4().hex}"


def test_tables_bytes_and_arrays_come_back_on_every_file_system(folder):
    table = pa.table({"id": ["b", "a"], "n": [1, 2]})
    store.write_table(f"{folder}/t.parquet", table)
    assert store.read_table(f"{folder}/t.parquet").equals(table)
    assert store.read_table(f"{folder}/t.parquet", ["n"]).column_names == ["n"]
    store.write_bytes(f"{folder}/raw", b"0123456789")
    assert store.read_bytes(f"{folder}/raw", 3, 4) == b"3456"
    assert store.names(folder) == ["raw", "t.parquet"]
    store.write_npy(f"{folder}/v.npy", np.arange(6.0).reshape(2, 3))
    assert np.load(store.local_copy(folder, ["v.npy"]) + "/v.npy").tolist() == [
        [0.0, 1.0, 2.0],
        [3.0, 4.0, 5.0],
    ]


def test_an_upload_that_fails_leaves_nothing(monkeypatch):
    place = f"memory://{uuid.uuid4().hex}/x"
    with pytest.raises(ValueError, match="boom"):
        write_half(place)
    assert not store.exists(place)


def test_the_journal_knows_its_units_and_a_retry_replaces_itself(folder):
    journal = store.Journal(f"{folder}/journal")
    part = pa.table({"unit": ["a", "b"], "verdict": ["kept", "failed"], "x": [1, 2]})
    journal.append(part)
    journal.append(part)
    assert len(journal.parts()) == 1
    assert journal.units() == {"a", "b"}
    assert journal.units(without_failed=True) == {"a"}


def test_a_damaged_part_is_named_with_the_mend(tmp_path):
    journal = store.Journal(str(tmp_path))
    (tmp_path / "part-00.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DatagenError, match=r"part-00\.parquet: damaged .* delete this file"):
        journal.units()


def test_an_unknown_protocol_is_one_line():
    with pytest.raises(DatagenError, match="nowhere"):
        store.exists("nowhere://bucket/x")


def test_memory_and_local_names_agree(tmp_path):
    fs = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"
    for name in ("b", "a", store.TEMPORARY + "z"):
        fs.pipe_file(f"{root}/{name}", b"")
        (tmp_path / name).write_bytes(b"")
    assert store.names(f"memory:/{root}") == store.names(str(tmp_path)) == ["a", "b"]
