"""``datagen leaks`` and ``datagen fingerprint``: comparing a run with other collections."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from datagen.errors import DatagenError

_RULES = {
    "leak_same_bytes": "the same bytes",
    "leak_near_duplicate": "the same picture or clip",
    "leak_same_name": "the same name",
}


def leaks_command(
    run: Annotated[str, typer.Argument(help="Run directory, here or on any fsspec path.")],
    against: Annotated[
        list[str],
        typer.Option(
            "--against",
            "-a",
            help="A folder of media, a run, a list of names, or fingerprints. Repeatable.",
        ),
    ],
    radius: Annotated[int, typer.Option(help="Bits of 64 between hashes.", min=0, max=16)] = 6,
    field: Annotated[
        list[str] | None,
        typer.Option(help="A field of the lists that holds names. Repeatable; by default all."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Compare this label with the names too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every figure, as JSON.")] = False,
) -> None:
    """Find items of a run that stand in another collection, such as a benchmark's test set."""
    from datagen.audit.leaks import leaks

    found = leaks(run, against, radius=radius, fields=field or (), label=label)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found, run, Console())


def show(found: dict[str, Any], run: str, console: Console) -> None:
    """Print what leaks, and the line of a recipe that removes it."""

    def say(line: str = "") -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for one in found["against"]:
        what = f"{one['names']:,} names" if one["kind"] == "names" else f"{one['media']:,} media"
        say(f"against {one['path']} ({one['kind']}, {what})")
    for line in found["unreadable"]:
        say(f"note: {line}")
    say(f"{found['leaking']:,} of {found['items']:,} items leak")
    for rule, count in found["rules"].items():
        if count:
            say(f"  {count:,} {_RULES[rule]}")
    for one in found["examples"]:
        apart = f", {one['bits']:g} bits apart" if one["bits"] is not None else ""
        say(f"  {one['key']} is {one['match']}{apart}")
    if found["leaking"] > len(found["examples"]):
        say("  …")
    say(f"{found['triplets_leaking']:,} of {found['triplets']:,} kept triplets hold one")
    if found["leaking"]:
        say(f"all of them: {run.rstrip('/')}/audit/leaks.parquet")
        say("to leave them out, put this into the recipe and run it again with the same --out:")
        say(f"  {found['mend']}")


def fingerprint_command(
    path: Annotated[str, typer.Argument(help="A folder of images and clips, or a run.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Parquet file to write.")],
) -> None:
    """Write the hashes of a collection, to compare with it where its files are not at hand."""
    from datagen import store
    from datagen.audit.leaks import processes
    from datagen.leaks import Collection, fingerprints, index

    if not out.endswith(".parquet"):
        raise DatagenError(f"--out {out}: a name that ends in .parquet expected")
    collection = Collection.of(path)
    if collection.kind == "names":
        raise DatagenError(f"{path}: a list of names has no files to take fingerprints of")
    if fault := collection.fault():
        raise DatagenError(fault)
    table = fingerprints(collection, parallel=processes)
    bad = index.unreadable([(collection, table)])
    table = table.filter(table["fault"].is_null())
    if not table.num_rows:
        raise DatagenError(bad[0])
    store.write_table(out, table)
    console = Console()
    for line in [*bad, f"{out}: {table.num_rows:,} fingerprints"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
