"""How bundled:tinywriter is made: pairs, texts, tokens, and a training of a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import models

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
pytest.importorskip("transformers", reason="needs datagen[models]")
pytest.importorskip("jsonschema", reason="needs datagen[llm]")

from datagen.bundled import (  # noqa: E402
    _corpus,
    _llama,
    _marks,
    _pairs,
    _questions,
    _requests,
    _scenes,
    _writing,
    train_tinywriter,
)
from datagen.chat import prompts  # noqa: E402
from datagen.sources.tinyworld import oracle  # noqa: E402
from datagen.sources.tinyworld.captions import parsed  # noqa: E402
from datagen.sources.tinyworld.scene import Dice  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _llama.word_tokenizer(_questions.vocabulary(), _questions.parts())


# ---------------------------------------------------------------- pairs and texts


@pytest.mark.parametrize("kind", ["one", "two", "three", "thing", "any", "nothing"])
def test_a_pair_says_what_its_captions_say(kind: str) -> None:
    read = 0
    for at in range(120):
        pair = _pairs.pair(kind, Dice("test", kind, at), noisy=False)
        for text, what in ((pair.reference, pair.before), (pair.target, pair.after)):
            found = parsed(text)
            if found is not None and what is not None:  # nothing was left out of captions
                read += 1
                assert oracle.difference(found, what) == []
    assert read > 180


def test_pairs_differ_in_as_much_as_their_kind_says() -> None:
    for kind, most in (("one", 2), ("two", 4), ("three", 6), ("nothing", 0)):
        for at in range(60):
            pair = _pairs.pair(kind, Dice("apart", kind, at), noisy=False)
            assert pair.before is not None
            assert pair.after is not None
            assert len(oracle.difference(pair.before, pair.after)) <= most


@settings(max_examples=120)
@given(kind=st.sampled_from(list(_pairs.KINDS)), at=st.integers(0, 10**9))
def test_every_text_that_is_learned_is_right(kind: str, at: int) -> None:
    pair = _pairs.pair(kind, Dice("right", at))
    texts = _requests_of(pair, at)
    if pair.before is None or pair.after is None:
        assert texts == []
        return
    for text in texts or []:
        said = oracle.says(text, pair.before, pair.after)
        assert said.right
        assert said.complete
        assert said.minimal
        assert len(text.split()) <= 20
    assert len(set(texts or [])) == len(texts or [])
    if pair.before == pair.after:
        assert texts == []


def whole(pair: _pairs.Pair) -> bool:
    """Whether both captions tell everything."""
    return parsed(pair.reference) is not None and parsed(pair.target) is not None


def _requests_of(pair: _pairs.Pair, at: int) -> list[str] | None:
    return _questions.answers(pair, 3, Dice("texts", at), 20)


def test_pairs_of_training_show_nothing_that_is_held_out_and_figures_do() -> None:
    for at in range(150):
        pair = _pairs.pair("one", Dice("held", at), noisy=False)
        assert pair.before is not None
        assert pair.after is not None
        if whole(pair):
            assert not _scenes.held_out(pair.before)
            assert not _scenes.held_out(pair.after)
    for pair in _writing.drawn("one", 40):
        assert pair.before is not None
        assert pair.after is not None
        if whole(pair):
            assert _scenes.held_out(pair.before) or _scenes.held_out(pair.after)
    assert _writing.SEED not in _scenes.TRAINING_SEEDS


def test_most_pairs_of_one_change_have_several_texts_in_several_wordings() -> None:
    first: set[str] = set()
    several = 0
    for at in range(200):
        pair = _pairs.pair("one", Dice("wordings", at), noisy=False)
        texts = _requests_of(pair, at) or []
        several += len(texts) > 1
        first |= {text.split()[0] for text in texts}
    assert several > 180
    assert len(first) > 20


def test_a_question_is_the_last_turn_of_the_real_prompt() -> None:
    for at in range(40):
        made = _questions.example(Dice("asked", at))
        if made is None or made.prompt == "lasco":
            continue
        subject = _questions.Subject(made.pair.reference, made.pair.target)
        number = int(made.asked.rsplit(" ", 1)[1])
        turns = prompts.load(made.prompt).messages(subject, prompts.Wanted(number))
        assert made.asked == turns[-1]["content"]
        answer = json.loads(made.answer)
        assert prompts.load(made.prompt).shape.fault(answer) is None
        assert len(answer["modifications"]) <= number


# ---------------------------------------------------------------- tokens


@settings(max_examples=200)
@given(st.text())
def test_tokens_give_back_any_text(text: str) -> None:
    made = _llama.word_tokenizer(_questions.vocabulary(), _questions.parts())
    text = text.encode("utf-8", "replace").decode()
    for special in (_llama.PAD, _llama.ASKED, _llama.ANSWER, _llama.END):
        text = text.replace(special, "")
    ids = made(text, add_special_tokens=False).input_ids
    assert made.decode(ids) == text


def test_words_of_the_world_are_one_token_each(tokenizer: Any) -> None:
    letters = set(range(4, 260))
    comma = tokenizer(",", add_special_tokens=False).input_ids
    for at in range(300):
        made = _questions.example(Dice("tokens", at))
        if made is None or made.pair.before is None:
            continue
        for text in (made.pair.reference, made.pair.target, made.answer):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            spelt = set(ids) & letters - set(comma)
            # A word of one letter is that letter.
            assert {tokenizer.decode([one]) for one in spelt} <= {"a"}


# ---------------------------------------------------------------- training


def arguments(folder: Path, steps: int) -> Any:
    return train_tinywriter.arguments(
        ["--out", str(folder / "out"), "--pairs", "300", "--steps", str(steps), "--budget", "900",
         "--width", "64", "--layers", "1", "--heads", "2", "--inner", "64", "--device", "cpu",
         "--processes", "1", "--measured", "1"]
    )  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _corpus.made(7, 300, str(tmp_path_factory.mktemp("pairs")), 1)


def test_questions_are_kept_and_the_same_again(table: Any, tmp_path: Path) -> None:
    again = _corpus.made(7, 300, str(tmp_path), 1)
    assert again.equals(table)
    assert _corpus.made(7, 300, str(tmp_path), 1).equals(table)
    assert _corpus.made(8, 300, str(tmp_path), 1)["asked"].to_pylist() != table["asked"].to_pylist()


def test_batches_hold_every_text_once_and_learn_what_follows(table: Any, tokenizer: Any) -> None:
    asked, answer = table["asked"].to_pylist(), table["answer"].to_pylist()
    texts = train_tinywriter.Texts.of(asked, answer, tokenizer)
    seen = []
    for tokens, labels, is_asked, *_ in texts.batches(np.random.default_rng(0), 900):
        # One text may be longer than a batch should be.
        assert len(tokens) == 1 or tokens.numel() <= 900
        for row, after, question in zip(tokens, labels, is_asked, strict=True):
            length = int((after != -100).sum()) + 1
            assert torch.equal(after[: length - 1], row[1:length])
            learned = after[: length - 1][~question[: length - 1]]
            seen.append(tokenizer.decode(learned))
    assert sorted(seen) == sorted(f"{one}{_llama.END}" for one in answer)


def test_marks_are_the_words_that_differ(table: Any, tokenizer: Any) -> None:
    pairs = [_pairs.pair("one", Dice("marks", at), noisy=False) for at in range(80)]
    checked = 0
    for pair in pairs:
        left, right = pair.reference.split(), pair.target.split()
        if len(left) != len(right):
            continue
        checked += 1
        found = _marks.marks(left, right)
        for before, after, (differs, place) in zip(left, right, found, strict=True):
            if sum(a != b for a, b in zip(left, right, strict=True)) == 1:
                assert differs == (_marks.compared(before) != _marks.compared(after))
                assert left[place] == before
    assert checked > 40
    assert {mark for mark, _ in _marks.marks(["a", "b", "c"], ["x", "y", "z"])} == {_marks.SILENT}


def test_marks_lie_on_the_second_caption(tokenizer: Any) -> None:
    pair = _pairs.Pair("a small red star on the left", "a small blue star on the left")
    asked = _questions.asked("modification", _questions.Subject(pair.reference, pair.target), 2)
    texts = train_tinywriter.Texts.of([asked], ['{"modifications": []}'], tokenizer)
    differs, before, touched, nouns = texts.beside
    words = [tokenizer.decode([token]) for token in texts.tokens]
    assert [word for word, mark in zip(words, differs, strict=True) if mark == 1] == [" blue"]
    assert tokenizer.decode([before[words.index(" blue")]]) == " red"
    assert (differs == 0).sum() == 6
    # From the noun on, it is known that the star differs.
    assert [w for w, mark in zip(words, touched, strict=True) if mark == 1] == [
        " star", " on", " the", " left",
    ]  # fmt: skip
    assert {tokenizer.decode([token]) for token in nouns if token >= 0} == {" star"}


def test_a_training_goes_on_where_it_stopped(
    table: Any, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, answer = table["asked"].to_pylist(), table["answer"].to_pylist()
    texts = train_tinywriter.Texts.of(asked, answer, tokenizer)
    found = []
    for name, stops in (("once", (6,)), ("twice", (3, 6))):
        args = arguments(tmp_path / name, 6)
        Path(args.work).mkdir(parents=True)
        for stop in stops:
            model = _llama.build(tokenizer, 64, 1, 2, 64)
            train_tinywriter.begun(model, 0)
            train_tinywriter.train(model, texts, args, until=stop)
        found.append(model.state_dict())
    assert "goes on from step 3" in capsys.readouterr().out
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-6), name


def test_the_whole_script_writes_a_model_with_its_card(tmp_path: Path) -> None:
    args = arguments(tmp_path, 3)
    train_tinywriter.run(args)
    folder = Path(args.out)
    assert {path.name for path in folder.iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "README.md", "facts.yaml",
    }  # fmt: skip
    assert models.revision(models.parse(f"file:{folder}"))
    assert "| steps | 3, about" in (folder / "README.md").read_text()


def test_wordings_have_no_word_that_the_model_lacks() -> None:
    known = set(_questions.vocabulary())
    for text in _requests.wordings():
        assert {word for word in text.split() if word.isalpha()} <= known
