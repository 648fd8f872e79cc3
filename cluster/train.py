"""Training on Ray: one process a GPU (or a share of the CPUs), on one machine or many.

The training itself is :func:`datagen.training.loop.train`, the same as in one process. Ray starts
the processes, makes them meet, and starts them again where one dies; they go on from the last
checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datagen import store
from datagen.cluster.connect import connect
from datagen.errors import DatagenError
from datagen.training import logs, loop
from datagen.training.across import PATIENCE
from datagen.training.collection import collect
from datagen.training.loader_settings import named
from datagen.training.settings import TrainSettings, checked

#: How often processes that died are started again.
FAILURES = 3
#: Seconds between two looks at what the first process has written.
_LOOK = 2.0


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
    out = os.path.abspath(out)
    places = [os.path.abspath(one) if store.is_local(one) else one for one in sources]
    store.make_folder(out)
    done = loop.finished(out, settings, named(list(places)))
    if done is not None:
        return done
    for place in places:
        # Here, where an error is a line, and not in every process three times.
        collect(place, verify=settings.loader.verify, mismatch=settings.loader.mismatch)
    with connect(address) as cluster:
        gpu = cluster.gpus >= 1 and settings.device != "cpu"
        there = cluster.gpus if gpu else cluster.cpus
        if there < workers:
            raise DatagenError(
                f"--workers {workers}: the cluster has {there:g} {'GPUs' if gpu else 'CPUs'}; "
                "choose fewer"
            )
        config = {"sources": places, "out": out, "settings": settings.model_dump(mode="json")}
        with _followed(out, say):
            _fit(config, workers, gpu, max(1, int((cluster.cpus - 1) // workers)))
    done = loop.finished(out, settings, named(list(places)))
    if done is None:
        raise DatagenError(f"{out}: the training ended without a retriever; run it again")
    return done


def _fit(config: dict[str, Any], workers: int, gpu: bool, cpus: int) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": cpus, **({"GPU": 1} if gpu else {})}
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker=resources
        ),
        torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
        run_config=RunConfig(
            storage_path=os.path.join(config["out"], "ray"),
            failure_config=FailureConfig(max_failures=FAILURES),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise DatagenError(f"the training failed: {_reason(str(error))}") from error


def _worker(config: Mapping[str, Any]) -> None:
    """One process of the training."""
    from datagen import models

    models.prepare()
    loop.train(config["sources"], config["out"], checked(config["settings"]))


def _reason(text: str) -> str:
    """The line of a worker's traceback that says what was wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("datagen.errors.")]
    return (own or lines or ["no reason is known"])[-1].rpartition("Error: ")[2][:300]


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
