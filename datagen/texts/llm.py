"""Modification texts by a language model, from the captions of a pair or from what changes in it.

CoVR (arXiv:2308.14746) asks for one text where two captions differ in a word, LaSCo
(arXiv:2303.09429) puts the difference of two answers into an instruction, MegaPairs
(arXiv:2412.14475) takes several texts per pair: each is a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from datagen.chat import settings as engines
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject
from datagen.texts._writer import Writer, WriterSettings


class LlmSettings(WriterSettings):
    """What is asked, of whom, and what of the answer is used."""

    #: Who answers: {kind: server, url: …, model: …} or {kind: transformers, model: …}.
    engine: engines.EngineSettings
    #: A prompt that comes with datagen (datagen prompts list), or file:my.yaml.
    prompt: str = "modification"


class Llm(Writer[LlmSettings]):
    """Asks a language model for ``modification``: several texts of a pair become triplets each.

    A pair is rejected as ``no_caption``, ``caption_too_long``, ``no_change_known`` (the prompt
    tells what changes, and nothing says so), ``no_difference`` (the model sees none),
    ``copies_caption`` or ``too_long``. It fails as ``no_answer``, ``not_json`` or
    ``wrong_shape``, with what the model said, after it was asked once more. ``--retry-failed``
    asks again: as before where no answer came, and with another seed where it was wrong.
    """

    Settings = LlmSettings

    def __init__(self, settings: LlmSettings) -> None:
        super().__init__(settings)
        self.wanted = settings.wanted()
        self.main = self.prompt(settings.prompt, "texts", self.wanted)

    def written(self, subjects: Mapping[str, Subject]) -> dict[str, Reply]:
        return self.replies(self.main, subjects, self.wanted)
