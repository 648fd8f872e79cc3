"""A real OpenAI-compatible server on loopback that misbehaves as it is told; in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

#: What the server does with a request, by its number and payload: a status, or a word.
Mood = Callable[[int, dict[str, Any]], Any]


def prompt_of(payload: dict[str, Any]) -> str:
    return payload["messages"][-1]["content"]


class Misbehaving:
    """asked: how often each prompt came; answered: how often it was answered well."""

    def __init__(self, mood: Mood) -> None:
        self.mood = mood
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.payloads: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        payload = await request.json()
        number = len(self.payloads)
        self.payloads.append(payload)
        self.headers.append(dict(request.headers))
        self.asked[prompt_of(payload)] += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await asyncio.sleep(0.002)
            return await self.reply(request, payload, self.mood(number, payload))
        finally:
            self.at_once -= 1

    async def reply(self, request: web.Request, payload: Any, mood: Any) -> web.StreamResponse:
        whole = json.dumps(self.answer(payload)).encode()
        if isinstance(mood, web.Response):
            return mood
        if mood == "slow":
            await asyncio.sleep(5)
        if mood == "drop":
            request.transport.close()
            return web.Response()
        if mood == "half":  # announces more than it sends
            reply = web.StreamResponse(headers={"Content-Length": str(len(whole))})
            await reply.prepare(request)
            await reply.write(whole[: len(whole) // 2])
            request.transport.close()
            return reply
        if mood == "cut":
            return web.Response(body=whole[:-9], content_type="application/json")
        if mood == "garbage":
            return web.Response(body=b"\x00\xff<html>busy</html>", content_type="text/html")
        if mood == "wrong":
            return web.json_response({"choices": []})
        if mood == "busy":
            return web.json_response(
                {"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.01"}
            )
        if isinstance(mood, int):
            return web.json_response({"error": {"message": f"error {mood}"}}, status=mood)
        self.answered[prompt_of(payload)] += 1
        return web.Response(body=whole, content_type="application/json")

    def answer(self, payload: dict[str, Any]) -> dict[str, Any]:
        message = {"role": "assistant", "content": f"answer to {prompt_of(payload)}"}
        return {
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }


@contextlib.contextmanager
def serving(mood: Mood = lambda number, payload: "well", port: int = 0) -> Iterator[Misbehaving]:
    """A server on a free port, or on ``port``, until the block ends."""
    server = Misbehaving(mood)
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", server.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
