"""What a run says while it works: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from datagen.plan import Planned
from datagen.runs import StepReport

#: Seconds between two lines about a step that goes on, where there is no terminal.
PATIENCE = 60.0

#: Width of a step's name; longer names are cut.
NAME = 16

#: What a line takes beside its bar: name, count, rate, note, gaps.
BESIDE = NAME + 15 + 9 + 27 + 4


class Lines:
    """A line when a step is complete, and one a minute while it is not; none when quiet."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self.step = ""
        self.total = self.done = 0
        self.said = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def start(self, step: Planned, total: int, done: int) -> None:
        """A step begins."""
        self.step, self.total, self.done = step.id, total, done
        self.said = time.monotonic()
        if 0 < done < total:
            self._say(f"{step.id}: going on, {done:,} of {total:,} done")

    def advance(self, kept: int, rejected: int, failed: int) -> None:
        """Rows got their answers."""
        self.done += kept + rejected + failed
        if time.monotonic() - self.said >= PATIENCE:
            self.said = time.monotonic()
            of = f" of {self.total:,}" if self.total else ""
            self._say(f"{self.step}: {self.done:,}{of} done")

    def note(self, text: str, often: bool = False) -> None:
        """What a step does before its rows get answers."""
        if not often or time.monotonic() - self.said >= PATIENCE:
            self.said = time.monotonic()
            self._say(f"{self.step}: {text}")

    def finish(self, report: StepReport) -> None:
        """A step is complete."""
        if not report.reused:
            self._say(
                f"{report.id}: {report.rows_in:,} in, {report.rows_out:,} {report.level} out, "
                f"{report.seconds:.1f} s"
            )

    def _say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, highlight=False, soft_wrap=True)


class Bars:
    """A bar per step with its rate and the time left."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # A narrow terminal gets short bars, so that no figure is cut.
        bar = max(4, min(28, console.width - BESIDE))
        self.bars = Progress(
            _Name(table_column=Column(no_wrap=True)),
            BarColumn(bar_width=bar),
            _Count(table_column=Column(no_wrap=True, justify="right", min_width=11)),
            _Pace(table_column=Column(no_wrap=True, justify="right", min_width=8)),
            _Note(table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
        )
        self.task: Any = None
        self.rejected = self.failed = 0

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bars.stop()

    def start(self, step: Planned, total: int, done: int) -> None:
        """A step begins; ``total`` 0 means that the number of rows is not known yet."""
        self.rejected = self.failed = 0
        note = f"{done:,} were done" if 0 < done < total else "starting"
        self.task = self.bars.add_task(
            step.id, total=total or None, completed=done, note=note, seconds=None
        )

    def advance(self, kept: int, rejected: int, failed: int) -> None:
        """Rows got their answers."""
        self.rejected += rejected
        self.failed += failed
        counts = ((self.rejected, "rejected"), (self.failed, "failed"))
        note = ", ".join(f"{count:,} {word}" for count, word in counts if count)
        self.bars.update(self.task, advance=kept + rejected + failed, note=note)

    def note(self, text: str, often: bool = False) -> None:
        """What a step does before its rows get answers."""
        self.bars.update(self.task, note=text)

    def finish(self, report: StepReport) -> None:
        """A step is complete."""
        if report.reused or self.task is None:
            return
        note = f"{report.rows_out:,} {report.level}"
        lost = report.rows_in - report.kept
        if lost:
            note += f", {lost:,} lost"
        rows = report.rows_in or 1
        self.bars.update(self.task, total=rows, completed=rows, note=note, seconds=report.seconds)
        self.task = None


class _Name(ProgressColumn):
    """The step, cut to a fixed width so that the bars stand in line from the first."""

    def render(self, task: Task) -> Text:
        name = task.description
        short = name if len(name) <= NAME else name[: NAME - 1] + "…"
        return Text(f"{short:{NAME}}")


class _Count(ProgressColumn):
    """Rows done, of all while the step goes on."""

    def render(self, task: Task) -> Text:
        done = f"{task.completed:,.0f}"
        going = task.fields["seconds"] is None and task.total is not None
        return Text(f"{done}/{task.total:,.0f}" if going else done, style="green")


class _Pace(ProgressColumn):
    """Rows per second, then the time that the step took."""

    def render(self, task: Task) -> Text:
        seconds = task.fields["seconds"]
        if seconds is not None:
            return Text(_duration(seconds))
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="dim")


class _Note(ProgressColumn):
    """The time left and what was lost, then what came out."""

    def render(self, task: Task) -> Text:
        left = task.time_remaining if task.fields["seconds"] is None else None
        words = [f"{_duration(left)} left"] if left else []
        return Text(", ".join([*words, *filter(None, [task.fields["note"]])]), style="dim")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"
