"""What answers may cost: tokens, money, and a clean stop before more is spent.

Every worker counts what its servers report and writes it to a file of its own in a common folder;
it reads the files of the others every :data:`EVERY` seconds. One worker alone never goes over the
limit by more than servers count otherwise than :func:`~datagen.chat.ask.size_in_tokens` guesses:
what is under way is reserved at its most. Several workers may together go over by what they all
spend within :data:`EVERY` seconds. Without a folder each worker has the whole limit to itself, and
the next run counts from zero. Requests that were sent, but whose answer never came, are in no
count: only the server knows of them.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import Any

from datagen import store
from datagen.errors import DatagenError

#: Seconds between two looks at what other workers spent.
EVERY = 2.0
MILLION = 1_000_000


class Budget:
    """tokens: most tokens, in and out together. money: most money, in the currency of the prices.
    price_in, price_out: of a million tokens. folder: where workers and later runs of the same
    budget leave what they spent (any path of datagen.store). None: no limit.

    Raises DatagenError for a limit of money without prices.
    """

    def __init__(
        self,
        tokens: int | None = None,
        money: float | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
        folder: str | None = None,
    ) -> None:
        if min(tokens or 0, money or 0, price_in, price_out) < 0:
            raise DatagenError("budget: limits and prices are not negative")
        if money is not None and not price_in + price_out:
            raise DatagenError("budget: money needs prices (of a million tokens, in and out)")
        self.tokens = tokens
        self.money = money
        self.prices = (price_in, price_out)
        self.folder = folder
        self._name = f"spent-{uuid.uuid4().hex}.json"
        self._own = (0, 0)
        self._others = (0, 0)
        self._reserved = (0, 0)
        self._under_way = 0
        self._written = (0, 0)
        self._lock = threading.Lock()
        self._syncing = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        limits = ("tokens", "money", "prices", "folder")
        return {name: getattr(self, name) for name in limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        prices = state["prices"]
        self.__init__(state["tokens"], state["money"], *prices, state["folder"])  # type: ignore[misc]

    @property
    def spent(self) -> tuple[int, int]:
        """Tokens in and out that all workers and earlier runs spent, as far as is known here."""
        return self._own[0] + self._others[0], self._own[1] + self._others[1]

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Money for so many tokens."""
        return (tokens_in * self.prices[0] + tokens_out * self.prices[1]) / MILLION

    def reserve(self, tokens_in: int, tokens_out: int) -> bool:
        """Set aside what one request may take; False where it must wait for others to end.

        Raises DatagenError where nothing is under way here and it still does not fit.
        """
        with self._lock:
            wanted = [
                spent + reserved + more
                for spent, reserved, more in zip(
                    self.spent, self._reserved, (tokens_in, tokens_out), strict=True
                )
            ]
            over = self.tokens is not None and sum(wanted) > self.tokens
            over |= self.money is not None and self.cost(*wanted) > self.money
            if over and not self._under_way:
                raise DatagenError(self._used_up(tokens_in, tokens_out))
            if not over:
                self._under_way += 1
                self._reserved = _plus(self._reserved, (tokens_in, tokens_out))
            return not over

    def settle(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """A request ended: what it really took, in place of what was set aside."""
        with self._lock:
            self._under_way -= 1
            self._reserved = _plus(self._reserved, (-reserved[0], -reserved[1]))
            self._own = _plus(self._own, used)

    def sync(self) -> None:
        """Write what this worker spent, and read what the others did."""
        if self.folder is None:
            return
        # One at a time, or what was read first could be written last.
        with self._syncing:
            self._sync(self.folder)

    def _sync(self, folder: str) -> None:
        own = self._own
        if own != self._written:
            path = store.join(folder, self._name)
            store.write_json(path, {"tokens_in": own[0], "tokens_out": own[1]})
            self._written = own
        others = (0, 0)
        for name in store.names(folder):
            if name.startswith("spent-") and name != self._name:
                others = _plus(others, _read(store.join(folder, name)))
        self._others = others

    def _used_up(self, tokens_in: int, tokens_out: int) -> str:
        spent = self.spent
        if self.tokens is not None and sum(spent) + tokens_in + tokens_out > self.tokens:
            limit, used = f"{self.tokens:,} tokens", f"{sum(spent):,}"
            more = f"{tokens_in + tokens_out:,}"
        else:
            limit, used = f"{self.money:,.2f} of money", f"{self.cost(*spent):,.2f}"
            more = f"{self.cost(tokens_in, tokens_out):,.4f}"
        return (
            f"the budget of {limit} is used up: {used} spent, and the next request may take "
            f"{more}; raise it and run the same command again, what was answered is kept"
        )


def _plus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return a[0] + b[0], a[1] + b[1]


def _read(path: str) -> tuple[int, int]:
    """What one worker spent; nothing for a file that went away or is not ours."""
    with contextlib.suppress(FileNotFoundError, DatagenError):
        found = store.read_json(path)
        found = found if isinstance(found, dict) else {}
        given = [found.get(name) for name in ("tokens_in", "tokens_out")]
        counts = [count for count in given if isinstance(count, int) and count >= 0]
        if len(counts) == 2:
            return counts[0], counts[1]
    return 0, 0
