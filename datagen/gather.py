"""Asks of a whole step, answered by ray.data.llm in rounds, before its rows are worked on.

A round lets the operator ask what it asks about every row and throws its rows away; what the kept
answers do not hold goes to vLLM, and each batch of answers is kept as it comes, so a killed run
asks none of them again. Operators that ask about answers (a second stage, a repair) are asked once
more, with the answers of the round before; that ends when nothing is left to ask. vLLM holds its
GPUs during a round alone.

Beside :mod:`datagen.engine` this is the one module that speaks Ray Data.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datagen import store
from datagen.chat import vllm, vllm_faults
from datagen.chat.ask import one_line
from datagen.chat.asking import Asking
from datagen.chat.cache import Cache, Cached
from datagen.chat.gathered import Gathered
from datagen.engine import RETRIES, Engine, Job, apply
from datagen.errors import DatagenError
from datagen.schema import KEPT
from datagen.step import Context, Resources, RowOperator

#: Operators ask twice or three times about a row; more is a loop.
ROUNDS = 6
#: Blocks that the asks of a round are cut into at most.
BLOCKS = 20_000
#: Asks that one copy of the model is given at once; vLLM itself runs as many as its memory holds.
AT_ONCE = 1024
#: Seconds to wait for the GPUs of actors that have ended.
PATIENCE = 120.0
_ASKED = pa.schema(
    [("unit", pa.string()), ("verdict", pa.string()), ("engine", pa.string()), ("ask", pa.string())]
)
_COUNTS = pa.schema([("answers", pa.int64()), ("faults", pa.int64()), ("error", pa.string())])


@dataclass(frozen=True)
class _Engine:
    """An engine of a step that answers many asks at once, not opened. name: of its setting."""

    name: str
    gathered: Gathered
    answers: Cache
    faults: Cache


def gathering(operator: Any, context: Context) -> list[_Engine]:
    """The engines of ``operator`` that answer many asks at once."""
    found = []
    for name, one in operator.made(context).items() if isinstance(operator, Asking) else ():
        if isinstance(one, Cached) and isinstance(one.engine, Gathered):
            if one.engine.faults is None:
                raise DatagenError(f"{name}: kind: vllm answers within a run alone")
            found.append(_Engine(name, one.engine, one.cache, one.engine.faults))
    return found


class Collecting(RowOperator[Any]):
    """Lets an operator ask, and gives what it asked instead of its rows: ``unit`` is the key."""

    def __init__(self, operator: Any) -> None:
        super().__init__(operator.settings)
        self.operator = operator
        self.job: Job | None = None

    def open(self, context: Context) -> None:
        self.operator.open(context)
        self.job = Job(self.operator, context, "")

    def prepare(self, rows: pa.Table) -> pa.Table:
        return self.operator.prepare(rows)

    def __call__(self, rows: pa.Table) -> pa.Table:
        assert self.job is not None
        engines = {
            name: one.engine
            for name, one in self.operator.engines.items()
            if isinstance(one, Cached) and isinstance(one.engine, Gathered)
        }
        for engine in engines.values():
            engine.recorded = {}
        apply(self.job, rows)
        lines = [
            (key, KEPT, name, vllm.packed(ask))
            for name, engine in engines.items()
            for key, ask in (engine.recorded or {}).items()
        ]
        columns = list(zip(*lines, strict=True)) or [()] * len(_ASKED)
        return pa.table([pa.array(c, pa.string()) for c in columns], schema=_ASKED)


def answered(engine: Engine, job: Job, pending: pa.Table, wants: Resources) -> Resources:
    """Have all that ``job`` asks about ``pending`` rows answered; what its rows want afterwards.

    Nothing happens, and ``wants`` comes back, where its engines answer on their own. Raises
    DatagenError where vLLM cannot be started, or ends.
    """
    engines = gathering(job.operator, job.context)
    if not engines:
        return wants
    assert isinstance(job.operator, Asking)
    unaided = job.operator.unaided()
    ordinary = replace(wants, gpus=0.0, memory=0, workers=0, actor=False)
    if unaided is not None:
        ordinary = replace(unaided, batch_size=wants.batch_size)
    place = store.join(job.context.out_dir, "spent", job.context.step, "asks")
    for one in engines:
        # Faults hold for this start of the run; the next one tries again.
        store.remove(one.faults.folder)
        for folder in (one.faults, one.answers):
            folder.open()
            folder.close()
    try:
        for number in range(ROUNDS):
            asked = store.join(place, str(number))
            store.remove(asked)
            store.make_folder(asked)
            collect = Job(Collecting(job.operator), job.context, asked)
            engine.rows(collect, pending, ordinary, lambda *_: None)
            rounds = [_Round(engine, job.context.step, wants, one) for one in engines]
            if not sum([one.answer(asked) for one in rounds]):
                break
    finally:
        store.remove(place)
    return ordinary


@dataclass(frozen=True)
class _Round:
    """One round of one engine of a step."""

    engine: Engine
    step: str
    wants: Resources
    asked: _Engine

    def answer(self, folder: str) -> int:
        """Have the asks in the parts of ``folder`` answered; how many there were."""
        places = list(self._places(folder))
        count = sum(len(rows) for _, rows in places)
        if not count:
            return 0
        gathered = self.asked.gathered
        source = vllm.Source(gathered.model, gathered.weights, gathered.settings.max_model_len)
        vllm.check(source)
        self.engine.say(f"{count:,} asks for vLLM, which starts", False)
        with _plain_errors(self.step, gathered.model), _hushed(), _Groups() as groups:
            planned = self._planned(source, places, groups)
            done = 0
            for batch in planned.iter_batches(batch_size=None, batch_format="pyarrow"):
                for line in batch.to_pylist():
                    if line["error"] is not None:
                        raise DatagenError(line["error"])
                    done += line["answers"] + line["faults"]
                    self.engine.say(f"{done:,} of {count:,} asks answered", True)
        _wait(self.engine.gpus)
        return count

    def _places(self, folder: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Parts, and those of their rows that ask this engine what no row before asked."""
        journal = store.Journal(folder)
        keys, own = [], []
        parts = journal.parts()
        for part in parts:
            table = store.read_table(part, ["unit", "engine"])
            mine = np.flatnonzero(np.array(table["engine"].to_pylist(), object) == self.asked.name)
            units = table["unit"].take(pa.array(mine)).to_pylist()
            own.append(mine)
            keys.append(np.array([int(unit[:16], 16) for unit in units], np.uint64))
        if not parts:
            return
        # Half of 128 bits name an ask well enough for a round: the next one asks what was left.
        _, first = np.unique(np.concatenate(keys), return_index=True)
        new = np.zeros(sum(map(len, keys)), bool)
        new[first] = True
        ends = np.cumsum([len(one) for one in keys])[:-1]
        for part, mine, fresh in zip(parts, own, np.split(new, ends), strict=True):
            if fresh.any():
                yield part, mine[fresh]

    def _planned(self, source: vllm.Source, places: list[Any], groups: _Groups) -> Any:
        """The Ray Data plan from asks in files to answers that are kept; nothing runs yet."""
        import ray

        total = sum(len(rows) for _, rows in places)
        size = max(self.asked.gathered.settings.batch_size, -(-total // BLOCKS))
        lots = [
            {"part": part, "rows": rows[start : start + size].tolist()}
            for part, rows in places
            for start in range(0, len(rows), size)
        ]
        blocks = [pa.Table.from_pylist([lot]) for lot in lots]
        data = ray.data.from_arrow(blocks).map_batches(
            _read, batch_format="pyarrow", batch_size=None, max_retries=RETRIES
        )
        data = groups.watched(self._processor(source))(data)
        folders = {"answers": self.asked.answers.folder, "faults": self.asked.faults.folder}
        start = uuid.uuid4().hex
        # In an object store every batch is a file.
        rows = None if store.is_local(folders["answers"]) else AT_ONCE
        return data.map_batches(
            _keep,
            fn_kwargs={**folders, "start": start},
            batch_format="pyarrow",
            batch_size=rows,
            max_retries=RETRIES,
        )

    def _processor(self, source: vllm.Source) -> Any:
        os.environ.update(vllm.environment())
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        settings, gpus = self.asked.gathered.settings, self.wants.gpus
        config = vLLMEngineProcessorConfig(
            model_source=source.place,
            engine_kwargs=vllm.arguments(settings, source, gpus),
            batch_size=settings.batch_size,
            max_concurrent_batches=max(4, AT_ONCE // settings.batch_size),
            concurrency=self._copies(),
            placement_group_config=vllm.placement(gpus),
            runtime_env={"env_vars": vllm.environment()},
            should_continue_on_error=True,
            log_engine_metrics=False,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
        )
        # Told the same as their neighbours, these run in one task with them. On their own the tasks
        # that keep answers wait behind all that come before, on a machine of few CPUs to the end.
        together = {"max_retries": RETRIES}
        return build_processor(
            config,
            preprocess=vllm.Asked(source),
            postprocess=vllm.Answered(source),
            preprocess_map_kwargs=together,
            postprocess_map_kwargs=together,
        )

    def _copies(self) -> tuple[int, int]:
        """Copies of the model that start at once, and that there may be."""
        each, most = self.wants.gpus, self.wants.workers
        fit = int(self.engine.gpus // each) if each else 1
        # A cluster that grows may have no GPU yet.
        most = most or max(1, fit)
        return max(1, min(fit, most)), most


class _Groups:
    """Placement groups of a round. Ray keeps them, and the GPUs in them, as long as the run."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __enter__(self) -> _Groups:
        return self

    def watched(self, processor: Any) -> Any:
        """``processor``, whose placement groups are taken down at the end; and which gives up."""
        options = processor.get_stage_by_name("vLLMEngineStage").map_batches_kwargs
        # Ray Data's own answer to an engine that dies is to start it again, for ever.
        options |= {"max_restarts": RETRIES, "max_task_retries": RETRIES}
        if "ray_remote_args_fn" in options:
            place = options["ray_remote_args_fn"]

            def noted() -> dict[str, Any]:
                placed: dict[str, Any] = place()
                self.made.append(placed["scheduling_strategy"].placement_group)
                return placed

            options["ray_remote_args_fn"] = noted
        return processor

    def __exit__(self, *_: object) -> None:
        from ray.util import remove_placement_group

        for group in self.made:
            remove_placement_group(group)


def _wait(gpus: float) -> None:
    """Until the GPUs of ended actors are free again, for the next that wants them."""
    import ray

    until = time.monotonic() + PATIENCE
    while gpus and time.monotonic() < until:
        if ray.available_resources().get("GPU", 0.0) >= gpus:
            return
        time.sleep(0.5)


def _read(lots: pa.Table) -> pa.Table:
    """Asks from where they were written: ``key`` and ``ask``."""
    read = []
    for lot in lots.to_pylist():
        table = store.read_table(lot["part"], ["unit", "ask"])
        read.append(table.take(pa.array(lot["rows"])))
    return pa.concat_tables(read).rename_columns(["key", "ask"])


def _keep(rows: pa.Table, answers: str, faults: str, start: str) -> pa.Table:
    """Keep answers, and faults apart from them; counts. start: names the round."""
    kept, lost = _cache(answers, start), _cache(faults, start)
    counts: dict[str, Any] = {"answers": 0, "faults": 0, "error": None}
    names = [*("key", "text", "fault", "tokens_in", "tokens_out"), vllm.ERROR]
    try:
        for row in rows.select([n for n in names if n in rows.column_names]).to_pylist():
            answer = vllm.answer_of(row)
            if answer.text is None:
                lost.put(row["key"], replace(answer, text=answer.fault, fault=None))
                counts["faults"] += 1
            else:
                kept.put(row["key"], answer)
                counts["answers"] += 1
        kept.flush()
        lost.flush()
    except DatagenError as error:
        counts["error"] = str(error)
    return pa.Table.from_pylist([counts], schema=_COUNTS)


@functools.lru_cache(maxsize=2)
def _cache(folder: str, start: str) -> Cache:
    """Where a worker writes during a round; it reads nothing."""
    return Cache(folder)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keeps what vLLM and Ray say off the terminal: errors are raised, and in their log files."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _plain_errors(step: str, model: str) -> Iterator[None]:
    """Turns what Ray and vLLM raise into one line."""
    began = time.time()
    try:
        yield
    except DatagenError:
        raise
    except ImportError as error:
        raise DatagenError(
            f"step {step}: vLLM cannot be loaded here ({one_line(error)}); "
            "pip install 'datagen[vllm]'"
        ) from error
    except Exception as error:
        reason = vllm_faults.cause(str(error), _logs(began))
        raise DatagenError(f"step {step}: model '{model}': vLLM says {reason}") from error


def _logs(since: float) -> list[Path]:
    """What workers on this machine wrote ``since`` a time, the last one last."""
    import ray

    with contextlib.suppress(Exception):  # no public name for it
        folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
        logs = [(path.stat().st_mtime, path) for path in folder.glob("worker-*")]
        return [path for when, path in sorted(logs) if when >= since]
    return []
