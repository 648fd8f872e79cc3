"""Executes one step of a run: row operators through the engine, whole-table steps in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema, store, tables
from datagen.errors import DatagenError
from datagen.explode import explode
from datagen.made import FILE as MADE
from datagen.made import Maker
from datagen.painted import settled
from datagen.plan import Planned
from datagen.recipe import Step
from datagen.schema import Level
from datagen.space import Space
from datagen.step import (
    Context,
    Embedder,
    Filter,
    Parallel,
    RowOperator,
    TableFilter,
    TableOperator,
    Tables,
)
from datagen.step import verdicts as rejections

#: The rule of a row that came to the same as another one in a step that makes rows.
SAME = "same_as_another"


@dataclass
class Outcome:
    """What a step leaves: the new table, a verdict per input row, measured item columns.

    scores: what a filter measured of every row, also of those that it lost; made: items that
    were not there before.
    """

    rows: pa.Table
    verdicts: pa.Table
    level: Level
    measured: pa.Table | None = None
    scores: pa.Table | None = None
    made: pa.Table | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    rows_in: int | None = None
    same_level: bool = True


class State:
    """Where the run stands: tables of the last complete step, read when first wanted."""

    def __init__(self, out: str, seed: int) -> None:
        self.out = out
        self.seed = seed
        self.level: Level = "items"
        self._items_path = ""
        self._measured: list[str] = []
        self._made: list[str] = []
        self._writers: list[dict[str, Any]] = []
        self._rows_path = ""
        self._items: pa.Table | None = None
        self._rows: pa.Table | None = None

    def context(self, planned: Planned) -> Context:
        """What the operator of ``planned`` may reach."""
        media = store.join(self.out, "media")
        return Context(
            planned.id,
            self.seed,
            self.out,
            media,
            store.join(planned.folder, "staged"),
            planned.spaces,
            planned.embedders,
            self._items_path,
            tuple(self._made),
        )

    def advance(self, planned: Planned) -> None:
        """``planned`` is complete: later steps see its tables."""
        table = store.join(planned.decision, "table.parquet")
        step = planned.step
        after = step.after if step else "items"
        if after == "items":
            if step and "items.captions" in step.operator.gives("items"):
                self._writers.append(step.operator.provenance(self.context(planned)))
            self._items_path, self._items = table, None
        else:
            self._rows_path, self._rows = table, None
            measured = store.join(planned.decision, "measured.parquet")
            if store.exists(measured):
                self._measured.append(measured)
                self._items = None
            if step and step.makes_items:
                self._made.append(store.join(planned.decision, MADE))
                self._items = None
        self.level = after

    def items(self) -> pa.Table:
        """The items, those that steps made as well, with every measured column, sorted by id."""
        if self._items is None:
            made = [store.read_table(path) for path in self._made]
            items = tables.with_made(store.read_table(self._items_path), made)
            for path in self._measured:
                items = tables.with_columns(items, store.read_table(path))
            self._items = items.combine_chunks()
        return self._items

    def credited(self, rows: pa.Table) -> pa.Table:
        """``rows`` made of items, with the steps that wrote captions of theirs in provenance."""
        made_here = self.level == "items" and "references" in rows.column_names
        return tables.credited(rows, self.items(), self._writers) if made_here else rows

    def rows(self) -> pa.Table:
        """The current table: items, pairs or triplets, sorted by id."""
        if self.level == "items":
            return self.items()
        if self._rows is None:
            self._rows = store.read_table(self._rows_path).combine_chunks()
        return self._rows


def execute(
    planned: Planned,
    state: State,
    engine: Callable[[], Any],
    retry_failed: bool,
    reporter: Any,
) -> Outcome:
    """Run one step from where its journal stands."""
    assert planned.step is not None
    operator = planned.step.operator
    if isinstance(operator, TableOperator):
        return _whole_table(planned, operator, state, engine, reporter)
    assert isinstance(operator, RowOperator)
    on_items = operator.on_items and state.level != "items"
    rows = state.rows()
    if on_items:
        used = pa.array(sorted(tables.used_items(rows)), pa.string())
        items = state.items()
        subjects = items.filter(pc.is_in(items["id"], value_set=used))
    else:
        subjects = rows
    journal = store.Journal(planned.journal)
    if isinstance(operator, TableFilter):
        _measure(journal, planned, operator, state, engine, retry_failed, reporter)
    else:
        _fill(journal, planned, operator, state, subjects, engine, retry_failed, reporter)
    without = tables.VECTORS if isinstance(operator, Embedder) else ()
    answered = tables.answers(journal, subjects["id"], without)
    if isinstance(operator, Filter):
        return _decide(operator, state, answered, on_items, state.context(planned))
    verdicts = tables.unit_verdicts(answered)
    if isinstance(operator, Embedder):
        tables.write_space(planned.decision, journal, tables.kept(subjects, verdicts)["id"])
        if on_items:
            lost = verdicts.filter(pc.not_equal(verdicts["verdict"], schema.KEPT))
            verdicts = tables.fail_users(rows, _all_kept(rows), lost)
        return Outcome(tables.kept(rows, verdicts), verdicts, state.level)
    line = operator.provenance(state.context(planned))
    if operator.paints:
        context = state.context(planned)
        folder = store.join(context.media_dir, planned.folder.rsplit("/", 1)[-1])
        answered = settled(answered, context.staged, folder, line, _parallel(engine))
    if planned.step.makes_rows:
        return _made(planned.step, planned.id, state, answered, verdicts, line)
    given = _given(answered)
    if on_items:
        lost = verdicts.filter(pc.not_equal(verdicts["verdict"], schema.KEPT))
        verdicts = tables.fail_users(rows, _all_kept(rows), lost)
        return Outcome(tables.kept(rows, verdicts), verdicts, state.level, measured=given)
    changed = tables.with_columns(tables.kept(rows, verdicts), given)
    if "provenance" in changed.column_names:
        changed = tables.add_provenance(changed, line)
    return Outcome(changed, verdicts, state.level)


def _made(
    step: Step,
    name: str,
    state: State,
    answered: pa.Table,
    verdicts: pa.Table,
    line: dict[str, Any],
) -> Outcome:
    """Other rows than came in: of the next level, with other texts, members or items."""
    maker = Maker(state.items() if step.makes_items else None, name)
    made = explode(state.rows(), answered, line, maker, step.lasting)
    same = {unit: (SAME, f"came to {other}") for unit, other in made.same.items()}
    again = [(unit, SAME, f"came to {other}") for unit, other in made.again]
    return Outcome(
        state.credited(made.rows),
        _but(verdicts, same),
        step.after,
        made=maker.items() if step.makes_items else None,
        notes=tables.not_used(answered, again),
        same_level=False,
    )


def _but(verdicts: pa.Table, rejected: Mapping[str, tuple[str, str]]) -> pa.Table:
    """``verdicts``, but for those units that are ``rejected`` after all."""
    if not rejected:
        return verdicts
    other = rejections(verdicts["id"], rejected)
    own = pc.is_in(verdicts["id"], value_set=pa.array(sorted(rejected), pa.string()))
    return tables.by_id(pa.concat_tables([verdicts.filter(pc.invert(own)), other.filter(own)]))


def _fill(
    journal: store.Journal,
    planned: Planned,
    operator: RowOperator[Any],
    state: State,
    subjects: pa.Table,
    engine: Callable[[], Any],
    retry_failed: bool,
    reporter: Any,
) -> None:
    """Bring the journal up to an answer for every subject."""
    from datagen.engine import Job

    assert planned.step is not None
    have = journal.units(without_failed=retry_failed)
    done = pa.array(sorted(have), pa.string())
    todo = subjects.filter(pc.invert(pc.is_in(subjects["id"], value_set=done)))
    reporter.start(planned, subjects.num_rows, subjects.num_rows - todo.num_rows)
    if not todo.num_rows:
        return
    level: Level = "items" if operator.on_items else state.level
    columns = sorted({"id", *operator.columns(level)} & set(todo.column_names))
    context = state.context(planned)
    if retry_failed and journal.units().intersection(todo["id"].to_pylist()):
        context = replace(context, attempt=_attempt(planned))
    operator.ready(context, _parallel(engine))
    job = Job(operator, context, planned.journal)
    engine().rows(job, todo.select(columns), planned.step.resources, reporter.advance)


def _attempt(planned: Planned) -> int:
    """How often failed rows of the step are tried again, this time included."""
    path = store.join(planned.folder, "retries.json")
    count = 1 + (int(store.read_json(path)) if store.exists(path) else 0)
    store.write_json(path, count)
    return count


def _measure(
    journal: store.Journal,
    planned: Planned,
    operator: TableFilter[Any],
    state: State,
    engine: Callable[[], Any],
    retry_failed: bool,
    reporter: Any,
) -> None:
    """Write the scores of the whole table to the journal, unless they all stand there."""
    from datagen.engine import journal_rows

    rows = state.rows()
    done = set(rows["id"].to_pylist()) <= journal.units(without_failed=retry_failed)
    reporter.start(planned, rows.num_rows, rows.num_rows if done else 0)
    if not done:
        whole = Tables(state.items(), rows, state.level)
        measured = operator.measure(whole, state.context(planned), _parallel(engine))
        journal.append(journal_rows(rows, measured))


def _parallel(engine: Callable[[], Any]) -> Parallel:
    """The workers of ``engine``, which is connected when they are first wanted."""

    def parallel(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        found: Iterator[Any] = engine().parallel(function, arguments)
        return found

    return parallel


def _decide(
    operator: Filter[Any], state: State, answered: pa.Table, on_items: bool, context: Context
) -> Outcome:
    given = _given(answered)
    names = ["id" if name == "unit" else name for name in answered.column_names]
    answered = answered.rename_columns(names)
    lost = answered.filter(pc.not_equal(answered["verdict"], schema.KEPT))
    rows = state.rows()
    # Where nothing could be measured there is no score to decide by, and no row for it.
    nothing = 0 < lost.num_rows == answered.num_rows
    if on_items:
        items = tables.with_columns(state.items(), given)
        verdicts = _all_kept(rows) if nothing else _decided(operator, rows, items)
        verdicts = tables.fail_users(rows, verdicts, lost)
        return Outcome(tables.kept(rows, verdicts), verdicts, state.level, measured=given)
    rows = tables.with_columns(rows, given)
    items = rows if state.level == "items" else state.items()
    verdicts = _all_kept(rows) if nothing else _decided(operator, rows, items)
    own = lost.select(schema.VERDICTS.names).cast(schema.VERDICTS)
    rest = verdicts.filter(
        pc.invert(pc.is_in(verdicts["id"], value_set=own["id"].combine_chunks()))
    )
    verdicts = tables.by_id(pa.concat_tables([rest.cast(schema.VERDICTS), own]))
    scores = given if given.num_columns > 1 and state.level != "items" else None
    kept = tables.kept(rows, verdicts)
    notes: dict[str, Any] = {}
    if operator.settles and state.level != "items" and not nothing:
        kept, notes = operator.settle(kept, items, context)
        kept = tables.by_id(kept)
    return Outcome(kept, verdicts, state.level, scores=scores, notes=notes)


def _given(answered: pa.Table) -> pa.Table:
    """What the operator gave, by id."""
    given = answered.drop_columns(list(tables.VERDICT))
    return given.rename_columns(["id" if n == "unit" else n for n in given.column_names])


def _decided(operator: Filter[Any], rows: pa.Table, items: pa.Table) -> pa.Table:
    """The filter's verdicts, in the order of ``rows``, after checking that each row has one."""
    verdicts = operator.decide(rows, items).select(schema.VERDICTS.names).cast(schema.VERDICTS)
    return _one_each(rows, verdicts, type(operator).__name__)


def _one_each(rows: pa.Table, verdicts: pa.Table, name: str) -> pa.Table:
    """``verdicts`` in the order of ``rows``. Raises DatagenError unless each row has one."""
    verdicts = tables.by_id(verdicts)
    known = pa.array([schema.KEPT, schema.REJECTED, schema.FAILED])
    sound = pc.all(pc.is_in(verdicts["verdict"], value_set=known)).as_py() is not False
    if not sound or not verdicts["id"].equals(rows["id"]):
        raise DatagenError(
            f"{name}: {verdicts.num_rows} verdicts for {rows.num_rows} rows; the operator must "
            "give each row exactly one of kept, rejected, failed"
        )
    return verdicts


def _all_kept(rows: pa.Table) -> pa.Table:
    count = rows.num_rows
    nothing = pa.nulls(count, pa.string())
    kept = pa.array([schema.KEPT] * count, pa.string())
    return pa.table([rows["id"], kept, nothing, nothing], schema=schema.VERDICTS)


def _whole_table(
    planned: Planned,
    operator: TableOperator[Any],
    state: State,
    engine: Callable[[], Any],
    reporter: Any,
) -> Outcome:
    rows = state.rows()
    assert planned.step is not None
    reporter.start(planned, rows.num_rows, 0)

    items = state.items()
    context = state.context(planned)
    result = operator(Tables(items, rows, state.level), context, _parallel(engine))
    made = state.credited(tables.by_id(result.rows))
    verdicts = result.verdicts.select(schema.VERDICTS.names).cast(schema.VERDICTS)
    verdicts = _one_each(rows, verdicts, f"step {planned.id}")
    if result.vectors is not None:
        Space.write(planned.decision, result.rows["id"].to_pylist(), result.vectors)
    same = planned.step.after == planned.step.before
    return Outcome(made, verdicts, planned.step.after, notes=result.notes, same_level=same)
