"""Rows of csv files as spreadsheets and careless writers leave them, against the csv module."""

from __future__ import annotations

import csv
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import cells
from datagen.errors import DatagenError

#: (line, cells or fault) of a row.
Told = tuple[int, list[str] | str]


def read(data: bytes, tabs: bool = False) -> tuple[list[str], list[Told]]:
    stream = io.BytesIO(data)
    head = cells.header(stream, "a.csv", tabs)
    stream.seek(head.size)
    found = cells.rows(stream, None, head.delimiter, len(head.names))
    return head.names, [(head.lines + line, row) for line, _, row in found]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_a_spreadsheet_saves_is_read_whatever_parts_its_cells(delimiter, encoding) -> None:
    rows = [["file", "title"], ["a.jpg", "red, or; not\tso"], ["b.jpg", 'a "cup"\nof tea']]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    names, found = read(text.getvalue().encode(encoding))
    assert [names, *(row for _, row in found)] == rows


def test_a_tsv_file_is_parted_by_tabs_alone() -> None:
    assert read(b"a;b\n1;2\n", tabs=True) == (["a;b"], [(2, ["1;2"])])


def test_a_quote_that_is_never_closed_costs_its_own_line_alone() -> None:
    # Two columns and no other quote: the csv module makes one row of all that follows.
    lines = ["file,title", *(f"{number}.jpg,cup {number}" for number in range(9))]
    lines[4] = '3.jpg,"cup 3'
    data = "\n".join(lines) + "\n"
    assert len(list(csv.reader(io.StringIO(data)))) == 5
    _, found = read(data.encode())
    bad = [row for row in found if isinstance(row[1], str)]
    assert bad == [(5, "a quote that is not closed (it would take 5 more lines)")]
    assert [row for row in found if row not in bad] == [
        (number + 2, [f"{number}.jpg", f"cup {number}"]) for number in range(9) if number != 3
    ]


def test_a_quote_that_a_later_quote_closes_takes_no_row_into_its_cell() -> None:
    data = b'file,title\n1.jpg,"cup\n2.jpg,"a fine, blue cup"\n3.jpg,mug\n'
    # The csv module reads both lines as one cell, without a word.
    assert next(csv.reader(io.StringIO('1.jpg,"cup\n2.jpg,"fine"\n')))[1] == 'cup\n2.jpg,fine"'
    _, found = read(data)
    assert [row for _, row in found if not isinstance(row, str)] == [
        ["2.jpg", "a fine, blue cup"],
        ["3.jpg", "mug"],
    ]
    assert [line for line, row in found if isinstance(row, str)] == [2]


def test_cells_may_be_longer_than_the_csv_module_likes() -> None:
    text = "red " * 50_000
    assert read(f"a,b\n1,{text}\n".encode())[1] == [(2, ["1", text])]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty; the first line must name the columns"),
        (b"\n\n", "empty"),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8; save the file as UTF-8"),
        ("größe,b\n".encode("latin-1"), "not UTF-8; save the file as UTF-8"),
        (b"image,title,image\n", "2 columns are called 'image'; rename all but one"),
        (b'a,"b\n1,2\n', "a quote in its first line is not closed"),
    ],
)
def test_a_header_that_cannot_be_used_is_told_in_a_line(data, told) -> None:
    with pytest.raises(DatagenError, match=f"a.csv: .*{told}"):
        read(data)


def test_columns_without_a_name_are_none() -> None:
    names, [(_, row)] = read(b"a,b,,\n1,2,,\n")
    assert isinstance(row, list)
    assert cells.row(names, row) == {"a": "1", "b": "2"}


LINES = st.lists(st.text('a",;\n', max_size=8), max_size=12)


@given(LINES, st.data())
def test_rows_that_are_read_in_parts_are_those_of_the_whole(texts, data) -> None:
    whole = "\n".join(texts).encode()

    def found(start: int, size: int | None) -> list[tuple[int, int, list[str] | str]]:
        stream = io.BytesIO(whole)
        stream.seek(start)
        return list(cells.rows(stream, size, ",", 2))

    rows = found(0, None)
    # Every line is in some row, or blank.
    assert all(before[0] < after[0] for before, after in itertools.pairwise(rows))
    cut = data.draw(st.sampled_from([(0, 0), *((line, at) for line, at, _ in rows)]))
    first = [one for one in found(0, cut[1]) if cut[1]]
    rest = [(line + cut[0], at + cut[1], row) for line, at, row in found(cut[1], None)]
    plain = [(line, at, row if isinstance(row, list) else "bad") for line, at, row in rows]
    again = [(line, at, row if isinstance(row, list) else "bad") for line, at, row in first + rest]
    assert again == plain


@given(st.lists(st.lists(st.text('ab ",;\n\té', max_size=6), min_size=3, max_size=3), max_size=8))
def test_whatever_the_csv_module_writes_is_read_back(rows) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["x", "y", "z"], *rows])
    _, found = read(text.getvalue().encode())
    assert [row for _, row in found] == rows
