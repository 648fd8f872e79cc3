"""What operators that write modification texts with a model have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic

import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.chat.answers import plain, shown, texts_of
from datagen.chat.asking import Asking, AskSettings
from datagen.chat.prompts import ENGLISH, Prompt, Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject, subject_of
from datagen.schema import Level
from datagen.step import RowOperator, S
from datagen.texts import _ways
from datagen.texts._ways import Way

#: A row of an operator's answer: modification, verdict, rule, detail.
Line = tuple[str | None, ...]
_NAMES = ("id", "modification", "verdict", "rule", "detail")
#: Characters of a text for each word that it may have; longer "words" are no words.
_WORD = 40
#: A pair of which the way back was wanted, and there is none.
_ONE_WAY: Line = (
    None,
    schema.REJECTED,
    "several_references",
    "no text leads back to several references",
)


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
    #: Ask for the way back as well: from the (first) target to the reference.
    both_directions: bool = False

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
        ways, lost = self._ways(rows)
        asked: list[Way] = []
        for way in ways:
            if fault := self.refused(way.subject):
                lost.append((way.row, *_told((None, schema.REJECTED, *fault), way)))
            else:
                asked.append(way)
        found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in rows["id"].to_pylist()}
        replies = [(some, self.written(some)) for some in _ways.rounds(asked)]
        for way in asked:
            reply = next(r[way.name] for some, r in replies if some.get(way.name) == way.subject)
            found[way.row] += [_told(line, way) for line in self.lines(reply, way.subject)]
        for name, *line in lost:
            found[name].append(tuple(line))
        every = [(name, *line) for name, lines in found.items() for line in _settled(lines)]
        out = answered(line[: len(_NAMES)] for line in every)
        return _with_members(out, [line[-1] for line in every]) if self._both() else out

    def _both(self) -> bool:
        return bool(getattr(self.settings, "both_directions", False))

    def _ways(self, rows: pa.Table) -> tuple[list[Way], list[tuple[Any, ...]]]:
        """What may be asked, those of one row in order, and lines for ways that there are not."""
        subjects = self.subjects(rows)
        if not self._both():
            return [Way(name, name, subject) for name, subject in subjects.items()], []
        ways: list[Way] = []
        lost: list[tuple[Any, ...]] = []
        for row in rows.select(["id", *_ways.MEMBERS]).to_pylist():
            forth = Way(row["id"], row["id"], subjects[row["id"]])
            back = _ways.back(row, forth.subject)
            ways += [forth, back] if back else [forth]
            if back is None:
                lost.append((row["id"], *_ONE_WAY, None))
        return ways, lost

    def lines(self, reply: Reply, subject: Subject) -> list[Line]:
        """What becomes of a pair."""
        if reply.value is None:
            return [(None, schema.FAILED, reply.rule, reply.detail)]
        return usable(texts_of(reply.value), subject, self.main.words(self.wanted), self.wanted)


def _told(line: Line, way: Way) -> tuple[Any, ...]:
    """A line of an answer, and the members of the pair that it is of."""
    text, verdict, rule, detail = line
    if way.members and verdict != schema.KEPT:
        return text, verdict, rule, f"the way back: {detail}", None
    return *line, way.members


def _settled(lines: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The lines of a pair. One that has a failed way and no text has failed, and may be retried."""
    verdicts = {line[1] for line in lines}
    if schema.KEPT in verdicts or schema.FAILED not in verdicts:
        return lines
    return [line for line in lines if line[1] == schema.FAILED]


def _with_members(table: pa.Table, members: Sequence[Mapping[str, Any] | None]) -> pa.Table:
    """An answer with the references, targets and evidence of pairs that are turned around."""
    for name in _ways.MEMBERS:
        column = [None if one is None else one[name] for one in members]
        table = table.append_column(name, pa.array(column, schema.PAIRS.field(name).type))
    return table


def answered(lines: Iterable[Line], names: Sequence[str] = _NAMES) -> pa.Table:
    """The answer of a row operator from ``lines`` of texts."""
    columns = list(zip(*lines, strict=True)) or [()] * len(names)
    return pa.table([pa.array(c, pa.string()) for c in columns], names=list(names))


def usable(texts: Sequence[str], subject: Subject, most: int, wanted: Wanted) -> list[Line]:
    """The texts of an answer that can be used, and the rules by which others cannot.

    most: words that a text may have.
    """
    return chosen(judged(texts, subject, most), wanted.texts)


def judged(texts: Sequence[str], subject: Subject, most: int) -> list[Line]:
    """A line for each different text of an answer, or one line where there is none."""
    # Marks alone ask for nothing.
    found = list({text.casefold(): text for text in texts if plain(text)}.values())
    if not found:
        return [(None, schema.REJECTED, "no_difference", "the model names none")]
    captions = {plain(subject.reference), plain(subject.target)}
    lines: list[Line] = []
    for text in found:
        if plain(text) in captions:
            lines.append((None, schema.REJECTED, "copies_caption", shown(text)))
        elif len(text.split()) > most or len(text) > most * _WORD:
            detail = f"more than {most} words: {shown(text)}"
            lines.append((None, schema.REJECTED, "too_long", detail))
        else:
            lines.append((text, schema.KEPT, None, None))
    return lines


def chosen(lines: Sequence[Line], most: int) -> list[Line]:
    """Of what became of each text: the first ``most`` that are kept, then those that cannot be
    used, which the notes of the step count; one of these where none is kept.
    """
    kept = [line for line in lines if line[1] == schema.KEPT]
    lost = [line for line in lines if line[1] != schema.KEPT]
    if kept:
        return kept[:most] + lost
    return sorted(lost, key=lambda line: line[2] == "copies_caption")[:1]
