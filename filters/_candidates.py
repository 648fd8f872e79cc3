"""Distractors for a target: other items of the collection, drawn by hash or near it in a space."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from datagen import schema
from datagen.filters._nearest import nearest
from datagen.filters._words import words
from datagen.space import Space

Array = np.ndarray[Any, Any]
Media = Mapping[str, Any] | None

#: Nearest items that are looked through for each distractor that is wanted.
_AROUND = 4


class Candidate(NamedTuple):
    """What is put to choice: the item's id, its caption, and where its media lies."""

    id: str
    caption: str
    media: Media


class Pool:
    """The items that can be distractors: those with a caption, or with media where ``seen``.

    They lie on a ring by the hash of their ids, so that items which come later change few draws.
    """

    def __init__(self, items: pa.Table, seen: bool) -> None:
        captions = [(one or [""])[0] or "" for one in items["captions"].to_pylist()]
        media = items["media"].to_pylist() if seen else [None] * items.num_rows
        made = zip(items["id"].to_pylist(), captions, media, strict=True)
        fit = [Candidate(*one) for one in made if (one[2] if seen else one[1].strip())]
        self._ring = sorted(fit, key=lambda one: _hashed("item", one.id))
        self._places: Array = np.array([_hashed("item", one.id) for one in self._ring], np.uint64)
        self._by_id = {one.id: one for one in self._ring}

    def drawn(self, row: str) -> Iterator[Candidate]:
        """All candidates, from a place on, which hangs on ``row``; each draw begins elsewhere."""
        count = len(self._ring)
        for number in range(count):
            place = np.uint64(_hashed("draw", row, str(number)))
            yield self._ring[int(np.searchsorted(self._places, place)) % count]
        yield from self._ring

    def near(
        self, space: Space, targets: Sequence[str], count: int, without: Sequence[Collection[str]]
    ) -> list[list[Candidate]]:
        """The candidates that are nearest to each of ``targets`` (ids), the nearest first."""
        queries = space.of(list(targets))
        known = np.isfinite(queries).all(axis=1)
        out: list[list[Candidate]] = [[] for _ in targets]
        some = np.flatnonzero(known).tolist()
        rows = [[n for n in space.rows(list(without[at])).tolist() if n >= 0] for at in some]
        found = nearest(space, queries[known], count * _AROUND, rows)
        for at, hits in zip(some, found, strict=True):
            names = (space.ids[row].decode() for row, _ in hits)
            out[at] = [self._by_id[name] for name in names if name in self._by_id]
        return out


def chosen(
    candidates: Iterable[Candidate], target: Candidate, count: int, without: Collection[str]
) -> list[Candidate]:
    """The first ``count`` of ``candidates`` that are neither the target nor of ``without`` (ids),
    and say something else than it and than each other.
    """
    found: list[Candidate] = []
    said = {_said(target)}
    taken = {target.id, *without}
    for one in candidates:
        if len(found) == count:
            break
        if one.id not in taken and _said(one) not in said:
            found.append(one)
            taken.add(one.id)
            said.add(_said(one))
    return found


def shuffled(
    target: Candidate, others: Sequence[Candidate], seed: int, row: str, shuffles: int, number: int
) -> tuple[list[Candidate], int]:
    """Shuffle ``number`` of ``shuffles``: the candidates, and the place of the target from 1.

    The others stand in an order that hangs on row, seed and number; over the shuffles the target
    goes round all places as evenly as can be, from one that hangs on the row.
    """
    order = sorted(others, key=lambda one: _hashed(str(seed), row, str(number), one.id))
    size = len(order) + 1
    place = (_hashed(str(seed), row, "place") + number * size // shuffles) % size
    return [*order[:place], target, *order[place:]], place + 1


def _said(one: Candidate) -> str:
    """What tells a candidate from others: its caption; where it has none, its picture."""
    told = " ".join(words(one.caption))
    return told or str((one.media or {}).get("sha256") or one.id)


def _hashed(*parts: str) -> int:
    digest = hashlib.blake2b(schema.content_id(*parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
