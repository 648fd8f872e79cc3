"""Tokens a second of vLLM through a step (ray.data.llm), against vllm.LLM on the same prompts.

The start of the engine is told apart: for the peer it is the constructor, for the step what passes
until the first answers are kept. In the environment of ``make engines``, or where datagen[vllm] is
installed:

    .engines/bin/python benchmarks/vllm_tokens.py --model file:/path/to/model
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

import datagen
from datagen.chat import prompts, vllm
from datagen.chat import settings as engines
from datagen.chat.ask import Ask
from datagen.chat.asking import Asking
from datagen.chat.prompts import Wanted
from datagen.chat.subject import subject_of
from datagen.step import RowOperator, Settings

COLUMNS = ["id", "references", "targets", "evidence"]
RECIPE = """
name: tokens
source: {{type: tinyworld, count: {items}, size: 32}}
steps:
  - pair: {{op: one_word_diff, max_per_reference: 4}}
  - text:
      op: "{own}:Asks"
      tokens: {tokens}
      engine: {engine}
"""


class AsksSettings(Settings):
    engine: engines.EngineSettings
    tokens: int = 64


def ask(row: Mapping[str, Any], tokens: int) -> Ask:
    """What ``text: llm`` asks about a pair, not held to a schema."""
    messages = prompts.load("modification").messages(subject_of(row), Wanted(4))
    return Ask(messages, max_tokens=tokens, temperature=0.7, seed=1)


class Asks(Asking[AsksSettings], RowOperator[AsksSettings]):
    """Pairs to triplets, by one free question each."""

    Settings = AsksSettings
    levels = ("pairs",)
    result = "triplets"

    def needs(self, level: str) -> set[str]:
        return {"pairs"}

    def gives(self, level: str) -> set[str]:
        return {"modification"}

    def columns(self, level: str) -> list[str]:
        return list(COLUMNS)

    def __call__(self, rows: pa.Table) -> pa.Table:
        ids = rows["id"].to_pylist()
        asks = [ask(row, self.settings.tokens) for row in rows.to_pylist()]
        answers = self.engines["engine"].answer(asks)
        texts = [json.dumps(one.text or one.fault) for one in answers]
        return pa.table({"id": ids, "modification": texts})


def step(model: str, items: int, tokens: int, more: dict[str, Any], out: Path) -> dict[str, float]:
    """A run; what its step took from its first kept answers to the last."""
    engine = json.dumps({"kind": "vllm", "model": model, **more})
    recipe = out.with_suffix(".yaml")
    own = Path(__file__).resolve()
    recipe.write_text(RECIPE.format(items=items, own=own, tokens=tokens, engine=engine))
    command = [sys.executable, "-m", "datagen", "run", str(recipe), "--out", str(out), "--quiet"]
    began = first = last = 0.0
    seen = early = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(0.02)
            if not began and list(out.glob("steps/pair-*/*/done.json")):
                began = time.monotonic()
            size = sum(one.stat().st_size for one in out.glob("spent/Asks/answers/*.jsonl"))
            if size > seen:
                last = time.monotonic()
                first = first or last
                early = early or size
                seen = size
    assert process.returncode == 0
    answers = [
        json.loads(line.split(" ", 2)[2])
        for file in out.glob("spent/Asks/answers/*.jsonl")
        for line in file.read_text().splitlines()
    ]
    made = sum(one["tokens_out"] for one in answers)
    # What was kept at the first look was made before it.
    rest = made * (1 - early / seen)
    return {
        "asks": len(answers),
        "tokens out": made,
        "start, s": first - began,
        "generation, s": last - first,
        "tokens/s": rest / (last - first),
    }


def peer(model: str, out: Path, tokens: int, more: dict[str, Any]) -> dict[str, float]:
    """vllm.LLM on the prompts of the run in ``out``."""
    import vllm as library

    described = engines.VllmSettings.model_validate({"kind": "vllm", "model": model, **more})
    pairs = datagen.load(str(out)).table("one_word_diff").select(COLUMNS).to_pylist()
    source = vllm.Source(model, "", described.max_model_len)
    rows = [vllm.Asked(source)({"key": "", "ask": vllm.packed(ask(row, tokens))}) for row in pairs]
    began = time.monotonic()
    given = vllm.arguments(described, source, float(described.gpus()))
    engine = library.LLM(source.place, **given)
    ready = time.monotonic()
    sampling = [
        library.SamplingParams(**{k: v for k, v in r["sampling_params"].items() if v is not None})
        for r in rows
    ]
    prompts: Any = [{"prompt_token_ids": row["tokenized_prompt"]} for row in rows]
    found = engine.generate(prompts, sampling, use_tqdm=False)
    ended = time.monotonic()
    made = sum(len(one.outputs[0].token_ids) for one in found)
    return {
        "asks": len(found),
        "tokens out": made,
        "start, s": ready - began,
        "generation, s": ended - ready,
        "tokens/s": made / (ended - ready),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--engine", type=json.loads, default={}, help="settings beside the model")
    given = parser.parse_args()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        rows = {
            "a step, ray.data.llm": step(given.model, given.items, given.tokens, given.engine, out),
            "vllm.LLM": peer(given.model, out, given.tokens, given.engine),
        }
    names = list(next(iter(rows.values())))
    print("| | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for name, row in rows.items():
        print(
            f"| {name} | " + " | ".join(f"{row[n]:,.1f}".removesuffix(".0") for n in names) + " |"
        )


if __name__ == "__main__":
    main()
