"""Finds other items that fit reference and text as well as the target does.

Collections are not annotated to the full: of what CIRR calls wrong answers many are right, which
is why CIRCO (arXiv:2303.15247) gives 4.5 targets a query. As hard negatives such items teach the
wrong thing, and in a test they punish the right answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from datagen import faults, ranks, schema
from datagen.faults import Fault
from datagen.filters import _fits as fits
from datagen.filters._nearest import nearest, similarities
from datagen.filters._queries import QueryFilter
from datagen.schema import Level
from datagen.step import Context, Resources, Settings

Array = np.ndarray[Any, Any]

#: How much farther from the query than the target an item may be, where a recipe does not say.
MARGIN = {"composed": 0.0, "target": 0.01}


class FalseNegativesSettings(Settings):
    """by: an item fits where it has the caption of a target (``captions``: equal but for case and
    punctuation), the labels of a target (``labels``), where it is at least as near to reference
    and text together as the target (``composed``: a space whose model takes texts), or nearly
    where the target is (``target``: any space).

    labels: of ``by: labels``, those that must be equal; all of them where none is named.
    space, weight: of ``composed`` (share of the text in the sum of both, 0 to 1) and ``target``.
    margin: by how much farther than the target an item may be (cosine; by default 0 of
    ``composed`` and 0.01 of ``target``). most: items that are looked for, for each row.

    action: items that fit are taken out of the negatives, always; ``add`` makes them targets as
    well, the nearest first; ``reject`` rejects rows that have too many of them.
    max_targets: of ``add``, targets of a row at most. max: of ``reject``, items that may fit.
    """

    by: Literal["captions", "labels", "composed", "target"] = "captions"
    space: str | None = None
    labels: tuple[str, ...] = ()
    weight: float = Field(0.5, gt=0, lt=1)
    margin: float | None = Field(None, ge=0, le=2)
    most: int = Field(20, ge=1, le=1000)
    action: Literal["negatives", "add", "reject"] = "negatives"
    max: int = Field(0, ge=0)
    max_targets: int = Field(5, ge=2)

    @model_validator(mode="after")
    def _sense(self) -> FalseNegativesSettings:
        if self.compares != (self.space is not None):
            raise ValueError("space: must be given for by: composed and target, and for no other")
        if not self.compares and self.margin is not None:
            raise ValueError("margin: only by: composed and target have it")
        if self.labels and self.by != "labels":
            raise ValueError("labels: only by: labels has them")
        if self.max >= self.most:
            raise ValueError(f"max ({self.max}) must be below most ({self.most})")
        return self

    @property
    def compares(self) -> bool:
        """Whether items are compared in a space."""
        return self.by in MARGIN

    @property
    def least(self) -> float:
        """The lowest lead of an item that fits."""
        return -(MARGIN.get(self.by, 0.0) if self.margin is None else self.margin)


class _Asked(NamedTuple):
    """References, text and targets of a row, and whether targets are added to it."""

    same: tuple[tuple[str, ...], str, frozenset[str]]
    grows: bool


class FalseNegatives(QueryFilter[FalseNegativesSettings]):
    """Measures ``score_false_negatives_<by>``: of ``captions`` and ``labels`` how many other items
    fit (``most`` at most); in a space, whose name is part of the column's, by how much the nearest
    other item is nearer than the target (cosine; negative where it is farther).

    ``false_negatives_<by>`` lists the items that fit, the best first. ``negatives`` that come
    later leave them out as well. Rows are rejected as ``several_fit``; with ``add`` also as
    ``same_targets`` where another row has their references, text and targets: one that has them
    anyway, or the first by id. Rows that lack a caption, labels, a text or a vector fail.
    ``add`` stands before the split.
    """

    version = 2
    Settings = FalseNegativesSettings
    levels = ("triplets",)
    rules = frozenset({"margin", "action", "max", "max_targets"})
    settles = frozenset({"negatives"})

    @property
    def score(self) -> str:
        """Name of the score column."""
        return f"score_{self.column}"

    @property
    def column(self) -> str:
        """Name of the column of items that fit."""
        chosen = [self.settings.by, *([self.settings.space] if self.settings.space else [])]
        return "_".join(["false_negatives", *chosen])

    @property
    def before(self) -> frozenset[str]:  # type: ignore[override]
        """A target from another side would undo the split."""
        return frozenset({"split"} if self.settings.action == "add" else ())

    def needs(self, level: Level) -> set[str]:
        by, space = self.settings.by, self.settings.space
        if by == "composed":
            return super().needs(level) | {"modification", f"collection.{space}"}
        if by == "target":
            return {"pairs", f"space.{space}", f"collection.{space}"}
        return {"pairs", f"items.{by}", "collection"}

    def gives(self, level: Level) -> set[str]:
        return {self.score}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "modification"]

    def resources(self) -> Resources:
        if self.settings.compares:
            return super().resources()
        return Resources(batch_size=4096, actor=True)

    def open(self, context: Context) -> None:
        if self.settings.by == "composed":
            super().open(context)
        elif self.settings.by == "target":
            assert self.settings.space is not None
            self.space = context.space(self.settings.space)
        else:
            items = context.items("id", self.settings.by)
            self._known = fits.Known(
                items["id"], map(self._keys, items[self.settings.by].to_pylist())
            )

    def _keys(self, value: Any) -> list[str]:
        """What an item can be recognised by: its captions, or its labels."""
        if self.settings.by == "captions":
            return [key for key in map(fits.words, value or ()) if key]
        key = fits.labels(value, self.settings.labels)
        return [key] if key else []

    def __call__(self, rows: pa.Table) -> pa.Table:
        found, scores, wrong = self._compared(rows) if self.settings.compares else self._same(rows)
        lists = [[{"id": name, "lead": lead} for name, lead in row] for row in found]
        given = {
            self.score: pa.array(scores, pa.float64(), from_pandas=True),
            self.column: pa.array(lists, fits.FOUND),
        }
        return pa.table({"id": rows["id"], **given, **faults.columns(wrong)})

    def _same(self, rows: pa.Table) -> tuple[list[list[tuple[str, float]]], Array, list[Fault]]:
        """Items that are recognised by the same captions or labels as a target."""
        field = self.settings.by.removesuffix("s") if self.settings.by == "captions" else "labels"
        found: list[list[tuple[str, float]]] = []
        scores = np.full(rows.num_rows, np.nan)
        wrong: list[Fault] = []
        sides = (rows[side].to_pylist() for side in ("references", "targets"))
        for number, (references, targets) in enumerate(zip(*sides, strict=True)):
            values = [one[field] for one in targets or ()]
            keys = {
                key
                for value in values
                for key in self._keys([value] if field == "caption" else value)
            }
            own = {one["id"] for one in (*(references or ()), *(targets or ()))}
            same = sorted(self._known.of(keys) - own)
            found.append([(name, 0.0) for name in same[: self.settings.most]])
            lacks = None if keys else (schema.FAILED, f"no_{field}", f"no target has a {field}")
            wrong.append(lacks)
            if keys:
                scores[number] = len(found[-1])
        return found, scores, wrong

    def _compared(self, rows: pa.Table) -> tuple[list[list[tuple[str, float]]], Array, list[Fault]]:
        """Items near the query of each row, and by how much nearer than the target."""
        texts = rows["modification"].to_pylist()
        composed = self.settings.by == "composed"
        wrong = self.faults(rows, [[text] if composed else [] for text in texts])
        usable = [number for number, fault in enumerate(wrong) if fault is None]
        references = self.members(rows, "references", usable)
        targets = self.members(rows, "targets", usable)
        queries = self.mean(targets)
        if composed:
            weight = self.settings.weight
            words = ranks.unit(self.encode([texts[number] for number in usable]))
            queries = ranks.unit(weight * words + (1 - weight) * self.mean(references))
        best = np.full(len(usable), -np.inf)
        owner = np.repeat(np.arange(len(usable)), np.diff(targets.starts))
        np.maximum.at(best, owner, similarities(self.space, queries, owner, targets.at))
        own = [[*a, *b] for a, b in zip(references.lists(), targets.lists(), strict=True)]
        near = nearest(self.space, queries, self.settings.most, own)
        found: list[list[tuple[str, float]]] = [[] for _ in texts]
        scores = np.full(rows.num_rows, np.nan)
        for number, score, items in zip(usable, best.tolist(), near, strict=True):
            if not np.isfinite(score):
                wrong[number] = (schema.FAILED, "no_direction", "the model gave no finite vector")
                continue
            names = [str(self.space.ids[row], "ascii") for row, _ in items]
            leads = [round(cosine - score, 6) + 0.0 for _, cosine in items]
            found[number] = list(zip(names, leads, strict=True))
            scores[number] = leads[0] if leads else -2.0
        return found, scores, wrong

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        chosen = self.settings
        fitting = self._fitting(rows, items)
        scores = rows[self.score].to_pylist()
        verdicts: list[Fault] = [
            (schema.FAILED, None, "the row has no score") if score is None else None
            for score in scores
        ]
        if chosen.action == "reject":
            for number, names in enumerate(fitting):
                if verdicts[number] is None and len(names) > chosen.max:
                    detail = f"{len(names)} others fit, such as {names[0]}; {chosen.max} may"
                    verdicts[number] = (schema.REJECTED, "several_fit", detail)
        if chosen.action == "add":
            seen: dict[Any, str] = {}
            ids, asked = rows["id"].to_pylist(), self._asked(rows, fitting)
            # A row that has them all anyway stays as it is; another one would come to its id.
            order = sorted(range(len(ids)), key=lambda at: (asked[at].grows, ids[at]))
            for number in order:
                if verdicts[number] is None:
                    first = seen.setdefault(asked[number].same, ids[number])
                    if first != ids[number]:
                        detail = f"asks and targets as {first} does"
                        verdicts[number] = (schema.REJECTED, "same_targets", detail)
        return pa.table({"id": rows["id"], **faults.columns(verdicts)}, schema=schema.VERDICTS)

    def _fitting(self, rows: pa.Table, items: pa.Table) -> list[list[str]]:
        """Ids of the items of each row that fit by the margin, the best first."""
        lists = rows[self.column].combine_chunks()
        flat = lists.flatten()
        fine = pc.and_(
            pc.greater_equal(flat.field("lead"), self.settings.least - 1e-9),
            # A space may hold items that a later filter rejected.
            pc.is_in(flat.field("id"), value_set=items["id"].combine_chunks()),
        )
        parents = pc.list_parent_indices(lists).filter(fine).to_pylist()
        out: list[list[str]] = [[] for _ in range(rows.num_rows)]
        for parent, name in zip(parents, flat.field("id").filter(fine).to_pylist(), strict=True):
            out[parent].append(name)
        return out

    def _asked(self, rows: pa.Table, fitting: Sequence[Sequence[str]]) -> list[_Asked]:
        """The rows as they will be."""
        sides = (fits.member_ids(rows[side]) for side in ("references", "targets"))
        texts = map(fits.words, rows["modification"].to_pylist())
        out = []
        for references, targets, text, found in zip(*sides, texts, fitting, strict=True):
            added = found[: max(0, self.settings.max_targets - len(targets))]
            same = (tuple(references), text, frozenset((*targets, *added)))
            out.append(_Asked(same, bool(added)))
        return out

    def settle(
        self, rows: pa.Table, items: pa.Table, context: Context
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Take items that fit out of the negatives, and make them targets with ``add``."""
        fitting = self._fitting(rows, items)
        rows, notes = fits.listed(rows, self.column, fitting)
        if "negatives" in rows.column_names:
            rows, notes["removed_negatives"] = fits.without_negatives(rows, fitting)
        if self.settings.action == "add":
            line = self.provenance(context)
            most, by = self.settings.max_targets, self.settings.by
            told = self._keys if by == "captions" else None
            rows, notes["added_targets"] = fits.with_targets(rows, items, fitting, most, line, told)
        return rows, notes
