"""Dual encoders asked as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datagen import models
from datagen.training import composers, towers
from datagen.training.model import Model


def load(
    ref: models.ModelRef,
    composer: Mapping[str, Any],
    device: str,
    precision: str,
    trust_remote_code: bool = False,
    pad: float | None = None,
) -> Model:
    """The model of ``ref`` with ``composer``. Raises DatagenError."""
    settings = towers.TowerSettings(model=str(ref), trust_remote_code=trust_remote_code, pad=pad)
    found = towers.load(settings, device, precision)
    return Model(found, composers.make(composer, found).to(device), str(composer["op"]))
