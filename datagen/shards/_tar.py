"""The blocks of a ustar archive: nothing in them but names, sizes and bytes."""

from __future__ import annotations

BLOCK = 512
#: Two blocks of zeros end an archive.
END = bytes(2 * BLOCK)

_MAX_NAME = 100
_MAX_SIZE = 8**11
# mode 0644, user and group 0; then (after the size) time 0.
_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_MAGIC = b"ustar\x0000"
_PADDING = [bytes(BLOCK - size if size else 0) for size in range(BLOCK)]


def _tail(kind: bytes) -> bytes:
    return kind + bytes(100) + _MAGIC + bytes(BLOCK - 157 - 100 - len(_MAGIC))


_FILE, _PAX = _tail(b"0"), _tail(b"x")
# The sum of a header counts its own eight bytes as spaces.
_SUM = {tail: sum(_OWNER) + sum(_TIME) + sum(tail) + 8 * ord(" ") for tail in (_FILE, _PAX)}


def _header(name: bytes, size: int, tail: bytes) -> bytes:
    length = b"%011o\0" % size
    total = _SUM[tail] + sum(name) + sum(length)
    return b"".join((name.ljust(_MAX_NAME, b"\0"), _OWNER, length, _TIME, b"%06o\0 " % total, tail))


def padding(size: int) -> bytes:
    """The zeros that fill the last block of ``size`` bytes."""
    return _PADDING[size % BLOCK]


def header(name: str, size: int) -> bytes:
    """The blocks ahead of a plain file of ``size`` bytes, mode 0644, time and owner 0.

    Names over 100 bytes and files of 8 GiB or more take a pax header, as POSIX has it.
    """
    raw = name.encode()
    if len(raw) <= _MAX_NAME and size < _MAX_SIZE:
        return _header(raw, size, _FILE)
    records = _record("path", raw)
    if size >= _MAX_SIZE:
        records += _record("size", b"%d" % size)
    ahead = _header(b"PaxHeader", len(records), _PAX) + records + padding(len(records))
    return ahead + _header(raw[:_MAX_NAME], size if size < _MAX_SIZE else 0, _FILE)


def _record(key: str, value: bytes) -> bytes:
    """``LENGTH key=value`` and a newline, where LENGTH counts itself."""
    rest = f" {key}=".encode() + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d" % length + rest


def padded(size: int) -> int:
    """Bytes that a member of ``size`` bytes takes, with a plain header."""
    return BLOCK + size + len(padding(size))
