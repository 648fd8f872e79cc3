"""What the command prints is whole and in line at 80 columns."""

import io
import shlex
import subprocess
import sys

import pytest
from rich.console import Console

from datagen import cli, progress, reference, registry
from datagen.plan import Planned
from datagen.runs import StepReport

REPORTS = [
    StepReport("source", "source", "folder", "items", 1_234_567, 1_204_567, {"same_content": 12},
               {"truncated": 29_988}, 1_204_567, 75.0),
    StepReport("one_word_diff", "pair", "one_word_diff", "pairs", 1_204_567, 900_000,
               {"no_partner": 304_567}, {}, 2_000_111, 3.25),
    StepReport("duplicates", "filter", "duplicates", "triplets", 2_000_111, 1_900_000,
               {"repeated_triplet": 111, "same_picture": 100_000}, {}, 1_900_000, 12.0),
]  # fmt: skip


def screen(width=80):
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def step(name):
    return Planned(name, "filter", name, "", "", "", {})


def test_the_funnel_of_millions_of_rows_fits_80_columns_with_each_rule_whole():
    console = screen()
    console.print(cli.funnel(REPORTS))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("100,000 same_picture", "111 repeated_triplet", "304,567 no_partner"):
        assert any(line.rstrip().endswith(whole) for line in text.splitlines())


@pytest.mark.parametrize("width", [80, 200])
def test_bars_cut_no_figure_and_stand_in_line(width):
    console = screen(width)
    with progress.Bars(console) as bars:
        for report in REPORTS:
            bars.start(step(report.id), report.rows_in, 0)
            bars.advance(report.kept, report.rows_in - report.kept, 0)
            bars.finish(report)
    final = Console(file=io.StringIO(), width=width)
    final.print(bars.bars.get_renderable())
    lines = [line.rstrip() for line in final.file.getvalue().splitlines()]
    assert [len(line) <= width and "…" not in line for line in lines] == [True] * 3
    assert lines[0].split() == [
        *("source", lines[0].split()[1], "1,234,567", "1:15", "min"),
        *("1,204,567", "items,", "30,000", "lost"),
    ]
    assert len({line.index("━") for line in lines}) == 1


def test_a_step_that_goes_on_for_long_says_so_in_a_log(monkeypatch):
    console = screen()
    lines = progress.Lines(console)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines.start(step("clip"), 1000, 0)
    for _ in range(10):
        now[0] += progress.PATIENCE / 4
        lines.advance(50, 0, 0)
    said = console.file.getvalue().splitlines()
    assert said == ["clip: 200 of 1,000 done", "clip: 400 of 1,000 done"]


def test_quiet_lines_say_nothing():
    console = screen()
    lines = progress.Lines(console, quiet=True)
    lines.start(step("clip"), 10, 5)
    lines.finish(REPORTS[0])
    assert console.file.getvalue() == ""


def test_the_way_on_after_a_stop_can_be_pasted_into_a_shell(monkeypatch, capfd):
    arguments = ["run", "demo", "--out", "my runs/it's one", "source.count=5"]
    monkeypatch.setattr("sys.argv", ["datagen", *arguments])
    monkeypatch.setattr(cli, "err", Console(stderr=True, width=40))

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("datagen.runs.run", stopped)
    with pytest.raises(SystemExit) as ended:
        cli.app(args=arguments, prog_name="datagen")
    assert ended.value.code == 130
    assert shlex.split(capfd.readouterr().err.splitlines()[-1]) == ["datagen", *arguments]


@pytest.mark.parametrize("kind", sorted(registry.KINDS))
def test_every_operator_is_explained_without_markup(kind):
    for name in registry.names(kind):
        console = screen(100)
        reference.explain(f"{kind}.{name}", console)
        text = console.file.getvalue()
        assert not [mark for mark in ("``", ":class:", "NoneType", "PydanticUndefined")
                    if mark in text]  # fmt: skip
        for setting in registry.find(kind, name).Settings.model_fields:
            assert f"\n{setting} " in text


def test_the_version_is_said():
    done = subprocess.run(
        [sys.executable, "-m", "datagen", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("datagen 0.")
