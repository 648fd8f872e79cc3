"""``datagen eval``: a retriever held against a benchmark."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def eval_command(
    model: Annotated[
        str | None,
        typer.Argument(help="A model reference, or a folder that datagen train wrote."),
    ] = None,
    rules: Annotated[
        list[str] | None, typer.Argument(help="Rules of the benchmark: split=test1 order=both")
    ] = None,
    benchmark: Annotated[
        str, typer.Option("--benchmark", "-b", help="Its name, or run:DIR#SPLIT.")
    ] = "",
    data: Annotated[str, typer.Option("--data", "-d", help="Folder of its official files.")] = "",
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder for results.json and submissions.")
    ] = "",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Measure on the media that are there.")
    ] = False,
    probes: Annotated[
        bool, typer.Option("--probes/--no-probes", help="Also ask with image or text alone.")
    ] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Images of every forward pass.", min=1)] = 64,
    frames: Annotated[
        str, typer.Option(help="Frames of a clip: a number, first, middle or key.")
    ] = "",
    composer: Annotated[
        str, typer.Option(help="How a model without one is asked, as YAML: {op: sum, how: slerp}.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="List the benchmarks; with -b, the rules of one.")
    ] = False,
) -> None:
    """Measure a retriever on a benchmark of composed retrieval."""
    from rich.console import Console

    from datagen.errors import DatagenError
    from datagen.evaluation import protocols

    console = Console()
    if listed:
        if benchmark:
            _explain(console, protocols.protocol_class(benchmark))
        else:
            _list(console)
        return
    if not model:
        raise DatagenError("name a model, such as bundled:tinyclip, or --list the benchmarks")
    if not benchmark:
        raise DatagenError("--benchmark: name one; datagen eval --list tells them")
    protocol = protocols.protocol(benchmark, rules or ())
    if benchmark.startswith(protocols.RUN):
        data = benchmark.removeprefix(protocols.RUN)
    elif not data:
        raise DatagenError(f"--data: name the folder of {protocol.name}'s official files")
    read = protocol.read(data)
    settings = {
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "choice": _frames(frames),
        "composer": _composer(composer),
    }
    _measured(console, model, settings, protocol, read, data, out, allow_missing, probes, as_json)


def _measured(
    console: Any,
    model: str,
    settings: dict[str, Any],
    protocol: Any,
    read: Any,
    data: str,
    out: str,
    allow_missing: bool,
    probes: bool,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.markup import escape

    from datagen.evaluation import results
    from datagen.evaluation.measure import MissingMedia, measure, missing
    from datagen.training import retriever

    err = Console(stderr=True)
    with err.status("loading the model", spinner="dots") as status:

        def say(what: str, done: int, of: int) -> None:
            status.update(f"{what}: {done:,} of {of:,}")

        try:
            lost = missing(read)
            if lost and not allow_missing:
                paths = {read.pictures[name].path: reason for name, reason in lost.items()}
                raise MissingMedia(paths, len(read.used()), read.mend)
            asked = retriever.load(model, **settings)
            measured = measure(
                asked, protocol, read, allow_missing=allow_missing, probes=probes, say=say
            )
        except MissingMedia as error:
            path = results.write_missing(out or ".", error.lost)
            err.print(f"all of them are listed in {escape(path)}", soft_wrap=True)
            raise
    found = results.record(measured, protocol, model, data, _revision(model))
    written = results.write(out, found, measured.files) if out else []
    if measured.lost and out:
        written.append(results.write_missing(out, measured.lost))
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=1))
        return
    _show(console, found, measured, written)


def _frames(text: str) -> Any:
    """The choice of frames that ``text`` names; None: the model's own."""
    from datagen.errors import DatagenError

    if text in ("", "first", "middle", "key"):
        return text or None
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise DatagenError(f"--frames {text}: first, middle, key or a number from 1 to 64 expected")
    return int(text)


def _composer(text: str) -> dict[str, Any] | None:
    import yaml

    from datagen.errors import DatagenError

    try:
        found = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        found = text
    if found is not None and not (isinstance(found, dict) and "op" in found):
        raise DatagenError(
            f"--composer {text}: settings with an op expected, {{op: sum, how: slerp}}"
        )
    return found


def _revision(model: str) -> str:
    """What identifies the model's weights: a commit on the hub, or a hash of the files."""
    import os

    from datagen import models

    folder = os.path.isdir(os.path.expanduser(model))
    return models.revision(models.parse(f"file:{model}" if folder else model))


def _show(console: Any, found: dict[str, Any], measured: Any, written: list[str]) -> None:
    from rich.markup import escape

    from datagen.evaluation import results

    rules = ", ".join(f"{name}={value}" for name, value in found["rules"].items() if value != "")
    console.print(
        f"[bold]{escape(found['benchmark'])}[/], {escape(found['model'])}", soft_wrap=True
    )
    console.print(f"[dim]{escape(rules)}[/]\n", soft_wrap=True, highlight=False)
    if measured.lines:
        console.print(results.table(measured))
    else:
        console.print("Right answers are known to the benchmark's server alone.")
    if measured.lost:
        told = "" if measured.files else "; no submission is written of a part"
        console.print(f"\n[yellow]{len(measured.lost):,} images or clips are missing{told}[/]")
    for note in measured.notes:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True, highlight=False)
    for path in written:
        console.print(f"wrote {escape(path)}", soft_wrap=True, highlight=False)


def _list(console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from datagen.evaluation.protocols import ALL

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("benchmark", no_wrap=True)
    table.add_column("what it asks", overflow="fold")
    table.add_column("paper", no_wrap=True)
    for protocol in ALL:
        table.add_row(protocol.name, escape(protocol.about), protocol.paper)
    console.print(table)
    console.print("\n[dim]datagen eval --list -b NAME tells its rules and where its files lie[/]")


def _explain(console: Any, protocol: type[Any]) -> None:
    import inspect

    from rich.markup import escape

    console.print(f"[bold]{protocol.name}[/]  {escape(protocol.about)} ({protocol.paper})\n")
    console.print(escape(inspect.getdoc(protocol.Settings) or "") + "\n", highlight=False)
    for name, field in protocol.Settings.model_fields.items():
        console.print(f"  {name}={escape(str(field.default))}", highlight=False)
    if protocol.mend:
        console.print(f"\n[dim]{escape(protocol.mend)}[/]", highlight=False)
