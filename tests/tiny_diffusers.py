"""Tiny random pipelines in the format of diffusers, written by its own code, without any hub.

Each builder writes a folder and returns its reference (``file:...``). Pictures have 64 pixels, or
multiples of 64; a picture in two steps takes tenths of a second on a CPU. The weights are random,
and the same for the same seed. For tests of how pipelines are called, not of what they paint.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datagen import models

#: Words that are one token; all others are spelled.
WORDS = str.split(
    "a an the and with on in of at two red blue green dark white black shirt dress shoe dog cat "
    "man woman sea beach grass table sky photo make it turn into left right"
)
#: Characters that have tokens, as byte-level vocabularies hold them.
_LETTERS = sorted({*string.ascii_letters, *string.digits, *string.punctuation})
_PIXELS = 64
#: A picture is so many times larger than its latents.
_SCALE = 8


def tiny_stable_diffusion(folder: str | Path, seed: int = 0, channels: int = 4) -> str:
    """Stable Diffusion 1.x. Its U-Net attends to the text at 8 x 8 and at 4 x 4."""
    diffusers = _library(seed)
    return _saved(folder, diffusers.StableDiffusionPipeline(**_sd_parts(diffusers, channels)))


def tiny_guarded(folder: str | Path, seed: int = 0) -> str:
    """Stable Diffusion with a safety checker, which finds every picture unsafe."""
    diffusers = _library(seed)
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    parts = _sd_parts(diffusers, 4)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    # Cosines are above -2 always.
    checker.concept_embeds_weights.data.fill_(-2.0)
    size = {"height": 32, "width": 32}
    parts |= {
        "safety_checker": checker,
        "feature_extractor": CLIPImageProcessor(size=size, crop_size=size),
        "requires_safety_checker": True,
    }
    return _saved(folder, diffusers.StableDiffusionPipeline(**parts))


def tiny_instruct_pix2pix(folder: str | Path, seed: int = 0) -> str:
    """InstructPix2Pix: the reference's latents stand beside those that are painted."""
    diffusers = _library(seed)
    parts = _sd_parts(diffusers, 8)
    return _saved(folder, diffusers.StableDiffusionInstructPix2PixPipeline(**parts))


def tiny_inpaint(folder: str | Path, seed: int = 0) -> str:
    """Stable Diffusion for inpainting: its U-Net sees the mask and what lies around it."""
    diffusers = _library(seed)
    return _saved(folder, diffusers.StableDiffusionInpaintPipeline(**_sd_parts(diffusers, 9)))


def tiny_sdxl(folder: str | Path, seed: int = 0) -> str:
    """Stable Diffusion XL, with both text encoders."""
    diffusers = _library(seed)
    return _saved(folder, diffusers.StableDiffusionXLPipeline(**_sdxl_parts(diffusers, 4)))


def tiny_sdxl_instruct_pix2pix(folder: str | Path, seed: int = 0) -> str:
    """InstructPix2Pix on Stable Diffusion XL."""
    diffusers = _library(seed)
    parts = _sdxl_parts(diffusers, 8)
    return _saved(folder, diffusers.StableDiffusionXLInstructPix2PixPipeline(**parts))


def tiny_stable_diffusion_3(folder: str | Path, seed: int = 0) -> str:
    """Stable Diffusion 3: a transformer, and three text encoders."""
    diffusers = _library(seed)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=_PIXELS // _SCALE,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
    )
    parts = {
        "transformer": transformer,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "vae": _vae(
            diffusers, 4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609
        ),
        "text_encoder": _clip_text(projection=True),
        "tokenizer": _clip_tokenizer(),
        "text_encoder_2": _clip_text(projection=True),
        "tokenizer_2": _clip_tokenizer(),
        "text_encoder_3": _t5_text(),
        "tokenizer_3": _t5_tokenizer(),
    }
    return _saved(folder, diffusers.StableDiffusion3Pipeline(**parts))


def tiny_flux(folder: str | Path, seed: int = 0) -> str:
    """FLUX.1, which turns to text, img2img and inpainting alike."""
    diffusers = _library(seed)
    return _saved(folder, diffusers.FluxPipeline(**_flux_parts(diffusers, 4)))


def tiny_flux_kontext(folder: str | Path, seed: int = 0) -> str:
    """FLUX.1 Kontext. It makes a megapixel of every picture, unless ``max_area`` says otherwise."""
    diffusers = _library(seed)
    return _saved(folder, diffusers.FluxKontextPipeline(**_flux_parts(diffusers, 4)))


def tiny_flux_fill(folder: str | Path, seed: int = 0) -> str:
    """FLUX.1 Fill: it sees the mask and what lies around it."""
    diffusers = _library(seed)
    # Packed latents, those of the masked picture, and the mask's pixels.
    parts = _flux_parts(diffusers, 4 + 4 + 4 * _SCALE**2)
    return _saved(folder, diffusers.FluxFillPipeline(**parts))


def tiny_qwen_image(folder: str | Path, seed: int = 0) -> str:
    """Qwen-Image."""
    diffusers = _library(seed)
    parts = _qwen_parts(diffusers, _SCALE)
    del parts["processor"]
    return _saved(folder, diffusers.QwenImagePipeline(**parts))


def tiny_qwen_edit(folder: str | Path, seed: int = 0, plus: bool = False) -> str:
    """Qwen-Image-Edit (or -Plus), which makes a megapixel of every reference: seconds a picture."""
    diffusers = _library(seed)
    kind = diffusers.QwenImageEditPlusPipeline if plus else diffusers.QwenImageEditPipeline
    return _saved(folder, kind(**_qwen_parts(diffusers, 4 * _SCALE)))


#: Builders by the pipeline's class, as ``model_index.json`` holds it.
BUILDERS: dict[str, Callable[[str | Path], str]] = {
    "StableDiffusionPipeline": tiny_stable_diffusion,
    "StableDiffusionInstructPix2PixPipeline": tiny_instruct_pix2pix,
    "StableDiffusionInpaintPipeline": tiny_inpaint,
    "StableDiffusionXLPipeline": tiny_sdxl,
    "StableDiffusionXLInstructPix2PixPipeline": tiny_sdxl_instruct_pix2pix,
    "StableDiffusion3Pipeline": tiny_stable_diffusion_3,
    "FluxPipeline": tiny_flux,
    "FluxKontextPipeline": tiny_flux_kontext,
    "FluxFillPipeline": tiny_flux_fill,
    "QwenImagePipeline": tiny_qwen_image,
    "QwenImageEditPipeline": tiny_qwen_edit,
    "QwenImageEditPlusPipeline": lambda folder: tiny_qwen_edit(folder, plus=True),
}


def tiny_clipseg(folder: str | Path, seed: int = 0) -> str:
    """CLIPSeg of transformers: a mask of 64 x 64 for a picture and a text."""
    _library(seed)
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        ViTImageProcessor,
    )

    tokenizer = _clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**text, **size, "num_hidden_layers": 1},
        vision_config={**size, "num_hidden_layers": 3, "image_size": _PIXELS, "patch_size": 16},
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    pixels = ViTImageProcessor(size={"height": _PIXELS, "width": _PIXELS})
    CLIPSegForImageSegmentation(config).eval().save_pretrained(str(folder))
    CLIPSegProcessor(pixels, tokenizer).save_pretrained(str(folder))
    return f"file:{folder}"


# ---------------------------------------------------------------- parts


def _library(seed: int) -> Any:
    models.prepare()
    import diffusers
    import torch

    torch.manual_seed(seed)
    return diffusers


def _saved(folder: str | Path, pipeline: Any) -> str:
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return f"file:{folder}"


def _sd_parts(diffusers: Any, channels: int) -> dict[str, Any]:
    return {
        "unet": _unet(diffusers, channels, cross_attention_dim=32),
        "vae": _vae(diffusers, 4),
        "scheduler": _scheduler(diffusers),
        "text_encoder": _clip_text(),
        "tokenizer": _clip_tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _sdxl_parts(diffusers: Any, channels: int) -> dict[str, Any]:
    unet = _unet(
        diffusers,
        channels,
        # Of both text encoders.
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        # Six numbers of the picture's size and place, and the pooled text.
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return {
        "unet": unet,
        "vae": _vae(diffusers, 4),
        "scheduler": _scheduler(diffusers),
        "text_encoder": _clip_text(),
        "tokenizer": _clip_tokenizer(),
        "text_encoder_2": _clip_text(projection=True),
        "tokenizer_2": _clip_tokenizer(),
    }


def _flux_parts(diffusers: Any, channels: int) -> dict[str, Any]:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=channels,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return {
        "transformer": transformer,
        "vae": _vae(
            diffusers,
            1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0609,
            scaling_factor=1.5035,
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": _clip_text(),
        "tokenizer": _clip_tokenizer(),
        "text_encoder_2": _t5_text(),
        "tokenizer_2": _t5_tokenizer(),
    }


def _qwen_parts(diffusers: Any, scale: int) -> dict[str, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = _qwen_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    deep = scale.bit_length() - 1
    vae = diffusers.AutoencoderKLQwenImage(
        # A megapixel goes through it for every reference.
        base_dim=4,
        z_dim=4,
        dim_mult=[1] * (deep + 1),
        num_res_blocks=1,
        temperal_downsample=[False] * deep,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    # Weights of such sizes say little: let texts be heard and pictures have contrast.
    for part, factor in (
        (transformer.transformer_blocks[0].attn.add_v_proj, 30),
        (transformer.proj_out, 4),
        (vae.decoder.conv_out, 10),
    ):
        part.weight.data.mul_(factor)
    pixels = Qwen2VLImageProcessor(max_pixels=28 * 28 * 16)
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config),
        "tokenizer": tokenizer,
        "processor": Qwen2VLProcessor(pixels, tokenizer, Qwen2VLVideoProcessor()),
    }


def _unet(diffusers: Any, channels: int, **more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=_PIXELS // _SCALE,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(2, 4),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        **more,
    )


def _vae(diffusers: Any, latents: int, **more: Any) -> Any:
    """8 pixels a latent."""
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        sample_size=_PIXELS,
        latent_channels=latents,
        block_out_channels=[8] * _SCALE.bit_length(),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * _SCALE.bit_length(),
        up_block_types=["UpDecoderBlock2D"] * _SCALE.bit_length(),
        **more,
    )


def _scheduler(diffusers: Any) -> Any:
    """That of Stable Diffusion's users: DDIM."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _clip_text(projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        # A multiple of what vectors hold: kernels compute what is left over in another way.
        intermediate_size=32,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    end = "</w>"
    pieces = [*_LETTERS, *(f"{letter}{end}" for letter in _LETTERS)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        ours = [*word[:-1], word[-1] + end]
        while len(ours) > 1:
            merges.append((ours[0], ours[1]))
            ours[:2] = [ours[0] + ours[1]]
            pieces.append(ours[0])
    vocabulary = dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"])
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(vocabulary)},
        merges=list(dict.fromkeys(merges)),
        model_max_length=77,
    )


def _t5_text() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(_t5_tokenizer()),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=4,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config).eval()


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS if len(word) > 1]
    pieces += [(letter, -6.0) for letter in _LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    # Spaces and line ends as byte-level vocabularies hold them.
    letters = [*_LETTERS, "Ġ", "Ċ"]
    tokenizer = Qwen2Tokenizer(
        vocab={letter: number for number, letter in enumerate(letters)}, merges=[]
    )
    marks = ["im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad"]
    tokenizer.add_tokens([f"<|{mark}|>" for mark in marks], special_tokens=True)
    return tokenizer
