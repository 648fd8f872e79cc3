"""Kept answers: many writers, damage anywhere, SIGKILL at any time, nothing asked twice."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.chat import _lines
from datagen.chat import cache as cache_module
from datagen.chat.ask import Answer, Ask, Each
from datagen.chat.cache import Cache, Cached, default_folder
from datagen.errors import DatagenError

TEXTS = st.text(max_size=40)
ANSWERS = st.builds(
    Answer, TEXTS, st.none() | TEXTS, st.integers(0, 1 << 40), st.integers(0, 1 << 40)
)


def ask(text: str, **more: Any) -> Ask:
    return Ask(({"role": "user", "content": text},), **more)


def key(number: int) -> str:
    return ask(f"question {number}").key("tiny")


class Counting:
    """An engine that echoes, and remembers what it was asked."""

    model, revision = "tiny", ""

    def __init__(self, fails_at: str = "") -> None:
        self.asked: list[Ask] = []
        self.fails_at = fails_at

    def open(self) -> None: ...
    def close(self) -> None: ...

    def answer(self, asks: Sequence[Ask], each: Each | None = None) -> list[Answer]:
        out = []
        for number, one in enumerate(asks):
            text = one.messages[-1]["content"]
            if text == self.fails_at:
                raise DatagenError("no more")
            self.asked.append(one)
            out.append(Answer(f"answer to {text}", None, 3, 2))
            if each is not None:
                each(number, out[-1])
        return out


# ---------------------------------------------------------------- keys


@given(st.dictionaries(st.sampled_from(["role", "content", "name"]), st.text()), st.text())
def test_the_key_of_an_ask_is_that_of_its_content_alone(message: dict[str, Any], text: str) -> None:
    one = Ask((message,), {"type": "object", "a": 1}, 5, 0.5, 3, ("x",))
    same = Ask((dict(reversed(message.items())),), {"a": 1, "type": "object"}, 5, 0.5, 3, ("x",))
    assert one.key("m", "r") == same.key("m", "r")
    others = [
        replace(one, messages=(message, message)),
        replace(one, schema=None),
        replace(one, max_tokens=6),
        replace(one, temperature=0.6),
        replace(one, seed=None),
        replace(one, stop=("x", "y")),
    ]
    keys = [other.key("m", "r") for other in others]
    keys += [one.key("m", "s"), one.key("n", "r"), one.key("mr", ""), one.key("m", "r")]
    assert len(set(keys)) == len(keys)


def test_lone_surrogates_and_whole_temperatures_have_keys() -> None:
    assert ask("\ud800").key("m") != ask("\ud801").key("m")
    assert ask("x", temperature=1).key("m") == ask("x", temperature=1.0).key("m")


# ---------------------------------------------------------------- files


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), ANSWERS), max_size=20), st.integers(1, 4))
def test_what_was_put_is_found_by_every_reader_as_a_dictionary_says(
    puts: list[tuple[int, Answer]], writers: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        caches = [Cache(folder) for _ in range(writers)]
        for one in caches:
            one.open()
        for turn, (number, answer) in enumerate(puts):
            caches[turn % writers].put(key(number), answer)
        reader = Cache(folder)
        reader.open()
        known: dict[int, list[Answer]] = {}
        for number, answer in puts:
            known.setdefault(number, []).append(replace(answer, cached=True))
        found = reader.get([key(number) for number in range(12)])
        for number in range(12):
            among = found[number] in known[number] if number in known else found[number] is None
            assert among
        assert reader.damaged == 0
        assert len(reader) == len(puts)
        again = Cache(folder)
        again.open()
        assert again.get([key(number) for number in range(12)]) == found
        for one in (*caches, reader, again):
            one.close()


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=12), st.booleans())
def test_damage_anywhere_loses_no_other_line_and_gives_no_wrong_answer(
    place: int, noise: bytes, cut: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = Cache(folder)
        writer.open()
        answers = [Answer(f"text {number}" * 3, None, number, 1) for number in range(8)]
        for number, answer in enumerate(answers):
            writer.put(key(number), answer)
        writer.close()
        (file,) = Path(folder).glob("answers-*.jsonl")
        data = file.read_bytes()
        place %= len(data)
        damaged = data[:place] if cut else data[:place] + noise + data[place + len(noise) :]
        file.write_bytes(damaged)
        ends = [i for i, byte in enumerate(data) if byte == 10]
        reader = Cache(folder)
        reader.open()
        found = reader.get([key(number) for number in range(8)])
        for number, answer in enumerate(answers):
            first = ends[number - 1] + 1 if number else 0
            untouched = data[first : ends[number] + 1] == damaged[first : ends[number] + 1]
            whole = untouched and (first == 0 or damaged[first - 1 : first] == b"\n")
            assert found[number] in ([replace(answer, cached=True)] if whole else [None])
        assert reader.damaged <= len(noise) + 2
        reader.close()


def test_damaged_lines_are_counted_and_the_others_found(tmp_path: Path) -> None:
    writer = Cache(str(tmp_path))
    writer.open()
    for number in range(3):
        writer.put(key(number), Answer(f"text {number}"))
    writer.close()
    (file,) = tmp_path.glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1].replace(b"text", b"lies") + b"\x00\xff\n" + lines[2] * 2)
    (tmp_path / "answers-of-nobody.jsonl").write_bytes(b"half a li")
    (tmp_path / "notes.txt").write_text("not ours")
    reader = Cache(str(tmp_path))
    reader.open()
    texts = [answer and answer.text for answer in reader.get([key(n) for n in range(3)])]
    assert texts == ["text 0", None, "text 2"]
    assert reader.damaged == 2


def test_a_line_that_is_too_long_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Cache(str(tmp_path))
    writer.open()
    writer.put(key(0), Answer("x" * 900))
    writer.put(key(1), Answer("short"))
    writer.close()
    monkeypatch.setattr(_lines, "MOST", 256)
    reader = Cache(str(tmp_path))
    reader.open()
    found = reader.get([key(0), key(1)])
    assert found[0] is None
    assert found[1] is not None
    assert reader.damaged == 1


def test_writers_see_each_other_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Cache(str(tmp_path)), Cache(str(tmp_path))
    first.open()
    second.open()
    first.put(key(0), Answer("a"))
    assert first.get([key(0)])[0] == Answer("a", cached=True)
    monkeypatch.setattr(cache_module, "EVERY", 0)
    assert second.get([key(0)])[0] == Answer("a", cached=True)
    first.put(key(1), Answer("b"))
    assert second.get([key(1)])[0] == Answer("b", cached=True)


def test_threads_of_one_writer_lose_nothing(tmp_path: Path) -> None:
    one = Cache(str(tmp_path))
    one.open()

    def write(start: int) -> None:
        for number in range(start, 400, 4):
            one.put(key(number), Answer(str(number)))
            assert one.get([key(number)])[0] is not None

    threads = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.close()
    one.open()
    found = one.get([key(number) for number in range(400)])
    assert [answer and answer.text for answer in found] == [str(number) for number in range(400)]


def test_answers_without_a_text_are_not_kept(tmp_path: Path) -> None:
    one = Cache(str(tmp_path))
    one.open()
    one.put(key(0), Answer(None, "a fault"))
    one.put(key(1), Answer("half", "cut off"))
    assert one.get([key(0), key(1)]) == [None, Answer("half", "cut off", cached=True)]
    with pytest.raises(ValueError, match="not the key"):
        one.put("../x", Answer("a"))


def test_the_index_stays_right_when_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Cache(str(tmp_path))
    one.open()
    for number in range(50):
        one.put(key(number), Answer(str(number)))
        if number % 7 == 0:
            one._index._merge()
    found = one.get([key(number) for number in range(60)])
    assert [a and a.text for a in found] == [*map(str, range(50)), *[None] * 10]


def test_nobody_else_may_read_the_answers(tmp_path: Path) -> None:
    one = Cache(str(tmp_path / "new" / "answers"))
    one.open()
    one.put(key(0), Answer("private"))
    (file,) = (tmp_path / "new" / "answers").glob("*.jsonl")
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0


def test_a_folder_in_an_object_store_holds_whole_files() -> None:
    folder = "memory://answers-of-a-test"
    one = Cached(Counting(), Cache(folder))
    one.open()
    assert [a.cached for a in one.answer([ask("a"), ask("b")])] == [False, False]
    assert [a.cached for a in one.answer([ask("a"), ask("c")])] == [True, False]
    other = Cached(Counting(), Cache(folder))
    other.open()
    assert all(a.cached for a in other.answer([ask("a"), ask("b"), ask("c")]))
    assert not other.engine.asked
    assert len(fsspec.filesystem("memory").ls("/answers-of-a-test")) == 2


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatagenError, match=r"answers in .*file"):
        Cache(str(tmp_path / "file" / "answers")).open()


def test_the_folder_is_the_users_own_unless_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("DATAGEN_ANSWERS", raising=False)
    assert default_folder() == "~/.cache/datagen/answers"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_folder() == "/caches/datagen/answers"
    monkeypatch.setenv("DATAGEN_ANSWERS", "s3://bucket/answers")
    assert Cache().folder == "s3://bucket/answers"


# ---------------------------------------------------------------- with an engine


def test_equal_asks_are_sent_once_and_each_gets_its_answer(tmp_path: Path) -> None:
    engine, told = Counting(), []
    one = Cached(engine, Cache(str(tmp_path)))
    one.open()
    wanted = [ask("a"), ask("b"), ask("a"), ask("a", seed=1)]
    found = one.answer(wanted, lambda place, answer: told.append((place, answer)))
    assert [answer.text for answer in found] == [f"answer to {c}" for c in "abaa"]
    assert [answer.cached for answer in found] == [False, False, True, False]
    assert len(engine.asked) == 3
    assert sorted(told, key=lambda one: one[0]) == list(enumerate(found))
    assert all(answer.cached for answer in one.answer(wanted))
    assert len(engine.asked) == 3
    one.close()


def test_what_was_answered_before_a_stop_is_not_asked_again(tmp_path: Path) -> None:
    wanted = [ask(letter) for letter in "abcde"]
    stopped = Cached(Counting(fails_at="d"), Cache(str(tmp_path)))
    stopped.open()
    with pytest.raises(DatagenError, match="no more"):
        stopped.answer(wanted)
    engine = Counting()
    resumed = Cached(copy.copy(engine), Cache(str(tmp_path)))
    resumed.open()
    found = resumed.answer(wanted)
    assert [answer.cached for answer in found] == [True, True, True, False, False]
    assert len(resumed.engine.asked) == 2


def test_another_model_revision_or_prompt_asks_again(tmp_path: Path) -> None:
    engine = Counting()
    for model, revision, text in [("a", "", "x"), ("b", "", "x"), ("a", "1", "x"), ("a", "", "y")]:
        one = Cached(engine, Cache(str(tmp_path)), model, revision)
        one.open()
        one.answer([ask(text)])
        one.close()
    assert len(engine.asked) == 4


WORK = """
import sys
from datagen.chat.ask import Ask
from datagen.chat.cache import Cache, Cached
from datagen.chat.server import Servers
url, folder, start, count = sys.argv[1:]
engine = Cached(Servers(url, "tiny", concurrency=8, pause=0.01, retries=20), Cache(folder))
engine.open()
asks = [Ask(({"role": "user", "content": f"question {n}"},)) for n in range(int(count))]
asks = asks[int(start):] + asks[:int(start)]
found = engine.answer(asks)
engine.close()
print(len({answer.text for answer in found}), sum(answer.cached for answer in found))
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def cached_prompts(folder: Path, count: int) -> set[str]:
    """Prompts with a whole line in the folder, read without the code under test."""
    names = {ask(f"question {n}").key("tiny"): f"question {n}" for n in range(count)}
    found = set()
    for file in folder.glob("*.jsonl"):
        for line in file.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                assert json.loads(line.split(b" ", 2)[2])["text"]
                found.add(names[line[:40].decode()])
    return found


def test_two_workers_are_killed_and_no_kept_answer_is_asked_again(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs datagen[llm]")
    from misbehaving import serving

    from datagen.chat.server import Servers

    count = 300
    moods = ["well", "well", "drop", "well", "half", "well", 500]
    with serving(lambda number, payload: moods[number % 7]) as server:
        workers = [start(server.url, tmp_path, first, count) for first in (0, 150)]
        while len(server.answered) < 120:
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.002)
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
        for worker in workers:
            worker.communicate()
        kept = cached_prompts(tmp_path, count)
        before = dict(server.asked)
        assert 80 < len(kept) < count
        second = start(server.url, tmp_path, 0, count)
        assert second.communicate()[0].split() == [str(count), str(len(kept))]
        assert second.returncode == 0
        again = {prompt for prompt, times in server.asked.items() if times > before.get(prompt, 0)}
        assert not again & kept
        assert again == {f"question {n}" for n in range(count)} - kept
        sent = len(server.payloads)
        here = Cached(Servers(server.url, "tiny"), Cache(str(tmp_path)))
        assert all(a.cached for a in here.answer([ask(f"question {n}") for n in range(count)]))
        assert len(server.payloads) == sent


class Crossing(Counting):
    """An engine that several threads may ask; it answers a call's asks out of order and slowly."""

    overlaps = True

    def __init__(self) -> None:
        super().__init__()
        self.busy = self.most = 0
        self.lock = threading.Lock()

    def answer(self, asks: Sequence[Ask], each: Any = None) -> list[Answer]:
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(0.005)
        try:
            out: dict[int, Answer] = {}
            for place in reversed(range(len(asks))):
                text = asks[place].messages[-1]["content"]
                out[place] = Answer(f"answer to {text}", None, 3, 2)
                with self.lock:
                    self.asked.append(asks[place])
                if each is not None:
                    each(place, out[place])
            return [out[place] for place in range(len(asks))]
        finally:
            with self.lock:
                self.busy -= 1


@given(
    st.lists(st.integers(0, 60), max_size=120),
    st.sets(st.integers(0, 60)),
    st.integers(1, 40),
)
def test_parts_that_cross_give_every_ask_its_answer_and_send_none_twice(
    numbers: list[int], kept: set[int], part: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "PART", part)
        patch.setattr(cache_module, "FIRST", 1 + part // 3)
        before = Cached(Counting(), Cache(folder))
        before.answer([ask(str(number)) for number in sorted(kept)])
        before.close()
        engine = Crossing()
        cached = Cached(engine, Cache(folder))
        asks = [ask(str(number)) for number in numbers]
        told: dict[int, Answer] = {}
        answers = cached.answer(asks, told.__setitem__)
        cached.close()
    assert [one.text for one in answers] == [f"answer to {number}" for number in numbers]
    assert sorted(told) == list(range(len(asks)))
    assert [told[place].text for place in range(len(asks))] == [one.text for one in answers]
    new = set(numbers) - kept
    assert len(engine.asked) == len(new)
    assert sum(not one.cached for one in answers) == len(new)
    assert engine.most <= 2


def test_a_part_that_stops_ends_the_others_and_keeps_what_was_answered(tmp_path: Path) -> None:
    class Stops(Crossing):
        def answer(self, asks: Sequence[Ask], each: Any = None) -> list[Answer]:
            if any("150" in str(one.messages) for one in asks):
                raise DatagenError("the budget is spent")
            return super().answer(asks, each)

    engine = Stops()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "PART", 50)
        patch.setattr(cache_module, "FIRST", 50)
        cached = Cached(engine, Cache(str(tmp_path)))
        with pytest.raises(DatagenError, match="budget is spent"):
            cached.answer([ask(str(number)) for number in range(100, 600)])
        cached.close()
    # What another part had under way is paid for; those that had not begun are not sent.
    assert 50 <= len(engine.asked) <= 150
    again = Cached(Counting(), Cache(str(tmp_path)))
    again.answer(engine.asked)
    assert not again.engine.asked
    again.close()
