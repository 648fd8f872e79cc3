"""A retriever measured on a benchmark: media and queries embedded, galleries ranked, figures told.

Beside the figures of composed queries stand those of two probes, in the same galleries: the
references alone, and the text alone. A benchmark that either answers says little of composing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datagen.errors import DatagenError, shortened
from datagen.evaluation import vectors
from datagen.evaluation._files import printable
from datagen.evaluation.benchmark import Asked, Benchmark, Figures, Part, Protocol, Query, without
from datagen.evaluation.places import Places, places
from datagen.evaluation.vectors import Key
from datagen.ranks import unit
from datagen.training.retriever import Retriever

Array = np.ndarray[Any, Any]

#: What is asked with: both together, and the two probes.
COMPOSED, IMAGE, TEXT = "composed", "image alone", "text alone"
KINDS = (COMPOSED, IMAGE, TEXT)
#: Called with what is being done, how much of it is done, and of how much.
Say = Callable[[str, int, int], None]


class MissingMedia(DatagenError):
    """Media of a benchmark that are not there or cannot be read: ``lost``, by path."""

    def __init__(self, lost: Mapping[str, str], of: int, mend: str) -> None:
        self.lost = dict(lost)
        first = shortened([printable(name) for name in sorted(self.lost)[:3]])
        super().__init__(
            f"{len(self.lost):,} of {of:,} images or clips are missing ({first}); "
            f"{mend}; --allow-missing measures on what is there"
        )


@dataclass(frozen=True)
class Line:
    """One metric of one part.

    values: shares from 0 to 1 by what is asked with (KINDS; no figure of a probe that cannot be
    asked); queries, items: how many were measured, each of how many (whole) the benchmark has;
    each: the shortest and the longest list that a query was compared with, where queries have
    lists of their own.
    """

    part: str
    metric: str
    values: Mapping[str, float]
    queries: int
    items: int
    whole_queries: int
    whole_items: int
    each: tuple[int, int] | None = None

    @property
    def partial(self) -> str:
        """On what part of the benchmark the metric was measured; empty where on all of it."""
        said = [
            f"{have:,} of {whole:,} {what}"
            for have, whole, what in (
                (self.queries, self.whole_queries, "queries"),
                (self.items, self.whole_items, "items"),
            )
            if have != whole
        ]
        return ", ".join(said)


@dataclass
class Measured:
    """Figures of a retriever on a benchmark.

    lines: in the order in which they are told; files: submissions by name; notes: what was left
    out, a line each; lost: what is wrong with missing media, by path.
    """

    lines: list[Line] = field(default_factory=list)
    files: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)


def missing(benchmark: Benchmark) -> dict[str, str]:
    """Names of media that the benchmark looks at and that are not there, with the reason."""
    pictures = benchmark.pictures
    return {name: "not there" for name in benchmark.used() if not pictures[name].there}


def check(benchmark: Benchmark) -> None:
    """Raise MissingMedia where media of the benchmark are not there."""
    _allowed(benchmark, missing(benchmark), Measured(), allow=False)


def measure(
    retriever: Retriever,
    protocol: Protocol[Any],
    benchmark: Benchmark,
    *,
    allow_missing: bool = False,
    probes: bool = True,
    say: Say = lambda what, done, of: None,
) -> Measured:
    """Figures of ``retriever`` on ``benchmark`` by the rules of ``protocol``.

    allow_missing: measure on what is there; every line then says on what part. probes: also ask
    with the references alone and with the text alone. Raises MissingMedia where media are not
    there or cannot be read, and that is not allowed; DatagenError where nothing is left.
    """
    lost = missing(benchmark)
    out = Measured(notes=list(benchmark.notes))
    _allowed(benchmark, lost, out, allow_missing)
    left = without(benchmark, lost)
    gallery = list(dict.fromkeys(name for part in left.benchmark.parts for name in part.gallery))
    items, wrong = vectors.of_media(
        retriever, benchmark.pictures, gallery, functools.partial(say, "gallery")
    )
    broken = {gallery[row]: reason for row, reason in wrong.items()}
    lost |= _allowed(benchmark, broken, out, allow_missing)
    # Of hidden answers no probe tells anything.
    told_here = probes and not all(part.hidden for part in benchmark.parts)
    kinds = KINDS if told_here else (COMPOSED,)
    asked: dict[str, dict[int, Array]] = {}
    mute: dict[int, str] = {}
    for kind in kinds:
        # Who cannot be asked with both is not asked with one, and the other way round.
        left = without(benchmark, lost, mute)
        told = functools.partial(say, f"queries, {kind}")
        asked[kind], cannot = _asked(retriever, left.benchmark, kind, told)
        mute |= _allowed(benchmark, cannot, out, allow_missing)
    left = without(benchmark, lost, mute)
    out.notes += [f"left out: {count:,} {what}" for what, count in left.left_out.items()]
    if not any(part.asked for part in left.benchmark.parts):
        few = f"{len(benchmark.used()) - len(lost):,} of {len(benchmark.used()):,}"
        raise DatagenError(f"with {few} images or clips no query can be asked; {benchmark.mend}")
    rows = {name: row for row, name in enumerate(gallery)}
    found = {kind: _ranked(left.benchmark, asked[kind], items, rows) for kind in kinds}
    out.lines = _lines(protocol, left.benchmark, found)
    out.notes += _parts_of_hidden(left.benchmark)
    answers = [ranked for ranked in found[COMPOSED] if ranked is not None]
    if not out.lost:
        out.files = protocol.submissions(left.benchmark, answers)
    return out


def _allowed(
    benchmark: Benchmark, lost: Mapping[Any, str], out: Measured, allow: bool
) -> dict[Any, str]:
    """``lost`` (reasons by name of a medium, or by number of a query), noted, where it may be."""
    for name, reason in lost.items():
        if isinstance(name, int):
            query = benchmark.queries[name]
            out.lost[f"query {query.id} of {', '.join(query.references)}"] = reason
        else:
            out.lost[benchmark.pictures[name].path or name] = reason
    if lost and not allow:
        raise MissingMedia(out.lost, len(benchmark.used()), benchmark.mend)
    return dict(lost)


def _asked(
    retriever: Retriever, benchmark: Benchmark, kind: str, say: vectors.Say
) -> tuple[dict[int, Array], dict[int, str]]:
    """Unit vectors (float64) of the queries that are asked, and what is wrong with some, by number.

    What is asked several times, such as one text of many references, is embedded once. Queries
    that have nothing to ask with in this way are in neither.
    """
    numbers = sorted({one.query for part in benchmark.parts for one in part.asked})
    keys: dict[Key, int] = {}
    of: dict[int, list[int]] = {}
    out: dict[int, Array] = {}
    bad: dict[int, str] = {}
    for number in numbers:
        wanted = _keys(benchmark.queries[number], kind)
        if kind == COMPOSED and not wanted:
            bad[number] = "has neither a reference nor a text"
        if wanted:
            of[number] = [keys.setdefault(key, len(keys)) for key in wanted]
    rows, wrong = vectors.of_queries(retriever, benchmark.pictures, list(keys), say)
    for number, some in of.items():
        reasons = [wrong[row] for row in some if row in wrong]
        if reasons:
            bad[number] = reasons[0]
        else:
            out[number] = unit(unit(rows[some]).mean(axis=0, keepdims=True))[0]
    return out, bad


def _keys(query: Query, kind: str) -> list[Key]:
    """What is put to the retriever for a query, one of several texts at a time."""
    if kind == IMAGE:
        return [(query.references, None)] if query.references else []
    references = query.references if kind == COMPOSED else ()
    return [
        (references, text.strip() or None) for text in query.texts if text.strip() or references
    ]


def _ranked(
    benchmark: Benchmark, asked: Mapping[int, Array], items: Array, rows: Mapping[str, int]
) -> list[Places | None]:
    """The places of each part; None where not all of its queries can be asked in this way."""
    out: list[Places | None] = []
    for part in benchmark.parts:
        if any(one.query not in asked for one in part.asked):
            out.append(None)
            continue
        number = {name: row for row, name in enumerate(part.gallery)}
        gallery = items[[rows[name] for name in part.gallery]]
        lists = _Lists(number)
        queries = np.stack([asked[one.query] for one in part.asked]) if part.asked else items[:0]
        out.append(
            places(
                queries,
                gallery,
                [lists.of(one.targets) for one in part.asked],
                [_hidden(one, number) for one in part.asked],
                [None if one.among is None else lists.of(one.among) for one in part.asked],
                part.top,
            )
        )
    return out


def _hidden(one: Asked, number: Mapping[str, int]) -> list[int]:
    """Rows that the query does not see; what is right for it, it sees whatever the rule says."""
    away = set(one.without).difference(one.targets)
    return [number[name] for name in one.without if name in away and name in number]


class _Lists:
    """Rows of a gallery for tuples of names, each made once: many queries share theirs."""

    def __init__(self, number: Mapping[str, int]) -> None:
        self._number = number
        self._made: dict[int, tuple[tuple[str, ...], list[int]]] = {}

    def of(self, names: tuple[str, ...]) -> list[int]:
        # The tuple is kept beside its rows, so that its id stays its own.
        if id(names) not in self._made:
            self._made[id(names)] = names, [self._number[name] for name in names]
        return self._made[id(names)][1]


def _lines(
    protocol: Protocol[Any], benchmark: Benchmark, found: Mapping[str, Sequence[Places | None]]
) -> list[Line]:
    told: dict[str, dict[str, Figures]] = {kind: {} for kind in found}
    measured = [part for part in benchmark.parts if part.asked and not part.hidden]
    for at, part in enumerate(benchmark.parts):
        for kind, ranked in found.items():
            here = ranked[at]
            if here is not None and part in measured:
                told[kind][part.name] = protocol.figures(part, here)
    for figures in told.values():
        if figures and len(figures) == len(measured):
            figures.update(protocol.summary(dict(figures)))
    counts = {part.name: _counts([part]) for part in measured}
    each = {
        part.name: (min(ranked.sizes), max(ranked.sizes))
        for part, ranked in zip(benchmark.parts, found[COMPOSED], strict=True)
        if ranked is not None and any(one.among is not None for one in part.asked)
    }
    lines = []
    for name, of_part in told[COMPOSED].items():
        numbers = counts.get(name) or _counts(measured)
        for metric in of_part:
            values = {
                kind: told[kind][name][metric]
                for kind in found
                if metric in told[kind].get(name, {})
            }
            lines.append(Line(name, metric, values, *numbers, each.get(name)))
    return lines


def _parts_of_hidden(benchmark: Benchmark) -> list[str]:
    """A line for each part whose answers are hidden and that is not all of the official one.

    No figure tells so of it.
    """
    hidden = [part for part in benchmark.parts if part.asked and part.hidden]
    told = [(part.name, Line(part.name, "", {}, *_counts([part])).partial) for part in hidden]
    return [
        f"{name}: answers to {partial} of the benchmark; its server takes all of them"
        for name, partial in told
        if partial
    ]


def _counts(parts: Sequence[Part]) -> tuple[int, int, int, int]:
    """Queries and items of ``parts``, and of how many they are."""
    queries = _joined([({one.query for one in part.asked}, part.queries) for part in parts])
    items = _joined([(set(part.gallery), part.items) for part in parts])
    return queries[0], items[0], queries[1], items[1]


def _joined(sets: list[tuple[set[Any], int]]) -> tuple[int, int]:
    """How many things there are in all, and of how many (0: not known, so all that are there)."""
    together: set[Any] = set().union(*(some for some, _ in sets))
    if all(whole in (0, len(some)) for some, whole in sets):
        return len(together), len(together)
    if all(some == together for some, _ in sets):
        return len(together), max(whole for _, whole in sets)
    return sum(len(some) for some, _ in sets), sum(whole or len(some) for some, whole in sets)
