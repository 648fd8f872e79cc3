"""``bundled:tinywriter`` in every engine: vLLM by ray.data.llm and as a server, transformers serve
and the transformers library write the same texts, and they are right.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import datagen
from datagen import models, schema
from datagen.audit.tinyworld import WorldJudge
from datagen.step import Context
from datagen.texts.llm import Llm, LlmSettings

pytest.importorskip("jsonschema", reason="needs datagen[llm]")
pytest.importorskip("aiohttp", reason="needs datagen[llm]")

NAME = "bundled:tinywriter"
FOLDER = models.parse(NAME).folder
ASKED = {"prompt": "modification", "temperature": 0, "max_tokens": 160}


def recipe(temperature: float) -> dict[str, Any]:
    engine = {
        "kind": "vllm", "model": NAME, "precision": "fp32", "batch_size": 16,
        "engine": {"enforce_eager": True, "max_num_seqs": 16},
    }  # fmt: skip
    return {
        "name": "written",
        "source": {"type": "tinyworld", "count": 60, "size": 32},
        "steps": [
            {"pair": {"op": "one_word_diff", "max_per_reference": 2}},
            {"text": {"op": "llm", "engine": engine, **ASKED, "temperature": temperature}},
        ],
    }


@pytest.fixture(scope="module")
def runs(python: str, environment: dict[str, str], tmp_path_factory: Any) -> Callable[..., Any]:
    """Makes a run whose engine is vLLM by ray.data.llm."""

    def made(temperature: float) -> Any:
        folder = tmp_path_factory.mktemp("written")
        # JSON is YAML.
        (folder / "recipe.yaml").write_text(json.dumps(recipe(temperature)))
        command = [python, "-m", "datagen", "run", "recipe.yaml", "--out", "run", "--quiet"]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return datagen.load(str(folder / "run"))

    return made


@pytest.fixture(scope="module")
def run(runs: Callable[..., Any]) -> Any:
    return runs(0)


def texts(table: pa.Table, name: str = "pair") -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in table.to_pylist():
        if row["modification"]:
            found.setdefault(row[name], set()).add(row["modification"])
    return found


def written(run: Any, engine: dict[str, Any], folder: Path) -> dict[str, set[str]]:
    """What another engine writes for the same pairs."""
    told = {**ASKED, "engine": {**engine, "cache": str(folder / "kept")}}
    step = Llm(LlmSettings.model_validate(told))
    step.open(Context(seed=run.note["seed"], step="llm"))
    lines = step(run.table("one_word_diff"))
    return texts(lines.filter(pa.compute.equal(lines["verdict"], schema.KEPT)), "id")


def share_right(run: Any) -> float:
    judge = WorldJudge(run.items().to_pylist())
    rows = run.triplets().to_pylist()
    assert len(rows) > 60
    return sum(bool(judge.triplet(row).right) for row in rows) / len(rows)


def test_vllm_in_a_run_writes_right_texts(run: Any) -> None:
    assert not run.funnel[-1]["failed"]
    assert share_right(run) >= 0.95


def test_vllm_writes_right_texts_where_each_ask_has_a_seed(runs: Callable[..., Any]) -> None:
    assert share_right(runs(0.5)) >= 0.9


def test_transformers_writes_the_same(run: Any, tmp_path: Path) -> None:
    engine = {"kind": "transformers", "model": NAME, "device": "cpu", "precision": "fp32"}
    assert written(run, engine, tmp_path) == texts(run.triplets())


def test_vllms_own_server_writes_the_same(
    run: Any, python: str, serving: Callable[..., str], tmp_path: Path
) -> None:
    options = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"]
    url = serving(python, "-m", "vllm.entrypoints.openai.api_server", "--model", FOLDER, *options)
    engine = {"kind": "server", "url": url, "model": FOLDER}
    assert written(run, engine, tmp_path) == texts(run.triplets())


def test_transformers_serve_writes_the_same(
    run: Any, python: str, serving: Callable[..., str], tmp_path: Path
) -> None:
    url = serving(str(Path(python).with_name("transformers")), "serve", "--device", "cpu")
    engine = {"kind": "server", "url": url, "model": FOLDER, "concurrency": 4}
    found, mine = written(run, engine, tmp_path), texts(run.triplets())
    # It computes in the half precision of the weights, where near choices may fall another way.
    same = sum(found.get(name) == said for name, said in mine.items())
    assert same >= 0.85 * len(mine)
