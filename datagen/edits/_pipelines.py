"""Pipelines of diffusers by model reference: found, checked before any weights, loaded.

A pipeline's class stands in its ``model_index.json``, or is named by the setting ``pipeline``; any
class of diffusers does. What a class can be told is read from the signature of its call, so a
setting that it has no argument for is an error before the first row. Weights come from safetensors
alone, and no code of a model's repository runs. How a loaded pipeline is called: ``_calls.py``.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field

from datagen import libraries, models
from datagen.edits import _calls
from datagen.edits._calls import Kind, Loaded, Told
from datagen.errors import DatagenError, nearest
from datagen.models import ModelRef
from datagen.step import Settings

INDEX = "model_index.json"
#: Ways to save memory, as diffusers names them.
Saving = Literal["none", "slicing", "tiling", "model_offload", "sequential_offload"]
_OFFLOADS = ("model_offload", "sequential_offload")
#: Draws noise that no generator governs, so that no picture could be painted twice.
_UNSEEDED = ("DPMSolverSDEScheduler",)
#: Pixels of a side where a pipeline does not say them: those of FLUX.1 and Qwen-Image.
_EDGE = 1024
#: What the tables of diffusers call a kind of pipeline.
_SIBLINGS: dict[Kind, str] = {
    "text": "AUTO_TEXT2IMAGE_PIPELINES_MAPPING",
    "img2img": "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING",
    "inpaint": "AUTO_INPAINT_PIPELINES_MAPPING",
}
_WANTED: dict[Kind, str] = {
    "text": "paints from a text alone",
    "instruct": "takes a picture and an instruction",
    "img2img": "takes a picture and a strength",
    "inpaint": "takes a picture and a mask",
}


class Lora(Settings):
    """A low-rank adapter of a pipeline's weights (arXiv:2106.09685)."""

    #: ``hf:org/name`` or a folder or file: ``file:/path``; safetensors.
    model: str
    #: How strongly it works; 1: as it was trained.
    weight: float = Field(1.0, ge=-4, le=4)
    #: The file, where a folder or repository holds several.
    file: str | None = Field(None, pattern=r"\.safetensors$")


class PipelineSettings(Settings):
    """Which pipeline, where and how it runs, and what it is told for every picture."""

    #: ``hf:org/name``, ``bundled:name``, or a folder of diffusers: ``file:/path``; safetensors.
    model: str
    #: Class of diffusers; null: that of the model's own ``model_index.json``, or its sibling for
    #: what this step does.
    pipeline: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    #: Of the weights' files, such as fp16; null: the plain ones.
    variant: str | None = Field(None, pattern=r"^[\w-]+$")
    #: auto (the first GPU, else the CPU), cpu, cuda, mps.
    device: str = "auto"
    #: auto (bf16 on CUDA, else fp32), fp32, bf16, fp16.
    precision: str = "auto"
    #: none, or one or several of slicing, tiling (of the VAE), model_offload, sequential_offload.
    memory: Saving | tuple[Saving, ...] = "none"
    #: Adapters of the weights; needs the package peft.
    lora: tuple[Lora, ...] = ()
    #: Class of diffusers that takes over the settings of the pipeline's own; null: its own.
    scheduler: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    #: Denoising steps; null: as the pipeline has it.
    steps: int | None = Field(None, ge=1, le=1000)
    #: What the picture shall not show; null: nothing is said.
    negative_prompt: str | None = Field(None, max_length=2000)
    #: [width, height] of the pictures in pixels, references cut to it; or one number: the edge of
    #: a square of as many pixels, references keep their shape. null: that number as the model has
    #: it.
    size: int | tuple[int, int] | None = None
    #: Further arguments of the pipeline's call, by their names.
    arguments: dict[str, bool | int | float | str | None] = Field(default_factory=dict)

    def savings(self) -> tuple[str, ...]:
        """The ways to save memory that are asked for."""
        several = (self.memory,) if isinstance(self.memory, str) else self.memory
        return tuple(one for one in several if one != "none")


class Named:
    """A pipeline as a step names it. Nothing is loaded; it pickles, and a worker loads it.

    told: what the step says beside the pipeline's settings: ``guidance``, ``image_guidance``,
    ``strength``. Raises DatagenError where a reference is not one.
    """

    def __init__(
        self, settings: PipelineSettings, kind: Kind, told: Mapping[str, Told] | None = None
    ) -> None:
        self.settings = settings
        self.kind = kind
        self.told = dict(told or {})
        self.ref = models.parse(settings.model)
        self.loras = [models.parse(one.model) for one in settings.lora]
        for ref in (self.ref, *self.loras):
            if ref.scheme == "open_clip":
                raise DatagenError(f"model '{ref}': a pipeline of diffusers expected")

    def revision(self) -> str:
        """What identifies the weights, adapters included; workers are then held to them."""
        found = [models.revision(ref) for ref in (self.ref, *self.loras)]
        self.ref, *self.loras = map(models.at, (self.ref, *self.loras), found)
        return "+".join(found)

    def faults(self) -> Iterator[str]:
        """What can be seen to be wrong before any weights are loaded; one line each."""
        settings = self.settings
        try:
            self.revision()
            models.check_choices(settings.device, settings.precision)
            index = self.index()
            name = self.class_name(index)
            yield from self._called(name)
            yield from self._scheduled(index)
            for ref, one in zip(self.loras, settings.lora, strict=True):
                if ref.folder:
                    _lora_file(ref, one.file)
        except DatagenError as error:
            yield str(error)
            return
        if sum(one in _OFFLOADS for one in settings.savings()) > 1:
            yield "memory: model_offload or sequential_offload, not both"
        if settings.lora and not hasattr(_diffusers_class(name, str(self.ref)), "set_adapters"):
            yield f"model '{self.ref}': {name} takes no 'lora'"
        if settings.lora and importlib.util.find_spec("peft") is None:
            yield "lora: peft is not installed; needs the extra: pip install 'datagen[diffusion]'"
        if fault := _size_fault(settings.size):
            yield fault

    def _called(self, name: str) -> Iterator[str]:
        """Settings that the class has no argument for."""
        parameters = signature(_diffusers_class(name, str(self.ref)))
        for fault in _calls.faults(self.settings, self.kind, parameters, self.told):
            yield f"model '{self.ref}': {name} {fault}"

    def _scheduled(self, index: Mapping[str, Any]) -> Iterator[str]:
        wanted = self.settings.scheduler
        if wanted is None:
            return
        if wanted in _UNSEEDED:
            yield f"scheduler '{wanted}': its noise follows no seed; name another"
            return
        cls = _scheduler_class(wanted)
        own = _scheduler_class((index.get("scheduler") or [None, cls.__name__])[1])
        fitting = sorted(getattr(own, "_compatibles", []))
        if fitting and wanted not in fitting and wanted != own.__name__:
            yield (
                f"scheduler '{wanted}' does not take over {own.__name__}; "
                f"{nearest(wanted, fitting)}"
            )

    def index(self) -> dict[str, Any]:
        """The pipeline's ``model_index.json``. Raises DatagenError."""
        folder = self.ref.folder or models.snapshot(self.ref.name, self.ref.tag, (INDEX,), ())
        found = _json(folder, INDEX)
        if found is None or not found.get("_class_name"):
            raise DatagenError(
                f"model '{self.ref}': a folder with {INDEX} expected, as diffusers writes it"
            )
        if not isinstance(found["_class_name"], str):
            raise DatagenError(
                f"model '{self.ref}': runs code of its own, which is never done; a model whose "
                "class diffusers has is expected"
            )
        return found

    def class_name(self, index: Mapping[str, Any]) -> str:
        """The class of diffusers that is called. Raises DatagenError where none is known."""
        own = self.settings.pipeline or str(index["_class_name"])
        cls = _diffusers_class(own, str(self.ref))
        if self.settings.pipeline or _fits(self.kind, cls):
            return own
        other = _sibling(self.kind, own)
        if other is not None and _fits(self.kind, other):
            return str(other.__name__)
        raise DatagenError(
            f"model '{self.ref}': {own} is no pipeline that {_WANTED[self.kind]}; name the class "
            "of one that takes these weights with 'pipeline:', or another model"
        )

    def edge(self) -> int:
        """Pixels of a side that the model was trained on, as far as its files say."""
        also = [f"{part}/config.json" for part in ("unet", "transformer", "vae")]
        folder = self.ref.folder or models.snapshot(self.ref.name, self.ref.tag, (INDEX,), also)
        main = _json(folder, also[0]) or _json(folder, also[1]) or {}
        sample = main.get("sample_size")
        sample = min(sample) if isinstance(sample, list) and sample else sample
        vae = _json(folder, also[2]) or {}
        blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [0] * 4
        return int(sample) * 2 ** (len(blocks) - 1) if isinstance(sample, int) else _EDGE

    def load(self) -> Loaded:
        """The pipeline with its weights, on its device. Raises DatagenError."""
        settings = self.settings
        device = models.device(settings.device)
        kind = models.precision(settings.precision, device)
        name = self.class_name(self.index())
        cls = _diffusers_class(name, str(self.ref))
        with libraries.loading(str(self.ref), self.ref.repository):
            libraries.prepare()
            import diffusers
            import torch

            diffusers.utils.logging.set_verbosity_error()
            diffusers.utils.logging.disable_progress_bar()
            kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
            pipeline = cls.from_pretrained(
                self.ref.folder or _downloaded(cls, self.ref, settings.variant),
                dtype=kinds[kind],
                variant=settings.variant,
                use_safetensors=True,
                local_files_only=True,
            )
            pipeline.set_progress_bar_config(disable=True)
            if settings.scheduler:
                scheduler = _scheduler_class(settings.scheduler)
                pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        self._adapt(pipeline)
        with libraries.loading(str(self.ref), self.ref.repository):
            _placed(pipeline, device, settings.savings())
        return Loaded(pipeline, settings, self.kind, signature(cls), self.told)

    def _adapt(self, pipeline: Any) -> None:
        """Give the pipeline its adapters."""
        names = [f"adapter_{number}" for number in range(len(self.loras))]
        chosen = self.settings.lora
        for name, ref, lora in zip(names, self.loras, chosen, strict=True):
            folder, file = _lora_file(ref, lora.file)
            with libraries.loading(str(ref), ref.repository):
                pipeline.load_lora_weights(
                    folder, weight_name=file, adapter_name=name, use_safetensors=True
                )
        if names:
            with libraries.loading(str(self.ref)):
                pipeline.set_adapters(names, adapter_weights=[one.weight for one in chosen])


def load(settings: PipelineSettings, kind: Kind, told: Mapping[str, Told] | None = None) -> Loaded:
    """The pipeline that ``settings`` name, ready to paint. Raises DatagenError."""
    return Named(settings, kind, told).load()


def signature(cls: Any) -> dict[str, Any]:
    """Arguments of a pipeline's call, with their defaults."""
    found = inspect.signature(cls.__call__).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {one.name: one.default for one in found if one.kind in named and one.name != "self"}


# ---------------------------------------------------------------- classes of diffusers


def _diffusers() -> Any:
    with libraries.loading("diffusers"):
        libraries.prepare()
        import diffusers
    return diffusers


def _diffusers_class(name: str, model: str) -> Any:
    """A pipeline's class by name. Raises DatagenError with the nearest one."""
    library = _diffusers()
    found = getattr(library, name, None)
    if not (isinstance(found, type) and issubclass(found, library.DiffusionPipeline)):
        known = [one for one in dir(library) if one.endswith("Pipeline")]
        raise DatagenError(f"model '{model}': pipeline '{name}': {nearest(name, known)}")
    return found


def _scheduler_class(name: str) -> Any:
    """A scheduler's class by name. Raises DatagenError with the nearest one."""
    library = _diffusers()
    found = getattr(library, name, None)
    if not (isinstance(found, type) and issubclass(found, library.SchedulerMixin)):
        known = [one for one in dir(library) if one.endswith("Scheduler")]
        raise DatagenError(f"scheduler '{name}': {nearest(name, known)}")
    return found


def _fits(kind: Kind, cls: Any) -> bool:
    """Whether a class's call takes what is said to a pipeline of the kind."""
    known = signature(cls)
    if "prompt" not in known:
        return False
    picture, mask, strength = (one in known for one in ("image", "mask_image", "strength"))
    if kind == "text":
        return not picture or cls in _table(kind).values()
    if kind == "inpaint":
        return picture and mask
    return picture and not mask and strength == (kind == "img2img")


def _table(kind: Kind) -> Mapping[str, Any]:
    """What diffusers knows of pipelines of the kind, by the name of their family."""
    _diffusers()
    from diffusers.pipelines import auto_pipeline

    return getattr(auto_pipeline, _SIBLINGS.get(kind, ""), {})


def _sibling(kind: Kind, name: str) -> Any:
    """The class that does ``kind`` with the weights of another class; None where none is known."""
    for one in _SIBLINGS:
        for family, cls in _table(one).items():
            if cls.__name__ == name and family in _table(kind):
                return _table(kind)[family]
    return None


# ---------------------------------------------------------------- files and memory


def _json(folder: str, name: str) -> dict[str, Any] | None:
    """A JSON object of a model's folder; None where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _downloaded(cls: Any, ref: ModelRef, variant: str | None) -> str:
    """A folder with the files of a pipeline on the hub: from the local cache where it is there."""
    commit = models.commit(ref.name, ref.tag, str(ref))
    try:
        return str(cls.download(ref.name, revision=commit, variant=variant, use_safetensors=True))
    except Exception:
        # Copied caches lack the hub's list of files; what lies in them may be all the same.
        from huggingface_hub import snapshot_download

        with suppress(Exception):
            return str(snapshot_download(ref.name, revision=commit, local_files_only=True))
        raise


def _lora_file(ref: ModelRef, file: str | None) -> tuple[str, str]:
    """Folder and name of an adapter's weights. Raises DatagenError where it is not one file."""
    folder = ref.folder
    if not folder:
        folder = models.snapshot(ref.name, ref.tag, (file or "*.safetensors",), ("*.json",))
    if os.path.isfile(folder):
        return os.path.split(folder)
    if file is None:
        names = sorted(one for one in os.listdir(folder) if one.endswith(".safetensors"))
        if len(names) != 1:
            raise DatagenError(
                f"lora '{ref}': one .safetensors file expected, {len(names)} found; name it with "
                "'file:'"
            )
        file = names[0]
    if not os.path.isfile(os.path.join(folder, file)):
        raise DatagenError(f"lora '{ref}': holds no file '{file}'")
    return folder, file


def _placed(pipeline: Any, device: str, savings: tuple[str, ...]) -> None:
    """Put the pipeline on its device, with less memory where that is asked for."""
    vae = getattr(pipeline, "vae", None)
    for saving in savings:
        if saving in _OFFLOADS:
            if device == "cpu":
                raise DatagenError(f"memory: {saving} needs a GPU, and the device is cpu")
            how = {"model_offload": "enable_model_cpu_offload"}
            getattr(pipeline, how.get(saving, "enable_sequential_cpu_offload"))(device=device)
            continue
        method = getattr(vae, f"enable_{saving}", None)
        if method is None:
            raise DatagenError(f"memory: {type(vae).__name__} knows no {saving}")
        method()
        if saving == "slicing":
            pipeline.enable_attention_slicing()
    if not set(savings) & set(_OFFLOADS):
        pipeline.to(device)


def _size_fault(size: int | tuple[int, int] | None) -> str | None:
    sides = size if isinstance(size, tuple) else (512 if size is None else size,)
    if all(16 <= side <= 8192 and side % 8 == 0 for side in sides):
        return None
    return f"size: multiples of 8 from 16 to 8192 expected, {size} found"
