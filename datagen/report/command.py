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

    from datagen import report

    console = Console()
    for name, place in report.write(run, pictures=pictures, rows=rows).items():
        console.print(f"{name:9} {escape(place)}", soft_wrap=True, highlight=False)
