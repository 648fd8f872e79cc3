"""How a pipeline of diffusers is called: one interface over the arguments of all classes.

Pictures that differ in nothing but text, seed and reference are painted in one call where the
class is known to paint each of them as it would alone; all others one by one. Which of both it is
hangs on the settings only, never on what stands in a batch, so a picture is the same in any batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps

from datagen.edits._guidance import EachGuidance

if TYPE_CHECKING:
    from datagen.edits._pipelines import PipelineSettings

Array = np.ndarray[Any, Any]
#: text: paints from a text; instruct: a picture after an instruction; img2img: a picture again,
#: more or less freely; inpaint: what a mask covers.
Kind = Literal["text", "instruct", "img2img", "inpaint"]
#: A number, or a range [low, high] from which each picture draws its own; None: the pipeline's.
Told = float | tuple[float, float] | None

#: Classes that paint several pictures in a call as they paint each alone: tried on small weights.
TOGETHER = frozenset(
    {
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLInstructPix2PixPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxKontextPipeline",
    }
)
#: Those of them that multiply by their guidance, so that each picture may have its own.
GUIDED = frozenset(name for name in TOGETHER if name.startswith("StableDiffusion"))
#: Sides of pictures that keep their shape are multiples of it: what all pipelines take.
STEP = 32
_GUIDANCES = {"guidance", "image_guidance"}
#: Arguments that a step gives by itself, and how it is told to.
_OURS = {
    "prompt": "the rows' texts",
    "image": "the rows' pictures",
    "mask_image": "the rows' masks",
    "num_inference_steps": "'steps'",
    "negative_prompt": "'negative_prompt'",
    "height": "'size'",
    "width": "'size'",
    "generator": "the run's seed",
    "strength": "'strength'",
    "image_guidance_scale": "'image_guidance'",
    "num_images_per_prompt": "'samples'",
}
#: Arguments that hold what no recipe can.
_INNER = ("latents", "embeds", "callback", "output_type", "return_dict", "ip_adapter", "timesteps")


@dataclass(frozen=True)
class Call:
    """One picture to be painted.

    prompt: a text; seed: of its noise, 63 bits; image: the picture that it starts from, RGB; mask:
    of the same size, L, white where it is painted anew; size: (width, height) of the result, None:
    of the image, or the pipeline's own; drawn: ``guidance``, ``image_guidance``, ``strength``.
    """

    prompt: str
    seed: int
    image: Image.Image | None = None
    mask: Image.Image | None = None
    size: tuple[int, int] | None = None
    drawn: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """pixels: float32 (height, width, 3), 0 to 1 unless the model failed; unsafe: what the
    pipeline's safety checker says of it, False where it has none.
    """

    pixels: Array
    unsafe: bool = False


class Loaded:
    """A pipeline with its weights. Call it with what is to be painted."""

    def __init__(
        self,
        pipeline: Any,
        settings: PipelineSettings,
        kind: Kind,
        parameters: Mapping[str, Any],
        told: Mapping[str, Told],
    ) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.kind = kind
        self.parameters = parameters
        name = type(pipeline).__name__
        # A U-Net that is told its guidance is told one for all pictures.
        one = getattr(_config(pipeline), "time_cond_proj_dim", None) is not None
        self._guided = name in GUIDED and not one
        self._most = {word: value[1] for word, value in told.items() if isinstance(value, tuple)}
        #: Whether pictures of one size, such as samples of one row, are painted in one call.
        self.alike = able(name, told) and not one
        #: Whether those of all rows are.
        self.together = self.alike and one_size(settings, kind)

    def __call__(self, calls: Sequence[Call]) -> list[Picture]:
        """The pictures of ``calls``, in their order."""
        sizes = {call.size or (call.image.size if call.image else None) for call in calls}
        if calls and (self.together or (self.alike and len(sizes) == 1)):
            return self.at_once(calls)
        return [one for call in calls for one in self._painted([call], self._single(call))]

    def at_once(self, calls: Sequence[Call], **more: Any) -> list[Picture]:
        """The pictures of ``calls`` by one call of the pipeline, whatever its class.

        more: further arguments of that call.
        """
        return self._painted(calls, self._several(calls) | more)

    def _painted(self, calls: Sequence[Call], varying: Mapping[str, Any]) -> list[Picture]:
        found = self.pipeline(**self._shared(calls), **varying)
        unsafe = getattr(found, "nsfw_content_detected", None) or [False] * len(calls)
        pixels = [np.asarray(one, dtype=np.float32) for one in found.images]
        return [Picture(one, bool(flag)) for one, flag in zip(pixels, unsafe, strict=True)]

    def _shared(self, calls: Sequence[Call]) -> dict[str, Any]:
        """Arguments that a call has one of."""
        settings, known, call = self.settings, self.parameters, calls[0]
        out: dict[str, Any] = {"output_type": "np"}
        if settings.steps is not None:
            out["num_inference_steps"] = settings.steps
        size = call.size or (call.image.size if call.image else None)
        if size is not None and {"height", "width"} <= known.keys():
            out["width"], out["height"] = size
        if size is not None and "max_area" in known:
            # FLUX.1 Kontext would make a megapixel of every picture.
            out["max_area"] = size[0] * size[1]
        for word in call.drawn:
            out[argument(word, known)] = self._drawn(word, [one.drawn[word] for one in calls])
        return out | dict(settings.arguments)

    def _drawn(self, word: str, each: Sequence[float]) -> float:
        """What a pipeline is told of the numbers that the pictures of a call have drawn."""
        most = self._most.get(word) if self._guided and word in _GUIDANCES else None
        if most is not None:
            return EachGuidance(each, most)
        return each[0] if len({*each}) == 1 else EachGuidance(each)

    def _several(self, calls: Sequence[Call]) -> dict[str, Any]:
        out: dict[str, Any] = {
            "prompt": [one.prompt for one in calls],
            "generator": [_generator(one.seed) for one in calls],
        }
        if self.kind != "text":
            out["image"] = [one.image for one in calls]
        if self.kind == "inpaint":
            out["mask_image"] = [one.mask for one in calls]
        negative = self._negative()
        return out if negative is None else out | {"negative_prompt": [negative] * len(calls)}

    def _single(self, call: Call) -> dict[str, Any]:
        out: dict[str, Any] = {"prompt": call.prompt, "generator": _generator(call.seed)}
        if self.kind != "text":
            out["image"] = call.image
        if self.kind == "inpaint":
            out["mask_image"] = call.mask
        negative = self._negative()
        return out if negative is None else out | {"negative_prompt": negative}

    def _negative(self) -> str | None:
        """What pictures shall not show. Qwen-Image is guided only where something is said."""
        true = argument("guidance", self.parameters) == "true_cfg_scale"
        return self.settings.negative_prompt or (" " if true else None)


def able(name: str, told: Mapping[str, Told]) -> bool:
    """Whether a class paints several pictures of one size in one call, by what a step tells it.

    All pictures of a call have one strength, and one guidance too where the class does not multiply
    by it.
    """
    drawn = {word for word, value in told.items() if isinstance(value, tuple)}
    return name in TOGETHER and drawn <= (_GUIDANCES if name in GUIDED else set())


def one_size(settings: PipelineSettings, kind: Kind) -> bool:
    """Whether all pictures have one size, whatever the references'."""
    return kind == "text" or isinstance(settings.size, tuple)


def argument(word: str, parameters: Mapping[str, Any]) -> str:
    """What a pipeline calls ``guidance``, ``image_guidance`` or ``strength``.

    Where a pipeline has two kinds of guidance, FLUX.1's is the one that it was distilled with, and
    that of Qwen-Image, which has none of these by default, the true one.
    """
    if word == "guidance" and "true_cfg_scale" in parameters:
        distilled = parameters.get("guidance_scale") is not None
        return "guidance_scale" if distilled else "true_cfg_scale"
    return {"strength": "strength"}.get(word, f"{word}_scale")


def faults(
    settings: PipelineSettings, kind: Kind, parameters: Mapping[str, Any], told: Mapping[str, Told]
) -> Iterator[str]:
    """What settings say that a pipeline of these ``parameters`` cannot be told."""
    known = sorted(one for one in parameters if not any(part in one for part in _INNER))
    wanted = {"prompt": "a text"}
    if kind != "text":
        wanted["image"] = "a picture"
    if kind == "inpaint":
        wanted["mask_image"] = "a mask"
    if settings.steps is not None:
        wanted["num_inference_steps"] = "'steps'"
    if settings.negative_prompt is not None:
        wanted["negative_prompt"] = "'negative_prompt'"
    wanted |= {argument(w, parameters): f"'{w}'" for w, v in told.items() if v is not None}
    wanted |= {name: "'arguments'" for name in settings.arguments if name not in _OURS}
    for name, why in wanted.items():
        if name not in parameters:
            yield f"takes no '{name}' (for {why}); it takes {', '.join(known)}"
    ours = {**_OURS, argument("guidance", parameters): "'guidance'"}
    for name in settings.arguments:
        if name in ours:
            yield f"is told '{name}' by {ours[name]}, not by 'arguments'"
        elif any(part in name for part in _INNER):
            yield f"cannot be told '{name}' by a recipe"
    yield from _no_step(settings, parameters, told)
    said = {"true_cfg_scale", argument("guidance", parameters)} & settings.arguments.keys()
    true = argument("guidance", parameters) == "true_cfg_scale" or said
    if settings.negative_prompt and "true_cfg_scale" in parameters and not true:
        yield "heeds a negative_prompt only with arguments: {true_cfg_scale: …} above 1"


def _no_step(
    settings: PipelineSettings, parameters: Mapping[str, Any], told: Mapping[str, Told]
) -> Iterator[str]:
    """A strength so small that none of the steps is left."""
    steps = settings.steps or parameters.get("num_inference_steps")
    strength = told.get("strength")
    strength = parameters.get("strength") if strength is None else strength
    low = strength[0] if isinstance(strength, tuple) else strength
    if isinstance(low, float) and isinstance(steps, int) and int(low * steps) < 1:
        yield f"has no step left: {steps} steps at a strength of {low:g}; raise one of them"


def fitted(picture: Image.Image, size: int | tuple[int, int], step: int = STEP) -> Image.Image:
    """``picture`` in RGB as a pipeline takes it.

    size: (width, height), to which it is cut around its middle; or the edge of a square of as many
    pixels: it keeps its shape but for what sides that are multiples of ``step`` cut off.
    """
    if isinstance(size, int):
        size = kept_shape(picture.size, size, step)
    if picture.size == size:
        return picture.convert("RGB")
    return ImageOps.fit(picture.convert("RGB"), size, Image.Resampling.LANCZOS)


def kept_shape(own: tuple[int, int], edge: int, step: int = STEP) -> tuple[int, int]:
    """Sides in the proportion of ``own``, of about edge x edge pixels, multiples of ``step``."""
    width, height = own
    scale = edge / (width * height) ** 0.5
    wide, high = (max(step, round(side * scale / step) * step) for side in (width, height))
    return wide, high


def _config(pipeline: Any) -> Any:
    """The configuration of what denoises."""
    part = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    return getattr(part, "config", None)


def _generator(seed: int) -> Any:
    """Noise of a seed, the same on every device."""
    import torch

    return torch.Generator("cpu").manual_seed(seed)
