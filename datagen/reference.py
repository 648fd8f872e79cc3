"""``datagen operators``: what there is, and the settings of one, read off the code itself."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datagen import registry
from datagen.errors import DatagenError, nearest
from datagen.step import Filter, Operator, Settings

_SETTING = re.compile(r"([a-z_]+)\s*:\s")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")
#: Words that only send a reader of the code from one class to the other.
_SEE = re.compile(r"; see :class:`\w+`|^Settings of :class:`\w+`\.\n*")


def overview(console: Console, only: str | None = None) -> None:
    """One line per operator, by kind; of one kind if ``only`` names it."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("operator", "what it does"):
        table.add_column(heading)
    for kind in registry.KINDS if only is None else [only]:
        for name in registry.names(kind):
            table.add_row(f"{kind}.{name}", escape(_first_sentence(registry.find(kind, name))))
    console.print(table)


def explain(name: str, console: Console) -> None:
    """The documentation and settings of one operator.

    ``name`` is ``kind.name``, or ``file.py:Class`` or ``package.module:Class``; a kind alone
    lists its operators. Raises DatagenError for unknown names.
    """
    if name in registry.KINDS:
        overview(console, name)
        return
    cls = _class(name)
    settings = cls.Settings
    for text in (inspect.getdoc(cls), vars(settings).get("__doc__")):
        _tell(inspect.cleandoc(text or ""), settings, console)
    _tell_settings(settings, console)
    for place, inner in _nested(settings):
        console.print(f"[bold]{escape(place)}[/bold]", highlight=False)
        _tell(inspect.cleandoc(vars(inner).get("__doc__") or ""), inner, console)
        _tell_settings(inner, console)
    if issubclass(cls, Filter) and cls.rules:
        rules = ", ".join(sorted(cls.rules))
        console.print(f"rules, which 'datagen refilter' changes: {rules}", highlight=False)
    console.print(f"works on: {', '.join(cls.levels)}", highlight=False)


def _tell(text: str, settings: type[BaseModel], console: Console) -> None:
    """A docstring."""
    for paragraph in _paragraphs(text, settings.model_fields):
        console.print(escape(paragraph), highlight=False)
        console.print()


def _tell_settings(settings: type[BaseModel], console: Console) -> None:
    """A table of settings: name, default, type, and what their comments say."""
    fields = dict(settings.model_fields)
    if _kind(settings):
        del fields["kind"]
    told: dict[str, str] = {}
    for one in settings.__mro__:
        if issubclass(one, Settings):
            told = _comments(one) | told
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ["setting", "default", "type"] + (["meaning"] if told else []):
        table.add_column(heading, overflow="fold")
    for field, about in fields.items():
        default = "must be given" if about.is_required() else _yaml(_default(about))
        cells = [field, default, _type(about.annotation)] + ([told.get(field, "")] * bool(told))
        table.add_row(*(escape(cell) for cell in cells))
    if fields:
        console.print(table)
        console.print()


def _nested(
    settings: type[BaseModel], above: Sequence[str] = ("",)
) -> Iterator[tuple[str, type[BaseModel]]]:
    """Settings that are mappings of settings: where they stand, with their kind, and what they are.

    Those that several places share are told once.
    """
    places: dict[type[BaseModel], list[str]] = {}
    for name, about in settings.model_fields.items():
        for inner in _models(about.annotation):
            places.setdefault(inner, []).extend(f"{place}{name}" for place in above)
    for inner, where in places.items():
        kind = _kind(inner)
        yield " and ".join(where) + (f" of kind {kind}" if kind else ""), inner
        yield from _nested(inner, [f"{place}." for place in where])


def _kind(settings: type[BaseModel]) -> str | None:
    """What ``kind`` must say for these settings to be meant; None where they have no kind."""
    about = settings.model_fields.get("kind")
    values = typing.get_args(about.annotation) if about else ()
    return str(values[0]) if len(values) == 1 else None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inside in typing.get_args(annotation):
        yield from _models(inside)


def _class(name: str) -> type[Operator[Any]]:
    if ":" in name:
        # The kind matters to names only; a file or module may be given with or without one.
        kind, _, rest = name.partition(".")
        return registry.find("filter", rest if kind in registry.KINDS else name)
    kind, _, op = name.partition(".")
    if kind not in registry.KINDS:
        known = [f"{k}.{n}" for k in registry.KINDS for n in registry.names(k)]
        raise DatagenError(f"no operator '{name}'; {nearest(name, known)}")
    return registry.find(kind, op)


def _first_sentence(cls: type[Operator[Any]]) -> str:
    first = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
    return _plain(first).partition(". ")[0].rstrip(".")


def _plain(text: str) -> str:
    """A docstring without its markup."""
    return _ROLE.sub(r"\1", _SEE.sub("", text)).replace("``", "")


def _paragraphs(text: str, fields: Iterable[str]) -> list[str]:
    """The paragraphs of a docstring, unwrapped; each setting that a line tells begins a new one."""
    starts = tuple(f"{field}: " for field in fields)
    found: list[str] = []
    for block in filter(None, _plain(text).split("\n\n")):
        lines: list[str] = []
        for line in block.splitlines():
            if not lines or line.startswith(starts):
                lines.append(line.strip())
            else:
                lines[-1] += " " + line.strip()
        found.append("\n".join(lines))
    return found


def _yaml(value: Any) -> str:
    """A default as a recipe would say it."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, str):
        return value or "''"
    return json.dumps(value, ensure_ascii=False, default=str)


def _type(annotation: Any) -> str:
    """A type in the words of a recipe: ``str | null``, ``'low' | 'high'``."""
    if annotation is type(None):
        return "null"
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type(inside[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = _kind(annotation)
        return f"{{kind: {kind}, …}}" if kind else "{…}"
    if origin is Literal:
        return " | ".join(repr(value) for value in inside)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type(one) for one in inside)
    if origin is tuple and inside[1:] == (Ellipsis,):
        return f"list[{_type(inside[0])}]"
    if origin is not None and inside:
        return f"{origin.__name__}[{', '.join(_type(one) for one in inside)}]"
    return getattr(annotation, "__name__", str(annotation))


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


def _default(about: FieldInfo) -> Any:
    """The default of a setting, made where it is a list or mapping."""
    return about.get_default(call_default_factory=True, validated_data={})
