"""A run that is killed at any moment goes on to the same bytes."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from whole_runs import check_files_are_whole, command, datagen, recipe, shard_hashes

KILLS = 12
STEPS = ("source", "CaptionLength", "embed", "pair", "similarity", "text", "duplicates")
STEPS += ("negatives", "split", "shards", "end", "report")


def reached(out, step):
    """Whether the run in ``out`` has begun ``step``."""
    if step == "end":
        return any(Path(out).glob("shards/*.tar"))
    if step == "report":
        return os.path.exists(os.path.join(out, "report"))
    return any(Path(out).glob(f"steps/*{step}*")) or (step == "shards" and reached(out, "end"))


def kill_at(run, out, step, delay):
    """Start the run, wait until it has begun ``step``, and SIGKILL it ``delay`` seconds later.

    Returns True where the run ended before the kill.
    """
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    give_up = time.monotonic() + 120
    while not reached(out, step) and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    time.sleep(delay)
    ended = process.poll() is not None
    if not ended:
        os.kill(process.pid, signal.SIGKILL)
    errors = process.communicate()[1].decode()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return ended


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_shards(tmp_path):
    path = recipe(tmp_path)
    datagen("run", path, "--out", tmp_path / "calm", "--cpus", 2)
    expected = shard_hashes(tmp_path / "calm")
    assert len(expected) >= 4
    rng = random.Random(7)
    kills, attempt, hit = 0, 0, set()
    while kills < KILLS:
        out = str(tmp_path / f"killed-{attempt}")
        run = command("run", path, "--out", out, "--cpus", 2, "--quiet")
        for step in STEPS:
            if kills == KILLS:
                break
            ended = kill_at(run, out, step, rng.uniform(0, 0.4))
            assert check_files_are_whole(out) > 0
            if not ended:
                kills += 1
                hit.add(step)
        datagen("run", path, "--out", out, "--cpus", 2, "--quiet")
        assert shard_hashes(out) == expected
        assert check_files_are_whole(out) > 0
        assert os.path.exists(os.path.join(out, "report", "index.html"))
        attempt += 1
    assert len(hit) >= 9, f"only these steps were hit: {sorted(hit)}"


@pytest.mark.slow
def test_the_number_of_workers_does_not_show(tmp_path):
    path = recipe(tmp_path)
    datagen("run", path, "--out", tmp_path / "one", "--cpus", 1)
    datagen("run", path, "--out", tmp_path / "four", "--cpus", 4)
    assert shard_hashes(tmp_path / "one") == shard_hashes(tmp_path / "four")


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path):
    path = recipe(tmp_path)
    out = tmp_path / "run"
    process = subprocess.Popen(
        command("run", path, "--out", out, "--cpus", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What was started in the background of a shell passes on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not reached(out, "CaptionLength") and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stdout + stderr
    assert "Stopped. What is done is kept; go on with:" in stderr
    assert "Traceback" not in stderr
    datagen("run", path, "--out", out, "--cpus", 2)
    assert check_files_are_whole(out) > 20
