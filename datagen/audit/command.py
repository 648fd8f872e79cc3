"""``datagen audit``: how many triplets of a run are right."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def audit_command(
    run: Annotated[str, typer.Argument(help="Run directory, here or on any fsspec path.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="A folder, run or list of hashes of which no item should be in the run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write the page and the card again.")
    ] = True,
) -> None:
    """Judge the triplets of a run by a known truth, and what its filters took away."""
    from rich.console import Console
    from rich.markup import escape

    from datagen import store
    from datagen.audit import summary
    from datagen.audit.audit import FOLDER, audit
    from datagen.audit.leaks_command import show as show_leaks
    from datagen.errors import DatagenError

    console, err = Console(), Console(stderr=True)
    with err.status("judging", spinner="dots") as status:

        def say(done: int, of: int) -> None:
            status.update(f"judging: {done:,} of {of:,} triplets")

        found = audit(run, against=against or (), say=say)
    written = {name: store.join(run, FOLDER, name) for name in ("audit.json", "triplets.parquet")}
    trouble = ""
    if report:
        from datagen import report as reports

        try:
            written |= reports.write(run)
        except DatagenError as error:
            trouble = str(error)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    summary.show(found, console)
    if found["leaks"] is not None:
        console.print()
        show_leaks(found["leaks"], run, console)
    console.print()
    names = {"audit.json": "figures", "triplets.parquet": "rows"}
    for name, place in written.items():
        label = names.get(name, name)
        console.print(f"{label:9} {escape(place)}", soft_wrap=True, highlight=False)
    if trouble:
        console.print(f"{'page':9} not written: {escape(trouble)}", soft_wrap=True)
