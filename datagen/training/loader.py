"""The loader: batches of triplets out of shards, decoded and augmented by worker processes.

    loader = Loader("runs/mine", geometry, LoaderSettings(batch_size=256, negatives=4))
    for batch in loader.batches():
        ...

The order of an epoch is decided before anybody reads a byte (:mod:`datagen.training.order`), so
it is the same for any number of workers, and each sample comes once over all ranks. Batches are
dictionaries of tensors (:mod:`datagen.training.batch`). What is broken is left out, counted and
named in :attr:`Loader.faults`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from datagen import media
from datagen.errors import DatagenError
from datagen.libraries import import_torch
from datagen.preprocess import Geometry
from datagen.schema import canonical_json
from datagen.training import batch as batches
from datagen.training.augment import Augmentation, Eye
from datagen.training.batch import Batch
from datagen.training.collection import Collection, collect
from datagen.training.loader_settings import LoaderSettings, Source, named
from datagen.training.order import Plan, Units, units
from datagen.training.others import Others
from datagen.training.samples import Choices, Fault, Maker, Ticket
from datagen.training.shard_index import NEGATIVE
from datagen.training.triplets import Triplets

__all__ = ["Augmentation", "Loader", "LoaderSettings", "Source"]

Array = np.ndarray[Any, Any]

#: Faults that are kept with their names; all are counted.
NAMED = 1000
#: Samples that may step in for broken ones of a chunk.
SPARES = 8


class Loader:
    """Batches of one or several runs, for one rank of several.

    sources: what to train on, or only its path; geometry: the model's input
    (``datagen.clip.config(ref).geometry``); rank, ranks: this process among those that train
    together (by default what torchrun tells); limits: what media may cost, by default what each
    run's recipe says. Raises DatagenError where shards are missing, damaged or too few.

    notes: what is not as it should be with the shards; faults: what was left out, first ones;
    counts: how often, by rule; lost: how often a whole sample went with it; waited: seconds that
    the caller waited for batches. others: set between epochs, other triplets' media as negatives,
    beside those of the shards.
    """

    def __init__(
        self,
        sources: str | Source | Sequence[str | Source],
        geometry: Geometry,
        settings: LoaderSettings | None = None,
        *,
        rank: int | None = None,
        ranks: int | None = None,
        limits: media.Limits | None = None,
    ) -> None:
        self.settings = chosen = settings or LoaderSettings()
        self.geometry = geometry
        self.rank = int(os.environ.get("RANK", 0)) if rank is None else rank
        self.ranks = int(os.environ.get("WORLD_SIZE", 1)) if ranks is None else ranks
        self.sources = named(sources)
        self.names = tuple(one.name for one in self.sources)
        found = [_collected(one, chosen) for one in self.sources]
        self.notes = [line for one in found for line in one.notes]
        runs = [Triplets(one.shards) for one in found]
        eyes = [self._eye(limits or one.limits) for one in found]
        self._check(runs)
        own = {name: getattr(chosen, name) for name in Choices.__dataclass_fields__}
        self._maker = Maker(runs, self.names, eyes, Choices(**own))
        self.plan = _plan(runs, self.sources, chosen)
        self._fingerprint = _fingerprint(runs, self.sources, geometry, chosen)
        self.epoch, self._done = 0, 0
        self.faults: list[Fault] = []
        self.counts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.waited = 0.0
        self.others: Others | None = None
        self._tickets = _Tickets()
        self._workers: Any = None
        if not len(self):
            raise DatagenError(
                f"{self.names[0]}: {len(self.plan)} samples in an epoch, {self._whole} in a batch "
                "of all ranks; choose a smaller batch_size, or drop_last: false"
            )

    def _eye(self, limits: media.Limits) -> Eye:
        chosen = self.settings
        usual = 0.0 if chosen.augmentation is None else 1.0
        draft = usual if chosen.draft is None else chosen.draft
        return Eye(self.geometry, chosen.frames, chosen.augmentation, draft, limits)

    def _check(self, runs: Sequence[Triplets]) -> None:
        if not 0 <= self.rank < self.ranks:
            raise DatagenError(f"rank {self.rank} of {self.ranks}: from 0 to {self.ranks - 1}")
        for name, run in zip(self.names, runs, strict=True):
            if not len(run):
                raise DatagenError(f"{name}: no triplets in its shards")

    @property
    def runs(self) -> Sequence[Triplets]:
        """The triplets of each source."""
        return self._maker.runs

    @property
    def _whole(self) -> int:
        """Samples in a batch of all ranks together."""
        return self.settings.batch_size * self.ranks

    @property
    def _replace(self) -> bool:
        return self.ranks > 1 if self.settings.replace is None else self.settings.replace

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        whole, rest = divmod(len(self.plan), self._whole)
        return whole + (not self.settings.drop_last and rest > self.rank)

    def batches(self) -> Iterator[Batch]:
        """The batches of this epoch that are left; the next call gives the next epoch.

        After :meth:`load_state_dict` they are those that would have followed. Raises DatagenError
        where a shard is gone or a worker dies.
        """
        order = self.plan.epoch(self.epoch)
        first = -(-self._done // self._whole)
        parts = list(self._parts(len(order), first))
        self._tickets.left = itertools.chain.from_iterable(
            self._chunks(order, part) for part in parts
        )
        made = iter(self._started())
        for number, part in enumerate(parts, first):
            begin = time.perf_counter()
            batch = self._gathered(made, len(part))
            self.waited += time.perf_counter() - begin
            self._done = min((number + 1) * self._whole, len(order))
            if batch is not None:
                yield batch
        self.epoch, self._done = self.epoch + 1, 0

    __iter__ = batches

    def _parts(self, total: int, first: int) -> Iterator[range]:
        """The places in the epoch of each of this rank's batches."""
        size = self.settings.batch_size
        for number in range(first, len(self)):
            begin = number * self._whole
            if begin + self._whole <= total:
                mine = begin + self.rank * size
                yield range(mine, mine + size)
            else:  # the rest is shared out evenly
                yield range(begin + self.rank, total, self.ranks)

    def _chunks(self, order: Array, part: range) -> Iterator[Ticket]:
        for begin in range(0, len(part), self.settings.chunk):
            places = np.asarray(part[begin : begin + self.settings.chunk])
            rows = np.concatenate([order[places], places[:, None]], axis=1)
            spares = np.zeros((0, 4), np.int64)
            if self._replace:
                random = np.random.default_rng([self.settings.seed, self.epoch, int(places[0]), 4])
                others = order[random.integers(len(order), size=SPARES)]
                beyond = len(order) + int(places[0]) * SPARES + np.arange(SPARES)
                spares = np.concatenate([others, beyond[:, None]], axis=1)
            ticket = Ticket(self.epoch, rows, spares)
            if self.others is not None:
                drawn = self.others.of(np.concatenate([rows, spares]))
                ticket = ticket._replace(others=drawn, draw=self.others.draw)
            yield ticket

    def _started(self) -> Any:
        if self._workers is None:
            torch, chosen = import_torch(), self.settings
            number = _workers() if chosen.workers is None else chosen.workers
            more: dict[str, Any] = {}
            if number:
                more = {
                    "multiprocessing_context": chosen.start,
                    "persistent_workers": True,
                    "prefetch_factor": chosen.ahead,
                }
            work = _Work(self._maker, self.geometry)
            self._workers = torch.utils.data.DataLoader(
                work, batch_size=None, sampler=self._tickets, collate_fn=_same,
                num_workers=number, **more,
            )  # fmt: skip
        return self._workers

    def _gathered(self, made: Iterator[Batch], size: int) -> Batch | None:
        """The next batch, of ``size`` samples less those that are broken; None where all are."""
        try:
            found = [next(made) for _ in range(-(-size // self.settings.chunk))]
        except RuntimeError as error:
            if "worker" not in str(error) and "shared memory" not in str(error):
                raise
            raise DatagenError(
                f"a worker of the loader died ({str(error).splitlines()[0]}); where memory is "
                "short choose fewer workers or a smaller chunk"
            ) from error
        for one in found:
            if "error" in one:
                raise DatagenError(one["error"])
            for fault in one.pop("faults"):
                self.counts[fault.rule] += 1
                self.lost[fault.rule] += fault.lost
                if len(self.faults) < NAMED:
                    self.faults.append(fault)
        whole = [one for one in found if one["keys"]]
        short = size - sum(len(one["keys"]) for one in whole)
        if short and self.ranks > 1 and self._replace:
            # The other ranks would wait for samples that never come.
            raise DatagenError(
                f"{short} of {size} samples of a batch are broken and could not be replaced; the "
                f"last is {self.faults[-1].key} in {self.faults[-1].shard} ({self.faults[-1].rule})"
            )
        if not whole:
            return None
        return {**batches.joined(whole, self.settings.pin), "names": self.names}

    def state_dict(self) -> dict[str, Any]:
        """Where in which epoch this loader stands: plain values, the same on every rank."""
        return {"epoch": self.epoch, "samples": self._done, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, also with other workers, batches or ranks.

        Raises DatagenError where the data or what is drawn of them are others, or the samples
        that are done are no whole number of batches.
        """
        if state["fingerprint"] != self._fingerprint:
            raise DatagenError(
                "the loader's state is of other shards or settings than these; train on the same "
                "ones, or begin anew"
            )
        done = int(state["samples"])
        if done % self._whole and done != len(self.plan):
            raise DatagenError(
                f"{done} samples of the epoch are done, no whole number of batches of "
                f"{self._whole}; choose batch_size times ranks so that it divides them"
            )
        self.epoch, self._done = int(state["epoch"]), done

    def close(self) -> None:
        """End the worker processes; the next epoch starts others."""
        self._workers = None


class _Tickets:
    """Hands out what is to be made next, in order."""

    def __init__(self) -> None:
        self.left: Iterator[Ticket] = iter(())

    def __iter__(self) -> Iterator[Ticket]:
        return self.left


class _Work:
    """What a worker process has: it makes a chunk of a ticket."""

    def __init__(self, maker: Maker, geometry: Geometry) -> None:
        self.maker, self.geometry = maker, geometry

    def __getitem__(self, ticket: Ticket) -> Batch:
        try:
            chunk = self.maker.chunk(ticket)
            return {**batches.packed(chunk, self.geometry), "faults": chunk.faults}
        except DatagenError as error:
            return {"error": str(error)}


def _same(value: Any) -> Any:
    return value


def _workers() -> int:
    """The CPUs of this rank but the one that trains: 1 to 16."""
    ranks = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    usable = getattr(os, "sched_getaffinity", None)
    cpus = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, min(16, cpus // ranks - 1))


def _collected(one: Source, chosen: LoaderSettings) -> Collection:
    return collect(one.path, one.split, chosen.verify, chosen.mismatch, chosen.copy_shards)


def _plan(runs: Sequence[Triplets], sources: Sequence[Source], chosen: LoaderSettings) -> Plan:
    own = [_units(run, chosen) for run in runs]
    weights = [one.weight for one in sources if one.weight is not None]
    if chosen.samples and not weights:
        raise DatagenError("samples: only sources with weights have an epoch of a chosen length")
    if chosen.negatives and not any(_have_negatives(run) for run in runs):
        raise DatagenError(
            "negatives: these shards hold none; add a negatives step to the recipe, with "
            "include_negatives: true in the shards step"
        )
    return Plan(own, weights or None, chosen.samples, chosen.shuffle, chosen.window, chosen.seed)


def _units(run: Triplets, chosen: LoaderSettings) -> Units:
    most = min(chosen.limit or len(run), len(run))
    pairs, targets = (run.column(name).slice(0, most) for name in ("pair", "targets"))
    return units(chosen.iterate, pairs, targets, run.shard_of()[:most])


def _have_negatives(run: Triplets) -> bool:
    return any(run.entry(row).numbers(NEGATIVE) for row in range(min(len(run), 1000)))


#: Settings that change neither what a sample is nor where it stands.
_ASIDE = {
    *("batch_size", "drop_last", "replace", "workers", "chunk", "ahead", "start", "pin"),
    *("verify", "mismatch", "copy_shards"),
}


def _fingerprint(
    runs: Sequence[Triplets], sources: Sequence[Source], geometry: Geometry, chosen: LoaderSettings
) -> str:
    digest = hashlib.blake2b(digest_size=16)
    parts = [[one.weight, len(run)] for one, run in zip(sources, runs, strict=True)]
    about = [chosen.model_dump(mode="json", exclude=_ASIDE), asdict(geometry), parts]
    digest.update(canonical_json(about).encode())
    for run in runs:
        for chunk in run.column("key").chunks:
            digest.update(chunk.buffers()[2] or b"")
    return digest.hexdigest()
