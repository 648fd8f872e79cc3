"""Composed-retrieval training data from captioned images and clips.

>>> import datagen
>>> datagen.run("demo", out="runs/demo")        # doctest: +SKIP
>>> made = datagen.load("runs/demo")            # doctest: +SKIP
>>> made.triplets().to_pandas()                 # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datagen.result import Run, load
    from datagen.runs import Summary, run

__all__ = ["Run", "Summary", "load", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported when first wanted: a worker that runs one operator needs none of it.
    if name in ("Run", "load"):
        from datagen import result

        return getattr(result, name)
    if name in ("Summary", "run"):
        from datagen import runs

        return getattr(runs, name)
    raise AttributeError(f"module 'datagen' has no attribute '{name}'")
