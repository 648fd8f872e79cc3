"""A run whose engine is vLLM by ray.data.llm, killed on its way, against vLLM's own server and the
transformers library: the same asks have the same greedy answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from asks_twice import HELD, AsksTwice, AsksTwiceSettings, plain

import datagen
from datagen.chat import vllm
from datagen.chat.ask import Ask
from datagen.chat.local import Transformers
from datagen.chat.server import Servers

jsonschema = pytest.importorskip("jsonschema", reason="needs datagen[llm]")
pytest.importorskip("aiohttp", reason="needs datagen[llm]")

OWN = Path(__file__).with_name("asks_twice.py")
RECIPE = """
name: vllm
source: {{type: tinyworld, count: 90, size: 32}}
steps:
  - pair: {{op: one_word_diff, max_per_reference: 2}}
  - text:
      op: "{own}:AsksTwice"
      engine:
        kind: vllm
        model: "file:{model}"
        precision: fp32
        max_model_len: 1024
        batch_size: 4
        engine: {{enforce_eager: true, max_num_seqs: 4}}
"""
HOLDS = '{"backend": "guidance", "disable_any_whitespace": true}'


@pytest.fixture(scope="module")
def url(python: str, model: Path, serving: Callable[..., str]) -> str:
    """vLLM's own server."""
    options = ["--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    return serving(*command, *options, "--structured-outputs-config", HOLDS)


@pytest.fixture(scope="module")
def run(
    python: str, model: Path, environment: dict[str, str], tmp_path_factory: Any
) -> dict[str, Any]:
    """A run that was killed in the middle of its answers, and went on: out, kept before, after."""
    folder = tmp_path_factory.mktemp("vllm")
    recipe = folder / "vllm.yaml"
    recipe.write_text(RECIPE.format(own=OWN, model=model))
    out = folder / "run"
    command = [python, "-m", "datagen", "run", str(recipe), "--out", str(out), "--quiet"]
    options: dict[str, Any] = {"env": environment, "stdout": subprocess.DEVNULL}
    answers = out / "spent" / "AsksTwice" / "answers"
    said = folder / "said.txt"
    with said.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, start_new_session=True, **options)
        try:
            while len(kept(answers)) < 12:
                assert process.poll() is None, said.read_text()[-3000:]
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    before = kept(answers)
    with said.open("wb") as file:
        done = subprocess.run(command, stderr=file, check=False, **options)
    assert done.returncode == 0, said.read_text()[-3000:]
    return {"out": out, "before": before, "after": kept(answers), "said": said.read_text()}


def kept(folder: Path) -> list[str]:
    """The keys of the whole lines of answers."""
    lines = [line for file in folder.glob("answers-*.jsonl") for line in file.open("rb")]
    return [line[:40].decode() for line in lines if line.endswith(b"\n")]


def test_a_killed_run_asks_nothing_again_that_was_kept(run: dict[str, Any]) -> None:
    assert set(run["before"]) <= set(run["after"])
    assert 12 <= len(run["before"]) < len(run["after"])
    assert max(Counter(run["after"]).values()) == 1


def test_nothing_but_errors_is_said(run: dict[str, Any]) -> None:
    lines = [line for line in run["said"].splitlines() if "core_worker.cc" not in line]
    assert lines == []


def test_a_row_has_its_answers_or_the_fault_that_the_engine_gave(run: dict[str, Any]) -> None:
    verdicts = datagen.load(str(run["out"])).verdicts("AsksTwice").to_pylist()
    long = {row["id"] for row in verdicts if int(row["id"][:8], 16) % 8 == 0}
    assert 0 < len(long) < len(verdicts)
    for row in verdicts:
        assert row["verdict"] == ("failed" if row["id"] in long else "kept"), row
        if row["id"] in long:
            assert row["rule"] == "no_answer"
            assert "do not fit the 1,024 of the model" in row["detail"]
    # Two free answers and a held one of each good row, the held one alone of each long one.
    assert len(run["after"]) == 3 * (len(verdicts) - len(long)) + len(long)


def texts(run: dict[str, Any]) -> dict[str, list[Any]]:
    """The answers of each pair: text, fault, tokens in and out of the three asks."""
    rows = datagen.load(str(run["out"])).triplets().to_pylist()
    return {line["pair"]: json.loads(line["modification"]) for line in rows}


def asked(run: dict[str, Any], engine: Any) -> dict[str, list[Any]]:
    """What another engine answers to the same operator."""
    ids = sorted(texts(run))
    described = {"kind": "server", "url": "http://localhost:1/v1", "model": "x"}
    operator = AsksTwice(AsksTwiceSettings.model_validate({"engine": described}))
    operator.engines["engine"] = engine
    engine.open()
    try:
        rows = operator(pa.table({"id": ids})).to_pylist()
    finally:
        engine.close()
    return {row["id"]: json.loads(row["modification"]) for row in rows}


def test_answers_are_those_of_vllms_own_server(run: dict[str, Any], url: str, model: Path) -> None:
    found, mine = asked(run, Servers(url, str(model))), texts(run)
    assert {k: said[:2] for k, said in found.items()} == {k: said[:2] for k, said in mine.items()}
    for said in found.values():
        jsonschema.validate(json.loads(said[2][0]), HELD)


def test_answers_that_are_held_are_those_of_vllms_own_server(
    run: dict[str, Any], url: str, model: Path
) -> None:
    """By the grammar that the engine is given: how a server holds to a schema is its own affair."""
    mine = texts(run)
    for name in sorted(mine)[:10]:
        ask = plain(name, 200, schema=HELD)
        body = {
            "model": str(model),
            "messages": list(ask.messages),
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "structured_outputs": vllm.sampling(ask)["structured_outputs"],
        }
        request = urllib.request.Request(
            f"{url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            found = json.load(reply)
        text, _, asked_with, made = mine[name][2]
        assert found["choices"][0]["message"]["content"] == text
        assert found["usage"]["prompt_tokens"] == asked_with
        assert found["usage"]["completion_tokens"] == made


def test_free_answers_are_those_of_the_transformers_library(
    run: dict[str, Any], model: Path
) -> None:
    found = asked(run, Transformers(f"file:{model}", device="cpu", batch_size=32))
    mine = texts(run)

    # A model of random weights may end with its padding, which one engine counts and one does not.
    def but_for_tokens(answers: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {name: [one[:3] for one in said[:2]] for name, said in answers.items()}

    assert but_for_tokens(found) == but_for_tokens(mine)


def test_answers_hold_to_the_schema(run: dict[str, Any]) -> None:
    for said in texts(run).values():
        text, fault, *_ = said[2]
        assert fault is None
        jsonschema.validate(json.loads(text), HELD)


def test_a_server_holds_to_a_schema_at_any_temperature(url: str, model: Path) -> None:
    engine = Servers(url, str(model))
    many: list[Ask] = [
        plain(f"question {n}", 200, schema=HELD, temperature=1.0, seed=n) for n in range(40)
    ]
    try:
        answers = engine.answer(many)
        assert [one.text for one in engine.answer(many)] == [one.text for one in answers]
    finally:
        engine.close()
    values = [json.loads(one.text or "") for one in answers]
    for value in values:
        jsonschema.validate(value, HELD)
    assert len({json.dumps(value) for value in values}) > 5


def test_stop_texts_and_lengths_are_kept_to(url: str, model: Path) -> None:
    engine = Servers(url, str(model))
    local = Transformers(f"file:{model}", device="cpu")
    try:
        whole = engine.answer([plain("tell", 40)])[0]
        assert whole.text is not None
        stop = whole.text[10:12]
        stopped = plain("tell", 40, stop=(stop,))
        (answer,), (other,) = engine.answer([stopped]), local.answer([stopped])
        assert answer.text == other.text == whole.text[: whole.text.index(stop)]
        assert answer.fault is other.fault is None
        assert whole.fault == "cut off after max_tokens (40)"
    finally:
        engine.close()
        local.close()
