"""A model of the transformers library, in the worker itself: batched, for small models and for
machines without a server.

Asks of one batch do not see each other: every one is sampled with noise of its own seed (Gumbel
noise on the logits, whose maximum is a draw from the softmax), and prompts are padded on the left.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from datagen import libraries, models
from datagen.chat import local_vision
from datagen.chat.ask import Answer, Ask, Each, said
from datagen.chat.local_vision import Prompt, Unreadable
from datagen.errors import DatagenError
from datagen.models import ModelRef

WEIGHTS = ("*.safetensors", "*.bin")
BESIDE = ("*.json", "*.txt", "*.model", "*.jinja")
#: Prompts are padded to a multiple of this many tokens.
BUCKET = 32


class Transformers:
    """model_ref: ``hf:org/name`` or ``file:/folder``, with a chat template. device: auto, cpu,
    cuda, mps. precision: auto, fp32, bf16, fp16. batch_size: asks of one pass.

    Causal language models, and vision-language models, whose own processor reads what they are
    shown. Schemas are not enforced: the model answers freely. Texts that are special tokens of the
    model are broken up in messages, so that no caption can end a turn or begin one.
    """

    def __init__(
        self,
        model_ref: str,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 8,
    ) -> None:
        self.ref = models.parse(model_ref)
        if self.ref.scheme == "open_clip":
            raise DatagenError(f"model '{self.ref}': a language model is named by hf: or file:")
        libraries.check_choices(device, precision)
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self._weights = ""
        self._model: Any = None

    @property
    def model(self) -> str:
        return str(self.ref)

    @property
    def weights(self) -> str:
        """The commit on the hub, or the hash of the files. Raises DatagenError."""
        if not self._weights:
            # Workers load what was found first, whatever is uploaded meanwhile.
            self._weights = models.revision(self.ref)
        return self._weights

    @property
    def revision(self) -> str:
        """The weights, and the precision that was asked for: another one answers otherwise."""
        return self.weights + (f" {self.precision}" if self.precision != "auto" else "")

    def __getstate__(self) -> dict[str, Any]:
        """Settings alone: the model is loaded where it is used."""
        loaded = ("_model", "_reader", "_at", "_limit", "_ends")
        return {k: v for k, v in self.__dict__.items() if k not in loaded} | {"_model": None}

    def open(self) -> None:
        if self._model is not None:
            return
        name = str(self.ref)
        folder = self.ref.folder or models.snapshot(self.ref.name, self.weights, WEIGHTS, BESIDE)
        sees = local_vision.sees(local_vision.configuration(ModelRef("file", folder)))
        self._at = libraries.device(self.device)
        precision = libraries.precision(self.precision, self._at)
        with libraries.loading(name, self.ref.repository):
            libraries.prepare()
            import torch
            from transformers import AutoModelForCausalLM, GenerationConfig

            kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
            reader: local_vision.Reader = (local_vision.Vision if sees else Text)(folder)
            if not reader.template:
                raise DatagenError(f"model '{name}': has no chat template; name a chat model")
            auto = local_vision.model_class() if sees else AutoModelForCausalLM
            model = auto.from_pretrained(folder, dtype=kinds[precision], local_files_only=True)
            self._model = model.to(self._at).eval()
        self._reader = reader
        self._limit = _limit(model, reader.tokenizer)
        self._ends = _ends(model, reader.tokenizer)
        # Its own habits of sampling (a penalty, a top_p) are not what was asked for.
        model.generation_config = GenerationConfig(eos_token_id=self._ends or None)

    def close(self) -> None:
        self._model = None
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def answer(self, asks: Sequence[Ask], each: Each | None = None) -> list[Answer]:
        self.open()
        out: list[Answer | None] = [None] * len(asks)

        def tell(number: int, answer: Answer) -> None:
            out[number] = answer
            if each is not None:
                each(number, answer)

        prompts: dict[int, Prompt] = {}
        for number, ask in enumerate(asks):
            try:
                prompts[number] = self._reader.prompt(ask)
            except Unreadable as error:
                tell(number, Answer(None, str(error)))
        # Long beside long: little padding, and those that answer much end together.
        order = sorted(prompts, key=lambda n: (*prompts[n].size, asks[n].max_tokens, n))
        for _, alike in itertools.groupby(order, key=lambda n: len(prompts[n].pictures)):
            same = list(alike)
            for start in range(0, len(same), self.batch_size):
                part = same[start : start + self.batch_size]
                found = self._batch([asks[n] for n in part], [prompts[n] for n in part])
                for number, answer in zip(part, found, strict=True):
                    tell(number, answer)
        return [answer for answer in out if answer is not None]

    def _batch(self, asks: list[Ask], prompts: list[Prompt]) -> list[Answer]:
        """Answers of one pass over the model, for those that fit it."""
        try:
            inputs, lengths = self._reader.inputs(prompts, BUCKET)
        except Unreadable as error:
            if len(asks) == 1:
                return [Answer(None, str(error))]
            return [self._batch([a], [p])[0] for a, p in zip(asks, prompts, strict=True)]
        faults = [self._unfit(a, length) for a, length in zip(asks, lengths, strict=True)]
        if any(faults):
            fit = [at for at, fault in enumerate(faults) if fault is None]
            rest = self._batch([asks[at] for at in fit], [prompts[at] for at in fit]) if fit else []
            found = dict(zip(fit, rest, strict=True))
            return [found.get(at) or Answer(None, fault) for at, fault in enumerate(faults)]
        if inputs["input_ids"].shape[1] + max(ask.max_tokens for ask in asks) > self._limit:
            inputs, lengths = self._reader.inputs(prompts, 1)
        width = inputs["input_ids"].shape[1]
        answers = self._made(asks, inputs)[:, width:].tolist()
        return [
            self._read(ask, length, tokens)
            for ask, length, tokens in zip(asks, lengths, answers, strict=True)
        ]

    def _unfit(self, ask: Ask, length: int) -> str | None:
        """Why a prompt of ``length`` tokens is too long; None: it is not."""
        if length + ask.max_tokens <= self._limit:
            return None
        return (
            f"a prompt of {length:,} tokens and {ask.max_tokens:,} of answer do not fit "
            f"the {self._limit:,} of the model"
        )

    def _made(self, asks: list[Ask], inputs: Mapping[str, Any]) -> Any:
        """Tokens of prompts and answers."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        pad = self._reader.tokenizer.pad_token_id
        settings = GenerationConfig(
            max_new_tokens=max(ask.max_tokens for ask in asks),
            do_sample=False,
            pad_token_id=pad if pad is not None else self._ends[0] if self._ends else 0,
            eos_token_id=self._ends or None,
        )
        kind = self._model.dtype
        there = {
            name: value.to(self._at, kind if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }
        ends = _Ends(asks, inputs["input_ids"].shape[1], self._reader.tokenizer)
        with libraries.loading(str(self.ref), self.ref.repository), torch.inference_mode():
            return self._model.generate(
                **there,
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Noise(asks)]),
                stopping_criteria=StoppingCriteriaList([ends]),
            )

    def _read(self, ask: Ask, length: int, tokens: list[int]) -> Answer:
        """The answer in the tokens of one row, up to its own end."""
        ended = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        own = tokens[: min(ask.max_tokens, len(tokens) if ended is None else ended)]
        whole = ended is not None and ended < ask.max_tokens
        while own and own[-1] == self._reader.tokenizer.pad_token_id:
            own.pop()  # a row that ended before the others of its batch
        text = self._reader.tokenizer.decode(own, skip_special_tokens=True)
        places = [text.find(stop) for stop in ask.stop if stop in text]
        if places:
            text, whole = text[: min(places)], True
        fault = None if whole else f"cut off after max_tokens ({ask.max_tokens})"
        return Answer(text, fault, length, len(own) + (1 if ended is not None and whole else 0))


class Text:
    """Reads text alone, by the model's tokenizer."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(
            folder, padding_side="left", local_files_only=True
        )
        self.template = self.tokenizer.chat_template
        self._special = local_vision.special(self.tokenizer)

    def prompt(self, ask: Ask) -> Prompt:
        messages: list[dict[str, Any]] = []
        for message in ask.messages:
            text = said(message)
            if text is None:
                raise Unreadable("this model reads text alone, and the ask has other parts")
            text = local_vision.broken_up(text, self._special)
            messages.append({**message, "content": text})
        text = local_vision.rendered(self.tokenizer, messages)
        tokens = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return Prompt(text, tokens)

    def inputs(self, prompts: Sequence[Prompt], multiple: int) -> tuple[dict[str, Any], list[int]]:
        import torch

        pad = self.tokenizer.pad_token_id or 0
        lengths = [len(prompt.tokens) for prompt in prompts]
        width = -(-max(lengths) // multiple) * multiple
        rows = [[pad] * (width - len(prompt.tokens)) + prompt.tokens for prompt in prompts]
        seen = [[0] * (width - length) + [1] * length for length in lengths]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(seen)}, lengths


class _Noise:
    """Turns the likeliest token into a draw at the ask's temperature, by the ask's own seed."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        import torch

        self.rows = [
            (row, ask.temperature, torch.Generator().manual_seed(_seed(ask)))
            for row, ask in enumerate(asks)
            if ask.temperature > 0
        ]

    def __call__(self, tokens: Any, scores: Any) -> Any:
        import torch

        if not self.rows:
            return scores
        scores = scores.to(torch.float32, copy=True)
        for row, temperature, generator in self.rows:
            even = torch.rand(scores.shape[1], generator=generator, dtype=torch.float64)
            gumbel = -torch.log(-torch.log(even.clamp(1e-300, 1 - 1e-16)))
            scores[row] = scores[row] / temperature + gumbel.to(scores)
        return scores


class _Ends:
    """Ends each row at its own number of tokens, or where a text that stops it stands."""

    def __init__(self, asks: Sequence[Ask], width: int, tokenizer: Any) -> None:
        self.asks = asks
        self.width = width
        self.tokenizer = tokenizer

    def __call__(self, tokens: Any, scores: Any, **more: Any) -> Any:
        import torch

        made = tokens[:, self.width :]
        over = [self._over(ask, row) for ask, row in zip(self.asks, made, strict=True)]
        return torch.tensor(over, device=tokens.device, dtype=torch.bool)

    def _over(self, ask: Ask, row: Any) -> bool:
        if len(row) >= ask.max_tokens:
            return True
        if not ask.stop:
            return False
        # A text has no more tokens than bytes: this tail holds it whole.
        tail = self.tokenizer.decode(row[-max(len(s.encode()) for s in ask.stop) - 8 :])
        return any(stop in tail for stop in ask.stop)


def _seed(ask: Ask) -> int:
    """The seed of an ask; of one that names none, from what is asked."""
    if ask.seed is not None:
        return ask.seed & (1 << 63) - 1
    digest = hashlib.blake2b(ask.key("", "").encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _limit(model: Any, tokenizer: Any) -> int:
    """Tokens of prompt and answer that the model takes together."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(min(known or sys.maxsize, tokenizer.model_max_length or sys.maxsize))


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer, as the model's own settings and its tokenizer say."""
    named = model.generation_config.eos_token_id
    ends = list(named) if isinstance(named, (list, tuple)) else [named]
    return sorted({int(one) for one in [*ends, tokenizer.eos_token_id] if one is not None})
