"""Thumbnails of the page that stands, for media that cannot be read any more.

They are known by the hash of the medium's bytes, so that another file at the same place gets none.
Their sheets are copied as they are: drawn anew, pictures would fade each time. A page that is
missing, damaged or of another version has none to give.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from datagen import media, schema, store
from datagen.containers import MediaError
from datagen.errors import DatagenError
from datagen.media import Limits

#: A sheet has 8 x 8 thumbnails of 160 pixels.
_LIMITS = Limits(max_bytes=16 << 20, max_pixels=1 << 22)
_CALL = re.compile(rb'datagenReport\("members",\d+,(.*)\);\s*', re.DOTALL)
_FOLDER = re.compile(rb'"folder":"(data-[0-9a-f]+)"')

#: Sheet, left and top edge, width and height, frames, and seconds between them.
Place = tuple[int, int, int, int, int, int, float]


def in_force(home: str) -> str:
    """The name of the folder of data that the page in the folder ``home`` reads; empty if none."""
    path = store.join(home, "index.html")
    try:
        found = _FOLDER.search(store.read_bytes(path)) if store.exists(path) else None
    except (DatagenError, OSError):
        return ""
    return found[1].decode() if found else ""


def beside(token: str, before: str) -> str:
    """The name of a folder of data, ``token`` unless the page that stands (``before``) reads it."""
    return token if token != before else "data-" + schema.content_id(token)


def known(folder: str) -> dict[str, Place]:
    """Where thumbnails lie, by the SHA-256 of their media, of the page with this folder of data."""
    found: dict[str, Place] = {}
    for name in store.names(folder):
        if not name.startswith("members-"):
            continue
        try:
            call = _CALL.fullmatch(store.read_bytes(store.join(folder, name)))
            for member in json.loads(call[1]) if call else ():
                digest = (member.get("media") or {}).get("sha256")
                if digest and "picture" in member:
                    sheet, x, y, width, height, frames, seconds = member["picture"]
                    whole = (int(n) for n in (sheet, x, y, width, height, frames))
                    found[str(digest)] = (*whole, float(seconds))  # type: ignore[assignment]
        except (AttributeError, DatagenError, OSError, TypeError, ValueError):
            continue
    return found


def copied(folder: str, sheets: Iterable[int], to: str, first: int) -> dict[int, tuple[int, int]]:
    """Copy ``sheets`` of ``folder`` to the folder ``to``, numbered from ``first`` on.

    Gives width and height of each that is whole, by its old number, in the order of the new ones.
    """
    found: dict[int, tuple[int, int]] = {}
    for sheet in sorted(set(sheets)):
        try:
            data = store.read_bytes(store.join(folder, f"sheet-{sheet}.webp"))
            size = media.decode(data, limits=_LIMITS).size
        except (DatagenError, MediaError, OSError):
            continue
        path = store.join(to, f"sheet-{first + len(found)}.webp")
        with store.writing(path, durable=False) as target:
            target.write(data)
        found[sheet] = size
    return found


def inside(place: Place, size: tuple[int, int], side: int) -> bool:
    """Whether all frames of ``place``, ``side`` apart, lie in a sheet of this size."""
    _, x, y, width, height, frames, _ = place
    reach = x + (frames - 1) * side + width
    return (
        min(x, y) >= 0 < min(width, height, frames) and reach <= size[0] and y + height <= size[1]
    )


def wanted(gone: Mapping[str, Mapping[str, Any]], folder: str) -> dict[str, Place]:
    """Where the page has thumbnails of ``gone`` (schema.MEDIA by item id), as far as it has."""
    places = known(folder) if gone else {}
    digests = {name: place.get("sha256") or "" for name, place in gone.items()}
    return {name: places[digest] for name, digest in digests.items() if digest in places}
