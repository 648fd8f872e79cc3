"""open_clip models as datagen uses them: configuration, loading, and exact batching."""

from __future__ import annotations

import functools
import glob
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from pydantic import Field

from datagen import models, preprocess
from datagen.errors import DatagenError
from datagen.models import ModelRef
from datagen.pinned import ModelChoice, Pinned
from datagen.preprocess import Geometry
from datagen.step import Context, Resources

Array = np.ndarray[Any, Any]

_WEIGHTS = ("open_clip*.safetensors", "open_clip_pytorch_model.bin")
_BESIDE = (models.OPEN_CLIP_CONFIG, "token*", "vocab*", "merges.txt", "special*.json", "*.model")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class Config:
    """What is known of a model before its weights: open_clip's configuration and geometry."""

    model: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    geometry: Geometry


@functools.lru_cache(maxsize=16)
def config(ref: ModelRef) -> Config:
    """The configuration of ``ref``. Raises DatagenError where it is absent or not open_clip's."""
    if ref.folder or ref.repository:
        data = _read_config(ref)
        model, preprocess = data["model_cfg"], data.get("preprocess_cfg") or {}
    else:
        models.open_clip_weights(ref)
        import open_clip

        model = open_clip.get_model_config(ref.name)
        preprocess = open_clip.get_pretrained_cfg(ref.name, ref.tag.partition("@")[0])
    size = (model.get("vision_cfg") or {}).get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    geometry = Geometry(
        int(height),
        int(width),
        _three(preprocess.get("mean"), (0.48145466, 0.4578275, 0.40821073)),
        _three(preprocess.get("std"), (0.26862954, 0.26130258, 0.27577711)),
        preprocess.get("interpolation") or "bicubic",
        preprocess.get("resize_mode") or "shortest",
        int(preprocess.get("fill_color") or 0),
    )
    return Config(model, preprocess, geometry)


def _three(values: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    """Per-channel values; the defaults are those of OpenAI's CLIP, as open_clip's are."""
    if values is None:
        return default
    return (float(values),) * 3 if isinstance(values, (int, float)) else tuple(map(float, values))


def _place(ref: ModelRef, weights: bool) -> str:
    """The local folder of a model; ``weights`` says whether the hub's large files are wanted."""
    if ref.folder:
        return ref.folder
    choices = _WEIGHTS if weights else (models.OPEN_CLIP_CONFIG,)
    return models.snapshot(ref.repository, ref.tag, choices, _BESIDE)


def _read_config(ref: ModelRef) -> dict[str, Any]:
    if ref.scheme == "hf":
        raise DatagenError(f"model '{ref}': write open_clip:hf-hub:{ref.name} for a CLIP model")
    path = os.path.join(_place(ref, weights=False), models.OPEN_CLIP_CONFIG)
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if not isinstance(data["model_cfg"]["vision_cfg"], dict):
            raise ValueError("vision_cfg is no object")
    except OSError as error:
        raise DatagenError(
            f"model '{ref}': a folder with {models.OPEN_CLIP_CONFIG} expected, as open_clip "
            "writes it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatagenError(f"{path}: not a configuration of open_clip ({error})") from error
    return dict(data)


def _runs_code(model: Mapping[str, Any]) -> bool:
    return "'trust_remote_code': true" in str(model).lower()


class Clip:
    """An open_clip model in eval mode. Every forward pass has exactly ``batch_size`` rows.

    The fill-up rows of a short batch make the kernels, and so the result for a row, the same
    whatever stands beside it.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: Config,
        device: str,
        precision: str,
        batch_size: int,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.geometry = config.geometry
        self.width = int(config.model["embed_dim"])
        self.device = device
        self.precision = precision
        self.batch_size = batch_size

    def images(self, pixels: Array) -> Array:
        """Unit vectors (n, width), float32 of half precision, of uint8 (n, height, width, 3)."""
        return self._batches(pixels, self._images)

    def texts(self, texts: Sequence[str]) -> Array:
        """Unit vectors (n, width), float32 of half precision, of texts (cut where too long)."""
        if not len(texts):
            return np.zeros((0, self.width), dtype=np.float32)
        return self._batches(self.tokenizer(list(texts)).numpy(), self._texts)

    def _batches(self, rows: Array, encode: Any) -> Array:
        import torch

        out = np.zeros((len(rows), self.width), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(rows), self.batch_size):
                part = rows[start : start + self.batch_size]
                full = np.zeros((self.batch_size, *rows.shape[1:]), dtype=rows.dtype)
                full[: len(part)] = part
                found = encode(torch.from_numpy(full).to(self.device))
                out[start : start + len(part)] = found.float().cpu().numpy()[: len(part)]
        return models.unit_vectors(out)

    def _images(self, pixels: Any) -> Any:
        import open_clip
        import torch

        values = pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
        for numbers, change in ((self.geometry.mean, "sub_"), (self.geometry.std, "div_")):
            column = torch.tensor(numbers, device=values.device).view(1, 3, 1, 1)
            getattr(values, change)(column)
        dtype = open_clip.get_input_dtype(self.precision)
        return self.model.encode_image(values if dtype is None else values.to(dtype))

    def _texts(self, tokens: Any) -> Any:
        return self.model.encode_text(tokens)


def pooled(vectors: Array, counts: Sequence[int], weights: Array | None = None) -> Array:
    """One vector for each run of ``counts`` of ``vectors`` (n, width): a clip's of its frames'.

    It is their mean, weighted by ``weights`` (n) where given, scaled to length 1 and rounded as
    :func:`datagen.models.unit_vectors` does; a row that stands alone is its own.
    """
    number = np.asarray(counts, dtype=np.int64)
    if (number == 1).all():
        return vectors
    starts = np.cumsum(number) - number
    wide = vectors.astype(np.float64)
    if weights is not None:
        wide *= weights[:, None]
    means = models.unit_vectors(np.add.reduceat(wide, starts, axis=0))
    alone = number == 1
    means[alone] = vectors[starts[alone]]
    return means


class ModelSettings(ModelChoice):
    """Settings of an operator that gives images, frames of clips or texts to a CLIP model.

    trust_remote_code: run code that a model of the Hub brings along, as the user who runs it; off
    unless you know that code.
    """

    frames: preprocess.Frames = 8
    batch_size: int = Field(64, ge=1)
    trust_remote_code: bool = False


S = TypeVar("S", bound=ModelSettings)

#: Frames that a batch of rows may hold, at most: 300 MB of pixels at 224 x 224.
FRAMES = 2048


class ClipOperator(Pinned[S]):
    """An operator with a CLIP model in three places: named in the driver, its geometry on CPU
    workers, its weights in the model's actor.
    """

    requires: ClassVar[tuple[tuple[str, str], ...]] = (("torch", "models"), ("open_clip", "models"))
    clip: Clip

    def __init__(self, settings: S) -> None:
        super().__init__(settings)
        self._geometry: Geometry | None = None

    def look(self) -> None:
        self._geometry = config(self.ref).geometry

    @property
    def geometry(self) -> Geometry:
        """Size and normalisation of the model's input; travels to the workers once known."""
        if self._geometry is None:
            self._geometry = config(self.ref).geometry
        return self._geometry

    def resources(self) -> Resources:
        """One CPU, and a GPU where there is one; a batch of images is one forward pass."""
        gpus = models.gpus(self.settings.device)
        rows = max(1, FRAMES // preprocess.frames_at_most(self.settings.frames))
        return Resources(gpus=gpus, batch_size=min(rows, self.settings.batch_size), actor=True)

    def open(self, context: Context) -> None:
        """Load the weights."""
        self.clip = load(
            self.ref,
            device=self.settings.device,
            precision=self.settings.precision,
            batch_size=self.settings.batch_size,
            trust_remote_code=self.settings.trust_remote_code,
        )


def load(
    ref: ModelRef,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 64,
    trust_remote_code: bool = False,
) -> Clip:
    """Load the model of ``ref``.

    device, precision: as in :mod:`datagen.models`; batch_size: rows of every forward pass.
    Raises DatagenError where the model is absent, broken, does not fit, or wants to run code.
    """
    device = models.device(device)
    precision = models.precision(precision, device)
    found = config(ref)
    if _runs_code(found.model) and not trust_remote_code:
        raise DatagenError(
            f"model '{ref}': its configuration asks to run code of its own; read that code, then "
            "set trust_remote_code: true in this step to allow it"
        )
    name, options = _arguments(ref, found)
    with models.loading(str(ref)):
        models.prepare()
        import open_clip

        model = open_clip.create_model(
            name,
            device=device,
            precision=precision,
            require_pretrained=True,
            weights_only=True,
            **options,
        )
        for module in model.modules():
            # open_clip leaves the queries of its pooling behind where it changes the precision.
            if isinstance(module, open_clip.transformer.AttentionalPooler):
                module.query.data = module.query.data.to(module.attn.out_proj.weight.dtype)
        tokenizer = _tokenizer(name, found)
    return Clip(model.eval(), tokenizer, found, device, precision, batch_size)


def _arguments(ref: ModelRef, found: Config) -> tuple[str, dict[str, Any]]:
    """The model name that open_clip understands, and the other arguments of create_model."""
    if ref.folder or ref.repository:
        return f"local-dir:{_place(ref, weights=True)}", {}
    repository, file, _ = models.open_clip_weights(ref)
    tag, _, revision = ref.tag.partition("@")
    # Where weights were trained with QuickGELU (all of OpenAI's), open_clip only warns.
    options: dict[str, Any] = {"force_quick_gelu": bool(found.preprocess.get("quick_gelu"))}
    if not repository:
        return ref.name, {"pretrained": tag, **options}
    stem = os.path.splitext(file)[0]
    choices = (f"{stem}.safetensors", file) if file else _WEIGHTS
    folder = models.snapshot(repository, revision, choices, ())
    chosen = next(c for pattern in choices for c in _matching(folder, pattern))
    geometry = found.geometry
    preprocess = {
        "mean": geometry.mean,
        "std": geometry.std,
        "interpolation": geometry.interpolation,
        "resize_mode": geometry.resize_mode,
    }
    return ref.name, {"pretrained": chosen, "force_preprocess_cfg": preprocess, **options}


def _matching(folder: str, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))


def _tokenizer(name: str, found: Config) -> Any:
    import open_clip

    wanted = (found.model.get("text_cfg") or {}).get("hf_tokenizer_name")
    folder = name.removeprefix("local-dir:")
    if wanted and folder != name:
        have = any(os.path.isfile(os.path.join(folder, file)) for file in _TOKENIZER_FILES)
        if not have:
            # Not every open_clip folder holds its tokenizer.
            text = found.model["text_cfg"]
            return open_clip.tokenizer.HFTokenizer(
                wanted,
                context_length=text.get("context_length", 77),
                tokenizer_mode=text.get("tokenizer_mode"),
                **(text.get("tokenizer_kwargs") or {}),
            )
    return open_clip.get_tokenizer(name)
