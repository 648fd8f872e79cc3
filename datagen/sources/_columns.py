"""Columns and templates: how settings of sources name what stands in a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from datagen.errors import nearest
from datagen.sources import _records

#: ``labels`` of a source: columns, or all that no other setting uses.
Labels = list[str] | Literal["all"] | None

_FIELD = re.compile(r"\{([^{}]+)\}")


def listed(setting: str | Sequence[str] | None) -> list[str]:
    """One rule, several or none, as a list."""
    return [setting] if isinstance(setting, str) else list(setting or ())


def columns(rules: Iterable[str]) -> list[str]:
    """The columns that columns and templates name."""
    return [name for rule in rules for name in (_FIELD.findall(rule) if "{" in rule else [rule])]


def named(**settings: str | Sequence[str] | None) -> dict[str, str]:
    """Every column that a setting names, with the setting; a later setting counts more.

    ``labels`` may be ``all``, which names none.
    """
    found: dict[str, str] = {}
    for setting, rules in settings.items():
        if setting != "labels" or rules != "all":
            found.update(dict.fromkeys(columns(listed(rules)), setting))
    return found


def unknown(
    place: str, names: Mapping[str, str], known: Sequence[str], dotted: bool = False
) -> Iterator[str]:
    """One line for each of ``names`` (column to setting) that is not among ``known``.

    dotted: of ``json.caption`` only ``json`` must be known.
    """
    for column, setting in names.items():
        if column not in known and not (dotted and column.partition(".")[0] in known):
            hint = nearest(column, known)
            yield f"{place}: {setting} names column '{column}', which is not there; {hint}"


def value(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of a field within it (``json.meta.title``); None if there is none.

    Of a list of objects it is the list of their fields.
    """
    if name in row or "." not in name:
        return row.get(name)
    head, _, rest = name.partition(".")
    return _within(row.get(head), rest)


def _within(inner: Any, name: str) -> Any:
    if isinstance(inner, Mapping):
        return value(inner, name)
    if isinstance(inner, (list, tuple)):
        return [_within(part, name) for part in inner]
    return None


def filled(rule: str, row: Mapping[str, Any]) -> list[str]:
    """Texts by a column or a template; a template with an empty field gives none."""
    if "{" not in rule:
        return _records.texts(value(row, rule))
    fields = {name: ", ".join(_records.texts(value(row, name))) for name in _FIELD.findall(rule)}
    if not all(fields.values()):
        return []
    return _records.texts(_FIELD.sub(lambda found: fields[found[1]], rule))


def labels(row: Mapping[str, Any], chosen: Labels, used: Iterable[str | None]) -> dict[str, Any]:
    """The labels of a row: the chosen columns, or all but the ``used`` rules that are columns."""
    if chosen == "all":
        without = {rule for rule in used if rule is not None and "{" not in rule}
        return {name: part for name, part in row.items() if name not in without}
    return {name: value(row, name) for name in chosen or ()}
