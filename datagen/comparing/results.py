"""What a comparison tells: a table, ``compare.json``, and a page with a plot."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from datagen import store
from datagen.comparing.trials import Trial

FILE, PAGE = "compare.json", "compare.html"
#: The plot, in pixels: where the scale begins, its width, a line's height.
_LEFT, _WIDTH, _LINE = 14, 600, 56
#: The longest name of a recipe in the plot, in letters.
_NAME = 40
#: Columns behind the recipe's name and the metric; what is told in one as in :func:`cells`.
_HEADS = ("±", "triplets", "per 1,000\ntriplets", "seconds", "per\nhour", "asked", "painted")


def record(trials: Sequence[Trial], metric: str) -> list[dict[str, Any]]:
    """Rows of the comparison, the best first; recall in per cent.

    per_thousand: per thousand triplets of the run; per_hour: per hour of the run's steps;
    per_thousand_asks: per thousand rows that a language model was asked about or a picture was
    painted for (None where there were none).
    """
    found = []
    for one in sorted(trials, key=lambda one: -one.mean(metric)):
        mean, work = 100 * one.mean(metric), one.cost.asked + one.cost.painted
        found.append(
            {
                "recipe": one.name,
                "run": one.run,
                "triplets": one.triplets,
                "trained_on": one.trained_on,
                "mean": mean,
                "spread": 100 * one.spread(metric),
                "values": [100 * value for value in one.figures[metric]],
                "per_thousand": 1000 * mean / one.triplets,
                "seconds": one.cost.seconds,
                "per_hour": 3600 * mean / one.cost.seconds if one.cost.seconds else None,
                "asked": one.cost.asked,
                "painted": one.cost.painted,
                "per_thousand_asks": 1000 * mean / work if work else None,
                "figures": {
                    name: [100 * value for value in values] for name, values in one.figures.items()
                },
            }
        )
    return found


def table(rows: Sequence[Mapping[str, Any]], metric: str) -> Table:
    """A line a recipe, without columns in which no recipe has anything."""
    out = Table(box=None, header_style="bold", pad_edge=False)
    out.add_column("recipe", overflow="fold")
    lines = [cells(row) for row in rows]
    heads = (metric, *_HEADS)
    told = [at for at in range(len(heads)) if not at or any(_said(line[at]) for line in lines)]
    for at in told:
        out.add_column(heads[at], justify="right", no_wrap=True)
    for row, line in zip(rows, lines, strict=True):
        out.add_row(escape(row["recipe"]), *(line[at] for at in told))
    return out


def _said(cell: str) -> bool:
    return cell not in ("0", "–")


def cells(row: Mapping[str, Any]) -> list[str]:
    """The figures of a line as texts."""
    return [
        f"{row['mean']:.2f}",
        f"{row['spread']:.2f}" if len(row["values"]) > 1 else "–",
        f"{row['triplets']:,}",
        f"{row['per_thousand']:.2f}",
        f"{row['seconds']:,.0f}",
        "–" if row["per_hour"] is None else f"{row['per_hour']:,.1f}",
        f"{row['asked']:,}",
        f"{row['painted']:,}",
    ]


def write(out: str, rows: Sequence[Mapping[str, Any]], metric: str, about: str) -> list[str]:
    """Write ``compare.json`` and the page into ``out``; gives their paths.

    about: what was trained on and measured on, in words.
    """
    paths = [os.path.join(out, name) for name in (FILE, PAGE)]
    store.write_json(paths[0], {"metric": metric, "about": about, "recipes": list(rows)})
    here = Path(__file__).parent
    style = (here / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html.j2").render(
        policy=f"default-src 'none'; style-src 'sha256-{digest}'",
        style=Markup(style),
        metric=metric,
        about=about,
        rows=[(row["recipe"], cells(row)) for row in rows],
        plot=_plot(rows),
    )
    store.write_bytes(paths[1], html.encode())
    return paths


def _plot(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Places of a dot for each seed, of the mean, and of a line one deviation to both sides."""
    highest = max((max(row["values"]) for row in rows), default=0.0)
    step = next(size for size in (1, 2, 5, 10, 20, 25) if size * 5 >= highest or size == 25)
    top = min(100, step * max(1, math.ceil(highest / step)))

    def place(value: float) -> float:
        return round(_LEFT + _WIDTH * min(max(value, 0.0), top) / top, 1)

    lines = [
        {
            "name": _short(row["recipe"]),
            "y": 40 + number * _LINE,
            "dots": [place(value) for value in row["values"]],
            "mean": place(row["mean"]),
            "low": place(row["mean"] - row["spread"]),
            "high": place(row["mean"] + row["spread"]),
            "said": f"{row['mean']:.1f}",
        }
        for number, row in enumerate(rows)
    ]
    bottom = 10 + len(rows) * _LINE
    ticks = [{"x": place(value), "said": value} for value in range(0, int(top) + 1, step)]
    size = {"width": _LEFT + _WIDTH + 20, "height": bottom + 34}
    return {**size, "left": _LEFT, "bottom": bottom, "lines": lines, "ticks": ticks}


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"
