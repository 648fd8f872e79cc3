"""What a run says while it works: bars on a terminal, a line per step elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from datagen.plan import Planned
from datagen.runs import StepReport


class _Rate(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="dim")


class Lines:
    """One line when a step is complete; nothing at all when quiet."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def start(self, step: Planned, total: int, done: int) -> None:
        """A step begins."""
        if 0 < done < total and not self.quiet:
            self.console.print(f"{step.id}: going on, {done:,} of {total:,} done", highlight=False)

    def advance(self, kept: int, rejected: int, failed: int) -> None:
        """Rows got their answers."""

    def finish(self, report: StepReport) -> None:
        """A step is complete."""
        if not self.quiet and not report.reused:
            self.console.print(
                f"{report.id}: {report.rows_in:,} in, {report.rows_out:,} out, "
                f"{report.seconds:.1f} s",
                highlight=False,
            )


class Bars:
    """A bar per step with its rate and the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
        )
        self.task: Any = None
        self.counts = [0, 0, 0]
        self.started = time.monotonic()

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bars.stop()

    def start(self, step: Planned, total: int, done: int) -> None:
        """A step begins; ``total`` 0 means that the number of rows is not known yet."""
        self.counts = [0, 0, 0]
        note = f"{done:,} were done" if 0 < done < total else ""
        name = f"{step.id:20.20}"
        self.task = self.bars.add_task(escape(name), total=total or None, completed=done, note=note)

    def advance(self, kept: int, rejected: int, failed: int) -> None:
        """Rows got their answers."""
        self.counts = [a + b for a, b in zip(self.counts, (kept, rejected, failed), strict=True)]
        words = [
            f"{n:,} {w}" for n, w in zip(self.counts[1:], ("rejected", "failed"), strict=True) if n
        ]
        self.bars.update(self.task, advance=kept + rejected + failed, note=", ".join(words))

    def finish(self, report: StepReport) -> None:
        """A step is complete."""
        if report.reused or self.task is None:
            return
        note = f"{report.rows_out:,} {report.level}"
        lost = report.rows_in - report.kept
        if lost:
            note += f", {lost:,} lost"
        self.bars.update(self.task, total=report.rows_in, completed=report.rows_in, note=note)
        self.task = None
