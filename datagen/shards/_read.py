"""Reads triplet shards back, without trusting them."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from datagen import store
from datagen.errors import DatagenError
from datagen.shards._plan import VECTOR, VECTOR_FILE

_MEMBER = re.compile(r"([A-Za-z0-9_-]+)\.(reference|target|negative)(?:\.(\d{1,4}))?\.[a-z0-9]+")
_TEXT = re.compile(rf"([A-Za-z0-9_-]+)\.(txt|json|{re.escape(VECTOR_FILE)})")
_NAMED = {"txt": "modification", "json": "json", VECTOR_FILE: VECTOR}
_LIST = {"reference": "references", "target": "targets", "negative": "negatives"}


def read_shard(path: str) -> Iterator[dict[str, Any]]:
    """The triplets of the shard at ``path``, on any fsspec path, in order.

    Gives dictionaries of ``key``, ``references``, ``targets`` and ``negatives`` (lists of bytes),
    ``modification`` (text), ``json`` (the rest), and ``target_vector`` (float32) where there is
    one. Members with other names are passed over. Raises DatagenError where the tar is damaged or
    a triplet lacks its text or JSON.
    """
    fs, inner = store.filesystem(path)
    try:
        with fs.open(inner, "rb") as file:
            yield from _samples(path, file)
    except (tarfile.TarError, EOFError) as error:
        raise DatagenError(f"{path}: damaged tar ({error}); write the shards again") from error


def _samples(path: str, file: IO[bytes]) -> Iterator[dict[str, Any]]:
    sample: dict[str, Any] = {}
    with tarfile.open(fileobj=file, mode="r|", errors="strict") as archive:
        for info in archive:
            found = _TEXT.fullmatch(info.name) or _MEMBER.fullmatch(info.name)
            opened = archive.extractfile(info) if info.isreg() and found else None
            if found is None or opened is None:
                continue
            if sample and sample["key"] != found[1]:
                yield _whole(path, sample)
                sample = {}
            if not sample:
                sample = {"key": found[1], "references": [], "targets": [], "negatives": []}
            data = opened.read()
            if found[2] in _LIST:
                sample[_LIST[found[2]]].append((int(found[3] or 0), data))
            else:
                sample[_NAMED[found[2]]] = data
            archive.members = []  # type: ignore[attr-defined]
    if sample:
        yield _whole(path, sample)


def _whole(path: str, sample: dict[str, Any]) -> dict[str, Any]:
    for role in _LIST.values():
        ordered = sorted(sample[role], key=lambda entry: int(entry[0]))
        sample[role] = [data for _, data in ordered]
    try:
        sample["modification"] = sample["modification"].decode()
        sample["json"] = json.loads(sample["json"])
        if VECTOR in sample:
            sample[VECTOR] = np.load(io.BytesIO(sample[VECTOR]), allow_pickle=False)
    except (KeyError, ValueError, EOFError, RecursionError) as error:
        what = f"has no text or JSON, or a broken {VECTOR_FILE}"
        raise DatagenError(f"{path}: triplet {sample['key']} {what}") from error
    return sample
