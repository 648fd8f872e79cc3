"""Spoils a known share of triplets, so that it can be measured what filters find of it.

Noisy correspondence in composed retrieval is studied by exchanging the reference, the text or the
target of a triplet for another triplet's, a third each (TME, CVPR 2025, after NCR, NeurIPS 2021).
``partial`` adds a harder kind: a text that is wrong in one word only.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from datagen import schema
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.step import (
    Context,
    Parallel,
    Result,
    Settings,
    TableOperator,
    Tables,
    serial,
    verdicts,
)
from datagen.texts._wrong_word import Spoiler

#: The field of the change that says what was done to a row.
FIELD = "noise"
PARTIAL = "partial"
#: Rows that are rebuilt at once.
ROWS = 32768
_EXAMPLES = 5

Kind = Literal["reference", "text", "target"]


class NoiseSettings(Settings):
    """``share``: of the triplets (0 to 1), how many get another triplet's ``kinds``: in equal
    parts the reference, the text or the target. ``partial``: of the triplets, how many more get
    one word of their text wrong. ``seed``: which rows, and what they get; null: the run's seed.
    """

    share: float = Field(0.2, ge=0, le=1)
    kinds: tuple[Kind, ...] = ("reference", "text", "target")
    partial: float = Field(0.0, ge=0, le=1)
    seed: int | None = Field(None, ge=0)

    @field_validator("kinds")
    @classmethod
    def _each_once(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if not kinds or len(set(kinds)) < len(kinds):
            raise ValueError("reference, text and target, one of them at least, each once")
        return kinds

    @model_validator(mode="after")
    def _some(self) -> NoiseSettings:
        if not self.share and not self.partial:
            raise ValueError("share and partial are both 0; leave the step out for no noise")
        if self.share + self.partial > 1 + 1e-9:
            raise ValueError("share and partial come to more than 1")
        return self


class Noise(TableOperator[NoiseSettings]):
    """Changes ``share`` + ``partial`` of the triplets, by hash of their ids; keeps every row.

    A changed row gets one more change in its evidence: field ``noise``, removed: the ids of the
    items or the text that stood there, added: ``reference``, ``text``, ``target`` or ``partial``.
    It gets a new id, and its scores become null: they were measured of something else. The rows
    of a smaller share are among those of a larger one, spoiled in the same way.

    What a row gets is never what it had, equal in caption or in text, another text of its pair,
    or an item that stands on its other side. Rows that an earlier step spoiled stay as they are.
    ``partial`` exchanges a word that the evidence names
    as added for another that changes take the place of one another in this run, or for another
    value of the same label. Put the step after the text step, before negatives and the split.
    """

    Settings = NoiseSettings
    levels = ("triplets",)
    before = frozenset({"negatives", "split"})

    def needs(self, level: Level) -> set[str]:
        return {"pairs", "modification"}

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Spoil the rows. Raises DatagenError after a negatives or split step."""
        rows = tables.rows
        late = [name for name in sorted(self.before) if name in rows.column_names]
        if late:
            raise DatagenError(
                f"noise: the rows have {' and '.join(late)} already, chosen for what the noise "
                "takes away; put the step before them"
            )
        seed = context.seed if self.settings.seed is None else self.settings.seed
        ids = rows["id"].to_pylist()
        noisy = _noisy(rows["evidence"])
        order = sorted(
            (at for at in range(len(ids)) if at not in noisy),
            key=lambda at: schema.content_id("noise", str(seed), ids[at]),
        )
        asked, lacking = self._exchanges(rows, ids, order, seed)
        words, impossible = self._wrong_words(rows, tables.items, order, seed)
        done = {**{at: (kind, donor) for at, kind, donor in asked}, **words}
        changed = sorted(done)
        line = {**self.provenance(context), "seed": seed}
        parts = [rows.take(_indices([at for at in range(len(ids)) if at not in done]))]
        parts += [_spoiled(rows, some, done, line) for some in _batches(changed, ROWS)]
        counts = {
            kind: sum(what == kind for what, _ in done.values())
            for kind in (*self.settings.kinds, PARTIAL)
        }
        notes: dict[str, Any] = {"rows": len(ids), "noise": {k: n for k, n in counts.items() if n}}
        if noisy:
            notes["noisy_already"] = len(noisy)
        if lacking:
            notes["nothing_else_to_give"] = lacking
        if impossible:
            notes["no_word_to_exchange"] = impossible
        return Result(pa.concat_tables(parts), verdicts(rows["id"]), notes=notes)

    def _exchanges(
        self, rows: pa.Table, ids: list[str], order: list[int], seed: int
    ) -> tuple[list[tuple[int, str, int]], dict[str, int]]:
        """Row, kind and the row whose value it gets; how many rows of a kind can get nothing."""
        kinds = self.settings.kinds
        chosen = order[: _count(self.settings.share, len(ids))]
        found: list[tuple[int, str, int]] = []
        lacking: dict[str, int] = {}
        for number, kind in enumerate(kinds):
            mine = chosen[number :: len(kinds)]
            donors = _Donors(rows, kind, ids, seed) if mine else None
            for at in mine:
                donor = donors.of(at) if donors else None
                if donor is None:
                    lacking[kind] = lacking.get(kind, 0) + 1
                else:
                    found.append((at, kind, donor))
        return found, lacking

    def _wrong_words(
        self, rows: pa.Table, items: pa.Table, order: list[int], seed: int
    ) -> tuple[dict[int, tuple[str, str]], dict[str, Any]]:
        """Row: (``partial``, its new text); and what is to be said of rows passed over."""
        wanted = _count(self.settings.partial, rows.num_rows)
        if not wanted:
            return {}, {}
        spoiler = Spoiler(rows["evidence"], items)
        first = _count(self.settings.share, rows.num_rows)
        found: dict[int, tuple[str, str]] = {}
        passed = 0
        example: str | None = None
        # From the other end of the order, so that both shares nest.
        for at, row in _read(rows, order[first:][::-1]):
            if len(found) == wanted:
                break
            text = spoiler.text(row, seed)
            if text is not None:
                found[at] = (PARTIAL, text)
            else:
                passed += 1
                example = example or row["modification"]
        if not passed:
            return found, {}
        return found, {"passed": passed, "lacking": wanted - len(found), "example": example}


class _Donors:
    """Finds for a row the next one, in an order drawn by hash, whose value would be wrong for it.

    The order goes round, so no row gives twice but where others are passed over.
    """

    def __init__(self, rows: pa.Table, kind: str, ids: list[str], seed: int) -> None:
        self._texts = [_folded(text) for text in rows["modification"].to_pylist()]
        self._items = {side: _listed(rows[side], "id") for side in ("references", "targets")}
        self._kind = kind
        self._side = f"{kind}s"
        if kind == "text":
            self._values: list[Any] = self._texts
            pairs = rows["pair"].to_pylist()
            self._siblings: dict[str, set[str]] = defaultdict(set)
            for pair, text in zip(pairs, self._texts, strict=True):
                self._siblings[pair].add(text)
            self._pairs = pairs
        else:
            self._values = [frozenset(names) for names in self._items[self._side]]
            listed = _listed(rows[self._side], "caption")
            self._captions = [frozenset(_folded(c) for c in row if c) for row in listed]
        self._order = sorted(
            range(len(ids)), key=lambda at: schema.content_id("noise", kind, str(seed), ids[at])
        )
        self._place = {at: place for place, at in enumerate(self._order)}
        # Where runs of equal values begin: what a row has itself is passed over in one stride.
        values = [self._values[at] for at in self._order]
        self._runs = [
            place for place in range(len(values)) if not place or values[place] != values[place - 1]
        ]

    def of(self, at: int) -> int | None:
        """The row that gives to row ``at``; None where no other value would be wrong."""
        count = len(self._order)
        place, walked = self._place[at] + 1, 1
        while walked < count:
            donor = self._order[place % count]
            if self._values[donor] != self._values[at]:
                if self._wrong(at, donor):
                    return donor
                stride = 1
            else:
                run = bisect.bisect_right(self._runs, place % count)
                end = self._runs[run] if run < len(self._runs) else count
                stride = end - place % count
            place, walked = place + stride, walked + stride
        return None

    def _wrong(self, at: int, donor: int) -> bool:
        if self._kind == "text":
            text = self._texts[donor]
            return bool(text) and text not in self._siblings[self._pairs[at]]
        other = "targets" if self._side == "references" else "references"
        if not self._items[self._side][donor]:
            return False
        if not self._values[donor].isdisjoint([*self._items[other][at], *self._values[at]]):
            return False
        return self._captions[donor].isdisjoint(self._captions[at])


def _spoiled(
    rows: pa.Table,
    some: Sequence[int],
    done: dict[int, tuple[str, Any]],
    line: dict[str, Any],
) -> pa.Table:
    """Rows ``some`` with what ``done`` says of each, new ids and a line of provenance."""
    out = rows.take(_indices(some)).to_pylist()
    donors = [done[at][1] if done[at][0] != PARTIAL else at for at in some]
    values = ["references", "targets", "modification"]
    given = rows.select(values).take(_indices(donors)).to_pylist()
    for at, row, gift in zip(some, out, given, strict=True):
        kind, what = done[at]
        if kind in ("reference", "target"):
            side = f"{kind}s"
            stood = " ".join(member["id"] for member in row[side] or ())
            row[side] = gift[side]
        else:
            stood = row["modification"]
            row["modification"] = what if kind == PARTIAL else gift["modification"]
        evidence = row["evidence"] or dict.fromkeys(schema.EVIDENCE.names)
        change = {"field": FIELD, "removed": stood, "added": kind}
        row["evidence"] = {**evidence, "changes": [*(evidence["changes"] or ()), change]}
        row["provenance"] = [*(row["provenance"] or ()), line]
        references, targets = (
            [m["id"] for m in row[f"{side}s"]] for side in ("reference", "target")
        )
        changes = schema.canonical_json(row["evidence"]["changes"])
        row["pair"] = schema.pair_id(references, targets, changes)
        row["id"] = schema.triplet_id(row["pair"], row["modification"] or "")
        row.update({name: None for name in row if name.startswith("score_")})
    return pa.Table.from_pylist(out, schema=rows.schema)


def _read(rows: pa.Table, order: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """What :class:`Spoiler` reads of rows, in ``order``."""
    columns = rows.select(["id", "modification", "targets", "evidence"])
    for some in _batches(order, 1024):
        yield from zip(some, columns.take(_indices(some)).to_pylist(), strict=True)


def _batches(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def _noisy(evidence: pa.ChunkedArray) -> set[int]:
    """Rows that were spoiled before."""
    changes = pc.struct_field(evidence, "changes").combine_chunks()
    fields = pc.struct_field(pc.list_flatten(changes), "field")
    parents = pc.list_parent_indices(changes)
    found: list[int] = parents.filter(pc.equal(fields, FIELD)).to_pylist()
    return set(found)


def _count(share: float, rows: int) -> int:
    return int(share * rows + 0.5)


def _indices(places: Sequence[int]) -> pa.Array:
    return pa.array(places, pa.int64())


def _listed(column: pa.ChunkedArray, name: str) -> list[list[Any]]:
    """A field of the members of each row."""
    out: list[list[Any]] = []
    for chunk in column.chunks:
        flat = chunk.flatten().field(name).to_pylist()
        ends = itertools.accumulate(chunk.value_lengths().fill_null(0).to_pylist(), initial=0)
        out += [flat[begin:end] for begin, end in itertools.pairwise(ends)]
    return out


def _folded(text: str | None) -> str:
    return " ".join((text or "").casefold().split())
