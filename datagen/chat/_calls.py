"""A batch of asks on its way to servers: within the budget, tried again, each in its dialect."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from datagen.chat._exchange import Again, code_of, message_of, parse, seconds_of
from datagen.chat._places import Place, Places
from datagen.chat.ask import Answer, Ask, Each, size_in_tokens
from datagen.chat.budget import EVERY, Budget
from datagen.errors import DatagenError

if TYPE_CHECKING:
    import tenacity

#: 4xx that may pass. 429 is told apart: the server works, and wants fewer requests.
MAY_PASS = (408, 409, 425)
#: 4xx that every other ask would meet as well.
FOR_ALL = {
    401: "the key is refused",
    402: "the account has no money left",
    404: "there is no such model or address",
    405: "this is not the address of an API",
}


class Server(Protocol):
    """What a call needs of the engine whose it is."""

    model: str
    concurrency: int
    retries: int
    budget: Budget | None
    pause: float
    patience: float

    async def request(self, place: Place, payload: Any) -> tuple[int, bytes, str | None]: ...

    def plain(self, text: str) -> str: ...


class Call:
    """One batch of asks on its way."""

    def __init__(
        self, servers: Server, places: Places, asks: Sequence[Ask], each: Each | None
    ) -> None:
        self.servers = servers
        self.places = places
        self.asks = asks
        self.each = each
        self.stop: DatagenError | None = None
        self._settled = asyncio.Event()

    async def all(self) -> list[Answer]:
        out: list[Answer | None] = [None] * len(self.asks)
        numbers = iter(range(len(self.asks)))
        self.places.answered = max(self.places.answered, time.monotonic())

        async def work() -> None:
            for number in numbers:
                try:
                    answer = await self._paid(self.asks[number])
                    if answer is None:
                        return
                    out[number] = answer
                    if self.each is not None:
                        self.each(number, answer)
                except DatagenError as error:
                    # Those that are under way are paid for: they end, and no other one begins.
                    self.stop = self.stop or error
                    self.places.wake()
                    self._settled.set()
                if self.stop is not None:
                    return

        workers = [
            asyncio.ensure_future(work())
            for _ in range(min(self.servers.concurrency, len(self.asks)))
        ]
        syncing = asyncio.ensure_future(self._sync())
        try:
            await asyncio.gather(*workers)
        finally:
            for task in (*workers, syncing):
                task.cancel()
            await asyncio.gather(*workers, syncing, return_exceptions=True)
        if self.stop is not None:
            raise self.stop
        return [answer for answer in out if answer is not None]

    async def _sync(self) -> None:
        """Tell other workers of the same budget what was spent, and hear of theirs."""
        while self.servers.budget is not None:
            await asyncio.sleep(EVERY)
            try:
                await asyncio.to_thread(self.servers.budget.sync)
            except DatagenError as error:
                self.stop = self.stop or error

    async def _paid(self, ask: Ask) -> Answer | None:
        """The answer within the budget; None where the call was stopped before."""
        budget = self.servers.budget
        if budget is None:
            return await self._answer(ask)
        most = (size_in_tokens(ask), ask.max_tokens)
        while not budget.reserve(*most):
            self._settled.clear()
            await self._settled.wait()
            if self.stop is not None:
                return None
        used = (0, 0)
        try:
            answer = await self._answer(ask)
            if answer is not None:
                used = (answer.tokens_in, answer.tokens_out)
            return answer
        finally:
            budget.settle(most, used)
            self._settled.set()

    async def _answer(self, ask: Ask) -> Answer | None:
        """The answer, or the fault after the last try; None where the call was stopped before."""
        try:
            return await self._once(ask)
        except Again as error:
            return await self._again(ask, error)

    async def _again(self, ask: Ask, error: Again) -> Answer | None:
        """The answer of a later try than the first, which ended in ``error``."""
        import tenacity

        tries, ended = _Tries(self), [error]

        async def once() -> Answer | None:
            if ended:
                raise ended.pop()
            return await self._once(ask)

        again: tenacity.AsyncRetrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Again),
            stop=tries.over,
            wait=tries.wait,
            reraise=True,
        )
        try:
            return await again(once)
        except Again as last:
            if self.stop is not None:
                return None
            if last.busy or last.unreachable:
                raise DatagenError(f"{last}; run the same command again when it is there") from None
            return Answer(None, f"{last}, tried {tries.failed} times")

    async def _once(self, ask: Ask) -> Answer | None:
        place = await self.places.take(lambda: self.stop is not None)
        if place is None:
            return None
        began = time.monotonic()
        try:
            answer = await self._spoken(place, ask)
            self.places.went_well(place)
            return answer
        except Again as error:
            if error.busy:
                self.places.told_to_wait(place, began, error.wait)
            else:
                self.places.failed(place, began)
            error.args = (f"server {place.url}: {self.servers.plain(str(error))}",)
            raise
        finally:
            self.places.give_back(place)

    async def _spoken(self, place: Place, ask: Ask) -> Answer:
        """One exchange; where the server refuses the format of the ask, in a simpler one."""
        dialect = place.dialect
        while True:
            payload = dialect.payload(ask, self.servers.model)
            status, body, wait = await self.servers.request(place, payload)
            if status < 300:
                answer = parse(body, ask)
                place.good = True
                if dialect != place.dialect and place.dialect not in place.proven:
                    place.dialect = dialect
                # An ask without a schema or seed proves nothing of those.
                schema = ask.schema is not None or not dialect.schema
                if schema and (ask.seed is not None or not dialect.seed):
                    place.proven.add(dialect)
                return answer
            said = message_of(body)
            if status == 429 and code_of(body) != "insufficient_quota":
                raise Again(f"429, {said}", busy=True, wait=seconds_of(wait))
            if status >= 500 or status in MAY_PASS:
                raise Again(f"{status}, {said}")
            if status in FOR_ALL or status == 429 or (status == 403 and not place.good):
                what = FOR_ALL.get(status, "no more is allowed")
                raise DatagenError(f"server {place.url}: {status}, {what}: {said}")
            simpler = None
            if status in (400, 422):
                simpler = dialect.simpler(ask, said, dialect in place.proven)
            if simpler is None:
                return Answer(None, f"server {place.url}: {status}, {said}")
            dialect = simpler


class _Tries:
    """How often an ask was tried, whether that is enough, and how long to wait."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.failed = 0
        self.unreachable = 0

    def over(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, Again)
        servers = self.call.servers
        if self.call.stop is not None:
            return True
        # Time counts here, not tries: other asks may get through meanwhile.
        silent = time.monotonic() - self.call.places.answered
        if error.unreachable:
            self.unreachable += 1
            return silent > servers.patience
        if error.busy:
            return max(silent, error.wait or 0) > 10 * servers.patience
        self.failed += 1
        return self.failed > servers.retries

    def wait(self, state: tenacity.RetryCallState) -> float:
        doubled: float = self.call.servers.pause * 2 ** min(self.failed + self.unreachable, 20)
        error = state.outcome.exception() if state.outcome else None
        # A server that asks for patience rests already; another one may be free.
        return 0.0 if getattr(error, "busy", False) else random.uniform(0, min(30.0, doubled))
