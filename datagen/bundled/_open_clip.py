"""Writes models in open_clip's own folder format, with a tokenizer of whole words."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from datagen import store
from datagen.models import OPEN_CLIP_CONFIG

#: Padding comes first and the end last: open_clip reads a text at its highest id.
PAD, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[BOS]", "[EOS]"


def word_tokenizer(words: Sequence[str], length: int) -> Any:
    """A fast tokenizer of transformers with one id for each of ``words``; all others are unknown.

    Texts are put in lower case, and what is neither a letter, a digit nor a comma parts words.
    length: tokens of a text, with its two ends.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: at for at, word in enumerate([PAD, UNKNOWN, BEGIN, *words, END])}
    raw = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    raw.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z0-9,]+"), " ")]
    )
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, ids[BEGIN]), (END, ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        model_max_length=length,
        padding_side="right",
        truncation_side="right",
    )


def encode_text(model: Any, tokens: Any, parts: int = 4) -> Any:
    """What ``model.encode_text`` gives, without the cost of padding: texts of about one length go
    through the model together, in so many ``parts``."""
    import torch

    ends = tokens.argmax(dim=-1)
    order = ends.argsort()
    found = [_encode(model, tokens[rows], ends[rows]) for rows in order.chunk(parts) if len(rows)]
    return torch.cat(found)[order.argsort()]


def _encode(model: Any, tokens: Any, ends: Any) -> Any:
    import torch

    length = int(ends.max()) + 1
    found = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    found = model.transformer(found, attn_mask=model.attn_mask[:length, :length])
    found = model.ln_final(found)
    return found[torch.arange(len(ends), device=ends.device), ends] @ model.text_projection


def save(folder: str, model: Any, config: Mapping[str, Any], tokenizer: Any) -> None:
    """Write ``model`` (an open_clip CLIP) into ``folder``, its weights in half precision.

    config: ``model_cfg`` and ``preprocess_cfg``.
    """
    import torch
    from safetensors.torch import save as serialized

    os.makedirs(folder, exist_ok=True)
    weights = {
        name: value.detach().cpu().to(torch.float16).contiguous()
        for name, value in sorted(model.state_dict().items())
    }
    _write(os.path.join(folder, "open_clip_model.safetensors"), serialized(weights))
    text = json.dumps(config, indent=2) + "\n"
    _write(os.path.join(folder, OPEN_CLIP_CONFIG), text.encode())
    tokenizer.save_pretrained(folder)
    path = os.path.join(folder, "tokenizer_config.json")
    with open(path, encoding="utf-8") as file:
        told = json.load(file)
    # The name that every version of transformers knows.
    told = {**told, "tokenizer_class": "PreTrainedTokenizerFast"}
    told.pop("backend", None)
    _write(path, (json.dumps(told, indent=2) + "\n").encode())


def checkpoint(path: str, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, to be read again with ``torch.load(weights_only=True)``."""
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    _write(path, buffer.getvalue())


def _write(path: str, data: bytes) -> None:
    with store.writing(path) as file:
        file.write(data)
