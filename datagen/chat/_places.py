"""Servers behind one list: which one gets the next request, and which ones rest."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from datagen.chat._exchange import Dialect
from datagen.chat.ask import one_line
from datagen.errors import DatagenError

#: Failures one after the other after which a server rests; a quarter of its requests at once where
#: that is more, for of many requests a few fail one after the other by chance.
IN_A_ROW = 3
#: Seconds that a failing server rests at most.
LONGEST = 30.0
_LOOKS = "an address looks like http://host:8000/v1"


@dataclass
class Place:
    """One server. window: requests that it gets at once; load: those it has; failures, rests: those
    since it answered last.
    """

    url: str
    proxy: str | None
    window: float
    load: int = 0
    used: int = 0
    failures: int = 0
    rests: int = 0
    rests_until: float = float("-inf")
    rested: float = float("-inf")
    dialect: Dialect = field(default_factory=Dialect)
    #: It has answered before.
    good: bool = False
    #: The dialects that it has understood.
    proven: set[Dialect] = field(default_factory=set)


def address(text: str) -> str:
    """The address of a server's API: ``http://host:8000`` is taken for ``http://host:8000/v1``.

    Raises DatagenError for what is no address, or holds a password or key.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise DatagenError(f"server: not an address ({error}); {_LOOKS}") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        shown = f"{parts.scheme}://{host or ''}"
        raise DatagenError(
            f"server {shown}: an address holds no password, key or query; name the environment "
            "variable that holds the key"
        )
    plain = text.isascii() and text.isprintable() and " " not in text
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise DatagenError(f"server '{one_line(text)}': {_LOOKS}")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for ``url``; none on this machine itself."""
    parts = urlsplit(url)
    if on_this_machine(url) or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def on_this_machine(url: str) -> bool:
    """Whether ``url`` leads nowhere else."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


class Places:
    """The servers of one worker. All calls come from one event loop.

    most: requests to one server at once; pause: seconds of the first rest.
    """

    def __init__(self, urls: Sequence[str], most: int, pause: float) -> None:
        self.all = [Place(url, proxy_of(url), float(most)) for url in urls]
        self.most = most
        self.pause = pause
        #: When a server answered last, or the first request was made.
        self.answered = time.monotonic()
        self._order = itertools.count(1)
        self._changed = asyncio.Event()

    async def take(self, stopped: Callable[[], bool]) -> Place | None:
        """The least loaded server that does not rest, when there is one; None: it is over."""
        while not stopped():
            now = time.monotonic()
            free = [p for p in self.all if p.rests_until <= now and p.load < p.window]
            if free:
                place = min(free, key=lambda one: (one.load, one.used))
                place.load += 1
                place.used = next(self._order)
                return place
            rests = [p.rests_until - now for p in self.all if p.rests_until > now]
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), min(rests, default=None))
            except TimeoutError:
                continue
        return None

    def give_back(self, place: Place) -> None:
        place.load -= 1
        self._changed.set()

    def wake(self) -> None:
        """Let those who wait for a server look whether it is over."""
        self._changed.set()

    def went_well(self, place: Place) -> None:
        place.failures = place.rests = 0
        place.window = min(self.most, place.window + 1)
        self.answered = time.monotonic()

    def failed(self, place: Place, began: float) -> None:
        """A request that began at ``began`` failed: after several in a row the server rests."""
        if began < place.rested:
            return  # as many as were under way fail together, and are one failure
        place.failures += 1
        if place.failures >= max(IN_A_ROW, place.window / 4):
            place.window = 1
            self._rest(place, self._longer(place.rests))
            place.rests += 1

    def told_to_wait(self, place: Place, began: float, wait: float | None) -> None:
        """The server has too much to do: half as many requests at once, after a rest."""
        if began >= place.rested:
            place.window = max(1.0, place.window / 2)
            place.rests += 1
        self._rest(place, self._longer(place.rests - 1) if wait is None else wait)

    def _longer(self, times: int) -> float:
        return float(min(LONGEST, self.pause * 2 ** min(times, 20)))

    def _rest(self, place: Place, seconds: float) -> None:
        now = time.monotonic()
        # A little more, and never the same, so that workers do not come back all at once.
        until = now + seconds + random.uniform(0, self.pause)
        place.rests_until = max(place.rests_until, until)
        place.rested = now
