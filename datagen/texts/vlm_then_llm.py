"""Modification texts in two rounds: a vision-language model tells what two images or clips have in
common and what differs, and a language model puts that into requests.

MegaPairs (arXiv:2412.14475), HyCIR (arXiv:2407.05795) and FACap (arXiv:2507.07135) do so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datagen.chat import settings as engines
from datagen.chat.answers import texts_of
from datagen.chat.asking import OF_PAIR
from datagen.chat.prompts import Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject
from datagen.texts._seeing import Seeing, SeeingSettings


class VlmThenLlmSettings(SeeingSettings):
    """Who looks, who writes, what is shown, and what of the answers is used."""

    #: Who is shown the pictures: {kind: server, …} or {kind: transformers, …}, a vision-language
    #: model such as Qwen/Qwen3-VL-8B-Instruct.
    vlm: engines.EngineSettings
    #: Who writes the texts: any language model.
    llm: engines.EngineSettings
    #: The prompt of the first round, which shows pictures and asks for differences.
    describe: str = "describe"
    #: The prompt of the second round, which tells what the first one gave as notes.
    prompt: str = "from_differences"


class VlmThenLlm(Seeing[VlmThenLlmSettings]):
    """Has a vision-language model note what differs, and a language model write ``modification``.

    A pair is rejected as ``no_media``, ``no_difference`` (the first model names none, or the
    second), ``caption_too_long``, ``copies_caption`` or ``too_long``. It fails by the rules of
    media where a picture cannot be decoded, and as ``no_answer``, ``not_json`` or
    ``wrong_shape``, with the name of the prompt.
    """

    Settings = VlmThenLlmSettings

    def __init__(self, settings: VlmThenLlmSettings) -> None:
        super().__init__(settings)
        self.wanted = settings.wanted()
        self._looked = Wanted(language=settings.language)
        self.seen = self.prompt(
            settings.describe, "differences", self._looked, engine="vlm", pictures=True
        )
        self.main = self.prompt(
            settings.prompt, "texts", self.wanted, engine="llm", tells={*OF_PAIR, "notes"}
        )

    def refused(self, subject: Subject) -> tuple[str, str] | None:
        return self.unfit(self.seen, subject) or self.unfit(
            self.main, replace(subject, notes=("what differs",))
        )

    def written(self, subjects: Mapping[str, Subject]) -> dict[str, Reply]:
        out: dict[str, Reply] = {}
        noted: dict[str, Subject] = {}
        looks = self.replies(self.seen, subjects, self._looked, engine="vlm")
        for name, reply in looks.items():
            if reply.value is None:
                out[name] = replace(reply, detail=f"{self.seen.name}: {reply.detail}")
            elif not (differences := list(filter(None, texts_of(reply.value, "differences")))):
                out[name] = Reply({"modifications": []})
            else:
                notes = (*_shared(reply.value), *(f"differs: {one}" for one in differences))
                noted[name] = replace(subjects[name], notes=notes, pictures={})
        return out | self.replies(self.main, noted, self.wanted, engine="llm")


def _shared(answer: Mapping[str, Any]) -> list[str]:
    """What both have, where the prompt asks for that too."""
    told = answer.get("common")
    lines = [one for one in told if isinstance(one, str)] if isinstance(told, list) else []
    return [f"both: {one}" for one in texts_of({"common": lines}, "common") if one]
