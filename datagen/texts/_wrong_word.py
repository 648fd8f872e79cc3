"""Makes a modification text wrong in one word, by a word that could stand there."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from datagen import schema
from datagen.texts._label import CAPTION_FIELDS, is_code
from datagen.texts._words import with_article


class Spoiler:
    """Knows which words take the place of one another in a run.

    A word of a caption can be exchanged for those that stand against it in the changes of any
    row, or against these; the value of a label for any other value of that label.
    """

    def __init__(self, evidence: pa.ChunkedArray, items: pa.Table) -> None:
        self._against: dict[str, set[str]] = defaultdict(set)
        self._values: dict[str, set[str]] = defaultdict(set)
        for chunk in evidence.chunks:
            for change in chunk.field("changes").flatten().to_pylist():
                self._learn(change)
        for text in items["labels"].unique().to_pylist():
            for field, value in _labels(text).items():
                if field in self._values:
                    self._values[field].add(value)

    def _learn(self, change: Mapping[str, Any]) -> None:
        field, sides = change["field"] or "", (change["removed"], change["added"])
        if _is_of_caption(field):
            old, new = (_folded(side) for side in sides)
            if old and new:
                self._against[old].add(new)
                self._against[new].add(old)
        elif not is_code(field, *sides):
            self._values[field].update(side for side in sides if side)

    def text(self, row: Mapping[str, Any], seed: int) -> str | None:
        """The text of ``row`` with one word wrong; None where no word can be exchanged.

        ``row`` has id, modification, targets and evidence. Only what the evidence names as added
        is exchanged, where it stands in the text as a word of its own, and only once.
        """
        text = row["modification"] or ""
        changes = (row["evidence"] or {}).get("changes") or []
        said = {_folded(change[side]) for change in changes for side in ("removed", "added")}
        shown = [_folded(member["caption"]) for member in row["targets"] or ()]
        options: list[tuple[str, str]] = []
        for change in changes:
            added, field = change["added"], change["field"] or ""
            if not added or not _found(added, text):
                continue
            true = {_folded(_labels(member["labels"]).get(field)) for member in row["targets"]}
            options += [
                (added, other)
                for other in self._others(field, added)
                if _folded(other) not in said | true
                and not any(_found(other, where) for where in (text, *shown))
            ]
        if not options:
            return None
        added, other = min(
            options, key=lambda pair: schema.content_id("partial", str(seed), row["id"], *pair)
        )
        return _exchanged(text, added, other)

    def _others(self, field: str, word: str) -> Iterable[str]:
        if not _is_of_caption(field):
            return self._values.get(field, set()) - {word}
        near = self._against.get(_folded(word), set())
        far = {other for one in near for other in self._against[one]}
        return (near | far) - {_folded(word)}


def _is_of_caption(field: str) -> bool:
    return field.lower() in CAPTION_FIELDS


def _labels(text: str | None) -> dict[str, str]:
    """Labels that have one word or number as their value."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    plain = {name: value for name, value in found.items() if not isinstance(value, bool)}
    return {name: str(v) for name, v in plain.items() if isinstance(v, (str, int, float)) and v}


def _folded(text: str | None) -> str:
    return " ".join((text or "").casefold().split())


def _found(word: str, text: str) -> re.Match[str] | None:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)


def _exchanged(text: str, word: str, other: str) -> str:
    """``text`` with the first ``word`` given way to ``other``, in its case, with its article."""
    hit = _found(word, text)
    assert hit is not None
    before, after = text[: hit.start()], text[hit.end() :]
    if hit.group()[:1].isupper() and other[:1].islower():
        other = other[:1].upper() + other[1:]
    article = re.search(r"(?<!\w)(an?) $", before, re.IGNORECASE)
    if article:
        right = with_article(other).split(" ", 1)[0]
        right = right.capitalize() if article.group(1)[0].isupper() else right
        before = f"{before[: article.start(1)]}{right} "
    return before + other + after
