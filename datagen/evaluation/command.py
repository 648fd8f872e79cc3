"""``datagen eval``: a retriever held against a benchmark."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from datagen.evaluation.benchmark import Benchmark, Protocol
    from datagen.evaluation.measure import Measured

Model = Annotated[
    str | None, typer.Argument(help="A model reference, or a folder that datagen train wrote.")
]
Rules = Annotated[
    list[str] | None, typer.Argument(help="Rules of the benchmark: split=test1 order=both")
]
Name = Annotated[str, typer.Option("--benchmark", "-b", help="Its name, or run:DIR#SPLIT.")]
Data = Annotated[str, typer.Option("--data", "-d", help="Folder of its official files.")]
Out = Annotated[str, typer.Option("--out", "-o", help="Folder for results.json and submissions.")]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Measure on the media that are there.")
]
Probes = Annotated[
    bool, typer.Option("--probes/--no-probes", help="Also ask with image or text alone.")
]
Frames = Annotated[str, typer.Option(help="Frames of a clip: a number, first, middle or key.")]
Composer = Annotated[
    str, typer.Option(help="How a model without one is asked, as YAML: {op: sum, how: slerp}.")
]
Pad = Annotated[
    float | None,
    typer.Option(help="Pad images whose sides differ by more than this ratio, such as 1.25."),
]
Listed = Annotated[
    bool, typer.Option("--list", help="List the benchmarks; with -b, the rules of one.")
]


#: Settings that no figure hangs on, and those that are called otherwise on the command line.
_SPEED, _ASKED = ("device", "batch_size"), {"choice": "frames"}


@dataclass(frozen=True)
class _Wanted:
    """What is measured, and what becomes of it."""

    model: str
    protocol: Protocol[Any]
    read: Benchmark
    data: str
    out: str
    allow_missing: bool
    probes: bool


def eval_command(
    model: Model = None,
    rules: Rules = None,
    benchmark: Name = "",
    data: Data = "",
    out: Out = "",
    allow_missing: AllowMissing = False,
    probes: Probes = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Images of every forward pass.", min=1)] = 64,
    frames: Frames = "",
    composer: Composer = "",
    pad: Pad = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    listed: Listed = False,
) -> None:
    """Measure a retriever on a benchmark of composed retrieval."""
    from rich.console import Console

    from datagen import store
    from datagen.errors import DatagenError
    from datagen.evaluation import protocols

    console = Console()
    if listed:
        _list(console, benchmark)
        return
    if not model:
        raise DatagenError("name a model, such as bundled:tinyclip, or --list the benchmarks")
    if not benchmark:
        raise DatagenError("--benchmark: name one; datagen eval --list tells them")
    if out and store.is_local(out) and os.path.isfile(store.local_path(out)):
        raise DatagenError(f"--out {out}: a file stands here; name a folder")
    settings = {
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "choice": _frames(frames),
        "composer": _composer(composer),
        "pad": pad,
    }
    protocol = protocols.protocol(benchmark, rules or ())
    if benchmark.startswith(protocols.RUN):
        data = benchmark.removeprefix(protocols.RUN)
    elif not data:
        raise DatagenError(f"--data: name the folder of {protocol.name}'s official files")
    read = protocol.read(data)
    wanted = _Wanted(model, protocol, read, data, out, allow_missing, probes)
    _tell(console, wanted, _measured(wanted, settings), settings, as_json)


def _measured(wanted: _Wanted, settings: dict[str, Any]) -> Measured:
    from rich.console import Console
    from rich.markup import escape

    from datagen.evaluation import results
    from datagen.evaluation.measure import MissingMedia, check, measure
    from datagen.training import retriever

    err = Console(stderr=True)
    with err.status("loading the model", spinner="dots") as status:

        def say(what: str, done: int, of: int) -> None:
            status.update(f"{what}: {done:,} of {of:,}")

        try:
            if not wanted.allow_missing:
                check(wanted.read)
            return measure(
                retriever.load(wanted.model, **settings),
                wanted.protocol,
                wanted.read,
                allow_missing=wanted.allow_missing,
                probes=wanted.probes,
                say=say,
            )
        except MissingMedia as error:
            path = results.write_missing(wanted.out or ".", error.lost)
            err.print(f"all of them are listed in {escape(path)}", soft_wrap=True)
            raise


def _tell(
    console: Console,
    wanted: _Wanted,
    measured: Measured,
    settings: Mapping[str, Any],
    as_json: bool,
) -> None:
    from datagen.evaluation import results

    asked = {_ASKED.get(key, key): settings[key] for key in settings if key not in _SPEED}
    found = results.record(
        measured, wanted.protocol, wanted.model, wanted.data, _revision(wanted.model), asked
    )
    written = []
    if wanted.out:
        written = results.write(wanted.out, found, measured.files)
        if measured.lost:
            written.append(results.write_missing(wanted.out, measured.lost))
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        results.show(console, found, measured, written)


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
            f"--composer {text}: settings with an op expected, such as {{op: sum, how: slerp}}"
        )
    return found


def _revision(model: str) -> str:
    """What identifies the model's weights: a commit on the hub, or a hash of the files."""
    from datagen import models

    folder = os.path.isdir(os.path.expanduser(model))
    return models.revision(models.parse(f"file:{model}" if folder else model))


def _list(console: Console, benchmark: str) -> None:
    """All benchmarks, or the rules of one."""
    import inspect

    from rich.markup import escape
    from rich.table import Table

    from datagen.evaluation.protocols import ALL, protocol_class

    if benchmark:
        one = protocol_class(benchmark)
        console.print(f"[bold]{one.name}[/]  {escape(one.about)} ({one.paper})\n")
        about = " ".join((inspect.getdoc(one.Settings) or "").replace("``", "").split())
        console.print(escape(about) + "\n", highlight=False)
        for name, value in one.Settings().model_dump(mode="json").items():
            console.print(f"  {name}={escape(json.dumps(value))}", highlight=False)
        if one.mend:
            console.print(f"\n[dim]{escape(one.mend)}[/]", highlight=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("benchmark", no_wrap=True)
    table.add_column("what it asks", overflow="fold")
    table.add_column("paper", no_wrap=True)
    for protocol in ALL:
        table.add_row(protocol.name, escape(protocol.about), protocol.paper)
    console.print(table)
    console.print("\n[dim]datagen eval --list -b NAME tells its rules and where its files lie[/]")
