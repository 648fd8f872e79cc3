"""Heads that rate a vector: a few linear layers in a file of safetensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datagen import models
from datagen.errors import DatagenError, nearest
from datagen.models import ModelRef

Array = np.ndarray[Any, Any]

_ENDING = "*.safetensors"
_erf = np.frompyfunc(math.erf, 1, 1)


def _gelu(values: Array) -> Array:
    out: Array = values * 0.5 * (1 + np.asarray(_erf(values / math.sqrt(2)), np.float64))
    return out


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda values: values,
    "relu": lambda values: np.maximum(values, 0),
    "gelu": _gelu,
}


class Head:
    """Linear layers ``NAME.weight`` (out, in), ``NAME.bias`` (out), by the numbers in their names;
    between them the activation that the file's metadata names.

    Raises DatagenError where the file is no such head.
    """

    def __init__(self, ref: ModelRef) -> None:
        self.ref = ref
        self._layers, name = _read(_file(ref), ref)
        if name not in ACTIVATIONS:
            raise DatagenError(f"head '{ref}': activation {name!r}: {nearest(name, ACTIVATIONS)}")
        self._between = ACTIVATIONS[name]

    def check(self, width: int) -> None:
        """Raise DatagenError where the head does not turn vectors of ``width`` into a score."""
        wants = width
        for name, weight, bias in self._layers:
            if weight.shape[1] != wants or bias.shape != weight.shape[:1]:
                raise DatagenError(
                    f"head '{self.ref}': layer '{name}' reads vectors of {weight.shape[1]}, with "
                    f"a bias of {bias.size}; {wants} values come in; is it made for this model?"
                )
            wants = weight.shape[0]
        if wants != 1:
            raise DatagenError(f"head '{self.ref}': it gives {wants} values, one expected")

    def __call__(self, vectors: Array) -> Array:
        """The score of each of ``vectors`` (n, width): float64 (n)."""
        values = vectors.astype(np.float64)
        last = len(self._layers) - 1
        for at, (_, weight, bias) in enumerate(self._layers):
            values = values @ weight.T + bias
            values = values if at == last else self._between(values)
        scores: Array = values[:, 0]
        return scores


def _file(ref: ModelRef) -> Path:
    """The one file of safetensors that ``ref`` names."""
    if not ref.folder and not ref.repository:
        raise DatagenError(f"head '{ref}': a head is named by file: or hf:")
    place = Path(ref.folder or models.snapshot(ref.name, ref.tag, (_ENDING,), ()))
    found = sorted(place.glob(_ENDING)) if place.is_dir() else [place]
    if len(found) != 1:
        raise DatagenError(f"head '{ref}': one file of safetensors expected, {len(found)} found")
    return found[0]


def _read(path: Path, ref: ModelRef) -> tuple[list[tuple[str, Array, Array]], str]:
    """Layers in their order, as float64, and the name of the activation between them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            activation = str((file.metadata() or {}).get("activation", "none"))
    except (OSError, SafetensorError, TypeError) as error:
        told = " ".join(str(error).split())
        raise DatagenError(f"head '{ref}': not a file of safetensors ({told})") from error
    names = sorted({name.rpartition(".")[0] for name in tensors}, key=_order)
    layers = []
    for name in names:
        parts = [tensors.pop(f"{name}.{kind}".lstrip("."), None) for kind in ("weight", "bias")]
        if parts[0] is None or parts[1] is None or parts[0].ndim != 2 or parts[1].ndim != 1:
            raise DatagenError(
                f"head '{ref}': '{name}' is no linear layer; {name}.weight (out, in) and "
                f"{name}.bias (out) expected"
            )
        layers.append((name, parts[0].astype(np.float64), parts[1].astype(np.float64)))
    if not layers or tensors:
        raise DatagenError(f"head '{ref}': linear layers expected, {json.dumps(sorted(tensors))}")
    return layers, activation


def _order(name: str) -> list[tuple[int, str]]:
    """``layers.10`` after ``layers.2``."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
