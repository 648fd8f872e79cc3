"""A real Ray head of our own: its ports, its folder, its token, and gone at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass
class Head:
    """A head node: where it answers, and the environment of a process that may talk to it."""

    address: str
    server: str
    environment: dict[str, str]

    def python(
        self, code: str, *arguments: str, environment: dict[str, str] | None = None, limit: int = 90
    ) -> subprocess.CompletedProcess[str]:
        """Run ``code`` in a process of its own that knows the token."""
        return run_python(
            code, *arguments, environment=environment or self.environment, limit=limit
        )


def run_python(
    code: str, *arguments: str, environment: dict[str, str], limit: int = 90
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command,
        env=environment,
        # Not the checkout: its folder on sys.path would hide what a cluster is sent.
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=limit,
    )


def plain() -> dict[str, str]:
    """This environment without anything that speaks of a Ray; this Python first on the path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "PATH": f"{os.path.dirname(sys.executable)}:{kept.get('PATH', '')}"}


@pytest.fixture
def clean_environment() -> dict[str, str]:
    return plain()


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a process of its own that knows of no cluster."""

    def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run_python(code, *arguments, environment={**plain(), **variables})

    return run


#: A filter of a user's own.
OPERATOR = """
import pyarrow as pa
from datagen.step import Filter, Settings, verdicts


class LongCaption(Filter["LongCaption.Settings"]):
    class Settings(Settings):
        words: int = 5

    levels = ("items",)
    rules = frozenset({"words"})

    def columns(self, level):
        return ["captions"]

    def gives(self, level):
        return {"score_words"}

    def __call__(self, rows):
        words = [len((captions or [""])[0].split()) for captions in rows["captions"].to_pylist()]
        return pa.table({"id": rows["id"], "score_words": pa.array(words, pa.float64())})

    def decide(self, rows, items):
        ids, words = rows["id"].to_pylist(), rows["score_words"].to_pylist()
        least = self.settings.words
        return verdicts(ids, {i: ("short", "") for i, w in zip(ids, words) if w < least})
"""


@pytest.fixture
def own_recipe(tmp_path: Path) -> Path:
    """Four photos, and a recipe beside them with an operator in a file of its own."""
    pytest.importorskip("datagen.cli")
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = ["file,caption"]
    for number, colour in enumerate(("red", "green", "blue", "pink")):
        Image.new("RGB", (64, 64), colour).save(photos / f"{number}.png")
        rows.append(f"{number}.png,a {colour} wall" + " far away" * number)
    (photos / "captions.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "long_caption.py").write_text(OPERATOR)
    recipe = {
        "name": "own",
        "source": {
            "type": "folder",
            "path": str(photos),
            "annotations": "captions.csv",
            "media": "file",
            "captions": "caption",
        },
        "steps": [{"filter": {"op": "long_caption.py:LongCaption", "words": 5}}],
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    if not os.path.exists(ray):
        pytest.skip("the ray command is not installed beside this Python")
    pytest.importorskip("aiohttp", reason="needs the cluster extra")
    # Paths of Ray's sockets must stay under 108 characters: pytest's own folders are too long.
    folder = tempfile.mkdtemp(prefix="head-", dir="/tmp")
    port, dashboard, client, agent, metrics = free_ports(5)
    environment = {
        **plain(),
        "HOME": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    command = [
        ray,
        "start",
        "--head",
        "--block",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}",
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--num-cpus=2",
        "--object-store-memory=200000000",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]
    with open(os.path.join(folder, "start.log"), "wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        _wait_for(process, dashboard, os.path.join(folder, "start.log"))
        yield Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: str) -> None:
    """Until the job server answers; fails with the head's own words if it never does."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    with open(log, encoding="utf-8", errors="replace") as file:
        pytest.fail(f"the head node did not start:\n{file.read()[-2000:]}")
