"""What a benchmark is: media by name, queries, galleries, right answers, and the rules in force.

A protocol reads the official files of one benchmark into a :class:`Benchmark`, and turns places
into that benchmark's figures. It never sees a model; :mod:`datagen.evaluation.measure` never sees
a file format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from datagen.evaluation.places import Places
from datagen.step import Settings

#: Endings of clips; every other medium is taken for an image.
CLIPS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")


@dataclass(frozen=True)
class Picture:
    """One image or clip of a benchmark.

    path: its file; there: whether the file was found; box: left, top, right, bottom in pixels of
    the part that is meant (padded to a square with black); text: a caption, by which the frames
    of a clip are weighted, or which is all there is of an item without a medium; media: where it
    lies, where that is known better than by ``path`` (schema.MEDIA).
    """

    path: str = ""
    there: bool = True
    box: tuple[float, float, float, float] | None = None
    text: str | None = None
    media: Mapping[str, Any] | None = None

    @property
    def place(self) -> Mapping[str, Any] | None:
        """Shaped like schema.MEDIA; None of an item without a medium."""
        if self.media is not None or not self.path:
            return self.media
        modality = "video" if self.path.lower().endswith(CLIPS) else "image"
        unknown = dict.fromkeys(("size", "sha256", "format", "width", "height"))
        clip = {"seconds": None, "frames": None}
        return {"path": self.path, "offset": 0, "modality": modality, **unknown, **clip}


@dataclass(frozen=True)
class Query:
    """What is asked: names of reference media, and its texts.

    Of several texts the query is the mean of the vectors that each has with the references.
    """

    id: str
    references: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A query as it is put to one gallery.

    query: its number in the benchmark; targets: names of right answers (none: they are hidden);
    without: names that do not count, unless they are targets; among: the only ones that do (None:
    the whole gallery); groups: names under which its figures are told apart.
    """

    query: int
    targets: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    among: tuple[str, ...] | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One gallery and what is asked of it.

    queries, items: how many the official benchmark has (0: not known), against which a part of it
    is noticed; whole_lists: queries with lists of their own (``among``) are only asked where all
    of the list is there; top: how long the lists of first answers are that the protocol needs.
    """

    name: str
    gallery: tuple[str, ...]
    asked: tuple[Asked, ...]
    queries: int = 0
    items: int = 0
    whole_lists: bool = False
    top: int = 0

    @property
    def hidden(self) -> bool:
        """Whether right answers are known to the benchmark's server alone."""
        return not any(one.targets for one in self.asked)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it was read.

    pictures: media by name; notes: what the reader of the figures must know, a line each; mend:
    where its media come from.
    """

    queries: tuple[Query, ...]
    parts: tuple[Part, ...]
    pictures: Mapping[str, Picture]
    notes: tuple[str, ...] = ()
    mend: str = ""

    def used(self) -> list[str]:
        """Names of the media that are looked at, each once: references first."""
        found: dict[str, None] = {}
        asked = {one.query for part in self.parts for one in part.asked}
        for number in sorted(asked):
            found.update(dict.fromkeys(self.queries[number].references))
        for part in self.parts:
            found.update(dict.fromkeys(part.gallery))
        return list(found)


S = TypeVar("S", bound=Settings)
#: Figures of a part by the name of the metric, as shares from 0 to 1.
Figures = dict[str, float]


class Protocol(ABC, Generic[S]):
    """One benchmark: how its files are read, and what is measured by which rules.

    ``Settings`` are the rules that papers differ in, with the official ones as defaults.
    """

    name: ClassVar[str]
    #: One line: what it asks for.
    about: ClassVar[str]
    #: Where the rules come from.
    paper: ClassVar[str]
    #: Where its files come from, and how they lie.
    mend: ClassVar[str] = ""
    Settings: ClassVar[type[Settings]]

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @abstractmethod
    def read(self, data: str) -> Benchmark:
        """Read the official files below ``data``. Raises DatagenError where they are not there."""

    @abstractmethod
    def figures(self, part: Part, found: Places) -> Figures:
        """The benchmark's metrics of one part."""

    def summary(self, figures: Mapping[str, Figures]) -> dict[str, Figures]:
        """Figures over several parts, by the name that stands in a part's place."""
        return {}

    def submissions(self, benchmark: Benchmark, found: Sequence[Places]) -> dict[str, Any]:
        """What the benchmark's server takes, by file name; ``found`` of each part in order."""
        return {}


@dataclass
class Reduced:
    """What is left of a benchmark without some of its media, and what was left out."""

    benchmark: Benchmark
    left_out: dict[str, int] = field(default_factory=dict)


def without(benchmark: Benchmark, lost: Iterable[str], unasked: Iterable[int] = ()) -> Reduced:
    """``benchmark`` as far as it goes without the media ``lost`` and the queries ``unasked``.

    Lost items leave every gallery. A query goes where a reference, all of its targets, or (with
    ``whole_lists``) any item of its own list is lost.
    """
    gone, mute = set(lost), set(unasked)
    counts: dict[str, set[Any]] = {}
    parts = []
    for part in benchmark.parts:
        asked = []
        for one in part.asked:
            reason = _reason(benchmark.queries[one.query], one, part, gone)
            if one.query in mute:
                reason = "queries that the model cannot be asked"
            if reason:
                counts.setdefault(reason, set()).add(one.query)
                continue
            asked.append(_kept(one, gone))
        gallery = tuple(name for name in part.gallery if name not in gone)
        fewer = gone.intersection(part.gallery)
        counts.setdefault("items of galleries", set()).update(fewer)
        # Replaced field by field: a part keeps its official counts.
        parts.append(
            Part(
                part.name,
                gallery,
                tuple(asked),
                part.queries or len(part.asked),
                part.items or len(part.gallery),
                part.whole_lists,
                part.top,
            )
        )
    left = Benchmark(
        benchmark.queries, tuple(parts), benchmark.pictures, benchmark.notes, benchmark.mend
    )
    return Reduced(left, {what: len(some) for what, some in counts.items() if some})


def _reason(query: Query, one: Asked, part: Part, gone: set[str]) -> str:
    if not gone.isdisjoint(query.references):
        return "queries without their reference"
    if one.targets and gone.issuperset(one.targets):
        return "queries without any target"
    if part.whole_lists and one.among is not None and not gone.isdisjoint(one.among):
        return "queries without all of their own list"
    return ""


def _kept(one: Asked, gone: set[str]) -> Asked:
    lists = (one.targets, one.without, one.among or ())
    if all(gone.isdisjoint(some) for some in lists):
        return one
    targets, away, among = (tuple(name for name in some if name not in gone) for some in lists)
    return Asked(one.query, targets, away, None if one.among is None else among, one.groups)
