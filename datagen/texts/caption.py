"""Captions by a vision-language model, for images and clips that have none.

Published sets begin so where their collections have pictures alone (HyCIR, FACap, MTCIR).
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.chat import pictures
from datagen.chat import settings as engines
from datagen.chat.answers import shown, texts_of
from datagen.chat.asking import Asking, AskSettings
from datagen.chat.prompts import ENGLISH, Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.step import Resources, RowOperator

#: Captions, who wrote them, verdict, rule and detail of an item.
_Line = tuple[list[str] | None, str | None, str, str | None, str | None]
_TYPES = {
    "captions": pa.list_(pa.string()),
    "captions_by": pa.string(),
    **{field.name: field.type for field in schema.VERDICT_FIELDS},
}
#: Characters of a caption for each word that it may have; longer "words" are no words.
_WORD = 40


class CaptionSettings(AskSettings, pictures.PictureSettings):
    """What is asked, of whom, and what is shown of images and clips."""

    #: Who answers: {kind: server, url: …, model: …} or {kind: transformers, model: …}, a
    #: vision-language model such as Qwen/Qwen3-VL-8B-Instruct.
    engine: engines.EngineSettings
    #: A prompt that shows one picture (caption, caption_dense), or file:my.yaml.
    prompt: str = "caption"
    #: Different captions of an item, at most; a model may give fewer.
    captions_per_item: int = Field(1, ge=1, le=20)
    #: The longest caption; null: as the prompt says. Longer ones are not used.
    max_words: int | None = Field(None, ge=1, le=500)
    #: The language of the captions.
    language: str = Field(ENGLISH, pattern=r"^[^\W\d_][\w ()-]{0,39}$")
    #: Also write captions for items that have some, in their place.
    overwrite: bool = False


class Caption(Asking[CaptionSettings], RowOperator[CaptionSettings]):
    """Shows a vision-language model each item without a caption, and asks for ``captions``.

    Items with captions pass as they are. An item keeps its id, which is that of what was given;
    the column ``captions_by`` names the model, and the provenance of pairs and triplets whose
    captions it wrote has a line for the step. The step stands before those that read captions.
    An item is rejected as ``no_media``, ``no_caption`` (the model gives none) or ``too_long``. It
    fails by the rules of media where it cannot be decoded, and as ``no_answer``, ``not_json`` or
    ``wrong_shape``.
    """

    Settings = CaptionSettings
    levels = ("items",)

    def __init__(self, settings: CaptionSettings) -> None:
        super().__init__(settings)
        self.wanted = Wanted(settings.captions_per_item, settings.max_words, settings.language)
        self.main = self.prompt(
            settings.prompt, "captions", self.wanted, pictures=True, tells=["reference"]
        )
        if "reference" in self.main.needs:
            raise DatagenError(
                f"prompt '{self.main.name}' tells a caption, and items are asked about that have "
                "none; leave {{ reference }} out of it, or name it under 'optional'"
            )

    def needs(self, level: Level) -> set[str]:
        return {"items.media"}

    def gives(self, level: Level) -> set[str]:
        return {"items.captions"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "media", "captions"]

    def resources(self) -> Resources:
        """Those of the engine, with no more rows at once than have room for their pictures."""
        wants = super().resources()
        return replace(wants, batch_size=min(wants.batch_size, self.settings.rows_at_once(1)))

    def prepare(self, rows: pa.Table) -> pa.Table:
        """Decode the items that want captions."""
        wanted = [self._wants(texts) for texts in rows["captions"].to_pylist()]
        places = rows["media"].to_pylist()
        own = [at for at, yes in enumerate(wanted) if yes]
        some = pictures.prepared(
            rows.take(pa.array(own, pa.int64())),
            {"reference": [places[at] for at in own]},
            self.settings,
        )
        rest = rows.take(pa.array([at for at, yes in enumerate(wanted) if not yes], pa.int64()))
        return pa.concat_tables([some, rest], promote_options="permissive")

    def _wants(self, captions: list[str] | None) -> bool:
        return self.settings.overwrite or not any(captions or ())

    def __call__(self, rows: pa.Table) -> pa.Table:
        ids = rows["id"].to_pylist()
        wants = map(self._wants, rows["captions"].to_pylist())
        asked = {
            name: Subject(pictures=shown)
            for name, shown, yes in zip(ids, pictures.of(rows), wants, strict=True)
            if yes
        }
        replies = self.replies(self.main, asked, self.wanted)
        lines = [
            self._line(replies[name]) if name in replies else (None, None, schema.KEPT, None, None)
            for name in ids
        ]
        columns = zip(_TYPES.items(), zip(*lines, strict=True) if lines else [()] * 5, strict=True)
        return pa.table({"id": ids} | {n: pa.array(c, type=t) for (n, t), c in columns})

    def _line(self, reply: Reply) -> _Line:
        """What becomes of an item."""
        if reply.value is None:
            return None, None, schema.FAILED, reply.rule, reply.detail
        different: dict[str, str] = {}
        for text in filter(None, texts_of(reply.value, "captions")):
            different.setdefault(text.casefold(), text)
        found = list(different.values())
        if not found:
            return None, None, schema.REJECTED, "no_caption", "the model gives none"
        most = self.main.words(self.wanted)
        short = [t for t in found if len(t.split()) <= most and len(t) <= most * _WORD]
        if not short:
            told = f"more than {most} words: {shown(found[0])}"
            return None, None, schema.REJECTED, "too_long", told
        model = self.engines["engine"].model
        return short[: self.settings.captions_per_item], model, schema.KEPT, None, None
