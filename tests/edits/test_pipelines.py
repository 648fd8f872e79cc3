"""Pipelines of diffusers of every class that is known, tiny and random."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datagen.edits._calls import TOGETHER, Call, Kind, Loaded, Told, fitted, kept_shape
from datagen.edits._pipelines import Named, PipelineSettings, load
from datagen.errors import DatagenError

diffusers = pytest.importorskip("diffusers", reason="needs datagen[diffusion]")
import tiny_diffusers  # noqa: E402

SIZE = (64, 64)
#: A difference that is one: random weights paint little contrast, and heed a text a little.
SEEN = 5e-4
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """References of tiny pipelines by class, each built once."""
    folder = tmp_path_factory.mktemp("pipelines")
    built: dict[str, str] = {}

    def of(name: str) -> str:
        if name not in built:
            built[name] = tiny_diffusers.BUILDERS[name](folder / name)
        return built[name]

    return of


def settings(model: str, **more: Any) -> PipelineSettings:
    return PipelineSettings(**{"model": model, "size": SIZE, "steps": 2, "device": "cpu", **more})


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def mask(size: tuple[int, int] = SIZE) -> Image.Image:
    whole = Image.new("L", size, 0)
    whole.paste(255, (0, 0, size[0] // 2, size[1]))
    return whole


def call(seed: int, kind: Kind, **drawn: float) -> Call:
    prompts = ["a red dress", "make it a blue dress on the beach", "a dog and a cat"]
    return Call(
        prompts[seed % 3],
        seed,
        None if kind == "text" else picture(seed),
        mask() if kind == "inpaint" else None,
        SIZE,
        drawn,
    )


KONTEXT = {"_auto_resize": False}
#: Class in the index, kind of step, class that is called, settings besides.
CLASSES: list[tuple[str, Kind, str, dict[str, Any]]] = [
    ("StableDiffusionPipeline", "text", "StableDiffusionPipeline", {}),
    ("StableDiffusionPipeline", "img2img", "StableDiffusionImg2ImgPipeline", {}),
    ("StableDiffusionPipeline", "inpaint", "StableDiffusionInpaintPipeline", {}),
    ("StableDiffusionInpaintPipeline", "inpaint", "StableDiffusionInpaintPipeline", {}),
    (
        "StableDiffusionInstructPix2PixPipeline",
        "instruct",
        "StableDiffusionInstructPix2PixPipeline",
        {},
    ),
    ("StableDiffusionXLPipeline", "text", "StableDiffusionXLPipeline", {}),
    ("StableDiffusionXLPipeline", "img2img", "StableDiffusionXLImg2ImgPipeline", {}),
    ("StableDiffusionXLPipeline", "inpaint", "StableDiffusionXLInpaintPipeline", {}),
    (
        "StableDiffusionXLInstructPix2PixPipeline",
        "instruct",
        "StableDiffusionXLInstructPix2PixPipeline",
        {},
    ),
    ("StableDiffusion3Pipeline", "text", "StableDiffusion3Pipeline", {}),
    ("StableDiffusion3Pipeline", "img2img", "StableDiffusion3Img2ImgPipeline", {}),
    ("FluxPipeline", "text", "FluxPipeline", {}),
    ("FluxPipeline", "img2img", "FluxImg2ImgPipeline", {}),
    ("FluxPipeline", "inpaint", "FluxInpaintPipeline", {}),
    ("FluxFillPipeline", "inpaint", "FluxFillPipeline", {}),
    ("FluxKontextPipeline", "instruct", "FluxKontextPipeline", {"arguments": KONTEXT}),
    (
        "FluxKontextPipeline",
        "inpaint",
        "FluxKontextInpaintPipeline",
        {"arguments": KONTEXT, "pipeline": "FluxKontextInpaintPipeline"},
    ),
    ("QwenImagePipeline", "text", "QwenImagePipeline", {}),
    ("QwenImagePipeline", "img2img", "QwenImageImg2ImgPipeline", {}),
    ("QwenImagePipeline", "inpaint", "QwenImageInpaintPipeline", {}),
    ("QwenImageEditPipeline", "instruct", "QwenImageEditPipeline", {}),
    ("QwenImageEditPlusPipeline", "instruct", "QwenImageEditPlusPipeline", {}),
]
NAMES = [f"{called}-{kind}-of-{index}" for index, kind, called, _ in CLASSES]


@pytest.fixture(scope="module", params=CLASSES, ids=NAMES)
def loaded(tiny: Any, request: pytest.FixtureRequest) -> tuple[str, Loaded]:
    index, kind, called, more = request.param
    told: dict[str, Told] = {"guidance": 3.0}
    if kind in ("img2img", "inpaint"):
        told["strength"] = 0.9
    return called, load(settings(tiny(index), **more), kind, told)


def painted(loaded: Loaded, *seeds: int) -> list[Array]:
    drawn = {"guidance": 3.0}
    if loaded.kind in ("img2img", "inpaint"):
        drawn["strength"] = 0.9
    return [one.pixels for one in loaded([call(seed, loaded.kind, **drawn) for seed in seeds])]


def test_every_class_paints_pictures_of_the_size_that_is_asked(
    loaded: tuple[str, Loaded],
) -> None:
    name, pipeline = loaded
    assert type(pipeline.pipeline).__name__ == name
    assert pipeline.together == (name in TOGETHER)
    alone = painted(pipeline, 1)[0]
    assert alone.shape == (*SIZE, 3)
    assert alone.dtype == np.float32
    assert np.isfinite(alone).all()
    assert 0 <= alone.min() < alone.max() <= 1


def test_a_picture_is_the_same_alone_and_beside_others(loaded: tuple[str, Loaded]) -> None:
    _, pipeline = loaded
    beside = painted(pipeline, 1, 2)
    np.testing.assert_allclose(beside[1], painted(pipeline, 2)[0], atol=2e-5)
    assert np.abs(beside[0] - beside[1]).max() > SEEN


def test_a_picture_hangs_on_its_seed_and_its_text(loaded: tuple[str, Loaded]) -> None:
    _, pipeline = loaded
    first = painted(pipeline, 1)[0]
    own = call(1, pipeline.kind, guidance=3.0)
    if pipeline.kind in ("img2img", "inpaint"):
        own = replace(own, drawn={"guidance": 3.0, "strength": 0.9})
    other = pipeline([replace(own, seed=7)])[0].pixels
    assert np.abs(other - first).max() > SEEN
    other = pipeline([replace(own, prompt="a black shoe on the table")])[0].pixels
    assert np.abs(other - first).max() > SEEN / 50


@pytest.mark.parametrize(
    ("index", "kind"),
    [
        ("StableDiffusionPipeline", "text"),
        ("StableDiffusionXLPipeline", "img2img"),
        ("StableDiffusionPipeline", "inpaint"),
        ("StableDiffusionInstructPix2PixPipeline", "instruct"),
        ("StableDiffusionXLInstructPix2PixPipeline", "instruct"),
        ("StableDiffusion3Pipeline", "text"),
    ],
)
def test_each_picture_of_a_call_has_its_own_guidance(tiny: Any, index: str, kind: Kind) -> None:
    told: dict[str, Told] = {"guidance": (2.0, 9.0)}
    guidances = [{"guidance": 2.5}, {"guidance": 8.0}]
    if kind == "instruct":
        told["image_guidance"] = (1.0, 2.0)
        guidances = [one | {"image_guidance": 1.25 + at / 2} for at, one in enumerate(guidances)]
    if kind in ("img2img", "inpaint"):
        told["strength"] = 1.0
        guidances = [one | {"strength": 1.0} for one in guidances]
    pipeline = load(settings(tiny(index)), kind, told)
    assert pipeline.together
    calls = [call(at, kind, **drawn) for at, drawn in enumerate(guidances)]
    beside = [one.pixels for one in pipeline(calls)]
    for one, found in zip(calls, beside, strict=True):
        np.testing.assert_allclose(found, pipeline([one])[0].pixels, atol=2e-5)
    swapped = pipeline([replace(calls[0], drawn=guidances[1])])[0].pixels
    assert np.abs(swapped - beside[0]).max() > SEEN


def test_a_guidance_that_is_none_is_the_same_beside_others(tiny: Any) -> None:
    told: dict[str, Told] = {"guidance": (0.0, 9.0), "image_guidance": (0.5, 2.0)}
    reference = tiny("StableDiffusionInstructPix2PixPipeline")
    pipeline = load(settings(reference), "instruct", told)
    for low in ({"guidance": 0.5, "image_guidance": 1.5}, {"guidance": 8.0, "image_guidance": 0.6}):
        own, other = call(1, "instruct", **low), call(2, "instruct", guidance=8, image_guidance=1.5)
        alone, beside = pipeline([own])[0].pixels, pipeline([own, other])[0].pixels
        np.testing.assert_allclose(beside, alone, atol=2e-5)


@pytest.mark.parametrize(
    ("index", "kind", "more", "told"),
    [
        ("FluxKontextPipeline", "instruct", {}, {"guidance": (2.0, 4.0)}),
        ("StableDiffusionPipeline", "img2img", {}, {"strength": (0.5, 0.9)}),
        ("StableDiffusionInstructPix2PixPipeline", "instruct", {"size": 64}, {}),
    ],
)
def test_what_one_call_cannot_hold_is_painted_one_by_one(
    tiny: Any, index: str, kind: Kind, more: dict[str, Any], told: dict[str, Told]
) -> None:
    assert not load(settings(tiny(index), **more), kind, told).together


def test_pictures_that_keep_their_shape_are_painted_in_it(tiny: Any) -> None:
    reference = tiny("StableDiffusionInstructPix2PixPipeline")
    pipeline = load(settings(reference, size=64), "instruct")
    wide, high = (fitted(picture(3, size), 64) for size in ((300, 150), (150, 300)))
    calls = [Call("a dog", 1, wide), Call("a dog", 1, high)]
    assert [one.pixels.shape for one in pipeline(calls)] == [(32, 96, 3), (96, 32, 3)]


def test_what_a_safety_checker_finds_is_told(tmp_path: Path) -> None:
    pipeline = load(settings(tiny_diffusers.tiny_guarded(tmp_path)), "text")
    found = pipeline([call(1, "text"), call(2, "text")])
    assert [one.unsafe for one in found] == [True, True]
    assert all(one.pixels.max() == 0 for one in found)


def test_a_negative_prompt_is_heeded(tiny: Any) -> None:
    reference = tiny("StableDiffusionPipeline")
    plain = load(settings(reference), "text")
    other = load(settings(reference, negative_prompt="a cat at the sea"), "text")
    first, second = (one([call(1, "text", guidance=5.0)])[0].pixels for one in (plain, other))
    assert np.abs(first - second).max() > SEEN


def test_a_scheduler_takes_over_the_settings_of_the_other(tiny: Any) -> None:
    chosen = settings(tiny("StableDiffusionPipeline"), scheduler="EulerDiscreteScheduler")
    scheduler = load(chosen, "text").pipeline.scheduler
    assert type(scheduler).__name__ == "EulerDiscreteScheduler"
    assert scheduler.config.beta_schedule == "scaled_linear"


@pytest.mark.parametrize("scheduler", ["EulerAncestralDiscreteScheduler", "DDPMScheduler"])
def test_noise_between_steps_is_each_pictures_own(tiny: Any, scheduler: str) -> None:
    chosen = settings(tiny("StableDiffusionPipeline"), scheduler=scheduler, steps=4)
    pipeline = load(chosen, "text")
    for seed, found in zip((1, 2), painted(pipeline, 1, 2), strict=True):
        np.testing.assert_allclose(found, painted(pipeline, seed)[0], atol=2e-5)


@pytest.mark.parametrize("memory", ["slicing", "tiling", ("slicing", "tiling")])
def test_saving_memory_changes_no_picture(tiny: Any, memory: Any) -> None:
    reference = tiny("StableDiffusionPipeline")
    plain, saving = (load(settings(reference, memory=how), "text") for how in ("none", memory))
    for first, second in zip(painted(plain, 1, 2), painted(saving, 1, 2), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4)


def test_offloading_needs_a_gpu(tiny: Any) -> None:
    wanted = settings(tiny("StableDiffusionPipeline"), memory="model_offload")
    with pytest.raises(DatagenError, match="model_offload needs a GPU"):
        load(wanted, "text")


# ---------------------------------------------------------------- before any weights


@pytest.mark.parametrize(
    ("index", "kind", "more", "told", "words"),
    [
        (
            "StableDiffusionInstructPix2PixPipeline",
            "instruct",
            {},
            {"strength": 0.5},
            "StableDiffusionInstructPix2PixPipeline takes no 'strength'.*image_guidance_scale",
        ),
        ("FluxKontextPipeline", "instruct", {}, {"image_guidance": 1.5}, "image_guidance_scale"),
        ("FluxFillPipeline", "inpaint", {"negative_prompt": "x"}, {}, "takes no 'negative_prompt'"),
        ("FluxPipeline", "text", {"negative_prompt": "x"}, {}, "true_cfg_scale: …} above 1"),
        ("FluxPipeline", "text", {"arguments": {"max_aera": 4096}}, {}, "takes no 'max_aera'"),
        ("FluxPipeline", "text", {"arguments": {"width": 64}}, {}, "'width' by 'size'"),
        ("FluxPipeline", "text", {"arguments": {"latents": 1}}, {}, "cannot be told 'latents'"),
        ("StableDiffusionPipeline", "text", {"arguments": {"guidance_scale": 2}}, {}, "'guidance'"),
        ("StableDiffusionPipeline", "instruct", {}, {}, "no pipeline that takes a picture and an"),
        (
            "StableDiffusionInstructPix2PixPipeline",
            "inpaint",
            {},
            {},
            "takes a picture and a mask",
        ),
        (
            "StableDiffusionPipeline",
            "text",
            {"pipeline": "StableDifusionPipeline"},
            {},
            "StableDiffusionPipeline",
        ),
        (
            "StableDiffusionPipeline",
            "text",
            {"pipeline": "AutoencoderKL"},
            {},
            "pipeline 'AutoencoderKL'",
        ),
        (
            "StableDiffusionPipeline",
            "text",
            {"scheduler": "EulerDiscreteSheduler"},
            {},
            "EulerDiscreteScheduler",
        ),
        (
            "StableDiffusionPipeline",
            "text",
            {"scheduler": "FlowMatchEulerDiscreteScheduler"},
            {},
            "does not take over DDIMScheduler",
        ),
        (
            "StableDiffusionPipeline",
            "text",
            {"scheduler": "DPMSolverSDEScheduler"},
            {},
            "follows no seed",
        ),
        (
            "StableDiffusionPipeline",
            "text",
            {"memory": ("model_offload", "sequential_offload")},
            {},
            "not both",
        ),
        (
            "StableDiffusionXLPipeline",
            "img2img",
            {"steps": 2},
            {"strength": (0.4, 0.9)},
            "no step left: 2 steps at a strength of 0.4",
        ),
        ("StableDiffusionXLPipeline", "img2img", {"steps": 2}, {}, "at a strength of 0.3"),
        ("StableDiffusionPipeline", "text", {"device": "gpu"}, {}, "device 'gpu'"),
        ("StableDiffusionPipeline", "text", {"size": 65}, {}, "multiples of 8"),
    ],
)
def test_what_a_pipeline_cannot_be_told_is_an_error_before_it_is_loaded(
    tiny: Any, index: str, kind: Kind, more: dict[str, Any], told: dict[str, Told], words: str
) -> None:
    (fault,) = Named(settings(tiny(index), **more), kind, told).faults()
    assert re.search(words, fault)
    assert "\n" not in fault


@pytest.mark.parametrize(("index", "kind", "called", "more"), CLASSES, ids=NAMES)
def test_a_sound_step_has_no_fault(
    tiny: Any, index: str, kind: Kind, called: str, more: dict[str, Any]
) -> None:
    told: dict[str, Told] = {"guidance": (2.0, 7.0)}
    if kind in ("img2img", "inpaint"):
        told["strength"] = (0.5, 1.0)
    named = Named(settings(tiny(index), **more), kind, told)
    assert list(named.faults()) == []
    assert named.class_name(named.index()) == called


def test_faults_need_no_weights(tiny: Any, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny("StableDiffusionPipeline").removeprefix("file:"), folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    named = Named(settings(f"file:{folder}"), "img2img", {"strength": 0.5})
    assert list(named.faults()) == []
    assert named.edge() == 64
    with pytest.raises(DatagenError, match="cannot be loaded"):
        named.load()


def test_a_pipeline_as_it_is_named_pickles_and_names_its_weights(tiny: Any) -> None:
    named = Named(settings(tiny("StableDiffusionPipeline")), "text")
    found = named.revision()
    assert found.startswith("sha256:")
    assert cloudpickle.loads(cloudpickle.dumps(named)).revision() == found


def test_a_folder_that_is_no_pipeline_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (fault,) = Named(settings(f"file:{tmp_path}"), "text").faults()
    assert "model_index.json expected" in fault
    with pytest.raises(DatagenError, match="a pipeline of diffusers expected"):
        Named(settings("open_clip:ViT-B-32/openai"), "text")


def test_weights_that_are_pickled_are_refused(tiny: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "pickled"
    shutil.copytree(tiny("StableDiffusionPipeline").removeprefix("file:"), folder)
    (weights,) = (folder / "unet").glob("*.safetensors")
    weights.unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(DatagenError, match="cannot be loaded"):
        load(settings(f"file:{folder}"), "text")


def test_code_that_a_model_brings_along_never_runs(tiny: Any, tmp_path: Path) -> None:
    folder = tmp_path / "coded"
    shutil.copytree(tiny("StableDiffusionPipeline").removeprefix("file:"), folder)
    code = "open(__file__ + '.ran', 'w')\nfrom diffusers import UNet2DConditionModel as Mine\n"
    (folder / "unet" / "mine.py").write_text(code)
    (folder / "mine.py").write_text(code)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["mine", "Mine"]}))
    with pytest.raises(DatagenError):
        load(settings(f"file:{folder}"), "text")
    own = {"_class_name": ["mine", "Mine"]}
    (folder / "model_index.json").write_text(json.dumps(index | own))
    (fault,) = Named(settings(f"file:{folder}"), "text").faults()
    assert "runs code of its own" in fault
    assert not list(folder.rglob("*.ran"))


def test_a_model_of_the_hub_comes_from_the_local_cache(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    at = tmp_path / "models--someone--tiny"
    shutil.copytree(
        tiny("StableDiffusionPipeline").removeprefix("file:"), at / "snapshots" / commit
    )
    (at / "refs").mkdir()
    (at / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    named = Named(settings("hf:someone/tiny"), "text")
    assert named.revision() == commit
    assert list(named.faults()) == []
    found = named.load()([call(1, "text")])[0].pixels
    local = load(settings(tiny("StableDiffusionPipeline")), "text")([call(1, "text")])[0].pixels
    assert np.array_equal(found, local)


# ---------------------------------------------------------------- adapters


def lora(folder: Path, reference: str, seed: int) -> str:
    """A random adapter of a pipeline's attention, as peft writes it."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft", reason="needs datagen[diffusion]")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(reference.removeprefix("file:"))
    torch.manual_seed(seed)
    wanted = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipeline.unet.add_adapter(wanted)
    layers = peft.get_peft_model_state_dict(pipeline.unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(str(folder), unet_lora_layers=layers)
    return f"file:{folder}"


def test_an_adapter_changes_the_picture_by_its_weight(tiny: Any, tmp_path: Path) -> None:
    reference = tiny("StableDiffusionPipeline")
    first, second = (lora(tmp_path / str(seed), reference, seed) for seed in (1, 2))
    plain = painted(load(settings(reference), "text"), 1)[0]
    chosen = [
        ({"model": first, "weight": 0.0}, {"model": second, "weight": 0.0}),
        ({"model": first},),
        ({"model": first}, {"model": second}),
    ]
    found = [painted(load(settings(reference, lora=one), "text"), 1)[0] for one in chosen]
    np.testing.assert_allclose(found[0], plain, atol=1e-5)
    assert np.abs(found[1] - plain).max() > 1 / 255
    assert np.abs(found[2] - found[1]).max() > 1 / 255


def test_an_adapter_belongs_to_the_revision(tiny: Any, tmp_path: Path) -> None:
    reference = tiny("StableDiffusionPipeline")
    adapter = lora(tmp_path, reference, 1)
    plain = Named(settings(reference), "text").revision()
    named = Named(settings(reference, lora=({"model": adapter},)), "text")
    assert named.revision().startswith(f"{plain}+sha256:")
    assert list(named.faults()) == []
    shutil.copy(tmp_path / "pytorch_lora_weights.safetensors", tmp_path / "other.safetensors")
    (fault,) = named.faults()
    assert "one .safetensors file expected, 2 found" in fault
    chosen = {"model": adapter, "file": "third.safetensors"}
    (fault,) = Named(settings(reference, lora=(chosen,)), "text").faults()
    assert "holds no file 'third.safetensors'" in fault


# ---------------------------------------------------------------- sizes


@given(st.integers(16, 4000), st.integers(16, 4000), st.sampled_from([64, 256, 512, 1024]))
def test_a_kept_shape_has_the_pixels_that_are_asked(width: int, height: int, edge: int) -> None:
    wide, high = kept_shape((width, height), edge)
    assert wide % 32 == high % 32 == 0
    if 1 / 4 <= width / height <= 4 and edge >= 256:
        assert 0.75 < wide * high / edge**2 < 1.34
        assert 0.75 < (wide / high) / (width / height) < 1.34


def test_a_picture_is_cut_around_its_middle() -> None:
    wide = Image.new("RGB", (300, 100))
    wide.paste((255, 0, 0), (100, 0, 200, 100))
    found = np.asarray(fitted(wide, (100, 100)))
    assert (found == (255, 0, 0)).all()
    assert fitted(wide, 96).size == (160, 64)
    assert fitted(picture(1).convert("L"), SIZE).mode == "RGB"
