"""A run: plan, execute, resume, conserve, finish.

A run directory can be stopped at any moment and gone on with by the same command. Each step is
complete when its ``done.json`` stands; a step that is not complete resumes from its journal.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from datagen import ingest, note, plan, publish, recipe_file, schema, store, tables
from datagen.cluster.resources import fits
from datagen.errors import DatagenError, RecipeError
from datagen.lock import locked
from datagen.plan import Planned
from datagen.recipe import Recipe, load
from datagen.recipe import check as check_recipe
from datagen.step import Context, TableOperator
from datagen.steps import Outcome, State, execute


@dataclass
class StepReport:
    """What one step did: rows in = kept + rejected + failed; rows out may differ in kind."""

    id: str
    kind: str
    op: str
    level: str
    rows_in: int
    kept: int
    rejected: dict[str, int]
    failed: dict[str, int]
    rows_out: int
    seconds: float
    notes: dict[str, Any] = field(default_factory=dict)
    reused: bool = False


@dataclass
class Summary:
    """What a run did. ``status`` is ``finished`` or ``already finished``.

    report: paths of the page and the card; trouble: why they could not be written.
    """

    name: str
    out: str
    status: str
    steps: list[StepReport]
    seconds: float
    report: dict[str, str] = field(default_factory=dict)
    trouble: str = ""

    @property
    def triplets(self) -> int:
        """Rows that the last step left."""
        return self.steps[-1].rows_out


class Reporter(Protocol):
    """Is told what happens while a run goes on."""

    def start(self, step: Planned, total: int, done: int) -> None:
        """A step begins: ``done`` of its ``total`` rows stand in the journal."""

    def advance(self, kept: int, rejected: int, failed: int) -> None:
        """Rows got their answers."""

    def note(self, text: str, often: bool = False) -> None:
        """What a step does before its rows get answers; ``often``: how far it is with that."""

    def finish(self, report: StepReport) -> None:
        """A step is complete."""


class Silent:
    """A reporter that says nothing."""

    def start(self, step: Planned, total: int, done: int) -> None:
        pass

    def advance(self, kept: int, rejected: int, failed: int) -> None:
        pass

    def note(self, text: str, often: bool = False) -> None:
        pass

    def finish(self, report: StepReport) -> None:
        pass


def run(
    recipe: str | Mapping[str, Any] | Recipe,
    out: str,
    overrides: Iterable[str] = (),
    *,
    address: str | None = None,
    cpus: int | None = None,
    retry_failed: bool = False,
    reporter: Reporter | None = None,
    onto: Mapping[str, Any] | None = None,
    report: bool = True,
) -> Summary:
    """Run a recipe (name, path, or plain values) into the directory ``out``, or go on with it.

    overrides: ``["source.path=photos", "steps.similarity.low=0.7"]``; address: an existing Ray
    cluster (RAY_ADDRESS by default, else local); cpus: logical CPUs of a local one;
    retry_failed: try rows again that failed; onto: the note of the run in ``out``, whose source is
    taken as it was listed; report: write the page and the dataset card at the end. Raises
    RecipeError and DatagenError for what the user can mend; the same call goes on after any
    interruption.
    """
    started = time.monotonic()
    recipe = as_recipe(recipe, overrides)
    out = store.local_path(out) if store.is_local(out) else out.rstrip("/")
    if out.startswith("memory:"):
        raise DatagenError(
            f"--out {out}: lies in the memory of this process, where workers see nothing; "
            "choose a folder, or an object store such as s3://bucket/run"
        )
    store.make_folder(out)
    with locked(out):
        if onto is not None and note.read(out) != onto:
            raise DatagenError(f"{out}: another process has just changed this run; try again")
        runner = _Runner(recipe, out, address, cpus, retry_failed, reporter or Silent(), onto)
        status, reports = runner.go()
        summary = Summary(recipe.name, out, status, reports, 0.0)
        if report:
            _tell(summary)
    summary.seconds = time.monotonic() - started
    return summary


def _tell(summary: Summary) -> None:
    """Write the page and the card, unless they stand. What is made stands without them."""
    from datagen import report
    from datagen.result import load as opened

    try:
        made = opened(summary.out)
        summary.report = report.standing(made) or report.write(made)
    except Exception as error:
        logging.getLogger(__name__).info("no report", exc_info=True)
        told = str(error).splitlines() or [""]
        expected = isinstance(error, (DatagenError, OSError))
        summary.trouble = told[0] if expected else f"{type(error).__name__}: {told[0]}"


def as_recipe(recipe: str | Mapping[str, Any] | Recipe, overrides: Iterable[str] = ()) -> Recipe:
    """A checked recipe from a name, a path or plain values. Raises RecipeError."""
    if isinstance(recipe, Recipe):
        if list(overrides):
            raise RecipeError("overrides: this recipe is checked already; give them to load()")
        return recipe
    if isinstance(recipe, str):
        return load(recipe, overrides)
    return check_recipe(recipe_file.completed(recipe, overrides))


def source_parts(recipe: Recipe, out: str) -> list[dict[str, Any]]:
    """Units of work of the recipe's sources, each with the fingerprint of its source."""
    context = Context("source", recipe.seed, out, store.join(out, "media"))
    found = []
    for origin in recipe.sources:
        name = plan.of_source(origin)
        try:
            parts = [{"source": name, "part": part} for part in origin.source.parts(context)]
        except OSError as error:
            raise DatagenError(f"source {origin.id}: {error}") from error
        if not parts:
            raise DatagenError(f"source {origin.id}: lists nothing at all; its files hold no row")
        found += parts
    return found


class _Runner:
    def __init__(
        self,
        recipe: Recipe,
        out: str,
        address: str | None,
        cpus: int | None,
        retry_failed: bool,
        reporter: Reporter,
        onto: Mapping[str, Any] | None,
    ) -> None:
        self.recipe = recipe
        self.out = out
        self.retry_failed = retry_failed
        self.reporter = reporter
        self.listed: str | None = None if onto is None else onto["listed"]
        self.parts = [] if self.listed else source_parts(recipe, out)
        self.planned = plan.plan(recipe, out, self.parts, self.listed)
        if self.listed and self.planned[0].done() is None:
            raise DatagenError(
                f"{out}: the items of its source are not complete; give the recipe to 'datagen run'"
            )
        self.reports: list[StepReport] = []
        self.keeper = note.Keeper(out, recipe, self.reports, onto)
        self.keeper.planned = self.planned
        self.connection = contextlib.ExitStack()
        self.address, self.cpus = address, cpus
        self._engine: Any = None

    def engine(self) -> Any:
        """The engine, connected when the first step needs it."""
        if self._engine is None:
            from datagen.cluster.connect import connect
            from datagen.engine import Engine

            cluster = self.connection.enter_context(connect(self.address, self.cpus))
            wants = [
                (step.id, step.resources)
                for step in self.recipe.steps
                if not isinstance(step.operator, TableOperator)
            ]
            # Ray would wait for ever; a cluster may still grow, this machine cannot.
            if cluster.local and (faults := fits(wants, cluster.nodes)):
                raise RecipeError(faults)
            self._engine = Engine(cluster.cpus, cluster.gpus, self.reporter.note)
        return self._engine

    def go(self) -> tuple[str, list[StepReport]]:
        if faults := plan.out_of_reach(self.planned, self.retry_failed):
            raise RecipeError(faults)
        self._clear()
        reports, keeper = self.reports, self.keeper
        state = State(self.out, self.recipe.seed)
        with self.connection, keeper.noted():
            for number in range(len(self.planned)):
                planned = self.planned[number]
                report = self._reuse(planned, state)
                if report is None:
                    # Shards are changed in their place; the other steps have folders of their own.
                    if planned.kind == "shards" or not keeper.stands:
                        keeper.begin()
                    onward = planned.onward
                    report = self._execute(planned, state)
                    if planned.onward != onward:
                        self.planned = plan.plan(self.recipe, self.out, self.parts, self.listed)
                        keeper.planned = self.planned
                state.advance(planned)
                reports.append(report)
                self.reporter.finish(report)
                if not report.rows_out:
                    stands = "; the run stays as it was" if keeper.undisturbed() else ""
                    raise DatagenError(note.nothing_left(report, planned) + stands)
            if all(r.reused for r in reports) and keeper.is_finished():
                return "already finished", reports
            keeper.begin()
            publish.triplets(self.out, self._levels(reports))
        return "finished", reports

    def _clear(self) -> None:
        """Remove the working folders and files that a killed process left."""
        store.clean(self.out)
        for name in store.names(self.out):
            if name.startswith((".words-", ".plan-")):
                store.remove(store.join(self.out, name))

    def _reuse(self, planned: Planned, state: State) -> StepReport | None:
        done = planned.done()
        if done is None or (self.retry_failed and done["failed"]):
            return None
        operator = planned.step.operator if planned.step else None
        if operator and not operator.still_stands(state.context(planned), done["notes"]):
            return None
        named = {"id": planned.id, "kind": planned.kind, "op": planned.op}
        return StepReport(**{**done, **named, "reused": True})

    def _execute(self, planned: Planned, state: State) -> StepReport:
        started = time.monotonic()
        store.make_folder(planned.journal)
        store.clean(planned.journal)
        store.clean(planned.decision)
        try:
            if planned.step is None:
                outcome = self._ingest(planned, state)
            else:
                outcome = execute(planned, state, self.engine, self.retry_failed, self.reporter)
        except OSError as error:
            place = str(error.filename or self.out)
            raise store.explained(f"step {planned.id}: {place}", error) from error
        return self._conclude(planned, outcome, time.monotonic() - started)

    def _ingest(self, planned: Planned, state: State) -> Outcome:
        from datagen.engine import Job
        from datagen.step import Resources

        origins = {plan.of_source(origin): origin for origin in self.recipe.sources}
        operator = ingest.Ingest(origins, self.recipe.media)
        journal = store.Journal(planned.journal)
        have = journal.units()
        if self.retry_failed:
            have -= self._failed_parts(journal)
        units = {ingest.part_id(part): schema.canonical_json(part) for part in self.parts}
        todo = {unit: text for unit, text in units.items() if unit not in have}
        self.reporter.start(planned, 0, 0)
        if todo:
            pending = pa.table([list(todo), list(todo.values())], schema=ingest.PARTS)
            job = Job(operator, state.context(planned), planned.journal)
            wants = Resources(batch_size=1)
            self.engine().rows(job, pending, wants, self.reporter.advance)
        ids = pa.chunked_array([pa.array(sorted(units), pa.string())])
        answered = tables.answers(journal, ids, optional=True)
        items, verdicts = ingest.settle(answered)
        return Outcome(items, verdicts, level="items")

    @staticmethod
    def _failed_parts(journal: store.Journal) -> set[str]:
        """Parts of the source that hold a record that failed."""
        found: set[str] = set()
        for part in journal.parts():
            table = store.read_table(part, ["unit", "verdict"])
            failed = table.filter(pc.equal(table["verdict"], schema.FAILED))
            found.update(failed["unit"].to_pylist())
        return found

    def _conclude(self, planned: Planned, outcome: Outcome, seconds: float) -> StepReport:
        """Check that nothing vanished, then publish the tables and, last, done.json."""
        verdicts = outcome.verdicts
        count = {
            verdict: _counted(verdicts, verdict)
            for verdict in (schema.KEPT, schema.REJECTED, schema.FAILED)
        }
        report = StepReport(
            id=planned.id,
            kind=planned.kind,
            op=planned.op,
            level=outcome.level,
            rows_in=outcome.rows_in if outcome.rows_in is not None else verdicts.num_rows,
            kept=sum(count[schema.KEPT].values()),
            rejected=count[schema.REJECTED],
            failed=count[schema.FAILED],
            rows_out=outcome.rows.num_rows,
            seconds=round(seconds, 3),
            notes=outcome.notes,
        )
        total = report.kept + sum(report.rejected.values()) + sum(report.failed.values())
        if report.rows_in != total or (outcome.same_level and report.kept != report.rows_out):
            raise RuntimeError(
                f"step {planned.id} does not conserve its rows: {report.rows_in} in, {total} with "
                f"a verdict, {report.kept} kept, {report.rows_out} out"
            )
        made = {
            "verdicts": verdicts,
            "measured": outcome.measured,
            "scores": outcome.scores,
            "made": outcome.made,
            "table": outcome.rows,
        }
        publish.step(planned, {name: table for name, table in made.items() if table is not None})
        store.write_json(store.join(planned.decision, "done.json"), asdict(report))
        return report

    def _levels(self, reports: Sequence[StepReport]) -> list[publish.Left]:
        return [
            publish.Left(step.id, step.decision, report.level)
            for step, report in zip(self.planned, reports, strict=True)
        ]


def _counted(verdicts: pa.Table, verdict: str) -> dict[str, int]:
    rows = verdicts.filter(pc.equal(verdicts["verdict"], verdict))
    if verdict == schema.KEPT:
        return {"": rows.num_rows} if rows.num_rows else {}
    counts = pc.value_counts(pc.fill_null(rows["rule"], "error").combine_chunks())
    return {c["values"]: c["counts"] for c in sorted(counts.to_pylist(), key=lambda c: c["values"])}
