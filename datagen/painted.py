"""Pictures that a step paints: staged by its workers, packed once into tar shards under ``media/``.

A worker puts the pictures of a batch into one file beside the journal, published before the batch
is journalled: the journal then holds all samples of a row or none, and their bytes are there.
When every row has its answer, the driver cuts the new pictures, in the order of their rows, into
shards: ``media/STEP/000000.tar`` and so on, each picture with a JSON of what it was painted by,
and ``index.parquet``, written last. Neither workers nor kills show in a byte of them. A picture
that stands in the index is not packed again, unless its shard is gone.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datagen import schema, store
from datagen.errors import DatagenError
from datagen.step import Parallel, serial

Format = Literal["webp", "png", "jpeg"]

INDEX = "index.parquet"
#: Where each picture of a step lies. ``unit`` is the row that it was painted for, ``edit`` the JSON
#: of its sample: operator, seed, what was drawn.
INDEX_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("unit", pa.string()),
        ("edit", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
#: A shard ends before the picture that would take it over either.
SHARD_BYTES = 256 << 20
SHARD_PICTURES = 4096
_SIDES = ("references", "targets")


class Stage:
    """The pictures of one batch, in memory until :meth:`publish` makes them one file of ``folder``.

    Their media (schema.MEDIA) name that file.
    """

    def __init__(self, folder: str) -> None:
        self._path = store.join(folder, f"{uuid.uuid4().hex}.bin")
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, picture: Image.Image, form: Format, quality: int) -> dict[str, Any]:
        """Encode a picture and return its media."""
        data = encoded(picture, form, quality)
        media: dict[str, Any] = {
            "path": self._path,
            "offset": self._size,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "modality": "image",
            "format": form,
            "width": picture.width,
            "height": picture.height,
            "seconds": None,
            "frames": None,
        }
        self._parts.append(data)
        self._size += len(data)
        return media

    def publish(self) -> None:
        """Write the file, whole or not at all; nothing where there are no pictures."""
        if self._parts:
            with store.writing(self._path) as file:
                file.writelines(self._parts)


def encoded(picture: Image.Image, form: Format, quality: int) -> bytes:
    """``picture`` as a file; quality: 1-100 of webp and jpeg, 100 is webp without loss."""
    out = io.BytesIO()
    picture = picture.convert("RGB")
    if form == "png":
        picture.save(out, "PNG", optimize=False)
    elif form == "jpeg":
        picture.save(out, "JPEG", quality=quality, subsampling=0)
    else:
        picture.save(out, "WEBP", quality=quality, lossless=quality == 100, method=4)
    return out.getvalue()


@dataclass(frozen=True)
class _Entry:
    """A picture on its way into a shard."""

    sha256: str
    unit: str
    edit: str
    name: str
    form: str
    path: str
    offset: int
    size: int


def settled(
    answered: pa.Table,
    staged: str,
    folder: str,
    told: Mapping[str, Any],
    parallel: Parallel = serial,
) -> pa.Table:
    """``answered`` (a journal's answers in canonical order) with its pictures in shards.

    staged: the folder of the workers' files, which is removed; folder: that of the shards; told:
    what the step says of itself (its line of provenance), put beside every picture.
    Raises DatagenError where a picture is in neither place, or damaged.
    """
    index_path = store.join(folder, INDEX)
    index, lost = _standing(folder)
    known = set(index["sha256"].to_pylist())
    new = _new(answered, staged, known, folder)
    if new:
        number = 1 + max((int(name[:-4]) for name in index["file"].to_pylist()), default=-1)
        jobs = [
            (store.join(folder, f"{number + at:06d}.tar"), part)
            for at, part in enumerate(_parts(new))
        ]
        lists = parallel(functools.partial(_packed, told=dict(told)), jobs)
        rows = [row for some in lists for row in some]
        index = pa.concat_tables([index, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)])
    if new or lost:
        store.write_table(index_path, index.combine_chunks())
    answered = _replaced(answered, index, folder)
    store.remove(staged)
    return answered


def intact(folder: str) -> bool:
    """Whether ``folder`` has its index, and all shards that it names in full length."""
    return store.exists(store.join(folder, INDEX)) and not _standing(folder)[1]


def _standing(folder: str) -> tuple[pa.Table, set[str]]:
    """The index of ``folder`` without shards that are gone or cut short, and the names of those."""
    path = store.join(folder, INDEX)
    if not store.exists(path):
        return INDEX_SCHEMA.empty_table(), set()
    index = store.read_table(path)
    ends = pa.table([index["file"], pc.add(index["offset"], index["size"])], ["file", "end"])
    shards = ends.group_by("file").aggregate([("end", "max")]).to_pylist()
    there = set(store.names(folder))
    lost = {
        one["file"]
        for one in shards
        if one["file"] not in there or store.size(store.join(folder, one["file"])) < one["end_max"]
    }
    gone = pc.is_in(index["file"], value_set=pa.array(sorted(lost), pa.string()))
    return index.filter(pc.invert(gone)), lost


def _new(answered: pa.Table, staged: str, known: set[str], folder: str) -> list[_Entry]:
    """Pictures that stand in no shard yet, each once, in the order of the rows."""
    names = ["unit", *(name for name in ("edit", *_SIDES) if name in answered.column_names)]
    there = answered.filter(pc.equal(answered["verdict"], schema.KEPT)).select(names)
    found: dict[str, _Entry] = {}
    counts: dict[str, int] = {}
    for batch in there.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            number = counts[row["unit"]] = counts.get(row["unit"], -1) + 1
            for side in _SIDES:
                for place, member in enumerate(row.get(side) or ()):
                    media = member["media"]
                    if member["id"] is not None or not media or media["sha256"] in known:
                        continue
                    name = f"{row['unit']}-{number:04d}-{side[:-1]}{place or ''}"
                    entry = _entry(name, row["unit"], row.get("edit") or "{}", media)
                    if not entry.path.startswith(staged):
                        raise DatagenError(
                            f"{folder}: a picture of row {row['unit']} is in no shard, and was "
                            f"staged elsewhere ({entry.path})"
                        )
                    found.setdefault(entry.sha256, entry)
    return list(found.values())


def _entry(name: str, unit: str, edit: str, media: Mapping[str, Any]) -> _Entry:
    place = (media["path"], media["offset"], media["size"])
    return _Entry(media["sha256"], unit, edit, name, media["format"], *place)


def _parts(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """The shards to be."""
    parts: list[list[_Entry]] = [[]]
    size = 0
    for entry in entries:
        full = size + entry.size > SHARD_BYTES or len(parts[-1]) >= SHARD_PICTURES
        if full and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += entry.size
    return parts


def _packed(job: tuple[str, list[_Entry]], told: dict[str, Any]) -> list[dict[str, Any]]:
    """Write one shard; its rows of the index."""
    path, entries = job
    rows = []
    with store.writing(path) as file:
        at = 0
        for entry in entries:
            data = _staged(entry)
            about = {"row": entry.unit, "sha256": entry.sha256, "painted": told}
            note = schema.canonical_json({**about, "edit": json.loads(entry.edit)}).encode()
            for ending, content in ((entry.form, data), ("json", note)):
                info = tarfile.TarInfo(f"{entry.name}.{ending}")
                info.size, info.mode = len(content), 0o644
                at += file.write(info.tobuf(tarfile.USTAR_FORMAT))
                if ending != "json":
                    place = {"file": path.rsplit("/", 1)[-1], "offset": at, "size": len(data)}
                    own = {"sha256": entry.sha256, "unit": entry.unit, "edit": entry.edit}
                    rows.append({**own, **place})
                at += file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
        tail = at + 2 * tarfile.BLOCKSIZE
        file.write(bytes(2 * tarfile.BLOCKSIZE + -tail % tarfile.RECORDSIZE))
    return rows


def _staged(entry: _Entry) -> bytes:
    """The bytes of a picture. Raises DatagenError where they are gone or others."""
    try:
        data = store.read_bytes(entry.path, entry.offset, entry.size)
    except OSError as error:
        raise DatagenError(_lost(entry, error.strerror or str(error))) from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DatagenError(_lost(entry, "other bytes than were painted"))
    return data


def _lost(entry: _Entry, why: str) -> str:
    step = entry.path.rsplit("/", 2)[0]
    return (
        f"{entry.path}: the picture of row {entry.unit} cannot be read ({why}), and no shard under "
        f"media/ has it; remove {step} and run the same command again to paint anew"
    )


def _replaced(answered: pa.Table, index: pa.Table, folder: str) -> pa.Table:
    """``answered`` whose new members' media lie in the shards of ``index``."""
    for side in _SIDES:
        if side in answered.column_names:
            lists = pa.chunked_array(
                [_moved(chunk, index, folder) for chunk in answered[side].chunks],
                answered[side].type,
            )
            answered = answered.set_column(answered.column_names.index(side), side, lists)
    return answered


def _moved(lists: pa.ListArray, index: pa.Table, folder: str) -> pa.ListArray:
    flat = lists.flatten()
    if not len(flat):
        return lists
    media = flat.field("media")
    at = pc.index_in(media.field("sha256"), value_set=index["sha256"].combine_chunks())
    mine = pc.and_(pc.is_valid(at), pc.is_null(flat.field("id")))
    if not pc.any(mine).as_py():
        return lists
    found = index.take(at).combine_chunks()
    paths = pc.binary_join_element_wise(folder.rstrip("/"), found["file"].combine_chunks(), "/")
    new = {"path": paths, "offset": found["offset"].combine_chunks()}
    fields = [
        pc.if_else(mine, new[one.name], media.field(one.name))
        if one.name in new
        else media.field(one.name)
        for one in schema.MEDIA
    ]
    made = pa.StructArray.from_arrays(fields, fields=list(schema.MEDIA), mask=pc.is_null(media))
    parts = [made if one.name == "media" else flat.field(one.name) for one in schema.MEMBER]
    members = pa.StructArray.from_arrays(parts, fields=list(schema.MEMBER), mask=pc.is_null(flat))
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, members, mask=pc.is_null(lists))
