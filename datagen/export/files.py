"""Media of an export: written once each, whole, checked against their hash, kept when there."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any, Literal

from datagen import media, store
from datagen.shards._write import EXTENSIONS, UNKNOWN

Mode = Literal["copy", "link", "none"]
#: Files under way at once, and how many bytes of them are held; a larger one goes alone.
WRITERS, HELD = 8, 128 << 20
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Unreadable(Exception):
    """The bytes of a medium are gone, or are not those that the run has seen."""


def read(where: Mapping[str, Any]) -> bytes:
    """The bytes of a medium, the ones that its hash tells. Raises Unreadable."""
    try:
        return media.again(where)
    except media.MediaError as error:
        raise Unreadable(str(error)) from error


def extension(where: Mapping[str, Any]) -> str:
    """The extension of a medium's true format, without a dot."""
    return EXTENSIONS.get(where["format"] or "", UNKNOWN)


def plain(name: str) -> bool:
    """Whether an id can name a file."""
    return bool(_NAME.fullmatch(name))


class Files:
    """The media below the folder ``out``.

    mode: ``copy``; ``link``: a hard link where the medium is a whole file of this machine, a
    symbolic link where it lies on another disk, a copy where it is cut out of a tar or fetched.
    """

    def __init__(self, out: str, mode: Mode) -> None:
        self.out = out
        self.mode = mode
        self.local = store.is_local(out)
        self.written = self.linked = self.kept = 0

    def write(
        self, places: Iterable[tuple[str, Mapping[str, Any]]], advance: Callable[[], object]
    ) -> dict[str, str]:
        """Write each medium to its place below the folder; gives what failed, place → why.

        ``places``: (path below the folder, medium as in schema.MEDIA), each path once.
        """
        failed: dict[str, str] = {}

        def one(place: str, where: Mapping[str, Any]) -> str | None:
            try:
                return self.one(place, where)
            except Unreadable as error:
                failed[place] = str(error)
                return None

        for done in _bounded(one, places):
            advance()
            if done is not None:
                setattr(self, done, getattr(self, done) + 1)
        return failed

    def there(self, place: str) -> int | None:
        """The bytes that the file at a place had when the export began; None: there was none."""
        return _size(store.join(self.out, place)) if self.local else self._before.get(place)

    @cached_property
    def _before(self) -> dict[str, int]:
        """Sizes of what a far folder holds."""
        return _sizes(self.out)

    def one(self, place: str, where: Mapping[str, Any]) -> str:
        """Bring one medium to its place: ``kept``, ``linked`` or ``written``. Raises Unreadable."""
        path, size = store.join(self.out, place), self.there(place)
        if size is not None and size == where["size"]:
            return "kept"
        if self.mode == "link" and self.local and self._linked(path, where):
            return "linked"
        store.write_bytes(path, read(where))
        return "written"

    def _linked(self, path: str, where: Mapping[str, Any]) -> bool:
        source = store.local_path(where["path"]) if store.is_local(where["path"]) else ""
        if not source or where["offset"] or _size(source) != where["size"]:
            return False
        read(where)
        # The name of the file itself: a link to a link would follow when that one is turned.
        source, final = os.path.realpath(source), store.local_path(path)
        folder, name = os.path.split(final)
        beside = os.path.join(folder, f"{store.TEMPORARY}{uuid.uuid4().hex}-{name}")
        store.make_folder(folder)
        try:
            try:
                os.link(source, beside)
            except OSError:
                os.symlink(source, beside)
            os.replace(beside, final)
        except OSError as error:
            raise store.explained(path, error) from error
        finally:
            # Renaming one link of a file onto another link of it leaves both.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
        return True


def _bounded(
    work: Callable[[str, Mapping[str, Any]], str | None],
    places: Iterable[tuple[str, Mapping[str, Any]]],
) -> Iterator[str | None]:
    """Do ``work`` in threads that hold no more than HELD bytes; gives its results."""
    waiting: dict[Future[str | None], int] = {}
    held = 0
    with ThreadPoolExecutor(WRITERS) as pool:
        try:
            for place, where in places:
                size = int(where["size"] or media.DEFAULT.max_bytes)
                while waiting and (held + size > HELD or len(waiting) >= 2 * WRITERS):
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        held -= waiting.pop(future)
                        yield future.result()
                waiting[pool.submit(work, place, where)] = size
                held += size
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _size(path: str) -> int | None:
    try:
        return os.stat(store.local_path(path)).st_size
    except OSError:
        return None


def _sizes(folder: str) -> dict[str, int]:
    """Sizes of all files below a far folder, in as few requests as its store allows."""
    from datagen import remote

    fs, inner = store.filesystem(folder)
    root = inner.rstrip("/") + "/"
    try:
        with remote.asking(folder):
            found = fs.find(inner, detail=True)
    except FileNotFoundError:
        return {}
    return {
        path.lstrip("/").removeprefix(root.lstrip("/")): int(info.get("size") or 0)
        for path, info in found.items()
    }
