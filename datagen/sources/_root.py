"""The folder that a source may read from: names that lead out of it are refused."""

from __future__ import annotations

import functools
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datagen import remote, store


@dataclass(frozen=True)
class Place:
    """Where a file lies and how long it is (bytes; None where only the store knows)."""

    path: str
    size: int | None


@dataclass(frozen=True)
class Fault:
    """Why a name is not a usable file."""

    rule: str
    detail: str


def _inside(name: str) -> str | None:
    """``name`` in normal form; None where it leads out of the folder it is joined to."""
    if name.startswith(("/", "~", "\\")) or "://" in name or "\0" in name:
        return None
    normal = posixpath.normpath(name)
    return None if normal == ".." or normal.startswith("../") else normal


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


class Root:
    """A folder on any fsspec path, and a folder within it that names start from."""

    def __init__(self, path: str, below: str = "") -> None:
        self.local = store.is_local(path)
        self.path = store.local_path(path) if self.local else path.rstrip("/")
        self.below = below

    def holds(self, name: str) -> bool:
        """Whether ``name``, taken as text, stays in the folder."""
        return _inside(name) is not None

    def locate(self, names: Sequence[str]) -> list[Place | Fault]:
        """A place or a fault for every name, in their order.

        Faults are ``outside_root`` (an absolute name, ``..``, a URL, a link that leads out) and
        ``missing_file``. A far store is not asked: whoever reads the file learns what it is.
        """
        return [self._locate(name) for name in names]

    def _locate(self, name: str) -> Place | Fault:
        normal = _inside(posixpath.join(self.below, name) if _inside(name) else name)
        if normal is None:
            return Fault("outside_root", f"'{name}' leads out of {self.path}")
        path = store.join(self.path, normal)
        try:
            return self._local(path, name) if self.local else Place(path, None)
        except (FileNotFoundError, NotADirectoryError):
            return Fault("missing_file", f"no file {path}")
        except OSError as error:
            return Fault("missing_file", f"{path}: {error.strerror or error}")

    def _local(self, path: str, name: str) -> Place | Fault:
        root = _real(self.path)
        real = posixpath.join(_real(posixpath.dirname(path)), posixpath.basename(path))
        info = os.lstat(real)
        if stat.S_ISLNK(info.st_mode):
            real = os.path.realpath(real)
            info = os.lstat(real)
        if not real.startswith(root.rstrip("/") + "/"):
            return Fault("outside_root", f"'{name}' is a link that leads out of {self.path}")
        if not stat.S_ISREG(info.st_mode):
            return Fault("missing_file", f"{path} is not a plain file")
        return Place(path, info.st_size)

    def walk(self) -> Iterator[tuple[str, int | None]]:
        """Names of all files below, sorted, with sizes where the listing tells them.

        Hidden files and folders are left out, and links to folders are not followed.
        """
        top = store.join(self.path, self.below) if self.below else self.path
        found: list[tuple[str, int | None]] = []
        if self.local:
            for folder, folders, files in os.walk(top):
                folders[:] = [name for name in folders if not name.startswith(".")]
                where = os.path.relpath(folder, top)
                start = "" if where == "." else where + "/"
                found += [(start + name, None) for name in files if not name.startswith(".")]
        else:
            fs, inner = store.filesystem(top)
            with remote.asking(top):
                details: dict[str, Any] = fs.find(inner, detail=True)
            for path, info in details.items():
                name = path[len(inner.rstrip("/")) + 1 :]
                if not any(part.startswith(".") for part in name.split("/")):
                    found.append((name, int(info["size"])))
        yield from sorted(found)
