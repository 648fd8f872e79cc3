"""Embeds images or captions with any model of open_clip (CLIP, SigLIP, EVA, MobileCLIP, ...).

CLIP: Radford et al. 2021 (arXiv:2103.00020); OpenCLIP: Cherti et al. 2023 (arXiv:2212.07143).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa
from pydantic import Field

from datagen import clip, models, step
from datagen.embed import TEXT_SPACES, _rows
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.step import Context, Embedder, Resources


class Settings(step.Settings):
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


class OpenClip(Embedder[Settings]):
    """One vector per image, or per item from its captions, of length 1.

    Results equal open_clip's own ``preprocess`` and ``encode_image`` / ``encode_text``, rounded to
    half precision so that batches cannot show.
    """

    Settings = Settings
    requires = (("torch", "models"), ("open_clip", "models"))

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        of_text = settings.of == "auto" and settings.space in TEXT_SPACES
        self.of = "caption" if of_text or settings.of == "caption" else "image"
        self.ref = models.parse(settings.model)
        self._geometry: clip.Geometry | None = None

    def needs(self, level: Level) -> set[str]:
        return {"items.captions" if self.of == "caption" else "items.media"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "captions" if self.of == "caption" else "media"]

    def resources(self) -> Resources:
        gpus = models.gpus(self.settings.device)
        return Resources(gpus=gpus, batch_size=self.settings.batch_size, actor=True)

    def revision(self) -> str:
        found = models.revision(self.ref)
        self.ref = models.at(self.ref, found)
        return found

    def check(self) -> Iterable[str]:
        try:
            self.revision()
            self._geometry = clip.config(self.ref).geometry
            models.precision(self.settings.precision, "cpu")
        except DatagenError as error:
            yield str(error)

    @property
    def geometry(self) -> clip.Geometry:
        """Size and normalisation of the model's input; travels to the workers once known."""
        if self._geometry is None:
            self._geometry = clip.config(self.ref).geometry
        return self._geometry

    def open(self, context: Context) -> None:
        self.clip = clip.load(
            self.ref,
            device=self.settings.device,
            precision=self.settings.precision,
            batch_size=self.settings.batch_size,
            trust_remote_code=self.settings.trust_remote_code,
        )

    def prepare(self, rows: pa.Table) -> pa.Table:
        return rows if self.of == "caption" else _rows.decode(rows, self.geometry)

    def __call__(self, rows: pa.Table) -> pa.Table:
        faults = _rows.faults(rows)
        if self.of == "caption":
            captions = rows["captions"].to_pylist()
            usable, vectors = _rows.caption_vectors(captions, self.settings.which, self.clip.texts)
            for number in set(range(rows.num_rows)).difference(usable):
                faults[number] = faults[number] or _rows.NO_CAPTION
        else:
            usable = [number for number, fault in enumerate(faults) if fault is None]
            vectors = self.clip.images(_rows.pixels(rows, self.geometry, usable))
        return _rows.result(rows["id"], usable, vectors, faults, self.clip.width)
