"""Rows of an annotation file, in parts that are read on their own.

jsonl, csv, tsv and text files are cut at row ends once, and a part is a range of bytes; a Parquet
file is cut within its row groups. What cannot be entered in the middle (``.gz``, a JSON array,
COCO) is first unpacked to lines in the local cache, by every machine for itself and once per file.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import itertools
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datagen import cells, store
from datagen.errors import DatagenError
from datagen.sources._shapes import SHAPES

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "coco", "txt", "ego4d"]
Part = dict[str, Any]

#: Rows of one part.
ROWS = 500
#: Rows that are looked at to learn the columns of a file without a header.
HEAD_ROWS = 1000

_FORMATS: dict[str, Format] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
}
#: Formats of cells under a header.
CELLS = frozenset({"csv", "tsv"})
#: The one column of a file of lines.
TEXT = "text"


def format_of(file: str, lines: bool = False) -> Format:
    """The format that the extension tells (``.gz`` aside). Raises DatagenError.

    lines: also ``.txt``, each line a row with the column ``text``.
    """
    _refuse_folder(file)
    end = file.removesuffix(".gz").rpartition(".")[2].lower()
    if lines and end == "txt":
        return "txt"
    if end not in _FORMATS:
        known = ", ".join(sorted(_FORMATS) + ["txt"] * lines)
        raise DatagenError(f"{file}: unknown kind of annotations; name it by `format` ({known})")
    return _FORMATS[end]


def _refuse_folder(file: str) -> None:
    if store.is_local(file) and os.path.isdir(store.local_path(file)):
        raise DatagenError(f"{file}: a folder; name the file in it")


def columns(file: str, kind: Format) -> list[str]:
    """Column names, from the head of the file. Raises DatagenError where it has no such head."""
    _refuse_folder(file)
    if kind == "parquet":
        return list(_parquet(file).schema_arrow.names)
    if kind == "txt":
        return [TEXT]
    path, kind = _lines_file(file, kind)
    if kind in CELLS:
        return [name for name in _header(path, kind, file).names if name]
    found: dict[str, None] = {}
    fault = ""
    with _opened(path) as stream:
        for number, (_, raw) in enumerate(cells.lines(stream)):
            row = _json_row(raw)
            if isinstance(row, dict):
                found.update(dict.fromkeys(row))
            elif row is not None:
                fault = fault or f"line {number + 1}: {row}"
            if number + 1 >= HEAD_ROWS:
                break
    if found:
        return list(found)
    if not fault:
        raise DatagenError(f"{file}: empty; rows of JSON objects were expected")
    hint = "; for an array of objects set format: json" if _is_array(path) else ""
    raise DatagenError(f"{file}: no row is a JSON object, one per line ({fault}){hint}")


def _is_array(path: str) -> bool:
    with _opened(path) as stream:
        return stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def parts(file: str, kind: Format) -> list[Part]:
    """Cut the file into parts of about :data:`ROWS` rows."""
    if kind == "parquet":
        return _parquet_parts(file)
    path, lines_kind = _lines_file(file, kind)
    cuts = _csv_cuts(path, lines_kind, file) if lines_kind in CELLS else _line_cuts(path)
    out = []
    with _opened(path) as stream:
        head = stream.read(cuts[0][0])
        for (offset, start), (end, stop) in itertools.pairwise(cuts):
            # A part is its content: rows that are added to a file leave the parts above alone.
            digest = hashlib.blake2b(head, digest_size=12)
            digest.update(stream.read(end - offset))
            part = {"start": start, "count": stop - start, "offset": offset, "size": end - offset}
            out.append({"file": file, "format": kind, "content": digest.hexdigest(), **part})
    return out


def rows(part: Part, wanted: Sequence[str] | None) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Row numbers (from 1) with the row, or with the fault that makes it a bad one.

    For csv and tsv the number is that of the line. ``wanted``: the columns that matter
    (None: all); only Parquet saves work by it.
    """
    if part["format"] == "parquet":
        names = tuple(wanted) if wanted is not None else None
        group = _row_group(part["file"], part["group"], names, store.stamp(part["file"]))
        for number, row in enumerate(group.slice(part["within"], part["count"]).to_pylist()):
            yield part["start"] + number + 1, row
        return
    path, kind = _lines_file(part["file"], part["format"])
    with _opened(path) as stream:
        if kind in CELLS:
            head = cells.header(stream, part["file"], tabs=kind == "tsv")
            stream.seek(part["offset"])
            width = len(head.names)
            for line, _, one in cells.rows(stream, part["size"], head.delimiter, width):
                row = one if isinstance(one, str) else cells.row(head.names, one)
                yield part["start"] + line, row
            return
        stream.seek(part["offset"])
        for number, (_, raw) in enumerate(cells.lines(stream, part["size"])):
            row = _text_row(raw) if kind == "txt" else _json_row(raw)
            if row is not None:
                yield part["start"] + number + 1, row


# --- lines -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if store.is_local(path):
        with open(store.local_path(path), "rb", buffering=1 << 20) as file:
            yield file
        return
    fs, inner = store.filesystem(path)
    with fs.open(inner, "rb") as remote:
        yield remote if isinstance(remote, io.BytesIO) else io.BufferedReader(remote, 1 << 20)


def _json_row(raw: bytes | None) -> dict[str, Any] | str | None:
    """The object in a line; the fault of a bad one; None for a blank one."""
    if raw is None:
        return f"longer than {cells.MAX_LINE >> 20} MiB"
    text = raw.removeprefix(b"\xef\xbb\xbf").strip()
    if not text:
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"a JSON object was expected, not {type(row).__name__}"


def _text_row(raw: bytes | None) -> dict[str, Any] | str | None:
    """A line as a row; the fault of a bad one; None for a blank one."""
    if raw is None:
        return f"longer than {cells.MAX_LINE >> 20} MiB"
    try:
        text = raw.removeprefix(b"\xef\xbb\xbf").decode().strip()
    except UnicodeDecodeError as error:
        return f"not UTF-8 ({error})"
    return {TEXT: text} if text else None


def _line_cuts(path: str) -> list[tuple[int, int]]:
    """(byte, line) at the start of every part, and at the end of the file."""
    cuts, base, line = [(0, 0)], 0, 0
    ended = True
    with _opened(path) as stream:
        while block := stream.read(8 << 20):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            first = (ROWS - 1 - line) % ROWS
            cuts += [
                (base + int(end) + 1, line + first + 1 + number * ROWS)
                for number, end in enumerate(ends[first::ROWS])
            ]
            base += len(block)
            line += len(ends)
            ended = block.endswith(b"\n")
    if base > cuts[-1][0]:
        cuts.append((base, line + (not ended)))
    return cuts


# --- csv, tsv ----------------------------------------------------------------------------------


def _header(path: str, kind: str, file: str) -> cells.Header:
    """The header of the lines in ``path``. ``file``: for the message."""
    with _opened(path) as stream:
        return cells.header(stream, file, tabs=kind == "tsv")


def _csv_cuts(path: str, kind: str, file: str) -> list[tuple[int, int]]:
    head = _header(path, kind, file)
    cuts = [(head.size, head.lines)]
    last = cuts[0]
    with _opened(path) as stream:
        stream.seek(head.size)
        found = cells.rows(stream, None, head.delimiter, len(head.names))
        for number, (taken, read, _) in enumerate(found, start=1):
            last = (head.size + read, head.lines + taken)
            if number % ROWS == 0:
                cuts.append(last)
    return cuts if cuts[-1] == last else [*cuts, last]


# --- Parquet -----------------------------------------------------------------------------------


def _parquet(file: str) -> pq.ParquetFile:
    try:
        if store.is_local(file):
            return pq.ParquetFile(pa.memory_map(store.local_path(file)))
        fs, inner = store.filesystem(file)
        return pq.ParquetFile(fs.open(inner, "rb"))
    except pa.ArrowInvalid as error:
        raise DatagenError(f"{file}: not a Parquet file ({error})") from error


def _parquet_parts(file: str) -> list[Part]:
    out: list[Part] = []
    meta, start = _parquet(file).metadata, 0
    stamp = store.stamp(file)
    for group in range(meta.num_row_groups):
        length = meta.row_group(group).num_rows
        for within in range(0, length, ROWS):
            count = min(ROWS, length - within)
            span = {"start": start + within, "count": count, "group": group, "within": within}
            out.append({"file": file, "format": "parquet", "content": stamp, **span})
        start += length
    return out


@functools.lru_cache(maxsize=1)
def _row_group(file: str, group: int, names: tuple[str, ...] | None, stamp: str) -> pa.Table:
    """One decoded row group; kept, because the next part of a worker is mostly from it too."""
    try:
        return _parquet(file).read_row_group(group, columns=list(names) if names else None)
    except (pa.ArrowException, OSError) as error:
        raise DatagenError(f"{file}: row group {group} cannot be read ({error})") from error


# --- unpacking ---------------------------------------------------------------------------------


def _cache() -> str:
    folder = os.path.join(tempfile.gettempdir(), f"datagen-{os.getuid()}", "annotations")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.getuid():
        raise DatagenError(f"{folder}: belongs to another user; set TMPDIR to a folder of yours")
    return folder


def _lines_file(file: str, kind: Format) -> tuple[str, Format]:
    """The file of lines behind ``file``: itself, or its unpacked copy in the local cache."""
    packed = file.endswith(".gz")
    lines_kind: Format = "jsonl" if kind in SHAPES else kind
    if not packed and kind == lines_kind:
        return file, kind
    name = hashlib.sha256(f"{file}\n{store.stamp(file)}\n{kind}".encode()).hexdigest()[:32]
    place = os.path.join(_cache(), name)
    if not os.path.exists(place):
        with _opened(file) as raw, store.writing(place) as out:
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            try:
                for piece in _unpacked(stream, kind):
                    out.write(piece)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DatagenError(f"{file}: damaged gzip file ({error})") from error
            except (ValueError, RecursionError) as error:
                hint = "; for an object a line set format: jsonl" if "Extra" in str(error) else ""
                raise DatagenError(f"{file}: cannot be read as {kind} ({error}){hint}") from error
    return place, lines_kind


def _unpacked(stream: IO[bytes], kind: Format) -> Iterator[bytes]:
    """The lines of a packed file, in pieces; rows of a JSON file as one line each."""
    if kind not in SHAPES:
        while block := stream.read(8 << 20):
            yield block
        return
    for row in SHAPES[kind](json.load(stream)):
        yield json.dumps(row).encode() + b"\n"
