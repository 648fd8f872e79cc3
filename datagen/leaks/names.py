"""Names of media as annotation files tell them: of any shape, since benchmarks have many.

Every text of a JSON, JSON lines, csv, tsv, Parquet or text file can be a name, but for those in
fields of captions and the like; keys of objects too where they hold a digit; a number only where
its field speaks of images or clips. Names are compared without folder and extension, and numbers
without the zeros that COCO puts before them: ``./dev/dev-244-0-img0.png`` and ``dev-244-0-img0``
are the same, and so are ``000000002097.jpg``, ``COCO_val2014_000000002097.jpg`` and 2097.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import cells, store
from datagen.errors import DatagenError

ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")

#: Longer texts are captions, not names (characters).
LONGEST = 300
#: Digits of a number in the file names of COCO.
PADDED = 12
#: Objects within objects, and bytes of an unpacked file, that are read.
DEPTH, SIZE = 50, 1 << 30

_MEDIA_FIELD = re.compile(r"im(g|age)|video|clip|photo|frame|media|file|name", re.I)
_TOLD_FIELD = re.compile(
    r"caption|text|narration|instruction|condition|concept|title|desc|aspect|categor|split|version",
    re.I,
)
_ENDING = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|ppm|mp4|m4v|mov|webm|mkv|avi)$", re.I)
_COCO = re.compile(r"COCO_\w+?_(\d{12})")


def plain(name: str) -> str:
    """A name as names are compared: without address, folder, extension and COCO's zeros."""
    text = name.strip()
    if "://" in text:
        text = urlsplit(text).path
    text = _ENDING.sub("", text.replace("\\", "/").rstrip("/").rpartition("/")[2])
    coco = _COCO.fullmatch(text)
    text = coco[1] if coco else text
    # Other numbers keep their zeros: 00000050 is not image 50 of COCO.
    return (text.lstrip("0") or "0") if text.isdecimal() and len(text) == PADDED else text


def read(path: str, fields: Sequence[str] = ()) -> set[str]:
    """The names in an annotation file, plain; with ``fields`` only those in fields called so.

    Raises DatagenError where the file cannot be read, or has none.
    """
    try:
        found = {plain(name) for name in _all(path, frozenset(fields))} - {""}
    except (ValueError, RecursionError, OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DatagenError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not found:
        where = f" in the fields {', '.join(fields)}" if fields else ""
        raise DatagenError(f"{path}: holds no name of an image or clip{where}")
    return found


def _all(path: str, fields: frozenset[str]) -> Iterator[str]:
    data = store.read_bytes(path)
    if path.endswith(".gz"):
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            data = packed.read(SIZE + 1)
        if len(data) > SIZE:
            raise ValueError(f"more than {SIZE} bytes when unpacked")
    ending = "." + path.removesuffix(".gz").rpartition(".")[2].lower()
    if ending == ".parquet":
        file = pq.ParquetFile(io.BytesIO(data))
        told = [field.name for field in file.schema_arrow if not _is_binary(field.type)]
        for row in file.read(told).to_pylist():
            yield from _names(row, "", fields)
    elif ending in (".csv", ".tsv"):
        stream = io.BytesIO(data)
        head = cells.header(stream, path, tabs=ending == ".tsv")
        stream.seek(head.size)
        for _, _, row in cells.rows(stream, len(data), head.delimiter, len(head.names)):
            if not isinstance(row, str):
                for field, cell in cells.row(head.names, row).items():
                    yield from _names(_opened(cell), field, fields)
    elif ending == ".txt":
        yield from (line for line in data.decode("utf-8-sig").splitlines() if line.strip())
    elif ending == ".json":
        yield from _names(json.loads(data.decode("utf-8-sig")), "", fields)
    else:
        for line in data.decode("utf-8-sig").splitlines():
            if line.strip():
                yield from _names(json.loads(line), "", fields)


def _is_binary(kind: pa.DataType) -> bool:
    """Whether a column holds files rather than names."""
    return "binary" in str(kind)


def _opened(cell: Any) -> Any:
    """A cell, or the list that it holds as text: ``['a', 'b']``."""
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        return [part.strip(" '\"") for part in cell[1:-1].split(",")]
    return cell


def _names(value: Any, field: str, fields: frozenset[str], depth: int = 0) -> Iterator[str]:
    """What can be a name in ``value``, which stands in ``field`` (empty: in none)."""
    if depth > DEPTH:
        return
    if isinstance(value, dict):
        for key, part in value.items():
            if not fields and any(map(str.isdecimal, str(key))):
                yield from _text(str(key), "key")
            yield from _names(part, str(key), fields, depth + 1)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _names(part, field, fields, depth + 1)
    elif isinstance(value, (str, int)) and not isinstance(value, bool):
        if field not in fields if fields else _TOLD_FIELD.search(field):
            return
        yield from _text(str(value), "name" if fields else field)


def _text(text: str, field: str) -> Iterator[str]:
    number = text.strip().isdecimal()
    if text and len(text) <= LONGEST and (not number or not field or _MEDIA_FIELD.search(field)):
        yield text
