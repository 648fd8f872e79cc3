"""``datagen report``: the page of a run, written again."""

from __future__ import annotations

from typing import Annotated

import typer


def report_command(
    run: Annotated[str, typer.Argument(help="Run directory, here or on any fsspec path.")],
    pictures: Annotated[
        int, typer.Option(help="Kept rows with pictures; of each rule half as many.", min=0)
    ] = 1_000,
    rows: Annotated[int, typer.Option(help="Rows that the page lists at most.", min=1)] = 50_000,
) -> None:
    """Write the page and the dataset card of a run, finished or not."""
    from rich.console import Console
    from rich.markup import escape

    from datagen import load
    from datagen.report import page
    from datagen.report.statistics import statistics

    made = load(run)
    stats = statistics(made)
    console = Console()
    places = [("page", page.write(made, pictures=pictures, rows=rows, stats=stats))]
    for name, place in places:
        console.print(f"{name:9} {escape(place)}", soft_wrap=True, highlight=False)
