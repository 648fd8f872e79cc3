"""Text first: a language model writes the edit of a caption, and the caption that it leads to.

InstructPix2Pix (arXiv:2211.09800) asks for an instruction and an edited caption and drops edits
that change nothing; CompoDiff (arXiv:2303.11916) and caption-only training such as LinCIR
(arXiv:2312.01998) start from captions alike. CIRHS and SynCPR start from words, and have the first
caption written as well: a prompt whose edits hold a ``reference`` does that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.chat import settings as engines
from datagen.chat.answers import plain, shown, text_of
from datagen.chat.asking import Asking, AskSettings
from datagen.chat.prompts import ENGLISH, Prompt, Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject
from datagen.errors import DatagenError
from datagen.ingest import clean_caption
from datagen.schema import Level
from datagen.step import RowOperator
from datagen.texts._writer import usable

#: What a prompt's edits must hold, and what they may.
_HOLDS = ("modification", "caption")
_ALSO = "reference"
#: Characters of a caption for each word that it may have.
_WORD = 40


class QuadrupleSettings(AskSettings):
    """What is asked, of whom, and what of the answer is used."""

    #: Who answers: {kind: server, url: …, model: …} or {kind: transformers, model: …}.
    engine: engines.EngineSettings
    #: edits (of captions), seed_words (of topics), or file:my.yaml of the kind ``edits``.
    prompt: str = "edits"
    #: Different edits of an item, at most; a model may give fewer.
    edits_per_item: int = Field(2, ge=1, le=50)
    #: The longest modification, in words; null: as the prompt says. Longer ones are not used.
    max_words: int | None = Field(None, ge=1, le=500)
    #: The longest caption that is written, in words. An edit with a longer one is not used.
    max_caption_words: int = Field(80, ge=1, le=2000)
    #: The language of what is written.
    language: str = Field(ENGLISH, pattern=r"^[^\W\d_][\w ()-]{0,39}$")
    #: Kinds of edits to ask for, of those that the prompt knows; none: all of them.
    aspects: tuple[str, ...] = ()

    def wanted(self) -> Wanted:
        """As a prompt is told."""
        count = self.edits_per_item
        return Wanted(count, self.max_words, self.language, self.aspects, "edits_per_item")


@dataclass(frozen=True)
class _Edit:
    """What became of an edit: its texts, or the rule and detail that reject it.

    ``reference`` is the caption that was written for the reference; None: the item's own.
    """

    modification: str
    caption: str
    reference: str | None = None
    rule: str | None = None
    detail: str | None = None


class Quadruple(Asking[QuadrupleSettings], RowOperator[QuadrupleSettings]):
    """Items to triplets: the item is the reference, and a new item with a caption the target.

    A new item has no media: a later step may paint it. With a prompt that writes the first caption
    too, the reference is such an item as well, and the item that was asked about is the topic.

    An item is rejected as ``no_caption``, ``caption_too_long`` or ``no_difference`` (the model
    gives no edit), or, where none of its edits can be used, by the rule of the first one:
    ``same_caption`` (the edit changes nothing), ``same_target`` (another edit of the item has led
    there), ``copies_caption`` (the modification is a caption), ``too_long``, ``no_text``. Beside
    edits that can be used such ones are counted. It fails as ``no_answer``, ``not_json`` or
    ``wrong_shape``.
    """

    Settings = QuadrupleSettings
    levels = ("items",)
    result = "triplets"

    def __init__(self, settings: QuadrupleSettings) -> None:
        super().__init__(settings)
        self.wanted = settings.wanted()
        self.main = self.prompt(settings.prompt, "edits", self.wanted, tells=["reference"])
        self._topics = _writes_both(self.main)

    def needs(self, level: Level) -> set[str]:
        return {"items.captions"}

    def gives(self, level: Level) -> set[str]:
        return {"modification", "collection"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "captions"]

    def __call__(self, rows: pa.Table) -> pa.Table:
        found: dict[str, list[_Edit]] = {}
        failed: dict[str, tuple[str | None, str | None]] = {}
        asked: dict[str, Subject] = {}
        for row in rows.select(["id", "captions"]).to_pylist():
            subject = Subject(clean_caption((row["captions"] or [None])[0]))
            if fault := self.unfit(self.main, subject):
                found[row["id"]] = [_Edit("", "", None, *fault)]
            else:
                asked[row["id"]] = subject
        for name, reply in self.replies(self.main, asked, self.wanted).items():
            if reply.value is None:
                failed[name] = (reply.rule, reply.detail)
            else:
                found[name] = self._edits(reply, asked[name])
        lines: list[dict[str, Any]] = []
        for name in rows["id"].to_pylist():
            if name in failed:
                rule, detail = failed[name]
                lines.append(_line(name, schema.FAILED, rule, detail))
            else:
                seed = asked[name].reference if name in asked else ""
                lines += [self._told(name, edit, seed) for edit in _chosen(found[name], self.most)]
        return pa.Table.from_pylist(lines, schema=_ANSWER)

    @property
    def most(self) -> int:
        """Edits of an item that are used."""
        return self.settings.edits_per_item

    def _edits(self, reply: Reply, subject: Subject) -> list[_Edit]:
        """What becomes of every edit of an answer."""
        assert reply.value is not None
        edits = reply.value["edits"]
        if not edits:
            return [_Edit("", "", None, "no_difference", "the model gives no edit")]
        return list(self._judged(edits, subject))

    def _judged(self, edits: list[Mapping[str, Any]], subject: Subject) -> Iterator[_Edit]:
        targets: set[tuple[str, str]] = set()
        for raw in edits:
            text, caption = (text_of(raw[name]) for name in _HOLDS)
            reference = text_of(raw[_ALSO]) if self._topics else None
            before = subject.reference if reference is None else reference
            fault = self._fault(text, caption, before)
            place = (plain(before), plain(caption))
            if fault is None and place in targets:
                fault = ("same_target", shown(caption))
            if fault is None:
                targets.add(place)
            yield _Edit(text, caption, reference, *(fault or (None, None)))

    def _fault(self, text: str, caption: str, before: str) -> tuple[str, str] | None:
        """The rule and detail that reject an edit."""
        if not (text and plain(caption) and before):
            return "no_text", shown(f"{before} / {text} / {caption}")
        if plain(caption) == plain(before):
            return "same_caption", shown(caption)
        most = self.settings.max_caption_words
        written = (caption, before) if self._topics else (caption,)
        for one in written:
            if len(one.split()) > most or len(one) > most * _WORD:
                return "too_long", f"a caption of more than {most} words: {shown(one)}"
        told = Subject(before, caption)
        (_, _, rule, detail), *_ = usable([text], told, self.main.words(self.wanted), self.wanted)
        return None if rule is None else (rule, detail or "")

    def _told(self, name: str, edit: _Edit, seed: str) -> dict[str, Any]:
        """The line of an answer that an edit is."""
        if edit.rule is not None:
            return _line(name, schema.REJECTED, edit.rule, edit.detail)
        why = "an edit of its caption, written by a language model"
        if edit.reference is not None:
            why = f"written by a language model for the topic {shown(seed)}"
        evidence: dict[str, Any] = {
            "operator": "quadruple",
            "reason": why,
            "changes": [],
            "score": None,
        }
        return _line(name, schema.KEPT) | {
            "modification": edit.modification,
            # Of a caption the item itself is the reference.
            "references": None if edit.reference is None else [_member(edit.reference)],
            "targets": [_member(edit.caption)],
            "evidence": evidence,
        }


_ANSWER = pa.schema(
    [
        ("id", pa.string()),
        ("modification", pa.string()),
        *(schema.PAIRS.field(name) for name in ("references", "targets", "evidence")),
        *schema.VERDICT_FIELDS,
    ]
)


def _line(
    name: str, verdict: str, rule: str | None = None, detail: str | None = None
) -> dict[str, Any]:
    return dict.fromkeys(_ANSWER.names) | {
        "id": name,
        "verdict": verdict,
        "rule": rule,
        "detail": detail,
    }


def _member(caption: str) -> dict[str, Any]:
    """A new item: it has no id yet, and no media."""
    return dict.fromkeys(field.name for field in schema.MEMBER) | {"caption": caption}


def _chosen(edits: list[_Edit], most: int) -> list[_Edit]:
    """The first ``most`` that can be used, then those that cannot; of these alone the first."""
    kept = [edit for edit in edits if edit.rule is None][:most]
    lost = [edit for edit in edits if edit.rule is not None]
    return kept + lost if kept else lost[:1]


def _writes_both(prompt: Prompt) -> bool:
    """Whether edits hold the first caption too. Raises DatagenError where they cannot be read."""
    edit = prompt.answer_schema["properties"]["edits"]["items"]
    known, required = edit.get("properties") or {}, edit.get("required") or ()
    names = [*_HOLDS, _ALSO] if _ALSO in known else _HOLDS
    for name in names:
        said = known.get(name)
        if name not in required or not isinstance(said, Mapping) or said.get("type") != "string":
            raise DatagenError(
                f"prompt '{prompt.name}': schema: every edit must require '{name}', a string"
            )
    return len(names) > len(_HOLDS)
