"""What is asked of a language model, what comes back, and what every engine does.

Messages are in OpenAI's chat format: ``role``, and ``content`` as text or as a list of parts. One
ask is the same on every engine; how it travels is the engine's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from datagen.schema import canonical_json

KEY_BYTES = 20
#: Faults, and messages of servers, are cut to this many characters.
MOST_SAID = 300


@dataclass(frozen=True)
class Ask:
    """One question.

    schema: the JSON schema that the answer should follow. Engines that can hold a model to it do;
    others answer freely, so whoever asks checks. max_tokens: of the answer. temperature: 0 takes
    the likeliest token. seed: of the sampling; another seed is another question. stop: texts that
    end the answer, and are no part of it.
    """

    messages: tuple[Mapping[str, Any], ...]
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def key(self, model: str, revision: str = "") -> str:
        """What was asked of whom, as 40 hexadecimal characters: the same ask has the same key."""
        asked = [
            *(model, revision, list(self.messages), self.schema, int(self.max_tokens)),
            *(float(self.temperature), self.seed, list(self.stop)),
        ]
        # Lone surrogates cannot be encoded as UTF-8 and need their escapes.
        data = canonical_json(asked).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=KEY_BYTES, person=b"datagen ask").hexdigest()


@dataclass(frozen=True)
class Answer:
    """What came back: a ``text``, or a ``fault`` of one line that says why there is none.

    Both are there where the text is not what was asked for: cut off at ``max_tokens``, or a
    refusal. Tokens are as the engine counts them (estimated where a server does not say).
    cached: it was asked before, and nothing was sent.
    """

    text: str | None
    fault: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cached: bool = False


#: Told of every answer as it comes: the place of its ask, and the answer. It may be called from
#: another thread, in any order, once for every ask that gets an answer.
Each = Callable[[int, Answer], None]


class Engine(Protocol):
    """Answers asks. It can be pickled before ``open``, which is called once per worker."""

    @property
    def model(self) -> str:
        """The model's name, as it stands in keys and provenance."""
        ...

    @property
    def revision(self) -> str:
        """What identifies its weights; empty where nobody says."""
        ...

    def open(self) -> None:
        """Load the model, or get ready to speak to servers. Raises DatagenError."""

    def answer(self, asks: Sequence[Ask], each: Each | None = None) -> list[Answer]:
        """An answer or a fault for every ask, in their order.

        Raises DatagenError where no ask can be answered any more (a spent budget, a refused key,
        no server in reach); what was answered by then went to ``each``.
        """
        ...

    def close(self) -> None:
        """Give back what ``open`` took; it may be opened again."""


def one_line(text: object, most: int = MOST_SAID) -> str:
    """``text`` of somebody else as one printable line, cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def said(message: Mapping[str, Any]) -> str | None:
    """The text of a message; None where it has parts that are not text."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        return None
    texts = [part.get("text") for part in content if isinstance(part, Mapping)]
    whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
    return "".join(texts) if whole else None  # type: ignore[arg-type]


def size_in_tokens(ask: Ask) -> int:
    """About how many tokens the messages of ``ask`` take; pictures count 1,500 each.

    Three bytes a token is more than English takes and about what other scripts take.
    """
    total = 0
    for message in ask.messages:
        text = said(message)
        if text is None:
            for part in message["content"]:
                kind = part.get("type") if isinstance(part, Mapping) else None
                total += len(json.dumps(part)) // 3 if kind == "text" else 1500
        else:
            total += len(text.encode("utf-8", "replace")) // 3
        total += 8
    return total
