"""One process at a time on a run; a dead owner blocks nobody."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from datagen import lock, store
from datagen.errors import DatagenError

HOLD = """
import sys, time
from datagen.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""

TAKE = """
import sys
from datagen.errors import DatagenError
from datagen.lock import locked
try:
    with locked(sys.argv[1]):
        print("taken")
except DatagenError as error:
    known = "another process is at work"
    print("refused: " + known if known in str(error) else error)
"""


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def refused(folder):
    """Whether another process cannot take the lock of ``folder``, and says why."""
    command = [sys.executable, "-c", TAKE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout in ("taken\n", "refused: another process is at work\n"), done
    return done.stdout != "taken\n"


def held(out):
    """Whether the lock of ``out`` on an object store is there, and refuses who comes."""
    assert store.exists(f"{out}/{lock.NAME}")
    with pytest.raises(DatagenError, match="another process is at work"), lock.locked(out):
        pass
    return True


def test_a_second_process_is_refused_in_one_line(tmp_path):
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(DatagenError, match="another process is at work") as caught,
            lock.locked(str(tmp_path)),
        ):
            pass
        assert "\n" not in str(caught.value)
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    process = holder(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with lock.locked(str(tmp_path)):
        assert refused(tmp_path)


def test_the_lock_is_free_after_use(tmp_path):
    for _ in range(2):
        with lock.locked(str(tmp_path)):
            assert refused(tmp_path)
        assert not refused(tmp_path)


def note(out, **values):
    """Leave the lock of another machine's process in ``out``."""
    there = {"owner": "process 1 on far", "machine": "far", "id": "x", "renewed": time.time()}
    store.write_bytes(f"{out}/{lock.NAME}", json.dumps(there | values).encode())


def test_on_an_object_store_a_second_process_of_this_machine_is_refused():
    out = f"memory://{uuid.uuid4().hex}"
    with lock.locked(out):
        with pytest.raises(DatagenError, match="another process is at work"), lock.locked(out):
            pass
        assert store.exists(f"{out}/{lock.NAME}")
    assert not store.exists(f"{out}/{lock.NAME}")


def test_on_an_object_store_a_renewed_lock_of_another_machine_holds_and_a_stale_one_does_not():
    out = f"memory://{uuid.uuid4().hex}"
    note(out)
    with pytest.raises(DatagenError, match="process 1 on far was at work"), lock.locked(out):
        pass
    note(out, renewed=time.time() - lock.STALE - 1)
    with lock.locked(out):
        assert held(out)
    assert not store.exists(f"{out}/{lock.NAME}")


def test_on_an_object_store_the_lock_of_a_dead_process_of_this_machine_is_free_at_once():
    out = f"memory://{uuid.uuid4().hex}"
    with lock.locked(out):
        left = json.loads(store.read_bytes(f"{out}/{lock.NAME}"))
    note(out, **left)
    with lock.locked(out):
        assert held(out)


def oversleep(out):
    with lock.locked(out):
        note(out)
        time.sleep(20)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def heard(request):
    """The signal that stops this process; Ctrl-C may be ignored."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(request.param, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


def test_a_process_that_slept_through_its_time_stops_and_leaves_the_lock_alone(monkeypatch, heard):
    monkeypatch.setattr(lock, "RENEW", 0.05)
    out = f"memory://{uuid.uuid4().hex}"
    with pytest.raises(DatagenError, match="has taken this run over"):
        oversleep(out)
    assert json.loads(store.read_bytes(f"{out}/{lock.NAME}"))["id"] == "x"


def test_a_damaged_lock_does_not_block():
    out = f"memory://{uuid.uuid4().hex}"
    store.write_bytes(f"{out}/{lock.NAME}", b"\xff not JSON")
    with lock.locked(out):
        assert held(out)
