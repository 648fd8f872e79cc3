"""Pairs each item with those of its nearest neighbours that lie in a band of similarity.

The miner of MegaPairs (arXiv:2412.14475: image, structure or caption space, 0.80–0.96) and of VDG
(20 nearest, none above 0.94, none within 0.002 of the one taken before it). The k nearest other
items of a reference are looked up first; band, labels and gap then choose among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import schema
from datagen.pairing import _neighbours as maths
from datagen.pairing._miner import Miner
from datagen.pairing._table import (
    Array,
    Canon,
    FirstCaptions,
    pair_table,
    verdict_table,
    within_caps,
)
from datagen.schema import Level
from datagen.step import Context, Parallel, Result, Tables, serial

RULES = [
    ("no_vector", "no vector with a direction in this space"),
    ("no_neighbour_in_band", "none of its nearest neighbours is in the band and allowed"),
    ("capped", "every pair it was in fell to a cap"),
]


class Settings(maths.Neighbours):
    """Settings of knn_band. Similarities are cosines, rounded to four decimals."""

    #: Lowest similarity of a pair. MegaPairs: 0.80.
    low: float = Field(default=0.80, ge=-1, le=1)
    #: Highest similarity of a pair; above it are near duplicates. MegaPairs: 0.96, VDG: 0.94.
    high: float = Field(default=0.96, ge=-1, le=1)
    #: Of one reference's neighbours, nearest first, skip those whose similarity is less than this
    #: below that of the one taken before. VDG: 0.002; 0: skip none.
    skip_near: float = Field(default=0.0, ge=0, le=1)
    #: A key of the labels that must be the same in both items; None: no such rule.
    same_label: str | None = None
    #: A key of the labels that must be there and differ; None: no such rule.
    other_label: str | None = None
    #: Give each pair in both directions; otherwise only in the one in which it is nearer in rank.
    both_directions: bool = True
    #: Pairs in which an item is the reference, at most, most similar first; None: no cap.
    max_per_reference: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is the target, at most, most similar first; None: no cap.
    max_per_target: int | None = Field(default=None, ge=1)


class KnnBand(Miner[Settings]):
    """Nearest neighbours in a space whose similarity is neither too high nor too low."""

    Settings = Settings

    def needs(self, level: Level) -> set[str]:
        labels = self.settings.same_label or self.settings.other_label
        return {f"space.{self.settings.space}"} | ({"items.labels"} if labels else set())

    def check(self) -> Iterable[str]:
        if self.settings.low > self.settings.high:
            yield f"low={self.settings.low} is above high={self.settings.high}"

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Mine the pairs. Raises DatagenError where an index misses more than ``min_recall``."""
        items, chosen = tables.items, self.settings
        there = maths.Placed.of(items, chosen.space, context)
        canon, able = there.canon, there.able
        cosine, place, notes = maths.of_every_item("knn_band", chosen, there, context, parallel)
        reference, rank = np.nonzero(self._allowed(cosine, place, items, canon, able))
        target = able[place[reference, rank]]
        found = _Found(
            able[reference],
            target,
            cosine[reference, rank],
            rank + 1,
            np.zeros(len(rank), bool),
        )
        notes["neighbours_in_band"] = len(found)
        directed = _directed(found, chosen.both_directions, len(canon))
        order = np.lexsort((directed.target, directed.reference, -directed.cosine))
        directed = directed.take(order)
        keep = within_caps(
            directed.reference, directed.target, chosen.max_per_reference, chosen.max_per_target
        )
        kept = directed.take(np.flatnonzero(keep))
        code = np.full(len(canon), 1)
        code[able] = 2
        code[np.concatenate([directed.reference, directed.target])] = 3
        code[np.concatenate([kept.reference, kept.target])] = 0
        notes |= {
            "items_with_vector": len(able),
            "dropped_per_reference_or_target": len(directed) - len(kept),
            "pairs": len(kept),
        }
        rows_out = self._table(items, kept, canon, context)
        return Result(rows_out, verdict_table(items["id"], code[canon.places], RULES), notes=notes)

    def _allowed(
        self, cosine: Array, place: Array, items: pa.Table, canon: Canon, able: Array
    ) -> Array:
        """Which neighbours (bool, n × k) the band, the media, the labels and the gap allow."""
        chosen = self.settings
        mine, other = able[:, None], able[np.maximum(place, 0)]
        with np.errstate(invalid="ignore"):
            allowed = (place >= 0) & (cosine >= chosen.low) & (cosine <= chosen.high)
        allowed &= canon.looks[mine] != canon.looks[other]
        for key, same in ((chosen.same_label, True), (chosen.other_label, False)):
            if key is not None:
                value = label_codes(items["labels"], key)[canon.rows]
                both = (value[mine] >= 0) & (value[other] >= 0)
                allowed &= both & ((value[mine] == value[other]) == same)
        return spaced(cosine, allowed, chosen.skip_near)

    def _table(self, items: pa.Table, pairs: _Found, canon: Canon, context: Context) -> pa.Table:
        chosen = self.settings
        signed = np.where(pairs.reverse, -pairs.rank, pairs.rank)
        # Cosines have four decimals: as integers, each sentence is written once.
        key = np.stack([np.round(pairs.cosine * 10_000).astype(np.int64), signed], axis=1)
        seen, which = np.unique(key, axis=0, return_inverse=True)
        band = f"in {chosen.low:g}–{chosen.high:g}"
        sentences = [
            f"{chosen.space} similarity {value / 10_000:.3f} {band}, neighbour {abs(rank)} of "
            f"{chosen.k}{'' if rank > 0 else ' of the target'}"
            for value, rank in seen.tolist()
        ]
        reasons = pa.DictionaryArray.from_arrays(
            pa.array(which.reshape(-1)), pa.array(sentences, pa.string())
        )
        ends = canon.rows[pairs.reference], canon.rows[pairs.target]
        found = FirstCaptions.of(items).mined(*ends, pairs.cosine, reasons)
        line = self.provenance(context)
        return pair_table(items, found, operator="knn_band", field="", provenance=line)


@dataclass(frozen=True)
class _Found:
    """Directed pairs: items in canonical order, cosine, rank from 1, whether found in reverse."""

    reference: Array
    target: Array
    cosine: Array
    rank: Array
    reverse: Array

    def __len__(self) -> int:
        return len(self.reference)

    def take(self, order: Array) -> _Found:
        """The pairs at ``order``."""
        return _Found(*(value[order] for value in vars(self).values()))


def _directed(found: _Found, both: bool, items: int) -> _Found:
    """Every pair in both directions, or every unordered pair once; own ranks come first."""
    if both:
        reference = np.concatenate([found.reference, found.target])
        target = np.concatenate([found.target, found.reference])
        reverse = np.repeat([False, True], len(found))
        found = _Found(
            reference,
            target,
            np.concatenate([found.cosine, found.cosine]),
            np.concatenate([found.rank, found.rank]),
            reverse,
        )
        name = reference * items + target
        order = np.lexsort((found.reverse, name))
    else:
        low = np.minimum(found.reference, found.target)
        name = low * items + np.maximum(found.reference, found.target)
        order = np.lexsort((found.reference, found.rank, name))
    first = np.ones(len(order), bool)
    first[1:] = name[order][1:] != name[order][:-1]
    return found.take(order[first])


def spaced(cosine: Array, allowed: Array, gap: float) -> Array:
    """Of the allowed ones (bool, n × k; nearest first), those at least ``gap`` below the last."""
    if gap <= 0:
        return allowed
    out = np.zeros_like(allowed)
    last = np.full(len(cosine), np.inf)
    for rank in range(cosine.shape[1]):
        # Half a unit of the fourth decimal: 0.902 and 0.900 are 0.002 apart, whatever binary says.
        far = last - cosine[:, rank] >= gap - 0.5 * 10**-maths.DECIMALS
        out[:, rank] = allowed[:, rank] & far
        last = np.where(out[:, rank], cosine[:, rank], last)
    return out


def label_codes(labels: pa.ChunkedArray, key: str) -> Array:
    """Equal integers for equal values of ``key`` (int64, n); -1 where an item has none."""
    codes: dict[str, int] = {}
    out = np.full(len(labels), -1, np.int64)
    for row, text in enumerate(labels.to_pylist()):
        value = json.loads(text).get(key) if text else None
        if value is not None:
            out[row] = codes.setdefault(schema.canonical_json(value), len(codes))
    return out
