"""What vLLM is given and gives back, without vLLM: settings, prompts, sampling, answers, faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from datagen.chat import settings as engines
from datagen.chat import vllm, vllm_faults
from datagen.chat.ask import Answer, Ask
from datagen.chat.gathered import Gathered
from datagen.errors import DatagenError

READ: TypeAdapter[Any] = TypeAdapter(engines.EngineSettings)
TEXT = st.text(st.characters(), max_size=40)


def described(**more: Any) -> engines.VllmSettings:
    return READ.validate_python({"kind": "vllm", "model": "hf:org/name", **more})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"engine": {"model": "other"}}, "model is said by the setting model"),
        ({"engine": {"tensor_parallel_size": 2}}, "said by the setting tensor_parallel"),
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"url": "http://localhost"}, "url"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        described(**wrong)


@pytest.mark.parametrize("model", ["org/name", "open_clip:ViT-B-32/openai"])
def test_a_model_that_is_none_is_refused(model: str) -> None:
    with pytest.raises(DatagenError, match="hf:"):
        described(model=model)


def test_only_what_changes_answers_is_part_of_fingerprints_and_keys(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def known(**more: Any) -> tuple[str, str]:
        one = described(model=f"file:{tmp_path}", **more)
        return json.dumps(one.model_dump(mode="json")), Gathered(one).revision

    same = known()
    assert known(tensor_parallel=4, workers=2, batch_size=8, max_model_len=99) == same
    assert known(engine={"gpu_memory_utilization": 0.5, "max_num_seqs": 9}) == same
    for other in ({"precision": "fp16"}, {"engine": {"quantization": "fp8"}}):
        assert known(**other)[0] != same[0]
        assert known(**other)[1] != same[1]


def test_gpus_are_those_of_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_cpu_build", lambda: False)
    assert described(tensor_parallel=4, workers=2).resources().gpus == 4
    assert described(engine={"pipeline_parallel_size": 2}, tensor_parallel=2).gpus() == 4
    assert described(device="cpu").resources().gpus == 0
    assert vllm.placement(0)["bundles"] == [{"CPU": 1.0}]
    assert vllm.placement(0.5)["bundles"] == [{"CPU": 1.0, "GPU": 0.5}]
    assert vllm.placement(4)["bundles"] == [{"CPU": 1.0, "GPU": 1.0}] * 4
    monkeypatch.setattr(engines, "_cpu_build", lambda: True)
    assert described().gpus() == 0
    assert described(device="cuda").gpus() == 1
    assert any("tensor_parallel" in line for line in described(tensor_parallel=2).absent())


@given(
    TEXT,
    TEXT,
    st.integers(1, 9999),
    st.floats(0, 2),
    st.none() | st.integers(0, 1 << 70),
    st.lists(TEXT, max_size=3),
    st.none() | st.just({"type": "object", "properties": {"a": {"type": "string"}}}),
)
def test_an_ask_travels_unchanged(
    system: str,
    text: str,
    tokens: int,
    temperature: float,
    seed: int | None,
    stop: list[str],
    schema: dict[str, Any] | None,
) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:x"}}, {"type": "text", "text": text}]
    messages = ({"role": "system", "content": system}, {"role": "user", "content": parts})
    ask = Ask(messages, schema, tokens, temperature, seed, tuple(stop))
    assert vllm.unpacked(vllm.packed(ask)) == ask
    sampled = vllm.sampling(ask)
    assert (sampled["max_tokens"], sampled["temperature"]) == (tokens, temperature)
    assert sampled["stop"] == (stop or None)
    held = sampled["structured_outputs"]
    if schema is None:
        assert held is None
    else:
        # The rest of the grammar is guidance's own language; the schema stands in it as JSON.
        told = json.loads(held["grammar"].partition("start: %json ")[2])
        marks = told.pop("x-guidance")
        assert told == schema
        assert marks == {
            "whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "
        }  # fmt: skip
    assert sampled["seed"] is None or 0 <= sampled["seed"] < 1 << 63


class TestPrompts:
    """Of a tiny model: tokens as the engine of the transformers library makes them."""

    @pytest.fixture(scope="class")
    def ref(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        pytest.importorskip("torch", reason="needs datagen[models]")
        from test_chat_local import tiny_chat_model

        return tiny_chat_model(tmp_path_factory.mktemp("tiny"))

    def row(self, ref: str, text: str, limit: int | None = None, **more: Any) -> dict[str, Any]:
        ask = Ask(({"role": "user", "content": text},), **more)
        return vllm.Asked(vllm.Source(ref, "", limit))({"key": "k", "ask": vllm.packed(ask)})

    @pytest.mark.parametrize("text", ["a dog", "a <|end|> and <|turn|>", "zwei Hünde \ud800"])
    def test_tokens_are_those_of_the_library_and_no_text_ends_a_turn(
        self, ref: str, text: str
    ) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(ref.removeprefix("file:"))
        made = self.row(ref, text, max_tokens=16)["tokenized_prompt"]
        plain = text.replace("<|", "< |").encode("utf-8", "replace").decode()
        messages = [{"role": "user", "content": plain}]
        right = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        right = right if isinstance(right, list) else right["input_ids"]
        assert made == right
        assert sum(token == tokenizer.eos_token_id for token in made) == 1

    def test_what_does_not_fit_is_a_fault(self, ref: str) -> None:
        assert "tokenized_prompt" in self.row(ref, "a" * 100, max_tokens=16)
        long = self.row(ref, "a" * 600, max_tokens=16)
        assert "do not fit the 512 of the model" in long[vllm.ERROR]
        assert "the 64 of the model" in self.row(ref, "a" * 100, 64, max_tokens=16)[vllm.ERROR]
        assert vllm.answer_of(long) == Answer(None, long[vllm.ERROR])

    def test_an_answer_says_whether_it_was_cut_off(self, ref: str) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(ref.removeprefix("file:"))
        given = {"key": "k", "generated_text": "abc", "num_input_tokens": 7, "stops": []}
        read = vllm.Answered(vllm.Source(ref, ""))

        def fault(tokens: list[int], most: int, *stops: str) -> str | None:
            line = {"generated_tokens": tokens, "max_tokens": most, "stops": list(stops)}
            return vllm.answer_of(read({**given, **line})).fault

        letters = tokenizer("abc", add_special_tokens=False)["input_ids"]
        assert fault(letters, 4) is None
        assert fault(letters, 3) == "cut off after max_tokens (3)"
        assert fault([*letters, tokenizer.eos_token_id], 4) is None
        assert fault(letters, 3, "bc") is None
        assert vllm.answer_of(read({**given, "generated_tokens": letters, "max_tokens": 4})) == (
            Answer("abc", None, 7, 3)
        )


def test_the_line_that_says_why_vllm_failed_is_found(tmp_path: Path) -> None:
    log = tmp_path / "worker-1.err"
    log.write_text(
        "INFO loading\n(EngineCore pid=7) ERROR 11-21 13:00:00 [core.py:1] Traceback\n"
        "(EngineCore pid=7) ERROR 11-21 13:00:00 [core.py:1] torch.OutOfMemoryError: CUDA out of"
        " memory. Tried to allocate 9 GiB\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    said = (
        "ray.exceptions.ActorDiedError: The actor died, ray::MapWorker.__init__()\n  File x\n"
        "RuntimeError: Engine core initialization failed. See root cause above."
    )
    line = vllm_faults.cause(said, [tmp_path / "gone", log])
    assert line.startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB; set a")
    assert vllm_faults.cause("  ValueError: no such model") == "ValueError: no such model"
    assert vllm_faults.cause("plain words\nof two lines") == "plain words of two lines"
    assert "Engine core" in vllm_faults.cause(said)
