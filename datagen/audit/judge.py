"""Judges: who knows what is true of a run's items, and says which of its triplets are right.

A judge never guesses: what it cannot read is judged None, and counted as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from datagen.result import Run

Row = Mapping[str, Any]

#: The field of a change that tells of injected noise; its ``added`` is the kind.
NOISE = "noise"
#: At least this share of the items must be of a kind that a judge knows.
LEAST_KNOWN = 0.5


@dataclass(frozen=True)
class Judgement:
    """What a judge thinks of a row.

    right: the text leads from the reference to every target (None: it cannot be judged, and then
    the others are None too); complete: nothing that changed is left unsaid; minimal: nothing is
    told that did not change; reason: one line; ambiguous: read in another way, the text would
    give another picture (None: the judge reads texts in one way).
    """

    right: bool | None
    complete: bool | None
    minimal: bool | None
    reason: str
    ambiguous: bool | None = None


def unjudged(reason: str) -> Judgement:
    """The judgement of a row that cannot be judged."""
    return Judgement(None, None, None, reason)


class Judge(Protocol):
    """What the audit asks. Rows are those of the tables (datagen.schema), as dictionaries."""

    #: Name, and one sentence on what the judge knows.
    name: str
    about: str
    #: Items of the run whose truth is known.
    known: int

    def triplet(self, row: Row) -> Judgement:
        """Whether the text leads from the reference to the targets."""

    def pair(self, row: Row) -> Judgement:
        """Whether what the pair says that changes does change; there is no text yet."""

    def item(self, row: Row) -> Judgement:
        """Whether the captions of an item say what is so."""

    def answers(self, row: Row) -> list[str] | None:
        """Ids of all items that reference and text ask for, in order, the targets among them if
        they are; None where that cannot be told."""

    def best(self, row: Row) -> bool | None:
        """Whether no other item than the reference is nearer to what is asked for than the
        targets are; None where that cannot be told."""


def noise_of(row: Row) -> str | None:
    """The kind of noise that was injected into a row; None where there is none."""
    for change in (row["evidence"] or {}).get("changes") or []:
        if change["field"] == NOISE:
            return str(change["added"])
    return None


def labels_of(member: Row) -> dict[str, Any] | None:
    """The labels of an item or member; None where it has none that can be read."""
    try:
        found = json.loads(member["labels"] or "{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) and found else None


def judge_for(run: Run) -> Judge | None:
    """The judge that knows the truth of ``run``; None where there is none.

    Rendered scenes first, then structured representations, then plain labels: each where it can
    read the labels of at least half of the items.
    """
    from datagen.audit.labels import LabelJudge
    from datagen.audit.structure import StructureJudge
    from datagen.audit.tinyworld import WorldJudge

    items = run.items().select(["id", "captions", "labels"]).to_pylist()
    if not items:
        return None
    makers: list[Any] = [WorldJudge, StructureJudge, LabelJudge]
    for maker in makers:
        judge: Judge = maker(items)
        if judge.known >= LEAST_KNOWN * len(items):
            return judge
    return None


class Nobody:
    """Knows of no row whether it is right."""

    name = "none"
    about = "nothing is known of what is true"
    known = 0

    def triplet(self, row: Row) -> Judgement:
        return unjudged(self.about)

    def pair(self, row: Row) -> Judgement:
        return unjudged(self.about)

    def item(self, row: Row) -> Judgement:
        return unjudged(self.about)

    def answers(self, row: Row) -> list[str] | None:
        return None

    def best(self, row: Row) -> bool | None:
        return None


class NoiseJudge(Nobody):
    """Knows only what was injected: rows with noise are wrong, all others are taken for right."""

    name = "noise"
    about = "rows with injected noise are wrong, all others are taken for right"

    def triplet(self, row: Row) -> Judgement:
        kind = noise_of(row)
        if kind is None:
            return Judgement(True, None, None, "no noise injected")
        return Judgement(False, None, None, f"noise: {kind}")
