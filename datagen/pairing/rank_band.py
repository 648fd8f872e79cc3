"""Pairs each item with others whose rank by similarity lies in a band.

SPN4CIR (arXiv:2404.11317) makes more triplets of images that have none: the target stands from
10,000 to 20,000 (FashionIQ) or 15,000 (CIRR) in the order of similarity to the reference, related
enough to be compared and different enough for a text. Ranks are exact, at any size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import step
from datagen.errors import DatagenError
from datagen.pairing._everything import Everything
from datagen.pairing._miner import Miner
from datagen.pairing._neighbours import Placed, unit
from datagen.pairing._table import (
    Array,
    FirstCaptions,
    mix64,
    pair_table,
    seed64,
    verdict_table,
    within_caps,
)
from datagen.schema import Level
from datagen.space import Space
from datagen.step import Context, Parallel, Result, Tables, serial

RULES = [
    ("no_vector", "no vector with a direction in this space"),
    ("not_in_band", "no reference, and in the chosen band of none"),
    ("capped", "every pair it was in fell to a cap"),
]

#: References that a worker compares at a time.
PART = 2048

#: A count from 1, or a share of the other items from 0.0 to 1.0.
Rank = (
    Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
)


class Settings(step.Settings):
    """Settings of rank_band. Ranks are counted from 1, the nearest other item."""

    #: The space whose vectors are compared.
    space: str = "image"
    #: First rank of the band: a whole number, or with a point a share of the other items (0.1).
    #: SPN4CIR: 10000.
    low: Rank = 10_000
    #: Last rank of the band, in the same way. SPN4CIR: 20000 (FashionIQ), 15000 (CIRR).
    high: Rank = 20_000
    #: Targets of each reference, drawn out of its band by a seeded hash.
    per_reference: int = Field(default=1, ge=1)
    #: Items that are references, drawn by a seeded hash; None: all. The work grows with their
    #: number times that of all items.
    references: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is a target, at most, in a seeded order; None: no cap.
    max_per_target: int | None = Field(default=None, ge=1)


class RankBand(Miner[Settings]):
    """Items that are neither the nearest nor the farthest of a reference, by rank.

    Items are ordered by their cosine with the reference (four decimals), equals by id. Those with
    the reference's own media bytes have a rank too, but are no targets.
    """

    Settings = Settings

    def needs(self, level: Level) -> set[str]:
        return {f"space.{self.settings.space}"}

    def check(self) -> Iterable[str]:
        low, high = self.settings.low, self.settings.high
        if type(low) is type(high) and low > high:
            yield f"low={low} is above high={high}"

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Mine the pairs. Raises DatagenError where the band is beyond the last rank."""
        items, chosen = tables.items, self.settings
        there = Placed.of(items, chosen.space, context)
        canon, able = there.canon, there.able
        others = len(able) - 1
        low, high = ranks_of(chosen.low, chosen.high, others)
        if others > 0 and low > min(high, others):
            raise DatagenError(
                f"rank_band: no rank from low={chosen.low} to high={chosen.high} among {others:,} "
                f"other items in space '{chosen.space}'; give shares such as low: 0.1, high: 0.2"
            )
        asked = np.arange(len(able))
        if chosen.references is not None:
            turn = mix64(canon.hashes[able] ^ seed64(context.seed + 1))
            asked = np.sort(np.argsort(turn, kind="stable")[: chosen.references])
        part = _Part(
            context.spaces[chosen.space],
            there.rows[able],
            canon.hashes[able],
            canon.looks[able],
            (low, min(high, others)),
            chosen.per_reference,
        )
        found = _Found.joined(
            parallel(part.found, [asked[at : at + PART] for at in range(0, len(asked), PART)])
        )
        order = np.lexsort((found.target, found.reference, found.turn))
        found = found.taken(order)
        keep = within_caps(found.reference, found.target, None, chosen.max_per_target)
        kept = found.taken(keep)
        code = np.full(len(canon), 1)
        code[able] = 2
        code[able[np.concatenate([found.reference, found.target])]] = 3
        code[able[np.concatenate([kept.reference, kept.target])]] = 0
        short = len(asked) * chosen.per_reference - len(found)
        notes = {
            "items_with_vector": len(able),
            "references": len(asked),
            "low_rank": low,
            "high_rank": min(high, others),
            "too_few_in_band": short,
            "dropped_max_per_target": len(found) - len(kept),
            "pairs": len(kept),
        }
        reasons = pa.array(
            [
                f"{chosen.space} similarity {cosine:.3f}, rank {rank:,} of {others:,}, in "
                f"{low:,}–{high:,}"
                for cosine, rank in zip(kept.cosine.tolist(), kept.rank.tolist(), strict=True)
            ],
            pa.string(),
        )
        ends = canon.rows[able[kept.reference]], canon.rows[able[kept.target]]
        mined = FirstCaptions.of(items).mined(*ends, kept.cosine, reasons)
        line = self.provenance(context)
        return Result(
            pair_table(items, mined, operator="rank_band", field="", provenance=line),
            verdict_table(items["id"], code[canon.places], RULES),
            notes=notes,
        )


def ranks_of(low: float, high: float, others: int) -> tuple[int, int]:
    """First and last rank of a band among so many items; shares end at whole ranks within them.

    Shares that meet (0.1 to 0.2, 0.2 to 0.3) share no rank, and 0.0 to 1.0 are all.
    """
    first = low if isinstance(low, int) else 1 + int(low * others + 1e-9)
    last = high if isinstance(high, int) else int(high * others + 1e-9)
    return first, last


@dataclass(frozen=True)
class _Found:
    """Pairs, as arrays of length m: places of both ends, cosine, rank, and a seeded hash."""

    reference: Array
    target: Array
    cosine: Array
    rank: Array
    turn: Array

    def __len__(self) -> int:
        return len(self.reference)

    def taken(self, rows: Array) -> _Found:
        """The pairs at ``rows`` (places, or a bool per pair)."""
        return _Found(*(column[rows] for column in vars(self).values()))

    @staticmethod
    def joined(parts: Iterable[_Found]) -> _Found:
        """All pairs of ``parts``, one after the other."""
        kinds = (np.int64, np.int64, np.float64, np.int64, np.uint64)
        nothing = _Found(*(np.empty(0, kind) for kind in kinds))
        columns = zip(*(vars(part).values() for part in [nothing, *parts]), strict=True)
        return _Found(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class _Part:
    """What a worker needs to find the targets of some references. It can be pickled.

    folder: of the space; rows: of the items that take part; hashes, looks: of each; band: first
    and last rank; most: targets of a reference.
    """

    folder: str
    rows: Array
    hashes: Array
    looks: Array
    band: tuple[int, int]
    most: int

    def found(self, references: Array) -> _Found:
        """Pairs of the ``references`` (places)."""
        vectors = Space.open(self.folder).vectors
        everything = Everything(vectors, self.rows)
        done = []
        for number, near in everything.compared(unit(vectors, self.rows[references])):
            reference = int(references[number])
            # Last of all, and so of no rank among the others.
            near.rough[reference] = -np.inf
            places = near.band(*self.band)
            places = places[self.looks[places] != self.looks[reference]]
            turn = mix64(self.hashes[places] ^ mix64(self.hashes[reference : reference + 1]))
            order = np.lexsort((places, turn))[: self.most]
            places, turn = places[order], turn[order]
            cosine = near.cosines(places)
            rank = near.ranks(places, cosine)
            done.append(_Found(np.full(len(places), reference), places, cosine, rank, turn))
        return _Found.joined(done)
