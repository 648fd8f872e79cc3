"""A whole run in which a model looks: captions first, then pairs by them, then texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import truth_server
from truth_server import Truth, World

from datagen import load, prompts_command
from datagen.runs import run
from datagen.sources.tinyworld.events import shown
from datagen.sources.tinyworld.oracle import says

pytest.importorskip("aiohttp", reason="needs datagen[llm]")
pytest.importorskip("tenacity", reason="needs datagen[llm]")

SOURCE = {"type": "tinyworld", "count": 60, "size": 64, "clips": 0.3, "neighbours": 0.8}


def recipe(url: str, folder: Path) -> dict[str, Any]:
    engine = {"kind": "server", "url": url, "model": "tiny", "cache": str(folder / "answers")}
    return {
        "name": "seen",
        "seed": 5,
        "source": SOURCE,
        "steps": [
            {"text": {"op": "caption", "engine": engine, "overwrite": True, "max_words": 60}},
            {"pair": {"op": "one_word_diff", "max_per_reference": 2}},
            {"text": {"op": "vlm_then_llm", "vlm": engine, "llm": engine, "frames": 6}},
        ],
    }


def test_a_run_without_any_given_caption_ends_with_right_texts(tmp_path: Path) -> None:
    truth = Truth(World(SOURCE, 5, tmp_path / "world"))
    out = str(tmp_path / "run")
    with truth_server.knowing(truth) as server:
        plan = recipe(server.url, tmp_path)
        summary = run(plan, out, report=False)
        asked = len(server.bodies)
        assert run(plan, out, report=False).status == "already finished"
        assert len(server.bodies) == asked
    assert not truth.lost
    by_id = {step.id: step for step in summary.steps}
    assert by_id["caption"].rows_in == by_id["caption"].kept == 60
    made = load(out)
    items = made.table("caption")
    assert items["id"].equals(made.items()["id"])
    assert set(items["captions_by"].to_pylist()) == {"tiny"}
    right = 0
    rows = made.table("vlm_then_llm").to_pylist()
    for row in rows:
        ends = [shown(json.loads(row[side][0]["labels"])) for side in ("references", "targets")]
        right += says(row["modification"], *ends).right
        told = [(line["step"], line["model"]) for line in row["provenance"]]
        assert told[0] == ("caption", "tiny")
        assert [step for step, _ in told[1:]] == ["one_word_diff", "vlm_then_llm"]
        assert row["provenance"][0]["prompt"].startswith("caption@1#")
        assert row["provenance"][-1]["prompt"].startswith("describe@1#")
    assert right == len(rows) > 10
    # What the command shows of a pair and of an item is what was sent.
    sent = [body["messages"] for body in server.bodies]
    for prompt, name in (("describe", rows[0]["id"]), ("caption", items["id"][0].as_py())):
        ask = prompts_command.of_run(out, name, {"prompt": prompt})
        assert sent.count(list(ask.messages)) == 1
