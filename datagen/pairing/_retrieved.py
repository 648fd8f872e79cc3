"""The items of a space that are nearest to texts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datagen.errors import DatagenError
from datagen.pairing._everything import Everything
from datagen.pairing._neighbours import Placed, directions, unit
from datagen.pairing._table import Array
from datagen.space import Space
from datagen.step import Context, Parallel

#: Texts that are turned into vectors at a time, and that a worker compares.
PART = 2048

#: What became of a text: an item was found; the text has no vector; there is no other item, or
#: none as near as it must be; the reference is as near as the nearest other item.
FOUND, NO_VECTOR, TOO_FAR, REFERENCE_NEARER = range(4)


@dataclass(frozen=True)
class Nearest:
    """For each text an item in canonical order (-1: none), its cosine (or NaN), and its fate."""

    item: Array
    cosine: Array
    fate: Array


#: Unit vectors of texts (n, d), places of the references of each, looks that it may not find.
_Asked = tuple[Array, list[list[int]], list[frozenset[int]]]


@dataclass(frozen=True)
class _Part:
    """What a worker needs. It can be pickled.

    folder: of the space; rows: of the items that take part; looks: of each; low: lowest cosine;
    nearer: the item must be nearer to the text than the reference is.
    """

    folder: str
    rows: Array
    looks: Array
    low: float
    nearer: bool

    def nearest(self, asked: _Asked) -> tuple[Array, Array, Array]:
        """Places, cosines and fates."""
        vectors, references, without = asked
        place = np.full(len(vectors), -1, np.int64)
        cosine = np.full(len(vectors), np.nan)
        fate = np.full(len(vectors), TOO_FAR)
        everything = Everything(Space.open(self.folder).vectors, self.rows)
        for number, near in everything.compared(vectors):
            allowed = ~np.isin(self.looks, np.array(sorted(without[number]), np.int64))
            at, value = near.best(allowed)
            if at < 0 or value < self.low:
                cosine[number] = value
                continue
            own = near.cosines(np.array(references[number], np.int64))
            if self.nearer and len(own) and own.max() >= value:
                fate[number] = REFERENCE_NEARER
            else:
                place[number], cosine[number], fate[number] = at, value, FOUND
        return place, cosine, fate


@dataclass(frozen=True)
class Retrieval:
    """How items are found. low: lowest cosine; nearer: nearer to the text than the reference."""

    space: str
    low: float
    nearer: bool

    def nearest(
        self,
        texts: Sequence[str],
        references: Sequence[Sequence[int]],
        there: Placed,
        context: Context,
        parallel: Parallel,
    ) -> Nearest:
        """The item nearest to each of ``texts``, of equal ones the first by id.

        references: items in canonical order of each text: they, and items of their media bytes,
        are not found. Raises DatagenError where texts and items have vectors of other widths.
        """
        # A copy: later steps are sent these operators, and must not be sent the model.
        encoder = copy.copy(context.embedders[self.space])
        encoder.open(context)  # type: ignore[attr-defined]
        place = np.full(len(there.canon), -1, np.int64)
        place[there.able] = np.arange(len(there.able))
        looks = there.canon.looks
        part = _Part(
            context.spaces[self.space],
            there.rows[there.able],
            looks[there.able],
            self.low,
            self.nearer,
        )
        known: list[Array] = []
        work: list[_Asked] = []
        for start in range(0, len(texts), PART):
            some = range(start, min(start + PART, len(texts)))
            vectors = encoder.texts([texts[n] for n in some])  # type: ignore[attr-defined]
            if len(vectors) and vectors.shape[1] != there.space.width:
                raise DatagenError(
                    f"space '{self.space}': its texts have {vectors.shape[1]} dimensions, its "
                    f"items {there.space.width}; embed the items with the same model"
                )
            good = np.flatnonzero(directions(vectors, np.arange(len(vectors))))
            own = [[int(place[one]) for one in references[some[n]]] for n in good.tolist()]
            work.append(
                (
                    unit(vectors, good),
                    [[one for one in many if one >= 0] for many in own],
                    [frozenset(looks[list(references[some[n]])].tolist()) for n in good.tolist()],
                )
            )
            known.append(good + start)
        item = np.full(len(texts), -1, np.int64)
        cosine = np.full(len(texts), np.nan)
        fate = np.full(len(texts), NO_VECTOR)
        # Place -1, no item, stays -1.
        able = np.append(there.able, -1)
        for at, found in zip(known, parallel(part.nearest, work), strict=True):
            item[at] = able[found[0]]
            cosine[at], fate[at] = found[1], found[2]
        return Nearest(item, cosine, fate)
