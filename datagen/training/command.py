"""``datagen train``: a retriever out of runs."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer


def train_command(
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN... [KEY=VALUE...]",
            help="Runs, folders of shards or tars, and settings: steps=1000 loss.beta=0.5",
        ),
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of the retriever.")] = "",
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A training recipe, or a YAML file of settings.")
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Processes on Ray; 0: this one alone, without Ray.", min=0)
    ] = 0,
    address: Annotated[str | None, typer.Option(help="An existing Ray cluster.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only how it ended.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the training recipes.")] = False,
) -> None:
    """Train a retriever on the triplets of runs, or go on with a training that was stopped."""
    from rich.console import Console
    from rich.markup import escape

    from datagen.errors import DatagenError

    console, err = Console(), Console(stderr=True)
    if listed:
        _list(console)
        return
    # A folder may have such a name.
    runs = [one for one in given or () if "=" not in one or os.path.exists(one)]
    overrides = [one for one in given or () if one not in runs]
    if not out:
        raise DatagenError("--out: name the folder of the retriever, for example --out models/mine")
    if not runs:
        raise DatagenError("name a run to train on, for example: datagen train runs/demo --out …")
    if address and not workers:
        raise DatagenError(f"--address {address}: say how many processes too, with --workers N")
    try:
        done = _trained(err, runs, out, recipe, overrides, workers, address, quiet)
    except KeyboardInterrupt:
        again = shlex.join(["datagen", *sys.argv[1:]])
        err.print("\nStopped. Go on from the last checkpoint with:", highlight=False)
        err.print(f"  {escape(again)}", soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None
    if done.before:
        console.print(f"[bold]{escape(out)}[/] was already trained; nothing to do.\n")
    _show(console, done.figures)
    for note in done.notes:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True, highlight=False)
    console.print(f"retriever {escape(out)}  [dim]{done.steps:,} steps[/]", soft_wrap=True)


def _trained(
    err: Any,
    runs: list[str],
    out: str,
    recipe: str,
    overrides: list[str],
    workers: int,
    address: str | None,
    quiet: bool,
) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from datagen.models import import_torch

    import_torch()
    from datagen.training import loop, settings

    chosen = settings.read(recipe, overrides)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("{task.fields[said]}"), console=err, disable=quiet, transient=True
    ) as progress:
        task = progress.add_task("train", total=None, said="")

        def say(step: int, steps: int, values: Mapping[str, float]) -> None:
            said = " ".join(
                f"{name} {values[name]:.4g}" for name in ("loss", "rate", "R@10") if name in values
            )
            progress.update(task, completed=step, total=steps, said=said)

        if workers:
            from datagen.cluster.train import train as on_ray

            return on_ray(runs, out, chosen, workers, address, say)
        return loop.train(runs, out, chosen, say)


def _show(console: Any, figures: Mapping[str, Mapping[str, float]]) -> None:
    """A line per metric, asked with both and with either alone."""
    from rich.table import Table

    if not figures:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for kind in figures:
        table.add_column(kind, justify="right", no_wrap=True)
    for metric in next(iter(figures.values())):
        told = (figures[kind].get(metric) for kind in figures)
        table.add_row(metric, *("–" if one is None else f"{100 * one:.2f}" for one in told))
    console.print(table)


def _list(console: Any) -> None:
    import yaml
    from rich.markup import escape
    from rich.table import Table

    from datagen.models import import_torch

    import_torch()
    from datagen.training import settings

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it trains", overflow="fold")
    for name in settings.names():
        path = settings.RECIPES / f"{name}.yaml"
        about = yaml.safe_load(path.read_text(encoding="utf-8"))["about"]
        table.add_row(name, escape(about))
    console.print(table)
