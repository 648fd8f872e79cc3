"""The ``datagen`` command."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datagen import __version__
from datagen.errors import DatagenError, RecipeError
from datagen.progress import Bars, Lines
from datagen.runs import Reporter, StepReport, Summary

app = typer.Typer(
    help="Composed-retrieval training data from captioned images and clips.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
err = Console(stderr=True)
out_console = Console()

RecipeName = Annotated[str, typer.Argument(help="Name of a recipe, or path of a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides: source.path=photos steps.similarity.low=0.7"),
]
Out = Annotated[str, typer.Option("--out", "-o", help="Run directory, here or on any fsspec path.")]
Address = Annotated[
    str | None, typer.Option(help="An existing Ray cluster; RAY_ADDRESS by default, else local.")
]
Report = Annotated[
    bool, typer.Option("--report/--no-report", help="Write the page and the dataset card.")
]
Cpus = Annotated[int | None, typer.Option(help="Logical CPUs of a local run.", min=1)]


def _version(wanted: bool) -> None:
    if wanted:
        out_console.print(f"datagen {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Composed-retrieval training data from captioned images and clips."""


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = "",
    address: Address = None,
    cpus: Cpus = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed rows again.")
    ] = False,
    report: Report = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only how it ended.")] = False,
) -> None:
    """Run a recipe, or go on with a run that was stopped."""
    from datagen.runs import run as run_recipe

    if not out:
        raise DatagenError("--out: name the run directory, for example --out runs/mine")
    with _reporting(quiet) as reporter:
        summary = run_recipe(
            recipe,
            out,
            overrides or (),
            address=address,
            cpus=cpus,
            retry_failed=retry_failed,
            reporter=reporter,
            report=report,
        )
    show_summary(summary)


@app.command()
def refilter(
    run: Annotated[str, typer.Argument(help="Directory of a finished run.")],
    changes: Annotated[
        list[str] | None, typer.Argument(help="New rules of its filters: similarity.low=0.7")
    ] = None,
    address: Address = None,
    cpus: Cpus = None,
    report: Report = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only how it ended.")] = False,
) -> None:
    """Decide a run anew by other thresholds; nothing that was computed is computed again."""
    from datagen import note
    from datagen.refilter import refilter as decide_anew

    before = note.read(run)
    with _reporting(quiet) as reporter:
        summary = decide_anew(
            run, changes or (), address=address, cpus=cpus, reporter=reporter, report=report
        )
    show_summary(summary, {step["id"]: step["rows_out"] for step in before["funnel"]})
    if summary.status == "finished":
        was = str(before["rows"])[:8]
        out_console.print(
            f"{'before':9} [dim]datagen.load({escape(repr(run))}, decision='{was}')[/]",
            soft_wrap=True,
            highlight=False,
        )


@contextlib.contextmanager
def _reporting(quiet: bool) -> Iterator[Reporter]:
    """Shows what a run does; Ctrl-C ends it with the command that goes on."""
    reporter = Bars(err) if err.is_terminal and not quiet else Lines(err, quiet)
    try:
        with reporter:
            yield reporter
    except KeyboardInterrupt:
        again = shlex.join(["datagen", *sys.argv[1:]])
        err.print("\nStopped. What is done is kept; go on with:", highlight=False)
        err.print(f"  {escape(again)}", soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None


@app.command()
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = "",
    address: Address = None,
) -> None:
    """Check a recipe and say what a run would do; nothing is computed."""
    from datagen.outlook import outlook, show

    show(outlook(recipe, overrides or (), out, address), out_console)


@app.command("operators")
def list_operators(
    name: Annotated[
        str | None, typer.Argument(help="One of them, such as filter.similarity.")
    ] = None,
) -> None:
    """List the operators, or explain one with its settings."""
    from datagen import reference

    if name:
        reference.explain(name, out_console)
    else:
        reference.overview(out_console)


@app.command()
def doctor() -> None:
    """Say what this machine has, and what is missing for which steps."""
    from datagen.diagnosis import diagnose

    healthy = diagnose(out_console)
    raise typer.Exit(0 if healthy else 1)


def show_summary(summary: Summary, before: Mapping[str, int] | None = None) -> None:
    """The funnel of a run and where to look; ``before``: rows out of its steps until now."""
    from datagen import store

    out_console.print()
    if summary.status == "already finished":
        out_console.print(f"[bold]{escape(summary.name)}[/] was already finished; nothing to do.\n")
    out_console.print(funnel(summary.steps, before))
    out_console.print()
    lines = [
        ("triplets", "triplets.parquet", "with scores, verdict, provenance"),
        ("shards", "shards", "WebDataset tars, manifest.json"),
        ("verdicts", "steps", "of every step on every row"),
    ]
    there = [
        (label, store.join(summary.out, name), what)
        for label, name, what in lines
        if store.exists(store.join(summary.out, name))
    ]
    looks = {"page": "what was made, to look at", "card": "for the Hub, with every figure"}
    there += [(name, place, looks[name]) for name, place in summary.report.items()]
    width = max((len(_short(place)) for _, place, _ in there), default=0)
    for label, place, what in there:
        text = escape(f"{_short(place):{width}}")
        out_console.print(f"{label:9} {text}  [dim]{what}[/]", soft_wrap=True, highlight=False)
    if summary.trouble:
        out_console.print(f"{'page':9} not written: {escape(summary.trouble)}", soft_wrap=True)
    if summary.status == "finished":
        out_console.print(f"{'time':9} {summary.seconds:.1f} s", highlight=False)


def _short(path: str) -> str:
    near = os.path.relpath(path) if "://" not in path else path
    return min(path, near, key=len)


def funnel(steps: list[StepReport], before: Mapping[str, int] | None = None) -> Table:
    """One line per step: rows in, kept, rejected and failed, rows out, and the rules that said so.

    Each rule has a line of its own, with the number of rows that it took away. ``before``: rows
    out of each step until now, shown beside.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("step", overflow="fold")
    for heading in ("in", "kept", "rejected", "failed", "out"):
        table.add_column(heading, justify="right", no_wrap=True)
    if before is not None:
        table.add_column("was", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("why", no_wrap=True)
    for step in steps:
        reasons = {**step.rejected, **step.failed}
        ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        table.add_row(
            escape(step.id),
            f"{step.rows_in:,}",
            f"{step.kept:,}",
            f"{sum(step.rejected.values()):,}",
            f"{sum(step.failed.values()):,}",
            f"{step.rows_out:,}",
            *([] if before is None else [f"{before[step.id]:,}" if step.id in before else "–"]),
            step.level,
            escape("\n".join(f"{count:,} {rule}" for rule, count in ordered)),
        )
    return table


def _mount() -> None:
    """Commands that live with what they command."""
    from datagen.audit.command import audit_command
    from datagen.audit.leaks_command import fingerprint_command, leaks_command
    from datagen.cluster.command import submit_command
    from datagen.comparing.command import compare_command
    from datagen.evaluation.command import eval_command
    from datagen.export.command import export_command
    from datagen.prompts_command import prompts_app
    from datagen.recipes_command import recipes_app
    from datagen.report.command import report_command
    from datagen.report.show import show_command
    from datagen.search.command import search_command
    from datagen.training.command import train_command

    app.command("submit")(submit_command)
    app.command("export")(export_command)
    app.command("report")(report_command)
    app.command("audit")(audit_command)
    app.command("train")(train_command)
    app.command("eval")(eval_command)
    app.command("compare")(compare_command)
    app.command("search")(search_command)
    app.command("show")(show_command)
    app.command("leaks")(leaks_command)
    app.command("fingerprint")(fingerprint_command)
    app.add_typer(recipes_app, name="recipes")
    app.add_typer(prompts_app, name="prompts")


def _say(faults: list[str]) -> None:
    for fault in faults:
        err.print(f"[red]error:[/] {escape(fault)}", soft_wrap=True, highlight=False)


def _log() -> None:
    level = os.environ.get("DATAGEN_LOG", "ERROR").upper()
    if level not in logging.getLevelNamesMapping():
        raise DatagenError(f"DATAGEN_LOG={level}: DEBUG, INFO, WARNING or ERROR expected")
    logging.basicConfig(level=level)


def main(argv: list[str] | None = None) -> None:
    """Entry point: every problem that the user can mend is a line, not a traceback."""
    _mount()
    try:
        _log()
        app(args=argv, prog_name="datagen")
    except RecipeError as error:
        _say(error.faults)
        sys.exit(2)
    except DatagenError as error:
        _say([str(error)])
        sys.exit(1)
