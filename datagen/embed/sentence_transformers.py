"""Embeds captions with any sentence encoder of the sentence-transformers library.

Sentence-BERT: Reimers and Gurevych 2019 (arXiv:1908.10084).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import faults, models
from datagen.embed import _rows
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.step import Context, Embedder, Resources, Settings

#: Texts are padded to a multiple of this many tokens.
BUCKET = 16


class SentenceTransformersSettings(Settings):
    """space: name of the space.

    model: ``hf:org/name``, or a folder of sentence-transformers or transformers (mean pooling).
    which: an item's vector is the mean over its captions, or its first caption's. prompt: text
    put before every caption, for encoders that were trained with one; by default the one that the
    model's own configuration names, if any. device: auto, cpu, cuda, mps. precision: auto (bf16 on
    CUDA, else fp32), fp32, bf16, fp16. batch_size: texts of every forward pass.
    trust_remote_code: run code that a model of the Hub brings along, as the user who runs it; off
    unless you know that code.
    """

    space: str
    model: str
    which: _rows.Which = "mean"
    prompt: str | None = None
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = Field(32, ge=1)
    trust_remote_code: bool = False


class SentenceTransformers(Embedder[SentenceTransformersSettings]):
    """One vector per item from its captions, of length 1, rounded to half precision.

    Every forward pass has ``batch_size`` texts padded to one of a few lengths, so that a text's
    vector does not depend on the texts beside it.
    """

    Settings = SentenceTransformersSettings
    requires = (("torch", "models"), ("sentence_transformers", "models"))

    def __init__(self, settings: SentenceTransformersSettings) -> None:
        super().__init__(settings)
        self.ref = models.parse(settings.model)

    def needs(self, level: Level) -> set[str]:
        return {"items.captions"}

    def gives(self, level: Level) -> set[str]:
        return super().gives(level) | {f"texts.{self.settings.space}"}

    def texts(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        return self.encode(texts)

    def columns(self, level: Level) -> list[str]:
        return ["id", "captions"]

    def resources(self) -> Resources:
        gpus = models.gpus(self.settings.device)
        return Resources(gpus=gpus, batch_size=8 * self.settings.batch_size, actor=True)

    def revision(self) -> str:
        found = models.revision(self.ref)
        self.ref = models.at(self.ref, found)
        return found

    def check(self) -> Iterable[str]:
        try:
            if self.ref.scheme == "open_clip":
                raise DatagenError(f"model '{self.ref}': use op: open_clip for it")
            self.revision()
            models.check_choices(self.settings.device, self.settings.precision)
        except DatagenError as error:
            yield str(error)

    def open(self, context: Context) -> None:
        device = models.device(self.settings.device)
        precision = models.precision(self.settings.precision, device)
        self.model = models.load_sentence_transformer(
            self.ref, device, precision, self.settings.trust_remote_code
        )
        self.device = device
        self.width = self.encode(["a"]).shape[1]

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        captions = rows["captions"].to_pylist()
        usable, vectors = _rows.caption_vectors(captions, self.settings.which, self.encode)
        _rows.without_caption(wrong, usable)
        return _rows.result(rows["id"], usable, vectors, wrong, self.width)

    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Unit vectors (n, width) of ``texts``, float32 of half precision."""
        if not texts:
            return np.zeros((0, self.width), dtype=np.float32)
        found: dict[int, np.ndarray[Any, Any]] = {}
        for length, numbers in self._by_length(texts).items():
            for start in range(0, len(numbers), self.settings.batch_size):
                part = numbers[start : start + self.settings.batch_size]
                filled = [texts[i] for i in part]
                filled += filled[:1] * (self.settings.batch_size - len(part))
                found.update(zip(part, self._forward(filled, length), strict=False))
        return models.unit_vectors(np.stack([found[i] for i in range(len(texts))]))

    def _prompt(self) -> str | None:
        if self.settings.prompt is not None:
            return self.settings.prompt
        name = getattr(self.model, "default_prompt_name", None)
        return self.model.prompts.get(name) if name else None

    def _by_length(self, texts: Sequence[str]) -> dict[int, list[int]]:
        """Row numbers by padded length in tokens; one group where the encoder has no tokens."""
        tokenizer = getattr(self.model[0], "tokenizer", None)
        if not callable(tokenizer):
            return {0: list(range(len(texts)))}
        prompt = self._prompt() or ""
        groups: dict[int, list[int]] = {}
        lengths = tokenizer([prompt + text for text in texts])["input_ids"]
        limit = self.model.max_seq_length or sys.maxsize
        for number, ids in enumerate(lengths):
            padded = -(-min(len(ids), limit) // BUCKET) * BUCKET
            groups.setdefault(min(padded, limit), []).append(number)
        return dict(sorted(groups.items()))

    def _forward(self, texts: list[str], length: int) -> np.ndarray[Any, Any]:
        import torch

        prompt = self._prompt()
        with torch.inference_mode():
            if not length:
                vectors = self.model.encode(texts, prompt=prompt, batch_size=len(texts))
                return np.asarray(vectors, dtype=np.float32)
            shape = {"text": {"padding": "max_length", "max_length": length}}
            features = self.model.preprocess(texts, prompt=prompt, processing_kwargs=shape)
            features = {
                name: value.to(self.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            vectors = self.model(features)["sentence_embedding"]
        out: np.ndarray[Any, Any] = vectors.float().cpu().numpy()
        return out
