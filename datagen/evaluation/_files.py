"""The official files of benchmarks as people keep them: rows checked one by one, media found."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from datagen import store
from datagen.cells import MAX_LINE
from datagen.errors import DatagenError, shortened
from datagen.evaluation.benchmark import Picture

#: Endings under which a medium is looked for where annotations name none.
IMAGES = (".jpg", ".png", ".jpeg", ".webp")
VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi")

Row = TypeVar("Row", bound=BaseModel)
csv.field_size_limit(MAX_LINE)


def find(data: str, choices: Sequence[str], mend: str) -> str:
    """The first of the relative paths ``choices`` that stands below ``data``.

    Raises DatagenError, with where the file comes from (``mend``), where none does.
    """
    if not store.exists(data):
        raise DatagenError(f"{data}: no such folder; --data names the benchmark's folder")
    for choice in choices:
        path = store.join(data, choice)
        if store.exists(path):
            return path
    other = f" (nor {', '.join(choices[1:])})" if len(choices) > 1 else ""
    raise DatagenError(f"{data}: no {choices[0]}{other}; {mend}")


def json_rows(path: str, row: type[Row]) -> list[Row]:
    """The objects of the JSON list at ``path``. Raises DatagenError naming the first bad one."""
    found = store.read_json(path)
    if not isinstance(found, list):
        raise DatagenError(f"{path}: a list of objects expected")
    return _rows(path, "entry", found, row, first=0)


def json_names(path: str) -> list[str]:
    """The names of the JSON list of texts at ``path``, each once."""
    found = store.read_json(path)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DatagenError(f"{path}: a list of names expected")
    return list(dict.fromkeys(found))


def csv_rows(path: str, row: type[Row], columns: Sequence[str] | None = None) -> list[Row]:
    """The lines of the csv file at ``path``; ``columns`` name its cells where it has no header.

    Raises DatagenError naming the first bad line.
    """
    try:
        text = store.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatagenError(f"{path}: not UTF-8 ({error})") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), columns)
    try:
        lines = list(reader)
    except csv.Error as error:
        raise DatagenError(f"{path}: line {reader.line_num}: {error}") from error
    return _rows(path, "row", lines, row, first=1)


def _rows(path: str, what: str, found: list[Any], row: type[Row], first: int) -> list[Row]:
    rows = []
    for number, one in enumerate(found, start=first):
        try:
            rows.append(row.model_validate(one))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"])) or "it"
            raise DatagenError(
                f"{path}: {what} {number}: {place}: {problem['msg'].removeprefix('Value error, ')}"
            ) from error
    if not rows:
        raise DatagenError(f"{path}: holds no {what}")
    return rows


def printable(text: str) -> str:
    """``text`` of somebody else's file for a line of a message: no control characters, not long."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:120])


class Media:
    """Finds media in folders, each of which is listed once."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, str]] = {}

    def listed(self, folder: str) -> dict[str, str]:
        """Names in ``folder``: by themselves, and by what stands before their ending."""
        if folder not in self._names:
            names = store.names(folder)
            stems = {
                name.rpartition(".")[0]: name
                for name in reversed(names)
                if name.lower().endswith((*IMAGES, *VIDEOS))
            }
            self._names[folder] = {**stems, **dict(zip(names, names, strict=True))}
        return self._names[folder]

    def picture(self, folders: Iterable[str], name: str, ending: str, **more: Any) -> Picture:
        """The medium ``name`` (with folders in it, or none) below the first of ``folders`` with it.

        ending: what it is expected to have where it is not found. Raises DatagenError for a name
        that leads out of its folder.
        """
        if ".." in name.split("/"):
            raise DatagenError(f"{printable(name)}: the name of an image leads out of its folder")
        first = ""
        for folder in folders:
            inner, _, last = store.join(folder, name).rpartition("/")
            here = self.listed(inner).get(last)
            if here is not None:
                return Picture(store.join(inner, here), **more)
            first = first or store.join(inner, last)
        whole = first if first.lower().endswith((*IMAGES, *VIDEOS)) else first + ending
        return Picture(whole, there=False, **more)


def known(names: Iterable[str], pictures: Iterable[str], path: str) -> None:
    """Raise DatagenError where annotations in ``path`` name what no list of media has."""
    have = set(pictures)
    strange = [name for name in dict.fromkeys(names) if name not in have]
    if strange:
        first = shortened([printable(name) for name in strange[:3]])
        raise DatagenError(
            f"{path}: names {len(strange):,} that the list of images does not have ({first}); both "
            "files must be of one version"
        )
