"""``datagen submit``: the command line of :mod:`datagen.cluster.submit`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from datagen.errors import DatagenError


def submit_command(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe, or path of a YAML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides: source.path=s3://bucket/photos")
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Run directory that all nodes see.")] = "",
    address: Annotated[
        str | None,
        typer.Option(help="http://HEAD:8265; RAY_API_SERVER_ADDRESS by default."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the log.")] = True,
    retry_failed: Annotated[bool, typer.Option(help="Try failed rows again.")] = False,
    requirements: Annotated[
        str | None, typer.Option(help="A pip requirements file for the nodes.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help="KEY=VALUE, or KEY to pass the one set here. Repeatable."),
    ] = None,
    follow: Annotated[str, typer.Option(help="Follow this job instead.")] = "",
    stop: Annotated[str, typer.Option(help="Stop this job instead.")] = "",
) -> None:
    """Send a run to a Ray cluster as a job, and follow its log."""
    from datagen.cluster import submit as jobs

    if follow:
        raise typer.Exit(jobs.follow(follow, address))
    if stop:
        jobs.stop(stop, address)
        return
    if not recipe:
        raise DatagenError("submit: name a recipe, or a job with --follow or --stop")
    code = jobs.submit(
        recipe,
        overrides or (),
        out,
        address,
        wait=wait,
        retry_failed=retry_failed,
        requirements=requirements,
        variables=variables(env or []),
    )
    raise typer.Exit(code)


def variables(given: list[str]) -> dict[str, str]:
    """``KEY=VALUE`` or ``KEY`` (taken from this process) as a mapping. Raises DatagenError."""
    found = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals and key not in os.environ:
            raise DatagenError(f"--env {key}: not set here; write --env {key}=VALUE")
        found[key] = value if equals else os.environ[key]
    return found
