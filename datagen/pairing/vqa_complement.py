"""Pairs similar images of which the same question has different answers.

LaSCo (arXiv:2303.09429) makes triplets of VQA v2 (arXiv:1612.00837): its annotators were shown the
24 nearest images of each, and chose one for which the question has another answer. The change is
the question with both answers; the prompt ``lasco`` turns it into a text.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import store
from datagen.errors import DatagenError
from datagen.pairing import _complement as maths
from datagen.pairing import _given_names as matching
from datagen.pairing import _neighbours, _vqa
from datagen.pairing._labels import Rows, label_table
from datagen.pairing._miner import Miner
from datagen.pairing._table import Array, Canon, verdict_table
from datagen.schema import Level
from datagen.step import Context, Parallel, Result, Tables, serial

#: Questions that are named in the notes, of each kind that was not used.
EXAMPLES = 20

RULES = [
    ("no_question", "no question is about it"),
    ("no_answer", "no question about it has an answer that enough people agree on"),
    ("no_partner", "no similar item was found that answers one of its questions differently"),
    ("capped", "every pair it was in fell to a cap"),
]


class Settings(_neighbours.Neighbours):
    """Settings of vqa_complement. Similarities are cosines, rounded to four decimals."""

    #: Files of questions (``v2_OpenEnded_mscoco_train2014_questions.json``), also ``.gz``.
    questions: str | tuple[str, ...]
    #: Files of annotations (``v2_mscoco_train2014_annotations.json``), also ``.gz``.
    annotations: str | tuple[str, ...]
    #: Files of complementary pairs (``v2_mscoco_train2014_complementary_pairs.json``): the pairs
    #: are those, and no space is needed unless low or high is set. None: pairs of near items.
    pairs: str | tuple[str, ...] | None = None
    #: Nearest other items of each item that are looked at. VQA v2: 24.
    k: int = Field(default=24, ge=1)
    #: Lowest similarity of a pair; None: any.
    low: float | None = Field(default=None, ge=-1, le=1)
    #: Highest similarity of a pair; None: any.
    high: float | None = Field(default=None, ge=-1, le=1)
    #: Share of the people asked (ten in VQA v2) that must have given the most frequent answer.
    #: A choice of this project.
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    #: How an image's id finds its item. number: by the number that ends the name of its file
    #: (COCO). key, name, stem, label:NAME, auto: as in ``given``.
    match: str = Field(default="number", pattern=r"^(auto|key|name|stem|number|label:.+)$")
    #: Give each pair in both directions (LaSCo); otherwise in one, chosen by a seeded hash.
    both_directions: bool = True
    #: Pairs of one question, in a seeded order; None: no cap.
    max_per_question: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is the reference, at most, in a seeded order; None: no cap.
    max_per_reference: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is the target, at most, in a seeded order; None: no cap.
    max_per_target: int | None = Field(default=None, ge=1)


class VqaComplement(Miner[Settings]):
    """Similar images, the same question, different answers: a pair for each such question.

    Questions are the same but for case and marks, answers but for case, marks, articles and
    numbers in words. Answers such as "unknown" are none.
    """

    Settings = Settings

    def needs(self, level: Level) -> set[str]:
        labels = {"items.labels"} if self.settings.match.startswith(matching.LABEL) else set()
        return labels | ({f"space.{self.settings.space}"} if self._by_space() else set())

    def _by_space(self) -> bool:
        chosen = self.settings
        return chosen.pairs is None or chosen.low is not None or chosen.high is not None

    def revision(self) -> str:
        """The hashes of the files: other bytes give other pairs."""
        names = [name for names in self._files() for name in names if store.exists(name)]
        return ",".join(_file_hash(name, store.stamp(name)) for name in names)

    def _files(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Questions, annotations and complementary pairs."""
        chosen = self.settings
        many = (chosen.questions, chosen.annotations, chosen.pairs or ())
        one, two, three = ((some,) if isinstance(some, str) else some for some in many)
        return one, two, three

    def check(self) -> Iterable[str]:
        chosen = self.settings
        if chosen.low is not None and chosen.high is not None and chosen.low > chosen.high:
            yield f"low={chosen.low} is above high={chosen.high}"
        readers = (_vqa.questions, _vqa.answers, _vqa.complementary)
        for name, paths, read in zip(
            ("questions", "annotations", "pairs"), self._files(), readers, strict=True
        ):
            if not paths and (name != "pairs" or chosen.pairs is not None):
                yield f"{name}: an empty list; name a file"
            for path in paths:
                if not store.exists(path):
                    yield f"{path}: no such file; set {name} to a file of VQA v2"
                    continue
                try:
                    read(path)
                except DatagenError as error:
                    yield str(error)

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Mine the pairs. Raises DatagenError where files and items have no image in common."""
        items, chosen = tables.items, self.settings
        read = _Read(chosen.min_agreement)
        names, annotations, complements = self._files()
        answers: dict[int, _vqa.Consensus | None] = {}
        for path in annotations:
            answers |= _vqa.answers(path)
        asked = {name: one for path in names for name, one in _vqa.questions(path).items()}
        found = matching.find(sorted({one.image for one in asked.values()}), items, chosen.match)
        if not len(found):
            raise DatagenError(_no_image(items, list(asked.values()), found.way))
        canon = Canon.of(items, context.seed)
        for name, one in sorted(asked.items()):
            read.take(name, one, found.rows[one.image], answers)
        known = read.answered(canon)
        near, notes = self._near(items, known, canon, complements, read, context, parallel)
        pairs = maths.differing(known, near, canon.looks)
        notes["candidate_pairs"] = len(near)
        kept, dropped = maths.chosen(
            pairs,
            known,
            canon.hashes,
            chosen.both_directions,
            chosen.max_per_question,
            (chosen.max_per_reference, chosen.max_per_target),
        )
        code = np.full(len(canon), 1)
        code[canon.places[np.array(sorted(read.items), np.int64)]] = 2
        code[known.item] = 3
        code[known.item[np.concatenate([pairs.left, pairs.right])]] = 4
        code[known.item[np.concatenate([kept.left, kept.right])]] = 0
        notes |= {"questions": len(asked), "questions_used": len(known)}
        notes |= {name: read.counts[name] for name in LOST}
        notes |= dropped | {"pairs": len(kept), "examples": read.examples}
        rows = self._table(items, known, kept, canon, context)
        return Result(rows, verdict_table(items["id"], code[canon.places], RULES), notes=notes)

    def _near(
        self,
        items: pa.Table,
        known: maths.Answered,
        canon: Canon,
        complements: tuple[str, ...],
        read: _Read,
        context: Context,
        parallel: Parallel,
    ) -> tuple[maths.Near, dict[str, Any]]:
        """Items, or answers, that may be pairs, with their cosines; and notes."""
        chosen = self.settings
        notes: dict[str, Any] = {}
        there = _neighbours.Placed.of(items, chosen.space, context) if self._by_space() else None
        if complements or there is None:
            ids = [pair for path in complements for pair in _vqa.complementary(path)]
            one, two = read.entries(ids, known)
            near = maths.Near.of_answers(known, one, two)
            notes["complementary_pairs"] = len(ids)
            notes["complementary_pairs_used"] = len(near)
            if there is not None:
                near = near.scored(there.cosines(near.left, near.right))
        else:
            able = there.able
            cosine, place, notes = _neighbours.of_every_item(
                "vqa_complement", chosen, there, context, parallel
            )
            reference, rank = np.nonzero(place >= 0)
            ends = able[reference], able[place[reference, rank]]
            near = maths.Near.of_items(*ends, cosine[reference, rank])
            notes["items_with_vector"] = len(able)
        if there is not None:
            near = near.within(chosen.low, chosen.high)
        return near, notes

    def _table(
        self,
        items: pa.Table,
        known: maths.Answered,
        pairs: maths.Pairs,
        canon: Canon,
        context: Context,
    ) -> pa.Table:
        first, which = maths.distinct_changes(pairs, known)
        changes = [
            (known.words[known.question[left]], known.words[known.said[left]],
             known.words[known.said[right]])
            for left, right in zip(
                pairs.left[first].tolist(), pairs.right[first].tolist(), strict=True
            )
        ]  # fmt: skip
        told = [f"'{question}' '{old}' → '{new}'" for question, old, new in changes]
        score = [
            "" if np.isnan(cosine) else f", {self.settings.space} similarity {cosine:.3f}"
            for cosine in pairs.cosine.tolist()
        ]
        reasons = [told[at] + more for at, more in zip(which.tolist(), score, strict=True)]
        made = Rows(
            references=canon.rows[known.item[pairs.left]],
            targets=canon.rows[known.item[pairs.right]],
            starts=np.arange(len(pairs) + 1),
            which=which,
            changes=[[change] for change in changes],
            reasons=pa.array(reasons, pa.string()),
            scores=pairs.cosine,
        )
        line = self.provenance(context)
        return label_table(items, made, operator="vqa_complement", provenance=line)


#: What becomes of the questions that are not used; each has one end.
LOST = ("not_annotated", "image_not_found", "image_ambiguous", "no_answer", "low_agreement",
        "answered_twice")  # fmt: skip


@functools.lru_cache(maxsize=16)
def _file_hash(path: str, stamp: str) -> str:
    return store.file_hash(path)


def _no_image(items: pa.Table, asked: list[_vqa.Asked], way: str) -> str:
    """Why no image was found, with names of both sides."""
    held = ", ".join(f"'{key or '':.80}'" for key in items["key"].slice(0, 3).to_pylist())
    said = ", ".join(f"'{one.image:.80}'" for one in asked[:3]) or "none"
    return (
        f"questions: none of the images ({said}) is an item; keys of items are such as {held}, "
        f"compared by {way}; set match to key, name, stem, number or label:NAME"
    )


@dataclass
class _Read:
    """The questions that can be used, as lists of one length."""

    least: float
    names: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    asked: list[_vqa.Asked] = field(default_factory=list)
    said: list[_vqa.Consensus] = field(default_factory=list)
    items: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def take(
        self,
        name: int,
        asked: _vqa.Asked,
        row: int,
        answers: dict[int, _vqa.Consensus | None],
    ) -> None:
        """Use a question, or count why not."""
        said = answers.get(name)
        if row < 0:
            kind = "image_ambiguous" if row == matching.SEVERAL else "image_not_found"
            return self._lost(kind, name, f"image {asked.image}")
        self.items.add(row)
        if name not in answers:
            return self._lost("not_annotated", name, asked.question)
        if said is None or said.form in _vqa.NO_ANSWERS or not asked.form:
            return self._lost("no_answer", name, asked.question)
        if said.agreement < self.least:
            return self._lost("low_agreement", name, f"{asked.question} {said.agreement:.2f}")
        self.names.append(name)
        self.rows.append(row)
        self.asked.append(asked)
        self.said.append(said)
        return None

    def _lost(self, kind: str, name: int, about: str) -> None:
        self.counts[kind] += 1
        told = self.examples.setdefault(kind, [])
        if len(told) < EXAMPLES:
            told.append(f"question {name}: {about}"[:200])

    def answered(self, canon: Canon) -> maths.Answered:
        """The questions as arrays; where an item was asked one twice the answers must agree."""
        known = maths.Answered.of(
            canon.places[np.array(self.rows, np.int64)],
            np.array(self.names, np.int64),
            [(one.form, one.question) for one in self.asked],
            [(one.form, one.answer) for one in self.said],
        )
        for name in sorted(set(self.names) - set(known.name.tolist())):
            self._lost("answered_twice", name, "asked of this item before")
        return known

    def entries(self, pairs: list[tuple[int, int]], known: maths.Answered) -> tuple[Array, Array]:
        """Places in ``known`` of both questions of pairs (int64); pairs that lack one are out."""
        place = {name: at for at, name in enumerate(known.name.tolist())}
        both = [(place[a], place[b]) for a, b in pairs if a in place and b in place]
        one, two = np.array(both, np.int64).reshape(-1, 2).T
        return one, two
