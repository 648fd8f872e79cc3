"""Keeps the best rows of each group by a score: of several paintings of a pair the best ones.

InstructPix2Pix (arXiv:2211.09800) paints each pair of captions 100 times and keeps at most four,
by directional similarity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.errors import DatagenError, nearest
from datagen.faults import Fault
from datagen.filters._bounds import numbers, verdicts
from datagen.schema import Level
from datagen.step import Filter, Resources, Settings

#: What ``by: row`` looks at, as far as the table has it.
_ROW = ("references", "targets", "provenance", "modification")
_SIDES = ("references", "targets")


class BestOfSettings(Settings):
    """score: name of the column by which rows are compared, such as ``score_clip_directional``.

    n: how many rows of a group are kept. by: what makes a group. ``row``: rows that grew from one
    row in the step that made their newest items: the same references and targets, where of items
    that this step made the captions count, and the same text. ``references``, ``targets``: the
    same items on that side. Any other column (``modification``, ``split``, ``pair``): the same
    value there; null is a value of its own. best: ``highest`` or ``lowest`` scores.
    """

    score: str = Field(pattern=r"^score_\w+$")
    n: int = Field(1, ge=1)
    by: str = "row"
    best: Literal["highest", "lowest"] = "highest"


class BestOf(Filter[BestOfSettings]):
    """Rejects every row that ``n`` rows of its group beat, as ``not_best``; of equal scores the
    smaller id is better.

    Rows without the score fail, and count for nothing. It measures nothing: all settings but
    ``score`` only decide.
    """

    Settings = BestOfSettings
    levels = ("pairs", "triplets")
    rules = frozenset({"n", "by", "best"})

    def needs(self, level: Level) -> set[str]:
        return {"pairs", self.settings.score}

    def columns(self, level: Level) -> list[str]:
        return ["id"]

    def resources(self) -> Resources:
        return Resources(batch_size=65536)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows.select(["id"])

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        """Raises DatagenError where the table has no column ``by``."""
        name, sign = self.settings.score, 1 if self.settings.best == "lowest" else -1
        scores = numbers(rows[name]).tolist()
        ids = rows["id"].to_pylist()
        groups: dict[str, list[int]] = defaultdict(list)
        for row, key in enumerate(self._keys(rows)):
            groups[key].append(row)
        found: list[Fault] = [None] * len(ids)
        for group in groups.values():
            for row in group:
                if scores[row] != scores[row]:
                    found[row] = (schema.FAILED, None, f"the row has no {name}")
            order = sorted((sign * scores[row], ids[row], row) for row in group if not found[row])
            for place, (_, _, row) in enumerate(order[self.settings.n :], self.settings.n + 1):
                won = order[0][2]
                found[row] = (
                    schema.REJECTED,
                    "not_best",
                    f"{scores[row]:.4f}, number {place} of {len(order)}; the best is "
                    f"{ids[won]} with {scores[won]:.4f}",
                )
        return verdicts(rows["id"], found)

    def _keys(self, rows: pa.Table) -> list[str]:
        """What tells the group of each row."""
        by = self.settings.by
        if by == "row":
            there = [name for name in _ROW if name in rows.column_names]
            return [_grown(row) for row in rows.select(there).to_pylist()]
        if by not in rows.column_names:
            hint = nearest(by, ["row", *rows.column_names])
            raise DatagenError(f"best_of.by: the rows have no column '{by}'; {hint}")
        values = rows[by].to_pylist()
        if by in _SIDES:
            values = [[one["id"] for one in members or ()] for members in values]
        return [schema.canonical_json(_plain(value)) for value in values]


def _grown(row: Mapping[str, Any]) -> str:
    """What a row has in common with others that grew from the same row."""
    members = [one for side in _SIDES for one in row[side] or ()]
    sources = {one["source"] for one in members}
    steps = [line["step"] for line in row.get("provenance") or ()]
    # The newest step that made one of the items: what it painted differs from row to row.
    made = next((step for step in reversed(steps) if step in sources), None)
    sides = [_named(row[side] or (), made) for side in _SIDES]
    return schema.canonical_json([*sides, row.get("modification")])


def _named(members: Sequence[Mapping[str, Any]], made: str | None) -> list[list[str | None]]:
    """Members by their ids; those that the step ``made``, by their captions."""
    return [
        ["made", one["caption"]] if made is not None and one["source"] == made else ["", one["id"]]
        for one in members
    ]


def _plain(value: Any) -> Any:
    """A value of a column as JSON can hold it."""
    if isinstance(value, bytes):
        return value.hex()
    return value
