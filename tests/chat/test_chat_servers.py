"""The engine of servers against a real server on loopback that misbehaves in every way known."""

from __future__ import annotations

import asyncio
import datetime
import gc
import os
import pickle
import random
import socket
import threading
import time
import zlib
from email.utils import format_datetime
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="needs datagen[llm]")
pytest.importorskip("tenacity", reason="needs datagen[llm]")

from aiohttp import web
from misbehaving import prompt_of, serving

from datagen.chat import _exchange, _places
from datagen.chat.ask import Answer, Ask
from datagen.chat.budget import Budget
from datagen.chat.server import Servers
from datagen.errors import DatagenError

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def ask(text: str, **more: Any) -> Ask:
    return Ask(({"role": "user", "content": text},), **more)


def asks(count: int, **more: Any) -> list[Ask]:
    return [ask(f"question {number}", **more) for number in range(count)]


def servers(*urls: str, **more: Any) -> Servers:
    return Servers(urls, "tiny", **{"pause": 0.01, "timeout": 20.0, "patience": 0.3, **more})


def test_a_thousand_asks_of_a_server_that_fails_at_a_third_of_them_are_all_answered() -> None:
    kinds = ["drop", "half", "cut", "garbage", "wrong", 500, 503, 408, "busy"]
    chance = random.Random(7)

    def mood(number: int, payload: Any) -> Any:
        return chance.choice(kinds) if chance.random() < 0.3 else "well"

    told: list[tuple[int, Answer]] = []
    with serving(mood) as server:
        engine = servers(server.url, retries=20, concurrency=32)
        found = engine.answer(asks(1000), lambda place, answer: told.append((place, answer)))
        engine.close()
    assert [answer.text for answer in found] == [f"answer to question {n}" for n in range(1000)]
    assert not [answer for answer in found if answer.fault or answer.cached]
    assert sorted(place for place, _ in told) == list(range(1000))
    assert all(found[place] == answer for place, answer in told)
    assert set(server.answered.values()) == {1}
    assert 1 < server.most_at_once <= 32


@pytest.mark.parametrize("mood", ["drop", "half", "cut", "garbage", "wrong", 500, 503, 408])
def test_what_never_passes_is_a_fault_after_the_last_try_and_others_are_answered(mood: Any) -> None:
    def bad(number: int, payload: Any) -> Any:
        return mood if prompt_of(payload) == "question 3" else "well"

    with serving(bad) as server:
        engine = servers(server.url, retries=2)
        found = engine.answer(asks(6))
        engine.close()
    assert [answer.fault is not None for answer in found] == [n == 3 for n in range(6)]
    assert found[3].text is None
    assert "tried 3 times" in found[3].fault
    assert "\n" not in found[3].fault
    assert server.asked["question 3"] == 3


def test_a_slow_server_is_given_up_and_asked_again() -> None:
    with serving(lambda number, payload: "slow" if number == 0 else "well") as server:
        engine = servers(server.url, timeout=0.5)
        (found,) = engine.answer(asks(1))
        engine.close()
    assert found.text == "answer to question 0"
    assert server.asked["question 0"] == 2


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_what_the_server_refuses_is_a_fault_with_its_words_and_not_sent_again(status: int) -> None:
    def mood(number: int, payload: Any) -> Any:
        words = {"error": {"message": "too long:\n\x1b[31m 9 tokens"}}
        bad = prompt_of(payload) == "question 1"
        return web.json_response(words, status=status) if bad else "well"

    with serving(mood) as server:
        engine = servers(server.url, concurrency=1)
        found = engine.answer(asks(3))
        engine.close()
    assert found[1].text is None
    assert found[1].fault == f"server {server.url}: {status}, too long: [31m 9 tokens"
    assert [found[0].text, found[2].text] == ["answer to question 0", "answer to question 2"]
    assert server.asked["question 1"] == 1


@pytest.mark.parametrize(("status", "words"), [(401, "key"), (402, "money"), (404, "model")])
def test_what_no_ask_survives_stops_in_one_line(status: int, words: str) -> None:
    with serving(lambda number, payload: status) as server:
        engine = servers(server.url, concurrency=4)
        with pytest.raises(DatagenError, match=rf"{status}, .*{words}") as error:
            engine.answer(asks(100))
        engine.close()
    assert "\n" not in str(error.value)
    assert len(server.payloads) <= 4


def test_a_spent_quota_stops_although_it_is_told_as_too_many_requests() -> None:
    said = {"error": {"message": "check your plan", "code": "insufficient_quota"}}
    with serving(lambda number, payload: web.json_response(said, status=429)) as server:
        engine = servers(server.url, concurrency=2)
        with pytest.raises(DatagenError, match=r"429.*check your plan"):
            engine.answer(asks(9))
        engine.close()


def test_no_server_in_reach_stops_and_says_so() -> None:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        engine = servers(f"http://127.0.0.1:{line.getsockname()[1]}")
        with pytest.raises(DatagenError, match="cannot be reached"):
            engine.answer(asks(3))
        engine.close()


def test_a_server_that_starts_a_little_later_is_waited_for() -> None:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    engine = servers(f"http://127.0.0.1:{port}", patience=60.0, retries=0, concurrency=4)
    found: list[Answer] = []
    waiting = threading.Thread(target=lambda: found.extend(engine.answer(asks(20))))
    waiting.start()
    time.sleep(0.5)
    with serving(port=port):
        waiting.join(60)
    engine.close()
    assert [answer.text for answer in found] == [f"answer to question {n}" for n in range(20)]


def test_an_ask_to_wait_longer_than_anyone_would_stops() -> None:
    reply = {"status": 429, "headers": {"Retry-After": "86400"}}
    with serving(lambda number, payload: web.json_response({}, **reply)) as server:
        engine = servers(server.url)
        with pytest.raises(DatagenError, match="429"):
            engine.answer(asks(1))
        engine.close()
    assert len(server.payloads) == 1


def test_of_two_servers_the_broken_one_rests_and_the_other_answers() -> None:
    with serving(lambda number, payload: 500) as broken, serving() as good:
        engine = servers(broken.url, good.url, pause=0.05, concurrency=8)
        found = engine.answer(asks(200))
        engine.close()
    assert all(answer.text for answer in found)
    assert len(good.payloads) == 200
    assert len(broken.payloads) < 60


def test_many_requests_of_which_a_third_fails_by_chance_give_a_server_no_rest() -> None:
    places = _places.Places(["http://host/v1"], 64, 0.5)
    (place,) = places.all
    chance = random.Random(3)
    for _ in range(5000):
        if chance.random() < 0.3:
            places.failed(place, time.monotonic())
        else:
            places.went_well(place)
    assert (place.window, place.rests) == (64, 0)
    for _ in range(64):
        places.failed(place, 0.0)  # all that were under way when it went down
    assert (place.window, place.rests) == (1, 1)
    places.failed(place, place.rested + 1)
    assert (place.window, place.rests) == (1, 2)
    places.went_well(place)
    assert place.failures == place.rests == 0


def test_asks_to_wait_that_come_together_halve_the_requests_once() -> None:
    places = _places.Places(["http://host/v1"], 64, 0.5)
    (place,) = places.all
    began = time.monotonic()
    for _ in range(64):
        places.told_to_wait(place, began, None)
    assert (place.window, place.rests) == (32, 1)
    assert place.rests_until - place.rested < 2


def test_requests_are_shared_out_among_good_servers() -> None:
    with serving() as first, serving() as second:
        engine = servers(first.url, second.url, concurrency=8)
        engine.answer(asks(200))
        engine.close()
    assert len(first.payloads) + len(second.payloads) == 200
    assert min(len(first.payloads), len(second.payloads)) > 60


def test_a_schema_is_sent_and_left_out_for_a_server_that_refuses_it() -> None:
    def mood(number: int, payload: Any) -> Any:
        return 400 if "response_format" in payload else "well"

    with serving(mood) as picky, serving() as able:
        engine = servers(picky.url, concurrency=1)
        assert all(a.text for a in engine.answer(asks(5, schema=SCHEMA)))
        engine.close()
        engine = servers(able.url, concurrency=1)
        assert all(a.text for a in engine.answer(asks(5, schema=SCHEMA)))
        engine.close()
    assert [("response_format" in sent) for sent in picky.payloads] == [True] + 5 * [False]
    sent = able.payloads[-1]["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"] == SCHEMA
    assert len(able.payloads) == 5


def test_one_refused_ask_does_not_take_the_schema_from_the_others() -> None:
    def mood(number: int, payload: Any) -> Any:
        return 400 if prompt_of(payload) == "question 0" else "well"

    with serving(mood) as server:
        engine = servers(server.url, concurrency=1)
        found = engine.answer(asks(3, schema=SCHEMA))
        engine.close()
    assert [answer.fault is not None for answer in found] == [True, False, False]
    assert server.asked["question 0"] == 2
    assert "response_format" in server.payloads[-1]


def test_servers_with_other_names_for_settings_are_understood() -> None:
    def mood(number: int, payload: Any) -> Any:
        if "max_tokens" in payload:
            said = "Unsupported parameter: use 'max_completion_tokens' instead."
        elif "seed" in payload:
            said = "extra inputs are not permitted: seed"
        else:
            return "well"
        return web.json_response({"error": {"message": said}}, status=400)

    with serving(mood) as server:
        engine = servers(server.url, concurrency=1)
        found = engine.answer(asks(3, seed=4, max_tokens=7))
        engine.close()
    assert all(answer.text for answer in found)
    assert len(server.payloads) == 5
    assert server.payloads[-1]["max_completion_tokens"] == 7


@pytest.mark.parametrize(
    ("said", "text", "fault"),
    [
        ({"finish_reason": "length", "message": {"content": "half"}}, "half", "cut off after"),
        ({"message": {"content": None, "refusal": "I can't."}}, "I can't.", "refused: I can't"),
        ({"finish_reason": "content_filter", "message": {"content": ""}}, "", "filter"),
        ({"finish_reason": "content_filter", "message": {"content": None}}, "", "filter"),
        ({"finish_reason": "length", "message": {"content": None}}, "", "cut off after"),
        ({"message": {"content": [{"type": "text", "text": "in parts"}]}}, "in parts", None),
    ],
)
def test_unusual_answers_keep_their_text_and_say_what_is_wrong(
    said: dict[str, Any], text: str, fault: str | None
) -> None:
    with serving(lambda number, payload: web.json_response({"choices": [said]})) as server:
        engine = servers(server.url)
        (found,) = engine.answer(asks(1))
        engine.close()
    assert len(server.payloads) == 1
    assert found.text == text
    assert (found.fault is None) if fault is None else (fault in found.fault)
    assert found.tokens_in > 0  # estimated


PACKED = {"body": zlib.compress(b" " * (1 << 20)), "headers": {"Content-Encoding": "deflate"}}


@pytest.mark.parametrize("reply", [{"body": b" " * (1 << 20)}, PACKED], ids=["plain", "packed"])
def test_a_reply_without_end_is_not_read_to_the_end(
    reply: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datagen.chat.server.MOST_BYTES", 1 << 16)
    with serving(lambda number, payload: web.Response(**reply)) as server:
        engine = servers(server.url, retries=0)
        (found,) = engine.answer(asks(1))
        engine.close()
    assert "a reply of more than" in found.fault


# ---------------------------------------------------------------- keys


def test_the_key_is_sent_and_stands_in_no_fault_and_no_pickle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = "sk-secret-0123456789"
    monkeypatch.setenv("MY_KEY", key)
    words = "x" * 290 + f" your key {key} is fine"
    said = {"error": {"message": words}}
    with serving(lambda number, payload: web.json_response(said, status=413)) as server:
        engine = servers(server.url, key_env="MY_KEY")
        (found,) = engine.answer(asks(1))
        assert server.headers[0]["Authorization"] == f"Bearer {key}"
        frozen = pickle.dumps(engine)
        engine.close()
    assert "sk-" not in found.fault
    assert key.encode() not in frozen
    assert b"MY_KEY" in frozen


def test_a_named_key_that_is_not_set_or_broken_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(DatagenError, match="MY_KEY is not set"):
        servers("http://127.0.0.1:9", key_env="MY_KEY").open()
    monkeypatch.setenv("MY_KEY", "two\r\nX-Header: 1")
    with pytest.raises(DatagenError, match="holds characters") as error:
        servers("http://127.0.0.1:9", key_env="MY_KEY").open()
    assert "X-Header" not in str(error.value)


def test_the_usual_key_goes_over_plain_http_to_no_other_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-usual")
    monkeypatch.setenv("NODE_KEY", "sk-named")
    usual, named = servers("http://127.0.0.1:9"), servers("http://node:9", key_env="NODE_KEY")
    usual.open()
    named.open()
    assert usual.headers("https://api.example/v1") == {"Authorization": "Bearer sk-usual"}
    assert usual.headers("http://127.0.0.1:9/v1") == {"Authorization": "Bearer sk-usual"}
    assert usual.headers("http://node:9/v1") == {}
    assert named.headers("http://node:9/v1") == {"Authorization": "Bearer sk-named"}
    usual.close()
    named.close()


def test_a_server_that_leads_elsewhere_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with serving() as other:

        def mood(number: int, payload: Any) -> Any:
            to = f"{other.url}/chat/completions"
            return web.Response(status=307, headers={"Location": to})

        with serving(mood) as server:
            engine = servers(server.url, key_env="MY_KEY")
            with pytest.raises(DatagenError, match="leads on to"):
                engine.answer(asks(3))
            engine.close()
    assert not other.payloads


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/v1/", "http://host:8000/v1"),
        ("https://host/api/v3/chat/completions", "https://host/api/v3"),
        ("http://[::1]:80", "http://[::1]:80/v1"),
    ],
)
def test_addresses_are_taken_as_they_are_meant(given: str, meant: str) -> None:
    assert servers(given).urls == [meant]


@pytest.mark.parametrize(
    "given",
    [
        *("", "host:8000", "ftp://host/v1", "http://", "http://host:99999", "http://ho st/"),
        *("http://[::1/", "http://u:sk-1@host", "http://host?key=sk-1", "http://host/#sk-1"),
    ],
)
def test_addresses_that_are_none_or_hold_keys_are_refused(given: str) -> None:
    with pytest.raises(DatagenError, match="server") as error:
        servers(given)
    assert "sk-1" not in str(error.value)


def test_proxies_of_the_environment_are_used_but_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert _places.proxy_of("https://api.example/v1") is None
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("http_proxy", "http://proxy:3129")
    monkeypatch.setenv("no_proxy", "node7")
    assert _places.proxy_of("https://api.example/v1") == "http://proxy:3128"
    assert _places.proxy_of("http://node8:8000/v1") == "http://proxy:3129"
    assert _places.proxy_of("http://node7:8000/v1") is None
    assert _places.proxy_of("http://127.0.0.1:8000/v1") is None


def test_an_engine_that_is_forgotten_ends_its_thread() -> None:
    before = set(threading.enumerate())
    with serving() as server:
        engine = servers(server.url)
        engine.answer(asks(2))
        (thread,) = [t for t in set(threading.enumerate()) - before if t.name == "datagen-chat"]
        del engine
        gc.collect()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_forked_process_leaves_the_engine_of_its_parent_alone() -> None:
    with serving() as server:
        engine = servers(server.url)
        engine.answer(asks(2))
        child = os.fork()
        if not child:
            # What collects the engine there would wait for a thread that only the parent has.
            waited: list[object] = []
            asyncio.run_coroutine_threadsafe = lambda *given: waited.append(given)  # type: ignore
            engine._end()
            os._exit(len(waited))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert all(answer.text for answer in engine.answer(asks(3)))
        engine.close()


def test_an_engine_can_be_closed_and_opened_again() -> None:
    with serving() as server:
        engine = servers(server.url)
        engine.open()
        engine.close()
        engine.close()
        assert all(answer.text for answer in engine.answer(asks(2)))
        engine.close()


# ---------------------------------------------------------------- waiting, budgets


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    assert 80 < _exchange.seconds_of(format_datetime(soon, usegmt=True)) <= 90
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    assert _exchange.seconds_of(format_datetime(past, usegmt=True)) == 0
    assert _exchange.seconds_of("7") == 7
    assert [_exchange.seconds_of(text) for text in (None, "", "soon", "-3", "nan", "1e9")] == (
        6 * [None]
    )


def test_nobody_is_asked_while_the_server_asks_to_wait() -> None:
    waits = {"status": 429, "headers": {"Retry-After": "1"}}
    times = []

    def mood(number: int, payload: Any) -> Any:
        times.append(time.monotonic())
        return web.json_response({}, **waits) if number == 0 else "well"

    with serving(mood) as server:
        engine = servers(server.url, concurrency=1)
        found = engine.answer(asks(3))
        engine.close()
    assert all(answer.text for answer in found)
    assert times[1] - times[0] >= 0.99


def test_a_budget_stops_before_it_is_overspent_and_goes_on_when_raised(tmp_path: Any) -> None:
    kept: dict[int, Answer] = {}
    folder = str(tmp_path / "spent")
    with serving() as server:
        # 15 tokens a request as the server counts; 3 + 8 + 16 as they are reserved.
        budget = Budget(tokens=300, folder=folder)
        engine = servers(server.url, budget=budget, concurrency=8)
        with pytest.raises(DatagenError, match=r"budget of 300 tokens is used up.*raise it"):
            engine.answer(asks(100, max_tokens=16), kept.__setitem__)
        engine.close()
        assert len(kept) == len(server.payloads)
        assert sum(budget.spent) == 15 * len(kept)
        assert 300 - 27 < sum(budget.spent) <= 300
        raised = Budget(tokens=600, folder=folder)
        engine = servers(server.url, budget=raised, concurrency=8)
        rest = [one for number, one in enumerate(asks(100, max_tokens=16)) if number not in kept]
        with pytest.raises(DatagenError, match="600 tokens"):
            engine.answer(rest)
        engine.close()
    assert sum(raised.spent) <= 600
    assert len(server.payloads) == sum(raised.spent) / 15
