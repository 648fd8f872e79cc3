"""What an audit found, for the figures of a run: see docs/AUDIT.md."""

from __future__ import annotations

from typing import Any

from datagen.result import Run


def known(run: Run) -> dict[str, Any] | None:
    """The audit of the decision that ``run`` is opened at, without the points of its curves; None
    where there is none."""
    from datagen.audit.audit import standing

    found = standing(run)
    if found is None:
        return None
    steps = [{**step, "curves": [_bare(one) for one in step["curves"]]} for step in found["steps"]]
    return {**found, "steps": steps}


def _bare(curve: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in curve.items() if key != "points"}


def tells(found: dict[str, Any] | None, figure: str) -> bool:
    """Whether an audit gives a figure that a run alone cannot give."""
    if found is None:
        return False
    measured = {
        "share of wrong triplets": bool(found["triplets"]["kept"]["judged"]),
        "modality redundancy": any("trouble" not in one for one in found["shortcuts"].values()),
        "benchmark overlap": found["leaks"] is not None,
    }
    return measured.get(figure, False)
