"""Writes one shard: media read by reference and checked, texts and JSON rendered, tar published."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from datagen import media, store
from datagen.ahead import read_ahead
from datagen.shards import _tar
from datagen.shards._plan import VECTOR, VECTOR_FILE

#: Media that are kept for the next triplets of a shard (bytes), and the largest of them.
CACHE, CACHED = 64 << 20, 4 << 20
#: Rows that are Python objects at a time.
BATCH = 128
#: Rows whose media are asked of a far store at once.
AHEAD = 32

_KEY = re.compile(r"[A-Za-z0-9_-]+")

#: Extensions by true format. Nothing else gets an extension: readers act upon them.
EXTENSIONS = {
    "jpeg": "jpg", "png": "png", "webp": "webp", "gif": "gif", "bmp": "bmp", "tiff": "tiff",
    "avif": "avif", "ppm": "ppm", "mp4": "mp4", "mov": "mov", "webm": "webm", "mkv": "mkv",
    "avi": "avi",
}  # fmt: skip
UNKNOWN = "bin"

_ROLES = (("references", "reference"), ("targets", "target"), ("negatives", "negative"))
_MEDIA_FIELDS = ("format", "frames", "height", "modality", "seconds", "sha256", "size", "width")

#: Path, offset and hash of a medium.
_Place = tuple[str, int, str | None]


class _Nothing(Exception):
    """No triplet of a shard could be written."""


class _Reader:
    """Reads media as they were when they were listed, and keeps the last ones."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Place, bytes] = OrderedDict()
        self._size = 0

    def __call__(self, where: Mapping[str, Any]) -> bytes:
        place = _place(where)
        data = self._kept.get(place)
        if data is not None and len(data) == where["size"]:
            self._kept.move_to_end(place)
            return data
        data = media.again(where)
        self._keep(place, data)
        return data

    def _keep(self, place: _Place, data: bytes) -> None:
        if len(data) <= CACHED:
            self._size += len(data) - len(self._kept.pop(place, b""))
            self._kept[place] = data
            while self._size > CACHE:
                self._size -= len(self._kept.popitem(last=False)[1])

    def ahead(self, rows: Sequence[Mapping[str, Any]], negatives: bool) -> None:
        """Read media of far stores that ``rows`` will want, many at once, as far as they are kept.

        What cannot be read is left to the row that wants it, which fails by it.
        """
        wanted: dict[_Place, Mapping[str, Any]] = {}
        room = CACHE // 2
        for where in (place for row in rows for place in _places(row, negatives)):
            place, size = _place(where), where["size"] or CACHED
            if store.is_local(where["path"]) or place in self._kept or size > CACHED:
                continue
            if place not in wanted and room >= size:
                wanted[place] = where
                room -= size
        for place, data in zip(wanted, read_ahead(list(wanted.values())), strict=True):
            if isinstance(data, bytes):
                self._keep(place, data)


def _place(where: Mapping[str, Any]) -> _Place:
    return where["path"], where["offset"] or 0, where["sha256"]


def _places(row: Mapping[str, Any], negatives: bool) -> Iterator[Mapping[str, Any]]:
    """Where the media of a triplet lie, in the order in which they are written."""
    for column, role in _ROLES:
        if role == "negative" and not negatives:
            continue
        for entry in row.get(column) or ():
            item = entry["item"] if role == "negative" else entry
            if item["media"] is not None:
                yield item["media"]


def write_shard(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write the shard that ``spec`` describes and the notes beside it; gives these notes.

    ``spec`` has ``rows`` (Parquet file of its triplets), ``folder``, ``name``, ``split``,
    ``plan`` (hash) and ``negatives`` (whether their bytes go in). A triplet whose media are
    gone or changed is left out and noted under ``failed``, as (id, rule, detail).
    """
    table = store.read_table(spec["rows"])
    path = store.join(spec["folder"], f"{spec['name']}.tar")
    digest, total, written = hashlib.sha256(), 0, 0
    failed: list[list[str]] = []
    read = _Reader()
    try:
        with store.writing(path) as file:
            for batch in table.to_batches(max_chunksize=BATCH):
                rows = batch.to_pylist()
                for number, row in enumerate(rows):
                    if number % AHEAD == 0:
                        read.ahead(rows[number : number + AHEAD], spec["negatives"])
                    try:
                        blocks = _pieces(_sample(row, spec, read))
                    except media.MediaError as error:
                        failed.append([row["id"], "media_changed", str(error)])
                        continue
                    except ValueError as error:
                        failed.append([row["id"], "bad_id", str(error)])
                        continue
                    for block in blocks:
                        file.write(block)
                        digest.update(block)
                        total += len(block)
                    written += 1
            if not written:
                raise _Nothing
            file.write(_tar.END)
            digest.update(_tar.END)
            total += len(_tar.END)
    except _Nothing:
        pass
    notes = {
        "name": f"{spec['name']}.tar",
        "split": spec["split"],
        "triplets": written,
        "bytes": total,
        "sha256": digest.hexdigest() if written else None,
        "plan": spec["plan"],
        "failed": failed,
    }
    store.write_json(store.join(spec["folder"], f"{spec['name']}.json"), notes)
    return notes


def _pieces(blocks: Iterator[bytes]) -> list[bytes]:
    """All blocks, read before one is written: as one where that is cheap, clips as they are."""
    found = list(blocks)
    return [b"".join(found)] if sum(map(len, found)) <= CACHED else found


def _sample(row: Mapping[str, Any], spec: Mapping[str, Any], read: _Reader) -> Iterator[bytes]:
    """The blocks of one triplet: media, the target's vector where there is one, text, JSON."""
    key = row["id"]
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r}: an id of letters, digits, - and _ was expected")
    described: dict[str, list[dict[str, Any]]] = {}
    for column, role in _ROLES:
        described[column] = []
        for number, entry in enumerate(row.get(column) or ()):
            item = entry["item"] if role == "negative" else entry
            name = _member_name(role, number, item["media"])
            if name is not None and (role != "negative" or spec["negatives"]):
                data = read(item["media"])
                yield _tar.header(f"{key}.{name}", len(data))
                yield data
                yield _tar.padding(len(data))
            else:
                name = None
            about = _described(item, name)
            if role == "negative":
                about |= {"kind": entry["kind"], "score": _number(entry["score"])}
            described[column].append(about)
    vector = row.get(VECTOR)
    for end, data in (
        *([(VECTOR_FILE, _npy(vector))] if vector is not None else []),
        ("txt", (row["modification"] or "").encode()),
        ("json", _json(row, spec["split"], described)),
    ):
        yield _tar.header(f"{key}.{end}", len(data))
        yield data
        yield _tar.padding(len(data))


def _npy(vector: Sequence[float]) -> bytes:
    """A vector as a file of NumPy: little-endian float32."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(vector, "<f4"), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _member_name(role: str, number: int, where: Mapping[str, Any] | None) -> str | None:
    """``reference.jpg``, ``reference.1.jpg``, ``negative.0.jpg``; None where there are no bytes."""
    if where is None:
        return None
    middle = f".{number}" if number or role == "negative" else ""
    return f"{role}{middle}.{_extension(where)}"


def _extension(where: Mapping[str, Any]) -> str:
    return EXTENSIONS.get(where["format"] or "", UNKNOWN)


def _described(item: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """A member as the JSON tells it. Labels stay a JSON text: their fields differ by item, and
    readers that make one table of all samples would lose or refuse them."""
    where = item["media"]
    return {
        "id": item["id"],
        "key": item["key"],
        "source": item["source"],
        "caption": item["caption"],
        "labels": item["labels"] or "{}",
        "file": name,
        "media": {field: where[field] for field in _MEDIA_FIELDS} if where else None,
    }


def _json(row: Mapping[str, Any], split: str, described: Mapping[str, Any]) -> bytes:
    evidence = dict(row["evidence"] or {})
    if evidence:
        evidence["score"] = _number(evidence["score"])
    value = {
        "id": row["id"],
        "pair": row["pair"],
        "split": split,
        "modification": row["modification"],
        **described,
        "scores": {
            name.removeprefix("score_"): _number(score)
            for name, score in row.items()
            if name.startswith("score_")
        },
        "evidence": evidence or None,
        "provenance": row["provenance"] or [],
    }
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode()


def _number(value: Any) -> Any:
    """A score as JSON can hold it: no NaN, no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
