"""Rows of a file that somebody else wrote: JSON, JSON lines, csv, tsv or Parquet, also packed."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import cells, store
from datagen.errors import DatagenError

#: A row of the file, or what is wrong with it.
Row = dict[str, Any] | str


def rows(path: str) -> Iterator[tuple[int, Row]]:
    """The rows of the file at ``path`` (any fsspec path), numbered from 1; blank lines are none.

    What the file is follows from its first bytes: gzip is unpacked, ``PAR1`` is Parquet, ``[`` a
    JSON array of objects, ``{`` JSON lines, anything else csv (tsv where the name ends so).
    Raises DatagenError where the file is missing, damaged or none of these.
    """
    with reading(path), opened(path) as file:
        yield from _rows(path, file)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns errors of files into a DatagenError of one line."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatagenError(f"{path}: damaged gzip file ({error})") from error
    except FileNotFoundError as error:
        raise DatagenError(f"{path}: no such file") from error
    except OSError as error:
        raise DatagenError(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """The file at ``path``, unpacked where it is gzip."""
    fs, inner = store.filesystem(path)
    with fs.open(inner, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield io.BufferedReader(unpacked)


def _rows(path: str, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
    head = file.read(4096)
    file.seek(0)
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if head[:4] == b"PAR1":
        yield from _parquet(path, file)
    elif first == b"[":
        yield from _array(path, file)
    elif first == b"{":
        yield from _lines(file)
    else:
        yield from _cells(path, file)


def _parquet(path: str, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pa.ArrowException as error:
        raise DatagenError(f"{path}: not a Parquet file ({error})") from error


def _array(path: str, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
    try:
        data = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DatagenError(f"{path}: not JSON ({error})") from error
    for number, row in enumerate(data, 1):
        yield number, row if isinstance(row, dict) else _no_object(row)


def _lines(file: IO[bytes]) -> Iterator[tuple[int, Row]]:
    for number, (_, raw) in enumerate(cells.lines(file), 1):
        if raw is None:
            yield number, f"longer than {cells.MAX_LINE >> 20} MiB"
            continue
        text = raw.removeprefix(b"\xef\xbb\xbf").strip()
        if not text:
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON ({error})"
            continue
        yield number, row if isinstance(row, dict) else _no_object(row)


def _no_object(row: Any) -> str:
    return f"a JSON object was expected, not {type(row).__name__}"


def _cells(path: str, file: IO[bytes]) -> Iterator[tuple[int, Row]]:
    name = path.removesuffix(".gz").lower()
    head = cells.header(file, path, tabs=name.endswith((".tsv", ".tab")))
    file.seek(head.size)
    found = cells.rows(file, None, head.delimiter, len(head.names))
    for number, (_, _, one) in enumerate(found, 1):
        yield number, one if isinstance(one, str) else cells.row(head.names, one)
