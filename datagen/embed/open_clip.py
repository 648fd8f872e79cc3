"""Embeds images, clips or captions with any model of open_clip (CLIP, SigLIP, EVA, ...).

CLIP: Radford et al. 2021 (arXiv:2103.00020); OpenCLIP: Cherti et al. 2023 (arXiv:2212.07143).
Clips: the mean of frames as CLIP4Clip (arXiv:2104.08860), or frames weighted by their caption as
CLIP-Hitchhiker (arXiv:2205.08508) and CoVR (arXiv:2308.14746).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from datagen import clip, faults, preprocess
from datagen.embed import TEXT_SPACES, _rows
from datagen.schema import Level
from datagen.step import Embedder

Array = np.ndarray[Any, Any]
#: Settings that say something of clips, with what they say by default.
_OF_CLIPS = {"frames": 8, "pool": "mean", "temperature": 0.1, "keep_frames": False}


class OpenClipSettings(clip.ModelSettings):
    """space: name of the space.

    model: ``open_clip:ARCHITECTURE/TAG``, ``open_clip:hf-hub:org/name``, or a folder in
    open_clip's format. of: image or caption; by default caption for a space called ``caption`` or
    ``text``, image (or clip) for any other. which: an item's vector is the mean over its captions,
    or its first caption's. frames: of a clip so many frames at even distances, ``first``,
    ``middle``, ``key`` (key frames, eight at most), or those at a list of seconds. pool: a clip's
    vector is the mean of its frames', or weighted by how near each is to the item's caption.
    temperature: of those weights, cosines; small ones leave the nearest frame alone. keep_frames:
    also keep the vector of every frame. device: auto, cpu, cuda, mps. precision: auto (bf16 on
    CUDA, else fp32), fp32, bf16, fp16. batch_size: frames or texts of every forward pass.
    """

    space: str
    of: Literal["auto", "image", "caption"] = "auto"
    which: _rows.Which = "mean"
    pool: Literal["mean", "caption"] = "mean"
    temperature: float = Field(0.1, gt=0, le=10)
    keep_frames: bool = False

    @property
    def of_captions(self) -> bool:
        """Whether captions are embedded rather than images and clips."""
        return self.of == "caption" or (self.of == "auto" and self.space in TEXT_SPACES)

    @model_validator(mode="after")
    def _sense(self) -> OpenClipSettings:
        idle = [name for name, value in _OF_CLIPS.items() if getattr(self, name) != value]
        if self.of_captions and idle:
            raise ValueError(f"{', '.join(idle)}: of clips, but this space is made of captions")
        if self.pool != "caption" and "temperature" in idle:
            raise ValueError("temperature: only pool: caption has one")
        return self


class OpenClip(clip.ClipOperator[OpenClipSettings], Embedder[OpenClipSettings]):
    """One vector per image or clip, or per item from its captions, of length 1.

    Results equal open_clip's own ``preprocess`` and ``encode_image`` / ``encode_text``, rounded to
    half precision so that batches cannot show. A clip's vector is the mean of its frames' unit
    vectors, scaled to length 1. With ``pool: caption`` the frames are weighted by the softmax of
    their cosines with the caption, divided by ``temperature``; where the item has no caption all
    weigh the same, and the verdict says so. With ``keep_frames`` the space holds the vectors of
    all frames and their seconds beside (see :class:`datagen.space.Space`).
    """

    version = 2
    Settings = OpenClipSettings

    def gives(self, level: Level) -> set[str]:
        space = self.settings.space
        holds = set() if self.settings.of_captions else {f"images.{space}"}
        return super().gives(level) | {f"texts.{space}"} | holds

    def texts(self, texts: Sequence[str]) -> Array:
        return self.clip.texts(texts)

    def needs(self, level: Level) -> set[str]:
        if self.settings.pool == "caption":
            return {"items.captions", "items.media"}
        return {"items.captions" if self.settings.of_captions else "items.media"}

    def columns(self, level: Level) -> list[str]:
        return ["id", *sorted(need.removeprefix("items.") for need in self.needs(level))]

    def prepare(self, rows: pa.Table) -> pa.Table:
        if self.settings.of_captions:
            return rows
        places = [[place] for place in rows["media"].to_pylist()]
        decoded, wrong = preprocess.decode(places, self.geometry, self.settings.frames)
        beside = {"captions": rows["captions"]} if self.settings.pool == "caption" else {}
        return pa.table({"id": rows["id"], **decoded, **beside, **faults.columns(wrong)})

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        if self.settings.of_captions:
            usable, vectors = _rows.caption_vectors(
                rows["captions"].to_pylist(), self.settings.which, self.clip.texts
            )
            _rows.without_caption(wrong, usable)
            return _rows.result(rows["id"], usable, vectors, wrong, self.clip.width)
        usable = [number for number, fault in enumerate(wrong) if fault is None]
        frames = self.clip.images(preprocess.pixels(rows, self.geometry, usable))
        counts = [count for (count,) in preprocess.counts(rows, usable)]
        plain: list[int] = []
        weights = None
        if self.settings.pool == "caption" and max(counts, default=1) > 1:
            weights, plain = self._weights(rows, usable, frames, counts)
        vectors = clip.pooled(frames, counts, weights)
        out = _rows.result(rows["id"], usable, vectors, wrong, self.clip.width)
        out = _rows.with_details(out, dict.fromkeys(plain, "no caption: all frames weigh the same"))
        if self.settings.keep_frames:
            seconds = rows["seconds"] if usable else None
            out = _rows.with_frames(out, usable, frames, counts, seconds)
        return out

    def _weights(
        self, rows: pa.Table, usable: list[int], frames: Array, counts: list[int]
    ) -> tuple[Array, list[int]]:
        """A weight for each of ``frames``, and the clips among ``usable`` without a caption."""
        texts = rows["captions"].take(pa.array(usable, pa.int64())).to_pylist()
        lists = [words if count > 1 else None for words, count in zip(texts, counts, strict=True)]
        told, captions = _rows.caption_vectors(lists, self.settings.which, self.clip.texts)
        weights = np.ones(len(frames))
        starts = np.cumsum([0, *counts])
        for place, caption in zip(told, captions.astype(np.float64), strict=True):
            part = slice(starts[place], starts[place + 1])
            scores = frames[part].astype(np.float64) @ caption / self.settings.temperature
            shares = np.exp(scores - scores.max())
            weights[part] = shares / shares.sum()
        clips = {place for place, count in enumerate(counts) if count > 1}
        return weights, [usable[place] for place in sorted(clips.difference(told))]
