"""Settings of engines: one of several kinds, and the engine that each describes.

What does not change an answer (addresses, keys, how many requests at once, the cache, the budget)
is left out of a step's fingerprint, so that changing it asks nothing again.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from datagen import models
from datagen.chat._places import address
from datagen.chat.ask import Engine
from datagen.errors import DatagenError
from datagen.step import Resources, Settings

if TYPE_CHECKING:
    from datagen.chat.server import Servers

#: Capitals only: keys of several providers look like names in small letters.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def _beside(default: Any, **limits: Any) -> Any:
    """A setting that no answer hangs on: it stays out of fingerprints."""
    return Field(default, exclude=True, **limits)


class _EngineSettings(Settings):
    #: Folder of the answers that are kept; null: that of the user. No two equal asks are sent.
    cache: str | None = _beside(None)

    def blind(self) -> str | None:
        """Why the model can be shown no pictures; None where it can, or nobody knows.

        Raises DatagenError where the model cannot be found.
        """
        return None


class BudgetSettings(Settings):
    """What a step may spend, over all its workers and however often it is stopped.

    tokens: in and out together; money: in the currency of the prices; price_in, price_out: of a
    million tokens. null: no limit.
    """

    tokens: int | None = Field(None, ge=0)
    money: float | None = Field(None, ge=0, allow_inf_nan=False)
    price_in: float = Field(0.0, ge=0, allow_inf_nan=False)
    price_out: float = Field(0.0, ge=0, allow_inf_nan=False)


class ServerSettings(_EngineSettings):
    """A server, or several, that speak the OpenAI chat protocol (vLLM, SGLang, llama.cpp, …)."""

    kind: Literal["server"]
    #: The model, as the server lists it.
    model: str = Field(min_length=1)
    #: What identifies its weights, if you know: answers of another revision are not used.
    revision: str = ""
    #: Address up to /v1, such as http://localhost:8000/v1.
    url: str | None = _beside(None)
    #: Several addresses of servers of the same model; the least busy one is asked.
    urls: tuple[str, ...] = _beside(())
    #: Name of the environment variable that holds the key, on every worker. OPENAI_API_KEY may be
    #: unset, and is sent over https or on this machine only; any other is sent wherever url says.
    key: str = _beside("OPENAI_API_KEY")
    #: Requests at once, of each worker; there is one worker unless resources.workers says more.
    concurrency: int = _beside(32, ge=1, le=4096)
    #: Seconds until a request is given up.
    timeout: float = _beside(120.0, gt=0, allow_inf_nan=False)
    #: How often a request is tried again.
    retries: int = _beside(5, ge=0, le=100)
    #: Stop, to be raised and gone on with: {tokens: …} or {money: …, price_in: …, price_out: …}.
    budget: BudgetSettings | None = _beside(None)

    @field_validator("key")
    @classmethod
    def _name(cls, key: str) -> str:
        if not _VARIABLE.fullmatch(key):
            # Not a ValueError: its message would show what was given, which may be the key.
            raise DatagenError(
                "engine.key: the name of an environment variable in capitals expected, such as "
                "OPENAI_API_KEY; a key itself never stands in a recipe"
            )
        return key

    @model_validator(mode="after")
    def _addresses(self) -> ServerSettings:
        if (self.url is None) == (not self.urls):
            raise ValueError("url or urls expected, one of them")
        for url in self.addresses():
            # It raises DatagenError, which repeats no password that stands in an address.
            address(url)
        return self

    def addresses(self) -> tuple[str, ...]:
        """The addresses of all servers."""
        return self.urls if self.url is None else (self.url,)

    def resources(self) -> Resources:
        """One worker that waits for servers; a batch keeps all its requests busy."""
        return Resources(workers=1, batch_size=min(1024, 8 * self.concurrency), actor=True)

    def absent(self) -> Iterator[str]:
        """Libraries that are missing, one line each."""
        yield from _absent(("aiohttp", "llm"), ("tenacity", "llm"))

    def reach(self) -> Iterator[str]:
        """Why no server can be asked, one line each."""
        from datagen.chat import reach

        return (f"engine: {fault}" for fault in reach.faults(_servers(self, None)))


class TransformersSettings(_EngineSettings):
    """A model of the transformers library, in the workers themselves; for small models."""

    kind: Literal["transformers"]
    #: ``hf:org/name`` or ``file:/folder``: a causal language model with a chat template, or a
    #: vision-language model with a processor.
    model: str
    #: auto, cpu, cuda, mps.
    device: str = "auto"
    #: auto (bf16 on CUDA, else fp32), fp32, bf16, fp16.
    precision: str = "auto"
    #: Asks of a forward pass.
    batch_size: int = Field(8, ge=1, le=1024)

    def resources(self) -> Resources:
        """A worker for each GPU, or CPU workers."""
        gpus = models.gpus(self.device)
        return Resources(gpus=gpus, batch_size=8 * self.batch_size, actor=True)

    def absent(self) -> Iterator[str]:
        """Libraries that are missing, one line each."""
        yield from _absent(("torch", "models"), ("transformers", "models"))

    def blind(self) -> str | None:
        from datagen.chat import local_vision

        if local_vision.sees(local_vision.configuration(models.parse(self.model))):
            return None
        return (
            f"model '{self.model}' reads text alone; name a vision-language model, such as "
            "hf:Qwen/Qwen3-VL-8B-Instruct"
        )

    def reach(self) -> Iterator[str]:
        """Nothing lies elsewhere: the model is found with its revision."""
        return iter(())


EngineSettings = Annotated[ServerSettings | TransformersSettings, Field(discriminator="kind")]


def _absent(*modules: tuple[str, str]) -> Iterator[str]:
    for module, extra in modules:
        if importlib.util.find_spec(module) is None:
            yield f"engine: needs '{module}': pip install 'datagen[{extra}]'"


def make(settings: ServerSettings | TransformersSettings, spent: str | None = None) -> Engine:
    """The engine that ``settings`` describe, behind the cache; not opened.

    spent: folder where its workers say what they spent. Raises DatagenError.
    """
    from datagen.chat.cache import Cache, Cached

    if isinstance(settings, ServerSettings):
        engine = _servers(settings, spent)
        return Cached(engine, Cache(settings.cache))
    from datagen.chat.local import Transformers

    local = Transformers(settings.model, settings.device, settings.precision, settings.batch_size)
    return Cached(local, Cache(settings.cache))


def _servers(settings: ServerSettings, spent: str | None) -> Servers:
    from datagen.chat.budget import Budget
    from datagen.chat.server import Servers

    limits = settings.budget
    return Servers(
        settings.addresses(),
        settings.model,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        retries=settings.retries,
        key_env=settings.key,
        revision=settings.revision,
        budget=Budget(**limits.model_dump(), folder=spent) if limits else None,
    )
