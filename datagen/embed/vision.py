"""Embeds images and clips with any vision model of the transformers library: DINOv2, DINOv3, ViT.

Such a space sees structure rather than meaning: MegaPairs (arXiv:2412.14475) mines neighbours in
one of DINO beside CLIP's. DINO: Caron et al. 2021 (arXiv:2104.14294); DINOv2: Oquab et al. 2023
(arXiv:2304.07193).
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from datagen import clip, faults, models, preprocess, vision
from datagen.embed import _rows
from datagen.pinned import ModelChoice, Pinned
from datagen.preprocess import Geometry
from datagen.schema import Level
from datagen.step import Context, Embedder, Resources


class VisionSettings(ModelChoice):
    """space: name of the space.

    model: ``hf:org/name``, or a folder of transformers with a ``preprocessor_config.json``. token:
    cls, the first token of the last layer (DINO's and ViT's), or mean, that of all patches; a model
    without such a token (SigLIP) wants mean. frames: of a clip so many frames at even distances,
    ``first``, ``middle``, ``key``, or those at a list of seconds; its vector is the mean of theirs.
    device: auto, cpu, cuda, mps. precision: auto (bf16 on CUDA, else fp32), fp32, bf16, fp16.
    batch_size: frames of every forward pass.
    """

    space: str
    token: vision.Token = "cls"
    frames: preprocess.Frames = 8
    batch_size: int = Field(64, ge=1)


class Vision(Pinned[VisionSettings], Embedder[VisionSettings]):
    """One vector per image or clip, of length 1, rounded to half precision.

    Pictures are resized and cut as the model's ``preprocessor_config.json`` says (by Pillow, as
    the processors of transformers do without torchvision).
    """

    Settings = VisionSettings
    requires = (("torch", "models"), ("transformers", "models"))
    instead = "use op: open_clip for it"

    def __init__(self, settings: VisionSettings) -> None:
        super().__init__(settings)
        self._geometry: Geometry | None = None

    def needs(self, level: Level) -> set[str]:
        return {"items.media"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "media"]

    def resources(self) -> Resources:
        frames = preprocess.frames_at_most(self.settings.frames)
        rows = max(1, min(4 * self.settings.batch_size, clip.FRAMES // frames))
        return Resources(gpus=models.gpus(self.settings.device), batch_size=rows, actor=True)

    def look(self) -> None:
        _ = self.geometry

    @property
    def geometry(self) -> Geometry:
        """How the model wants pictures. Raises DatagenError."""
        if self._geometry is None:
            self._geometry = vision.geometry(self.ref)
        return self._geometry

    def prepare(self, rows: pa.Table) -> pa.Table:
        places = [[place] for place in rows["media"].to_pylist()]
        decoded, wrong = preprocess.decode(places, self.geometry, self.settings.frames)
        return pa.table({"id": rows["id"], **decoded, **faults.columns(wrong)})

    def open(self, context: Context) -> None:
        set_up = self.settings
        self._model = vision.Encoder(
            self.ref, set_up.token, set_up.device, set_up.precision, set_up.batch_size
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        usable = [number for number, fault in enumerate(wrong) if fault is None]
        frames = self._model.images(preprocess.pixels(rows, self.geometry, usable))
        counts = [count for (count,) in preprocess.counts(rows, usable)]
        vectors = clip.pooled(frames, counts)
        return _rows.result(rows["id"], usable, vectors, wrong, self._model.width)
