"""What vLLM is given, and what it gives back: engine arguments, prompts, sampling, answers.

Prompts are made of tokens here, as :mod:`datagen.chat.local` makes them, so that a model is told
the same by either engine: no second beginning-of-text token, and no caption that ends a turn.
Nothing here imports Ray.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datagen import libraries, media, models
from datagen.chat import local_vision, pictures
from datagen.chat.ask import Answer, Ask, one_line
from datagen.chat.local import BESIDE, Text
from datagen.chat.local_vision import CONFIG, Unreadable
from datagen.errors import DatagenError, nearest
from datagen.models import ModelRef

if TYPE_CHECKING:
    from datagen.chat.settings import VllmSettings

#: Holds a model to a schema. guidance lets no raw control character into a string, and blanks
#: without end, which small models fall into, are not allowed.
STRUCTURED = {"backend": "guidance", "disable_any_whitespace": True}
#: One blank after each mark, as models write JSON that nothing holds them to.
_MARKS = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
#: Where only one text can follow, a model still chooses the tokens that it is written in: those
#: that guidance would choose are not always the ones that the model knows it by.
_HELD = '%llguidance {"no_forcing": true}\nstart: %json '
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
#: Why vLLM could not answer a row; ray.data.llm passes on rows that have it already.
ERROR = "__inference_error__"


@dataclass(frozen=True)
class Source:
    """Which model vLLM loads. ref: as a recipe names it; weights: its commit, or hash of files;
    limit: tokens of prompt and answer together, None where the model says.
    """

    ref: str
    weights: str
    limit: int | None = None

    @property
    def parsed(self) -> ModelRef:
        return models.parse(self.ref)

    @property
    def place(self) -> str:
        """A folder, or ``org/name``, which each machine fetches for itself."""
        return self.parsed.folder or self.parsed.name

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of vLLM that hold the model to its revision."""
        if self.parsed.folder:
            return {}
        return {"revision": self.weights, "tokenizer_revision": self.weights}


def arguments(settings: VllmSettings, source: Source, gpus: float) -> dict[str, Any]:
    """``vllm.AsyncEngineArgs``. Raises DatagenError for an argument that vLLM does not have."""
    if "structured_outputs_config" in settings.engine:
        raise DatagenError(
            "engine.engine.structured_outputs_config: answers are held to their schema by "
            "guidance, in its own language; leave it out"
        )
    given: dict[str, Any] = {
        "structured_outputs_config": dict(STRUCTURED),
        **source.arguments,
        **settings.engine,
        "tensor_parallel_size": settings.tensor_parallel,
        "dtype": PRECISIONS.get(settings.precision, "auto" if gpus else "float32"),
    }
    if settings.max_model_len is not None:
        given["max_model_len"] = settings.max_model_len
    if not gpus:
        # A seeded ask whose question is read in pieces ends vLLM there: it moves its generator
        # back, and those of CPUs cannot.
        given.setdefault("enable_chunked_prefill", False)
    from vllm import AsyncEngineArgs

    known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    for name in given:
        if name not in known:
            raise DatagenError(f"engine.engine.{name}: no argument of vLLM; {nearest(name, known)}")
    return given


def placement(gpus: float) -> dict[str, Any]:
    """What a copy of the model reserves of Ray; without it ray.data.llm waits for a GPU."""
    if gpus <= 1:
        return {"bundles": [{"CPU": 1.0, **({"GPU": gpus} if gpus else {})}]}
    return {"bundles": [{"CPU": 1.0, "GPU": 1.0}] * int(gpus), "strategy": "PACK"}


def environment() -> dict[str, str]:
    """Of vLLM's processes: nothing is reported to anybody."""
    off = ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")
    return {name: os.environ.get(name, "1") for name in off}


def sampling(ask: Ask) -> dict[str, Any]:
    """``vllm.SamplingParams`` of an ask, as ray.data.llm takes them."""
    held = None
    if ask.schema is not None:
        held = {"grammar": _HELD + json.dumps({**ask.schema, "x-guidance": _MARKS})}
    return {
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": None if ask.seed is None else ask.seed & (1 << 63) - 1,
        "stop": list(ask.stop) or None,
        "structured_outputs": held,
    }


def packed(ask: Ask) -> str:
    """An ask as JSON, for its way to the engine."""
    return json.dumps(
        {
            "messages": list(ask.messages),
            "schema": ask.schema,
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "seed": ask.seed,
            "stop": list(ask.stop),
        }
    )


def unpacked(text: str) -> Ask:
    """The ask that :func:`packed` wrote."""
    found = json.loads(text)
    return Ask(**{**found, "messages": tuple(found["messages"]), "stop": tuple(found["stop"])})


class Plain:
    """Stands in every row that travels through ray.data.llm.

    Arrow cannot hold it, so rows travel as they are: as Arrow structs they would take on each
    other's fields, and blocks with and without a schema could not be joined.
    """


@dataclass(frozen=True)
class Asked:
    """Turns rows of ``key`` and ``ask`` (packed) into what vLLM's stage takes."""

    source: Source

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        ask = unpacked(row["ask"])
        made: dict[str, Any] = {"ask": None, "plain": Plain()}
        made |= {"max_tokens": ask.max_tokens, "stops": list(ask.stop)}
        try:
            reader = _reader(self.source)
            prompt = reader.prompt(ask)
            tokens = prompt.tokens or list(
                reader.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
            )
            limit = self.source.limit or reader.limit
            if len(tokens) + ask.max_tokens > limit:
                raise Unreadable(
                    f"a prompt of {len(tokens):,} tokens and {ask.max_tokens:,} of answer do not "
                    f"fit the {limit:,} of the model"
                )
            if prompt.pictures:
                made["multimodal_data"] = {"image": _pictures(prompt.pictures)}
        except Unreadable as error:
            return {**made, ERROR: str(error)}
        return {**made, "tokenized_prompt": tokens, "sampling_params": sampling(ask)}


@dataclass(frozen=True)
class Answered:
    """Turns what vLLM's stage gives into ``key`` and the parts of an answer."""

    source: Source

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        tokens = [int(one) for one in row["generated_tokens"]]
        whole = len(tokens) < row["max_tokens"] or self._ended(tokens, row["stops"])
        return {
            "key": row["key"],
            "text": row["generated_text"],
            "fault": None if whole else f"cut off after max_tokens ({row['max_tokens']})",
            "tokens_in": int(row["num_input_tokens"]),
            "tokens_out": len(tokens),
        }

    def _ended(self, tokens: list[int], stops: Sequence[str]) -> bool:
        """Whether an answer came to its end with the last token that it may have."""
        reader = _reader(self.source)
        text = reader.tokenizer.decode(tokens) if stops else ""
        return tokens[-1] in reader.ends or any(stop in text for stop in stops)


def answer_of(row: Mapping[str, Any]) -> Answer:
    """The answer in a row of :class:`Answered`; the fault in one that vLLM could not answer."""
    if row.get(ERROR):
        return Answer(None, one_line(row[ERROR]))
    return Answer(row["text"], row["fault"], int(row["tokens_in"]), int(row["tokens_out"]))


class _Reader:
    """The tokenizer, or processor, of a model."""

    def __init__(self, source: Source) -> None:
        ref = source.parsed
        folder = ref.folder or models.snapshot(ref.name, source.weights, (CONFIG,), BESIDE)
        configuration = local_vision.configuration(ModelRef("file", folder))
        with libraries.loading(source.ref, ref.repository):
            libraries.prepare()
            sees = local_vision.sees(configuration)
            self._read: local_vision.Reader = (local_vision.Vision if sees else Text)(folder)
        if not self._read.template:
            raise DatagenError(f"model '{source.ref}': has no chat template; name a chat model")
        self.tokenizer = self._read.tokenizer
        self.prompt = self._read.prompt
        self.ends = _ends(folder, self.tokenizer)
        inner = configuration.get("text_config") or configuration
        self.limit = int(inner.get("max_position_embeddings") or 1 << 40)


@functools.lru_cache(maxsize=2)
def _reader(source: Source) -> _Reader:
    return _Reader(source)


def check(source: Source) -> None:
    """Raise DatagenError where the model cannot be told anything: no files, no chat template."""
    _reader(source)


def _ends(folder: str, tokenizer: Any) -> set[int]:
    """Tokens that end an answer, as the model's own settings and its tokenizer say."""
    from transformers import GenerationConfig

    try:
        named = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except OSError:  # a model without such a file
        named = None
    ends = list(named) if isinstance(named, (list, tuple)) else [named]
    return {int(one) for one in [*ends, tokenizer.eos_token_id] if one is not None}


def _pictures(addresses: tuple[str, ...]) -> list[Any]:
    """RGB pictures. Raises Unreadable."""
    try:
        return [media.decode(pictures.file_of(one)) for one in addresses]
    except (ValueError, media.MediaError) as error:
        raise Unreadable(f"a picture of the ask cannot be read ({one_line(error)})") from error
