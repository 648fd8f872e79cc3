"""Asks OpenAI-compatible servers over HTTP: vLLM, SGLang, llama.cpp, Ollama, hosted ones.

Requests run at the same time in an event loop of its own thread; answers come back in the order of
the asks. Of several servers the least loaded one is asked, and one that fails rests for a while.
What may pass (408, 409, 429, 5xx, timeouts, dropped connections, half and garbled replies) is
tried again, after waits that double and are never the same; ``Retry-After`` is kept to. What the
server refuses (other 4xx) is the fault of that ask alone. What no later ask would survive (a
refused key, an unknown model, no server in reach) ends the run in one line, and a later one goes
on from the answers that were kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import weakref
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from datagen.chat._calls import Call
from datagen.chat._exchange import MOST_BYTES, Again
from datagen.chat._places import Place, Places, address, on_this_machine
from datagen.chat.ask import Answer, Ask, Each, one_line
from datagen.chat.budget import Budget
from datagen.errors import DatagenError

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

DEFAULT_KEY = "OPENAI_API_KEY"
#: Name of the threads that the event loops turn in.
THREAD = "datagen-chat"
#: Seconds in which a connection must stand.
CONNECT = 15.0


class Servers:
    """One model behind one or several addresses.

    concurrency: requests under way at once, over all servers, *per worker*. timeout: seconds of
    one request. retries: how often a failed ask is sent again. key_env: the environment variable
    that holds the key. ``OPENAI_API_KEY``, the default, may be unset, and is sent over https or on
    this machine only; any other must be set, and goes to all addresses. revision: what the user
    knows of the weights, part of keys of answers. pause: seconds of the first wait. patience:
    seconds without any answer after which servers that cannot be reached end the run; ten times
    as long for those that ask to wait.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str,
        concurrency: int = 32,
        timeout: float = 120.0,
        retries: int = 5,
        key_env: str = DEFAULT_KEY,
        budget: Budget | None = None,
        revision: str = "",
        pause: float = 0.5,
        patience: float = 120.0,
    ) -> None:
        given = [urls] if isinstance(urls, str) else list(urls)
        self.urls = list(dict.fromkeys(address(url) for url in given))
        if not self.urls or not model:
            raise DatagenError("server: name at least one url, and the model that it serves")
        self.model = model
        self.revision = revision
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.key_env = key_env
        self.budget = budget
        self.pause = pause
        self.patience = patience
        self.named = key_env != DEFAULT_KEY
        self._key = ""
        self._loop: asyncio.AbstractEventLoop | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Settings alone: neither the key nor connections leave this process."""
        closed = {"_key": "", "_loop": None}
        own = ("_session", "places", "_settled", "_end")
        return {k: v for k, v in self.__dict__.items() if k not in own} | closed

    def open(self) -> None:
        """Start the event loop; sends nothing."""
        if self._loop is not None:
            return
        self._key = self._read_key()
        loop = asyncio.new_event_loop()
        threading.Thread(target=_turn, args=(loop,), name=THREAD, daemon=True).start()
        self._loop = loop
        self._run(self._connect())
        self._end = weakref.finalize(self, _shut, loop, self._session, os.getpid())
        if self.budget is not None:
            self.budget.sync()

    def close(self) -> None:
        if self._loop is None:
            return
        self._end()
        self._loop, self._key = None, ""
        if self.budget is not None:
            self.budget.sync()

    @property
    def overlaps(self) -> bool:
        """Whether it may be asked by several threads at once: within a budget one call waits for
        what another one spends.
        """
        return self.budget is None

    def answer(self, asks: Sequence[Ask], each: Each | None = None) -> list[Answer]:
        if self._loop is None:
            self.open()
        try:
            return self._run(Call(self, self.places, asks, each).all())
        finally:
            if self.budget is not None:
                self.budget.sync()

    # ------------------------------------------------------------ the loop and its connections

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _connect(self) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self.timeout, sock_connect=CONNECT),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "datagen"},
        )
        self.places = Places(self.urls, self.concurrency, self.pause)

    def _read_key(self) -> str:
        key = os.environ.get(self.key_env, "").strip()
        if self.named and not key:
            raise DatagenError(
                f"key: the environment variable {self.key_env} is not set, on this machine"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise DatagenError(
                f"key: the environment variable {self.key_env} holds characters that no key has"
            )
        return key

    def headers(self, url: str) -> dict[str, str]:
        """What goes along with a request to ``url``: the key, where it may be sent."""
        safe = self.named or url.startswith("https://") or on_this_machine(url)
        send = self._key and safe
        return {"Authorization": f"Bearer {self._key}"} if send else {}

    def plain(self, text: str) -> str:
        """``text`` without the key."""
        return text.replace(self._key, "***") if self._key else text

    async def request(self, place: Place, payload: Any) -> tuple[int, bytes, str | None]:
        """Post ``payload``: status, body and ``Retry-After`` of the reply.

        Raises Again where no whole reply comes, DatagenError where none can ever come.
        """
        import aiohttp

        sending = self._session.post(
            f"{place.url}/chat/completions",
            data=json.dumps(payload).encode("ascii"),
            headers={"Content-Type": "application/json", **self.headers(place.url)},
            proxy=place.proxy,
            allow_redirects=False,
        )
        try:
            async with sending as reply:
                # Not followed: the key would go where the recipe does not say.
                if reply.status in (301, 302, 303, 307, 308):
                    to = one_line(self.plain(reply.headers.get("Location", "nowhere")))
                    raise DatagenError(f"server {place.url}: leads on to {to}; name that address")
                body = await _body(reply)
                # Before anything is cut: half a key would not be known again.
                body = body.replace(self._key.encode(), b"***") if self._key else body
                return reply.status, body, reply.headers.get("Retry-After")
        except aiohttp.ClientSSLError as error:
            raise DatagenError(f"server {place.url}: {one_line(error)}") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Again(f"cannot be reached ({one_line(error)})", unreachable=True) from error
        except TimeoutError as error:
            raise Again(f"no answer within {self.timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Again(f"a broken reply ({type(error).__name__}: {one_line(error)})") from error


async def _body(reply: aiohttp.ClientResponse) -> bytes:
    """The body of a reply. Raises Again where it is longer than any answer."""
    # A length says nothing of what packed bytes become.
    told = None if "Content-Encoding" in reply.headers else reply.content_length
    if told is not None and told <= MOST_BYTES:
        return await reply.read()
    parts, size = [], 0
    async for part in reply.content.iter_chunked(64 << 10):
        size += len(part)
        if size > MOST_BYTES:
            raise Again(f"a reply of more than {MOST_BYTES >> 20} MiB")
        parts.append(part)
    return b"".join(parts)


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    """Run ``loop`` until it is stopped."""
    loop.run_forever()
    loop.close()


def _shut(loop: asyncio.AbstractEventLoop, session: Any, process: int) -> None:
    """Close connections and end the loop's thread; also when the owner was forgotten.

    Only in the ``process`` that opened them: one that was forked off has no such thread, and would
    wait for it in whatever it was forked off for.
    """
    if os.getpid() != process:
        return

    async def close() -> None:
        try:
            await session.close()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
        finally:
            loop.call_soon(loop.stop)

    with contextlib.suppress(Exception):
        closing = asyncio.run_coroutine_threadsafe(close(), loop)
        # What was forgotten may be found by the loop's own thread, which cannot wait for itself.
        if threading.current_thread().name != THREAD:
            closing.result(10)
