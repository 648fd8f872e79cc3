"""How models of the transformers library read asks; vision-language models by their own processor.

:mod:`datagen.chat.local` loads a model and lets it answer; what it is given is made here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from datagen import media, models
from datagen.chat import pictures
from datagen.chat.ask import Ask, one_line
from datagen.errors import DatagenError
from datagen.models import ModelRef

CONFIG = "config.json"
#: By which chat templates are told whether the model shall reason first.
_THINKS = "enable_thinking"


class Unreadable(Exception):
    """Why an ask cannot be put to the model, in one line."""


@dataclass(frozen=True)
class Prompt:
    """An ask as the model's chat template tells it; pictures: ``data:`` addresses, in order."""

    text: str
    tokens: list[int] = field(default_factory=list)
    pictures: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """What batches are put together by."""
        return len(self.pictures), len(self.tokens) or len(self.text)


class Reader(Protocol):
    """Turns asks into what a model takes."""

    tokenizer: Any
    template: Any

    def prompt(self, ask: Ask) -> Prompt:
        """Raises Unreadable."""
        ...

    def inputs(self, prompts: Sequence[Prompt], multiple: int) -> tuple[dict[str, Any], list[int]]:
        """Tensors of a batch, padded on the left to a ``multiple``, and the length of each prompt.

        All have the same number of pictures. Raises Unreadable.
        """
        ...


class Vision:
    """Reads pictures and text, by the model's processor."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoProcessor

        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if not self.processor.chat_template:
            self.processor.chat_template = self.tokenizer.chat_template
        self.template = self.processor.chat_template
        self._special = special(self.tokenizer)
        # Those that stand for pictures are not always told as special.
        own = (getattr(self.processor, f"{kind}_token", None) for kind in ("image", "video"))
        self._special += [str(token) for token in own if token]

    def prompt(self, ask: Ask) -> Prompt:
        shown: list[str] = []
        messages = []
        for message in ask.messages:
            parts = message["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            told: list[dict[str, str]] = []
            for part in parts or ():
                if part["type"] == "text":
                    text = broken_up(part["text"], self._special)
                    told.append({"type": "text", "text": text})
                else:
                    shown.append(part["image_url"]["url"])
                    told.append({"type": "image"})
            messages.append({**message, "content": told})
        return Prompt(rendered(self.processor, messages), pictures=tuple(shown))

    def inputs(self, prompts: Sequence[Prompt], multiple: int) -> tuple[dict[str, Any], list[int]]:
        try:
            images = [[media.decode(pictures.file_of(u)) for u in p.pictures] for p in prompts]
        except (ValueError, media.MediaError) as error:
            raise Unreadable(f"a picture of the ask cannot be read ({one_line(error)})") from error
        try:
            made = self.processor(
                text=[prompt.text for prompt in prompts],
                images=images if images[0] else None,
                padding=True,
                pad_to_multiple_of=multiple,
                add_special_tokens=False,
                return_tensors="pt",
            )
        except Exception as error:  # processors raise what they like
            raise Unreadable(f"the model's processor refuses it ({one_line(error)})") from error
        return dict(made), made["attention_mask"].sum(dim=1).tolist()


def model_class() -> Any:
    """What loads a vision-language model."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText


def rendered(template: Any, messages: list[dict[str, Any]]) -> str:
    """``messages`` by the chat template of a tokenizer or processor. Raises Unreadable.

    Templates of models that reason first, and can be told not to, are told: an answer is JSON, and
    its tokens are counted.
    """
    told = {"enable_thinking": False} if _THINKS in str(template.chat_template) else {}
    try:
        text: str = template.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **told
        )
    except Exception as error:  # templates raise what they like
        raise Unreadable(f"the chat template refuses the messages ({one_line(error)})") from error
    return text


def special(tokenizer: Any) -> list[str]:
    """Texts that the tokenizer takes for special tokens, the longest first."""
    found = set(tokenizer.all_special_tokens)
    found |= {str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return sorted((text for text in found if len(text) > 1), key=lambda one: (-len(one), one))


def broken_up(text: str, tokens: Sequence[str]) -> str:
    """``text`` without the model's special ``tokens``: a space stands within each."""
    text = text.encode("utf-8", "replace").decode()
    for token in tokens:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def configuration(ref: ModelRef) -> dict[str, Any]:
    """What ``config.json`` of a model says. Raises DatagenError where there is none."""
    folder = ref.folder or models.snapshot(ref.name, ref.tag, (CONFIG,), ())
    path = os.path.join(folder, CONFIG)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError("no object")
    except OSError as error:
        raise DatagenError(f"model '{ref}': a folder with {CONFIG} expected") from error
    except ValueError as error:
        raise DatagenError(f"{path}: not a configuration of a model ({error})") from error
    return found


def sees(configuration: Mapping[str, Any]) -> bool:
    """Whether a model takes pictures: those that do have a part of their own for them."""
    return isinstance(configuration.get("vision_config"), Mapping)
