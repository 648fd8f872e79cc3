"""Answers as lines of a file: key, checksum and JSON; and how lines are read back."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from typing import IO

from datagen.chat.ask import KEY_BYTES, Answer

#: Bytes of the longest line: longer ones are damage.
MOST = 32 << 20
#: Characters of a key.
KEY = 2 * KEY_BYTES
_HEX = re.compile(rb"[0-9a-f]{%d}" % KEY)
_HEAD = KEY + 10  # key, space, checksum of 8 digits, space


def line_of(key: str, answer: Answer) -> bytes:
    """An answer that has a text, as its line. Raises ValueError for what is no key."""
    if not _HEX.fullmatch(key.encode()):
        raise ValueError(f"not the key of an ask: {key!r}")
    known = {"text": answer.text, "fault": answer.fault}
    counts = {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out}
    # ASCII alone: no character of an answer can be taken for the end of a line.
    body = json.dumps(known | counts, separators=(",", ":")).encode("ascii")
    check = zlib.crc32(key.encode("ascii") + body)
    return b"%s %08x %s\n" % (key.encode("ascii"), check, body)


def parse(line: bytes) -> tuple[str, Answer] | None:
    """Key and answer of a whole line; None for a damaged one."""
    if not sound(line):
        return None
    try:
        found = json.loads(line[_HEAD:])
        text, fault = found["text"], found["fault"]
        counts = (int(found["tokens_in"]), int(found["tokens_out"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if not isinstance(text, str) or not isinstance(fault, (str, type(None))):
        return None
    return line[:KEY].decode("ascii"), Answer(text, fault, *counts, cached=True)


def sound(line: bytes) -> bool:
    """Whether a line is whole: a key, and a body that has its checksum."""
    key, head, body = line[:KEY], line[KEY:_HEAD], line[_HEAD:-1]
    if line[-1:] != b"\n" or head != b" %08x " % zlib.crc32(key + body):
        return False
    return _HEX.fullmatch(key) is not None


def lines(file: IO[bytes]) -> Iterator[tuple[bytes, int] | None]:
    """Lines with their ends, and their bytes in the file; at last None where one has no end.

    Of a line over :data:`MOST` only the beginning is held.
    """
    while line := file.readline(MOST):
        size, piece = len(line), line
        while piece[-1:] != b"\n" and len(piece) == MOST:
            piece = file.readline(MOST)
            size += len(piece)
        if piece[-1:] != b"\n":
            yield None
            return
        yield line, size
