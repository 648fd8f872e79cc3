"""Rewrites the texts of triplets: denser, shorter, in other words, or for the way back.

Dense texts name all that is wanted (Dense-WebVid-CoVR and FineCIR have texts of 31 and about 50
words); short ones are how people type; several wordings keep a model from learning one phrasing;
texts for the way back double a set whose miner has one direction. ``language`` has them in another
language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from datagen import schema
from datagen.chat import settings as engines
from datagen.chat.answers import plain, shown, texts_of
from datagen.chat.asking import OF_PAIR, Asking, AskSettings
from datagen.chat.prompts import ENGLISH, Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject, subject_of
from datagen.schema import Level
from datagen.step import RowOperator
from datagen.texts import _ways
from datagen.texts._writer import Line, chosen, usable

To = Literal["dense", "short", "paraphrase", "reverse"]

#: Field of the change by which an earlier step says what it spoiled of a row.
_NOISE = "noise"
_OTHER = {"reference": "target", "target": "reference"}
_KEPT: Line = (None, schema.KEPT, None, None)


class RewriteSettings(AskSettings):
    """What becomes of the texts, who writes it, and what of the answer is used."""

    #: Who answers: {kind: server, url: …, model: …} or {kind: transformers, model: …}.
    engine: engines.EngineSettings
    #: dense (longer: all that is wanted), short, paraphrase (other words), reverse (the way back).
    to: To
    #: Keep the triplet with its old text beside those with new ones.
    keep: bool = False
    #: Different new texts of a triplet, at most; a model may give fewer.
    texts_per_triplet: int = Field(1, ge=1, le=20)
    #: A prompt that comes with datagen, or file:my.yaml of the kind ``texts``; null: the one for
    #: ``to``.
    prompt: str | None = None
    #: The longest text; null: as the prompt says. Longer ones are not used.
    max_words: int | None = Field(None, ge=1, le=500)
    #: The language of the new texts.
    language: str = Field(ENGLISH, pattern=r"^[^\W\d_][\w ()-]{0,39}$")

    @model_validator(mode="after")
    def _shorter(self) -> RewriteSettings:
        if self.to == "dense" and self.max_words is not None and self.max_words < 5:
            raise ValueError(f"max_words: {self.max_words} words are no dense text; 5 at least")
        return self

    def wanted(self) -> Wanted:
        """As a prompt is told."""
        count = self.texts_per_triplet
        return Wanted(count, self.max_words, self.language, setting="texts_per_triplet")


class Rewrite(Asking[RewriteSettings], RowOperator[RewriteSettings]):
    """Triplets to triplets with another ``modification``, and another id.

    What filters measured of the old text is null beside a new one, so filters on texts stand
    behind this step. With ``reverse`` the target becomes the reference, all scores are null, and
    a triplet of several references is rejected as ``several_references``.

    A triplet is rejected as ``no_text``, ``no_caption`` (the prompt tells it), ``caption_too_long``
    or ``no_difference`` (the model gives no text), or, where none of its new texts can be used, as
    ``same_text``, ``not_longer`` (dense), ``not_shorter`` (short), ``copies_caption`` or
    ``too_long``. With ``keep`` it goes on with its old text instead, and is counted. It fails as
    ``no_answer``, ``not_json`` or ``wrong_shape``. Two that come to the same pair and text are
    one: the other is rejected as ``same_as_another``.
    """

    Settings = RewriteSettings
    levels = ("triplets",)
    makes = True
    before = frozenset({"negatives", "split"})

    def __init__(self, settings: RewriteSettings) -> None:
        super().__init__(settings)
        self.wanted = settings.wanted()
        name = settings.prompt or f"rewrite_{settings.to}"
        self.main = self.prompt(name, "texts", self.wanted, tells={*OF_PAIR, "text"})

    def needs(self, level: Level) -> set[str]:
        return {"pairs", "modification"}

    def gives(self, level: Level) -> set[str]:
        return {"modification"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "evidence", "modification"]

    def __call__(self, rows: pa.Table) -> pa.Table:
        found: dict[str, list[Line]] = {}
        asked: dict[str, Subject] = {}
        members: dict[str, dict[str, Any]] = {}
        for row in rows.select(self.columns("triplets")).to_pylist():
            name, subject = row["id"], subject_of(row)
            if self.settings.to == "reverse":
                if len(row["references"] or ()) != 1 or not row["targets"]:
                    detail = f"{len(row['references'] or ())} references"
                    found[name] = [(None, schema.REJECTED, "several_references", detail)]
                    continue
                subject, members[name] = subject.turned(), _turned(row)
            if fault := self.unfit(self.main, subject):
                found[name] = [(None, schema.REJECTED, *fault)]
            else:
                asked[name] = subject
        for name, reply in self.replies(self.main, asked, self.wanted).items():
            found[name] = self._lines(reply, asked[name])
        lines: list[dict[str, Any]] = []
        for name in rows["id"].to_pylist():
            for line in self._with_old(found[name]):
                lines.append(_told(name, line, members.get(name)))
        return pa.Table.from_pylist(lines, schema=_ANSWER)

    def _lines(self, reply: Reply, subject: Subject) -> list[Line]:
        """What becomes of the texts of an answer."""
        if reply.value is None:
            return [(None, schema.FAILED, reply.rule, reply.detail)]
        texts = texts_of(reply.value)
        every = replace(self.wanted, texts=max(1, len(texts)))
        lines: list[Line] = []
        for line in usable(texts, subject, self.main.words(self.wanted), every):
            rule = self._unlike(line[0], subject.text) if line[0] is not None else None
            lines.append((None, schema.REJECTED, rule, shown(line[0] or "")) if rule else line)
        return chosen(lines, self.wanted.texts)

    def _unlike(self, text: str, old: str) -> str | None:
        """The rule by which a new text is not what it was to become."""
        if plain(text) == plain(old):
            return "same_text"
        if self.settings.language == ENGLISH:
            # Words of two languages cannot be counted against each other.
            words, before = len(text.split()), len(old.split())
            if self.settings.to == "dense" and words <= before:
                return "not_longer"
            if self.settings.to == "short" and words >= before:
                return "not_shorter"
        return None

    def _with_old(self, lines: Sequence[Line]) -> list[Line]:
        """The lines of a triplet, and one for its old text where that is kept."""
        if not self.settings.keep or any(line[1] == schema.FAILED for line in lines):
            return list(lines)
        return [_KEPT, *lines]


_ANSWER = pa.schema(
    [
        ("id", pa.string()),
        ("modification", pa.string()),
        *schema.VERDICT_FIELDS,
        *(schema.PAIRS.field(name) for name in _ways.MEMBERS),
    ]
)


def _told(name: str, line: Line, members: Mapping[str, Any] | None) -> dict[str, Any]:
    """A line of the answer; without a text it changes nothing of the row."""
    text, verdict, rule, detail = line
    row: dict[str, Any] = dict.fromkeys(_ANSWER.names)
    row.update(members if members and text is not None else {})
    row.update(id=name, modification=text, verdict=verdict, rule=rule, detail=detail)
    return row


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    """Members and evidence of the way back. What was spoiled of the row stays known."""
    changes = (row["evidence"] or {}).get("changes") or ()
    noise = [
        {**one, "added": _OTHER.get(one["added"], one["added"])}
        for one in changes
        if one["field"] == _NOISE
    ]
    if not noise:
        return _ways.turned(row)
    rest = [one for one in changes if one["field"] != _NOISE]
    found = _ways.turned({**row, "evidence": {**row["evidence"], "changes": rest}})
    evidence = found["evidence"]
    return {**found, "evidence": {**evidence, "changes": [*evidence["changes"], *noise]}}
