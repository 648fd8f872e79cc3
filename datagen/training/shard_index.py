"""Where the members of a triplet shard lie: found by one scan, kept, and memory-mapped.

A shard is a tar of triplets (see docs/RUNS.md). Its index is an Arrow file with one row for each
triplet, kept under ``TMPDIR`` by the shard's path and by what its store says of its state, so a
shard that was written anew is scanned anew. Nothing in a shard is believed: a triplet without a
text, or with a JSON that is none, is named among the index's faults and has no row.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
from filelock import FileLock

from datagen import cache, store
from datagen.errors import DatagenError

#: What a member is: its place in this list stands in the index.
ROLES = ("reference", "target", "negative", "text", "json", "vector")
REFERENCE, TARGET, NEGATIVE, TEXT, JSON, VECTOR = range(len(ROLES))

#: One medium or text of a triplet: ``offset`` counts from the triplet's first byte; ``item`` is
#: the id of the item whose medium it is.
MEMBER = pa.struct(
    [
        ("role", pa.int8()),
        ("number", pa.int16()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("item", pa.string()),
    ]
)

#: ``start`` and ``size``: the bytes of the triplet in the tar; ``targets``: ids, also of targets
#: without a medium.
INDEX = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("pair", pa.string()),
        pa.field("targets", pa.list_(pa.string())),
        pa.field("start", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("members", pa.list_(MEMBER)),
    ]
)

#: Raised when the same shard would give another index.
VERSION = 1
#: Indexes that nobody used for so many seconds are removed.
KEEP = 30 * 24 * 3600.0
#: Bytes that are read at once, and the longest extended header and JSON that are read.
READ, HEADER, MOST_JSON = 8 << 20, 1 << 20, 64 << 20
#: Bytes of a member: more than any disk has.
MOST_SIZE = 1 << 60

_BLOCK = 512
_NAME = re.compile(
    r"([A-Za-z0-9_-]+)\.(?:(reference|target|negative)(?:\.(\d{1,4}))?\.[a-z0-9]+|(txt|json))"
)
_RECORD = re.compile(rb"(\d{1,8}) ([^=]+)=")
_VECTOR = re.compile(r"([A-Za-z0-9_-]+)\.target\.npy")
_FAULTS, _HASH = b"faults", b"sha256"


@dataclass(frozen=True)
class Index:
    """The index of one shard. ``faults``: (key, rule, detail) of triplets that have no row;
    ``sha256``: of the whole tar, where it was computed."""

    table: pa.Table
    faults: list[tuple[str, str, str]]
    sha256: str = ""


class Damaged(DatagenError):
    """A tar that is missing or cannot be read to its end."""


class _Member(NamedTuple):
    """A file of the tar: its name, the byte of its header, its first byte and its length."""

    name: str
    header: int
    offset: int
    size: int


def kept(path: str, whole: bool) -> str:
    """The local file with the index of the shard at ``path``, made where it is not there yet.

    whole: read every byte and keep the tar's SHA-256 (shards of far stores are always read so).
    Raises :class:`Damaged`, and DatagenError where the store fails.
    """
    whole = whole or not store.is_local(path)
    try:
        stamp = store.stamp(path)
    except FileNotFoundError as error:
        raise Damaged(f"{path}: missing") from error
    top = cache.own_folder("indexes")
    where = store.local_path(path) if store.is_local(path) else path
    name = hashlib.sha256(f"{VERSION}\n{where}\n{stamp}".encode()).hexdigest()[:32]
    place = os.path.join(top, f"{name}.arrow")
    with FileLock(f"{place}.lock"):
        if not _fits(place, whole):
            _remove_old(top)
            _write(place, scan(path, whole))
    os.utime(place)
    return place


def opened(place: str) -> Index:
    """The index in the file ``place``, memory-mapped."""
    with pa.memory_map(place) as file:
        table = pa.ipc.open_file(file).read_all()
    about = table.schema.metadata
    faults = [(key, rule, detail) for key, rule, detail in json.loads(about[_FAULTS])]
    return Index(table, faults, about[_HASH].decode())


def _fits(place: str, whole: bool) -> bool:
    try:
        return bool(opened(place).sha256) or not whole
    except (FileNotFoundError, pa.ArrowInvalid):
        return False


def _write(place: str, found: Index) -> None:
    about = {_FAULTS: json.dumps(found.faults).encode(), _HASH: found.sha256.encode()}
    table = found.table.replace_schema_metadata(about)
    with store.writing(place, durable=False) as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)


def _remove_old(top: str) -> None:
    limit = time.time() - KEEP
    for name in os.listdir(top):
        path = os.path.join(top, name)
        try:
            if name.endswith(".arrow") and os.stat(path).st_mtime < limit:
                os.unlink(path)
        except OSError:
            continue


def scan(path: str, whole: bool = True) -> Index:
    """Read the shard at ``path`` from its first header to its last.

    Raises :class:`Damaged` where the tar ends early or holds something else than a tar does.
    """
    with _Bytes(path, whole) as data:
        rows: list[dict[str, Any]] = []
        faults: list[tuple[str, str, str]] = []
        for group in _groups(data, path):
            found = group.row(data)
            if isinstance(found, dict):
                rows.append(found)
            else:
                faults.append((group.key, *found))
        digest = data.digest()
    return Index(pa.Table.from_pylist(rows, schema=INDEX), faults, digest)


class _Bytes:
    """A file that is read forwards: every byte, with its hash, or only what is asked for."""

    def __init__(self, path: str, whole: bool) -> None:
        self.path, self.whole = path, whole
        self._file = open(store.local_path(path), "rb", 0) if store.is_local(path) else None  # noqa: SIM115
        self._hash = hashlib.sha256()
        self._start, self._held = 0, b""

    def __enter__(self) -> _Bytes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def at(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``, fewer at the end; offsets never go back."""
        if not self.whole and self._file is not None:
            return os.pread(self._file.fileno(), size, offset)
        while self._start + len(self._held) < offset + size and self._more(offset):
            pass
        begin = offset - self._start
        return self._held[begin : begin + size] if begin >= 0 else b""

    def _more(self, needed: int) -> bool:
        """Read on, keeping what lies behind ``needed``; False at the end."""
        end = self._start + len(self._held)
        if self._file is not None:
            data = os.pread(self._file.fileno(), READ, end)
        else:
            data = store.read_bytes(self.path, end, READ)
        self._hash.update(data)
        passed = min(max(0, needed - self._start), len(self._held))
        self._held = self._held[passed:] + data
        self._start += passed
        return bool(data)

    def digest(self) -> str:
        """SHA-256 of the whole file; empty where it was not read whole."""
        if not self.whole:
            return ""
        while self._more(self._start + len(self._held)):
            pass
        return self._hash.hexdigest()


def _members(data: _Bytes, path: str) -> Iterator[_Member]:
    """The plain files of a tar, in order. Long names may stand in headers of pax or of GNU."""
    at, name, size = 0, "", -1
    first: int | None = None
    while True:
        block = data.at(at, _BLOCK)
        if len(block) < _BLOCK:
            raise Damaged(f"{path}: ends without an end mark at byte {at + len(block)}")
        if not any(block):
            return
        kind, length = _header(block, path, at)
        body, follows = at + _BLOCK, at + _BLOCK + length + -length % _BLOCK
        if kind in b"xL":
            if length > HEADER:
                raise Damaged(f"{path}: a header of {length} bytes at byte {at}")
            first = at if first is None else first
            told = data.at(body, length)
            if kind == b"L":
                name = told.rstrip(b"\0").decode(errors="replace")
            else:
                name, size = _records(told, name, size)
            at = follows
            continue
        begin = at if first is None else first
        if size >= 0:
            length, follows = size, body + size + -size % _BLOCK
        if length > MOST_SIZE:
            raise Damaged(f"{path}: a member of {length} bytes at byte {at}")
        if kind in b"0\0":
            yield _Member(name or _text(block[:100]), begin, body, length)
        at, name, size, first = follows, "", -1, None


def _header(block: bytes, path: str, at: int) -> tuple[bytes, int]:
    """Type and size that a header tells. Raises :class:`Damaged` where its sum is wrong."""
    try:
        said = int(block[148:156].strip(b" \0") or b"-1", 8)
        wide = block[124] & 0x80
        field_ = block[124:136]
        size = (
            int.from_bytes(bytes([field_[0] & 0x7F]) + field_[1:], "big")
            if wide
            else int(field_.strip(b" \0") or b"0", 8)
        )
    except ValueError:
        said, size = -1, 0
    if said != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise Damaged(f"{path}: no tar header at byte {at}")
    return block[156:157], size


def _records(told: bytes, name: str, size: int) -> tuple[str, int]:
    """Name and size of the next member, as far as pax records (``LENGTH key=value``) tell them."""
    at = 0
    while found := _RECORD.match(told, at):
        value = told[found.end() : at + int(found[1]) - 1]
        if found[2] == b"path":
            name = value.decode(errors="replace")
        elif found[2] == b"size" and value.isdigit():
            size = int(value)
        at += max(1, int(found[1]))
    return name, size


def _text(field_: bytes) -> str:
    return field_.partition(b"\0")[0].decode(errors="replace")


@dataclass
class _Group:
    """The members of one triplet."""

    key: str
    start: int
    end: int = 0
    members: list[dict[str, Any]] = field(default_factory=list)
    told: bytes | None = None

    def add(self, role: int, number: int, where: _Member) -> None:
        self.members.append(
            {"role": role, "number": number, "offset": where.offset - self.start,
             "size": where.size, "item": None}
        )  # fmt: skip
        self.end = where.offset + where.size

    def row(self, data: _Bytes) -> dict[str, Any] | tuple[str, str]:
        """The triplet's row of the index, or what is wrong with it."""
        roles = [one["role"] for one in self.members]
        if TEXT not in roles or self.told is None:
            return "incomplete", "no text or no JSON"
        try:
            about = json.loads(self.told)
            lists = {
                REFERENCE: [one["id"] for one in about["references"]],
                TARGET: [one["id"] for one in about["targets"]],
                NEGATIVE: [one["id"] for one in about.get("negatives") or ()],
            }
            ids = [about["pair"] or self.key, *(name for known in lists.values() for name in known)]
            if not all(isinstance(name, str) for name in ids) or not lists[TARGET]:
                raise TypeError("an id is no text, or there is no target")
            for one in self.members:
                if one["role"] in lists:
                    one["item"] = lists[one["role"]][one["number"]]
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
            RecursionError,
        ) as fault:
            return "broken_json", " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
        return {
            "key": self.key, "pair": ids[0], "targets": lists[TARGET],
            "start": self.start, "size": self.end - self.start, "members": self.members,
        }  # fmt: skip


def _groups(data: _Bytes, path: str) -> Iterator[_Group]:
    """Triplets: members with one key, one after another. Other names are passed over."""
    group: _Group | None = None
    for member in _members(data, path):
        vector, found = _VECTOR.fullmatch(member.name), _NAME.fullmatch(member.name)
        named = vector or found
        if named is None:
            continue
        if group is None or group.key != named[1]:
            if group is not None:
                yield group
            group = _Group(named[1], member.header)
        if vector:
            group.add(VECTOR, 0, member)
        elif found and found[2]:
            group.add(ROLES.index(found[2]), int(found[3] or 0), member)
        elif found and found[4] == "json":
            group.add(JSON, 0, member)
            group.told = data.at(member.offset, min(member.size, MOST_JSON))
        else:
            group.add(TEXT, 0, member)
    if group is not None:
        yield group
