"""Whole runs whose texts come from a server on loopback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import obeying_server
import pytest

from datagen import load, prompts_command
from datagen.chat.ask import size_in_tokens
from datagen.cluster.connect import connect
from datagen.errors import DatagenError, RecipeError
from datagen.refilter import refilter
from datagen.runs import run

#: Workers see the key that a test puts into the environment.
pytestmark = pytest.mark.usefixtures("no_ray")


def recipe(url: str, folder: Path, **text: Any) -> dict[str, Any]:
    engine = {"kind": "server", "url": url, "model": "tiny", "cache": str(folder / "answers")}
    return {
        "name": "asked",
        "seed": 5,
        "source": {"type": "tinyworld", "count": 60, "size": 32},
        "steps": [
            {"pair": {"op": "one_word_diff", "max_per_reference": 2}},
            {"text": {"op": "llm", "engine": engine, **text}},
            {"filter": {"op": "text_quality"}},
        ],
    }


def most() -> int:
    """Tokens that some questions take, and one more may not: the server counts 15 for each."""
    ask = prompts_command.of_texts("a small red square", "a small blue square")
    return size_in_tokens(ask) + ask.max_tokens + 20 * 15


def test_a_run_stops_at_its_budget_goes_on_and_asks_each_pair_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-a-test")
    out = str(tmp_path / "run")
    # One Ray for all runs, started when the key is there.
    with obeying_server.running() as server, connect("local", cpus=2):
        tight = recipe(server.url, tmp_path)
        tight["steps"][1]["text"]["engine"] |= {"budget": {"tokens": most()}, "concurrency": 2}
        with pytest.raises(DatagenError, match=r"the budget of .* is used up"):
            run(tight, out, report=False)
        assert len(server.bodies) >= 5
        summary = run(recipe(server.url, tmp_path), out, report=False)
        step = next(one for one in summary.steps if one.id == "llm")
        asked = len(server.bodies)
        assert asked == step.rows_in == step.kept > 20
        assert len({json.dumps(body["messages"][-1]) for body in server.bodies}) == asked
        # Another budget or address is no other question.
        changed = recipe(server.url, tmp_path)
        changed["steps"][1]["text"]["engine"] |= {"concurrency": 3, "budget": {"tokens": 9}}
        assert run(changed, out, report=False).status == "already finished"
        # Another run finds the answers that were kept.
        run(recipe(server.url, tmp_path), str(tmp_path / "other"), report=False)
        assert len(server.bodies) == asked
    made = load(out)
    table = made.table("llm").to_pylist()
    for row in table:
        marks = [
            obeying_server.hash_of(row[side][0]["caption"]) for side in ("references", "targets")
        ]
        assert row["modification"].endswith(f"{marks[0]} to {marks[1]}")
    line = table[0]["provenance"][-1]
    assert line["model"] == "tiny"
    assert line["prompt"].startswith("modification@1#")
    # What the command shows is what was sent.
    ask = prompts_command.of_run(out, table[0]["pair"], {"prompt": "modification"})
    sent = [body for body in server.bodies if body["messages"] == list(ask.messages)]
    assert [body["seed"] for body in sent] == [ask.seed]
    # The server is gone: what is finished can still be decided anew, and nothing else begins.
    assert refilter(out, ["text_quality.max_words=50"], report=False).status == "finished"
    with pytest.raises(RecipeError, match="cannot be reached"):
        run(recipe(server.url, tmp_path, texts_per_pair=1), str(tmp_path / "third"), report=False)
    held = [path for path in Path(tmp_path).rglob("*") if path.is_file()]
    assert not [path for path in held if b"secret-of-a-test" in path.read_bytes()]
