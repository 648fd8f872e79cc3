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
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datagen.errors import DatagenError

#: Temporary files carry this prefix; nothing under such a name is ever read.
TEMPORARY = ".writing-"


@functools.lru_cache(maxsize=64)
def _filesystem(protocol: str, anchor: str) -> Any:
    return fsspec.core.url_to_fs(anchor)[0]


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of ``path`` and the path within it.

    Raises DatagenError where the protocol is unknown or its package is not installed.
    """
    if is_local(path):
        path = local_path(path)
        return _filesystem("file", "/"), path
    try:
        fs, inner = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise DatagenError(f"{path}: {error}") from error
    return fs, inner


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
    fs, inner = filesystem(path)
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
        fs.invalidate_cache()
        try:
            found = [path.rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(inner, detail=False)]
        except FileNotFoundError:
            return []
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
    """Create ``path`` and its parents. Raises DatagenError in one line where that fails."""
    if not is_local(path):
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
        with _uploading(path) as file:
            yield file
        return
    final = local_path(path)
    folder = os.path.dirname(final)
    beside = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}-{os.path.basename(final)}")
    try:
        os.makedirs(folder, exist_ok=True)
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
        if isinstance(error, FileNotFoundError) and error.filename not in (beside, final, folder):
            raise
        raise explained(path, error) from error


@contextlib.contextmanager
def _uploading(path: str) -> Iterator[IO[bytes]]:
    # fsspec's own files commit on close even after an error, so the upload is one call at the end.
    fs, inner = filesystem(path)
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0, io.SEEK_END)
        size = file.tell()
        file.seek(0)
        try:
            fs.makedirs(fs._parent(inner), exist_ok=True)
            if size < 64 << 20:
                fs.pipe_file(inner, file.read())
                return
            with tempfile.NamedTemporaryFile() as copy:
                while chunk := file.read(16 << 20):
                    copy.write(chunk)
                copy.flush()
                fs.put_file(copy.name, inner)
        except OSError as error:
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
    fs, inner = filesystem(path)
    end = None if size is None else offset + size
    return bytes(fs.cat_file(inner, start=offset or None, end=end))


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


def stamp(path: str) -> str:
    """What changes when the file does, without reading it: size and time, or the store's key."""
    if is_local(path):
        info = os.stat(local_path(path))
        return f"{info.st_size}-{info.st_mtime_ns}"
    fs, inner = filesystem(path)
    return str(fs.ukey(inner))


def local_copy(folder: str, files: Sequence[str]) -> str:
    """A local folder that holds ``files`` of ``folder``: itself, or a copy in the cache."""
    if is_local(folder):
        return local_path(folder)
    fs, inner = filesystem(folder)
    stamp = hashlib.sha256(folder.encode()).hexdigest()[:16]
    cache = os.path.join(tempfile.gettempdir(), f"datagen-{os.getuid()}", stamp)
    for name in files:
        place = os.path.join(cache, name)
        if not os.path.exists(place):
            os.makedirs(cache, mode=0o700, exist_ok=True)
            beside = f"{place}.{uuid.uuid4().hex}"
            fs.get_file(f"{inner.rstrip('/')}/{name}", beside)
            os.replace(beside, place)
    return cache


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
        done: set[str] = set()
        for part in self.parts():
            table = self._read(part, ["unit", "verdict"])
            if without_failed:
                table = table.filter(pc.not_equal(table["verdict"], "failed"))
            done.update(table["unit"].to_pylist())
        return done

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
