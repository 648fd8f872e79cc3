"""Galleries: the items of a run, or the images and clips of a folder, with their vectors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import datagen
from datagen import cache, containers, media, store
from datagen.errors import DatagenError
from datagen.evaluation import vectors
from datagen.evaluation.benchmark import Picture
from datagen.schema import canonical_json
from datagen.training.retriever import Retriever

Array = np.ndarray[Any, Any]
Say = Callable[[str, int, int], None]

#: Bytes that tell what a file is.
_HEAD = 4096
_ROWS = 1 << 14


@dataclass(frozen=True)
class Item:
    """One answer that there may be.

    name: a path below the folder, or a run's id of the item; place: schema.MEDIA; caption: of the
    item, or "".
    """

    name: str
    place: Mapping[str, Any]
    caption: str = ""


def listed(gallery: str) -> list[Item]:
    """The items of a run with media, or the images and clips below a folder, in order of names.

    Raises DatagenError where there are none.
    """
    if store.exists(store.join(gallery, "run.json")):
        found = _of_run(gallery)
    elif os.path.isdir(gallery):
        found = _of_folder(gallery)
    else:
        raise DatagenError(f"--gallery {gallery}: a run directory or a folder expected")
    if not found:
        raise DatagenError(f"--gallery {gallery}: no images or clips here")
    return sorted(found, key=lambda item: item.name)


def _of_run(out: str) -> list[Item]:
    found = []
    table = datagen.load(out).items().select(["id", "media", "captions"])
    for batch in table.to_batches(max_chunksize=_ROWS):
        for row in batch.to_pylist():
            if row["media"] is not None:
                captions = row["captions"] or [""]
                found.append(Item(row["id"], row["media"], captions[0] or ""))
    return found


def _of_folder(folder: str) -> list[Item]:
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(here, name)
            if not name.startswith(".") and os.path.isfile(path):
                place = place_of(path)
                if place is not None:
                    found.append(Item(os.path.relpath(path, folder), place))
    return found


def place_of(path: str) -> dict[str, Any] | None:
    """A file as schema.MEDIA; None where it is no image and no clip. Raises DatagenError."""
    try:
        with open(path, "rb") as file:
            kind = containers.sniff(file.read(_HEAD))
    except media.MediaError:
        return None
    except OSError as error:
        raise store.explained(path, error) from error
    modality = "video" if kind in containers.VIDEO_FORMATS else "image"
    unknown = dict.fromkeys(("sha256", "width", "height", "seconds", "frames"))
    return {
        "path": os.path.abspath(path),
        "offset": 0,
        "size": os.path.getsize(path),
        "format": kind,
        "modality": modality,
        **unknown,
    }


class References:
    """What was asked with: no answer is the same bytes, whatever its file is called.

    given: schema.MEDIA of whole files, with their ``sha256``.
    """

    def __init__(self, given: Sequence[Mapping[str, Any]]) -> None:
        self._hashes = {one["sha256"] for one in given}
        self._sizes = {one["size"] for one in given}

    def holds(self, place: Mapping[str, Any]) -> bool:
        """Whether a medium of the gallery is one of them; files of their size are read."""
        if place["size"] not in self._sizes:
            return False
        return (place["sha256"] or store.file_hash(place["path"])) in self._hashes


def embedded(
    retriever: Retriever, items: Sequence[Item], model: str, say: Say
) -> tuple[list[Item], Array, dict[str, str]]:
    """Items that can be read, their vectors (n, d), and what is wrong with the others, by name.

    model: what identifies the weights; vectors are kept under it, and taken again while the
    media are the same. Raises DatagenError where no item can be read.
    """
    path = os.path.join(cache.own_folder("search"), f"{_key(items, model)}.npy")
    pictures = {one.name: Picture(media=one.place, text=one.caption or None) for one in items}
    wrong: dict[int, str] = {}
    if os.path.isfile(path):
        found = np.load(path, allow_pickle=False)
    else:
        names = [one.name for one in items]
        found, wrong = vectors.of_media(
            retriever, pictures, names, lambda done, of: say("gallery", done, of)
        )
        if not wrong:
            store.write_npy(path, found)
    kept = [row for row in range(len(items)) if row not in wrong]
    if not kept:
        raise DatagenError(f"no item of the gallery can be read: {next(iter(wrong.values()))}")
    lost = {items[row].name: reason for row, reason in wrong.items()}
    return [items[row] for row in kept], np.asarray(found[kept], np.float32), lost


def _key(items: Sequence[Item], model: str) -> str:
    digest = hashlib.blake2b(model.encode(), digest_size=16)
    for one in items:
        path = one.place["path"]
        local = store.is_local(path) and os.path.exists(store.local_path(path))
        changed = os.stat(store.local_path(path)).st_mtime_ns if local else 0
        about = [one.name, dict(one.place), one.caption, changed]
        digest.update(canonical_json(about).encode())
    return digest.hexdigest()


def nearest(query: Array, items: Array, top: int) -> list[tuple[int, float]]:
    """Rows and cosines of the ``top`` items nearest to a query (d); equal ones in order."""
    scores = items @ query
    order = np.argsort(-scores, kind="stable")[:top]
    return [(int(row), float(scores[row])) for row in order]
