"""What a run says of itself: figures, a dataset card, and a page to look at."""

from __future__ import annotations

from datagen.result import Run


def write(run: Run | str) -> dict[str, str]:
    """Write the dataset card and the page of a run into its directory; their paths by name."""
    from datagen.report import card, page
    from datagen.report.statistics import statistics
    from datagen.result import load

    opened = load(run) if isinstance(run, str) else run
    stats = statistics(opened)
    return {"card": card.write(opened, stats), "page": page.write(opened, stats=stats)}
