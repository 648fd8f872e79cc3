"""What a run says of itself: figures, a dataset card, and a page to look at."""

from __future__ import annotations

from datagen.result import Run


def write(run: Run | str, *, pictures: int = 1_000, rows: int = 50_000) -> dict[str, str]:
    """Write the dataset card and the page of a run into its directory; their paths by name.

    pictures: kept rows of the page that have pictures, and half as many of each rule; rows: how
    many it lists at most.
    """
    from datagen.report import card, page
    from datagen.report.statistics import statistics
    from datagen.result import load

    opened = load(run) if isinstance(run, str) else run
    stats = statistics(opened)
    shown = page.write(opened, pictures=pictures, rows=rows, stats=stats)
    return {"page": shown, "card": card.write(opened, stats)}
