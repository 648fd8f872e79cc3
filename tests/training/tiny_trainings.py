"""Trainings of the bundled model that take seconds."""

from __future__ import annotations

from pathlib import Path

from datagen.training import logs, settings

SMALL = (
    "model=bundled:tinyclip", "learning_rate=0.003", "loader.batch_size=8", "loader.workers=0",
    "loader.chunk=4", "validation.on=none", "device=cpu",
)  # fmt: skip
COMBINER = "composer={op: combiner, projection: 1, hidden: 1, dropout: 0.2}"


def told(*changes: str) -> settings.TrainSettings:
    return settings.read("", [*SMALL, *changes])


def combined(*changes: str) -> settings.TrainSettings:
    """With a small combiner, which learns and has dropout."""
    return told(COMBINER, *changes)


def curve(out: Path) -> list[float]:
    """The losses of a training, step by step."""
    return [line["loss"] for line in logs.read(str(out))]
