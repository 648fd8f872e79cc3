"""Modification texts by a vision-language model that is shown both images, or frames of both clips.

Dense-WebVid-CoVR (arXiv:2508.14039) and FineCIR (arXiv:2503.21309) have such models write long
texts, VDG and OACIR short ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from datagen.chat import settings as engines
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject
from datagen.texts._seeing import Seeing, SeeingSettings


class VlmSettings(SeeingSettings):
    """What is asked, of whom, what is shown, and what of the answer is used."""

    #: Who answers: {kind: server, url: …, model: …} or {kind: transformers, model: …}, a
    #: vision-language model such as Qwen/Qwen3-VL-8B-Instruct.
    engine: engines.EngineSettings
    #: A prompt that shows pictures (vlm_modification, dense), or file:my.yaml.
    prompt: str = "vlm_modification"


class Vlm(Seeing[VlmSettings]):
    """Shows a vision-language model both sides of a pair and asks for ``modification``.

    Captions are told where the pair has some. Several texts of a pair become triplets each.
    A pair is rejected as ``no_media``, ``caption_too_long``, ``no_difference``, ``copies_caption``
    or ``too_long``. It fails by the rules of media where a picture cannot be decoded, and as
    ``no_answer``, ``not_json`` or ``wrong_shape``, with what the model said, after it was asked
    once more.
    """

    Settings = VlmSettings

    def __init__(self, settings: VlmSettings) -> None:
        super().__init__(settings)
        self.wanted = settings.wanted()
        self.main = self.seen = self.prompt(settings.prompt, "texts", self.wanted, pictures=True)

    def written(self, subjects: Mapping[str, Subject]) -> dict[str, Reply]:
        return self.replies(self.main, subjects, self.wanted)
