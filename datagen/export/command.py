"""``datagen export``: the command line of :mod:`datagen.export.write`."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datagen.errors import DatagenError, nearest

MODES = ("copy", "link", "none")
_EXTENSION = re.compile(r"[a-z0-9]{1,8}")


def export_command(
    run: Annotated[str, typer.Argument(help="Run directory, here or on any fsspec path.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="covr, lasco, cirr, fashioniq, megapairs, instruct_pix2pix or hf.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder, here or on any fsspec path.")],
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Only this split. Repeatable.")
    ] = None,
    media: Annotated[str, typer.Option(help="copy, link (where files lie here) or none.")] = "copy",
    every: Annotated[bool, typer.Option("--every", help="Rejected and failed ones too.")] = False,
    category: Annotated[
        str | None, typer.Option(help="fashioniq: the label that tells categories apart.")
    ] = None,
    extension: Annotated[
        str | None, typer.Option(help="Name all media NAME.EXTENSION, whatever their format.")
    ] = None,
) -> None:
    """Write a finished run in the format of a published project."""
    from datagen.export.format import Options
    from datagen.export.write import export

    if media not in MODES:
        raise DatagenError(f"--media {media}: {nearest(media, MODES)}")
    extension = extension.lower().lstrip(".") if extension is not None else None
    if extension is not None and not _EXTENSION.fullmatch(extension):
        raise DatagenError(f"--extension {extension}: letters and digits expected, such as jpg")
    options = Options(media, category, extension)  # type: ignore[arg-type]
    with _Bars(Console(stderr=True)) as watch:
        written = export(run, format, out, split or (), every, options, watch)
    _show(written, Console())


class _Bars:
    """Progress on a terminal; a line per part elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: Any = None

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def start(self, what: str, total: int) -> None:
        """A part of the work begins."""
        self.task = self.bars.add_task(escape(what), total=total)
        if not self.console.is_terminal:
            self.console.print(f"{what}: {total:,}", markup=False, highlight=False)

    def advance(self) -> None:
        """One of ``total`` is done."""
        self.bars.advance(self.task)


def _show(written: Any, console: Console) -> None:
    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for split, about in written.splits.items():
        say(f"{split}: {about['triplets']:,} triplets")
        for file, count in about["files"].items():
            say(f"  {file}  {count:,}")
        for what, left in about["left_out"].items():
            examples = ", ".join(left["examples"])
            more = ", …" if left["count"] > len(left["examples"]) else ""
            say(f"  of {left['count']:,} triplets: {what} ({examples}{more})")
        if about["left_out"]:
            say(f"  which ones: export/left_out.{split}.jsonl")
    counts = [f"{count:,} {what}" for what, count in written.media.items() if count]
    say(f"media: {', '.join(counts) or 'none'}")
    for note in written.notes:
        say(f"note: {note}")
    say(f"read it: {written.reading[0]}")
    for line in written.reading[1:]:
        say(f"         {line}")
