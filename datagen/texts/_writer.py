"""What operators that write modification texts with a model have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic

import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.chat.answers import shown, texts_of
from datagen.chat.asking import Asking, AskSettings
from datagen.chat.prompts import ENGLISH, Prompt, Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject, subject_of
from datagen.schema import Level
from datagen.step import RowOperator, S

#: A row of an operator's answer: modification, verdict, rule, detail.
Line = tuple[str | None, ...]
_NAMES = ("id", "modification", "verdict", "rule", "detail")
#: Characters of a text for each word that it may have; longer "words" are no words.
_WORD = 40


class WriterSettings(AskSettings):
    """What texts are asked for."""

    #: Different texts for a pair, at most; a model may give fewer.
    texts_per_pair: int = Field(2, ge=1, le=20)
    #: The longest text; null: as the prompt says. Longer ones are not used.
    max_words: int | None = Field(None, ge=1, le=500)
    #: The language of the texts.
    language: str = Field(ENGLISH, pattern=r"^[^\W\d_][\w ()-]{0,39}$")
    #: Kinds of change to ask for, of those that the prompt knows; none: all of them.
    aspects: tuple[str, ...] = ()

    def wanted(self) -> Wanted:
        """As a prompt is told."""
        return Wanted(self.texts_per_pair, self.max_words, self.language, self.aspects)


class Writer(Asking[S], RowOperator[S], Generic[S]):
    """Pairs to triplets: a subclass says what is asked about pairs, in one round or several.

    ``main`` is the prompt whose answers hold the texts.
    """

    levels = ("pairs",)
    result = "triplets"
    main: Prompt
    wanted: Wanted

    def needs(self, level: Level) -> set[str]:
        return {"pairs"}

    def gives(self, level: Level) -> set[str]:
        return {"modification"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "evidence"]

    @abstractmethod
    def written(self, subjects: Mapping[str, Subject]) -> dict[str, Reply]:
        """The reply with the texts of every pair, by its id."""

    def refused(self, subject: Subject) -> tuple[str, str] | None:
        """The rule and detail that reject a pair before anything is asked."""
        return self.unfit(self.main, subject)

    def subjects(self, rows: pa.Table) -> dict[str, Subject]:
        """What is asked about, by the ids of the pairs."""
        named = [n for n in self.columns("pairs") if n in rows.column_names]
        return {row["id"]: subject_of(row) for row in rows.select(named).to_pylist()}

    def __call__(self, rows: pa.Table) -> pa.Table:
        out: dict[str, list[Line]] = {}
        asked: dict[str, Subject] = {}
        for name, subject in self.subjects(rows).items():
            if fault := self.refused(subject):
                out[name] = [(None, schema.REJECTED, *fault)]
            else:
                asked[name] = subject
        for name, reply in self.written(asked).items():
            out[name] = self.lines(reply, asked[name])
        return answered((name, *line) for name in rows["id"].to_pylist() for line in out[name])

    def lines(self, reply: Reply, subject: Subject) -> list[Line]:
        """What becomes of a pair."""
        if reply.value is None:
            return [(None, schema.FAILED, reply.rule, reply.detail)]
        return usable(texts_of(reply.value), subject, self.main.words(self.wanted), self.wanted)


def answered(lines: Iterable[Line], names: Sequence[str] = _NAMES) -> pa.Table:
    """The answer of a row operator from ``lines`` of texts."""
    columns = list(zip(*lines, strict=True)) or [()] * len(names)
    return pa.table([pa.array(c, pa.string()) for c in columns], names=list(names))


def usable(texts: Sequence[str], subject: Subject, most: int, wanted: Wanted) -> list[Line]:
    """The texts of an answer that can be used, or the rule by which there is none.

    most: words that a text may have.
    """
    found = list({text.casefold(): text for text in texts if text}.values())
    if not found:
        return [(None, schema.REJECTED, "no_difference", "the model names none")]
    captions = {_plain(subject.reference), _plain(subject.target)}
    own = [text for text in found if _plain(text) not in captions]
    if not own:
        return [(None, schema.REJECTED, "copies_caption", shown(found[0]))]
    short = [t for t in own if len(t.split()) <= most and len(t) <= most * _WORD]
    if not short:
        return [(None, schema.REJECTED, "too_long", f"more than {most} words: {shown(own[0])}")]
    return [(t, schema.KEPT, None, None) for t in short[: wanted.texts]]


def _plain(text: str) -> str:
    """A text as it is compared with captions: its letters and digits."""
    return "".join(c for c in text.casefold() if c.isalnum())
