"""Embeds images or captions with any model of open_clip (CLIP, SigLIP, EVA, MobileCLIP, ...).

CLIP: Radford et al. 2021 (arXiv:2103.00020); OpenCLIP: Cherti et al. 2023 (arXiv:2212.07143).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa
from pydantic import Field

from datagen import clip, faults, preprocess
from datagen.embed import TEXT_SPACES, _rows
from datagen.schema import Level
from datagen.step import Context, Embedder, Resources, Settings


class OpenClipSettings(Settings):
    """space: name of the space.

    model: ``open_clip:ARCHITECTURE/TAG``, ``open_clip:hf-hub:org/name``, or a folder in
    open_clip's format. of: image or caption; by default caption for a space called ``caption`` or
    ``text``, image for any other. which: an item's vector is the mean over its captions, or its
    first caption's. device: auto, cpu, cuda, mps. precision: auto (bf16 on CUDA, else fp32),
    fp32, bf16, fp16. batch_size: rows of every forward pass.
    """

    space: str
    model: str
    of: Literal["auto", "image", "caption"] = "auto"
    which: _rows.Which = "mean"
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = Field(64, ge=1)
    trust_remote_code: bool = False


class OpenClip(Embedder[OpenClipSettings]):
    """One vector per image, or per item from its captions, of length 1.

    Results equal open_clip's own ``preprocess`` and ``encode_image`` / ``encode_text``, rounded to
    half precision so that batches cannot show.
    """

    Settings = OpenClipSettings
    requires = (("torch", "models"), ("open_clip", "models"))

    def __init__(self, settings: OpenClipSettings) -> None:
        super().__init__(settings)
        of_text = settings.of == "auto" and settings.space in TEXT_SPACES
        self.of = "caption" if of_text or settings.of == "caption" else "image"
        self.lazy = clip.LazyClip(settings)

    def needs(self, level: Level) -> set[str]:
        return {"items.captions" if self.of == "caption" else "items.media"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "captions" if self.of == "caption" else "media"]

    def resources(self) -> Resources:
        return self.lazy.resources()

    def revision(self) -> str:
        return self.lazy.revision()

    def check(self) -> Iterable[str]:
        return self.lazy.faults()

    def open(self, context: Context) -> None:
        self.clip = self.lazy.open()

    def prepare(self, rows: pa.Table) -> pa.Table:
        if self.of == "caption":
            return rows
        pixels, wrong = preprocess.decode(
            [[m] for m in rows["media"].to_pylist()], self.lazy.geometry
        )
        return pa.table({"id": rows["id"], "pixels": pixels, **faults.columns(wrong)})

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        if self.of == "caption":
            usable, vectors = _rows.caption_vectors(
                rows["captions"].to_pylist(), self.settings.which, self.clip.texts
            )
            _rows.without_caption(wrong, usable)
        else:
            usable = [number for number, fault in enumerate(wrong) if fault is None]
            vectors = self.clip.images(preprocess.pixels(rows, self.lazy.geometry, usable))
        return _rows.result(rows["id"], usable, vectors, wrong, self.clip.width)
