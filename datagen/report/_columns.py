"""Reads of a run only the columns that the figures need, a row group at a time.

A column of a list is named by its place: ``references.media.format``. Items and texts become
codes (numbers), so that a million triplets take some hundred megabytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datagen import schema, store

Array = np.ndarray[Any, Any]

#: Rows of a batch.
BATCH = 1 << 16
_RANK = {"train": 0, "val": 1, "test": 2}
#: What is read of each member of a triplet.
MEDIA = ("modality", "format", "width", "height", "seconds", "size")


@contextlib.contextmanager
def opened(path: str) -> Iterator[pq.ParquetFile]:
    """The Parquet file at ``path``, here or on an object store."""
    if store.is_local(path):
        with pa.memory_map(store.local_path(path)) as file:
            yield pq.ParquetFile(file)
        return
    fs, inner = store.filesystem(path)
    with fs.open(inner, "rb") as file:
        yield pq.ParquetFile(file)


def names(path: str) -> list[str]:
    """Names of the columns of the file, as they stand in its footer."""
    with opened(path) as file:
        found: list[str] = file.schema_arrow.names
        return found


def batches(path: str, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Batches of the columns ``wanted``, as far as the file has them."""
    with opened(path) as file:
        leaves = [file.schema.column(number).path for number in range(len(file.schema))]
        chosen = [leaf for leaf in leaves if any(_within(_plain(leaf), one) for one in wanted)]
        for batch in file.iter_batches(BATCH, columns=chosen):
            yield pa.Table.from_batches([batch])


def read(path: str, wanted: Sequence[str]) -> pa.Table:
    """The columns ``wanted`` of the whole file, as far as it has them."""
    found = list(batches(path, wanted))
    if found:
        return pa.concat_tables(found)
    with opened(path) as file:
        tops = {one.partition(".")[0] for one in wanted}
        columns = [name for name in file.schema_arrow.names if name in tops]
        return file.schema_arrow.empty_table().select(columns)


def _plain(leaf: str) -> str:
    """``references.list.element.id`` → ``references.id``."""
    parts = leaf.split(".")
    kept = [
        part
        for at, part in enumerate(parts)
        if not (part == "list" and at + 1 < len(parts) and parts[at + 1] in ("element", "item"))
        and not (at and parts[at - 1] == "list" and part in ("element", "item"))
    ]
    return ".".join(kept)


def _within(leaf: str, wanted: str) -> bool:
    return leaf == wanted or leaf.startswith(f"{wanted}.")


def flat(table: pa.Table, column: str, *fields: str) -> pa.ChunkedArray:
    """A field of every member of a list column, in order."""
    members = pc.list_flatten(table[column])
    return pc.struct_field(members, list(fields)) if fields else members


def parents(table: pa.Table, column: str) -> Array:
    """The row of every member of a list column."""
    lengths = pc.fill_null(pc.list_value_length(table[column]), 0).to_numpy()
    return np.repeat(np.arange(table.num_rows), lengths)


def codes(*arrays: pa.ChunkedArray) -> tuple[list[Array], pa.Array]:
    """One numbering for the texts of several arrays (null: -1), and the texts by number."""
    joined = pa.chunked_array([c for a in arrays for c in a.chunks], arrays[0].type)
    encoded = joined.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # no chunk at all
        return [np.zeros(0, np.int64) for _ in arrays], pa.array([], arrays[0].type)
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    cuts = np.cumsum([len(a) for a in arrays])[:-1]
    return list(np.split(numbers, cuts)), encoded.dictionary


@dataclass
class Members:
    """References or targets of all triplets: the row of each, and its item as a code."""

    rows: Array
    items: Array

    def of(self, chosen: Array) -> Array:
        """Items (codes) of the rows that the mask ``chosen`` marks, once per use."""
        found: Array = self.items[chosen[self.rows]]
        return found


@dataclass
class Triplets:
    """The kept triplets of a run as numbers.

    splits: name of each split with its mask over the rows, ``all`` first; text, pair, query:
    codes per row (a query is the references with the text); items: what is known of each item.
    """

    count: int
    splits: dict[str, Array]
    text: Array
    texts: pa.Array
    pair: Array
    query: Array
    references: Members
    targets: Members
    items: pd.DataFrame
    scores: pa.Table
    negatives: tuple[Array, pa.ChunkedArray] | None


def triplets(path: str) -> Triplets:
    """Read the kept triplets of the file ``path`` (triplets.parquet, or a table of triplets)."""
    members = [f"{role}.{field}" for role in ("references", "targets") for field in _FIELDS]
    scores = [name for name in names(path) if name.startswith("score_")]
    wanted = ["pair", "modification", "split", "verdict", "negatives.kind", *members, *scores]
    table = kept(read(path, wanted))
    ids = [flat(table, role, "id") for role in ("references", "targets")]
    (reference, target), known = codes(*ids)
    (text,), texts = codes(table["modification"])
    (pair,), _ = codes(table["pair"])
    references = Members(parents(table, "references"), reference)
    negatives = None
    if "negatives" in table.column_names:
        negatives = parents(table, "negatives"), flat(table, "negatives", "kind")
    return Triplets(
        count=table.num_rows,
        splits=_splits(table),
        text=text,
        texts=texts,
        pair=pair,
        query=_queries(references, text, len(texts)),
        references=references,
        targets=Members(parents(table, "targets"), target),
        items=_items(table, np.concatenate([reference, target]), known),
        scores=table.select(scores),
        negatives=negatives,
    )


def negatives_used(path: str) -> set[str]:
    """Ids of the items that are negatives of kept triplets."""
    found: set[str] = set()
    for batch in batches(path, ["negatives.item.id", "verdict"]):
        if "negatives" in batch.column_names:
            found.update(pc.unique(flat(kept(batch), "negatives", "item", "id")).to_pylist())
    return found


_FIELDS = ("id", "source", *(f"media.{name}" for name in MEDIA))


def kept(table: pa.Table) -> pa.Table:
    """Rows that no step has lost; all where there is no verdict."""
    if "verdict" not in table.column_names:
        return table
    return table.filter(pc.equal(table["verdict"], schema.KEPT))


def _splits(table: pa.Table) -> dict[str, Array]:
    everything = np.ones(table.num_rows, dtype=bool)
    if "split" not in table.column_names:
        return {"all": everything}
    (numbers,), found = codes(table["split"])
    order = sorted(enumerate(found.to_pylist()), key=lambda one: (_RANK.get(one[1], 9), one[1]))
    return {"all": everything, **{name: numbers == number for number, name in order}}


def _queries(references: Members, text: Array, texts: int) -> Array:
    """A number for each (references, text) that occurs."""
    group = references.items
    if len(references.rows) != len(text) or np.any(references.rows != np.arange(len(text))):
        frame = pd.DataFrame({"row": references.rows, "item": references.items})
        lists = frame.groupby("row")["item"].agg(tuple).reindex(range(len(text)))
        group = pd.factorize(lists)[0]
    numbers: Array = pd.factorize(group * (texts + 1) + text)[0]
    return numbers


def _items(table: pa.Table, items: Array, known: pa.Array) -> pd.DataFrame:
    """One row per item that is reference or target, in the order of the codes."""
    first = np.unique(items, return_index=True)[1]
    columns: dict[str, Any] = {"id": known.to_pandas()}
    for path in _FIELDS[1:]:
        parts = [
            chunk
            for role in ("references", "targets")
            for chunk in flat(table, role, *path.split(".")).chunks
        ]
        joined = pa.chunked_array(parts) if parts else pa.chunked_array([], pa.string())
        columns[path.removeprefix("media.")] = joined.take(pa.array(first)).to_pandas()
    return pd.DataFrame(columns)
