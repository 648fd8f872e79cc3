"""Which triplets go into which shard: known before a byte is written, and never by who writes."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datagen import schema
from datagen.errors import DatagenError
from datagen.shards import _tar

Numbers = np.ndarray[Any, np.dtype[np.int64]]

#: Raised when the same rows would give other bytes.
VERSION = 1
#: What is taken for the JSON of a triplet and of each of its members, texts aside (bytes).
_JSON_ROW, _JSON_MEMBER = 1000, 350

#: A vector that stands for the target, as ``edit: text_target`` gives it (fixed-size list of
#: float32), and what its member of the tar is called.
VECTOR, VECTOR_FILE = "target_vector", "target.npy"
#: Bytes ahead of the numbers in a file of NumPy.
_NPY_HEAD = 128

_SPLIT = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True)
class Shard:
    """A shard to be: its name without ``.tar``, its split and its rows."""

    name: str
    split: str
    rows: pa.Table

    def packed(self, negatives: bool) -> tuple[str, bytes]:
        """The hash of all that decides the shard's bytes, and its rows as a Parquet file."""
        out = io.BytesIO()
        pq.write_table(self.rows.combine_chunks(), out, compression="zstd")
        head = json.dumps([VERSION, self.name, self.split, negatives]).encode()
        return hashlib.sha256(head + out.getvalue()).hexdigest(), out.getvalue()


def score_columns(table: pa.Table) -> list[str]:
    """Names of the score columns, sorted."""
    return sorted(name for name in table.column_names if name.startswith("score_"))


def plan(
    table: pa.Table, max_size: int, max_count: int | None, negatives: bool, prefix: str
) -> list[Shard]:
    """Cut the triplets into shards: by split, then in the order of ids.

    Ids are hashes, so their order is a shuffle that depends on nothing else. A shard ends before
    the triplet that would take it over ``max_size`` (bytes of media as known, and an allowance
    for the texts) or ``max_count``. Raises DatagenError for a split that is no name for a file.
    """
    known = [*schema.TRIPLETS.names, "negatives", VECTOR]
    names = [name for name in known if name in table.column_names]
    rows = table.select([*names, *score_columns(table)]).replace_schema_metadata(None)
    splits = table["split"].to_pylist() if "split" in table.column_names else ["train"] * len(table)
    shards: list[Shard] = []
    for split in sorted(set(splits), key=lambda name: (_RANK.get(name, 9), str(name))):
        if not isinstance(split, str) or not _SPLIT.fullmatch(split):
            raise DatagenError(
                f"shards: split {split!r} is no name for files; use train, val, test"
            )
        chosen = rows.filter(pa.array([name == split for name in splits]))
        chosen = chosen.take(pc.sort_indices(chosen["id"]))
        cuts = _cuts(sizes(chosen, negatives), max_size, max_count)
        for number, (start, stop) in enumerate(cuts):
            name = f"{prefix}{split}-{number:06d}"
            shards.append(Shard(name, split, chosen.slice(start, stop - start)))
    return shards


_RANK = {"train": 0, "val": 1, "test": 2}


def _cuts(
    lengths: Sequence[int], max_size: int, max_count: int | None
) -> Iterator[tuple[int, int]]:
    start = total = 0
    for at, length in enumerate(lengths):
        full = total + length > max_size or (max_count is not None and at - start >= max_count)
        if full and at > start:
            yield start, at
            start, total = at, 0
        total += length
    if start < len(lengths):
        yield start, len(lengths)


def sizes(rows: pa.Table, negatives: bool) -> list[int]:
    """Bytes that each triplet will take in a tar, about: media exactly, JSON by allowance."""
    text = np.maximum(_numbers(pc.binary_length(rows["modification"])), 0)
    total = _in_blocks(text) + _in_blocks(np.full(len(rows), _JSON_ROW, np.int64))
    for name in ("references", "targets", "negatives"):
        if name in rows.column_names:
            where = ["item"] if name == "negatives" else []
            total += _of_members(rows[name], where, with_bytes=name != "negatives" or negatives)
    if VECTOR in rows.column_names:
        long = _NPY_HEAD + 4 * rows[VECTOR].type.list_size
        there = pc.is_valid(rows[VECTOR]).to_numpy()
        total += np.where(there, _in_blocks(np.full(len(rows), long, np.int64)), 0)
    return [int(size) for size in total]


def _in_blocks(size: Numbers) -> Numbers:
    """Bytes that members of ``size`` bytes take, header and padding included."""
    return size + -size % _tar.BLOCK + _tar.BLOCK


def _of_members(column: pa.ChunkedArray, where: list[str], with_bytes: bool) -> Numbers:
    """Bytes that the members of each row take: (rows,)."""
    totals = [np.zeros(0, np.int64)]
    for chunk in column.chunks:
        members = pc.list_flatten(chunk)
        known = np.full(len(members), _JSON_MEMBER, np.int64)
        for name in ("caption", "labels"):
            text = pc.binary_length(pc.struct_field(members, [*where, name]))
            known += np.maximum(_numbers(text), 0)
        size = _numbers(pc.struct_field(members, [*where, "media", "size"]))
        if with_bytes:
            known += np.where(size >= 0, _in_blocks(size), 0)
        parents = pc.list_parent_indices(chunk).to_numpy()
        totals.append(np.bincount(parents, known, minlength=len(chunk)).astype(np.int64))
    return np.concatenate(totals)


def _numbers(array: pa.Array | pa.ChunkedArray) -> Numbers:
    """Numbers with -1 for null."""
    filled = pc.fill_null(array.cast(pa.int64()), -1)
    return np.asarray(filled, dtype=np.int64)
