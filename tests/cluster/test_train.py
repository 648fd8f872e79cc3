"""Training by Ray Train: what it learns, what of it survives a death, and how it says no."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs datagen[models]")

# Its folder is not that of this file, and pytest adds only the folders of what it collects.
sys.path.append(str(Path(__file__).parents[1] / "training"))

import tiny_shards  # noqa: E402

from datagen import cli  # noqa: E402
from datagen.cluster.resources import Node, share  # noqa: E402
from datagen.cluster.train import train  # noqa: E402
from datagen.errors import DatagenError  # noqa: E402
from datagen.training import logs, loop, settings  # noqa: E402

SMALL = (
    "model=bundled:tinyclip", "composer={op: combiner, projection: 1, hidden: 1, dropout: 0}",
    "learning_rate=0.003", "loader.chunk=4", "validation.on=none", "device=cpu",
    "checkpoints.every=2",
)  # fmt: skip
HERE = ("loader.workers=0", "loader.batch_size=8")
#: Of each of two: together they have the batches of one.
HALF = ("loader.workers=1", "loader.batch_size=4")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    rows = tiny_shards.chain(tiny_shards.Items(folder / "items"), 32)
    return tiny_shards.write(folder / "run", rows)


def told(*changes: str) -> settings.TrainSettings:
    return settings.read("", [*SMALL, *changes])


def curve(out: str | Path) -> list[float]:
    return [line["loss"] for line in logs.read(str(out))]


def test_processes_on_ray_learn_what_one_without_it_does(
    ray: None, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders are named as seen from where the command was given; a second call does nothing."""
    monkeypatch.chdir(Path(shards).parent)
    loop.train(["run"], str(tmp_path / "one"), told(*HERE, "steps=3"))
    # One and the same process: to the bit, dropout too.
    model = f"model={os.path.relpath(tmp_path / 'one')}"
    again = (*HERE, "steps=2", "composer={op: combiner, dropout: 0.2}", model)
    loop.train(["run"], str(tmp_path / "next"), told(*again))
    train(["run"], str(tmp_path / "next on ray"), told(*again), 1)
    assert curve(tmp_path / "next on ray") == curve(tmp_path / "next")

    heard: list[int] = []
    chosen, out = told(*HALF, "steps=3"), str(tmp_path / "two")
    done = train(["run"], out, chosen, 2, say=lambda step, steps, values: heard.append(steps))
    np.testing.assert_allclose(curve(out), curve(tmp_path / "one"), rtol=1e-4)
    assert (done.steps, done.before, done.notes) == (3, False, ())
    assert set(heard) <= {3}
    assert not os.path.exists(os.path.join(out, "ray"))
    assert train(["run"], out, chosen, 2).before


def test_what_every_attempt_would_meet_is_met_once(ray: None, shards: str, tmp_path: Path) -> None:
    chosen = told(*HERE, "steps=3", "learning_rate=1e30")
    with pytest.raises(DatagenError, match=r"^step 2: the loss or its gradients are not finite"):
        train([shards], str(tmp_path / "out"), chosen, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--workers", "99", "device=cpu"], "--workers 99: each takes a CPU, and Ray has 2 CPUs"),
        (["--workers", "1", "device=cuda"], "each takes a GPU and a CPU, and Ray has 0 GPUs"),
        (["--address", "localhost:1"], "with --workers N"),
        (["--workers", "2", "--out", "s3://bucket/model"], "every machine of the cluster sees"),
        (["--workers", "2", "logs=[wandb]"], "wandb is not installed"),
    ],
)
def test_what_cannot_be_is_one_line(
    ray: None,
    shards: str,
    tmp_path: Path,
    given: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(logs._MODULES, "wandb", "not_installed_anywhere")
    begin = ["train", shards, "--out", str(tmp_path / "out"), "model=bundled:tinyclip"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*begin, *given])
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 1
    assert len(lines) == 1
    assert said in lines[0]


@given(
    nodes=st.lists(
        st.builds(Node, cpus=st.integers(0, 9).map(float), gpus=st.integers(0, 4).map(float)),
        max_size=3,
    ),
    workers=st.integers(1, 12),
    gpu=st.booleans(),
)
def test_every_process_has_the_most_cpus_that_leave_room_for_all(
    nodes: list[Node], workers: int, gpu: bool
) -> None:
    """Against putting one process after the other on the first machine with room."""

    def fits(cpus: int) -> bool:
        room = [[node.cpus, node.gpus] for node in nodes]
        for _ in range(workers):
            for one in room:
                if one[0] >= cpus and (one[1] >= 1 or not gpu):
                    one[0] -= cpus
                    one[1] -= 1
                    break
            else:
                return False
        return True

    assert share(nodes, workers, gpu) == max((c for c in range(1, 10) if fits(c)), default=0)


def until(true: Callable[[], Any], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("has not happened")


def writer(out: Path, lines: int) -> int | None:
    """The process that writes the log of a training, once that has so many lines."""
    if len(curve(out)) < lines:
        return None
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            files = [os.readlink(f.path) for f in os.scandir(f"/proc/{process}/fd")]
        except OSError:
            continue
        if str(out / logs.FILE) in files:
            return int(process)
    return None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_neither_ctrl_c_nor_a_killed_process_shows(shards: str, tmp_path: Path) -> None:
    changes = ("steps=150", "checkpoints.every=20")
    loop.train([shards], str(tmp_path / "calm"), told(*HERE, *changes))
    calm, out = curve(tmp_path / "calm"), tmp_path / "out"
    command = [sys.executable, "-m", "datagen", "train", shards, "--out", str(out), "--workers",
               "2", *SMALL, *HALF, *changes]  # fmt: skip

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )

    process = started()
    until(lambda: writer(out, 25) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[0] == "Stopped. Go on from the last checkpoint with:", said
    stopped = len(curve(out))
    assert stopped < 150

    process = started()
    pid = until(lambda: process.poll() is not None or writer(out, stopped + 25))
    assert process.poll() is None, process.communicate()
    os.kill(pid, signal.SIGKILL)
    told_, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert "processes were started again: process 0 died" in told_
    assert len(calm) == 150
    np.testing.assert_allclose(curve(out), calm, rtol=1e-3)
