"""Sentence encoders: texts to vectors that do not hang on the texts beside them.

Sentence-BERT: Reimers and Gurevych 2019 (arXiv:1908.10084).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from datagen import models
from datagen.models import ModelRef

Array = np.ndarray[Any, Any]

#: Texts are padded to a multiple of this many tokens.
BUCKET = 16


class SentenceEncoder:
    """A model of the library sentence-transformers, loaded.

    Every forward pass has ``batch_size`` texts padded to one of a few lengths, so that a text's
    vector does not depend on the texts beside it.

    device, precision: as in :mod:`datagen.models`; prompt: text put before every other, None: the
    one that the model's own configuration names, if any. Raises DatagenError where the model is
    absent, broken or wants to run code of its own.
    """

    def __init__(
        self,
        ref: ModelRef,
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 32,
        prompt: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.device = models.device(device)
        self.model = models.load_sentence_transformer(
            ref, self.device, models.precision(precision, self.device), trust_remote_code
        )
        self.batch_size = batch_size
        self.prompt = prompt
        self.width = self.texts(["a"]).shape[1]

    def texts(self, texts: Sequence[str]) -> Array:
        """Unit vectors (n, width) of ``texts``, float32 of half precision."""
        if not texts:
            return np.zeros((0, self.width), dtype=np.float32)
        found: dict[int, Array] = {}
        for length, numbers in self._by_length(texts).items():
            for start in range(0, len(numbers), self.batch_size):
                part = numbers[start : start + self.batch_size]
                filled = [texts[i] for i in part]
                filled += filled[:1] * (self.batch_size - len(part))
                found.update(zip(part, self._forward(filled, length), strict=False))
        return models.unit_vectors(np.stack([found[i] for i in range(len(texts))]))

    def _prompt(self) -> str | None:
        if self.prompt is not None:
            return self.prompt
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

    def _forward(self, texts: list[str], length: int) -> Array:
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
        out: Array = vectors.float().cpu().numpy()
        return out
