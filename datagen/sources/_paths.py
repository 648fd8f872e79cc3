"""Files that a path setting means: one file, a folder, a glob or a brace pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from datagen import remote, store
from datagen.errors import DatagenError

#: A pattern such as ``{0..9999999999}`` is a slip of the hand.
MAX_FILES = 1_000_000

_BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(patterns: Sequence[str], ending: str, also: tuple[str, ...] = ()) -> list[str]:
    """Sorted paths that ``patterns`` mean; of a folder the files with ``ending`` (or ``also``).

    Raises DatagenError for a pattern that finds nothing and for a file that is not there.
    """
    found: set[str] = set()
    for pattern in patterns:
        for path in braces(pattern):
            found.update(_files(path, (ending, *also)))
            if len(found) > MAX_FILES:
                raise DatagenError(f"{pattern}: means more than {MAX_FILES} files")
    if not found:
        raise DatagenError("no path is given; set `path`")
    return sorted(found)


def braces(pattern: str) -> Iterator[str]:
    """``a{0..2}{x,y}`` → ``a0x``, ``a0y``, … ; numbers keep their leading zeros."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    before, after = pattern[: found.start()], pattern[found.end() :]
    span = _RANGE.fullmatch(found[1])
    if span is None:
        choices: Sequence[str] | Iterator[str] = found[1].split(",")
    else:
        first, last = int(span[1]), int(span[2])
        if abs(last - first) >= MAX_FILES:
            raise DatagenError(f"{pattern}: means more than {MAX_FILES} files")
        step = 1 if last >= first else -1
        width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) else 0
        choices = (f"{number:0{width}d}" for number in range(first, last + step, step))
    for choice in choices:
        yield from braces(before + choice + after)


def _files(path: str, endings: tuple[str, ...]) -> list[str]:
    fs, inner = store.filesystem(path)
    if any(mark in inner for mark in "*?["):
        return [_full(path, name) for name in _matches(path)]
    if not store.exists(path):
        raise DatagenError(f"{path}: no such file or folder")
    if fs.isfile(inner):
        return [_full(path, inner)]
    names = [name for name in store.names(path) if name.endswith(endings)]
    if not names:
        raise DatagenError(f"{path}: no {endings[0]} file in this folder")
    return [_full(path, store.join(inner, name)) for name in names]


def _matches(path: str) -> list[str]:
    """Files that a glob means. A far store's listing tells which are files."""
    fs, inner = store.filesystem(path)
    if store.is_local(path):
        found = [str(name) for name in fs.glob(inner) if fs.isfile(name)]
    else:
        with remote.asking(path):
            listed = fs.glob(inner, detail=True)
        found = [str(name) for name, info in listed.items() if info["type"] == "file"]
    if not found:
        raise DatagenError(f"{path}: no file matches this pattern")
    return found


def _full(path: str, inner: str) -> str:
    """The path within a file system as one that names the file system too."""
    if store.is_local(path):
        return store.local_path(inner)
    return f"{path.partition('://')[0]}://{inner.lstrip('/')}"
