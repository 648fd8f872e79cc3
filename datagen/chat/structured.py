"""Asks for JSON: every answer is checked against its schema, and a wrong one is asked for again.

What an engine promises about structured output is not relied on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from datagen.chat.answers import MOST, NotJson, Shape, shown
from datagen.chat.ask import Answer, Ask, Engine
from datagen.chat.subject import Data
from datagen.schema import canonical_json

#: Rules by which a row without a right answer fails.
NO_ANSWER = "no_answer"
NOT_JSON = "not_json"
WRONG_SHAPE = "wrong_shape"
#: Those of answers that came and are no good.
WRONG = (NOT_JSON, WRONG_SHAPE)
#: Characters of a wrong answer that are quoted to the model.
_QUOTED = 4000


@dataclass(frozen=True)
class Reply:
    """The object that was asked for; or the rule by which there is none, and a detail with the
    raw answer (one line, bounded).
    """

    value: dict[str, Any] | None
    rule: str | None = None
    detail: str | None = None


def replies(engine: Engine, asks: Sequence[Ask], shape: Shape) -> list[Reply]:
    """A reply for every ask, in their order; wrong answers get one attempt to be put right.

    Raises DatagenError where the engine can answer no more.
    """
    read: list[_Reading | None] = [None] * len(asks)

    def each(number: int, answer: Answer) -> None:
        # Where an engine waits for servers, answers are read meanwhile.
        with contextlib.suppress(Exception):
            read[number] = _read(answer, shape)

    answers = engine.answer(asks, each)
    found = [
        known if known is not None else _read(answer, shape)
        for known, answer in zip(read, answers, strict=True)
    ]
    again = [n for n, reply in enumerate(found) if reply.rule in WRONG]
    if again:
        asked = [_repair(asks[n], answers[n].text or "", found[n].wrong, shape) for n in again]
        for n, answer in zip(again, engine.answer(asked), strict=True):
            second = _read(answer, shape)
            # Where the second attempt got no answer at all, the first one says more.
            found[n] = found[n] if second.rule == NO_ANSWER else second
    return [reply.told() for reply in found]


@dataclass(frozen=True)
class _Reading:
    value: dict[str, Any] | None = None
    rule: str | None = None
    fault: str = ""
    raw: str = ""
    #: What the engine says of the answer: cut off, or a refusal, in the words of the model.
    why: str | None = None

    @property
    def wrong(self) -> str:
        """What is wrong, as the model is told; in no words of its own but those quoted as data."""
        cut = self.why is not None and self.why.startswith("cut off")
        return f"{self.fault} ({self.why})" if cut else self.fault

    def told(self) -> Reply:
        if self.rule is None:
            return Reply(self.value)
        said = f"; answered: {shown(self.raw)}" if self.raw else ""
        why = f" ({self.why})" if self.why else ""
        return Reply(None, self.rule, f"{self.fault}{why}{said}")


def _read(answer: Answer, shape: Shape) -> _Reading:
    if answer.text is None:
        return _Reading(rule=NO_ANSWER, fault=answer.fault or "the engine gave no text")
    raw = answer.text
    # A fault beside a text (cut off, a refusal) tells why it is no good, if it is not.
    why = answer.fault
    try:
        value, fault = shape.parse(raw)
    except NotJson as error:
        return _Reading(None, NOT_JSON, str(error), raw, why)
    if fault is not None:
        return _Reading(None, WRONG_SHAPE, fault, raw, why)
    return _Reading(value)


def _repair(ask: Ask, raw: str, fault: str, shape: Shape) -> Ask:
    """The ask once more, with what was wrong.

    The wrong answer is quoted as data within the same turn: it may hold whatever a caption made
    the model say, and many chat templates refuse two turns of one role.
    """
    *before, last = ask.messages
    said = (
        f"This was answered before, and the answer was refused: {fault}.\n"
        f"The refused answer, as a JSON string: {Data(raw[: min(MOST, _QUOTED)])}\n"
        "Answer again, with one JSON object that fits this JSON schema, and with nothing else:\n"
        f"{canonical_json(shape.schema)}"
    )
    content = last["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{said}"
    else:
        content = [*content, {"type": "text", "text": said}]
    return replace(ask, messages=(*before, {**last, "content": content}))
