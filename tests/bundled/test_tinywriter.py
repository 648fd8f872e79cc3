"""The language model that lies in the package: it loads everywhere, and does what its card says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from datagen import models

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
transformers = pytest.importorskip("transformers", reason="needs datagen[models]")
pytest.importorskip("jsonschema", reason="needs datagen[llm]")

sys.path.insert(0, str(Path(__file__).parents[1] / "texts"))
from test_llm_hostile import HOSTILE  # noqa: E402

from datagen.bundled import _card, _llama, _pairs, _questions, _writing  # noqa: E402
from datagen.chat import prompts  # noqa: E402
from datagen.chat.ask import Ask  # noqa: E402
from datagen.chat.local import Transformers  # noqa: E402
from datagen.chat.prompts import Wanted  # noqa: E402
from datagen.chat.subject import Change, Subject  # noqa: E402
from datagen.sources.tinyworld import oracle  # noqa: E402
from datagen.sources.tinyworld.captions import parsed  # noqa: E402

NAME = "bundled:tinywriter"
FOLDER = Path(models.parse(NAME).folder)
FACTS: dict[str, Any] = yaml.safe_load((FOLDER / "facts.yaml").read_text())
FIGURES = FACTS["figures"]["0"]
#: Seed of the pairs of this test: neither of training nor of the card.
SEED = 23


@pytest.fixture(scope="module")
def engine() -> Transformers:
    made = Transformers(NAME, device="cpu", precision="fp32", batch_size=64)
    made.open()
    return made


def asks(name: str, subjects: list[Subject], temperature: float = 0.0) -> list[Ask]:
    prompt = prompts.load(name)
    return [
        Ask(prompt.messages(one, Wanted(2)), max_tokens=160, temperature=temperature, seed=at)
        for at, one in enumerate(subjects)
    ]


def test_it_is_listed_and_small() -> None:
    assert "tinywriter" in models.bundled()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8_000_000
    assert max(path.stat().st_size for path in FOLDER.iterdir()) < 8_000_000
    assert not [path.name for path in FOLDER.iterdir() if path.suffix in (".bin", ".pt", ".py")]


@pytest.mark.parametrize("prompt", ["modification", "covr"])
def test_it_writes_two_right_texts_for_pairs_that_it_never_saw(prompt: str) -> None:
    pairs = _writing.drawn("one", 60, SEED)
    written = _writing.written(NAME, pairs, prompt, temperature=0.0)
    found = _writing.judged(pairs, written)
    assert found["invalid"] == 0
    assert found["texts"] >= 110
    for name in ("right", "complete", "minimal"):
        assert found[name] >= FIGURES[prompt]["one"][name] - 0.08
    differ = [t for p, t in zip(pairs, written, strict=True) if p.before != p.after and t]
    assert all(len(set(texts)) == len(texts) for texts in differ)


def test_its_texts_are_right_by_what_captions_say() -> None:
    # As above, but the truth is read out of the captions.
    pairs = _writing.drawn("one", 40, SEED + 1)
    right = total = 0
    for pair, texts in zip(
        pairs, _writing.written(NAME, pairs, "modification", temperature=0.0), strict=True
    ):
        before, after = parsed(pair.reference), parsed(pair.target)
        if before is None or after is None or before == after:
            continue
        for text in texts or []:
            total += 1
            right += oracle.says(text, before, after).right
    assert total > 50
    assert right / total > FIGURES["modification"]["one"]["right"] - 0.1


def test_what_changes_is_told_without_captions() -> None:
    changed = [("red", "blue"), ("ring", "star"), ("two", "three"), ("striped", "plain")]
    subjects = [Subject(changes=(Change(field="caption", removed=a, added=b),)) for a, b in changed]
    engine = Transformers(NAME, device="cpu", precision="fp32")
    for answer, (a, b) in zip(engine.answer(asks("lasco", subjects)), changed, strict=True):
        texts = json.loads(answer.text or "")["modifications"]
        assert texts
        assert all(a in text.split() or f"{a}," in text or b in text for text in texts)
        assert all(b in text.replace(",", "").split() for text in texts)


@pytest.mark.parametrize("prompt", ["modification", "covr", "lasco"])
def test_hostile_captions_get_json(engine: Transformers, prompt: str) -> None:
    world = "on a navy background there is a small plain red star at the top"
    subjects = [
        Subject(a, b, (Change(field=a[:40], removed=a, added=b),))
        for text in HOSTILE
        for a, b in ((text, world), (world, text), (text, text))
    ]
    for temperature in (0.0, 0.7):
        for answer in engine.answer(asks(prompt, subjects, temperature)):
            assert answer.fault is None
            found = json.loads(answer.text or "")
            assert list(found) == ["modifications"]
            assert all(isinstance(text, str) for text in found["modifications"])
            assert "PWNED" not in (answer.text or "")


def test_random_texts_get_json_and_mostly_an_empty_list() -> None:
    pairs = _writing.drawn("strange", 150, SEED)
    found = _writing.judged(pairs, _writing.written(NAME, pairs, "modification"))
    assert found["invalid"] == 0
    assert found["spoke"] <= 0.1


def test_plain_transformers_gives_the_same_greedy_answers(engine: Transformers) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER, padding_side="left")
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    pairs = _writing.drawn("two", 12, SEED)
    asked = asks("modification", [Subject(pair.reference, pair.target) for pair in pairs])
    ours = [answer.text for answer in engine.answer(asked)]
    for ask, text in zip(asked, ours, strict=True):
        told = tokenizer.apply_chat_template(
            list(ask.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            made = model.generate(**told, max_new_tokens=160)
        length = told["input_ids"].shape[1]
        assert tokenizer.decode(made[0, length:], skip_special_tokens=True) == text


def test_its_template_renders_the_last_user_turn_alone(engine: Transformers) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    pair = _writing.drawn("one", 1, SEED)[0]
    messages = list(prompts.load("modification").messages(
        Subject(pair.reference, pair.target), Wanted(2)))  # fmt: skip
    assert len(messages) > 4

    def told(some: list[Any]) -> str:
        return str(tokenizer.apply_chat_template(some, add_generation_prompt=True, tokenize=False))

    whole = told(messages)
    assert whole.replace(_llama.MARK, "") == f"<|asked|>{messages[-1]['content']}<|answer|>"
    assert told(messages[-1:]) == whole
    assert told([{"role": "system", "content": "Answer in French."}, messages[-1]]) == whole
    in_parts = {"role": "user", "content": [{"type": "text", "text": messages[-1]["content"]}]}
    assert told([in_parts]) == whole
    answered = [*messages, {"role": "assistant", "content": "x"}]
    assert told(answered) == f"{whole}x<|end|>"


@pytest.mark.parametrize(
    "piece", ["\U0001f600", "黒", "é", "\u0301", "a", "word ", "x y ", "\\", "<", '"']
)
def test_the_longest_question_gets_json(engine: Transformers, piece: str) -> None:
    for length in (2000, 800, 390, 190):
        text = (piece * length)[:length]
        for name in _questions.PROMPTS:
            change = Change(field=text, removed=text, added=text)
            asked = [
                ask
                for number in (1, 50)
                for ask in asks(name, [Subject(text, text, (change,) * number)], 0.7)
            ]
            for answer in engine.answer(asked):
                assert answer.fault is None
                assert list(json.loads(answer.text or "")) == ["modifications"]


def test_every_question_about_the_world_is_read_whole() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    longest = 0
    for kind in ("two", "any"):
        for pair in _writing.drawn(kind, 150, SEED):
            for name in ("modification", "covr"):
                asked = _questions.asked(name, Subject(pair.reference, pair.target), 4)
                longest = max(longest, len(asked))
                told = tokenizer.apply_chat_template(
                    [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
                )
                assert told.replace(_llama.MARK, "") == f"<|asked|>{asked}<|answer|>"
    assert longest > 500


@pytest.mark.parametrize(
    ("reference", "target", "marked"),
    [
        ("a red star", "a blue star", ("a red^ star", "a blue^ star")),
        ("a red star", "a red star", ("a red star", "a red star")),
        ("a star", "a red star", ("a star", "a red^ star")),
        ("a red star", "a star", ("a red^ star", "a star")),
        ("red", "blue", ("red^", "blue^")),
        ("a red star at the top", "a red ring at the left",
         ("a red star^ at the top^", "a red ring^ at the left^")),
        ("", "a star", ("^", "a^ star^")),
        ('a "red" star', "a star", ('a \\"red\\"^ star', "a star")),
    ],
)  # fmt: skip
def test_its_template_marks_the_words_that_one_caption_alone_has(
    reference: str, target: str, marked: tuple[str, str]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    for name, heads in (("modification", ("in hand", "wanted")), ("covr", ("before", "after"))):
        asked = _questions.asked(name, Subject(reference, target), 2)
        told = tokenizer.apply_chat_template([{"role": "user", "content": asked}], tokenize=False)
        lines = told.removeprefix("<|asked|>").splitlines()
        assert lines[:2] == [f'{head}: "{one}"' for head, one in zip(heads, marked, strict=True)]
        assert lines[2:] == asked.splitlines()[2:]


def test_it_is_a_shape_that_other_engines_take() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] in (32, 64, 128)
    assert config["hidden_size"] == config["head_dim"] * config["num_attention_heads"]
    assert config["vocab_size"] % 64 == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    assert len(tokenizer) <= config["vocab_size"]
    assert "auto_map" not in config
    told = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert told["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_its_words_are_those_of_the_world() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    assert set(_questions.parts()) <= {
        tokenizer.convert_tokens_to_string([token]) for token in tokenizer.get_vocab()
    }
    pair = _pairs.pair("one", _writing.Dice("words", SEED), noisy=False)
    tokens = tokenizer(pair.reference, add_special_tokens=False).input_ids
    assert len(tokens) == len(pair.reference.replace(",", " ,").split())


def test_its_card_tells_the_facts_beside_it() -> None:
    assert (FOLDER / "README.md").read_text() == _card.card("tinywriter.md.j2", FACTS)
