"""What a prompt may tell a model of a row: texts, changes and pictures, all of them data.

What comes from the collection, or from an earlier answer, reaches a template only as
:class:`Data`, which writes itself as a JSON string that no quote, tag or special token of a model
can leave, so every template delimits it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from datagen.ingest import clean_caption

#: Inside a JSON string these are written as escapes. Special tokens of models (``<|im_end|>``,
#: ``[INST]``) begin with one of them, and are then nothing but text.
_ESCAPED = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>[]"}


class Data:
    """A text of the collection in a template: it writes itself as a JSON string, and no more.

    None is ``null``. It is true where there is a text.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | None) -> None:
        self._text = None if text is None else clean_caption(text)

    def __str__(self) -> str:
        return json.dumps(self._text, ensure_ascii=False).translate(_ESCAPED)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Data) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Change(BaseModel):
    """What differs in one property; null: nothing was said of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    field: str | None = None
    removed: str | None = None
    added: str | None = None


@dataclass(frozen=True)
class Subject:
    """The row that is asked about.

    reference, target: captions; changes: what is known to change; text: a modification text that
    is there already; notes: lines that an earlier answer gave; candidates: texts to choose from;
    pictures: ``data:`` addresses of the frames of "reference" and "target", "candidate 1", ….
    """

    reference: str = ""
    target: str = ""
    changes: tuple[Change, ...] = ()
    text: str = ""
    notes: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    pictures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def names(self) -> dict[str, Any]:
        """The variables of a template."""
        changes = [
            {"field": Data(one.field), "removed": Data(one.removed), "added": Data(one.added)}
            for one in self.changes
        ]
        return {
            "reference": Data(self.reference),
            "target": Data(self.target),
            "changes": changes,
            "text": Data(self.text),
            "notes": [Data(one) for one in self.notes],
            "candidates": [Data(one) for one in self.candidates],
        }

    def turned(self) -> Subject:
        """What is asked about the way back: reference and target exchanged, and what changes."""
        changes = tuple(
            Change(field=one.field, removed=one.added, added=one.removed) for one in self.changes
        )
        other = {"reference": "target", "target": "reference"}
        pictures = {other.get(name, name): urls for name, urls in self.pictures.items()}
        return replace(
            self,
            reference=self.target,
            target=self.reference,
            changes=changes,
            pictures=pictures,
        )

    def longest(self) -> int:
        """Characters of its longest text."""
        changed = [(one.field, one.removed, one.added) for one in self.changes]
        texts: list[str | None] = [self.reference, self.target, self.text]
        texts += [*self.notes, *self.candidates, *(text for one in changed for text in one)]
        return max(len(text or "") for text in texts)


def subject_of(row: Mapping[str, Any]) -> Subject:
    """What of a pair or triplet (a row of its table) a prompt may tell, but for pictures."""
    return Subject(
        caption_of(row["references"]),
        caption_of(row["targets"]),
        changes_of(row.get("evidence")),
        text=clean_caption(row.get("modification") or ""),
    )


def changes_of(evidence: Mapping[str, Any] | None) -> tuple[Change, ...]:
    """What changes in a pair, but for whole texts that came with it."""
    found: Iterable[Mapping[str, Any]] = (evidence or {}).get("changes") or ()
    return tuple(
        Change(field=one["field"], removed=one["removed"], added=one["added"])
        for one in found
        if one["field"] != "text" or one["removed"]
    )


def caption_of(members: Sequence[Mapping[str, Any]] | None) -> str:
    """The caption that the pair uses of its first reference or target."""
    return clean_caption((members[0]["caption"] if members else None) or "")
