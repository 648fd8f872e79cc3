"""Errors that a user can mend: shown as one line, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

#: A message names no more words than this: files of others may have any number of columns.
MOST_WORDS = 40


class DatagenError(Exception):
    """A problem with a recipe, a source, a machine or a run that the user can mend.

    The message is one line: the place, what was expected, and how to mend it.
    """


class RecipeError(DatagenError):
    """One or more faults in a recipe, each a line of its own in ``faults``."""

    def __init__(self, faults: Iterable[str] | str) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


def of_settings(place: str, error: ValidationError, data: Any, known: Iterable[str]) -> list[str]:
    """The faults of settings, one line each: where, what was expected, what was found.

    data: the settings as they were given; known: names of settings. What a setting may be in
    several ways is one line.
    """
    lines: list[str] = []
    wrong: dict[str, tuple[list[str], Any]] = {}
    for problem in error.errors():
        where = ".".join([place, *_way(problem["loc"], data)])
        kind, given = problem["type"], problem["input"]
        if kind == "extra_forbidden":
            name = str(problem["loc"][-1])
            if len(problem["loc"]) > 1:  # ``known`` are names of the outermost settings
                lines.append(f"{where}: unknown setting '{name}'")
            else:
                lines.append(f"{where}: unknown setting; {nearest(name, known)}")
        elif kind in ("union_tag_not_found", "union_tag_invalid"):
            about = problem["ctx"]
            tag, valid = str(about["discriminator"]).strip("'"), about.get("expected_tags")
            way = f"no '{about['tag']}'; valid: {valid}" if valid else "must be given"
            lines.append(f"{where}.{tag}: {way}")
        elif kind == "missing" and not isinstance((problem["loc"] or [""])[-1], int):
            lines.append(f"{where}: must be given")
        elif kind == "too_short" and len(given) >= problem["ctx"]["min_length"]:
            # Said of a list whose elements are wrong, which is told of each of them.
            continue
        else:
            message = problem["msg"].removeprefix("Value error, ")
            said = "a list expected" if kind in ("tuple_type", "list_type") else message
            said = "too few values" if kind == "missing" else said
            told, _ = wrong.setdefault(where, ([], given))
            told.append(said)
    for where, (told, given) in wrong.items():
        found = ", {!r} found" if told == ["a list expected"] else " (found {!r})"
        # Of settings that do not fit together, the message names those that matter.
        found = "" if where == place and isinstance(given, Mapping) else found
        lines.append(f"{where}: {' or '.join(dict.fromkeys(told))}{found.format(given)}")
    return lines


def _way(loc: Sequence[int | str], data: Any) -> list[str]:
    """Keys and places on the way to a fault; not the names of the types that were tried there."""
    out = []
    for part in loc:
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            break
        out.append(str(part))
    return out


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint such as ``did you mean 'model'?``, or the list of valid words."""
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {shortened(known)}" if known else "none is valid here"


def shortened(words: Sequence[str]) -> str:
    """Words of somebody else's file as a list that stays readable: the first of many, cut."""
    told = ", ".join(word if len(word) <= 60 else word[:59] + "…" for word in words[:MOST_WORDS])
    return told if len(words) <= MOST_WORDS else f"{told}, … ({len(words):,} in all)"
