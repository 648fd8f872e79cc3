"""Writes the dataset card of a run, ``README.md``, as the Hugging Face Hub reads it.

Captions, keys and labels in it are data: they stand in code spans or escaped, so that nothing in
them becomes markup, a link or another table cell.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from datagen import store
from datagen.report import _columns, _hub, _markdown, _steps
from datagen.report._markdown import Safe
from datagen.report.sections import Section, licence_of, number, percent, sections
from datagen.report.statistics import statistics
from datagen.result import Run

#: Triplets shown as examples.
EXAMPLES = 5
#: Sections of figures that the card tells in another place.
_ELSEWHERE = ("Sources", "Made by steps", "Models", "Not measured")
#: A run that was killed still calls itself running.
_STATES = {"stopped": "was stopped", "failed": "has failed"}
_TEMPLATES = Path(__file__).parent / "templates"
_MARK = "<!-- datagen card {} -->"
_LAST = re.compile(r"\n<!-- datagen card ([0-9a-f]{16}) -->\n$")


def write(run: Run, stats: Mapping[str, Any] | None = None) -> str:
    """Write the card and ``report/statistics.json`` into the run directory; the card's path.

    stats: the figures of the run, if they are known already. A ``README.md`` that a person has
    written or changed stays: the card then goes to ``report/README.md``.
    """
    found = dict(statistics(run) if stats is None else stats)
    store.make_folder(store.join(run.out, "report"))
    store.write_json(store.join(run.out, "report", "statistics.json"), found)
    path = store.join(run.out, "README.md")
    if store.exists(path) and not _ours(store.read_bytes(path)):
        path = store.join(run.out, "report", "README.md")
    store.write_bytes(path, render(run, found).encode())
    return path


def _ours(data: bytes) -> bool:
    """Whether this is a card as datagen wrote it, to the letter."""
    text = data.decode(errors="replace")
    found = _LAST.search(text)
    return found is not None and _digest(text[: found.start() + 1]) == found[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def render(run: Run, stats: Mapping[str, Any]) -> str:
    """The text of the card: YAML head, then Markdown."""
    head = _yaml(_hub.metadata(run, stats))
    body = (
        _environment()
        .get_template("card.md.j2")
        .render(
            stats=stats,
            state=_STATES.get(run.status, "is not finished"),
            examples=examples(run) if stats["splits"] else [],
            sections=[_table(one) for one in sections(dict(stats)) if one.title not in _ELSEWHERE],
            funnel=_funnel(stats),
            recipe=_markdown.block(recipe_text(stats["run"]["recipe"]), "yaml"),
            prompts=[
                _markdown.block(prompt)
                for prompt in dict.fromkeys(line["prompt"] for line in stats["provenance"])
                if prompt
            ],
            reading=_reading(run, stats),
        )
    )
    text = f"---\n{head}---\n\n{_tidy(body)}\n"
    return text + _MARK.format(_digest(text)) + "\n"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        # Markdown, not HTML: what a template prints goes through inert() instead.
        autoescape=False,
        finalize=_markdown.inert,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": _markdown.code,
        "number": number,
        "percent": percent,
        "licence": licence_of,
    }
    return environment


def _tidy(body: str) -> str:
    """At most one empty line in a row, and no spaces behind the rows of tables."""
    rows = re.sub(r"^(\|.*?) +$", r"\1", body, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", rows).strip() + "\n"


def _table(section: Section) -> dict[str, Any]:
    """A section as a table: one column per split, and one of notes where there are any."""
    columns = list(dict.fromkeys(name for figure in section.figures for name in figure.values))
    rows = [
        {
            "label": figure.label,
            "texts": [figure.values.get(name, "") for name in columns],
            "note": figure.note,
        }
        for figure in section.figures
    ]
    notes = any(row["note"] for row in rows)
    return {"title": section.title, "columns": columns, "rows": rows, "notes": notes}


def _funnel(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    thresholds = {step["id"]: step["thresholds"] for step in stats["steps"]}
    return [{**step, "thresholds": thresholds.get(step["id"], {})} for step in stats["funnel"]]


def examples(run: Run, most: int = EXAMPLES) -> list[dict[str, str | None]]:
    """Captions (else keys) and texts of the first kept triplets."""
    fields = ("caption", "key")
    wanted = [f"{role}.{field}" for role in ("references", "targets") for field in fields]
    found: list[dict[str, str | None]] = []
    path = _steps.triplets_path(run) or ""
    for batch in _columns.batches(path, ["modification", "verdict", *wanted]):
        for row in _columns.kept(batch).slice(0, most - len(found)).to_pylist():
            found.append(
                {
                    "reference": _told(row["references"]),
                    "modification": row["modification"],
                    "target": _told(row["targets"]),
                }
            )
        if len(found) >= most:
            break
    return found


def _told(members: Sequence[Mapping[str, Any]] | None) -> str | None:
    return " / ".join(str(one["caption"] or one["key"]) for one in members or ()) or None


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML; a password in an address is left out."""
    return re.sub(r"(\w+://)[^/\s@'\"]+@", r"\1…@", _yaml(recipe))


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: not every reader knows references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: Mapping[str, Any]) -> str:
    text: str = yaml.dump(
        dict(value), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100
    )
    return text


def _reading(run: Run, stats: Mapping[str, Any]) -> Safe:
    """How to load the data with datagen, datasets and webdataset."""
    lines = ["import datagen", "", 'run = datagen.load("PATH/OF/THIS/FOLDER")']
    lines += ["run.triplets().to_pandas()  # every column; run.samples() gives the media too"]
    shards = stats["shards"]
    if shards is None:
        return _markdown.block("\n".join(lines), "python")
    split, names = next(iter(shards["names"].items()))
    stem = names[0].rpartition("-")[0]
    last = f"{len(names) - 1:06d}"
    pattern = f"{stem}-{{000000..{last}}}.tar" if len(names) > 1 else names[0]
    lines += [
        "",
        "import datasets",
        "",
        f'rows = datasets.load_dataset("PATH/OF/THIS/FOLDER", split="{split}", streaming=True)',
        "",
        "import os",
        "",
        'os.environ["WDS_SECURE"] = "1"  # nothing is ever unpickled',
        "import webdataset",
        "",
        f'rows = webdataset.WebDataset("shards/{pattern}", shardshuffle=False)',
    ]
    told = (
        "Each triplet is a group of members of a tar with one key: `KEY.reference.EXT`, "
        "`KEY.target.EXT`, `KEY.negative.0.EXT`, … (original bytes), `KEY.txt` (the modification) "
        "and `KEY.json` (captions, labels, scores, evidence, provenance)."
    )
    return Safe(told + "\n\n" + _markdown.block("\n".join(lines), "python"))
