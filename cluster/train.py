"""Training on Ray: one process a GPU (or a share of the CPUs), on one machine or many.

The training itself is :func:`datagen.training.loop.train`, the same as in one process. Ray starts
the processes, makes them meet, and starts them again where one dies; they go on from the last
checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from datagen import store
from datagen.cluster.connect import connect
from datagen.cluster.resources import share
from datagen.errors import DatagenError
from datagen.training import beginning, logs, loop
from datagen.training.across import PATIENCE
from datagen.training.collection import collect
from datagen.training.settings import TrainSettings, checked

#: How often processes that died are started again.
FAILURES = 3
#: Seconds that processes may take to start. Ray's own minute is short where all of them load torch
#: from one disk, and it tries again without end.
_START = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900"}
#: Seconds between two looks at what the first process has written.
_LOOK = 1.0
#: Where Ray Train looks whether all machines see the same folder; gone at the end.
_STORAGE = "ray"


def train(
    sources: Sequence[str],
    out: str,
    settings: TrainSettings,
    workers: int,
    address: str | None = None,
    say: loop.Say = lambda step, steps, values: None,
) -> loop.Trained:
    """Train in ``workers`` processes. Sources and ``out`` are where all of them can reach them.

    Each has a batch of its own size and all others' negatives. Raises DatagenError.
    """
    if not store.is_local(out):
        raise DatagenError(f"--out {out}: a folder expected that every machine of the cluster sees")
    out = _absolute(out)
    places = [_absolute(one) if store.is_local(one) else one for one in sources]
    listed = beginning.listed(places, settings)
    logs.check(settings.logs)
    store.make_folder(out)
    done = loop.finished(out, settings, listed)
    if done is not None:
        return done
    for place in places:
        # Here, where an error is a line, and not in every process.
        collect(place, verify=settings.loader.verify, mismatch=settings.loader.mismatch)
    with connect(address) as cluster:
        gpu = settings.device != "cpu" and (settings.device != "auto" or cluster.gpus >= 1)
        cpus = share(cluster.nodes, workers, gpu)
        if not cpus:
            have = cluster.gpus if gpu else cluster.cpus
            mend = "choose fewer" if have >= 1 else "add device=cpu"
            raise DatagenError(
                f"--workers {workers}: each takes a {'GPU and a ' if gpu else ''}CPU, and Ray has "
                f"{have:g} {'GPUs' if gpu else 'CPUs'} for them; {mend}"
            )
        config = {
            "sources": places,
            "out": out,
            "settings": settings.model_dump(mode="json"),
            "here": os.getcwd(),
        }
        with _followed(out, say):
            lost = _fit(config, workers, {"CPU": cpus, **({"GPU": 1} if gpu else {})})
    shutil.rmtree(os.path.join(out, _STORAGE), ignore_errors=True)
    done = loop.finished(out, settings, listed)
    if done is None:
        raise DatagenError(f"{out}: the training ended without a retriever; run it again")
    notes = [f"processes were started again: {reason}" for reason in lost]
    return replace(done, before=False, notes=(*done.notes, *notes))


def _fit(config: dict[str, Any], workers: int, resources: dict[str, float]) -> list[str]:
    """Train to the end; why processes had to be started again, one for each time."""
    from ray.train import WorkerGroupError

    lost: list[str] = []
    while True:
        error = _attempt(config, workers, resources)
        if error is None:
            return lost
        failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
        for one in failures.values():
            # Would be raised anew by every attempt.
            if isinstance(one, DatagenError):
                raise DatagenError(str(one)) from error
        reason = _reason(error, failures)
        if len(lost) == FAILURES or not failures:
            raise DatagenError(f"the training failed: {reason}") from error
        lost.append(reason)


def _attempt(config: dict[str, Any], workers: int, resources: dict[str, float]) -> Exception | None:
    """Train until all processes are done, or one fails; what it raised."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    for name, value in _START.items():
        os.environ.setdefault(name, value)
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
        run_config=RunConfig(
            storage_path=os.path.join(config["out"], _STORAGE),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
    )
    raised: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            raised.append(error)

    # In a thread: in the main one, Ray takes Ctrl-C for itself and ends the process with 0.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK)
    return raised[0] if raised else None


def _worker(config: Mapping[str, Any]) -> None:
    """One process of the training."""
    from datagen import models

    # Settings name folders as seen from where the command was given.
    with contextlib.suppress(OSError):
        os.chdir(config["here"])
    models.prepare()
    loop.train(config["sources"], config["out"], checked(config["settings"]))


def _reason(error: Exception, failures: Mapping[int, Exception]) -> str:
    """One line of what went wrong: of a process that died, before those that missed it."""
    from ray.exceptions import RayActorError

    for rank, one in sorted(failures.items()):
        found = getattr(one, "health_check_failure", one)
        if isinstance(found, RayActorError):
            return f"process {rank} died ({_first(str(found))})"
    for rank, one in sorted(failures.items()):
        return f"process {rank}: {type(one).__name__}: {_first(str(one))}"
    return _first(str(getattr(error, "controller_failure", error)))


def _absolute(path: str) -> str:
    return os.path.abspath(store.local_path(path))


def _first(text: str) -> str:
    return " ".join(text.split())[:300] or "no reason is known"


@contextlib.contextmanager
def _followed(out: str, say: loop.Say) -> Iterator[None]:
    """Tell ``say`` what the first process writes while the block runs."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(_LOOK):
            with contextlib.suppress(DatagenError, OSError, KeyError):
                steps = store.read_json(os.path.join(out, loop.NOTE))["steps"]
                for line in logs.read(out)[-1:]:
                    say(line["step"], steps, line)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
