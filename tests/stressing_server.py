"""A chat server in a process of its own, whose answers hang on what is asked, and that misbehaves.

    python tests/stressing_server.py calm|wild PORT

prints its address. It answers a pair the same each time: most are right, some never are JSON, some
only at the second attempt, some see no difference, some are refused. A wild one fails at a third of
all requests in every way known, and has storms in which it asks everyone to wait. Every answer
names what it was for, so that lines of a cache can be told apart. ``/counts`` tells how often each
was sent whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import sys
import time
from collections import Counter
from typing import Any

from aiohttp import web

#: The two captions of the last turn, as a model would read them.
_PAIR = re.compile(r"^in hand: (.*)\nwanted: (.*)$", re.MULTILINE)
#: What becomes of pairs, in shares of a hundred: never_json, late, same, refused; the others well.
SHARES = (("never_json", 2), ("late", 3), ("same", 2), ("refused", 1), ("well", 92))
#: Seconds of an answer, at most; of one that never comes; of a storm.
QUICK, NEVER, STORM = 0.02, 60.0, 0.6


def mark_of(reference: str, target: str) -> str:
    return hashlib.sha256(f"{reference}\n{target}".encode()).hexdigest()[:12]


def fate_of(mark: str) -> str:
    """What the model makes of a pair."""
    place = int(mark[:8], 16) % 100
    for name, share in SHARES:
        if place < share:
            return name
        place -= share
    raise AssertionError


def said_of(mark: str, second: bool) -> str | None:
    """The model's words about a pair at the first or second attempt; None: it is refused."""
    fate = fate_of(mark)
    if fate == "refused":
        return None
    if fate == "never_json" or (fate == "late" and not second):
        return f"I would say {mark}, attempt {1 + second}"
    texts = [] if fate == "same" else [f"turn it {mark}", f"show {mark}"]
    return f"For {mark}, attempt {1 + second}: {json.dumps({'modifications': texts})}"


class Stressing:
    """paid: how often each answer was sent whole; moods: what came of requests."""

    def __init__(self, wild: bool) -> None:
        self.wild = wild
        self.paid: Counter[str] = Counter()
        self.moods: Counter[str] = Counter()
        self.chance = random.Random(11)
        self.storm_until = 0.0
        self.asked = self.at_once = self.most_at_once = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return await self.reply(request, (await request.json())["messages"][-1]["content"])
        finally:
            self.at_once -= 1

    def mood(self) -> str:
        if not self.wild:
            return "well"
        now = time.monotonic()
        if self.asked % 1000 == 0:
            self.storm_until = now + STORM
        if now < self.storm_until:
            return "busy"
        if self.chance.random() < 0.0004:
            return "never"
        kinds = ("drop", "half", "cut", "garbage", "wrong", "error")
        return self.chance.choice(kinds) if self.chance.random() < 0.3 else "well"

    async def reply(self, request: web.Request, asked: str) -> web.StreamResponse:
        mood = self.mood()
        self.moods[mood] += 1
        await asyncio.sleep(self.chance.uniform(0, QUICK))
        ((reference, target),) = _PAIR.findall(asked)
        said = said_of(mark_of(json.loads(reference), json.loads(target)), "refused" in asked)
        whole = json.dumps(_whole(said)).encode()
        if mood == "never":
            await asyncio.sleep(NEVER)
        if mood == "busy":
            until = max(0.05, self.storm_until - time.monotonic())
            headers = {"Retry-After": f"{until:.2f}"}
            return web.json_response({"error": "slow down"}, status=429, headers=headers)
        if mood == "error":
            return web.json_response({"error": "no worker"}, status=self.chance.choice([500, 503]))
        if mood in ("drop", "half"):
            reply = web.StreamResponse(headers={"Content-Length": str(len(whole))})
            if mood == "half":  # announces more than it sends
                await reply.prepare(request)
                await reply.write(whole[: len(whole) // 2])
            assert request.transport is not None
            request.transport.close()
            return reply
        bodies = {"cut": whole[:-9], "garbage": b"\x00\xff<html>busy</html>", "wrong": b"[]"}
        if mood in bodies:
            return web.Response(body=bodies[mood], content_type="application/json")
        if said is None:
            return web.json_response({"error": "too long for this model"}, status=413)
        if request.transport is not None and not request.transport.is_closing():
            self.paid[said] += 1
        return web.Response(body=whole, content_type="application/json")

    async def counts(self, request: web.Request) -> web.Response:
        told = {"asked": self.asked, "moods": self.moods, "total": self.paid.total()}
        told |= {"at_once": self.at_once, "most_at_once": self.most_at_once}
        return web.json_response(told | ({"paid": self.paid} if "paid" in request.query else {}))

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny"}]})


def _whole(said: str | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": said}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


async def main() -> None:
    server = Stressing(sys.argv[1] == "wild")
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    app.router.add_get("/v1/models", server.models)
    app.router.add_get("/counts", server.counts)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[2])).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
