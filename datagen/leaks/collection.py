"""Another collection, as a user names it: a folder, a run, an annotation file, fingerprints."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import note, schema, store
from datagen.errors import DatagenError
from datagen.leaks import names
from datagen.sources._records import modality_of
from datagen.sources._root import Root

Kind = Literal["folder", "run", "names", "fingerprints"]

#: One medium of a collection, where its bytes lie.
ENTRIES = pa.schema([("name", pa.string()), ("media", schema.MEDIA)])


@dataclass(frozen=True)
class Collection:
    """A collection whose path is known to hold one.

    path: absolute, or of a far store; told: as the user wrote it; fields: of an annotation file,
    those that hold names (empty: all).
    """

    path: str
    told: str
    kind: Kind
    fields: tuple[str, ...] = ()

    @staticmethod
    def of(told: str, fields: Sequence[str] = ()) -> Collection:
        """Raises DatagenError where there is no collection at ``told``."""
        path = store.local_path(told) if store.is_local(told) else told.rstrip("/")
        if not told.strip() or not store.exists(path):
            raise DatagenError(f"{told}: no such file or folder; name a collection to compare with")
        if _is_folder(path):
            kind: Kind = "run" if store.exists(store.join(path, "run.json")) else "folder"
        elif path.endswith(".parquet") and _has_fingerprints(path):
            kind = "fingerprints"
        elif path.removesuffix(".gz").lower().endswith(names.ENDINGS):
            kind = "names"
        else:
            raise DatagenError(
                f"{told}: neither a folder, a run, a file of fingerprints nor a list of names "
                f"({', '.join(names.ENDINGS)})"
            )
        return Collection(path, told, kind, tuple(fields))

    def fault(self) -> str:
        """Why nothing can be compared with it; empty where something can."""
        try:
            if self.kind == "names":
                self.names()
            elif self.kind == "folder":
                return self._folder_fault()
            elif self.kind == "run" and not store.exists(self._items_path()):
                return f"{self.told}: this run has no items yet"
        except DatagenError as error:
            return str(error)
        return ""

    def _folder_fault(self) -> str:
        walked = self._walked()
        for name in walked:
            try:
                name.encode()
            except UnicodeEncodeError:
                told = name.encode("utf-8", "backslashreplace").decode()
                return f"{self.told}: a file name is not UTF-8 ({told}); rename it"
        return "" if walked else f"{self.told}: holds no image or clip"

    def names(self) -> frozenset[str]:
        """Plain names in the annotation file; of other kinds none."""
        if self.kind != "names":
            return frozenset()
        return _read_names(self.path, self.fields, store.stamp(self.path))

    def stamp(self) -> str:
        """What changes when the collection does; no file is read for it."""
        if self.kind == "folder":
            told = [f"{name}\0{store.stamp(self._full(name))}" for name in self._walked()]
        elif self.kind == "run":
            told = [str(note.read(self.path).get("listed"))]
        else:
            told = [store.stamp(self.path)]
        lines = [self.kind, self.path, *self.fields, *told]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def entries(self) -> pa.Table:
        """Its media (:data:`ENTRIES`), sorted by name; none where only names or fingerprints are
        known.
        """
        if self.kind == "run":
            items = store.read_table(self._items_path(), ["key", "media"])
            items = items.filter(items["media"].is_valid())
            table = pa.table([items["key"], items["media"]], names=ENTRIES.names)
            return table.cast(ENTRIES).sort_by("name").combine_chunks()
        if self.kind != "folder":
            return ENTRIES.empty_table()
        none: dict[str, Any] = dict.fromkeys(field.name for field in schema.MEDIA)
        rows = [
            {
                "name": name,
                "media": none
                | {"path": self._full(name), "offset": 0, "modality": modality_of(name)},
            }
            for name in self._walked()
        ]
        return pa.Table.from_pylist(rows, schema=ENTRIES)

    def _full(self, name: str) -> str:
        return store.join(self.path, name)

    def _walked(self) -> list[str]:
        """Names of the media files in the folder, sorted."""
        return [name for name, _ in Root(self.path).walk() if modality_of(name)]

    def _items_path(self) -> str:
        found = note.read(self.path)
        folder = next(iter(found.get("steps") or [{}])).get("folder", "")
        return store.join(self.path, folder, "table.parquet")


def _is_folder(path: str) -> bool:
    if store.is_local(path):
        return os.path.isdir(path)
    fs, inner = store.filesystem(path)
    return bool(fs.isdir(inner))


def _has_fingerprints(path: str) -> bool:
    fs, inner = store.filesystem(path)
    with fs.open(inner, "rb") as file:
        try:
            return {"name", "sha256", "phash"} <= set(pq.read_schema(file).names)
        except pa.ArrowException as error:
            raise DatagenError(f"{path}: not a Parquet file ({error})") from error


@functools.lru_cache(maxsize=16)
def _read_names(path: str, fields: tuple[str, ...], stamp: str) -> frozenset[str]:
    return frozenset(names.read(path, fields))
