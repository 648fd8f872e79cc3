"""The step contract: what an operator declares, and how it is called.

Every operator is a class with ``Settings`` (pydantic), the columns it needs and gives, and the
resources it wants. It is a plain callable on Arrow tables; Ray is the engine's business alone.
There are four shapes:

- :class:`Source` lists records of a collection.
- :class:`RowOperator` looks at rows one batch at a time (embed, text, edit).
- :class:`Filter` is a row operator that measures scores, and decides by rules afterwards;
  :class:`TableFilter` one whose scores hang on the whole table.
- :class:`TableOperator` needs the whole table (pair, negatives, split, shards).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from datagen import schema, store, tables
from datagen.schema import Level
from datagen.space import Space


class Settings(BaseModel):
    """Base of all operator settings: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class Resources:
    """What one worker of a step wants, and how rows are handed to it.

    cpus, gpus: logical units; memory: bytes of RAM (0: not reserved); batch_size: rows a call;
    workers: how many at most (0: as many as fit); actor: keep one object alive per worker
    (set it for anything that loads a model).
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    batch_size: int = 256
    workers: int = 0
    actor: bool = False


@dataclass(frozen=True)
class Context:
    """What an operator may reach while it works. It can be pickled.

    seed: of the run; step: id of the step; media_dir: folder for generated media; staged: folder
    for pictures that wait for their place among them (datagen.painted);
    out_dir: the run directory; spaces: folders of embedded spaces by name; embedders: the
    operators that made them, not opened; table: path of the items as they stood at the last step
    that worked on items; made: paths of the items that steps have made since; attempt: how often
    rows that failed are tried again, this time included (0: for the first time).
    """

    step: str = "step"
    seed: int = 0
    out_dir: str = ""
    media_dir: str = ""
    staged: str = ""
    spaces: Mapping[str, str] = field(default_factory=dict)
    embedders: Mapping[str, Operator[Any]] = field(default_factory=dict)
    table: str = ""
    made: tuple[str, ...] = ()
    attempt: int = 0

    def items(self, *columns: str) -> pa.Table:
        """Columns of all items. An operator that asks for them needs ``collection``."""
        own = [name for name in columns if name in schema.ITEMS.names]
        made = [store.read_table(path, own) for path in self.made]
        return tables.with_made(store.read_table(self.table, columns), made)

    def space(self, name: str) -> Space:
        """Open the space ``name`` (memory-mapped; cheap to call again)."""
        return Space.open(self.spaces[name])


#: Runs a function over many arguments, in parallel where there is an engine; in argument order.
Parallel = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


def serial(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
    """The :data:`Parallel` of a plain Python process."""
    return map(function, arguments)


S = TypeVar("S", bound=Settings)


class Operator(ABC, Generic[S]):
    """Base of all operators.

    ``needs`` and ``gives`` speak of: ``items.media``, ``items.captions``, ``items.labels``,
    ``items.<measured>``, ``space.<name>``, ``pairs``, ``modification``, ``negatives``, ``split``,
    ``score_<name>``. Of a space there may also be ``texts.<name>`` (texts can be put into it),
    ``images.<name>`` (it holds images and clips, and texts can be put into it), ``media.<name>``
    (media alone make its vectors, so those of other collections can be put into it) and
    ``collection.<name>``, which every space has: whoever needs it compares rows with all items
    of the space, and measures again when these change. ``collection`` alone is that of all items;
    a step that gives it makes items that were not there before. ``earlier.<name>`` is a space of
    all items that texts can be put into; it stays there behind a step that makes items, which it
    does not hold.
    """

    #: Raised by hand when the same settings would give other values than before.
    version: ClassVar[int] = 1
    #: The operator's settings; every subclass names its own.
    Settings: ClassVar[type[Settings]]
    #: On which tables it can work.
    levels: ClassVar[tuple[Level, ...]] = ("items",)
    #: The level of the table that it leaves behind; None: the same.
    result: ClassVar[Level | None] = None
    #: Columns that must not be there yet: what they hold hangs on what this step changes.
    before: ClassVar[frozenset[str]] = frozenset()
    #: Packages beyond the core, as (importable name, extra of datagen that brings it).
    requires: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def needs(self, level: Level) -> set[str]:
        """Columns and spaces that must be there before this step."""
        return set()

    def gives(self, level: Level) -> set[str]:
        """Columns and spaces that are there after it."""
        return set()

    def leaves(self, level: Level) -> Level:
        """The level of the table that it leaves behind where it works on ``level``."""
        return self.result or level

    def resources(self) -> Resources:
        """What one worker wants. A recipe may override it with ``resources:``."""
        return Resources()

    def revision(self) -> str:
        """What identifies the weights or files behind the settings (model revision, hash)."""
        return ""

    def check(self) -> Iterable[str]:
        """Faults that can be seen before any row: missing files, models, extras. One line each."""
        return ()

    def still_stands(self, context: Context, notes: Mapping[str, Any]) -> bool:
        """Whether what a finished step left outside its table (shards, pictures) is still there.

        ``notes`` are those of its result.
        """
        return True

    def reach(self) -> Iterable[str]:
        """Faults of what lies elsewhere (a server), one line each.

        Asked before the run's first row, and only while the step has something left to do: a
        finished run can be decided anew where the server is gone.
        """
        return ()

    def provenance(self, context: Context) -> dict[str, Any]:
        """The line that this step adds to the provenance of rows it makes."""
        model = getattr(self.settings, "model", None)
        return {
            "step": context.step,
            "operator": getattr(self, "registered_name", type(self).__name__),
            "model": model if isinstance(model, str) else None,
            "revision": self.revision() or None,
            "prompt": None,
            "seed": context.seed,
        }


class Source(Operator[S]):
    """Lists the records of a collection.

    ``parts`` cuts the collection into units of work (dictionaries of plain values, the same ones
    every time); ``read`` turns one into a table of :data:`datagen.schema.RECORD`. A source never
    decodes media: that is done once for all sources, with the limits in force.
    """

    @abstractmethod
    def parts(self, context: Context) -> list[dict[str, Any]]:
        """Units of work. Raises DatagenError where the collection cannot be listed at all."""

    @abstractmethod
    def read(self, part: dict[str, Any], context: Context) -> pa.Table:
        """The records of one part."""


class RowOperator(Operator[S]):
    """Works on rows a batch at a time; the result for a row depends on that row alone.

    The engine calls ``open`` once per worker, then for each batch ``prepare`` (CPU work such as
    decoding, on other workers where ``resources().actor`` is set) and the operator itself.
    The result has a column ``id`` of input ids, the given columns, and optionally ``verdict``,
    ``rule`` and ``detail``; a row without a verdict column is kept.

    An operator whose ``result`` is another level, and one that ``makes`` rows, gives rows of that
    level: several for one id become several rows, each with the id of its content. Beside
    ``modification`` an answer may hold ``references``, ``targets`` and ``evidence`` (typed as in
    schema.PAIRS; null: as the row has them, and of an item itself as the reference). A member
    without an id is an item that the step makes of its media, caption and labels; the operator
    then gives ``collection``. A line that is not kept beside one that is, is counted by its rule.
    """

    #: Work on the items that the current pairs use rather than on the pairs.
    on_items: ClassVar[bool] = False
    #: Give rows in place of those of the same level: other texts, members, or several for one.
    makes: ClassVar[bool] = False
    #: New members are pictures that it paints, which are staged (datagen.painted).
    paints: ClassVar[bool] = False

    def open(self, context: Context) -> None:
        """Load models and spaces; once per worker."""

    def ready(self, context: Context, parallel: Parallel = serial) -> None:
        """Once, in the driver, before the first row without an answer: files in the run directory
        that all workers open (an index).
        """

    def prepare(self, rows: pa.Table) -> pa.Table:
        """CPU work ahead of the call; must keep ``id``. May add verdict columns."""
        return rows

    def columns(self, level: Level) -> list[str]:
        """Columns of the rows that are read: nothing else travels to the workers."""
        return []

    @abstractmethod
    def __call__(self, rows: pa.Table) -> pa.Table:
        """Turn a batch into ``id``, given columns and verdicts."""


class Embedder(RowOperator[S]):
    """A row operator on items whose given column is ``vector`` (fixed-size list of float32).

    The vectors are stored once, as the space named by ``settings.space``. After pairing, only
    the items that stand in pairs are embedded.
    """

    levels: ClassVar[tuple[Level, ...]] = ("items", "pairs", "triplets")
    on_items = True

    def gives(self, level: Level) -> set[str]:
        return {f"space.{self.settings.space}"}  # type: ignore[attr-defined]

    def texts(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Vectors (n, d) of ``texts`` in the space, float32; called when the operator is open.

        An embedder that has this gives ``texts.<space>``.
        """
        raise NotImplementedError(f"{type(self).__name__} puts no texts into its space")


class Filter(RowOperator[S]):
    """Measures scores row by row, then decides over the whole table.

    Settings named in ``rules`` decide only: changing them computes no score again.
    With ``on_items`` the scores belong to items (and are then columns of the items table), and
    ``decide`` looks them up.
    """

    levels: ClassVar[tuple[Level, ...]] = ("items", "pairs", "triplets")
    rules: ClassVar[frozenset[str]] = frozenset()
    #: Columns that ``settle`` changes without a new id for the row.
    settles: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        """Verdicts (:data:`datagen.schema.VERDICTS`) for all ``rows``, in their order.

        ``rows`` is the current table with the scores as columns. At the level of items, and
        with ``on_items``, ``items`` carries them.
        """

    def settle(
        self, rows: pa.Table, items: pa.Table, context: Context
    ) -> tuple[pa.Table, dict[str, Any]]:
        """The kept ``rows`` (pairs or triplets) as they go on, in any order, and notes.

        For a filter that mends rows by its rules instead of rejecting them; without ``settles``
        it is not called. A row whose members or text change gets a new id.
        """
        return rows, {}


@dataclass
class Tables:
    """What a whole-table step sees: the items, and the pairs or triplets made so far."""

    items: pa.Table
    rows: pa.Table
    level: Level


class TableFilter(Filter[S]):
    """A filter whose scores hang on the whole table: what is near in it, how often it stands there.

    ``measure`` runs in the driver, with ``parallel`` for its heavy parts, and is done again
    whenever other rows come in; other ``rules`` only decide, as those of every filter.
    """

    @abstractmethod
    def measure(self, tables: Tables, context: Context, parallel: Parallel = serial) -> pa.Table:
        """``id``, the scores and optionally verdicts of all ``tables.rows``, as a batch of a filter
        gives them.
        """

    def __call__(self, rows: pa.Table) -> pa.Table:
        raise TypeError(f"{type(self).__name__} measures whole tables")


@dataclass
class Result:
    """What a whole-table step leaves behind.

    rows: the new table (of the level that the operator declares), in any order, with ``id``;
    verdicts: one line per input row, in any order; vectors: for an embedder without batches,
    a float array aligned with ``rows``; notes: figures for the report.
    """

    rows: pa.Table
    verdicts: pa.Table
    vectors: np.ndarray[Any, Any] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class TableOperator(Operator[S]):
    """Needs the whole table. Runs in the driver, with ``parallel`` for its heavy parts."""

    @abstractmethod
    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Make the new table, with a verdict for every input row."""


def verdicts(
    ids: pa.Array | pa.ChunkedArray | Sequence[str],
    rejected: Mapping[str, tuple[str, str]] | None = None,
    failed: Mapping[str, str] | None = None,
) -> pa.Table:
    """Verdicts for ``ids``: kept, but for those in ``rejected`` (rule, detail) and ``failed``."""
    rejected, failed = rejected or {}, failed or {}
    out: list[tuple[str, str, str | None, str | None]] = []
    names = ids.to_pylist() if isinstance(ids, (pa.Array, pa.ChunkedArray)) else list(ids)
    for name in names:
        if name in failed:
            out.append((name, schema.FAILED, None, failed[name]))
        elif name in rejected:
            out.append((name, schema.REJECTED, *rejected[name]))
        else:
            out.append((name, schema.KEPT, None, None))
    columns = list(zip(*out, strict=True)) if out else [(), (), (), ()]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=schema.VERDICTS)
