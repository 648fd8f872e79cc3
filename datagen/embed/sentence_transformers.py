"""Embeds captions with any sentence encoder of the sentence-transformers library.

Sentence-BERT: Reimers and Gurevych 2019 (arXiv:1908.10084).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import faults, models
from datagen.embed import _rows
from datagen.pinned import ModelChoice, Pinned
from datagen.schema import Level
from datagen.sentences import SentenceEncoder
from datagen.step import Context, Embedder, Resources


class SentenceTransformersSettings(ModelChoice):
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
    which: _rows.Which = "mean"
    prompt: str | None = None
    batch_size: int = Field(32, ge=1)
    trust_remote_code: bool = False


class SentenceTransformers(
    Pinned[SentenceTransformersSettings], Embedder[SentenceTransformersSettings]
):
    """One vector per item from its captions, of length 1, rounded to half precision.

    Every forward pass has ``batch_size`` texts padded to one of a few lengths, so that a text's
    vector does not depend on the texts beside it.
    """

    Settings = SentenceTransformersSettings
    requires = (("torch", "models"), ("sentence_transformers", "models"))
    instead = "use op: open_clip for it"

    def needs(self, level: Level) -> set[str]:
        return {"items.captions"}

    def gives(self, level: Level) -> set[str]:
        return super().gives(level) | {f"texts.{self.settings.space}"}

    def texts(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        return self.encoder.texts(texts)

    def columns(self, level: Level) -> list[str]:
        return ["id", "captions"]

    def resources(self) -> Resources:
        gpus = models.gpus(self.settings.device)
        return Resources(gpus=gpus, batch_size=8 * self.settings.batch_size, actor=True)

    def open(self, context: Context) -> None:
        chosen = self.settings
        self.encoder = SentenceEncoder(
            self.ref,
            device=chosen.device,
            precision=chosen.precision,
            batch_size=chosen.batch_size,
            prompt=chosen.prompt,
            trust_remote_code=chosen.trust_remote_code,
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        captions = rows["captions"].to_pylist()
        usable, vectors = _rows.caption_vectors(captions, self.settings.which, self.encoder.texts)
        _rows.without_caption(wrong, usable)
        return _rows.result(rows["id"], usable, vectors, wrong, self.encoder.width)
