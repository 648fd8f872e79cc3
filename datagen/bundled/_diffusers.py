"""Builds small latent diffusion models in the parts that diffusers is made of, and writes them as
folders of its pipelines."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datagen import store
from datagen.bundled import _edits, _open_clip, _questions

#: Tokens of a text, with its two ends and what fills it up.
LENGTH = 32
#: Channels of latents; pixels along a side that a latent stands for.
CHANNELS = 4
FACTOR = 4
#: Deviation of the noise that latents (of deviation 1) stand when they are decoded.
TOLERATED = 0.12
NAMES = {
    "tinyeditor": "StableDiffusionInstructPix2PixPipeline",
    "tinypainter": "StableDiffusionPipeline",
}
_STEPS = 1000


def tokenizer() -> Any:
    """Whole words of captions and modification texts."""
    return _open_clip.word_tokenizer([*_questions.vocabulary(), ","], LENGTH)


def build_vae(widths: tuple[int, int, int] = (16, 32, 64)) -> Any:
    """An autoencoder with random weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=_edits.SIDE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def build_text(words: Any, width: int, layers: int) -> Any:
    """A text encoder with random weights, for the tokens of ``words``."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=3 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModel._from_config(config, attn_implementation="eager")


def build_unet(widths: tuple[int, int], text_width: int) -> Any:
    """A denoiser with random weights that takes latents and beside them those of a reference.

    widths: of the whole latents, and of those at half their side, where the attention is.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=_edits.SIDE // FACTOR,
        in_channels=2 * CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> Any:
    """The noise of training and the steps of use: cosine, to noise alone, v-prediction."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=_STEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def painters(unet: Any) -> Any:
    """``unet`` for latents alone: what it does where the reference is all zeros, exactly."""
    import torch
    from diffusers import UNet2DConditionModel

    made = UNet2DConditionModel.from_config({**unet.config, "in_channels": CHANNELS})
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = weights["conv_in.weight"][:, :CHANNELS]
    made.load_state_dict(weights)
    return made.to(torch.float32).eval()


def settled(vae: Any, mean: Any, deviation: Any) -> None:
    """Make the latents of ``vae`` have mean 0 and deviation 1 in each channel, exactly: its first
    and last layer of latents take it over. mean, deviation: (channels), as they are."""
    import torch

    with torch.no_grad():
        first, last = vae.quant_conv, vae.post_quant_conv
        first.weight[:CHANNELS] /= deviation[:, None, None, None]
        first.bias[:CHANNELS] = (first.bias[:CHANNELS] - mean) / deviation
        first.weight[CHANNELS:] = 0
        first.bias[CHANNELS:] = 2 * torch.log(torch.tensor(TOLERATED))
        last.bias += last.weight[:, :, 0, 0] @ mean
        last.weight *= deviation[None, :, None, None]


def save(folder: str, parts: Mapping[str, Any]) -> None:
    """Write ``tinyeditor`` and ``tinypainter`` into ``folder``, in half precision, each in one go.

    parts: ``vae``, ``text``, ``unet`` (with a reference) and ``words``.
    """
    import diffusers
    import torch

    for name, kind in NAMES.items():
        unet = parts["unet"] if name == "tinyeditor" else painters(parts["unet"])
        pipeline = getattr(diffusers, kind)(
            vae=parts["vae"], text_encoder=parts["text"], tokenizer=parts["words"], unet=unet,
            scheduler=scheduler(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        beside = os.path.join(folder, f".{name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        pipeline.to(torch.float16).save_pretrained(beside, safe_serialization=True)
        _plain(Path(beside))
        target = os.path.join(folder, name)
        old = os.path.join(folder, f".{name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if os.path.exists(target):
            os.rename(target, old)
        os.rename(beside, target)
        shutil.rmtree(old, ignore_errors=True)
        pipeline.to(torch.float32)


def _plain(folder: Path) -> None:
    """Names that every version of the libraries knows, and no names of this machine."""
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PreTrainedTokenizerFast"]
    told = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    told = {**told, "tokenizer_class": "PreTrainedTokenizerFast"}
    told.pop("backend", None)
    _write(folder / "tokenizer" / "tokenizer_config.json", told)
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        values = index if path.name == "model_index.json" else json.loads(path.read_text())
        for key in ("_name_or_path", "transformers_version"):
            values.pop(key, None)
        _write(path, values)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def _write(path: Path, value: Any) -> None:
    with store.writing(str(path)) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())
