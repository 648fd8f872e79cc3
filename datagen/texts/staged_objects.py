"""Modification texts in three rounds: the objects of the reference, those of the target in the
same words, and requests to add, remove or change what the two lists tell apart.

good4cir makes its texts so, from pictures; captions do as well where they are all there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from datagen import schema
from datagen.chat import pictures
from datagen.chat import settings as engines
from datagen.chat.answers import TEXTS, shown, texts_of
from datagen.chat.prompts import ENGLISH, Prompt, Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject
from datagen.schema import Level
from datagen.step import Resources
from datagen.texts import _objects
from datagen.texts._objects import Thing
from datagen.texts._writer import Line, Writer, WriterSettings, chosen, judged

_SIDES = {"reference": "references", "target": "targets"}
#: Rules by which a pair is rejected on the way, and has not failed.
_REJECTED = frozenset({"no_objects", "no_difference"})
#: What a reply tells beside its texts: words that may be named, and names that were left out.
_KNOWN, _LEFT_OUT = "known", "left_out"


class StagedObjectsSettings(WriterSettings, pictures.PictureSettings):
    """Who lists and writes, from what, and what of the answers is used."""

    #: Who answers: {kind: server, url: …, model: …} or {kind: transformers, model: …}; with
    #: pictures a vision-language model such as Qwen/Qwen3-VL-8B-Instruct.
    engine: engines.EngineSettings
    #: List what images and clips show, with their captions where there are some; false: list what
    #: captions tell.
    pictures: bool = False
    #: The prompt of the first round; null: objects, or objects_pictured.
    objects: str | None = None
    #: The prompt of the second round; null: objects_compared, or objects_pictured_compared.
    compared: str | None = None
    #: The prompt of the third round, which is told what differs between the lists.
    prompt: str = "objects_differences"
    #: Use no text that names a thing of neither list (told for English alone).
    listed_only: bool = True


class StagedObjects(Writer[StagedObjectsSettings]):
    """Has a model list objects of both sides, and write ``modification`` from what differs.

    The list of a reference is asked for once, in however many pairs it stands. Without pictures,
    objects that no caption names are left out (``object_not_used`` in the notes of the step). A
    pair is rejected as ``no_caption`` or ``no_media``, ``caption_too_long``, ``no_objects`` (a
    side has none), ``no_difference`` (the lists say the same, or the model sees nothing in it),
    ``unlisted_object`` (every text names a thing of neither list), ``copies_caption`` or
    ``too_long``. It fails by the rules of media where a picture cannot be decoded, and as
    ``no_answer``, ``not_json`` or ``wrong_shape``, with the name of the prompt.
    """

    Settings = StagedObjectsSettings

    def __init__(self, settings: StagedObjectsSettings) -> None:
        super().__init__(settings)
        seen = settings.pictures
        self.wanted = settings.wanted()
        self._listed = Wanted(language=settings.language)
        self._first, self._second = (
            self.prompt(name, "objects", self._listed, pictures=seen, tells=told)
            for name, told in (
                (settings.objects or ("objects_pictured" if seen else "objects"), ["reference"]),
                (
                    settings.compared
                    or ("objects_pictured_compared" if seen else "objects_compared"),
                    ["target", "notes"],
                ),
            )
        )
        # Captions and pictures are not told: the texts rest on the lists alone.
        self.main = self.prompt(settings.prompt, "texts", self.wanted, tells=["changes", "notes"])

    def needs(self, level: Level) -> set[str]:
        return {"pairs", "items.media"} if self.settings.pictures else {"pairs"}

    def resources(self) -> Resources:
        """Those of the engine, with no more rows at once than have room for their pictures."""
        wants = super().resources()
        if not self.settings.pictures:
            return wants
        return replace(wants, batch_size=min(wants.batch_size, self.settings.rows_at_once(2)))

    def prepare(self, rows: pa.Table) -> pa.Table:
        if not self.settings.pictures:
            return rows
        media = {
            side: [members[0]["media"] if members else None for members in rows[name].to_pylist()]
            for side, name in _SIDES.items()
        }
        return pictures.prepared(rows, media, self.settings)

    def subjects(self, rows: pa.Table) -> dict[str, Subject]:
        told = super().subjects(rows)
        if not self.settings.pictures:
            return told
        seen = pictures.of(rows)
        return {
            name: replace(subject, pictures=own)
            for (name, subject), own in zip(told.items(), seen, strict=True)
        }

    def refused(self, subject: Subject) -> tuple[str, str] | None:
        return self.unfit(self._first, subject) or self.unfit(self._second, subject)

    def written(self, subjects: Mapping[str, Subject]) -> dict[str, Reply]:
        out: dict[str, Reply] = {}
        firsts = self._references(subjects)
        seconds = self._told(firsts, subjects, out, "reference")
        asked = {
            name: replace(subjects[name], reference="", notes=tuple(map(str, things)))
            for name, (things, _) in seconds.items()
        }
        replies = self.replies(self._second, asked, self._listed)
        thirds = self._told(replies, subjects, out, "target", seconds)
        asked = {}
        for name, (things, _) in thirds.items():
            changes, same = _objects.differences(seconds[name][0], things)
            if changes:
                asked[name] = Subject(changes=changes, notes=tuple(map(str, same)))
            else:
                listed = ", ".join(map(str, things))
                out[name] = Reply(None, "no_difference", shown(f"both lists say: {listed}"))
        for name, reply in self.replies(self.main, asked, self.wanted).items():
            if reply.value is None:
                out[name] = _of_prompt(self.main, reply)
                continue
            beside = {
                _KNOWN: _known(subjects[name], [*seconds[name][0], *thirds[name][0]]),
                _LEFT_OUT: [*seconds[name][1], *thirds[name][1]],
            }
            out[name] = Reply({TEXTS: reply.value[TEXTS], **beside})
        return out

    def _references(self, subjects: Mapping[str, Subject]) -> dict[str, Reply]:
        """The reply of the first round for every pair. Equal references are one question."""
        asked: dict[str, Subject] = {}
        of: dict[str, str] = {}
        for name, subject in subjects.items():
            seen = {side: urls for side, urls in subject.pictures.items() if side == "reference"}
            urls = seen.get("reference", ())
            of[name] = schema.content_id("objects", subject.reference, *urls)
            asked[of[name]] = Subject(subject.reference, pictures=seen)
        replies = self.replies(self._first, asked, self._listed)
        return {name: replies[key] for name, key in of.items()}

    def _told(
        self,
        replies: Mapping[str, Reply],
        subjects: Mapping[str, Subject],
        out: dict[str, Reply],
        side: str,
        before: Mapping[str, tuple[list[Thing], list[str]]] | None = None,
    ) -> dict[str, tuple[list[Thing], list[str]]]:
        """The objects of each reply, and names that are left out. ``out`` gets the pairs that end
        here; before: the objects of the first list, whose names the second one takes.
        """
        found: dict[str, tuple[list[Thing], list[str]]] = {}
        prompt = self._second if before else self._first
        for name, reply in replies.items():
            if reply.value is None:
                out[name] = _of_prompt(prompt, reply)
                continue
            things, lost = _objects.things_of(reply.value)
            if not self.settings.pictures:
                names = [thing.name for thing in before[name][0]] if before else []
                things, invented = _objects.named_in(
                    things, [_caption(subjects[name], side), *names]
                )
                lost += invented
            if things:
                found[name] = things, [f"{side}: {one}" for one in lost]
            else:
                why = f"the caption names none of: {', '.join(lost)}" if lost else "none was listed"
                out[name] = Reply(None, "no_objects", shown(f"{side}: {why}"))
        return found

    def lines(self, reply: Reply, subject: Subject) -> list[Line]:
        if reply.value is None:
            verdict = schema.REJECTED if reply.rule in _REJECTED else schema.FAILED
            return [(None, verdict, reply.rule, reply.detail)]
        found = judged(texts_of(reply.value), subject, self.main.words(self.wanted))
        if self.settings.listed_only and self.settings.language == ENGLISH:
            found = [_checked(line, reply.value[_KNOWN]) for line in found]
        out = chosen(found, self.wanted.texts)
        left_out = reply.value[_LEFT_OUT]
        if left_out and out[0][1] == schema.KEPT:
            out.append((None, schema.REJECTED, "object_not_used", shown("; ".join(left_out))))
        return out


def _caption(subject: Subject, side: str) -> str:
    return subject.reference if side == "reference" else subject.target


def _of_prompt(prompt: Prompt, reply: Reply) -> Reply:
    return replace(reply, detail=f"{prompt.name}: {reply.detail}")


def _known(subject: Subject, things: list[Thing]) -> frozenset[str]:
    """Forms of all words of the lists and captions."""
    texts = [subject.reference, subject.target, *map(str, things)]
    return frozenset(form for text in texts for form in _objects.forms_of(text))


def _checked(line: Line, known: Any) -> Line:
    """A line, rejected where its text names a thing of neither list."""
    text = line[0]
    if text is None or (thing := _objects.unlisted(text, known)) is None:
        return line
    return None, schema.REJECTED, "unlisted_object", f"'{thing}' in: {shown(text)}"
