"""Vision models of the transformers library as datagen uses them: geometry, vectors, classes.

Half of the preprocessing happens on any CPU worker (:func:`geometry`, see
:mod:`datagen.preprocess`), the other half beside the model. Every forward pass has a full batch,
so the result for a picture does not hang on those beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from datagen import libraries, models, preprocess
from datagen.errors import DatagenError
from datagen.models import ModelRef
from datagen.preprocess import Geometry

Array = np.ndarray[Any, Any]
Token = Literal["cls", "mean"]

PREPROCESSOR = "preprocessor_config.json"
_WEIGHTS = ("*.safetensors", "*.bin")
_BESIDE = ("config.json", PREPROCESSOR)
#: What the models of transformers call the parameter of their class token.
_CLASS_TOKEN = frozenset({"cls_token", "class_embedding", "class_token"})
#: Pixels of a side, at most.
_LARGEST = 4096
#: Pillow's numbers of interpolations, as configurations hold them.
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}


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


class _Batches:
    """A model in eval mode, given uint8 pixels a full batch at a time."""

    def __init__(
        self, ref: ModelRef, kind: str, device: str, precision: str, batch_size: int
    ) -> None:
        self.ref, self.batch_size = ref, batch_size
        self.geometry = geometry(ref)
        self._at = models.device(device)
        self.model = _loaded(ref, kind, models.precision(precision, self._at))
        self.model = self.model.to(self._at).eval()

    def passes(self, pixels: Array) -> Iterator[tuple[slice, Any]]:
        """Rows of ``pixels`` (n, height, width, 3), and the model's answer to a batch that begins
        with them.
        """
        import torch

        size = self.batch_size
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (self.geometry.mean, self.geometry.std)
        )
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            full = np.zeros((size, *pixels.shape[1:]), dtype=np.uint8)
            full[: len(part)] = part
            with torch.inference_mode():
                values = torch.from_numpy(full).permute(0, 3, 1, 2).to(torch.float32) / 255
                values = ((values - mean) / std).to(self._at, self.model.dtype)
                answer = self.model(pixel_values=values)
            yield slice(start, start + len(part)), answer


class Encoder(_Batches):
    """A vision transformer that gives a vector a picture: its class token, or the mean of patches.

    Raises DatagenError where the model is absent, broken, or has no such token.
    """

    def __init__(
        self, ref: ModelRef, token: Token, device: str, precision: str, batch_size: int
    ) -> None:
        super().__init__(ref, "AutoModel", device, precision, batch_size)
        # A model of images and texts has one for images.
        self.model = getattr(self.model, "vision_model", self.model)
        self.token = token
        self.width = int(getattr(self.model.config, "hidden_size", 0))
        if not self.width:
            raise DatagenError(f"model '{ref}': it gives no tokens; a ViT expected")
        names = [name.rpartition(".")[2] for name, _ in self.model.named_parameters()]
        self._class_tokens = int(not _CLASS_TOKEN.isdisjoint(names))
        if token == "cls" and not self._class_tokens:
            raise DatagenError(f"model '{ref}': it has no class token; set token: mean")

    def images(self, pixels: Array) -> Array:
        """Unit vectors (n, width), float32 of half precision, of uint8 (n, height, width, 3)."""
        out = np.zeros((len(pixels), self.width), dtype=np.float32)
        for rows, answer in self.passes(pixels):
            states = answer.last_hidden_state
            found = states[:, 0] if self.token == "cls" else self._mean(states)
            out[rows] = found.float().cpu().numpy()[: rows.stop - rows.start]
        return models.unit_vectors(out)

    def _mean(self, states: Any) -> Any:
        """The mean over patches: what stands behind a class token and DINOv2's registers."""
        first = self._class_tokens + int(getattr(self.model.config, "num_register_tokens", 0) or 0)
        return states[:, first:].mean(1)


class Classifier(_Batches):
    """An image classifier, or a regression with one label, as transformers saves them."""

    def __init__(self, ref: ModelRef, device: str, precision: str, batch_size: int) -> None:
        super().__init__(ref, "AutoModelForImageClassification", device, precision, batch_size)
        self.labels = labels(ref)
        self.several = self.model.config.problem_type == "multi_label_classification"

    def logits(self, pixels: Array) -> Array:
        """What the head gives: float64 (n, labels)."""
        out = np.zeros((len(pixels), len(self.labels)))
        for rows, answer in self.passes(pixels):
            out[rows] = answer.logits.float().cpu().numpy()[: rows.stop - rows.start]
        return out

    def shares(self, pixels: Array) -> Array:
        """Probability of each label, float64 (n, labels); each for itself in a model that may give
        several.
        """
        found = self.logits(pixels)
        if self.several:
            some: Array = 1 / (1 + np.exp(-found))
            return some
        high = np.exp(found - found.max(axis=1, keepdims=True, initial=-np.inf))
        one: Array = high / high.sum(axis=1, keepdims=True)
        return one


def _loaded(ref: ModelRef, kind: str, precision: str) -> Any:
    folder = ref.folder or models.snapshot(ref.name, ref.tag, _WEIGHTS, _BESIDE)
    with libraries.loading(str(ref), ref.repository):
        libraries.prepare()
        import torch
        import transformers

        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        made = getattr(transformers, kind)
        return made.from_pretrained(folder, dtype=kinds[precision], local_files_only=True)


def labels(ref: ModelRef) -> list[str]:
    """Names of a classifier's labels, in their order. Raises DatagenError."""
    path = os.path.join(_small(ref), "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        named = {int(at): str(name) for at, name in (config.get("id2label") or {}).items()}
        # Without names there are two, as transformers has it.
        count = int(config.get("num_labels") or len(named) or 2)
    except OSError as error:
        raise DatagenError(
            f"model '{ref}': a folder with config.json expected, as transformers writes it"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DatagenError(f"{path}: labels cannot be read from it ({error})") from error
    return [named.get(at, f"LABEL_{at}") for at in range(count)]


def _small(ref: ModelRef) -> str:
    """A folder with the model's small files."""
    return ref.folder or models.snapshot(ref.name, ref.tag, (PREPROCESSOR,), _BESIDE)


def geometry(ref: ModelRef) -> Geometry:
    """What the model's ``preprocessor_config.json`` asks for. Raises DatagenError."""
    path = os.path.join(_small(ref), PREPROCESSOR)
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
