"""Columns and templates: how settings of sources name what stands in a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from datagen.errors import DatagenError, RecipeError, nearest
from datagen.sources import _records

#: ``labels`` of a source: columns, or all that no other setting uses.
Labels = list[str] | Literal["all"] | None
#: What a setting says: one column or template, several, or none.
Rules = str | Sequence[str] | None

#: Settings whose rules may be templates; the others name columns as they are.
TEMPLATED = frozenset({"captions", "media"})

_FIELD = re.compile(r"\{([^{}]+)\}")


def listed(setting: str | Sequence[str] | None) -> list[str]:
    """One rule, several or none, as a list."""
    return [setting] if isinstance(setting, str) else list(setting or ())


def columns(rules: Iterable[str]) -> list[str]:
    """The columns that columns and templates name."""
    return [name for rule in rules for name in (_FIELD.findall(rule) if "{" in rule else [rule])]


def named(**settings: Rules) -> dict[str, str]:
    """Every column that a setting names, with the setting; a later setting counts more.

    ``labels`` may be ``all``, which names none.
    """
    found: dict[str, str] = {}
    for setting, rules in settings.items():
        if setting != "labels" or rules != "all":
            names = columns(listed(rules)) if setting in TEMPLATED else listed(rules)
            found.update(dict.fromkeys(names, setting))
    return found


def faults(
    place: str,
    known: Sequence[str],
    settings: Mapping[str, Rules],
    holds: Callable[[str], bool] | None = None,
) -> Iterator[str]:
    """One line for each column that a setting names and that is not among ``known``.

    Also for each template without a column: all rows would get the same text. holds: says of a
    name that is not known whether it is a field within a column.
    """
    for column, setting in named(**settings).items():
        if column not in known and not (holds is not None and holds(column)):
            hint = nearest(column, known)
            yield f"{place}: {setting} names column '{column}', which is not there; {hint}"
    for setting in sorted(TEMPLATED & settings.keys()):
        for rule in listed(settings[setting]):
            if "{" in rule and not _FIELD.search(rule):
                yield (
                    f"{place}: {setting}: '{rule}' names no column; a template has columns in "
                    'braces, such as "{title}, {colour}"'
                )


def told(found: Iterable[str]) -> Iterator[str]:
    """The faults that are found, and as the last one what is raised on the way."""
    try:
        yield from found
    except DatagenError as error:
        yield str(error)


def refuse(found: Iterable[str]) -> None:
    """Raises RecipeError where there are faults."""
    if lines := list(found):
        raise RecipeError(lines)


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
