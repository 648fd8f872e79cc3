"""Rejects items that say the same as another one: SemDeDup, in any space.

SemDeDup (Abbas et al. 2023, arXiv:2303.09540): items are clustered by k-means, and within a
cluster an item is a semantic duplicate when its cosine to another one is above 1 - eps. Of such
items the ones stay that lie farthest from the centroid (or nearest: ``keep``). As in the authors'
code an item is compared with those before it in the order of distance to the centroid, the ones
that are themselves rejected among them; so the score knows no threshold, and any threshold can be
tried without measuring again.

Where ``duplicates`` finds copies of a picture, this finds other pictures of the same thing, or
captions in other words: how near is near depends on the model of the space.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.filters import _clusters
from datagen.schema import Level
from datagen.step import Context, Parallel, Settings, TableFilter, Tables, serial, verdicts

Array = np.ndarray[Any, Any]

NO_VECTOR = "no_vector"


class SemanticDuplicatesSettings(Settings):
    """space: where items are compared. high: cosine (0 to 1) above which an item is a duplicate of
    the one before it; SemDeDup's 1 - eps. keep: ``hard``, the items farthest from the centroid of
    their cluster, as SemDeDup does, or ``easy``, the nearest. clusters: by default one for up to
    10,000 items, so that all are compared with all, and the square root of the number of more
    items; more clusters are faster and miss duplicates that fall into two of them. iterations: of
    k-means.
    """

    space: str
    high: float = Field(0.95, ge=0, le=1)
    keep: Literal["hard", "easy"] = "hard"
    clusters: int | None = Field(None, ge=1)
    iterations: int = Field(20, ge=1)


class SemanticDuplicates(TableFilter[SemanticDuplicatesSettings]):
    """Scores ``score_semantic_duplicates_<space>``: the highest cosine to an item before it in its
    cluster, 4 decimals; 0 for the first one of a cluster. ``semantic_duplicate_of_<space>`` is the
    id of that item.

    Items above ``high`` are rejected (rule ``semantic_duplicate``); items without a vector fail.
    The items that come in are clustered anew whenever they change.
    """

    Settings = SemanticDuplicatesSettings
    levels = ("items",)
    rules = frozenset({"high"})

    @property
    def score(self) -> str:
        """Name of the score column."""
        return f"score_semantic_duplicates_{self.settings.space}"

    @property
    def _of(self) -> str:
        return f"semantic_duplicate_of_{self.settings.space}"

    def needs(self, level: Level) -> set[str]:
        return {f"space.{self.settings.space}"}

    def gives(self, level: Level) -> set[str]:
        return {f"items.{self.score}", f"items.{self._of}"}

    def columns(self, level: Level) -> list[str]:
        return ["id"]

    def measure(self, tables: Tables, context: Context, parallel: Parallel = serial) -> pa.Table:
        ids = tables.rows["id"].combine_chunks()
        order = np.argsort(np.array(ids.to_pylist(), dtype="S"), kind="stable")
        names = ids.take(pa.array(order))
        space = context.space(self.settings.space)
        rows = space.rows(names)
        good = np.flatnonzero(_clusters.directions(space.vectors, rows))
        score = np.full(len(names), np.nan)
        other = np.full(len(names), -1, np.int64)
        if len(good):
            found, _ = _clusters.nearest_before(
                context.spaces[self.settings.space],
                rows[good],
                self.settings.clusters or _clusters.default_number(len(good)),
                self.settings.keep == "hard",
                context.seed,
                self.settings.iterations,
                parallel,
            )
            score[good] = found.cosine
            other[good] = np.where(found.place >= 0, good[found.place], -1)
        lost = np.isnan(score)
        missing = f"no vector in space '{self.settings.space}'"
        place = pa.array(other, mask=other < 0)
        return pa.table(
            {
                "id": names,
                self.score: pa.array(score, pa.float64(), from_pandas=True),
                self._of: names.take(place),
                "verdict": np.where(lost, schema.FAILED, schema.KEPT).tolist(),
                "rule": pa.array([NO_VECTOR if one else None for one in lost], pa.string()),
                "detail": pa.array([missing if one else None for one in lost], pa.string()),
            }
        )

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        ids = rows["id"].to_pylist()
        keys = dict(zip(ids, rows["key"].to_pylist(), strict=True))
        scores, others = rows[self.score].to_pylist(), rows[self._of].to_pylist()
        rejected = {}
        for name, score, other in zip(ids, scores, others, strict=True):
            if score is not None and score > self.settings.high:
                detail = f"{score:.4f} > {self.settings.high:g} to item {other} ({keys.get(other)})"
                rejected[name] = ("semantic_duplicate", detail)
        failed = {
            name: f"no vector in space '{self.settings.space}'"
            for name, score in zip(ids, scores, strict=True)
            if score is None
        }
        return verdicts(ids, rejected, failed)
