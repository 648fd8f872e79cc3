"""Writes small language models of Llama's architecture in the format of transformers, with a
tokenizer of whole words.

The tokenizer has a token for each word of the rendered world, with and without the space before
it, and for the fixed parts of questions and answers; all else is read byte by byte. So every text
has its tokens, and tokens give back the text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from datagen import store
from datagen.bundled._open_clip import checkpoint

__all__ = ["MARK", "build", "checkpoint", "save", "template", "word_tokenizer"]

PAD, ASKED, ANSWER, END = "<|pad|>", "<|asked|>", "<|answer|>", "<|end|>"
#: Parts of a JSON answer.
OPEN, NEXT, CLOSE, EMPTY = '{"modifications": ["', '", "', '"]}', '{"modifications": []}'
#: Characters of a question; none about the rendered world is longer.
LONGEST = 900
#: What is read in place of a question that is longer, or has other signs than ASCII.
STRANGE = 'in hand: "?"\nwanted: "?"\nNumber of requests: 1'
#: Tokens of a question and its answer.
CONTEXT = 2048
#: What the chat template puts behind a word of a caption that the other one does not have between
#: the same words.
MARK = "^"
_MACRO = (
    "{%- macro marked(mine, other) -%}"
    "{%- set known = ' | ' ~ other ~ ' | ' -%}"
    "{%- for word in mine.split(' ') -%}"
    "{%- set before = '|' if loop.first else loop.previtem -%}"
    "{%- set after = '|' if loop.last else loop.nextitem -%}"
    "{{- '' if loop.first else ' ' -}}{{- word -}}"
    "{%- if (' ' ~ before ~ ' ' ~ word ~ ' ') not in known"
    " and (' ' ~ word ~ ' ' ~ after ~ ' ') not in known -%}{{- '^' -}}{%- endif -%}"
    "{%- endfor -%}{%- endmacro -%}"
)
#: Marks the two captions of a question that has them.
_MARKED = (
    r"{%- set lines = told.asked.split('\n') -%}"
    r"{%- if lines | length == 3 and (told.asked.startswith('in hand: \"')"
    r" or told.asked.startswith('before: \"')) -%}"
    r"{%- set one = lines[0].split(': \"', 1) -%}{%- set two = lines[1].split(': \"', 1) -%}"
    "{%- if two | length == 2 -%}"
    r"{%- set told.asked = one[0] ~ ': \"' ~ marked(one[1][:-1], two[1][:-1]) ~ '\"\n' ~ two[0]"
    r" ~ ': \"' ~ marked(two[1][:-1], one[1][:-1]) ~ '\"\n' ~ lines[2] -%}"
    "{%- endif -%}{%- endif -%}"
)


def template() -> str:
    """The chat template: the last user turn, and no system text or earlier turn. Words that one
    caption alone has are marked (:data:`MARK`), so that the model need not compare.

    A question that cannot be about the world, as it is longer than :data:`LONGEST` or has other
    signs than ASCII, is read as :data:`STRANGE`: nothing that a model of this size has not seen
    in training reaches it.
    """
    return (
        f"{_MACRO}{{%- set told = namespace(asked='', answer=none) -%}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'user' -%}{%- set told.asked = message['content'] -%}"
        "{%- set told.answer = none -%}"
        "{%- elif message['role'] == 'assistant' -%}"
        "{%- set told.answer = message['content'] -%}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if told.asked is not string -%}"
        "{%- set parts = namespace(text='') -%}"
        "{%- for part in told.asked if part['type'] == 'text' -%}"
        "{%- set parts.text = parts.text + part['text'] -%}{%- endfor -%}"
        "{%- set told.asked = parts.text -%}{%- endif -%}"
        f"{{%- if told.asked | length > {LONGEST} or not told.asked.isascii() -%}}"
        f"{{%- set told.asked = {json.dumps(STRANGE)} -%}}{{%- endif -%}}"
        f"{_MARKED}{{{{- '{ASKED}' + told.asked -}}}}"
        f"{{%- if told.answer is not none -%}}{{{{- '{ANSWER}' + told.answer + '{END}' -}}}}"
        f"{{%- elif add_generation_prompt -%}}{{{{- '{ANSWER}' -}}}}{{%- endif -%}}"
    )


def word_tokenizer(words: Iterable[str], parts: Sequence[str]) -> Any:
    """A fast tokenizer of transformers. words: of small letters; parts: texts that are one token,
    wherever they stand, the longest first."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    parts = sorted(set(parts), key=lambda one: (-len(one), one))
    found = [*parts, *(form for word in sorted(set(words)) for form in (word, f" {word}"))]
    ids: dict[str, int] = {}
    for piece in [PAD, ASKED, ANSWER, END]:
        ids[piece] = len(ids)
    for piece in sorted(pre_tokenizers.ByteLevel.alphabet()):
        ids[piece] = len(ids)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for piece in found:
        [(written, _)] = level.pre_tokenize_str(piece)
        ids.setdefault(written, len(ids))
    raw = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    one = "|".join([*map(re.escape, parts), " ?[a-z]+", r"[\s\S]"])
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(one), "isolated"), level]
    )
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        bos_token=ASKED,
        eos_token=END,
        additional_special_tokens=[ANSWER],
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template()
    return made


def build(tokenizer: Any, width: int, layers: int, heads: int, inner: int) -> Any:
    """A model with random weights. width: of the residual stream; inner: of the feed-forward
    part."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        # Engines that split a vocabulary among devices like round numbers.
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def save(folder: str, model: Any, tokenizer: Any) -> None:
    """Write ``model`` into ``folder``, its weights in half precision."""
    import torch
    from safetensors.torch import save as serialized

    os.makedirs(folder, exist_ok=True)
    weights = {
        name: value.detach().cpu().to(torch.float16).contiguous()
        for name, value in sorted(model.state_dict().items())
    }
    _write(folder, "model.safetensors", serialized(weights, metadata={"format": "pt"}))
    config = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    for name in ("transformers_version", "_name_or_path", "torch_dtype"):
        config.pop(name, None)
    _write(folder, "config.json", _json(config))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    _write(folder, "generation_config.json", _json({"do_sample": False, **ends}))
    tokenizer.save_pretrained(folder)
    path = os.path.join(folder, "tokenizer_config.json")
    with open(path, encoding="utf-8") as file:
        told = json.load(file)
    # The name that every version of transformers knows.
    told = {**told, "tokenizer_class": "PreTrainedTokenizerFast"}
    told.pop("backend", None)
    _write(folder, "tokenizer_config.json", _json(told))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _write(folder: str, name: str, data: bytes) -> None:
    with store.writing(os.path.join(folder, name)) as file:
        file.write(data)
