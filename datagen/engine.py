"""Runs row operators over tables, and functions over lists, by Ray Data.

Workers write their own journal part after every batch and hand Ray nothing but counts, so a
killed run loses at most one batch per worker. Models live in actors; CPU work ahead of a model
(``prepare``) runs in tasks of its own and overlaps it. This file and gather.py are the only ones
that speak Ray Data.
"""

from __future__ import annotations

import contextlib
import hashlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema, store
from datagen.errors import DatagenError
from datagen.step import Context, Resources, RowOperator
from datagen.tables import unit_verdicts

#: Called with rows kept, rejected and failed since the last call.
Progress = Callable[[int, int, int], None]

#: What a worker answers. ``error`` is a problem that only the user can mend (a full disk, a lost
#: server): Ray keeps no more than the text of an exception, so it travels as data.
COUNTS = pa.schema(
    [
        ("kept", pa.int64()),
        ("rejected", pa.int64()),
        ("failed", pa.int64()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Job:
    """One row operator at work: everything that a worker needs, and nothing else."""

    operator: RowOperator[Any]
    context: Context
    journal: str


#: How often a batch is tried again whose worker died (Ray's own answer would be: for ever).
RETRIES = 3

_opened: dict[str, tuple[Job, bool]] = {}


def _job(payload: bytes, opened: bool) -> Job:
    """The job of ``payload``, unpickled (and opened) once per worker process."""
    key = hashlib.blake2b(payload, digest_size=16).hexdigest()
    if key not in _opened:
        # Steps run one after another: what the last one held open is not needed again.
        _opened.clear()
    job, is_open = _opened.get(key) or (cloudpickle.loads(payload), False)
    if opened and not is_open:
        job.operator.open(job.context)
    _opened[key] = (job, is_open or opened)
    return job


def apply(job: Job, rows: pa.Table) -> pa.Table:
    """Run the operator on one batch and return journal rows.

    Rows that ``prepare`` could not prepare do not reach the operator. An operator that raises is
    called again row by row, so that one bad row fails alone.
    """
    if "verdict" in rows.column_names:
        lost = pc.not_equal(pc.fill_null(rows["verdict"], schema.KEPT), schema.KEPT)
        if pc.any(lost).as_py():
            failed = rows.filter(lost).select(schema.VERDICTS.names).cast(schema.VERDICTS)
            failed = failed.rename_columns(["unit", *schema.VERDICTS.names[1:]])
            rest = rows.filter(pc.invert(lost))
            parts = [apply(job, rest), failed] if rest.num_rows else [failed]
            return pa.concat_tables(parts, promote_options="permissive")
    try:
        return journal_rows(rows, job.operator(rows))
    except DatagenError:
        raise
    except Exception as error:
        if rows.num_rows == 1:
            return _failed(rows["id"].to_pylist(), _one_line(error))
        parts = [apply(job, rows.slice(i, 1)) for i in range(rows.num_rows)]
        return pa.concat_tables(parts, promote_options="permissive")


def _one_line(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {text} ({place.name}, line {place.lineno})"


def _failed(ids: Sequence[str], detail: str) -> pa.Table:
    count = len(ids)
    return pa.table(
        {
            "unit": pa.array(ids, pa.string()),
            "verdict": pa.array([schema.FAILED] * count, pa.string()),
            "rule": pa.array(["error"] * count, pa.string()),
            "detail": pa.array([detail] * count, pa.string()),
        }
    )


def journal_rows(rows: pa.Table, out: pa.Table) -> pa.Table:
    """``out``, an operator's answer for ``rows``, as it stands in a journal."""
    if not isinstance(out, pa.Table):
        raise TypeError(f"the operator gave {type(out).__name__}, not a pyarrow.Table")
    listing = "unit" in out.column_names  # a source's part may hold no record at all
    if not listing:
        out = out.rename_columns(["unit" if n == "id" else n for n in out.column_names])
    count = out.num_rows
    for name in ("verdict", "rule", "detail"):
        if name not in out.column_names:
            out = out.append_column(name, pa.nulls(count, pa.string()))
        at = out.column_names.index(name)
        out = out.set_column(at, name, out[name].cast(pa.string()))
    verdict = pc.fill_null(out["verdict"], schema.KEPT)
    unknown = set(verdict.to_pylist()) - {schema.KEPT, schema.REJECTED, schema.FAILED}
    if unknown:
        raise ValueError(f"no such verdict: {min(unknown)!r}")
    out = out.set_column(out.column_names.index("verdict"), "verdict", verdict)
    if listing:
        return out
    silent = set(rows["id"].to_pylist()) - set(out["unit"].to_pylist())
    if silent:
        lost = _failed(sorted(silent), "the operator gave no answer for this row")
        out = pa.concat_tables([out, lost], promote_options="permissive")
    return out


def _answer(job: Job, work: Callable[[], pa.Table]) -> pa.Table:
    """Do ``work``, journal its rows, and count their verdicts."""
    row: dict[str, Any] = dict.fromkeys(COUNTS.names)
    try:
        table = work()
        store.Journal(job.journal).append(table)
    except DatagenError as error:
        row["error"] = str(error)
    except Exception as error:
        row["error"] = f"step {job.context.step}: {_one_line(error)}"
    else:
        # Of what a source lists every record counts; of rows with several lines each row once.
        lists = "key" in table.column_names
        verdict = (table if lists else unit_verdicts(table))["verdict"].to_pylist()
        row.update({name: verdict.count(name) for name in ("kept", "rejected", "failed")})
    return pa.Table.from_pylist([row], schema=COUNTS)


def _work(rows: pa.Table, payload: bytes) -> pa.Table:
    """One task: prepare, call, journal."""
    if not rows.num_rows:
        return COUNTS.empty_table()
    job = _job(payload, opened=False)

    def work() -> pa.Table:
        opened = _job(payload, opened=True)
        return apply(opened, _prepared(opened, rows))

    return _answer(job, work)


def _prepared(job: Job, rows: pa.Table) -> pa.Table:
    try:
        return job.operator.prepare(rows)
    except DatagenError:
        raise
    except Exception as error:
        if rows.num_rows == 1:
            failed = _failed(rows["id"].to_pylist(), _one_line(error))
            return failed.rename_columns(["id", *failed.column_names[1:]])
        parts = [_prepared(job, rows.slice(i, 1)) for i in range(rows.num_rows)]
        return pa.concat_tables(parts, promote_options="permissive")


def _prepare(rows: pa.Table, payload: bytes) -> pa.Table:
    return _prepared(_job(payload, opened=False), rows)


class _Actor:
    """Keeps one opened operator (its model) alive."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.job = _job(payload, opened=False)

    def __call__(self, rows: pa.Table) -> pa.Table:
        if not rows.num_rows:
            return COUNTS.empty_table()
        # Opened at the first batch, not in the constructor: a model that cannot be loaded is then
        # an answer, where Ray would start the actor again and again.
        return _answer(self.job, lambda: apply(_job(self.payload, opened=True), rows))


class Engine:
    """Runs work on the Ray cluster that is connected; see datagen.cluster.connect."""

    def __init__(
        self, cpus: float, gpus: float, say: Callable[[str, bool], None] | None = None
    ) -> None:
        """say: is told what happens before rows get answers (and whether it is but progress)."""
        self.cpus = cpus
        self.gpus = gpus
        self.say = say or (lambda *_: None)

    def rows(self, job: Job, pending: pa.Table, wants: Resources, progress: Progress) -> None:
        """Run ``job`` over ``pending`` rows until each has a line in the journal.

        Raises DatagenError for what a worker found unmendable (a full disk, a lost server).
        """
        if hasattr(job.operator, "engines"):
            from datagen import gather

            wants = gather.answered(self, job, pending, wants)
        data = self._planned(job, pending, wants)
        with _plain_errors(job.context.step):
            for batch in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                for count in batch.to_pylist():
                    if count["error"] is not None:
                        raise DatagenError(count["error"])
                    progress(count["kept"], count["rejected"], count["failed"])

    def _planned(self, job: Job, pending: pa.Table, wants: Resources) -> Any:
        """The Ray Data plan of ``job``; nothing runs yet."""
        import ray

        payload = cloudpickle.dumps(job)
        size = wants.batch_size
        if not wants.actor:
            # As many batches as keep every worker busy, but no smaller than pays for a task.
            size = min(size, max(16, -(-pending.num_rows // int(4 * max(1, self.cpus)))))
        blocks = [pending.slice(i, size) for i in range(0, pending.num_rows, size)]
        data = ray.data.from_arrow(blocks)
        options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": size}
        takes: dict[str, Any] = {"num_cpus": wants.cpus, "num_gpus": wants.gpus or None}
        takes |= {"memory": wants.memory} if wants.memory else {}
        with warnings.catch_warnings():
            # Ray has no other name yet for the number of retries.
            warnings.simplefilter("ignore", DeprecationWarning)
            if not wants.actor:
                compute = ray.data.TaskPoolStrategy(wants.workers) if wants.workers else None
                options |= {"compute": compute, "max_retries": RETRIES, **takes}
                return data.map_batches(_work, fn_kwargs={"payload": payload}, **options)
            if type(job.operator).prepare is not RowOperator.prepare:
                kwargs = {"payload": payload}
                data = data.map_batches(_prepare, fn_kwargs=kwargs, max_retries=RETRIES, **options)
            pool = ray.data.ActorPoolStrategy(min_size=1, max_size=self._actors(wants))
            # Where one actor alone would hold every CPU it holds fewer, for the same reason.
            takes["num_cpus"] = min(wants.cpus, max(0.0, self.cpus - 1))
            options |= {"compute": pool, "max_task_retries": RETRIES, **takes}
            return data.map_batches(_Actor, fn_constructor_kwargs={"payload": payload}, **options)

    def _actors(self, wants: Resources) -> int:
        # Actors that hold every CPU leave none for reading and preparing: Ray Data then hangs.
        by_cpu = int((self.cpus - 1) // wants.cpus) if wants.cpus else 1 << 10
        by_gpu = int(self.gpus // wants.gpus) if wants.gpus else 1 << 10
        limit = wants.workers or 1 << 10
        return max(1, min(by_cpu, by_gpu, limit))

    def parallel(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterator[Any]:
        """``map`` over workers, results in argument order."""
        import ray

        if not arguments:
            return
        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        packed = ray.put(cloudpickle.dumps(function))
        window = int(2 * max(1, self.cpus))
        with _plain_errors():
            running: list[Any] = []
            for index in range(len(arguments) + window):
                if index < len(arguments):
                    running.append(remote.remote(packed, arguments[index]))
                if index >= window:
                    if not running:
                        return
                    yield ray.get(running.pop(0))


def _call(packed: bytes, argument: Any) -> Any:
    return cloudpickle.loads(packed)(argument)


@contextlib.contextmanager
def _plain_errors(step: str = "") -> Iterator[None]:
    """Turns Ray's wrapped errors back into the DatagenError that a worker raised."""
    from ray import exceptions

    lost = (exceptions.WorkerCrashedError, exceptions.RayActorError, exceptions.OutOfMemoryError)
    try:
        yield
    except Exception as error:
        seen: BaseException | None = error
        while seen is not None:
            cause = getattr(seen, "cause", None)
            for one in (seen, cause):
                if isinstance(one, DatagenError):
                    raise DatagenError(str(one)) from None
                if isinstance(one, lost):
                    raise DatagenError(
                        f"{f'step {step}: ' if step else ''}a worker died {RETRIES + 1} times at "
                        "the same rows: memory ran out, or a library crashed; give it "
                        "fewer rows (resources.batch_size), more memory (resources.memory) or "
                        "fewer workers (--cpus), and run the same command again"
                    ) from error
            seen = seen.__cause__ or (cause if isinstance(cause, BaseException) else None)
        raise
