"""Small random classifiers of pictures in transformers' own format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datagen import models

#: As ViT's processor: squeezed to a square.
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 28, "width": 28},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def tiny_classifier(folder: str | Path, labels: list[str], seed: int = 0, **config: Any) -> str:
    """Write a ViT with one output a label and return its reference (``file:...``)."""
    models.prepare()
    import torch
    import transformers

    torch.manual_seed(seed)
    shape = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=28,
        patch_size=14,
        id2label=dict(enumerate(labels)),
        label2id={name: at for at, name in enumerate(labels)},
        initializer_range=0.5,
        **config,
    )
    transformers.ViTForImageClassification(shape).save_pretrained(folder)
    Path(folder, "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return f"file:{folder}"
