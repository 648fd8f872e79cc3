"""A dataset for the library ``datasets``: Parquet shards per split and a dataset card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import schema, store
from datagen.errors import DatagenError
from datagen.export._card import card
from datagen.export.book import Book
from datagen.export.files import WRITERS, Unreadable, extension, read
from datagen.export.format import Format, Options
from datagen.export.selection import ROLES, Item, Row, Selection

#: Bytes of media of a shard and of a row group, and rows of a row group.
SHARD, GROUP, GROUP_ROWS = 500_000_000, 64 << 20, 100
#: Rows of a shard that holds no media.
SHARD_ROWS = 1_000_000
#: As ``datasets`` stores an image.
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_MEMBER = [(name, pa.string()) for name in ("id", "key", "source", "caption", "labels")]
_NEGATIVE = [*_MEMBER, ("kind", pa.string()), ("score", pa.float64())]
_VERDICT = ("verdict", "rule", "detail", "step")


class HuggingFace(Format):
    """``data/SPLIT-00000-of-00001.parquet`` and ``README.md``, which ``load_dataset`` reads.

    ``references``, ``targets`` and ``negatives`` are lists of images, embedded as their own
    bytes, so that the dataset is complete in itself. Where the run has clips, or media are
    linked, the lists hold paths below the dataset's folder instead, and the media lie in
    ``media/``, once each. ``reference_items``, … tell ids, captions and labels in the same order.
    """

    about = "Hugging Face datasets: data/SPLIT-….parquet, README.md"
    roles = ROLES
    without = ()
    images_only = False

    def __init__(self, options: Options, numbers: Mapping[str, int], selection: Selection) -> None:
        super().__init__(options, numbers, selection)
        found = selection.items(selection.splits, ROLES).values()
        clips = any(item["media"] and item["media"]["modality"] == "video" for item in found)
        self.embeds = options.media == "copy" and not clips
        if self.embeds and options.extension:
            raise DatagenError("--extension: hf embeds images, so there are no files to name")
        names = selection.table.column_names
        self.scores = sorted(name for name in names if name.startswith("score_"))

    def place(self, item: Item) -> str:
        return f"media/{self.folder(item)}/{item['id']}.{self.ending(item)}"

    def write(self, book: Book) -> None:
        shape = self._schema()
        counts = list(self._planned(book))
        rows = book.rows()
        for number, count in enumerate(counts):
            file = f"data/{book.split}-{number:05}-of-{len(counts):05}.parquet"
            path = store.join(book.out, file)
            own = islice(rows, count)
            if _whole(path, shape, count):
                for row in own:
                    book.entry(file, [row])
                continue
            with (
                store.writing(path) as writer,
                pq.ParquetWriter(writer, shape, compression="zstd") as parquet,
            ):
                for group in _groups(own):
                    made = [self._columns(book, row, data) for row, data in self._read(book, group)]
                    parquet.write_table(pa.Table.from_pylist(made, schema=shape))
                    for one in made:
                        book.entry(file, [one])
            book.files.setdefault(file, 0)

    def finish(self, out: str, splits: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the dataset card, which tells ``load_dataset`` where the splits lie."""
        text = card(self.selection.run.note, splits, self._schema(), self.embeds)
        store.write_bytes(store.join(out, "README.md"), text.encode())

    def _planned(self, book: Book) -> Iterator[int]:
        """How many rows each shard has."""
        count = size = 0
        for row in book.rows():
            own = _bytes(row) if self.embeds else 0
            if count and (size + own > SHARD or count >= SHARD_ROWS):
                yield count
                count = size = 0
            count, size = count + 1, size + own
        if count:
            yield count

    def _read(self, book: Book, rows: Sequence[Row]) -> Iterator[tuple[Row, dict[str, bytes]]]:
        """Rows with the bytes of their media; what cannot be read is left out and noted."""
        if not self.embeds:
            yield from ((row, {}) for row in rows)
            return
        items = {item["id"]: item for row in rows for role in ROLES for item in row[role]}
        with ThreadPoolExecutor(WRITERS) as pool:
            data = dict(zip(items, pool.map(_try, items.values()), strict=True))
        for row in rows:
            lost = [item["id"] for item in row["negatives"] if isinstance(data[item["id"]], str)]
            needed = [*row["references"], *row["targets"]]
            gone = [item["id"] for item in needed if isinstance(data[item["id"]], str)]
            if gone:
                why = data[gone[0]]
                book.left_out("triplets without a readable medium", row["id"], why=why)
                continue
            if lost:
                book.left_out("negatives without a readable medium", row["id"], items=lost)
            usable = [item for item in row["negatives"] if item["id"] not in lost]
            found = {name: one for name, one in data.items() if isinstance(one, bytes)}
            yield {**row, "negatives": usable}, found

    def _columns(self, book: Book, row: Row, data: Mapping[str, bytes]) -> dict[str, Any]:
        made = {
            "id": row["id"],
            "pair": row["pair"],
            "modification": row["modification"],
            "reason": row["evidence"]["reason"] if row["evidence"] else None,
            "changes": (row["evidence"] or {}).get("changes") or [],
            "provenance": schema.canonical_json(row["provenance"] or []),
        }
        for role in ROLES:
            if self.embeds:
                made[role] = [
                    {
                        "bytes": data[item["id"]],
                        "path": f"{item['id']}.{extension(item['media'])}",
                    }
                    for item in row[role]
                ]
            elif self.options.media != "none":
                made[role] = [book.place(item) for item in row[role]]
            made[f"{role[:-1]}_items"] = row[role]
        return made | {name: row.get(name) for name in (*self.scores, *_VERDICT)}

    def _schema(self) -> pa.Schema:
        """Columns, with what ``datasets`` wants to know of them as metadata."""
        change = pa.struct([(name, pa.string()) for name in ("field", "removed", "added")])
        columns: list[tuple[str, pa.DataType]] = [("id", pa.string()), ("pair", pa.string())]
        columns.append(("modification", pa.string()))
        if self.options.media != "none":
            medium = _IMAGE if self.embeds else pa.string()
            columns += [(role, pa.list_(medium)) for role in ROLES]
        columns += [
            (f"{role[:-1]}_items", pa.list_(pa.struct(_NEGATIVE if role == ROLES[2] else _MEMBER)))
            for role in ROLES
        ]
        columns += [("reason", pa.string()), ("changes", pa.list_(change))]
        columns += [(name, pa.float64()) for name in self.scores]
        columns.append(("provenance", pa.string()))
        if self.selection.every:
            columns += [(name, pa.string()) for name in _VERDICT]
        features = {name: _feature(kind) for name, kind in columns}
        told = json.dumps({"info": {"features": features}}, separators=(",", ":"))
        return pa.schema(columns, metadata={"huggingface": told})

    def reading(self, out: str, splits: Sequence[str]) -> list[str]:
        lines = [f"datasets.load_dataset({out!r}, split={splits[0]!r})  # pip install datasets"]
        if not self.embeds and self.options.media != "none":
            lines.append(f"references, targets and negatives are paths below {out}")
        return lines


def _feature(kind: pa.DataType) -> Any:
    """A column type as ``datasets`` writes it down; a list stands as [what it holds]."""
    if kind.equals(_IMAGE):
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": "float64" if pa.types.is_floating(kind) else "string", "_type": "Value"}


def _try(item: Item) -> bytes | str:
    """The bytes of an item, or why there are none."""
    try:
        return read(item["media"])
    except Unreadable as error:
        return str(error)


def _bytes(row: Row) -> int:
    return sum(int(item["media"]["size"] or 0) for role in ROLES for item in row[role])


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows whose media fit memory together."""
    group: list[Row] = []
    size = 0
    for row in rows:
        own = _bytes(row)
        if group and (len(group) >= GROUP_ROWS or size + own > GROUP):
            yield group
            group, size = [], 0
        group.append(row)
        size += own
    if group:
        yield group


def _whole(path: str, shape: pa.Schema, count: int) -> bool:
    """Whether the shard at ``path`` stands with all the rows that it should have."""
    if not store.exists(path):
        return False
    try:
        fs, inner = store.filesystem(path)
        with fs.open(inner, "rb") as file, pq.ParquetFile(file) as parquet:
            there = (parquet.schema_arrow.metadata or {}).get(b"huggingface")
            alike = there == shape.metadata[b"huggingface"]
            return bool(alike and parquet.metadata.num_rows == count)
    except (OSError, pa.ArrowInvalid, DatagenError):
        return False
