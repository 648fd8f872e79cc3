"""Writes the report page of a run: one HTML file, and a folder of data and pictures beside it.

The page works from a disk as well as from a web server, and asks no other machine for anything.
Texts of the run are data in it: the template escapes them, scripts set them as text, and its
content security policy lets nothing run but the page's own code.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from markupsafe import Markup

from datagen import schema, store
from datagen.report import charts, chunks, earlier, funnel
from datagen.report._markdown import line
from datagen.report.chunks import Listing
from datagen.report.pictures import SIDE, Album, draw, limits_of
from datagen.report.rows import Gathered, gather
from datagen.report.statistics import Figure, Section, sections, statistics
from datagen.result import Run

FOLDER = "report"
#: Rows listed, and kept rows with pictures; of each rule half as many have pictures.
ROWS, PICTURES = 50_000, 1_000
ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("data.js", "cards.js", "details.js", "gallery.js", "theme.js")
_TITLES = {"level": "Level", "verdict": "Verdict", "step": "Step", "rule": "Rule", "split": "Split"}


def write(
    run: Run,
    *,
    pictures: int = PICTURES,
    rows: int = ROWS,
    stats: Mapping[str, Any] | None = None,
) -> str:
    """Write ``report/index.html`` into the run directory, and return its path.

    pictures: how many kept rows get pictures, and half as many of each rule; rows: how many are
    listed at most; stats: the figures of the run, if they are known already. Raises DatagenError
    where the directory cannot be read or written.
    """
    figures = sections(dict(statistics(run) if stats is None else stats))
    gathered = gather(run, rows)
    shown = chunks.listing(gathered.rows)
    wanted = shown.pictured(pictures, -(-pictures // 2))
    home = store.join(run.out, FOLDER)
    recipe = yaml.safe_dump(run.note["recipe"], sort_keys=False, allow_unicode=True, width=100)
    token = "data-" + schema.content_id(
        schema.canonical_json({**run.note, "funnel": run.funnel}), f"{pictures} {rows}"
    )
    # The page that stands is read until the last moment, and has pictures of what may be gone.
    before = earlier.in_force(home)
    token = earlier.beside(token, before)
    folder = store.join(home, token)
    store.make_folder(folder)
    known = store.join(home, before) if before else ""
    album = draw(wanted, run.out, folder, limits_of(run.note["recipe"]), known)
    chunks.write(shown, album.places, folder)
    page = _page(run, gathered, shown, album, token, figures, recipe)
    store.write_bytes(store.join(home, "recipe.yaml"), recipe.encode())
    path = store.join(home, "index.html")
    store.write_bytes(path, page.encode())
    # The page that stands there reads its own folder alone: those of earlier pages can go.
    for name in store.names(home):
        if name.startswith("data-") and name != token:
            store.remove(store.join(home, name))
    return path


def _page(
    run: Run,
    gathered: Gathered,
    shown: Listing,
    album: Album,
    folder: str,
    figures: Sequence[Section],
    recipe: str,
) -> str:
    note = run.note
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    code = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    js = f'(() => {{\n"use strict";\n{code}\n}})();'
    meta = {
        "folder": folder,
        "rows": gathered.rows.num_rows,
        "sizes": {"rows": chunks.ROWS, "members": chunks.MEMBERS, "texts": chunks.TEXTS},
        "side": SIDE,
        "sheets": album.sheets,
        "scores": [
            {"name": name, "label": _label(name), "whole": _whole(gathered.rows[name])}
            for name in shown.scores
        ],
    }
    steps = funnel.steps(run)
    densities = charts.densities(gathered.rows)
    levels = [one for one in ("triplets", "pairs", "items") if _has(gathered, one)]
    return str(
        _template().render(
            name=note["recipe"].get("name") or "run",
            about=note["recipe"].get("about") or "",
            status=run.status,
            error=note.get("error", ""),
            numbers=_numbers(run, gathered),
            facts=_facts(run),
            notes=_notes(gathered, album),
            listed_level=levels[0] if levels else "rows",
            facets=_TITLES.items(),
            listed_rules={key[2:4] for key in gathered.counts if key[3]},
            funnel=steps,
            waiting=[name for name in run.steps if name not in {step.id for step in steps}],
            histograms=charts.histograms(run, gathered.rows),
            densities=densities,
            rows_of_grid=charts.GRID[1],
            sections=[_section(one) for one in figures if one.figures],
            recipe=recipe,
            versions=note.get("versions", {}),
            meta=meta,
            meta_json=Markup(chunks.as_script(meta)),
            css=Markup(css),
            js=Markup(js),
            policy=policy(js, css),
        )
    )


def policy(js: str, css: str) -> str:
    """The content security policy: this code, what it loads, this style, pictures from here."""
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (js, css)
    ]
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'sha256-{digests[0]}' 'strict-dynamic'",
            f"style-src 'sha256-{digests[1]}'",
            "img-src 'self' file:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types datagen",
        ]
    )


@functools.cache
def _template() -> jinja2.Template:
    world = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    world.filters.update(n=lambda count: f"{count:,}", label=_label, short=_short, words=_words)
    world.globals.update(ticks=charts.ticks, shade=_shade)
    return world.get_template("page.html.j2")


def _label(score: str) -> str:
    return _words(score.removeprefix("score_"))


def _whole(column: pa.ChunkedArray) -> bool:
    """Whether the score counts something: then it is shown without decimals."""
    return all(float(value).is_integer() for value in pc.unique(column.drop_null()).to_pylist())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(value: float) -> str:
    return f"{value + 0.0:.4g}".replace("-", "−")


def _shade(count: int, most: int) -> float:
    """How dark a cell is: by the logarithm, as a few cells hold most of the points."""
    return math.log1p(count) / math.log1p(most)


def _has(gathered: Gathered, level: str) -> bool:
    return any(key[0] == level for key in gathered.counts)


def _numbers(run: Run, gathered: Gathered) -> list[tuple[int, str]]:
    """The numbers in the head: what came out, and what it was made of."""
    found = [(gathered.number("triplets", schema.KEPT), "triplets")]
    # A level is made once: the first step that leaves it says how many there were.
    for level in ("triplets", "pairs", "items"):
        made = [entry["rows_out"] for entry in run.funnel if entry["level"] == level]
        if made and level != "triplets":
            found.append((made[0], level))
        for verdict in (schema.REJECTED, schema.FAILED):
            if count := gathered.number(level, verdict):
                found.append((count, f"{level} {verdict}"))
    return found


def _facts(run: Run) -> list[str]:
    note = run.note
    facts = [f"seed {note.get('seed', 0)}"]
    with contextlib.suppress(Exception):  # a store that knows no times of files
        fs, inner = store.filesystem(store.join(run.out, "run.json"))
        changed: datetime = fs.modified(inner)
        facts.append(f"{run.status} {changed:%Y-%m-%d %H:%M} UTC")
    if version := note.get("versions", {}).get("datagen"):
        facts.append(f"datagen {version}")
    facts.append(f"{sum(entry['seconds'] for entry in run.funnel):,.0f} s of work")
    return facts


def _notes(gathered: Gathered, album: Album) -> list[str]:
    """What is shown of how much, in sentences."""
    listed, total = gathered.rows.num_rows, gathered.total
    if not total:
        return []
    what = " and ".join(_counted(gathered))
    first = (
        f"All {what} are listed"
        if listed == total
        else f"{listed:,} of {what} are listed, a fair sample of each verdict and rule"
    )
    drawn = len(album.places) - album.faults.total()
    pictures = f" Pictures of {drawn:,} items are in the page." if album.places else ""
    if album.kept:
        verb = "is" if album.kept == 1 else "are"
        pictures += f" {album.kept:,} of them {verb} of an earlier page: the media are gone."
    notes = [f"{first}.{pictures}"]
    if album.faults:
        reasons = ", ".join(f"{n:,} {_words(why)}" for why, n in album.faults.most_common())
        notes.append(f"{album.faults.total():,} items could not be read again: {reasons}.")
    return notes


def _counted(gathered: Gathered) -> list[str]:
    """``152 triplets``, ``30 rejected pairs``: rows of each level, and which of them these are."""
    found = []
    for level in ("triplets", "pairs", "items"):
        parts = {
            verdict: number
            for verdict in (schema.KEPT, schema.REJECTED, schema.FAILED)
            if (number := gathered.number(level, verdict))
        }
        of = "" if schema.KEPT in parts else f"{' or '.join(parts)} "
        if parts:
            found.append(f"{sum(parts.values()):,} {of}{level}")
    return found


def _section(section: Section) -> dict[str, Any]:
    """Texts and labels of the run may be of any length: a table holds their beginnings."""
    splits = dict.fromkeys(split for figure in section.figures for split in figure.values)
    figures = [
        Figure(
            line(figure.label),
            {split: line(text) for split, text in figure.values.items()},
            line(figure.note),
        )
        for figure in section.figures
    ]
    return {"title": section.title, "splits": list(splits), "figures": figures}
