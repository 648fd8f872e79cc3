"""Rows of csv and tsv files as other people write them: cells under the columns of a header."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from datagen.errors import DatagenError

#: A longer line is a bad row: nobody's caption, and nothing to hold in memory (bytes).
MAX_LINE = 16 << 20

#: A cell may be as long as a line; the csv module's own limit is 128 KiB.
csv.field_size_limit(MAX_LINE)

#: What else parts the cells of a csv file, where its header has no comma (spreadsheets write so).
_OTHERS = (";", "\t")


@dataclass(frozen=True)
class Header:
    """Names of the columns, what parts cells, and the bytes and lines that the header takes."""

    names: list[str]
    delimiter: str
    size: int
    lines: int


def lines(stream: IO[bytes], size: int | None = None) -> Iterator[tuple[int, bytes | None]]:
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


def header(stream: IO[bytes], file: str, tabs: bool = False) -> Header:
    """The header at the start of ``stream``; ``file`` is named in errors, ``tabs``: a tsv file.

    Raises DatagenError where there is none, where it is not UTF-8 or names a column twice.
    """
    delimiter = "\t" if tabs else ","
    source = _Lines(stream, None)
    reader = csv.reader(source, delimiter=delimiter)
    text = ""
    while not text.strip():
        source.row.clear()
        try:
            if next(reader, None) is None:
                raise DatagenError(f"{file}: empty; the first line must name the columns")
        except csv.Error as error:
            if _is_text("".join(source.row)):
                raise DatagenError(f"{file}: no header in its first line ({error})") from error
        text = "".join(source.row).removeprefix("\ufeff")
    if not _is_text(text):
        raise DatagenError(f"{file}: its first line is not UTF-8; save the file as UTF-8")
    if source.ended:
        raise DatagenError(f"{file}: a quote in its first line is not closed")
    names = _cells(text, delimiter)
    for other in () if tabs or len(names) > 1 else _OTHERS:
        found = _cells(text, other)
        names, delimiter = (found, other) if len(found) > len(names) else (names, delimiter)
    for name, count in Counter(names).items():
        if name and count > 1:
            raise DatagenError(f"{file}: {count} columns are called '{name}'; rename all but one")
    return Header(names, delimiter, source.read, source.taken)


def _cells(text: str, delimiter: str) -> list[str]:
    return next(csv.reader(text.splitlines(keepends=True), delimiter=delimiter))


def rows(
    stream: IO[bytes], size: int | None, delimiter: str, width: int
) -> Iterator[tuple[int, int, list[str] | str]]:
    """(last line, bytes so far, cells or fault) of every row of ``width`` cells; blank ones go.

    ``stream`` stands at the start of a row; lines and bytes count from there. A quote that is
    never closed would take every line after it: a row of several lines that is not well formed
    is bad in its first line alone, and the lines after it are read as rows of their own. No line
    beyond a row is looked at, so the bytes so far are those up to the row's end.
    """
    source = _Lines(stream, size)
    reader = csv.reader(source, delimiter=delimiter)
    while True:
        source.row.clear()
        fault = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, fault = [], str(error)
        fault = fault or (_fault(cells, width) if cells else None)
        if source.ended or len(source.row) > 1:
            last = source.taken
            if fault or source.ended or not _is_strict(source.row, delimiter):
                source.back()
                reader = csv.reader(source, delimiter=delimiter)
                more = last - source.taken
                fault = f"a quote that is not closed (it would take {more} more lines)"
        if fault or cells:
            yield source.taken, source.read, fault or cells


def row(names: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    """Cells by their columns; columns without a name are none."""
    return {name: cell for name, cell in zip(names, cells, strict=True) if name}


class _Lines:
    """Lines of a stream as texts: those of the row that is being read, and what was read."""

    def __init__(self, stream: IO[bytes], size: int | None) -> None:
        self._stream, self._size, self._start = stream, size, stream.tell()
        self._lines = lines(stream, size)
        self.read = self.taken = 0
        self.row: list[str] = []
        self.ended = False
        self._first = (0, 0)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        found = next(self._lines, None)
        if found is None:
            # Within a row only a quote that is never closed comes to this.
            self.ended = bool(self.row)
            raise StopIteration
        length, raw = found
        self.read += length
        self.taken += 1
        if not self.row:
            self._first = (self.read, self.taken)
        # Bytes that are no UTF-8 come through as surrogates, and make the row a bad one.
        text = "\udcff\n" if raw is None else raw.decode("utf-8", "surrogateescape")
        self.row.append(text)
        return text

    def back(self) -> None:
        """Back to the end of the row's first line."""
        self.read, self.taken = self._first
        self._stream.seek(self._start + self.read)
        self._lines = lines(self._stream, None if self._size is None else self._size - self.read)
        self.ended = False


def _fault(cells: Sequence[str], width: int) -> str | None:
    if len(cells) != width:
        return f"{len(cells)} cells under {width} columns"
    if not _is_text("".join(cells)):
        return "not UTF-8, or a line that is too long"
    return None


def _is_strict(texts: Sequence[str], delimiter: str) -> bool:
    """Whether the lines are one row by the letter, with nothing behind a closing quote."""
    try:
        return len(list(csv.reader(texts, delimiter=delimiter, strict=True))) == 1
    except csv.Error:
        return False


def _is_text(text: str) -> bool:
    """Whether this was UTF-8; what is UTF-16 is full of zeros."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
