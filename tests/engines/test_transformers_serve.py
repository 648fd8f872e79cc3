"""The engine of servers against ``transformers serve``, which knows no schemas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from asks_twice import HELD, plain

from datagen.chat.local import Transformers
from datagen.chat.server import Servers

pytest.importorskip("aiohttp", reason="needs datagen[llm]")


@pytest.fixture(scope="module")
def url(python: str, serving: Callable[..., str]) -> str:
    return serving(str(Path(python).with_name("transformers")), "serve", "--device", "cpu")


def test_its_greedy_answers_are_those_of_the_library(url: str, model: Path) -> None:
    engine = Servers(url, str(model), concurrency=4)
    local = Transformers(f"file:{model}", device="cpu")
    many = [plain(f"question {number}", 16) for number in range(12)]
    # What it ignores does no harm.
    many.append(plain("question with a schema", 16, schema=HELD))
    try:
        assert [one.text for one in engine.answer(many)] == [one.text for one in local.answer(many)]
    finally:
        engine.close()
        local.close()
