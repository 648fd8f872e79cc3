"""Fingerprints of a collection: hashes of bytes, pictures and clips, made once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datagen import colours, containers, media, moments, perceptual, store
from datagen.ahead import read_ahead
from datagen.errors import DatagenError
from datagen.leaks.collection import Collection
from datagen.step import Parallel, serial

#: ``phash`` and ``colours`` are those of the filter ``duplicates``, ``moments`` its signature of
#: clips (null for images), ``seconds`` the duration of a clip. ``fault``: why a file has none.
FINGERPRINTS = pa.schema(
    [
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("phash", pa.uint64()),
        ("colours", pa.binary(colours.BYTES)),
        ("moments", pa.large_binary()),
        ("seconds", pa.float64()),
        ("fault", pa.string()),
    ]
)

#: Raised when fingerprints are made in another way.
VERSION = 1
#: Files that one worker reads in a piece.
PIECE = 256


def fingerprints(collection: Collection, folder: str = "", parallel: Parallel = serial) -> pa.Table:
    """The fingerprints of all media of ``collection`` (:data:`FINGERPRINTS`), in order of names.

    folder: where they are kept, and found again while the collection stays as it is (empty: they
    are not). Files that cannot be read have a ``fault``.
    """
    if collection.kind == "fingerprints":
        return _given(collection)
    path = store.join(folder, f"{collection.stamp()}-{VERSION}.parquet") if folder else ""
    if path and store.exists(path):
        return store.read_table(path)
    entries = collection.entries()
    pieces = [entries.slice(at, PIECE) for at in range(0, entries.num_rows, PIECE)]
    run = parallel if len(pieces) > 1 else serial
    table = pa.concat_tables([FINGERPRINTS.empty_table(), *run(measure, pieces)]).combine_chunks()
    if path:
        store.write_table(path, table)
    return table


def _given(collection: Collection) -> pa.Table:
    """What a file of fingerprints holds; columns that it lacks are null. Raises DatagenError."""
    table = store.read_table(collection.path)
    try:
        columns = [
            table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in FINGERPRINTS
        ]
        found = pa.table(columns, schema=FINGERPRINTS).combine_chunks()
        moments.Clips(found["moments"].drop_null(), [])
    except (pa.ArrowException, ValueError) as error:
        told = " ".join(str(error).split())
        raise DatagenError(f"{collection.told}: not a file of fingerprints ({told})") from error
    return found


def measure(entries: pa.Table) -> pa.Table:
    """The fingerprints of some entries of a collection (their bytes are read once)."""
    rows = []
    places = [_anew(place) for place in entries["media"].to_pylist()]
    for name, place, data in zip(
        entries["name"].to_pylist(), places, read_ahead(places), strict=True
    ):
        row: dict[str, Any] = {"name": name}
        try:
            if isinstance(data, media.MediaError):
                raise data
            row["sha256"] = hashlib.sha256(data).hexdigest()
            row |= signature(data, media.admitted(place))
        except media.MediaError as error:
            row["fault"] = f"{error.rule}: {error.detail}"
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=FINGERPRINTS)


def _anew(place: Mapping[str, Any]) -> dict[str, Any]:
    """A medium of a run, to be read as it is now: where a file changed, its new bytes count."""
    return {**place, "sha256": None}


def signature(data: bytes, limits: media.Limits) -> dict[str, Any]:
    """``phash``, ``colours`` and, of a clip, ``moments`` and ``seconds``. Raises MediaError."""
    if containers.sniff(data) in containers.VIDEO_FORMATS:
        phash, grid, whole = moments.signature(data, limits)
        seconds = media.probe(data, limits).seconds
        return {"phash": phash, "colours": grid, "moments": whole, "seconds": seconds}
    phash, grid = perceptual.signature(data, limits)
    return {"phash": phash, "colours": grid}


def unreadable(collections: Sequence[tuple[Collection, pa.Table]]) -> list[str]:
    """One line for each collection with files that could not be read, with examples."""
    lines = []
    for collection, table in collections:
        bad = table.filter(pc.is_valid(table["fault"]))
        if bad.num_rows:
            shown = bad.slice(0, 3).select(["name", "fault"]).to_pylist()
            told = "; ".join(f"{row['name']} ({row['fault']})" for row in shown)
            more = ", …" if bad.num_rows > len(shown) else ""
            count = f"{bad.num_rows:,} of {table.num_rows:,}"
            lines.append(f"{collection.told}: {count} files cannot be compared: {told}{more}")
    return lines
