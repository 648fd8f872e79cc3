"""A space of random vectors whose model maps texts to vectors, and rows of its items."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import models, schema
from datagen.space import Space
from datagen.step import Context

WIDTH = 12
ITEMS = 90


def vector(text: str) -> np.ndarray[Any, Any]:
    """A direction of its own for each text; none for ``nothing``."""
    if text == "nothing":
        return np.full(WIDTH, np.nan, np.float32)
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    (found,) = models.unit_vectors(np.random.default_rng(seed).normal(size=(1, WIDTH)))
    return np.asarray(found)


class Embedder:
    """Stands in for an embed step with a model of images and texts."""

    def open(self, context: Context) -> None:
        self.opened = True

    def texts(self, texts: list[str]) -> np.ndarray[Any, Any]:
        assert self.opened
        return np.stack([vector(text) for text in texts] or [np.zeros(0)]).reshape(-1, WIDTH)


def world(folder: Path, noise: float = 0.2) -> Context:
    """Items i000 to i089 with vectors near that of their caption, the last one without."""
    rng = np.random.default_rng(3)
    names = [f"i{n:03d}" for n in range(ITEMS - 1)]
    told = np.stack([vector(caption(name)) for name in names])
    Space.write(str(folder), names, models.unit_vectors(told + rng.normal(0, noise, told.shape)))
    return Context(spaces={"image": str(folder)}, embedders={"image": Embedder()})  # type: ignore[dict-item]


def caption(name: str) -> str:
    return f"scene {name}"


def member(name: str, told: str | None = "") -> dict[str, Any]:
    return {"id": name, "caption": caption(name) if told == "" else told}


def triplets(rows: list[tuple[list[Any], list[Any], str | None]]) -> pa.Table:
    """References and targets (names, or members) and a text, for each row."""
    found = [
        {
            "id": f"t{number:03d}",
            "references": [member(one) if isinstance(one, str) else one for one in left],
            "targets": [member(one) if isinstance(one, str) else one for one in right],
            "modification": text,
        }
        for number, (left, right, text) in enumerate(rows)
    ]
    return pa.Table.from_pylist(found, schema=schema.TRIPLETS)


def drawn(count: int, seed: int = 0, several: bool = True) -> list[tuple[Any, Any, str]]:
    """Rows of random items, some with several references or targets."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        sizes = rng.integers(1, 3, 2) if several else (1, 1)
        names = [f"i{n:03d}" for n in rng.choice(ITEMS - 1, sum(sizes), replace=False)]
        # Now and then the text is the target's own caption.
        text = caption(names[-1]) if number % 3 == 0 else f"change {number}"
        rows.append((names[: sizes[0]], names[sizes[0] :], text))
    return rows


def measured(operator: Any, table: pa.Table, batch: int = 1 << 20) -> pa.Table:
    """What the operator measures, ``batch`` rows at a time, seeing only the columns it reads."""
    chosen = table.select(operator.columns("triplets"))
    parts = [operator(chosen.slice(at, batch)) for at in range(0, len(chosen), batch)]
    found = pa.concat_tables(parts)
    assert found["id"].to_pylist() == table["id"].to_pylist()
    return found


def decided(operator: Any, table: pa.Table, scores: pa.Table) -> list[tuple[Any, Any]]:
    """(verdict, rule) of every row, as the run puts them together."""
    for name in sorted(operator.gives("triplets")):
        table = table.append_column(name, scores[name])
    found = operator.decide(table, table)
    assert found.schema.equals(schema.VERDICTS)
    own = zip(scores["verdict"].to_pylist(), scores["rule"].to_pylist(), strict=True)
    late = zip(found["verdict"].to_pylist(), found["rule"].to_pylist(), strict=True)
    return [a if a[0] != schema.KEPT else b for a, b in zip(own, late, strict=True)]
