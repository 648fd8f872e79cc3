"""Takes pairs, and the texts that go with them, from a published annotation file.

Sets that people or models have annotated already: CIRR, FashionIQ, LaSCo, CoVR, CIRCO, EgoCVR,
GeneCIS, Shoes, MegaPairs, or any table whose columns are named here. good4cir, FineCIR and
Dense-WebVid-CoVR start from such pairs and write the texts anew.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import step, store
from datagen.errors import DatagenError, nearest, shortened
from datagen.pairing import _given_files as files
from datagen.pairing import _given_formats as formats
from datagen.pairing import _given_names as matching
from datagen.pairing._labels import Change, Rows, label_table
from datagen.pairing._table import verdict_table
from datagen.schema import Level
from datagen.step import Context, Parallel, Result, TableOperator, Tables, serial

#: Rows that are named in the notes, of each kind of row that made no pair.
EXAMPLES = 20

#: Rows of which one must be readable to tell the format.
HEAD_ROWS = 100

RULES = [
    ("not_named", "no row of the file names it"),
    ("no_pair", "named only in rows that made no pair"),
    ("other_source", "of another source than the one that the file speaks of"),
]


class Settings(step.Settings):
    """Settings of given."""

    #: The annotation file: JSON (an array, or a line an object), csv, tsv or Parquet, also
    #: ``.gz``. A relative path starts from the working directory.
    path: str
    #: auto: by the columns of the file. columns: a file of no published format, whose columns are
    #: named below.
    format: Literal[
        "auto", "cirr", "fashioniq", "lasco", "covr", "circo", "egocvr", "shoes", "megapairs",
        "genecis", "columns",
    ] = "auto"  # fmt: skip
    #: The column with the name of the reference (format columns).
    reference: str = "reference"
    #: The column with the name of the target, or a list of names (format columns).
    target: str = "target"
    #: The column with the text, or a list of texts; it may be missing (format columns).
    text: str = "text"
    #: How a name in the file finds its item. key: it is the item's key. name: the file's name,
    #: wherever it lies. stem: the same without the extension. number: the number that ends the
    #: stem, without leading zeros (COCO). label:NAME: the value of a label. auto: of the first
    #: four the one that finds most names.
    match: str = Field(default="auto", pattern=r"^(auto|key|name|stem|number|label:.+)$")
    #: What becomes of several texts in a row: separate texts of the same pair, or one joined text.
    #: auto: joined for FashionIQ, as in its protocol, otherwise separate.
    texts: Literal["auto", "separate", "join"] = "auto"
    #: What stands between joined texts.
    joiner: str = " and "
    #: The id of the source that the file speaks of, where a recipe has several; None: any.
    source: str | None = None


class Given(TableOperator[Settings]):
    """Pairs that a file gives, a pair for each row; several targets stay together.

    The texts stand in the evidence, as changes of the field ``text``; ``text: given`` takes them
    from there. Rows that made no pair are counted in the notes, with examples.
    """

    Settings = Settings
    levels = ("items",)
    result = "pairs"

    def needs(self, level: Level) -> set[str]:
        return {"items.labels"} if self.settings.match.startswith(matching.LABEL) else set()

    def gives(self, level: Level) -> set[str]:
        return {"pairs"}

    def revision(self) -> str:
        """The hash of the file: other bytes give other pairs."""
        path = self.settings.path
        return _file_hash(path, store.stamp(path)) if store.exists(path) else ""

    def check(self) -> Iterable[str]:
        if not store.exists(self.settings.path):
            yield f"{self.settings.path}: no such file; set path to the annotation file"
            return
        try:
            self._kind()
        except DatagenError as error:
            yield str(error)

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Read the pairs. Raises DatagenError where the file and the items share no name."""
        items, chosen = tables.items, self.settings
        kind = self._kind()
        read = _Read(self._columns(), kind, self._is_joined(kind), chosen.joiner)
        for number, row in files.rows(chosen.path):
            read.take(number, row)
        used = np.arange(len(items))
        if chosen.source is not None:
            used = np.flatnonzero([one == chosen.source for one in items["source"].to_pylist()])
        some = items.take(pa.array(used)) if len(used) < len(items) else items
        found = matching.find(list(read.names), some, chosen.match)
        pairs = _Pairs.of(read, found)
        if not pairs.references:
            raise DatagenError(self._nothing(some, read, found, pairs))
        rows = self._table(items, used, pairs, context)
        ids = np.asarray(rows["id"].to_pylist(), dtype="S")
        first = np.sort(np.unique(ids, return_index=True)[1])
        code = np.full(len(items), 3)
        code[used] = 1
        named = [row for row in found.rows.values() if row >= 0]
        code[used[np.array(named, np.int64)]] = 2
        ends = [*pairs.references, *(row for many in pairs.targets for row in many)]
        code[used[np.array(ends, np.int64)]] = 0
        counts = read.counts + pairs.counts
        counts["duplicate_rows"] = len(rows) - len(first)
        notes: dict[str, Any] = {"format": kind, "match": found.way, "rows": read.rows}
        notes |= {name: counts[name] for name in (*LOST, *PARTLY)}
        notes |= {"pairs": len(first), "examples": {**read.examples, **pairs.examples}}
        return Result(
            rows.take(pa.array(first)), verdict_table(items["id"], code, RULES), notes=notes
        )

    def _columns(self) -> formats.Columns:
        chosen = self.settings
        return formats.Columns(chosen.reference, chosen.target, chosen.text)

    def _is_joined(self, kind: str) -> bool:
        if self.settings.texts == "auto":
            return kind in formats.FORMATS and formats.FORMATS[kind].joined
        return self.settings.texts == "join"

    def _kind(self) -> str:
        """The format of the file. Raises DatagenError where it is none that can be read."""
        chosen = self.settings
        fault = "empty"
        for number, row in files.rows(chosen.path):
            if isinstance(row, dict):
                return self._kind_of(row)
            fault = f"row {number}: {row}"
            if number >= HEAD_ROWS:
                break
        raise DatagenError(
            f"{chosen.path}: no row that can be read ({fault}); an array of objects, an object a "
            "line, or rows under a header are expected"
        )

    def _kind_of(self, row: dict[str, Any]) -> str:
        chosen = self.settings
        there = [str(name) for name in row]
        kind = chosen.format
        if kind == "auto":
            known = formats.format_of(row)
            if known is not None:
                return known
            own = Settings.model_fields
            if row.keys().isdisjoint({chosen.reference, chosen.target}) and (
                chosen.reference == own["reference"].default
                and chosen.target == own["target"].default
            ):
                raise DatagenError(
                    f"{chosen.path}: columns {shortened(there)} are of no known format; "
                    "name those of your file by reference, target and text"
                )
            kind = "columns"
        needed = formats.wanted(kind, self._columns())
        if chosen.text != "text" and kind == "columns":
            needed = (*needed, chosen.text)
        for column in needed:
            if column not in row:
                raise DatagenError(
                    f"{chosen.path}: no column '{column}', which format '{kind}' needs; "
                    f"{nearest(column, there)}"
                )
        return kind

    def _nothing(self, items: pa.Table, read: _Read, found: matching.Found, pairs: _Pairs) -> str:
        """Why no pair was made, with names of both sides."""
        path, names = self.settings.path, list(read.names)[:3]
        if not names or read.counts["rows_without_target"] == read.rows:
            return f"{path}: none of its {read.rows:,} rows names both a reference and a target"
        if not len(items):
            return f"{path}: no items of source '{self.settings.source}' to find its names among"
        keys = items["key"].slice(0, 3).to_pylist()
        said = ", ".join(f"'{name:.80}'" for name in names)
        held = ", ".join(f"'{key or '':.80}'" for key in keys)
        lost = {name: count for name, count in (read.counts + pairs.counts).items() if count}
        why = ", ".join(
            f"{count:,} {name.removeprefix('rows_').replace('_', ' ')}"
            for name, count in lost.items()
            if name in LOST
        )
        return (
            f"{path}: no pair of its {read.rows:,} rows ({why}); its names are such as {said}, "
            f"keys of items such as {held}, compared by {found.way}; set match to key, name, "
            "stem, number or label:NAME"
        )

    def _table(
        self, items: pa.Table, used: np.ndarray[Any, Any], pairs: _Pairs, context: Context
    ) -> pa.Table:
        name = matching.last(self.settings.path)
        reasons = [
            f"row {number} of {name}" + (f": {about}" if about else "")
            for number, about in zip(pairs.numbers, pairs.abouts, strict=True)
        ]
        flat = [row for many in pairs.targets for row in many]
        sizes = np.array([len(many) for many in pairs.targets], np.int64)
        made = Rows(
            references=used[np.array(pairs.references, np.int64)],
            targets=used[np.array(flat, np.int64)],
            starts=np.concatenate([[0], np.cumsum(sizes)]),
            which=np.array(pairs.which, np.int64),
            changes=pairs.changes,
            reasons=pa.array(reasons, pa.string()),
            scores=np.array(pairs.scores, np.float64),
        )
        return label_table(items, made, operator="given", provenance=self.provenance(context))


#: What becomes of the rows of which no pair is made; each row has one end.
LOST = (
    "bad_rows", "rows_without_target", "rows_not_found", "rows_ambiguous", "self_pairs",
    "duplicate_rows",
)  # fmt: skip
#: Targets that are missing in rows that are pairs all the same.
PARTLY = ("targets_not_found", "targets_ambiguous")


@functools.lru_cache(maxsize=16)
def _file_hash(path: str, stamp: str) -> str:
    return store.file_hash(path)


class _Examples(dict[str, list[str]]):
    """Some rows of each kind, for the notes."""

    def note(self, kind: str, text: str) -> None:
        """Keep ``text``, if there are not enough of its kind."""
        told = self.setdefault(kind, [])
        if len(told) < EXAMPLES:
            told.append(text[:200])


class _Read:
    """The drafts of all rows of the file, with names as integers."""

    def __init__(self, columns: formats.Columns, kind: str, join: bool, joiner: str) -> None:
        self._columns, self._kind, self._join, self._joiner = columns, kind, join, joiner
        self.names: dict[str, int] = {}
        self.drafts: list[tuple[int, formats.Draft]] = []
        self.rows = 0
        self.counts: Counter[str] = Counter()
        self.examples = _Examples()

    def take(self, number: int, row: files.Row) -> None:
        """Read one row of the file."""
        self.rows += 1
        try:
            if isinstance(row, str):
                raise formats.BadRow(row)
            draft = formats.draft(row, self._kind, self._columns)
        except formats.BadRow as error:
            self.counts["bad_rows"] += 1
            self.examples.note("bad_rows", f"row {number}: {error}")
            return
        if not draft.targets:
            self.counts["rows_without_target"] += 1
            self.examples.note("rows_without_target", f"row {number}: {draft.reference}")
            return
        for name in (draft.reference, *draft.targets):
            self.names.setdefault(name, len(self.names))
        self.drafts.append((number, draft))

    def said(self, draft: formats.Draft) -> tuple[str, ...]:
        """The texts of a row, as the pair is to carry them."""
        return formats.joined(draft.texts, self._joiner) if self._join else draft.texts


@dataclass
class _Pairs:
    """Pairs as lists of one length: rows of the items table, row of the file, texts, score."""

    references: list[int] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    abouts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    which: list[int] = field(default_factory=list)
    changes: list[list[Change]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: _Examples = field(default_factory=_Examples)

    @staticmethod
    def of(read: _Read, found: matching.Found) -> _Pairs:
        """The pairs of all rows whose members are found."""
        pairs = _Pairs()
        seen: dict[tuple[str, ...], int] = {}
        for number, draft in read.drafts:
            members = pairs._members(number, draft, found.rows)
            if members is None:
                continue
            said = read.said(draft)
            if said not in seen:
                seen[said] = len(pairs.changes)
                pairs.changes.append([("text", None, text) for text in said])
            pairs.references.append(members[0])
            pairs.targets.append(members[1])
            pairs.numbers.append(number)
            pairs.abouts.append(draft.about)
            pairs.scores.append(draft.score)
            pairs.which.append(seen[said])
        return pairs

    def _members(
        self, number: int, draft: formats.Draft, rows: dict[str, int]
    ) -> tuple[int, list[int]] | None:
        """Reference and targets of a row of the file; None, and counted, where one is missing."""
        reference = rows[draft.reference]
        places = [rows[name] for name in draft.targets]
        there = list(dict.fromkeys(place for place in places if place >= 0))
        absent = [name for name in draft.targets if rows[name] == matching.ABSENT]
        twofold = [name for name in draft.targets if rows[name] == matching.SEVERAL]
        if reference == matching.ABSENT or (reference >= 0 and not there and absent):
            lost = draft.reference if reference == matching.ABSENT else absent[0]
            self._lost("rows_not_found", number, lost)
            return None
        if reference == matching.SEVERAL or not there:
            lost = draft.reference if reference == matching.SEVERAL else twofold[0]
            self._lost("rows_ambiguous", number, lost)
            return None
        others = [place for place in there if place != reference]
        if not others:
            self._lost("self_pairs", number, draft.reference)
            return None
        self.counts["targets_not_found"] += len(absent)
        self.counts["targets_ambiguous"] += len(twofold)
        return reference, others

    def _lost(self, kind: str, number: int, name: str) -> None:
        self.counts[kind] += 1
        self.examples.note(kind, f"row {number}: {name}")
