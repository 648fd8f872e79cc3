"""Which item a name in somebody else's file means."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

#: No item has the name; several have it.
ABSENT, SEVERAL = -1, -2

#: Ways of finding an item by a name, in the order in which they are tried.
WAYS = ("key", "name", "stem", "number")
LABEL = "label:"

#: What counts as the end of a file's name: "v1.2" has none.
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm")
_VIDEOS = ("mp4", "m4v", "mov", "webm", "mkv", "avi")
_ENDS = frozenset((*_IMAGES, *_VIDEOS))


def last(name: str) -> str:
    """A name without its folders."""
    return name.rstrip("/").rpartition("/")[2]


def bare(name: str) -> str:
    """A name without the extension of a media file."""
    head, _, end = name.rpartition(".")
    return head if head and end.lower() in _ENDS else name


def stem(name: str) -> str:
    """A name without folders and extension."""
    return bare(last(name))


def number(name: str) -> str:
    """The number that ends a stem, without leading zeros; empty where there is none."""
    text = stem(name)
    digits = text[len(text.rstrip("0123456789")) :]
    return digits.lstrip("0") or "0" if digits else ""


_FORMS: dict[str, Callable[[str], str]] = {
    "key": str,
    "name": last,
    "stem": stem,
    "number": number,
}


@dataclass(frozen=True)
class Found:
    """Names found in one way: ``rows`` of the items table by name, or ABSENT or SEVERAL."""

    way: str
    rows: dict[str, int]

    def __len__(self) -> int:
        return sum(row >= 0 for row in self.rows.values())


def find(names: Sequence[str], items: pa.Table, match: str) -> Found:
    """The item of each of the distinct ``names``.

    match: ``key``, ``name``, ``stem``, ``number``, ``label:NAME``, or ``auto``: of the first four
    the one that finds most, the first of equals (``number`` only where all names are numbers).
    """
    if match != "auto":
        return _found(names, items, match)
    best: Found | None = None
    for way in WAYS:
        if way == "number" and not all(name.isascii() and name.isdigit() for name in names):
            continue
        one = _found(names, items, way)
        if best is None or len(one) > len(best):
            best = one
        if len(best) == len(names):
            break
    assert best is not None
    return best


def _found(names: Sequence[str], items: pa.Table, way: str) -> Found:
    if way.startswith(LABEL):
        places = _by_label(items["labels"], way.removeprefix(LABEL))
        form: Callable[[str], str] = str.strip
    else:
        form = _FORMS[way]
        places = _by_name(items, form, with_path=way != "key")
    several = [rows for rows in places.values() if len(rows) > 1]
    keys = _keys(items, {row for rows in several for row in rows}) if several else {}
    found = {}
    for name in names:
        rows = places.get(form(name), ())
        if len(rows) > 1:
            rows = [row for row in rows if _ends(keys[row], name)] or rows
        found[name] = ABSENT if not rows else rows[0] if len(rows) == 1 else SEVERAL
    return Found(way, found)


def _by_name(
    items: pa.Table, form: Callable[[str], str], *, with_path: bool
) -> dict[str, list[int]]:
    """Rows by what ``form`` makes of their keys and, with ``with_path``, of their files' names."""
    keys = items["key"].to_pylist()
    paths = _paths(items["media"]) if with_path else [None] * len(keys)
    places: dict[str, list[int]] = {}
    for row, both in enumerate(zip(keys, paths, strict=True)):
        for handle in {form(text) for text in both if text} - {""}:
            places.setdefault(handle, []).append(row)
    return places


def _paths(media: pa.ChunkedArray) -> list[str | None]:
    """Paths of media that are files of their own; those in a tar are known by their keys."""
    out: list[str | None] = []
    for chunk in media.chunks:
        out += pc.struct_field(chunk, "path").to_pylist()
    return [None if path is None or path.lower().endswith(".tar") else path for path in out]


def _by_label(labels: pa.ChunkedArray, key: str) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for row, text in enumerate(labels.to_pylist()):
        value = json.loads(text).get(key) if text else None
        for one in value if isinstance(value, list) else [value]:
            if one is not None and not isinstance(one, (dict, list)):
                rows = places.setdefault(str(one).strip(), [])
                if row not in rows[-1:]:
                    rows.append(row)
    return places


def _keys(items: pa.Table, rows: Iterable[int]) -> dict[int, str]:
    column = items["key"]
    return {row: column[row].as_py() or "" for row in rows}


def _ends(key: str, name: str) -> bool:
    """Whether the key, as a path without extension, ends in the name: ``a/7/1.mp4`` in ``7/1``."""
    own = [part for part in bare(key).split("/") if part not in ("", ".")]
    said = [part for part in bare(name).split("/") if part not in ("", ".")]
    return bool(said) and own[-len(said) :] == said
