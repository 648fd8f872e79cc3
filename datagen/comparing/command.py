"""``datagen compare``: recipes, by what a small retriever learns from each."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def compare_command(
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE... [KEY=VALUE...]",
            help="Recipes or finished runs; source.count=500 for all recipes, train.steps=500 "
            "for all trainings.",
        ),
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of runs, models, page.")] = "",
    seeds: Annotated[int, typer.Option(help="Models of each recipe.", min=1)] = 3,
    triplets: Annotated[
        int, typer.Option(help="Trained on of each; 0: as many as the poorest has.", min=0)
    ] = 0,
    on: Annotated[
        list[str] | None,
        typer.Option(help="run:DIR#SPLIT to measure on; by default val of every run."),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A training recipe; by default small.")
    ] = "",
    metric: Annotated[str, typer.Option(help="R@1, R@5, R@10, R@50 or mAP.")] = "R@10",
    address: Annotated[str | None, typer.Option(help="An existing Ray cluster.")] = None,
) -> None:
    """Train the same small retriever on several recipes, and tell what each is worth."""
    from rich.console import Console
    from rich.markup import escape

    from datagen.errors import DatagenError, nearest
    from datagen.models import import_torch

    import_torch()
    from datagen.comparing import results, trials
    from datagen.evaluation.run import AT

    console, err = Console(), Console(stderr=True)
    if not out:
        raise DatagenError("--out: name a folder, for example --out comparisons/mine")
    if os.path.isfile(out):
        raise DatagenError(f"--out {out}: a file stands here; name a folder")
    known = [*(f"R@{k}" for k in AT), "mAP"]
    if metric not in known:
        raise DatagenError(f"--metric {metric}: {nearest(metric, known)}")
    named = [one for one in given or () if "=" not in one]
    rest = [one for one in given or () if "=" in one]
    mine = [one.removeprefix("train.") for one in rest if one.startswith("train.")]
    others = [one for one in rest if not one.startswith("train.")]
    with err.status("starting", spinner="dots") as status:

        def say(what: str) -> None:
            status.update(escape(what))

        trials.check(named, on or (), recipe, mine)
        places = trials.made(named, out, others, address, say)
        found = trials.compared(places, out, seeds, triplets, on or (), recipe, mine, say)
    rows = results.record(found, metric)
    measured = ", ".join(on) if on else f"the split {trials.SPLIT} of every run, mean"
    about = (
        f"{found[0].trained_on:,} triplets of each, {seeds} {'seed' if seeds == 1 else 'seeds'}; "
        f"measured on {measured}"
    )
    console.print(results.table(rows, metric))
    console.print(f"[dim]{escape(about)}[/]", soft_wrap=True, highlight=False)
    for path in results.write(out, rows, metric, about):
        console.print(f"wrote {escape(path)}", soft_wrap=True, highlight=False)
