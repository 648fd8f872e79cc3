"""Small random CLIP and SigLIP models in transformers' own format, and pictures to give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from PIL import Image

from datagen import models

LENGTH = 16
_IMAGE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "image_size": 32}
_TEXT = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 2}


def tiny_clip(folder: str | Path, seed: int = 0) -> str:
    """Write a CLIPModel whose space has 20 dimensions, and return its reference."""
    models.prepare()
    import torch
    import transformers

    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    config = transformers.CLIPConfig(
        text_config={
            **_TEXT,
            **_HEADS,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": LENGTH,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**_IMAGE, **_HEADS, "patch_size": 8},
        projection_dim=20,
    )
    return _written(folder, transformers.CLIPModel(config), tokenizer, "CLIPImageProcessor")


def tiny_siglip(folder: str | Path, seed: int = 0) -> str:
    """Write a SiglipModel whose space has 32 dimensions, and return its reference."""
    models.prepare()
    import torch
    import transformers

    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    config = transformers.SiglipConfig(
        text_config={
            **_TEXT,
            **_HEADS,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": LENGTH,
            "projection_size": 32,
        },
        vision_config={**_IMAGE, **_HEADS, "patch_size": 8},
    )
    return _written(folder, transformers.SiglipModel(config), tokenizer, "SiglipImageProcessor")


def _tokenizer() -> Any:
    from datagen.bundled import _open_clip

    words = dict.fromkeys([*tiny_models.WORDS, "photo", "of", "that"])
    return _open_clip.word_tokenizer(list(words), LENGTH)


def _written(folder: str | Path, model: Any, tokenizer: Any, processor: str) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    crop = {"crop_size": {"height": 32, "width": 32}} if processor[0] == "C" else {}
    size = {"shortest_edge": 32} if crop else {"height": 32, "width": 32}
    told = {
        "image_processor_type": processor,
        "size": size,
        "resample": 3,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        **crop,
    }
    Path(folder, "preprocessor_config.json").write_text(json.dumps(told))
    return f"file:{folder}"


def pictures(folder: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """``count`` random pictures as schema.MEDIA."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    out = []
    for number in range(count):
        path = folder / f"{number}.png"
        # Libraries round odd margins of a crop in different ways.
        long = 64 + 16 * int(random.integers(0, 4))
        shape = (64, long, 3) if number % 2 else (long, 64, 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)
        out.append({"path": str(path), "modality": "image"})
    return out
