"""One narration of one action: its video, times and text, and its place among the others."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from datagen import schema
from datagen.sources import _records
from datagen.sources._root import Fault

#: Times are kept to the microsecond.
_DIGITS = 6
_TIME = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")
_FIELD = re.compile(r"\{([^{}]+)\}")
#: File names often write 2446.454 so.
_DASHED = re.compile(r"(\d+)-(\d+)")
#: Ego4D: ``#C C picks a cup`` is said of who wears the camera, ``#O man X walks`` of another. Its
#: narrators also typed ``#CC``, ``#C- C`` and ``#C``, and ``#unsure`` in several ways.
_WEARER = re.compile(r"(?:#\s*c(?:c\b|\b(?:[\s-]*c\b)?)\s*)+", re.IGNORECASE)
_OTHER = re.compile(r"#\s*o\b\s*", re.IGNORECASE)
_UNSURE = re.compile(r"#\s*(?:un?su?red?|unknown)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

Patterns = Mapping[str, re.Pattern[str]]


@dataclass(frozen=True)
class Telling:
    """video: its id; start, stop: seconds (stop may be None); text: the caption.

    narration: the text in small letters, without punctuation; unsure: so the narrator was.
    """

    video: str
    start: float
    stop: float | None
    text: str
    narration: str
    unsure: bool = False


def seconds(value: Any) -> float | None:
    """Seconds of a number or of a time ``HH:MM:SS.ss`` or ``MM:SS``; None where it is neither."""
    if isinstance(value, bool) or value is None:
        return None
    text = str(value).strip()
    time = _TIME.fullmatch(text)
    if time is not None:
        hours, minutes, rest = (float((part or "0").replace(",", ".")) for part in time.groups())
        return round(hours * 3600 + minutes * 60 + rest, _DIGITS)
    try:
        number = float(text)
    except ValueError:
        return None
    return round(number, _DIGITS) if math.isfinite(number) and number >= 0 else None


# --- fields of columns -------------------------------------------------------------------------


def made(fields: Mapping[str, str]) -> set[str]:
    """The columns that patterns make."""
    return {name for pattern in fields.values() for name in _FIELD.findall(pattern)}


def faults(fields: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the patterns of ``fields``, one line each."""
    for column, pattern in fields.items():
        names = _FIELD.findall(pattern)
        if not names or len(set(names)) < len(names):
            yield f"fields.{column}: names in braces expected, each once, '{pattern}' found"
        elif re.search(r"\}\{", pattern):
            yield f"fields.{column}: something must stand between two names in '{pattern}'"


def patterns(fields: Mapping[str, str]) -> Patterns:
    """Patterns with names in braces as regular expressions; of several ways the last one counts."""
    out = {}
    for column, pattern in fields.items():
        parts = _FIELD.split(pattern)
        text = "".join("(.+)" if at % 2 else re.escape(part) for at, part in enumerate(parts))
        out[column] = re.compile(text, re.DOTALL)
    return out


# --- rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Reads tellings out of rows; the fields are names of columns but for ``wearer``."""

    video: str
    narration: str
    start: str
    stop: str | None
    fields: Patterns
    names: Mapping[str, list[str]]
    wearer: str | None

    def widened(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with the columns that patterns make; they are None where a pattern fails."""
        out = row
        for column, pattern in self.fields.items():
            found = pattern.fullmatch(str(row.get(column)))
            values = found.groups() if found else (None,) * pattern.groups
            out = {**out, **dict(zip(self.names[column], values, strict=True))}
            for name in {self.start, self.stop or ""} & set(self.names[column]):
                out[name] = _DASHED.sub(r"\1.\2", out[name] or "")
        return out

    def read(self, row: dict[str, Any]) -> Telling | Fault:
        """The telling of a row, or what is missing."""
        row = self.widened(row)
        video = _records.texts(row.get(self.video))
        if not video:
            return Fault("no_video", f"no id of a video in '{self.video}'")
        start = seconds(row.get(self.start))
        if start is None:
            return Fault("bad_time", f"start: no time in '{self.start}': {row.get(self.start)!r}")
        given = row.get(self.stop) if self.stop else None
        stop = seconds(given)
        if stop is None and _records.texts(given):
            return Fault("bad_time", f"stop: no time in '{self.stop}': {given!r}")
        if stop is not None and stop < start:
            return Fault("bad_time", f"it stops at {stop:g} s and starts at {start:g} s")
        text = " ".join(" ".join(_records.texts(row.get(self.narration))).split())
        unsure = self.wearer is not None and _UNSURE.search(text) is not None
        if self.wearer is not None and not unsure:
            text = _OTHER.sub("", _WEARER.sub(lambda _: f"{self.wearer} ", text)).strip()
        plain = " ".join(_WORD.findall(text.casefold()))
        if not plain:
            return Fault("no_caption", f"no text in '{self.narration}'")
        return Telling(video[0], start, stop, text, plain, unsure)


def reader(
    video: str,
    narration: str,
    start: str,
    stop: str | None,
    fields: Mapping[str, str],
    wearer: str | None,
) -> Reader:
    """A reader of rows by the names of columns; ``fields``: patterns by column."""
    names = {column: _FIELD.findall(pattern) for column, pattern in fields.items()}
    return Reader(video, narration, start, stop, patterns(fields), names, wearer)


# --- positions ---------------------------------------------------------------------------------


class Positions:
    """Places of tellings in their videos, by start, stop and text: 32 bytes for each.

    Equal tellings of a video share a place, so the order of rows in a file shows nowhere.
    """

    def __init__(self) -> None:
        self._videos: dict[str, int] = {}
        self._video, self._text = array("q"), array("Q")
        self._start, self._stop = array("d"), array("d")

    def add(self, tellings: Iterable[Telling | Fault | None]) -> None:
        """The next rows; what is no telling, or unsure, has no place."""
        for told in tellings:
            numbers = (-1, 0.0, 0.0, 0)
            if isinstance(told, Telling) and not told.unsure:
                numbers = self._numbers(told)
            video, start, stop, text = numbers
            self._video.append(video)
            self._start.append(start)
            self._stop.append(stop)
            self._text.append(text)

    def _numbers(self, told: Telling) -> tuple[int, float, float, int]:
        video = self._videos.setdefault(told.video, len(self._videos))
        text = int(schema.content_id(told.text)[:16], 16)
        return video, told.start, -1.0 if told.stop is None else told.stop, text

    def found(self) -> list[int]:
        """The place of every row that was added, from 0 in each video; -1 for those without."""
        if not self._video:
            return []
        every = [np.asarray(one) for one in (self._video, self._start, self._stop, self._text)]
        order = np.lexsort(every[::-1])
        columns = [column[order] for column in every]
        changes = [np.r_[True, column[1:] != column[:-1]] for column in columns]
        place = np.cumsum(np.logical_or.reduce(changes)) - 1
        first = np.maximum.accumulate(np.where(changes[0], place, 0))
        out = np.empty(len(order), np.int64)
        out[order] = np.where(columns[0] < 0, -1, place - first)
        whole: list[int] = out.tolist()
        return whole
