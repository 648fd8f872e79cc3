"""Finds rows that need no composing: the text alone, or the reference alone, finds the target.

Of CIRR's queries the text alone finds the right one of its group of six in three cases of four
(CoLLM, arXiv:2503.19910, table of the subset recall), so a model can score well there and never
look at the reference. A row with such a shortcut teaches, or tests, image or text retrieval alone.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from datagen import faults, ranks, schema
from datagen.faults import Fault
from datagen.filters._bounds import numbers, rounded, verdicts
from datagen.filters._queries import QueryFilter
from datagen.schema import Level
from datagen.step import Settings

Array = np.ndarray[Any, Any]
Query = Literal["text", "reference"]

#: The queries in the order in which they are asked; the first that finds the target is told.
QUERIES: tuple[Query, ...] = ("text", "reference")


class ShortcutSettings(Settings):
    """space: a space whose model takes texts (``open_clip``; ``sentence_transformers`` compares
    texts with captions). rank: the target counts as found where its place among all items of the
    space is this or better. reject: the queries that must not find it alone: text, reference, or
    both. Miners of near neighbours make targets that the reference finds; by default these stay.
    """

    space: str
    rank: int = Field(1, ge=1)
    reject: tuple[Query, ...] = ("text",)

    @field_validator("reject")
    @classmethod
    def _some(cls, value: tuple[Query, ...]) -> tuple[Query, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("text, reference, or both, each once")
        return value


class Shortcut(QueryFilter[ShortcutSettings]):
    """Measures ``score_shortcut_text`` and ``score_shortcut_reference``: the place of the target
    among all items of the space, by nearness to the text or to the reference; 1 is the nearest.

    Items are those that have a vector in the space, whether they stand in pairs or not;
    references and other targets are not counted. Of several targets the nearest counts, of several
    references their mean direction is the query. Of equally near items (6 decimals of the cosine)
    the target is last. Rows that lack a vector or a text fail.
    """

    Settings = ShortcutSettings
    levels = ("triplets",)
    rules = frozenset({"rank", "reject"})

    def needs(self, level: Level) -> set[str]:
        return super().needs(level) | {"modification", f"collection.{self.settings.space}"}

    def gives(self, level: Level) -> set[str]:
        return {f"score_shortcut_{query}" for query in QUERIES}

    def columns(self, level: Level) -> list[str]:
        return ["id", "references", "targets", "modification"]

    def __call__(self, rows: pa.Table) -> pa.Table:
        texts = [[text] for text in rows["modification"].to_pylist()]
        wrong = self.faults(rows, texts)
        usable, words = self.encoded(texts, wrong)
        references = self.members(rows, "references", usable)
        targets = self.members(rows, "targets", usable).lists()
        given = {}
        for query, vectors in (("text", words), ("reference", self.mean(references))):
            places = np.full(rows.num_rows, np.nan)
            places[usable] = ranks.ranks(self.space, vectors, targets, references.lists())
            given[f"score_shortcut_{query}"] = rounded(places, 0)
        return pa.table({"id": rows["id"], **given, **faults.columns(wrong)})

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        chosen = [query for query in QUERIES if query in self.settings.reject]
        columns = [numbers(rows[f"score_shortcut_{query}"]).tolist() for query in chosen]
        found: list[Fault] = []
        for places in zip(*columns, strict=True):
            at = next((n for n, place in enumerate(places) if place <= self.settings.rank), None)
            if any(place != place for place in places):
                found.append((schema.FAILED, None, "the row has no score"))
            elif at is None:
                found.append(None)
            else:
                detail = f"the target is number {places[at]:.0f} by the {chosen[at]} alone"
                found.append((schema.REJECTED, f"{chosen[at]}_alone", detail))
        return verdicts(rows["id"], found)
