"""Hashes of items that came into the rows after others were measured: negatives, new targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import media, moments, perceptual
from datagen.ahead import read_ahead
from datagen.step import Parallel, serial

#: Items that one worker measures in a piece.
PIECE = 256

#: Hash and colours of a picture, and what a clip is known by; Nones where it cannot be decoded.
Signature = tuple[int | None, bytes | None, bytes | None]


def hashed(
    items: pa.Table, names: Sequence[str], parallel: Parallel = serial
) -> tuple[pa.Table, dict[str, Any]]:
    """``items`` with a hash for each of ``names`` that has media, as ``duplicates`` gives it.

    Notes tell how many were measured, and which cannot be decoded: these are near to nothing.
    """
    path = pc.struct_field(items["media"], "path")
    lacks = pc.and_(pc.is_null(items["phash"]), pc.is_valid(path))
    lacks = pc.and_(lacks, pc.is_in(items["id"], value_set=pa.array(names, pa.string())))
    at = np.flatnonzero(lacks.to_numpy())
    if not len(at):
        return items, {}
    places = items["media"].take(pa.array(at)).to_pylist()
    pieces = [places[start : start + PIECE] for start in range(0, len(places), PIECE)]
    run = parallel if len(pieces) > 1 else serial
    found = [one for some in run(_measured, pieces) for one in some]
    for number, column in enumerate(("phash", "colours", "moments")):
        if column in items.column_names:
            items = _filled(items, column, at, [one[number] for one in found])
    lost = [int(row) for row, one in zip(at, found, strict=True) if one[0] is None]
    notes: dict[str, Any] = {"hashed": len(found) - len(lost)}
    if lost:
        keys = items["key"].take(pa.array(lost[:3])).to_pylist()
        notes |= {"without_hash": len(lost), "examples_without_hash": keys}
    return items, notes


def _measured(places: Sequence[dict[str, Any]]) -> list[Signature]:
    out: list[Signature] = []
    for place, data in zip(places, read_ahead(places), strict=True):
        try:
            if isinstance(data, media.MediaError):
                raise data
            limits = media.admitted(place)
            if place["modality"] == "video":
                out.append(moments.signature(data, limits))
            else:
                out.append((*perceptual.signature(data, limits), None))
        except media.MediaError:
            out.append((None, None, None))
    return out


def _filled(items: pa.Table, name: str, at: Any, values: list[Any]) -> pa.Table:
    """``items`` with ``values`` in the rows ``at`` of a column."""
    old = items[name]
    if name == "phash" and pa.types.is_signed_integer(old.type):
        values = [None if one is None else one - (one >> 63 << 64) for one in values]
    place = np.full(items.num_rows, -1, np.int64)
    place[at] = np.arange(len(at))
    given = pa.array(values, old.type).take(pa.array(place, mask=place < 0))
    return items.set_column(items.column_names.index(name), name, pc.coalesce(old, given))
