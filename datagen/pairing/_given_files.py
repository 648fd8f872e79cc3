"""Rows of a file that somebody else wrote: JSON, JSON lines, csv, tsv or Parquet, also packed."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import store
from datagen.errors import DatagenError

#: A row of the file, or what is wrong with it.
Row = dict[str, Any] | str

#: A longer line is a bad row (bytes).
MAX_LINE = 16 << 20

#: A cell may be as long as a line; the csv module's own limit is 128 KiB.
csv.field_size_limit(MAX_LINE)


def rows(path: str) -> Iterator[tuple[int, Row]]:
    """The rows of the file at ``path`` (any fsspec path), numbered from 1; blank lines are none.

    What the file is follows from its first bytes: gzip is unpacked, ``PAR1`` is Parquet, ``[`` a
    JSON array of objects, ``{`` JSON lines, anything else csv (tsv where the name ends so).
    Raises DatagenError where the file is missing, damaged or none of these.
    """
    try:
        with _opened(path) as file:
            yield from _rows(path, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatagenError(f"{path}: damaged gzip file ({error})") from error
    except FileNotFoundError as error:
        raise DatagenError(f"{path}: no such file") from error
    except OSError as error:
        raise DatagenError(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
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
        name = path.removesuffix(".gz").lower()
        yield from _cells(path, file, "\t" if name.endswith((".tsv", ".tab")) else ",")


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
    number = 0
    while raw := file.readline(MAX_LINE):
        number += 1
        if len(raw) >= MAX_LINE and not raw.endswith(b"\n"):
            while (more := file.readline(MAX_LINE)) and not more.endswith(b"\n"):
                pass
            yield number, f"longer than {MAX_LINE >> 20} MiB"
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


def _cells(path: str, file: IO[bytes], delimiter: str) -> Iterator[tuple[int, Row]]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    reader = csv.reader(text, delimiter=delimiter)
    names = next(reader, None)
    if not names:
        raise DatagenError(f"{path}: empty; rows with named columns were expected")
    number = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            number += 1
            yield number, str(error)
            continue
        if not cells:
            continue
        number += 1
        if len(cells) != len(names):
            yield number, f"{len(cells)} cells under {len(names)} columns"
        else:
            yield number, dict(zip(names, cells, strict=True))
    text.detach()
