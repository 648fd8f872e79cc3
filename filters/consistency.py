"""Keeps rows whose text leads from the reference to the target, by a model of pictures and texts.

Three measures, each of which catches a caption or text that names something wrong:

- ``margin``: each picture is nearer to its own caption than to the other's. A caption that
  misnames something tells the other picture as well as its own.
- ``direction``: the way from the reference picture to the target picture is that from the one
  caption to the other (directional similarity of StyleGAN-NADA, arXiv:2108.00946). InstructPix2Pix
  (arXiv:2211.09800) keeps pairs of at least 0.2 under CLIP ViT-L/14.
- ``composed``: reference and text together find the target, and better than either alone, as
  composed retrieval is meant to (the sum of both vectors is the usual query of CLIP, as in
  Pic2Word's baseline, arXiv:2302.03084). The text is what changes between the captions, or the
  modification.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from datagen import faults, ranks, schema
from datagen.faults import Fault
from datagen.filters._bounds import below, numbers, rounded, verdicts
from datagen.filters._queries import Members, QueryFilter, member_texts
from datagen.schema import Level
from datagen.step import Settings

Array = np.ndarray[Any, Any]

#: Lower bounds where a recipe names none. At that of ``margin`` each picture is no farther from its
#: own caption than from the other's: under ``bundled:tinyclip``, 99 % of right rows.
LOW = {"margin": 0.0, "direction": 0.2}

SIDES = ("references", "targets")
TOO_FAR = "too_far"


class ConsistencySettings(Settings):
    """space: a space of images whose model takes texts as well (``embed: {op: open_clip}``).

    by: ``margin``, ``direction`` or ``composed``. low: the lowest score that is kept (-2 to 2); by
    default 0 of ``margin`` and 0.2 of ``direction``; ``composed`` needs ``low``, ``max_rank``
    or both. max_rank: the farthest place that the target may have among all items of the space,
    for reference and text together. text: of ``composed``, the difference of the captions (target
    less reference), or the modification. weight: share of the text in the sum of both (0 to 1).
    """

    space: str
    by: Literal["margin", "direction", "composed"] = "margin"
    low: float | None = Field(None, ge=-2, le=2)
    max_rank: int | None = Field(None, ge=1)
    text: Literal["captions", "modification"] = "captions"
    weight: float = Field(0.5, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _default(cls, given: Any) -> Any:
        """``low`` as it is by default, so that it stands among the thresholds in force."""
        if isinstance(given, dict) and given.get("low") is None:
            default = LOW.get(str(given.get("by", "margin")))
            return given if default is None else {**given, "low": default}
        return given

    @model_validator(mode="after")
    def _sense(self) -> ConsistencySettings:
        if self.by == "composed" and self.low is None and self.max_rank is None:
            raise ValueError("by: composed has no threshold of its own; give low, max_rank or both")
        idle = self.max_rank is None and self.weight == 0.5 and self.text == "captions"
        if self.by != "composed" and not idle:
            raise ValueError("max_rank, text and weight: only by: composed has them")
        return self


class Consistency(QueryFilter[ConsistencySettings]):
    """Measures ``score_consistency_margin`` or ``score_consistency_direction``; by ``composed``
    ``score_consistency_captions``, or ``score_consistency_composed`` with the modification, and
    beside it the rank of the target, ``score_consistency_captions_rank`` and so on.

    margin: the smaller of cos(target, its caption) - cos(target, the other's) and the same of the
    reference. direction: cosine of (target - reference) and (its caption - the other's), of unit
    vectors. composed: cos(query, target) less the better of cos(reference, target) and
    cos(text, target), with the query the weighted sum of reference and text.

    Several references are their mean direction; of several targets the one nearest to the query
    counts (``composed``), their mean (``direction``) or the worst (``margin``). The rank counts
    all items of the space but references and other targets; of equals the target is last. A clip
    has the vector that its space gives it. Rows that lack a vector, caption or text fail.
    """

    Settings = ConsistencySettings
    levels = ("pairs", "triplets")
    rules = frozenset({"low", "max_rank"})

    @property
    def score(self) -> str:
        """Name of the score column that ``low`` bounds."""
        told = self._composed and self._told
        return f"score_consistency_{'captions' if told else self.settings.by}"

    @property
    def rank(self) -> str:
        """Name of the column that ``max_rank`` bounds; ``composed`` alone has it."""
        return f"{self.score}_rank"

    @property
    def _composed(self) -> bool:
        return self.settings.by == "composed"

    @property
    def _told(self) -> bool:
        """Whether captions are read, rather than the modification."""
        return self.settings.text == "captions"

    def needs(self, level: Level) -> set[str]:
        space = self.settings.space
        needed = super().needs(level) | {f"images.{space}" if self._told else "modification"}
        return needed | {f"collection.{space}"} if self._composed else needed

    def gives(self, level: Level) -> set[str]:
        return {self.score} | ({self.rank} if self._composed else set())

    def columns(self, level: Level) -> list[str]:
        also = [] if self._told else ["modification"]
        return ["id", "references", "targets", *also]

    def __call__(self, rows: pa.Table) -> pa.Table:
        if not self._told:
            texts = [[text] for text in rows["modification"].to_pylist()]
        else:
            left, right = (member_texts(rows, side) for side in SIDES)
            texts = [[*one, *other] for one, other in zip(left, right, strict=True)]
        wrong = self.faults(rows, texts)
        usable, words = self.encoded(texts, wrong)
        references, targets = (self.members(rows, side, usable) for side in SIDES)
        measure = {"direction": self._direction, "margin": self._margin, "composed": self._gain}
        found = measure[self.settings.by](references, targets, words)
        columns = {}
        for name, values in found.items():
            column = np.full(rows.num_rows, np.nan)
            column[usable] = values
            columns[name] = column
        for number in usable:
            if not np.isfinite(columns[self.score][number]):
                wrong[number] = _EQUAL
        given = {name: rounded(column) for name, column in columns.items()}
        return pa.table({"id": rows["id"], **given, **faults.columns(wrong)})

    def _captions(self, references: Members, targets: Members, words: Array) -> tuple[Array, Array]:
        """The caption vectors of all references, and of all targets, aligned with the members."""
        of = np.concatenate([np.diff(references.starts), np.diff(targets.starts)])
        rows = len(of) // 2
        side = np.repeat(np.tile([0, 1], rows), of.reshape(2, rows).T.reshape(-1))
        return words[side == 0], words[side == 1]

    def _way(self, references: Members, targets: Members, words: Array) -> Array:
        """From the captions of the references to those of the targets, of each row: (n, d)."""
        if not len(words):
            return np.zeros((0, self.space.width))
        told = [
            ranks.unit(np.add.reduceat(ranks.unit(vectors), side.starts[:-1], axis=0))
            for vectors, side in zip(
                self._captions(references, targets, words), (references, targets), strict=True
            )
        ]
        way: Array = told[1] - told[0]
        return way

    def _direction(self, references: Members, targets: Members, words: Array) -> dict[str, Array]:
        shown = self.mean(targets) - self.mean(references)
        way = self._way(references, targets, words)
        none = np.minimum(np.linalg.norm(shown, axis=1), np.linalg.norm(way, axis=1)) == 0
        return {self.score: np.where(none, np.nan, ranks.cosines(shown, way))}

    def _margin(self, references: Members, targets: Members, words: Array) -> dict[str, Array]:
        captions = self._captions(references, targets, words)
        scores = []
        for row in range(len(references.starts) - 1):
            sides = []
            for side, told in zip((references, targets), captions, strict=True):
                part = slice(side.starts[row], side.starts[row + 1])
                sides.append(
                    (ranks.unit(self.space.vectors[side.at[part]]), ranks.unit(told[part]))
                )
            (shown, own), (other_shown, other) = sides
            scores.append(min(_least(shown, own, other), _least(other_shown, other, own)))
        return {self.score: np.array(scores, dtype=np.float64)}

    def _gain(self, references: Members, targets: Members, words: Array) -> dict[str, Array]:
        told = self._told
        text = self._way(references, targets, words) if told else ranks.unit(words)
        reference, weight = self.mean(references), self.settings.weight
        query = ranks.unit(weight * text + (1 - weight) * reference)
        lists = targets.lists()
        owner = np.repeat(np.arange(len(lists)), np.diff(targets.starts))
        vectors = self.space.vectors[targets.at]
        nearest = []
        for one in (query, text, reference):
            best = np.full(len(lists), -np.inf)
            np.maximum.at(best, owner, ranks.cosines(one[owner], vectors))
            nearest.append(best)
        gain = nearest[0] - np.maximum(nearest[1], nearest[2])
        place = ranks.ranks(self.space, query, lists, references.lists())
        return {self.score: gain, self.rank: place}

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        least, most = self.settings.low, self.settings.max_rank
        scores = numbers(rows[self.score])
        places = numbers(rows[self.rank]) if self._composed else scores
        found: list[Fault] = []
        for score, place in zip(scores.tolist(), places.tolist(), strict=True):
            if score != score:
                found.append((schema.FAILED, None, "the row has no score"))
            elif fault := below(score, least):
                found.append(fault)
            elif most is not None and place > most:
                found.append((schema.REJECTED, TOO_FAR, f"the target is number {place:.0f}"))
            else:
                found.append(None)
        return verdicts(rows["id"], found)


_EQUAL = (
    schema.FAILED,
    "no_direction",
    "the pictures or the captions of reference and target are equal to the model",
)


def _least(shown: Array, own: Array, other: Array) -> float:
    """How much nearer each picture (n, d) is to its own caption than to the nearest other one; the
    least of them."""
    right = np.einsum("ij,ij->i", shown, own)
    wrong = np.einsum("id,jd->ij", shown, other).max(axis=1)
    return float((right - wrong).min())
