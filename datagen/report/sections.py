"""The figures of a run as texts to show: sections of rows, one column per split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row: its label, a text per split (``all`` where it belongs to none), and a note."""

    label: str
    values: dict[str, str]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Figures that belong together. Labels, values and notes are plain text: escape them."""

    title: str
    figures: list[Figure] = field(default_factory=list)


def sections(stats: dict[str, Any]) -> list[Section]:
    """All figures of ``stats`` (from :func:`datagen.report.statistics.statistics`)."""
    counts = [
        Figure(name, {split: f"{values[name]:,}" for split, values in stats["counts"].items()})
        for name in ("triplets", "pairs", "references", "targets", "items")
    ]
    return [Section("Triplets", counts if stats["counts"] else [])]
