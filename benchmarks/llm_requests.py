"""Requests a second that reach a chat server through `text: llm`, against clients without it.

    python benchmarks/llm_requests.py [--pairs 3000] [--concurrency 32 128] [--latency 0.05]
        [--rounds 3] [--peer PYTHON]

The server, in a process of its own, answers every request after a fixed time, and tells how long
it took from the first request to the last answer: start-up counts for nobody. It also tells how
many requests were open at once, and whether the messages were those of the others. The step is a
run of its own (`datagen run` in a process, with Ray), which renders prompts, keeps every answer on
disk and checks it. Bare is an aiohttp client in a process that posts the very same bodies, made
before, with as many requests at once, and looks at nothing. ``--peer`` names an interpreter that
has ``openai`` (its asynchronous client, under a semaphore) or ``distilabel[openai]`` (a pipeline of
ChatGeneration in four processes, whose batches together are the requests at once: each sends a
batch at a time); what it lacks is left out. Contenders take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Processes of distilabel.
REPLICAS = 4
ANSWER = json.dumps({"modifications": ["make it blue", "a blue one"]})


class Seen:
    """The requests of one client."""

    def __init__(self) -> None:
        self.first = self.last = self.at = self.area = 0.0
        self.open = self.most = self.count = 0
        self.bodies: list[bytes] = []

    def opened(self) -> None:
        self._changed(1)
        self.first = self.first or self.at

    def answered(self) -> None:
        self._changed(-1)
        self.last = self.at
        self.count += 1

    def _changed(self, by: int) -> None:
        now = time.monotonic()
        self.area += self.open * (now - self.at)
        self.at = now
        self.open += by
        self.most = max(self.most, self.open)

    def told(self) -> dict[str, Any]:
        """Requests, seconds, how many were open at most and in the mean, what they said."""
        said = sorted(json.dumps(json.loads(body)["messages"]) for body in self.bodies)
        seconds = self.last - self.first
        return {
            "count": self.count,
            "seconds": seconds,
            "most": self.most,
            "mean": self.area / seconds,
            "messages": hashlib.sha256("\n".join(said).encode()).hexdigest(),
        }


def serve(latency: float) -> None:
    """Answer on a free port until killed; GET /seen tells of the requests since the last."""
    from aiohttp import web

    body = json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "tiny",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": ANSWER},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
    ).encode()
    seen = Seen()

    async def answer(request: web.Request) -> web.Response:
        seen.opened()
        seen.bodies.append(await request.read())
        await asyncio.sleep(latency)
        seen.answered()
        return web.Response(body=body, content_type="application/json")

    async def told(request: web.Request) -> web.Response:
        nonlocal seen
        last, seen = seen, Seen()
        return web.json_response(last.told())

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny"}]})

    async def run() -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", answer)
        app.router.add_get("/v1/models", models)
        app.router.add_get("/seen", told)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


def bodies(folder: str) -> list[dict[str, Any]]:
    """What the step sends, one body a line."""
    with open(f"{folder}/bodies.jsonl") as file:
        return [json.loads(line) for line in file]


def bare(url: str, folder: str, concurrency: int) -> None:
    """As many workers as requests at once, each of which posts and reads."""
    import aiohttp

    async def run() -> None:
        numbers = iter([json.dumps(body).encode() for body in bodies(folder)])
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def work() -> None:
                for data in numbers:
                    headers = {"Content-Type": "application/json"}
                    address = f"{url}/v1/chat/completions"
                    async with session.post(address, data=data, headers=headers) as reply:
                        await reply.read()

            await asyncio.gather(*(work() for _ in range(concurrency)))

    asyncio.run(run())


def by_openai(url: str, folder: str, concurrency: int) -> None:
    """The asynchronous client of the ``openai`` package, under a semaphore."""
    import openai

    async def run() -> None:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
        free = asyncio.Semaphore(concurrency)

        async def ask(body: dict[str, Any]) -> None:
            async with free:
                await client.chat.completions.create(**body)

        await asyncio.gather(*(ask(body) for body in bodies(folder)))

    asyncio.run(run())


def by_distilabel(url: str, folder: str, concurrency: int) -> None:
    """A pipeline of ChatGeneration; batches of its processes hold the requests at once between
    them.
    """
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts, StepResources
    from distilabel.steps.tasks import ChatGeneration

    rows = [{"messages": body["messages"]} for body in bodies(folder)]
    with Pipeline(cache_dir=f"{folder}/distilabel-{time.time_ns()}") as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=len(rows))
        llm = OpenAILLM(
            model="tiny",
            base_url=f"{url}/v1",
            api_key="none",
            generation_kwargs={"max_new_tokens": 512, "temperature": 0.7},
        )
        # Of 1, 2 and 4 processes that share the requests these were the fastest.
        share = StepResources(replicas=REPLICAS)
        load >> ChatGeneration(llm=llm, input_batch_size=concurrency // REPLICAS, resources=share)
    made = pipeline.run(use_cache=False)["default"]["train"]
    assert made["generation"] == [ANSWER] * len(rows)


def step(url: str, folder: str, concurrency: int) -> None:
    """The step in a run."""
    from datagen import runs

    with tempfile.TemporaryDirectory() as scratch:
        engine = {"kind": "server", "url": url, "model": "tiny", "concurrency": concurrency}
        engine["cache"] = f"{scratch}/answers"
        made = runs.run(
            {
                "name": "requests",
                "source": {"type": "captions", "path": f"{folder}/captions.txt"},
                "steps": [
                    {"pair": {"op": "one_word_diff"}},
                    {"text": {"op": "llm", "engine": engine}},
                ],
            },
            f"{scratch}/run",
            cpus=2,
            report=False,
        )
        assert made.triplets, made


CLIENTS = {"bare": bare, "step": step, "openai": by_openai, "distilabel": by_distilabel}


def collection(folder: str, pairs: int) -> None:
    """Captions of which each is a word apart from one other, and what the step asks of them."""
    from datagen.chat._exchange import Dialect
    from datagen.chat.subject import Subject
    from datagen.texts.llm import Llm

    captions = []
    for number in range(pairs):
        name = "".join(chr(97 + number // 2 // 26**place % 26) for place in range(4))
        captions.append(f"a {('red', 'blue')[number % 2]} kite named {name} above bay {name}")
    with open(f"{folder}/captions.txt", "w") as file:
        file.write("\n".join(captions) + "\n")
    described = {"kind": "server", "url": "http://127.0.0.1:1", "model": "tiny"}
    operator = Llm(Llm.Settings(engine=described))
    with open(f"{folder}/bodies.jsonl", "w") as file:
        for number, reference in enumerate(captions):
            subject = Subject(reference, captions[number ^ 1])
            asked = operator.ask(operator.main, subject, operator.wanted, str(number), 0)
            file.write(json.dumps(Dialect().payload(asked, "tiny")) + "\n")


@contextmanager
def server(latency: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    line = [sys.executable, __file__, "--serve", str(latency)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def seen_of(
    python: str, client: str, url: str, folder: str, concurrency: int
) -> dict[str, Any] | None:
    """What the server saw of a client; None where it is not installed there."""
    line = [python, __file__, "--client", client, url, folder, str(concurrency)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        if f"No module named '{client}'" in done.stderr:
            return None
        raise SystemExit(f"{client}: {done.stderr[-2000:]}")
    with urllib.request.urlopen(f"{url}/seen") as reply:
        told: dict[str, Any] = json.load(reply)
    return told


def spread(values: list[float], form: str) -> str:
    """The median, the least and the most."""
    least, most = (format(one, form) for one in (min(values), max(values)))
    return f"{statistics.median(values):{form}} ({least} to {most})"


def compare(chosen: argparse.Namespace, url: str, folder: str, concurrency: int) -> None:
    """Print a row for every client that is installed."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CLIENTS}
    for _ in range(chosen.rounds):
        for name in CLIENTS:
            python = sys.executable if name in ("bare", "step") else chosen.peer
            told = seen_of(python, name, url, folder, concurrency)
            if told is not None:
                found[name].append(told | {"rate": told["count"] / told["seconds"]})
    bare = found["bare"]
    for name, rounds in found.items():
        for told in rounds:
            for what in ("count", "messages"):
                assert told[what] == bare[0][what], (name, told, bare[0])
            assert told["most"] <= concurrency, (name, told)
        if not rounds:
            continue
        rates = spread([one["rate"] for one in rounds], ",.0f")
        mean = statistics.median(one["mean"] for one in rounds)
        most = max(one["most"] for one in rounds)
        ratios = [one["rate"] / other["rate"] for one, other in zip(rounds, bare, strict=True)]
        cells = [concurrency, name, rates, f"{mean:.0f}", most, spread(ratios, ".2f")]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Measure, and print the table of docs/PERFORMANCE.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve is not None:
        return serve(chosen.serve)
    if chosen.client:
        name, url, folder, concurrency = chosen.client
        return CLIENTS[name](url, folder, int(concurrency))
    print("| requests at once | client | 1/s | open, mean | open, most | of bare |")
    print("|---:|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder, server(chosen.latency) as url:
        collection(folder, chosen.pairs)
        for concurrency in chosen.concurrency:
            compare(chosen, url, folder, concurrency)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
