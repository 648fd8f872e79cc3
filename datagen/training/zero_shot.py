"""Dual encoders asked as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datagen import frames, models
from datagen.training import composers, towers
from datagen.training.answering import Answering
from datagen.training.model import Model


def load(
    ref: models.ModelRef,
    composer: Mapping[str, Any],
    *,
    device: str,
    precision: str,
    batch_size: int,
    choice: frames.Choice | None,
    trust_remote_code: bool,
) -> Answering:
    """The model of ``ref`` with ``composer``. Raises DatagenError."""
    settings = towers.TowerSettings(model=str(ref), trust_remote_code=trust_remote_code)
    found = towers.load(settings, device, precision)
    made = composers.make(composer, found).to(device)
    model = Model(found, made, str(composer["op"]))
    return Answering(model, batch_size, 8 if choice is None else choice)
