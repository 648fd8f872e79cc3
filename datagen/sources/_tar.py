"""The members of an untrusted tar, by their headers: nothing is unpacked, nothing is believed.

Python's tarfile reads the headers; what it does not guard against is guarded here: extended
headers of any length, sizes that lead backwards, and an archive that ends in the middle.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from datagen import store

BLOCK = 512
#: Longest extended header (long names, pax records) that is read, in bytes.
MAX_HEADER = 1 << 20

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True)
class Member:
    """A member: its name, first byte and length; ``fault`` says why it cannot be used."""

    name: str
    offset: int
    size: int
    fault: str | None = None


class Damage(Exception):
    """The archive cannot be read on.

    whole: the members so far are whole, and it may be that nothing is lost;
    name: the member that is damaged, where that is known.
    """

    def __init__(self, rule: str, detail: str, whole: bool = False, name: str = "") -> None:
        super().__init__(rule, detail)
        self.rule = rule
        self.detail = detail
        self.whole = whole
        self.name = name


class _Headers(io.RawIOBase):
    """What tarfile may see of a file: short reads, and never a byte before the last one read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = self._last = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._last = self._at
        self._file.seek(self._at)
        data = self._file.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset < self._last:
            raise tarfile.ReadError("a size that leads backwards")
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """A seekable file of ``path``, on any fsspec path."""
    if store.is_local(path):
        with open(store.local_path(path), "rb", buffering=1 << 16) as file:
            yield file
        return
    fs, inner = store.filesystem(path)
    with fs.open(inner, "rb") as remote:
        yield remote


def members(file: IO[bytes]) -> Iterator[Member]:
    """Every member that is not a folder, in order. Raises :class:`Damage` where reading ends early.

    Rules: ``compressed_tar``, ``truncated_tar``, ``corrupt_header``.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    magic = file.read(8)
    for start, kind in _COMPRESSED.items():
        if magic.startswith(start):
            raise Damage("compressed_tar", f"{kind}: unpack it first, media are read in place")
    if length == 0:
        raise Damage("truncated_tar", "the file is empty", whole=True)
    at = 0
    try:
        # Positions in the archive are those in the file: "r:" means no compression.
        with tarfile.open(fileobj=_Headers(file), mode="r:", errors="surrogateescape") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]
                at = info.offset
                if info.isdir():
                    continue
                if info.size < 0:
                    raise Damage("corrupt_header", f"negative size at byte {at}")
                fault = _fault(info)
                if fault is None and info.offset_data + info.size > length:
                    detail = f"ends within '{info.name}' at byte {length}"
                    raise Damage("truncated_tar", detail, name=info.name)
                yield Member(info.name, info.offset_data, info.size, fault)
            at = archive.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        ended = any(word in str(error) for word in ("unexpected end", "truncated", "empty header"))
        rule = "truncated_tar" if ended else "corrupt_header"
        raise Damage(rule, f"after byte {at}: {error}") from error
    _check_end(file, at, length)


def _fault(info: Any) -> str | None:
    if info.issparse():
        return "sparse_member"
    return None if info.isreg() else "special_member"


def _check_end(file: IO[bytes], at: int, length: int) -> None:
    """tarfile takes any block that it cannot read for the end; the real one is all zeros."""
    file.seek(at)
    block = file.read(BLOCK)
    if len(block) == BLOCK and any(block):
        raise Damage("corrupt_header", f"no tar header at byte {at}")
    if len(block) < BLOCK:
        raise Damage("truncated_tar", f"no end mark at byte {length}", whole=not block)
