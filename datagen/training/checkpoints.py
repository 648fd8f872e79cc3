"""Checkpoints: one file a checkpoint, complete or not there.

They hold tensors and plain values, and are read with ``weights_only=True``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import IO, Any

import torch

from datagen import store
from datagen.errors import DatagenError

FOLDER = "checkpoints"
BEST = "best.pt"
_NAME = re.compile(r"step-(\d{8,})\.pt")


def write(out: str, step: int, state: Mapping[str, Any], keep: int) -> str:
    """Write the checkpoint of ``step``, and remove all but the last ``keep``; gives its path."""
    folder = os.path.join(out, FOLDER)
    path = os.path.join(folder, f"step-{step:08}.pt")
    _written(path, state)
    for old in steps(out)[:-keep]:
        store.remove(os.path.join(folder, f"step-{old:08}.pt"))
    return path


def write_best(out: str, state: Mapping[str, Any]) -> None:
    """Write the weights of the best validation."""
    _written(os.path.join(out, FOLDER, BEST), state)


class _Kept:
    """A file that remembers what went wrong: torch tells of a full disk that a byte is missing."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def clean(out: str) -> None:
    """Remove what a killed writer left behind, which is as large as a checkpoint."""
    for folder in (out, os.path.join(out, FOLDER)):
        store.clean(folder)


def _written(path: str, state: Mapping[str, Any]) -> None:
    with store.writing(path) as file:
        kept = _Kept(file)
        try:
            torch.save(dict(state), kept)
        except RuntimeError as error:
            if kept.error is not None:
                raise kept.error from error
            raise


def steps(out: str) -> list[int]:
    """Steps of the checkpoints that there are, in order."""
    folder = os.path.join(out, FOLDER)
    names = store.names(folder) if os.path.isdir(folder) else []
    return sorted(int(found[1]) for found in map(_NAME.fullmatch, names) if found)


def last(out: str) -> dict[str, Any] | None:
    """The last checkpoint, on the CPU; None where there is none. Raises DatagenError."""
    there = steps(out)
    return _read(os.path.join(out, FOLDER, f"step-{there[-1]:08}.pt")) if there else None


def best(out: str) -> dict[str, Any] | None:
    """The weights of the best validation; None where there are none. Raises DatagenError."""
    path = os.path.join(out, FOLDER, BEST)
    return _read(path) if os.path.isfile(path) else None


def _read(path: str) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise DatagenError(f"{path}: no checkpoint of this program ({first})") from error
    if not isinstance(found, dict):
        raise DatagenError(f"{path}: no checkpoint of this program")
    return found
