"""Keeps rows whose reference and target are alike enough, and not too alike, in any space.

CoVR (arXiv:2308.14746) keeps pairs whose captions have a cosine similarity of 0.60 to 0.96;
MegaPairs (arXiv:2412.14475) mines in a band of 0.80 to 0.96.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from datagen import schema
from datagen.schema import Level
from datagen.space import Space
from datagen.step import Context, Filter, Settings

Array = np.ndarray[Any, Any]


class SimilaritySettings(Settings):
    """``space``: where to compare. ``low`` and ``high``: the band that is kept, bounds included
    (cosine, -1 to 1; at least one). ``between``: reference and target, or the targets and the
    negatives that are not references (which are then too similar when they are likely right
    answers as well).
    """

    space: str
    low: float | None = Field(None, ge=-1, le=1)
    high: float | None = Field(None, ge=-1, le=1)
    between: Literal["reference_target", "target_negative"] = "reference_target"

    @model_validator(mode="after")
    def _band(self) -> SimilaritySettings:
        if self.low is None and self.high is None:
            raise ValueError("give low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


class Similarity(Filter[SimilaritySettings]):
    """Scores ``score_similarity_<space>``: the cosine of reference and target, 4 decimals.

    With several references or targets it is the mean over every combination. Between targets and
    negatives the score is ``score_negative_similarity_<space>``: the highest of all combinations,
    null (and kept) for a row without such negatives. Rows that lack a vector fail.
    """

    Settings = SimilaritySettings
    levels = ("pairs", "triplets")
    rules = frozenset({"low", "high"})

    @property
    def score(self) -> str:
        """Name of the score column."""
        negative = "negative_" if self.settings.between == "target_negative" else ""
        return f"score_{negative}similarity_{self.settings.space}"

    def needs(self, level: Level) -> set[str]:
        needed = {f"space.{self.settings.space}", "pairs"}
        return needed | {"negatives"} if self.settings.between == "target_negative" else needed

    def gives(self, level: Level) -> set[str]:
        return {self.score}

    def columns(self, level: Level) -> list[str]:
        if self.settings.between == "target_negative":
            return ["id", "targets", "negatives"]
        return ["id", "references", "targets"]

    def open(self, context: Context) -> None:
        self._space = context.space(self.settings.space)

    def __call__(self, rows: pa.Table) -> pa.Table:
        targets = _members(rows["targets"])
        if self.settings.between == "target_negative":
            others = _negatives(rows["negatives"])
            scores = _highest(self._space, targets, others)
            faults = self._faults(targets, others, empty_is_fine=True)
        else:
            others = _members(rows["references"])
            scores = _mean(self._space, others, targets)
            faults = self._faults(others, targets)
        failed = np.array([fault is not None for fault in faults], dtype=bool)
        scores[failed] = np.nan
        verdict = np.where(failed, schema.FAILED, schema.KEPT)
        return pa.table(
            {
                "id": rows["id"],
                self.score: pa.array(np.round(scores, 4) + 0.0, pa.float64(), from_pandas=True),
                "verdict": pa.array(verdict.tolist(), pa.string()),
                "rule": pa.nulls(len(rows), pa.string()),
                "detail": pa.array(faults, pa.string()),
            }
        )

    def _faults(
        self, left: list[list[str]], right: list[list[str]], empty_is_fine: bool = False
    ) -> list[str | None]:
        flat = [name for ids in (*left, *right) for name in ids]
        have = dict(zip(flat, (self._space.rows(flat) >= 0).tolist(), strict=True))
        faults: list[str | None] = []
        for one, other in zip(left, right, strict=True):
            lost = next((name for name in (*one, *other) if not have[name]), None)
            if lost is not None:
                faults.append(f"no vector of item {lost} in space '{self.settings.space}'")
            elif not one or not (other or empty_is_fine):
                faults.append("the row has no reference or no target")
            else:
                faults.append(None)
        return faults

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        scores = rows[self.score].to_numpy(zero_copy_only=False).astype(np.float64)
        missing = np.isnan(scores)
        verdict = np.full(len(scores), schema.KEPT, dtype=object)
        rule = np.full(len(scores), None, dtype=object)
        detail = np.full(len(scores), None, dtype=object)
        if self.settings.between == "reference_target":
            verdict[missing] = schema.FAILED
            detail[missing] = f"no vector in space '{self.settings.space}'"
        with np.errstate(invalid="ignore"):
            for name, limit, sign in (
                ("too_different", self.settings.low, "<"),
                ("too_similar", self.settings.high, ">"),
            ):
                if limit is None:
                    continue
                out = scores < limit if sign == "<" else scores > limit
                verdict[out], rule[out] = schema.REJECTED, name
                detail[out] = [f"{score:.4f} {sign} {limit:g}" for score in scores[out]]
        columns = [pa.array(column.tolist(), pa.string()) for column in (verdict, rule, detail)]
        return pa.table([rows["id"], *columns], schema=schema.VERDICTS)


def _members(column: pa.ChunkedArray) -> list[list[str]]:
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    ids = pc.struct_field(lists.flatten(), "id")
    return _split(lists, ids)


def _negatives(column: pa.ChunkedArray) -> list[list[str]]:
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = lists.flatten()
    other = pc.not_equal(pc.struct_field(flat, "kind"), "reference")
    names = pc.if_else(other, pc.struct_field(flat, ["item", "id"]), pa.scalar(None, pa.string()))
    return [[name for name in ids if name] for ids in _split(lists, names)]


def _split(lists: pa.Array, values: pa.Array) -> list[list[str]]:
    ends = np.cumsum(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))
    flat, starts = values.to_pylist(), np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    return [flat[start:end] for start, end in zip(starts, ends, strict=True)]


def _unit(space: Space, ids: list[str]) -> Array:
    vectors = space.of(ids).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Array = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms != 0)
    return unit


def _centres(space: Space, lists: list[list[str]]) -> Array:
    """Mean unit vector of each list: (n, d) float64; NaN where a vector is missing."""
    flat = _unit(space, [name for ids in lists for name in ids])
    owner = np.repeat(np.arange(len(lists)), [len(ids) for ids in lists])
    out = np.zeros((len(lists), space.width))
    np.add.at(out, owner, flat)
    counts = np.array([max(len(ids), 1) for ids in lists], dtype=np.float64)
    return out / counts[:, None]


def _mean(space: Space, left: list[list[str]], right: list[list[str]]) -> Array:
    # The dot product of two mean vectors is the mean of all dot products.
    scores: Array = np.einsum("ij,ij->i", _centres(space, left), _centres(space, right))
    return scores


def _highest(space: Space, left: list[list[str]], right: list[list[str]]) -> Array:
    out = np.full(len(left), np.nan)
    for row, (one, other) in enumerate(zip(left, right, strict=True)):
        if one and other:
            out[row] = np.max(_unit(space, one) @ _unit(space, other).T)
    return out
