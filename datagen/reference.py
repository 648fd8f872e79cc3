"""``datagen operators``: what there is, and the settings of one, read off the code itself."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datagen import registry
from datagen.errors import DatagenError, nearest

_SETTING = re.compile(r"([a-z_]+)\s*:\s")


def overview(console: Console) -> None:
    """One line per operator, by kind."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("operator", "what it does"):
        table.add_column(heading)
    for kind in registry.KINDS:
        for name in registry.names(kind):
            text = inspect.getdoc(registry.find(kind, name)) or ""
            first = " ".join(text.partition("\n\n")[0].split())
            table.add_row(f"{kind}.{name}", escape(first.partition("; see :class:")[0]))
    console.print(table)


def explain(name: str, console: Console) -> None:
    """The documentation and settings of ``kind.name``. Raises DatagenError for unknown names."""
    kind, _, op = name.partition(".")
    if kind not in registry.KINDS:
        known = [f"{k}.{n}" for k in registry.KINDS for n in registry.names(k)]
        raise DatagenError(f"no operator '{name}'; {nearest(name, known)}")
    cls = registry.find(kind, op or registry.KINDS[kind].default or "")
    settings = cls.Settings
    for text in (inspect.getdoc(cls), inspect.getdoc(settings)):
        if text:
            console.print(escape(text.replace("``", "")), highlight=False)
            console.print()
    table = Table(box=None, header_style="bold", pad_edge=False)
    told = _comments(settings)
    headings = ["setting", "default", "type"] + (["meaning"] if told else [])
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for field, about in settings.model_fields.items():
        default = "must be given" if about.default is PydanticUndefined else repr(about.default)
        kind_of = str(about.annotation).replace("typing.", "").replace("<class '", "")
        cells = [field, default, kind_of.removesuffix("'>")] + ([told.get(field, "")] * bool(told))
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    console.print(f"\nlevels: {', '.join(cls.levels)}", highlight=False)


def _comments(settings: type[Any]) -> dict[str, str]:
    """The ``#:`` comments above the settings of a class, by setting."""
    out: dict[str, str] = {}
    waiting: list[str] = []
    for line in inspect.getsource(settings).splitlines():
        text = line.strip()
        if text.startswith("#:"):
            waiting.append(text[2:].strip())
        elif (match := _SETTING.match(text)) and waiting:
            out[match.group(1)] = " ".join(waiting).replace("``", "")
            waiting = []
        else:
            waiting = []
    return out
