"""Errors that a user can mend: shown as one line, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

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
