"""Keeps triplets whose target a language model finds among distractors, by reference and text.

Several candidates are put to choice, as in the subsets of CIRR (arXiv:2108.04024): the target, the
reference itself, and other items. The choice is asked for several times with the target at another
place each time, as models prefer some places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from datagen import faults, schema
from datagen.chat import pictures as shown
from datagen.chat import settings as engines
from datagen.chat.asking import Asking, AskSettings
from datagen.chat.prompts import Wanted
from datagen.chat.structured import Reply
from datagen.chat.subject import Subject, caption_of, subject_of
from datagen.faults import Fault
from datagen.filters._bounds import numbers
from datagen.filters._candidates import Candidate, Pool, chosen, shuffled
from datagen.schema import Level
from datagen.step import Context, Filter, Resources

#: A prompt by default, without pictures and with them.
PROMPTS = {False: "judge", True: "judge_pictures"}


class JudgeSettings(AskSettings, shown.PictureSettings):
    """What is asked, of whom, how often, and among what."""

    #: Who answers: {kind: server, url: …, model: …} or {kind: transformers, model: …}.
    engine: engines.EngineSettings
    #: A prompt of kind choice (datagen prompts list), or file:my.yaml; null: judge, or
    #: judge_pictures.
    prompt: str | None = None
    #: Show pictures to a vision-language model, instead of telling captions.
    pictures: bool = False
    #: Candidates besides the target.
    distractors: int = Field(4, ge=1, le=50)
    #: The reference is one of them: a text that changes nothing then finds it.
    with_reference: bool = True
    #: A space whose nearest items to the target are the others; null: drawn by hash.
    near: str | None = None
    #: How often a triplet is put to choice.
    shuffles: int = Field(3, ge=1, le=20)
    #: The least share of these in which the target is picked.
    min_share: float = Field(0.5, ge=0, le=1)
    temperature: float = Field(0, ge=0, le=2)
    max_tokens: int = Field(64, ge=16, le=65_536)
    frames: Any = "middle"

    @model_validator(mode="after")
    def _places(self) -> JudgeSettings:
        if self.shuffles > self.distractors + 1:
            raise ValueError(
                f"shuffles ({self.shuffles}): the target has {self.distractors + 1} places only; "
                "give more distractors or fewer shuffles"
            )
        return self


class Judge(Asking[JudgeSettings], Filter[JudgeSettings]):
    """Scores ``score_judge``: the share of shuffles in which the model picks the target.

    Of several references or targets the first is told; the others are no distractors. Items that
    say the same as the target are none either. Rejects as ``not_picked``, and before anything is
    asked as ``no_caption``, ``no_text``, ``caption_too_long`` or ``no_media``. A row fails as
    ``no_distractor``, ``no_answer``, ``not_json``, ``wrong_shape``, ``wrong_choice`` (a number that
    no candidate has) or by the rules of media. Model and prompt stand in the provenance of the
    rows and in the notes of the step.
    """

    Settings = JudgeSettings
    levels = ("triplets",)
    rules = frozenset({"min_share"})
    settles = frozenset({"provenance"})
    score = "score_judge"

    def __init__(self, settings: JudgeSettings) -> None:
        super().__init__(settings)
        self.wanted = Wanted()
        name = settings.prompt or PROMPTS[settings.pictures]
        told = ["reference", "text", "candidates"]
        self.main = self.prompt(name, "choice", self.wanted, pictures=settings.pictures, tells=told)

    def needs(self, level: Level) -> set[str]:
        needed = {"pairs", "modification", "collection"}
        if self.settings.near:
            needed |= {f"space.{self.settings.near}", f"collection.{self.settings.near}"}
        return needed | {"items.media" if self.settings.pictures else "items.captions"}

    def gives(self, level: Level) -> set[str]:
        return {self.score}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "modification", "evidence"]

    def resources(self) -> Resources:
        """Those of the engine, with no more rows at once than have room for their pictures."""
        wants = super().resources()
        asked = self.settings.shuffles
        if self.settings.pictures:
            asked = max(asked, wants.batch_size // self.settings.rows_at_once(self._media))
        return replace(wants, batch_size=max(1, wants.batch_size // asked))

    @property
    def _media(self) -> int:
        """Images and clips of a row."""
        return self.settings.distractors + 2

    def open(self, context: Context) -> None:
        """Open the engine, and look at the items that can be distractors."""
        super().open(context)
        seen = self.settings.pictures
        items = context.items("id", "captions", *(["media"] if seen else []))
        self._pool = Pool(items, seen)
        self._near = context.space(self.settings.near) if self.settings.near else None

    def __call__(self, rows: pa.Table) -> pa.Table:
        wrong: list[Fault] = [None] * rows.num_rows
        listed = rows.to_pylist()
        others = self._others(listed, wrong)
        subjects = self._subjects(listed, others, wrong)
        replies = self.replies(self.main, {key: one for key, (one, _) in subjects.items()},
                               self.wanted)  # fmt: skip
        places = {row["id"]: at for at, row in enumerate(listed)}
        picked: dict[str, list[bool]] = {}
        for key, (subject, place) in subjects.items():
            at = places[key.rpartition("/")[0]]
            fault, hit = _hit(replies[key], place, len(subject.candidates))
            wrong[at] = wrong[at] or fault
            picked.setdefault(listed[at]["id"], []).append(hit)
        shares = [
            np.nan if fault else np.mean(picked[row["id"]])
            for row, fault in zip(listed, wrong, strict=True)
        ]
        column = pa.array(np.round(np.array(shares, np.float64), 4), from_pandas=True)
        return pa.table({"id": rows["id"], self.score: column, **faults.columns(wrong)})

    def _others(self, rows: Sequence[Mapping[str, Any]], wrong: list[Fault]) -> list[Any]:
        """Target and distractors of each row; None where there is something wrong with it."""
        sides = [[one["id"] for side in _SIDES for one in row[side] or ()] for row in rows]
        found: list[Any] = [None] * len(rows)
        fit = []
        for at, row in enumerate(rows):
            wrong[at] = self._unfit(row)
            if wrong[at] is None:
                fit.append(at)
        near: list[list[Candidate]] = [[] for _ in fit]
        if self._near is not None:
            targets = [rows[at]["targets"][0]["id"] for at in fit]
            without = [sides[at] for at in fit]
            near = self._pool.near(self._near, targets, self.settings.distractors, without)
        for at, close in zip(fit, near, strict=True):
            row = rows[at]
            first = [_member(row["references"])] if self.settings.with_reference else []
            target = _member(row["targets"])
            ids = set(sides[at]) - {one.id for one in first}
            drawn = self._pool.drawn(row["id"]) if self._near is None else close
            some = chosen(chain(first, drawn), target, self.settings.distractors, ids)
            found[at] = (target, some)
            if not some:
                detail = "no other item of the collection says anything else than the target"
                wrong[at] = (schema.FAILED, "no_distractor", detail)
        return found

    def _unfit(self, row: Mapping[str, Any]) -> Fault:
        """What is wrong with a row before anything is asked."""
        subject = replace(subject_of(row), candidates=("a candidate",))
        if not self.settings.pictures and not caption_of(row["targets"]):
            return schema.REJECTED, "no_caption", "the target has no caption to choose"
        for side in _SIDES if self.settings.pictures else ():
            if not row[side] or row[side][0]["media"] is None:
                return schema.REJECTED, "no_media", f"the {side[:-1]} has no image or clip"
        if fault := self.unfit(self.main, subject):
            return schema.REJECTED, *fault
        return None

    def _subjects(
        self, rows: Sequence[Mapping[str, Any]], others: Sequence[Any], wrong: list[Fault]
    ) -> dict[str, tuple[Subject, int]]:
        """What is asked, by id and shuffle, with the place of the target."""
        found: dict[str, tuple[Subject, int]] = {}
        for at, row in enumerate(rows):
            if wrong[at] is not None:
                continue
            target, some = others[at]
            seen: dict[str, tuple[str, ...]] = {}
            if self.settings.pictures:
                seen, wrong[at] = self._pictures(_member(row["references"]), [target, *some])
            many = self.settings.shuffles if wrong[at] is None else 0
            for number in range(many):
                order, place = shuffled(target, some, self._seed, row["id"], many, number)
                subject = replace(
                    subject_of(row),
                    candidates=tuple(one.caption for one in order),
                    pictures=_arranged(seen, order) if seen else {},
                )
                found[f"{row['id']}/{number}"] = subject, place
        return found

    def _pictures(
        self, reference: Candidate, candidates: Sequence[Candidate]
    ) -> tuple[dict[str, tuple[str, ...]], Fault]:
        """Pictures of the reference and of the candidates, by "reference" and by their ids."""
        sides = {one.id: [one.media] for one in candidates}
        row = pa.table({"id": [reference.id]})
        made = shown.prepared(row, {"reference": [reference.media], **sides}, self.settings)
        return shown.of(made)[0], faults.of(made)[0]

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        least = self.settings.min_share
        found: list[Fault] = []
        for share in numbers(rows[self.score]).tolist():
            if share != share:
                found.append((schema.FAILED, None, "the row has no score"))
            elif share < least:
                detail = f"the target was picked in {share:.4g} of the shuffles < {least:g}"
                found.append((schema.REJECTED, "not_picked", detail))
            else:
                found.append(None)
        return pa.table({"id": rows["id"], **faults.columns(found)}, schema=schema.VERDICTS)

    def settle(
        self, rows: pa.Table, items: pa.Table, context: Context
    ) -> tuple[pa.Table, dict[str, Any]]:
        """The rows with a line of provenance, and who judged."""
        line = self.provenance(context)
        told = [[*(lines or ()), line] for lines in rows["provenance"].to_pylist()]
        at = rows.column_names.index("provenance")
        rows = rows.set_column(at, "provenance", pa.array(told, schema.PROVENANCE))
        return rows, {name: line[name] for name in ("model", "revision", "prompt")}


_SIDES = ("references", "targets")


def _member(members: Sequence[Mapping[str, Any]]) -> Candidate:
    """The first reference or target, as it is told."""
    return Candidate(members[0]["id"], caption_of(members), members[0]["media"])


def _hit(reply: Reply, place: int, count: int) -> tuple[Fault, bool]:
    """What is wrong with a reply, and whether it names the target."""
    if reply.value is None:
        return (schema.FAILED, reply.rule, reply.detail or ""), False
    choice = reply.value["choice"]
    if not 0 <= choice <= count:
        detail = f"answered {str(choice)[:20]}, where 0 to {count} are to choose from"
        return (schema.FAILED, "wrong_choice", detail), False
    return None, choice == place


def _arranged(
    seen: Mapping[str, tuple[str, ...]], order: Sequence[Candidate]
) -> dict[str, tuple[str, ...]]:
    numbered = {f"candidate {n}": seen[one.id] for n, one in enumerate(order, 1)}
    return {"reference": seen["reference"], **numbered}
