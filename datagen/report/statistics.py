"""The figures of a run, per split, out of its tables. What each means: docs/CARD.md."""

from __future__ import annotations

from typing import Any

import numpy as np

from datagen import store
from datagen.report import _columns
from datagen.report._columns import Triplets
from datagen.report.sections import Figure, Section, sections
from datagen.result import Run

__all__ = ["Figure", "Section", "sections", "statistics"]


def statistics(run: Run) -> dict[str, Any]:
    """Every figure of ``run`` as plain values that JSON can hold.

    ``splits`` names the splits (``all`` first); a run without triplets has none.
    """
    path = store.join(run.out, "triplets.parquet")
    made = run.status == "finished" and store.exists(path)
    rows = _columns.triplets(path) if made else None
    return {
        "splits": list(rows.splits) if rows else [],
        "counts": {name: _counts(rows, mask) for name, mask in rows.splits.items()} if rows else {},
    }


def _counts(rows: Triplets, mask: Any) -> dict[str, Any]:
    references, targets = rows.references.of(mask), rows.targets.of(mask)
    return {
        "triplets": int(mask.sum()),
        "pairs": len(np.unique(rows.pair[mask])),
        "references": len(np.unique(references)),
        "targets": len(np.unique(targets)),
        "items": len(np.union1d(references, targets)),
    }
