"""Whole runs in which a step makes items: killed, decided anew, and looked at."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import obeying_server
import pytest
from whole_runs import OWN, check_files_are_whole

import datagen
from datagen import schema
from datagen.refilter import refilter
from datagen.report import show
from datagen.report.statistics import statistics

_CAPTION = re.compile(r"^caption: (.*)\nNumber of edits: 2$", re.MULTILINE)
_REQUEST = re.compile(r"^request: (.*)$", re.MULTILINE)

#: Runs a recipe, and dies when the items of the quadruple step stand and its table does not.
KILLED = """
import json, os, signal, sys
from datagen import runs, store

write = store.write_table

def dying(path, table):
    if "text-quadruple" in path and path.endswith("/table.parquet"):
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, table)

store.write_table = dying
runs.run(json.loads(sys.argv[1]), sys.argv[2], report=False)
"""


def answer(messages: list[dict[str, Any]]) -> str:
    """Two edits of a caption, one of them the same for many; or another wording of a request."""
    said = messages[-1]["content"]
    if found := _CAPTION.search(said):
        caption = json.loads(found[1])
        edits = [
            {"modification": "with a frame around it", "caption": f"{caption} in a frame"},
            {"modification": "leave everything out", "caption": "an empty picture"},
        ]
        return json.dumps({"edits": edits})
    found = _REQUEST.search(said)
    assert found
    return json.dumps({"modifications": [f"please, {json.loads(found[1])}"]})


def said(body: dict[str, Any]) -> str:
    """The last turn of what was asked."""
    turn: str = body["messages"][-1]["content"]
    return turn


def recipe(url: str, folder: Path, low: int = 1) -> dict[str, Any]:
    engine = {"kind": "server", "url": url, "model": "m", "cache": str(folder / "answers")}
    return {
        "name": "made",
        "seed": 2,
        "source": {"type": "tinyworld", "count": 24, "size": 32},
        "steps": [
            {"filter": {"op": f"{OWN}:CaptionLength", "low": low}},
            {"text": {"op": "quadruple", "engine": engine}},
            {"text": {"op": "rewrite", "to": "paraphrase", "keep": True, "engine": engine}},
            {"filter": {"op": "text_quality"}},
        ],
    }


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.usefixtures("key")
def test_made_items_are_items_of_the_run_after_kills_and_other_decisions(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with obeying_server.running(answer, ("m",)) as server:
        code = [sys.executable, "-c", KILLED, json.dumps(recipe(server.url, tmp_path)), str(out)]
        done = subprocess.run(code, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        (items,) = out.glob("steps/text-quadruple-*/*/made.parquet")
        assert not list(out.glob("steps/text-quadruple-*/*/done.json"))
        killed, asked = items.read_bytes(), len(server.bodies)
        datagen.run(recipe(server.url, tmp_path), str(out))
        # The items are the same bytes, and nobody was asked about a seed again.
        assert items.read_bytes() == killed
        turns = [body for body in server.bodies if _CAPTION.search(said(body))]
        assert len(turns) == asked
        run = datagen.load(str(out))
        assert check_files_are_whole(out) > 0
        # What was made, told from the source alone.
        captions = [row["captions"][0] for row in run.items().to_pylist()]
        wanted = {"an empty picture", *(f"{caption} in a frame" for caption in captions)}
        made = run.made().to_pylist()
        assert {row["captions"][0] for row in made} == wanted
        assert len(made) == len(wanted)
        for row in made:
            assert row["id"] == row["key"] == schema.item_id(None, row["captions"], "{}")
            assert (row["source"], row["media"]) == ("quadruple", None)
        assert run.triplets().num_rows == 4 * len(captions)
        texts = set(run.triplets()["modification"].to_pylist())
        assert {text.removeprefix("please, ") for text in texts} == {
            "with a frame around it",
            "leave everything out",
        }
        told = next(row for row in made if row["captions"] == ["an empty picture"])
        assert show.show(run, told["id"])["triplets"]["count"] == 2 * len(captions)
        used = statistics(run)["made"]
        assert used == [{"step": "quadruple", "items": len(made), "items_used": len(made)}]
        # Fewer seeds give fewer items, and all come back; nobody is asked.
        asked = len(server.bodies)
        before = run.triplets(every=True)
        low = sorted(len(caption.split()) for caption in captions)[len(captions) // 2] + 1
        refilter(str(out), [f"CaptionLength.low={low}"], report=False)
        fewer = datagen.load(str(out))
        left = [caption for caption in captions if len(caption.split()) >= low]
        assert 0 < len(left) < len(captions)
        assert {row["captions"][0] for row in fewer.made().to_pylist()} == {
            "an empty picture",
            *(f"{caption} in a frame" for caption in left),
        }
        assert fewer.triplets().num_rows == 4 * len(left)
        refilter(str(out), ["CaptionLength.low=1"], report=False)
        assert datagen.load(str(out)).triplets(every=True).equals(before)
        assert items.read_bytes() == killed
        assert len(server.bodies) == asked
