"""What answers may cost: counted by hand, across workers and runs."""

from __future__ import annotations

import copy
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import store
from datagen.chat.budget import Budget
from datagen.errors import DatagenError

REQUESTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1)), max_size=30)


@given(REQUESTS, st.integers(0, 400), st.randoms())
def test_no_order_of_requests_goes_over_the_limit(requests, limit, chance) -> None:
    budget, under_way, used = Budget(tokens=limit), [], 0
    for tokens_in, tokens_out, share in requests:
        try:
            while not budget.reserve(tokens_in, tokens_out):
                assert used + sum(map(sum, (r for r, _ in under_way))) <= limit
                reserved, real = under_way.pop(chance.randrange(len(under_way)))
                budget.settle(reserved, real)
                used += sum(real)
        except DatagenError:
            assert not under_way
            assert used + tokens_in + tokens_out > limit
            continue
        real = (tokens_in, int(tokens_out * share))
        under_way.append(((tokens_in, tokens_out), real))
    for reserved, real in under_way:
        budget.settle(reserved, real)
        used += sum(real)
    assert sum(budget.spent) == used <= limit


def test_money_is_counted_by_the_prices_of_a_million() -> None:
    budget = Budget(money=1.0, price_in=2.0, price_out=10.0)
    assert budget.cost(100_000, 50_000) == pytest.approx(0.7)
    assert budget.reserve(100_000, 50_000)
    assert not budget.reserve(100_000, 50_000)
    budget.settle((100_000, 50_000), (100_000, 50_000))
    with pytest.raises(DatagenError, match=r"budget of 1\.00 of money is used up: 0\.70 spent"):
        budget.reserve(100_000, 50_000)
    assert budget.reserve(100_000, 10_000)


def test_a_limit_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(DatagenError, match="prices"):
        Budget(money=3.0)
    with pytest.raises(DatagenError, match="not negative"):
        Budget(tokens=-1)


def test_without_limits_everything_is_counted_and_nothing_stopped() -> None:
    budget = Budget()
    assert budget.reserve(1 << 40, 1 << 40)
    budget.settle((1 << 40, 1 << 40), (7, 8))
    assert budget.spent == (7, 8)


@pytest.mark.parametrize("kind", ["disk", "object store"])
def test_workers_and_later_runs_count_what_the_others_spent(tmp_path: Path, kind: str) -> None:
    folder = str(tmp_path / "spent") if kind == "disk" else f"memory://{tmp_path.name}"
    first = Budget(tokens=100, folder=folder)
    second = copy.copy(first)
    assert first.reserve(20, 30)
    first.settle((20, 30), (20, 25))
    first.sync()
    first.sync()
    assert second.spent == (0, 0)
    second.sync()
    assert second.spent == (20, 25)
    assert second.reserve(20, 30)
    second.settle((20, 30), (20, 30))
    second.sync()
    later = Budget(tokens=100, folder=folder)
    later.sync()
    assert later.spent == (40, 55)
    with pytest.raises(DatagenError, match="100 tokens is used up: 95 spent"):
        later.reserve(5, 5)


def test_what_was_spent_last_is_what_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(tokens=100, folder=str(tmp_path))
    write, slow = store.write_json, threading.Event()

    def written(path: str, value: Any) -> None:
        if not slow.is_set():
            slow.set()
            time.sleep(0.2)
        write(path, value)

    monkeypatch.setattr(store, "write_json", written)
    budget.reserve(20, 30)
    budget.settle((20, 30), (1, 1))
    first = threading.Thread(target=budget.sync)
    first.start()
    slow.wait()
    budget.reserve(20, 30)
    budget.settle((20, 30), (20, 30))
    budget.sync()
    first.join()
    later = Budget(tokens=100, folder=str(tmp_path))
    later.sync()
    assert later.spent == (21, 31)


def test_files_of_others_in_the_folder_are_no_spending(tmp_path: Path) -> None:
    (tmp_path / "spent-1.json").write_text('{"tokens_in": -5, "tokens_out": 2}')
    (tmp_path / "spent-2.json").write_text("half")
    (tmp_path / "spent-3.json").write_text("[1]")
    (tmp_path / "spent-4.json").write_text('{"tokens_in": 5, "tokens_out": 2}')
    (tmp_path / "other.json").write_text('{"tokens_in": 5, "tokens_out": 2}')
    budget = Budget(tokens=100, folder=str(tmp_path))
    budget.sync()
    assert budget.spent == (5, 2)
