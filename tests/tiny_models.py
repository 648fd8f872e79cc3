"""Small random models in the libraries' own formats, written by the libraries' own code.

Seconds to build, a few megabytes on disk, deterministic. For tests that need a real model to
load and run, but no knowledge in it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from datagen import models

#: A vision transformer of 64 pixels, and a text tower for open_clip's standard tokenizer.
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}

WORDS = str.split(
    "a an the two three red blue green dark white black shirt shirts dress shoe shoes dog cat "
    "man woman running sitting on in with of and at beach grass table is are to from men women"
)


def tiny_open_clip(folder: str | Path, seed: int = 0, **preprocess: Any) -> str:
    """Write an open_clip folder and return its reference (``file:...``).

    ``preprocess`` overrides keys of the folder's ``preprocess_cfg`` (resize_mode, mean, ...).
    """
    models.prepare()
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**TINY_CLIP)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config = {
        "model_cfg": TINY_CLIP,
        "preprocess_cfg": {
            "mean": list(open_clip.OPENAI_DATASET_MEAN),
            "std": list(open_clip.OPENAI_DATASET_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            **preprocess,
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"file:{folder}"


def tiny_sentence_transformer(folder: str | Path, seed: int = 0) -> str:
    """Write a sentence-transformers folder (BERT of 2 layers, mean pooling); its reference."""
    models.prepare()
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as parts
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [f"##{letter}" for letter in letters] + [w for w in WORDS if len(w) > 1]
    torch.manual_seed(seed)
    shape = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with tempfile.TemporaryDirectory() as raw:
        Path(raw, "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        BertTokenizerFast(vocab_file=f"{raw}/vocab.txt").save_pretrained(raw)
        BertModel(shape).save_pretrained(raw)
        transformer = parts.Transformer(raw, max_seq_length=48)
        pooling = parts.Pooling(shape.hidden_size, pooling_mode="mean")
        SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return f"file:{folder}"
