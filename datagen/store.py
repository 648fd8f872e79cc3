"""Files that are whole or absent: atomic writes, Parquet tables and journals on any fsspec path.

On local disks a file is written beside its place, synced and renamed, and its folder synced. On
object stores one upload is atomic by itself. Paths are strings: ``/data/x``, ``s3://bucket/x``,
``gs://…``, ``memory://…``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datagen import cache, remote
from datagen.errors import DatagenError

#: Temporary files carry this prefix; nothing under such a name is ever read.
TEMPORARY = ".writing-"


@functools.cache
def _local_filesystem() -> Any:
    return fsspec.filesystem("file")


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of ``path`` and the path within it.

    Raises DatagenError where the protocol is unknown or its package is not installed.
    """
    if is_local(path):
        return _local_filesystem(), local_path(path)
    return remote.filesystem(path)


def is_local(path: str) -> bool:
    """Whether ``path`` lies on this machine's file system."""
    return "://" not in path or path.startswith(("file://", "local://"))


def local_path(path: str) -> str:
    """The absolute local path of a local ``path``."""
    for prefix in ("file://", "local://"):
        path = path.removeprefix(prefix)
    return os.path.abspath(os.path.expanduser(path))


def join(*parts: str) -> str:
    """Join path parts with ``/``."""
    head, *tail = parts
    return "/".join([head.rstrip("/") or "/", *(part.strip("/") for part in tail)])


def exists(path: str) -> bool:
    """Whether a file or folder stands at ``path``."""
    if is_local(path):
        return os.path.exists(local_path(path))
    remote.reach(path)
    fs, inner = filesystem(path)
    with remote.asking(path):
        return bool(fs.exists(inner))


def names(folder: str) -> list[str]:
    """Sorted names in ``folder`` without temporary files; empty where there is no folder."""
    if is_local(folder):
        try:
            found = os.listdir(local_path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
    else:
        fs, inner = filesystem(folder)
        try:
            with remote.asking(folder):
                listed = fs.ls(inner, detail=False)
        except FileNotFoundError:
            return []
        found = [path.rstrip("/").rsplit("/", 1)[-1] for path in listed]
    return sorted(name for name in found if not name.startswith(TEMPORARY))


def clean(folder: str) -> None:
    """Remove what killed writers left behind in ``folder`` (not below it)."""
    if is_local(folder):
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(local_path(folder)):
                if name.startswith(TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(local_path(folder), name))


def explained(path: str, error: OSError) -> DatagenError:
    """One line for an error of the file system at ``path``, with the mend."""
    what = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EACCES: "no permission to write here; choose another folder with --out",
        errno.EPERM: "no permission to write here; choose another folder with --out",
        errno.EROFS: "the file system is read-only; choose another folder with --out",
        errno.ENOTDIR: "a part of this path is a file, not a folder",
    }.get(error.errno or 0, error.strerror or str(error))
    return DatagenError(f"{path}: {what}")


def make_folder(path: str) -> None:
    """Create ``path`` and its parents; on object stores only see that the store answers.

    Raises DatagenError in one line where that fails.
    """
    if not is_local(path):
        remote.reach(path)
        return
    try:
        os.makedirs(local_path(path), exist_ok=True)
    except OSError as error:
        raise explained(path, error) from error


@contextlib.contextmanager
def writing(path: str, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write ``path`` whole: yields a binary file that takes the final name when the block ends.

    durable: also outlive a power cut; false is for files that no later process reads.

    An error in the block leaves nothing under the final name. Raises DatagenError when the disk
    is full, the folder read-only or the path wrong.
    """
    if not is_local(path):
        with remote.uploading(path) as file:
            yield file
        return
    final = local_path(path)
    folder = os.path.dirname(final)
    beside = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}-{os.path.basename(final)}")
    try:
        make_folder(folder)
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(beside, final)
            if durable:
                sync_folder(folder)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename not in (beside, final):
            raise
        raise explained(path, error) from error


def sync_folder(folder: str) -> None:
    """Make renames in ``folder`` durable, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with writing(path) as file:
        file.write(data)


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as readable JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_bytes(path: str, offset: int = 0, size: int | None = None) -> bytes:
    """Read ``size`` bytes from ``offset`` (to the end by default)."""
    if is_local(path):
        with open(local_path(path), "rb") as file:
            file.seek(offset)
            return file.read() if size is None else file.read(size)
    return remote.read(path, offset, size)


def read_json(path: str) -> Any:
    """Parse the JSON file at ``path``. Raises DatagenError where it is not JSON."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise DatagenError(f"{path}: not valid JSON ({error})") from error


def write_table(path: str, table: pa.Table) -> None:
    """Write a Parquet file with the same bytes for the same table."""
    with writing(path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=64 << 10)


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one Parquet file."""
    chosen = list(columns) if columns is not None else None
    if is_local(path):
        with pa.OSFile(local_path(path)) as file:
            return pq.read_table(file, columns=chosen)
    return pq.read_table(io.BytesIO(read_bytes(path)), columns=chosen)


def write_npy(path: str, array: np.ndarray[Any, Any]) -> None:
    """Write an array in NumPy's own format, never pickled."""
    with writing(path) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def file_hash(path: str) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    fs, inner = filesystem(path)
    with fs.open(inner, "rb") as file:
        while chunk := file.read(8 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def size(path: str) -> int:
    """Bytes of a file."""
    if is_local(path):
        return os.stat(local_path(path)).st_size
    fs, inner = filesystem(path)
    with remote.asking(path):
        return int(fs.info(inner)["size"])


def stamp(path: str) -> str:
    """What changes when the file does, without reading it: size and time, or the store's hash."""
    if is_local(path):
        info = os.stat(local_path(path))
        return f"{info.st_size}-{info.st_mtime_ns}"
    fs, inner = filesystem(path)
    with remote.asking(path):
        return remote.stamp(fs.info(inner))


def remove(path: str) -> None:
    """Remove the file or the whole folder at ``path``; nothing where there is none."""
    if is_local(path):
        place = local_path(path)
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
        return
    fs, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError), remote.asking(path):
        fs.rm(inner, recursive=True)


def local_copy(folder: str, files: Sequence[str]) -> str:
    """A local folder that holds ``files`` of ``folder``: itself, or a copy in the cache."""
    return local_path(folder) if is_local(folder) else cache.local_copy(folder, files)


class Journal:
    """What a row-wise step has done so far: Parquet parts, each written whole, in any order.

    Every row has a ``unit`` (the input id it answers). Parts never overlap in meaning: a unit
    that two retried workers wrote twice is the same row twice, and one is kept.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def append(self, table: pa.Table) -> None:
        """Write one part. Its name is the hash of its units, so a retry replaces itself."""
        digest = hashlib.blake2b(digest_size=12)
        for unit in table["unit"].to_pylist():
            digest.update(unit.encode())
        write_table(join(self.folder, f"part-{digest.hexdigest()}.parquet"), table)

    def parts(self) -> list[str]:
        """Paths of the parts."""
        return [join(self.folder, name) for name in names(self.folder) if name[:5] == "part-"]

    def units(self, without_failed: bool = False) -> set[str]:
        """Units that are done; on demand without those that failed, so that they run again."""

        def read(part: str) -> list[str]:
            table = self._read(part, ["unit", "verdict"])
            if without_failed:
                table = table.filter(pc.not_equal(table["verdict"], "failed"))
            units: list[str] = table["unit"].to_pylist()
            return units

        parts = self.parts()
        if is_local(self.folder):
            return set().union(*map(read, parts))
        # Each part of a far store is a request that waits.
        with ThreadPoolExecutor(16) as pool:
            return set().union(*pool.map(read, parts))

    def read_all(self) -> pa.Table | None:
        """All rows of all parts, in no order; None where there is no part."""
        tables = [self._read(part, None) for part in self.parts()]
        return pa.concat_tables(tables, promote_options="permissive") if tables else None

    def read_part(self, part: str, without: Sequence[str] = ()) -> pa.Table:
        """One part, without some columns. Raises DatagenError where the file is damaged."""
        names_left = None
        if without:
            names_left = [n for n in self._read(part, None, schema_only=True) if n not in without]
        return self._read(part, names_left)

    def _read(self, part: str, columns: Sequence[str] | None, schema_only: bool = False) -> Any:
        try:
            if schema_only:
                fs, inner = filesystem(part)
                with fs.open(inner, "rb") as file:
                    return pq.read_schema(file).names
            return read_table(part, columns)
        except pa.ArrowInvalid as error:
            raise DatagenError(
                f"{part}: damaged ({error}); delete this file and run the same command again"
            ) from error
