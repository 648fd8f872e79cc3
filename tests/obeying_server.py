"""A chat server on loopback that understands its prompts, or obeys what captions tell it."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: The two captions of the last turn, as a model would read them.
_PAIR = re.compile(r"^in hand: (.*)\nwanted: (.*)$", re.MULTILINE)


def captions(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """Reference and target as they stand in the last turn. Raises where they cannot be told."""
    ((reference, target),) = _PAIR.findall(messages[-1]["content"])
    return json.loads(reference), json.loads(target)


def sensible(messages: list[dict[str, Any]]) -> str:
    """A right answer that tells which pair it was for."""
    reference, target = captions(messages)
    mark = f"{hash_of(reference)} to {hash_of(target)}"
    return json.dumps({"modifications": [f"turn {mark}", f"show {mark}"]})


def hash_of(text: str) -> str:
    return f"{sum(ord(c) * (i + 1) for i, c in enumerate(text)):x}"


class Server:
    """What was asked, and how to answer: a function of the messages."""

    def __init__(self, answer: Callable[[list[dict[str, Any]]], str]) -> None:
        self.of = answer
        # A function of all that was sent, in place of the messages alone.
        self.of_body: Callable[[dict[str, Any]], str] | None = None
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""


@contextmanager
def running(
    answer: Callable[[list[dict[str, Any]]], str] = sensible, models: tuple[str, ...] = ("tiny",)
) -> Iterator[Server]:
    """A server in threads of this process; its ``url`` ends in /v1."""
    server = Server(answer)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            server.keys.append(self.headers.get("Authorization"))
            self._send({"object": "list", "data": [{"id": name} for name in models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.keys.append(self.headers.get("Authorization"))
            server.bodies.append(body)
            answer = server.of_body(body) if server.of_body else server.of(body["messages"])
            said = {"role": "assistant", "content": answer}
            self._send(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "model": body["model"],
                    "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
                }
            )

        def _send(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    class Threads(http.server.ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    with Threads(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}/v1"
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
