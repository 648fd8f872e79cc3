"""Modification texts by a language model, from the captions of a pair or from what changes in it.

CoVR (arXiv:2308.14746) asks for one text where two captions differ in a word, LaSCo
(arXiv:2303.09429) puts the difference of two answers into an instruction, MegaPairs
(arXiv:2412.14475) takes several texts per pair: each is a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from pydantic import Field

from datagen import schema, store
from datagen.chat import prompts, structured
from datagen.chat import settings as engines
from datagen.chat.answers import shown, texts_of
from datagen.chat.ask import Ask, Engine
from datagen.chat.prompts import ENGLISH, Subject, Wanted
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.step import Context, Resources, RowOperator, Settings

_NAMES = ("id", "modification", "verdict", "rule", "detail")
_NEEDED = {"reference": "no_caption", "target": "no_caption", "changes": "no_change_known"}
#: Characters of a text for each word that it may have; longer "words" are no words.
_WORD = 40


class LlmSettings(Settings):
    """What is asked, of whom, and what of the answer is used."""

    #: Who answers: {kind: server, url: …, model: …} or {kind: transformers, model: …}.
    engine: engines.EngineSettings
    #: A prompt that comes with datagen (datagen prompts list), or file:my.yaml.
    prompt: str = "modification"
    #: Different texts for a pair, at most; a model may give fewer.
    texts_per_pair: int = Field(2, ge=1, le=20)
    #: The longest text; null: as the prompt says. Longer ones are not used.
    max_words: int | None = Field(None, ge=1, le=500)
    #: The language of the texts.
    language: str = Field(ENGLISH, pattern=r"^[^\W\d_][\w ()-]{0,39}$")
    #: Kinds of change to ask for, of those that the prompt knows; none: all of them.
    aspects: tuple[str, ...] = ()
    #: 0 takes the likeliest words, 1 draws them as the model weighs them.
    temperature: float = Field(0.7, ge=0, le=2)
    #: Tokens that an answer may have.
    max_tokens: int = Field(512, ge=16, le=65_536)
    #: Pairs with a longer caption are rejected.
    max_caption_chars: int = Field(2000, ge=1, le=100_000)


class Llm(RowOperator[LlmSettings]):
    """Asks a language model for ``modification``: several texts of a pair become triplets each.

    A pair is rejected as ``no_caption``, ``caption_too_long``, ``no_change_known`` (the prompt
    tells what changes, and nothing says so), ``no_difference`` (the model sees none),
    ``copies_caption`` or ``too_long``. It fails as ``no_answer``, ``not_json`` or
    ``wrong_shape``, with what the model said, after it was asked once more. ``--retry-failed``
    asks again where no answer came; wrong answers are kept, and come again.
    """

    Settings = LlmSettings
    levels = ("pairs",)
    result = "triplets"
    requires = (("jsonschema", "llm"),)

    def __init__(self, settings: LlmSettings) -> None:
        super().__init__(settings)
        self.prompt = prompts.load(settings.prompt)
        self.wanted = Wanted(
            settings.texts_per_pair, settings.max_words, settings.language, settings.aspects
        )
        if faults := list(self.prompt.faults(self.wanted)):
            raise DatagenError("; ".join(faults))
        self.engine: Engine = engines.make(settings.engine)
        self._seed = 0

    def needs(self, level: Level) -> set[str]:
        return {"pairs"}

    def gives(self, level: Level) -> set[str]:
        return {"modification"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "evidence"]

    def resources(self) -> Resources:
        return self.settings.engine.resources()

    def revision(self) -> str:
        return f"{self.engine.revision} {self.prompt.fingerprint}".strip()

    def provenance(self, context: Context) -> dict[str, Any]:
        return super().provenance(context) | {
            "model": self.engine.model,
            "revision": self.engine.revision or None,
            "prompt": self.prompt.fingerprint,
        }

    def check(self) -> Iterable[str]:
        absent = list(self.settings.engine.absent())
        yield from absent
        if not absent:
            try:
                self.revision()
            except DatagenError as error:
                yield f"engine: {error}"

    def reach(self) -> Iterable[str]:
        return self.settings.engine.reach()

    def open(self, context: Context) -> None:
        self._seed = context.seed
        # What was spent belongs to the run: its next start goes on counting.
        spent = store.join(context.out_dir, "spent", context.step) if context.out_dir else None
        self.engine = engines.make(self.settings.engine, spent)
        self.engine.open()

    def __call__(self, rows: pa.Table) -> pa.Table:
        out: dict[str, list[tuple[str | None, ...]]] = {}
        asked: dict[str, Subject] = {}
        for row in rows.select(self.columns("pairs")).to_pylist():
            subject = subject_of(row)
            if fault := self.unfit(subject):
                out[row["id"]] = [(None, schema.REJECTED, *fault)]
            else:
                asked[row["id"]] = subject
        asks = [self.ask(subject, name, self._seed) for name, subject in asked.items()]
        found = structured.replies(self.engine, asks, self.prompt.shape)
        for (name, subject), reply in zip(asked.items(), found, strict=True):
            if reply.value is None:
                out[name] = [(None, schema.FAILED, reply.rule, reply.detail)]
            else:
                out[name] = self._texts(reply.value, subject)
        lines = [(name, *line) for name in rows["id"].to_pylist() for line in out[name]]
        columns = zip(*lines, strict=True) if lines else [()] * len(_NAMES)
        return pa.table([pa.array(c, pa.string()) for c in columns], names=list(_NAMES))

    def ask(self, subject: Subject, row: str, seed: int) -> Ask:
        """What is asked about a pair: the same for a row wherever and whenever it is asked."""
        drawn = int(schema.content_id("ask", str(seed), row)[:8], 16) & 0x7FFF_FFFF
        return Ask(
            messages=self.prompt.messages(subject, self.wanted),
            schema=self.prompt.answer_schema,
            max_tokens=self.settings.max_tokens,
            temperature=self.settings.temperature,
            seed=drawn,
        )

    def unfit(self, subject: Subject) -> tuple[str, str] | None:
        """The rule and detail that reject a pair before anything is asked."""
        for name in sorted(self.prompt.needs):
            if not getattr(subject, name):
                return _NEEDED[name], f"prompt '{self.prompt.name}' tells the model {name}"
        most = self.settings.max_caption_chars
        longest = max(map(len, (subject.reference, subject.target, *_told(subject))), default=0)
        if longest > most:
            return "caption_too_long", f"{longest} > {most} characters"
        return None

    def _texts(self, answer: Mapping[str, Any], subject: Subject) -> list[tuple[str | None, ...]]:
        """The texts of an answer that can be used, or the rule by which there is none."""
        found = list({text.casefold(): text for text in texts_of(answer) if text}.values())
        if not found:
            return [(None, schema.REJECTED, "no_difference", "the model names none")]
        captions = {_plain(subject.reference), _plain(subject.target)}
        own = [text for text in found if _plain(text) not in captions]
        if not own:
            return [(None, schema.REJECTED, "copies_caption", shown(found[0]))]
        most = self.prompt.words(self.wanted)
        short = [t for t in own if len(t.split()) <= most and len(t) <= most * _WORD]
        if not short:
            return [(None, schema.REJECTED, "too_long", f"more than {most} words: {shown(own[0])}")]
        return [(t, schema.KEPT, None, None) for t in short[: self.settings.texts_per_pair]]


def subject_of(row: Mapping[str, Any]) -> Subject:
    """What of a pair a prompt may tell."""
    return Subject(
        prompts.caption_of(row["references"]),
        prompts.caption_of(row["targets"]),
        prompts.changes_of(row["evidence"]),
    )


def _told(subject: Subject) -> Iterable[str]:
    for change in subject.changes:
        yield from (text for text in (change.field, change.removed, change.added) if text)


def _plain(text: str) -> str:
    """A text as it is compared with captions: its letters and digits."""
    return "".join(c for c in text.casefold() if c.isalnum())
