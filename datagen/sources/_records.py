"""Records as sources list them: kept ones with a place and a size, failed ones with a reason."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from datagen import schema

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm"})
VIDEOS = frozenset({"mp4", "m4v", "mov", "webm", "mkv", "avi"})


def extension(name: str) -> str:
    """The lower-case extension of a file name, without the dot; empty where there is none."""
    stem, dot, end = name.rpartition("/")[2].rpartition(".")
    return end.lower() if dot and stem else ""


def modality_of(name: str, setting: str = "auto") -> str | None:
    """``image`` or ``video`` by the setting, else by the extension; None where neither tells."""
    if setting != "auto":
        return setting
    end = extension(name)
    return "image" if end in IMAGES else "video" if end in VIDEOS else None


def readable(text: str) -> str:
    """``text`` without lone surrogates, which neither UTF-8 nor Arrow can hold."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def texts(value: Any) -> list[str]:
    """Captions in a cell: a text or a list of texts; blank ones do not count."""
    if value is None or isinstance(value, (bytes, Mapping)):
        return []
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in texts(part)]
    if isinstance(value, float) and math.isnan(value):
        return []
    text = readable(str(value)).strip()
    return [text] if text else []


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN and bytes become null, times and decimals text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    return value if isinstance(value, (str, int, bool)) else None


def labels_json(labels: Mapping[str, Any]) -> str:
    """Labels as a canonical JSON object; empty and null values are left out."""
    known = {str(key): plain(value) for key, value in labels.items()}
    full = {key: value for key, value in known.items() if value is not None and value != ""}
    return readable(schema.canonical_json(full))


def kept(
    key: str,
    path: str,
    size: int | None,
    modality: str | None,
    captions: Sequence[str],
    labels: str = "{}",
    offset: int = 0,
) -> dict[str, Any]:
    """A record of ``size`` bytes (None: unknown until they are read) at ``offset`` of ``path``."""
    media = {"path": path, "offset": offset, "size": size, "modality": modality}
    return {**textual(key, captions, labels), "media": media}


def textual(key: str, captions: Sequence[str], labels: str = "{}") -> dict[str, Any]:
    """A record of captions and labels alone."""
    return {
        "key": readable(key),
        "media": None,
        "captions": list(captions),
        "labels": labels,
        "verdict": schema.KEPT,
    }


def failed(key: str, rule: str, detail: str) -> dict[str, Any]:
    """A record that cannot be used, and why. It has no media, so nobody tries to read them."""
    line = " ".join(readable(detail).split())
    return {
        "key": readable(key),
        "captions": [],
        "labels": "{}",
        "verdict": schema.FAILED,
        "rule": rule,
        "detail": line if len(line) <= 500 else line[:499] + "…",
    }


def rejected(key: str, rule: str, detail: str) -> dict[str, Any]:
    """A record that a rule of its source leaves out, and why."""
    return {**failed(key, rule, detail), "verdict": schema.REJECTED}


def table(records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Records as a table of :data:`datagen.schema.RECORD`."""
    return pa.Table.from_pylist(list(records), schema=schema.RECORD)
