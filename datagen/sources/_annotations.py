"""Rows of an annotation file, in parts that are read on their own.

jsonl, csv, tsv and text files are cut at row ends once, and a part is a range of bytes; a Parquet
file is cut within its row groups. What cannot be entered in the middle (``.gz``, a JSON array,
COCO) is first unpacked to lines in the local cache, by every machine for itself and once per file.
"""

from __future__ import annotations

import contextlib
import csv
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

from datagen import store
from datagen.errors import DatagenError
from datagen.sources._shapes import SHAPES

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "coco", "txt", "ego4d"]
Part = dict[str, Any]

#: Rows of one part.
ROWS = 500
#: A longer line is a bad row: nobody's caption, and nothing to hold in memory.
MAX_LINE = 16 << 20
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
_DELIMITERS = {"csv": ",", "tsv": "\t"}
#: The one column of a file of lines.
TEXT = "text"


def format_of(file: str, lines: bool = False) -> Format:
    """The format that the extension tells (``.gz`` aside). Raises DatagenError.

    lines: also ``.txt``, each line a row with the column ``text``.
    """
    end = file.removesuffix(".gz").rpartition(".")[2].lower()
    if lines and end == "txt":
        return "txt"
    if end not in _FORMATS:
        known = ", ".join(sorted(_FORMATS) + ["txt"] * lines)
        raise DatagenError(f"{file}: unknown kind of annotations; name it by `format` ({known})")
    return _FORMATS[end]


def columns(file: str, kind: Format) -> list[str]:
    """Column names, from the head of the file. Raises DatagenError where it has no such head."""
    if kind == "parquet":
        return list(_parquet(file).schema_arrow.names)
    if kind == "txt":
        return [TEXT]
    path, kind = _lines_file(file, kind)
    if kind in _DELIMITERS:
        return _header(path, kind, file)[0]
    found: dict[str, None] = {}
    with _opened(path) as stream:
        for number, (_, raw) in enumerate(_lines(stream, None)):
            row = _json_row(raw)
            if isinstance(row, dict):
                found.update(dict.fromkeys(row))
            if number + 1 >= HEAD_ROWS:
                break
    if not found:
        raise DatagenError(f"{file}: no row is a JSON object; expected one object per line")
    return list(found)


def parts(file: str, kind: Format) -> list[Part]:
    """Cut the file into parts of about :data:`ROWS` rows."""
    if kind == "parquet":
        return _parquet_parts(file)
    path, lines_kind = _lines_file(file, kind)
    cuts = _csv_cuts(path, kind, file) if lines_kind in _DELIMITERS else _line_cuts(path)
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
        stream.seek(part["offset"])
        if kind in _DELIMITERS:
            names_of_cells = _header(path, kind, part["file"])[0]
            for line, _, cells in _csv_rows(stream, part["size"], kind):
                yield part["start"] + line, _csv_row(names_of_cells, cells)
            return
        for number, (_, raw) in enumerate(_lines(stream, part["size"])):
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


def _lines(stream: IO[bytes], size: int | None) -> Iterator[tuple[int, bytes | None]]:
    """Length and content of the next lines, up to ``size`` bytes; None for one too long."""
    done = 0
    while size is None or done < size:
        raw = stream.readline(MAX_LINE)
        if not raw:
            return
        length = len(raw)
        whole = raw.endswith(b"\n") or length < MAX_LINE
        while not whole:
            more = stream.readline(MAX_LINE)
            length += len(more)
            whole = more.endswith(b"\n") or len(more) < MAX_LINE
            raw = b""
        done += length
        yield length, raw or None


def _json_row(raw: bytes | None) -> dict[str, Any] | str | None:
    """The object in a line; the fault of a bad one; None for a blank one."""
    if raw is None:
        return f"longer than {MAX_LINE >> 20} MiB"
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
        return f"longer than {MAX_LINE >> 20} MiB"
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


def _csv_rows(
    stream: IO[bytes], size: int | None, kind: str
) -> Iterator[tuple[int, int, list[str] | str]]:
    """(last line, bytes so far, cells or fault) of every row that is not blank.

    A row that spans lines ends where Python's csv module says so; the module looks at no line
    beyond it, so the bytes so far are those up to the row's end.
    """
    read = taken = 0

    def lines() -> Iterator[str]:
        nonlocal read, taken
        for length, raw in _lines(stream, size):
            read += length
            taken += 1
            # Bytes that are no UTF-8 come through as surrogates, and make the row a bad one.
            yield "\udcff\n" if raw is None else raw.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines(), delimiter=_DELIMITERS[kind])
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield taken, read, str(error)
            continue
        if cells:
            yield taken, read, cells


def _csv_row(names: Sequence[str], cells: list[str] | str) -> dict[str, Any] | str:
    if isinstance(cells, str):
        return cells
    if len(cells) != len(names):
        return f"{len(cells)} cells under {len(names)} columns"
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return "not UTF-8, or a line that is too long"
    return dict(zip(names, cells, strict=True))


def _header(path: str, kind: str, file: str) -> tuple[list[str], int, int]:
    """Column names, the bytes that the header takes, and its lines. ``file``: for the message."""
    with _opened(path) as stream:
        for line, read, cells in _csv_rows(stream, None, kind):
            if isinstance(cells, str):
                break
            return [cells[0].removeprefix("\ufeff"), *cells[1:]], read, line
    raise DatagenError(f"{file}: no header; the first line must name the columns")


def _csv_cuts(path: str, kind: str, file: str) -> list[tuple[int, int]]:
    _, base, line = _header(path, kind, file)
    cuts = [(base, line)]
    last = cuts[0]
    with _opened(path) as stream:
        stream.seek(base)
        for number, (taken, read, _) in enumerate(_csv_rows(stream, None, kind), start=1):
            last = (base + read, line + taken)
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
                raise DatagenError(f"{file}: cannot be read as {kind} ({error})") from error
    return place, lines_kind


def _unpacked(stream: IO[bytes], kind: Format) -> Iterator[bytes]:
    """The lines of a packed file, in pieces; rows of a JSON file as one line each."""
    if kind not in SHAPES:
        while block := stream.read(8 << 20):
            yield block
        return
    for row in SHAPES[kind](json.load(stream)):
        yield json.dumps(row).encode() + b"\n"
