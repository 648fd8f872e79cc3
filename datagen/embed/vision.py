"""Embeds images and clips with any vision model of the transformers library: DINOv2, DINOv3, ViT.

Such a space sees structure rather than meaning: MegaPairs (arXiv:2412.14475) mines neighbours in
one of DINO beside CLIP's. DINO: Caron et al. 2021 (arXiv:2104.14294); DINOv2: Oquab et al. 2023
(arXiv:2304.07193).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field

from datagen import clip, faults, libraries, models, preprocess
from datagen.embed import _rows
from datagen.errors import DatagenError
from datagen.models import ModelRef
from datagen.preprocess import Geometry
from datagen.schema import Level
from datagen.step import Context, Embedder, Resources, Settings

Array = np.ndarray[Any, Any]

PREPROCESSOR = "preprocessor_config.json"
_WEIGHTS = ("*.safetensors", "*.bin")
_BESIDE = ("config.json", PREPROCESSOR)
#: What the models of transformers call the parameter of their class token.
_CLASS_TOKEN = frozenset({"cls_token", "class_embedding", "class_token"})
#: Pixels of a side, at most.
_LARGEST = 4096
#: Pillow's numbers of interpolations, as configurations hold them.
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}


class VisionSettings(Settings):
    """space: name of the space.

    model: ``hf:org/name``, or a folder of transformers with a ``preprocessor_config.json``. token:
    cls, the first token of the last layer (DINO's and ViT's), or mean, that of all patches; a model
    without such a token (SigLIP) wants mean. frames: of a clip so many frames at even distances,
    ``first``, ``middle``, ``key``, or those at a list of seconds; its vector is the mean of theirs.
    device: auto, cpu, cuda, mps. precision: auto (bf16 on CUDA, else fp32), fp32, bf16, fp16.
    batch_size: frames of every forward pass.
    """

    space: str
    model: str
    token: Literal["cls", "mean"] = "cls"
    frames: preprocess.Frames = 8
    device: str = "auto"
    precision: str = "auto"
    batch_size: int = Field(64, ge=1)


@dataclass(frozen=True)
class _Resized(Geometry):
    """A geometry that resizes the shorter side to ``edge`` pixels before it cuts the centre."""

    edge: int = 0

    def fit(self, picture: Image.Image) -> Array:
        if not self.edge:
            return super().fit(picture)
        size = preprocess.shortest(picture.size, self.edge)
        how = getattr(Image.Resampling, self.interpolation.upper())
        if size != picture.size:
            picture = picture.resize(size, how)
        picture = preprocess.crop_or_pad(picture, self.width, self.height, 0)
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


class Vision(Embedder[VisionSettings]):
    """One vector per image or clip, of length 1, rounded to half precision.

    Pictures are resized and cut as the model's ``preprocessor_config.json`` says (by Pillow, as
    the processors of transformers do without torchvision).
    """

    Settings = VisionSettings
    requires = (("torch", "models"), ("transformers", "models"))

    def __init__(self, settings: VisionSettings) -> None:
        super().__init__(settings)
        self.ref = models.parse(settings.model)
        self._geometry: Geometry | None = None

    def needs(self, level: Level) -> set[str]:
        return {"items.media"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "media"]

    def resources(self) -> Resources:
        frames = preprocess.frames_at_most(self.settings.frames)
        rows = max(1, min(4 * self.settings.batch_size, clip.FRAMES // frames))
        return Resources(gpus=models.gpus(self.settings.device), batch_size=rows, actor=True)

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
            _ = self.geometry
        except DatagenError as error:
            yield str(error)

    @property
    def geometry(self) -> Geometry:
        """How the model wants pictures. Raises DatagenError."""
        if self._geometry is None:
            self._geometry = geometry(self.ref)
        return self._geometry

    def prepare(self, rows: pa.Table) -> pa.Table:
        places = [[place] for place in rows["media"].to_pylist()]
        decoded, wrong = preprocess.decode(places, self.geometry, self.settings.frames)
        return pa.table({"id": rows["id"], **decoded, **faults.columns(wrong)})

    def open(self, context: Context) -> None:
        self._at = models.device(self.settings.device)
        precision = models.precision(self.settings.precision, self._at)
        folder = self.ref.folder or models.snapshot(self.ref.name, self.ref.tag, _WEIGHTS, _BESIDE)
        with libraries.loading(str(self.ref), self.ref.repository):
            libraries.prepare()
            import torch
            from transformers import AutoModel

            kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
            model = AutoModel.from_pretrained(folder, dtype=kinds[precision], local_files_only=True)
            # A model of images and texts has one for images.
            model = getattr(model, "vision_model", model)
            self._model = model.to(self._at).eval()
        self.width = int(getattr(self._model.config, "hidden_size", 0))
        if not self.width:
            raise DatagenError(f"model '{self.ref}': it gives no tokens; a ViT expected")
        names = [name.rpartition(".")[2] for name, _ in self._model.named_parameters()]
        self._class_tokens = int(not _CLASS_TOKEN.isdisjoint(names))
        if self.settings.token == "cls" and not self._class_tokens:
            raise DatagenError(f"model '{self.ref}': it has no class token; set token: mean")

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong = faults.of(rows)
        usable = [number for number, fault in enumerate(wrong) if fault is None]
        frames = self._encode(preprocess.pixels(rows, self.geometry, usable))
        counts = [count for (count,) in preprocess.counts(rows, usable)]
        vectors = clip.pooled(frames, counts)
        return _rows.result(rows["id"], usable, vectors, wrong, self.width)

    def _encode(self, pixels: Array) -> Array:
        """Unit vectors (n, width) of uint8 (n, height, width, 3); every pass is a full batch."""
        import torch

        size = self.settings.batch_size
        out = np.zeros((len(pixels), self.width), dtype=np.float32)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.geometry.mean,
                                                                self.geometry.std))  # fmt: skip
        with torch.inference_mode():
            for start in range(0, len(pixels), size):
                part = pixels[start : start + size]
                full = np.zeros((size, *pixels.shape[1:]), dtype=np.uint8)
                full[: len(part)] = part
                values = torch.from_numpy(full).permute(0, 3, 1, 2).to(torch.float32) / 255
                values = ((values - mean) / std).to(self._at, self._model.dtype)
                states = self._model(pixel_values=values).last_hidden_state
                found = states[:, 0] if self.settings.token == "cls" else self._mean(states)
                out[start : start + len(part)] = found.float().cpu().numpy()[: len(part)]
        return models.unit_vectors(out)

    def _mean(self, states: Any) -> Any:
        """The mean over patches: what stands behind a class token and DINOv2's registers."""
        first = self._class_tokens + int(getattr(self._model.config, "num_register_tokens", 0) or 0)
        return states[:, first:].mean(1)


def geometry(ref: ModelRef) -> Geometry:
    """What the model's ``preprocessor_config.json`` asks for. Raises DatagenError."""
    folder = ref.folder or models.snapshot(ref.name, ref.tag, (PREPROCESSOR,), _BESIDE)
    path = os.path.join(folder, PREPROCESSOR)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return _sound(_geometry(found))
    except OSError as error:
        raise DatagenError(
            f"model '{ref}': a folder with {PREPROCESSOR} expected; is it a vision model?"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatagenError(f"{path}: sizes of pictures cannot be read from it ({error})") from error


def _sound(made: Geometry) -> Geometry:
    """The geometry. Raises ValueError where no picture can be brought into it."""
    sides = (made.height, made.width, getattr(made, "edge", 0) or made.height)
    if not all(1 <= side <= _LARGEST for side in sides):
        raise ValueError(f"sides of 1 to {_LARGEST} pixels expected")
    if len(made.mean) != 3 or len(made.std) != 3 or not all(one > 0 for one in made.std):
        raise ValueError("image_mean, image_std: three numbers expected, image_std above 0")
    return made


def _geometry(found: Mapping[str, Any]) -> Geometry:
    resize, crop = found["size"], found.get("crop_size")
    resize = {"shortest_edge": resize} if isinstance(resize, int) else resize
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    mean = tuple(map(float, found.get("image_mean") or (0.5, 0.5, 0.5)))
    std = tuple(map(float, found.get("image_std") or (0.5, 0.5, 0.5)))
    if found.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    how = _INTERPOLATIONS.get(found.get("resample", 3), "bicubic")
    if "shortest_edge" not in resize:
        size = (int(resize["height"]), int(resize["width"]))
        return Geometry(*size, mean, std, how, "squash")
    edge = int(resize["shortest_edge"])
    if not crop or found.get("do_center_crop") is False:
        return Geometry(edge, edge, mean, std, how, "shortest")
    size = (int(crop["height"]), int(crop["width"]))
    return _Resized(*size, mean, std, how, "shortest", edge=edge)
