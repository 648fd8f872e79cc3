"""The judge of labelled collections: what it knows of an item is its labels, and no more.

A weaker truth than a rendered scene: two products with the same labels need not look alike, and
what no label names cannot be judged. Values of labels are looked for in the texts as whole words.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datagen.audit.judge import Judgement, Row, labels_of, unjudged

Array = np.ndarray[Any, Any]
Values = frozenset[str]
Labels = dict[str, Values]

#: Words that say that what follows was there before, up to the next of _NEXT. ``never``: that it
#: is not there, where ``from`` and the like may only tell which thing is meant.
_GONE = re.compile(
    r"\b(?:(?:(?P<never>no longer|without|isn't|not|remove)|instead of|rather than|in place of)"
    r"(?: (?:for|with|in|to))?|from|replace|replaces|swap|swaps|exchange|substitute)\b"
)
_NEXT = re.compile(r"\b(?:to|into|with|for|by|but|and|then)\b|[,.;→]")
_WORD = re.compile(r"[^\W_]+")
NEVER, BEFORE = "never", "before"
#: A label tells items apart by kind only where values are shared: names and numbers of articles
#: stand once each. At least this share of its items has a value that another item has too.
_SHARED = 0.5
#: Values of more words are sentences.
_LONGEST = 6


def words(text: str) -> tuple[str, ...]:
    """The words of ``text``, in lower case and without the -s of plurals."""
    return tuple(_singular(word) for word in _WORD.findall(text.casefold().replace("'s", "")))


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


@dataclass
class _Told:
    """The values that a text names, as (key, value): so of the target alone (``new``), of the
    reference alone (``old``), of both, or of neither (``untrue``, the words)."""

    new: set[tuple[str, str]] = field(default_factory=set)
    old: set[tuple[str, str]] = field(default_factory=set)
    same: set[tuple[str, str]] = field(default_factory=set)
    untrue: set[str] = field(default_factory=set)
    #: Values that are named as gone and that the target has.
    backwards: set[str] = field(default_factory=set)
    #: What is asked for and neither has; values of the target alone that are named as gone.
    asked: set[tuple[str, str]] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)
    #: Whether some value of the reference alone is named, and not as gone.
    stays: bool = False


class LabelJudge:
    """Judges texts by the labels of reference and target.

    right: the text names a value that the target has and the reference has not (or one that goes,
    where none comes), and no value that neither has or that it says is gone and is not;
    complete: every label that differs is told; minimal: nothing is told as changed that is the
    same. Texts that name no value of a label are not judged.
    """

    name = "labels"
    about = "labels of the items; what no label tells is not known"

    def __init__(self, items: Sequence[Row]) -> None:
        given = [_plain(labels_of(item)) for item in items]
        self.keys = _telling(given)
        self._ids = [str(item["id"]) for item in items]
        self._places = {name: at for at, name in enumerate(self._ids)}
        self._labels = [{key: one.get(key, frozenset()) for key in self.keys} for one in given]
        self.known = sum(any(one.values()) for one in self._labels)
        #: Keys of which some item has several values at once.
        self._lists = {key for one in self._labels for key, held in one.items() if len(held) > 1}
        self._names = self._vocabulary()
        self._most_words = max(map(len, self._names), default=0)
        self._table, self._code = self._codes()

    def _vocabulary(self) -> dict[tuple[str, ...], list[tuple[str, str]]]:
        """Every value as words, with the keys that have it and its own spelling."""
        found: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
        for key in self.keys:
            for value in sorted({value for one in self._labels for value in one[key]}):
                told = words(value)
                if 0 < len(told) <= _LONGEST:
                    found[told].append((key, value))
        return found

    def _codes(self) -> tuple[Array, list[dict[Values, int]]]:
        """A number for each label of each item (items, keys), and the numbers by value."""
        codes: list[dict[Values, int]] = [{} for _ in self.keys]
        table = np.zeros((len(self._ids), len(self.keys)), np.int32)
        for at, one in enumerate(self._labels):
            for number, key in enumerate(self.keys):
                table[at, number] = codes[number].setdefault(one[key], len(codes[number]))
        return table, codes

    def _of(self, member: Row) -> Labels:
        at = self._places.get(member["id"])
        if at is not None:
            return self._labels[at]
        found = _plain(labels_of(member))
        return {key: found.get(key, frozenset()) for key in self.keys}

    def _ends(self, row: Row) -> tuple[Labels, list[Labels]] | str:
        if len(row["references"]) != 1 or not row["targets"]:
            return "several references, or no target"
        reference, *targets = [self._of(m) for m in (*row["references"], *row["targets"])]
        if not all(any(one.values()) for one in (reference, *targets)):
            return "an item without labels"
        return reference, targets

    # --- what a text names ----------------------------------------------------------------------

    def _mentions(self, clause: str) -> list[tuple[str, ...]]:
        """Values named in ``clause`` as words, longest first where they overlap."""
        found: list[tuple[str, ...]] = []
        told = words(clause)
        at = 0
        while at < len(told):
            for size in range(min(self._most_words, len(told) - at), 0, -1):
                if told[at : at + size] in self._names:
                    found.append(told[at : at + size])
                    at += size - 1
                    break
            at += 1
        return found

    def _told(self, row: Row, text: str, reference: Labels, target: Labels) -> _Told:
        told = _Told()
        members = (*row["references"], *row["targets"])
        captions = [" ".join(("", *words(m["caption"] or ""), "")) for m in members]
        for clause, how in _clauses(text):
            goes, stays = False, set()
            for name in self._mentions(clause):
                new = {(k, v) for k, v in self._names[name] if v in target[k] - reference[k]}
                old = {(k, v) for k, v in self._names[name] if v in reference[k] - target[k]}
                same = {(k, v) for k, v in self._names[name] if v in reference[k] & target[k]}
                if not (new or old or same):
                    # What both captions say only tells which thing is meant.
                    if not all(f" {' '.join(name)} " in caption for caption in captions):
                        told.untrue.add(" ".join(name))
                        told.asked |= set() if how else set(self._names[name])
                elif how and new and not old:
                    told.backwards.add(" ".join(name))
                    told.refused |= new
                elif how == NEVER and same and not old:
                    stays.add(" ".join(name))
                goes |= bool(old)
                told.stays |= bool(old) and not how
                told.new |= new
                told.old |= old
                told.same |= same
            # "not the red shirt" tells by "shirt" which red thing is meant.
            if not goes:
                told.backwards |= stays
        return told

    # --- judging --------------------------------------------------------------------------------

    def triplet(self, row: Row) -> Judgement:
        ends = self._ends(row)
        if isinstance(ends, str):
            return unjudged(ends)
        return self._worst(row, row["modification"] or "", *ends)

    def pair(self, row: Row) -> Judgement:
        """A pair is judged by what its evidence says that changes."""
        ends = self._ends(row)
        if isinstance(ends, str):
            return unjudged(ends)
        changes = (row["evidence"] or {}).get("changes") or []
        given = [c["added"] for c in changes if c["field"] == "text" and not c["removed"]]
        texts = given or [" and ".join(map(_as_text, changes))]
        judged = [self._worst(row, text or "", *ends) for text in texts]
        return max(judged, key=lambda one: (bool(one.right), bool(one.complete)))

    def item(self, row: Row) -> Judgement:
        return unjudged("captions are not judged by labels")

    def _worst(
        self, row: Row, text: str, reference: Labels, targets: Sequence[Labels]
    ) -> Judgement:
        judged = [self._judged(row, text, reference, target) for target in targets]
        return min(judged, key=lambda one: (one.right is not None, bool(one.right)))

    def _judged(self, row: Row, text: str, reference: Labels, target: Labels) -> Judgement:
        told = self._told(row, text, reference, target)
        if not (told.new or told.old or told.same or told.untrue):
            return unjudged("names no value of a label")
        only_goes = any(target[key] - reference[key] for key, _ in told.old)
        if not (told.new or told.untrue or told.stays) and only_goes:
            return unjudged("names what goes, but no value that comes")
        unsaid = self._unsaid(told, reference, target)
        idle = self._idle(row, told)
        minimal = not (told.untrue or told.backwards or idle)
        if told.untrue:
            reason, right = f"names what neither has: {min(told.untrue)}", False
        elif told.backwards:
            reason, right = (
                f"says of what the target has that it goes: {min(told.backwards)}",
                False,
            )
        elif not told.new and (only_goes or not told.old):
            reason, right = "names nothing that the target has and the reference has not", False
        elif unsaid:
            reason, right = f"names what changed, but not {unsaid[0]}", True
        else:
            reason, right = "names what changed", True
        return Judgement(right, not unsaid, minimal, reason)

    def _unsaid(self, told: _Told, reference: Labels, target: Labels) -> list[str]:
        """Keys of labels that differ and of which a value is not told."""
        unsaid = []
        for key in self.keys:
            comes, goes = target[key] - reference[key], reference[key] - target[key]
            lacking = {v for v in comes if (key, v) not in told.new}
            # The new one of single values tells that the old one goes.
            if not comes or key in self._lists:
                lacking |= {v for v in goes if (key, v) not in told.old}
            if lacking:
                unsaid.append(key)
        return unsaid

    def _idle(self, row: Row, told: _Told) -> bool:
        """Whether the evidence has a change to a value that was there before, and the text it."""
        changes = (row["evidence"] or {}).get("changes") or []
        said = {words(change["added"] or "") for change in changes}
        changed = {words(value) for _, value in told.new}
        return any(words(value) in said - changed for _, value in told.same)

    # --- answers --------------------------------------------------------------------------------

    def _wanted(self, row: Row) -> Array | None:
        """The labels that reference and text ask for, as numbers; -1 for what no item has. None
        where the text names no label."""
        ends = self._ends(row)
        if isinstance(ends, str):
            return None
        reference, targets = ends
        told = self._told(row, row["modification"] or "", reference, targets[0])
        if not (told.new or told.old or told.untrue):
            return None
        wanted = np.empty(len(self.keys), np.int32)
        for number, key in enumerate(self.keys):
            comes = {v for k, v in (told.new | told.asked) - told.refused if k == key}
            goes = {v for k, v in told.old if k == key}
            kept = reference[key] - goes
            single = key not in self._lists and len(comes) == 1
            values = frozenset(comes) if single else frozenset(kept | comes)
            wanted[number] = self._code[number].get(values, -1)
        return wanted

    def answers(self, row: Row) -> list[str] | None:
        """Items whose labels are those of the reference with the told changes."""
        wanted = self._wanted(row)
        if wanted is None:
            return None
        return [self._ids[at] for at in np.flatnonzero((self._table == wanted).all(axis=1))]

    def best(self, row: Row) -> bool | None:
        """Whether no other item has more of the labels that are asked for."""
        wanted = self._wanted(row)
        if wanted is None:
            return None
        apart = (self._table != wanted).sum(axis=1)
        targets = [self._places.get(member["id"]) for member in row["targets"]]
        if any(at is None for at in targets):
            return None
        own = max(apart[at] for at in targets)
        others = apart.copy()
        for member in row["references"]:
            if member["id"] in self._places:
                others[self._places[member["id"]]] = len(self.keys) + 1
        return bool(own <= others.min())


def named(text: str) -> set[str]:
    """The words of ``text`` but those that tell what was there before."""
    return {word for clause, how in _clauses(text) if not how for word in words(clause)}


def _clauses(text: str) -> Iterable[tuple[str, str]]:
    """``text`` in pieces, and of each whether it tells what is not there (NEVER), or what was there
    before (BEFORE); empty where neither."""
    at, lower = 0, text.casefold().replace("’", "'")
    while found := _GONE.search(lower, at):
        yield lower[at : found.start()], ""
        after = _NEXT.search(lower, found.end())
        end = after.start() if after else len(lower)
        yield lower[found.end() : end], NEVER if found["never"] else BEFORE
        at = end
    yield lower[at:], ""


def _as_text(change: Mapping[str, Any]) -> str:
    added, removed = change["added"], change["removed"]
    return f"{added or ''} instead of {removed}" if removed else str(added or "")


def _plain(labels: Mapping[str, Any] | None) -> Labels:
    """Labels with a plain value, or a list of those, as sets of texts."""
    found: Labels = {}
    for key, value in (labels or {}).items():
        values = value if isinstance(value, list) else [value]
        if all(isinstance(one, (str, int, float, bool)) for one in values):
            texts = {str(one) for one in values if str(one).strip()}
            if texts:
                found[key] = frozenset(texts)
    return found


def _telling(labels: Sequence[Labels]) -> list[str]:
    """Keys of which most values are shared by several items, and which have several values."""
    counts: dict[str, Counter[Values]] = defaultdict(Counter)
    for one in labels:
        for key, values in one.items():
            counts[key][values] += 1
    found = []
    for key, counted in sorted(counts.items()):
        shared = sum(n for n in counted.values() if n > 1)
        if len(counted) > 1 and shared >= _SHARED * sum(counted.values()):
            found.append(key)
    return found
