"""Thousands of questions to a server that misbehaves in every way known, with kills in between."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stressing_server
from whole_runs import check_files_are_whole, command

import datagen

psutil = pytest.importorskip("psutil", reason="needs datagen[models]")
pytest.importorskip("aiohttp", reason="needs datagen[llm]")

PAIRS = 5000
CONCURRENCY = 64
#: Shares of all answers after which the run is killed.
KILLS = (0.3, 0.65)


def collection(folder: Path) -> str:
    """Captions without media: 2n and 2n + 1 differ in a word, and no others do."""
    path = folder / "captions.txt"
    with path.open("w") as file:
        for number in range(PAIRS):
            name = "".join(chr(97 + number // 2 // 26**place % 26) for place in range(3))
            file.write(f"a {('red', 'blue')[number % 2]} kite named {name} above bay {name}\n")
    return str(path)


def recipe(folder: Path, name: str, url: str) -> tuple[str, Path]:
    """Path of a recipe, and the folder where its answers are kept."""
    answers = folder / f"answers-{name}"
    engine = {"kind": "server", "url": url, "model": "tiny", "cache": str(answers)}
    engine |= {"concurrency": CONCURRENCY, "retries": 30, "timeout": 6}
    written = {
        "name": "stress",
        "seed": 3,
        "source": {"type": "captions", "path": str(folder / "captions.txt")},
        "steps": [{"pair": {"op": "one_word_diff"}}, {"text": {"op": "llm", "engine": engine}}],
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(written))
    return str(path), answers


@contextlib.contextmanager
def server(mood: str, port: int = 0) -> Iterator[str]:
    """The address of a server in a process of its own; on a free port, or on ``port``."""
    line = [sys.executable, stressing_server.__file__, mood, str(port)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def counts(url: str, query: str = "") -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/counts{query}") as reply:
        return json.load(reply)


def settled(url: str) -> Counter[str]:
    """How often each answer was sent, once nothing is under way but what never ends."""
    while True:
        before, now = counts(url), counts(url)
        if before["asked"] == now["asked"] and now["at_once"] <= now["moods"].get("never", 0):
            return Counter(counts(url, "?paid")["paid"])
        time.sleep(0.05)


class Memory:
    """The most bytes that all processes of a run had to themselves at one moment, and any one."""

    def __init__(self) -> None:
        self.all = self.one = 0
        self._over = threading.Event()

    @contextlib.contextmanager
    def of(self, process: int) -> Iterator[None]:
        self._over.clear()
        thread = threading.Thread(target=self._watch, args=(process,))
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self, process: int) -> None:
        while not self._over.wait(0.5):
            own = []
            for one in [process, *_below(process)]:
                with contextlib.suppress(psutil.Error):
                    held = psutil.Process(one).memory_info()
                    own.append(held.rss - held.shared)
            self.all, self.one = max(self.all, sum(own)), max(self.one, *own, 0)


def _below(process: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [one.pid for one in psutil.Process(process).children(recursive=True)]
    return []


def start(path: str, out: Path) -> subprocess.Popen[str]:
    run = command("run", path, "--out", out, "--cpus", 2, "--quiet", "--no-report")
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(run, text=True, start_new_session=True, **pipes)


def kept(answers: Path) -> set[str]:
    """Texts with a whole line in a folder, read without the code under test."""
    lines = [line for file in answers.glob("*.jsonl") for line in file.read_bytes().split(b"\n")]
    return {json.loads(line.split(b" ", 2)[2])["text"] for line in lines if line[-1:] == b"}"}


def tables(out: Path) -> dict[str, str]:
    """Hashes of everything that a run decided."""
    files = [*out.glob("steps/*/*/*.parquet"), out / "triplets.parquet"]
    files = [file for file in files if file.parent.name != "journal"]
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def finish(process: subprocess.Popen[str]) -> None:
    said = process.communicate()
    assert process.returncode == 0, said


@pytest.mark.slow
def test_thousands_of_asks_survive_a_wild_server_and_kills_and_none_is_paid_twice(
    tmp_path: Path,
) -> None:
    collection(tmp_path)
    with server("calm") as url:
        path, _ = recipe(tmp_path, "calm", f"{url}/v1")
        finish(start(path, tmp_path / "calm"))
        once = settled(url)
        assert set(once.values()) == {1}
    memory = Memory()
    out = tmp_path / "wild"
    known: dict[str, int] = {}
    # At the same address, for details of verdicts name it.
    with server("wild", int(url.rpartition(":")[2])) as url:
        path, answers = recipe(tmp_path, "wild", f"{url}/v1")
        for share in KILLS:
            process = start(path, out)
            with memory.of(process.pid):
                while counts(url)["total"] < share * len(once):
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.02)
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            check_files_are_whole(out)
            known |= {text: settled(url)[text] for text in kept(answers) - set(known)}
            assert share * len(once) - 2 * CONCURRENCY < len(known) < len(once)
        process = start(path, out)
        with memory.of(process.pid):
            finish(process)
        paid, told = settled(url), counts(url)
    # What was kept at a kill was never asked again; besides, at most what was on its way then.
    assert all(paid[text] == known[text] for text in known)
    assert set(paid) == set(once)
    assert paid.total() - len(once) <= len(KILLS) * CONCURRENCY
    assert told["most_at_once"] <= 2 * CONCURRENCY
    assert all(told["moods"][m] > 9 for m in ("drop", "half", "cut", "garbage", "error", "busy"))
    # Every pair has its verdict, and the same one as with a server that behaves.
    funnel = {step["id"]: step for step in datagen.load(str(out)).funnel}["llm"]
    fates = Counter(map(_fate, datagen.load(str(out)).table("one_word_diff").to_pylist()))
    assert funnel["rows_in"] == PAIRS == fates.total()
    assert funnel["kept"] == fates["well"] + fates["late"]
    assert funnel["rejected"] == {"no_difference": fates["same"]}
    assert funnel["failed"] == {"not_json": fates["never_json"], "no_answer": fates["refused"]}
    assert tables(out) == tables(tmp_path / "calm")
    print(f"MiB of one process {memory.one >> 20}, of all {memory.all >> 20}; {told}")
    assert memory.one < 600 << 20
    assert memory.all < 2500 << 20


def _fate(pair: dict[str, Any]) -> str:
    told = [pair[side][0]["caption"] for side in ("references", "targets")]
    return stressing_server.fate_of(stressing_server.mark_of(*told))
