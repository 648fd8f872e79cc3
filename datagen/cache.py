"""Local copies of remote files that are memory-mapped: spaces and word tables.

A copy is known by what the store says about the file (its hash or time), not by its path alone,
so another run's file at the same path is another copy. One process of a machine downloads, the
others wait. Copies that nobody used for :data:`KEEP` seconds are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from filelock import FileLock

from datagen import remote
from datagen.errors import DatagenError

KEEP = 2 * 24 * 3600.0


def own_folder(name: str) -> str:
    """A folder of this user's for ``name`` under the system's temporary folder (``TMPDIR``).

    Raises DatagenError where another user has put a folder in its place.
    """
    top = os.path.join(tempfile.gettempdir(), f"datagen-{os.getuid()}")
    for folder in (top, os.path.join(top, name)):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            info = os.lstat(folder)
        except OSError as error:
            raise DatagenError(
                f"{folder}: cannot be made ({error.strerror}); set TMPDIR to a folder of yours"
            ) from error
        if info.st_uid != os.getuid() or not os.path.isdir(folder) or os.path.islink(folder):
            raise DatagenError(
                f"{folder}: belongs to another user; set TMPDIR to a folder of yours"
            )
    return os.path.join(top, name)


def local_copy(folder: str, files: Sequence[str]) -> str:
    """A local folder with copies of ``files`` of the remote ``folder``, all of one state.

    Raises DatagenError where the store fails or the local disk is full.
    """
    fs, inner = remote.filesystem(folder)
    digest = hashlib.sha256(folder.encode())
    with remote.asking(folder):
        for name in files:
            stamp = remote.stamp(fs.info(f"{inner.rstrip('/')}/{name}"))
            digest.update(f"\n{name} {stamp}".encode())
    top = own_folder("copies")
    place = os.path.join(top, digest.hexdigest()[:32])
    if not os.path.isdir(place):
        # The operating system frees the lock of a killed process.
        with FileLock(f"{place}.lock"):
            if not os.path.isdir(place):
                _remove_old(top)
                _download(fs, inner, folder, files, place)
    with contextlib.suppress(OSError):
        os.utime(place)
    return place


def _download(fs: Any, inner: str, folder: str, files: Sequence[str], place: str) -> None:
    beside = f"{place}.new"
    shutil.rmtree(beside, ignore_errors=True)  # of a killed process: the lock is ours
    os.mkdir(beside, 0o700)
    try:
        for name in files:
            with remote.asking(f"{folder}/{name}"):
                fs.get_file(f"{inner.rstrip('/')}/{name}", os.path.join(beside, name))
        os.replace(beside, place)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise DatagenError(
            f"{beside}: {error.strerror or error}; set TMPDIR to a larger disk"
        ) from error


def _remove_old(top: str) -> None:
    limit = time.time() - KEEP
    for name in os.listdir(top):
        path = os.path.join(top, name)
        with contextlib.suppress(OSError):
            if os.stat(path).st_mtime < limit and not name.endswith(".lock"):
                shutil.rmtree(path)
