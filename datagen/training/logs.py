"""What a training writes down of its steps: lines of JSON, and what TensorBoard or W&B read."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from datagen import store
from datagen.errors import DatagenError

FILE = "log.jsonl"
_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb"}


class Log:
    """``log.jsonl`` of a training, a line for each step that is told.

    step: where the training goes on; what was written of later steps is taken back. Raises
    DatagenError where the library of a log is not installed.
    """

    def __init__(self, out: str, step: int, kinds: Sequence[str], settings: Any) -> None:
        check(kinds)
        path = os.path.join(out, FILE)
        kept = [json.dumps(line) for line in read(out) if line["step"] <= step]
        store.write_bytes(path, "".join(f"{line}\n" for line in kept).encode())
        self._path = path
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = self._wandb = None
        if "tensorboard" in kinds:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(os.path.join(out, "tensorboard"), purge_step=step + 1)
        if "wandb" in kinds:
            self._wandb = _wandb(out, settings)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Tell ``values`` of ``step``. Raises DatagenError where the disk is full."""
        told = {name: value for name, value in values.items() if math.isfinite(value)}
        try:
            self._file.write(json.dumps({"step": step, **told}) + "\n")
            self._file.flush()
        except OSError as error:
            raise store.explained(self._path, error) from error
        if self._board is not None:
            for name, value in told.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(told), step=step)

    def close(self) -> None:
        """All is written."""
        with contextlib.suppress(OSError):  # said already, by what was written last
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb(out: str, settings: Any) -> Any:
    """A run of W&B, in ``out``; the same one where a training goes on. Raises DatagenError."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb = importlib.import_module("wandb")
    name = os.path.basename(os.path.abspath(out))
    place = hashlib.blake2b(os.path.abspath(out).encode(), digest_size=8).hexdigest()
    try:
        return wandb.init(
            dir=out,
            id=place,
            name=name,
            config=settings,
            resume="allow",
            settings={"console": "off"},
        )
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise DatagenError(
            f"logs: wandb cannot begin ({first}); log in with 'wandb login', or keep its files "
            "here with WANDB_MODE=offline"
        ) from error


def check(kinds: Sequence[str]) -> None:
    """Raise DatagenError where what ``kinds`` need is not installed."""
    for kind in kinds:
        if importlib.util.find_spec(_MODULES[kind]) is None:
            raise DatagenError(f"logs: {kind} is not installed; pip install {_MODULES[kind]}")


def read(out: str) -> list[dict[str, Any]]:
    """The lines of ``log.jsonl``; a last line that was cut off is left out."""
    found = []
    try:
        with open(os.path.join(out, FILE), encoding="utf-8") as file:
            for line in file:
                try:
                    found.append(json.loads(line))
                except ValueError:
                    break
    except FileNotFoundError:
        return []
    return found
