"""The order of an epoch: which sample stands at which place. Numbers only, no bytes.

The order hangs on the runs, their weights, the seed and the epoch, and on nothing else: not on
workers, ranks or the size of a batch. Whoever decodes a sample is told its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, Any]

#: What an epoch goes through: every triplet; every pair, each time with another of its texts;
#: every unique target, each time with another of its triplets.
Iterate = Literal["triplet", "pair", "target"]


@dataclass(frozen=True)
class Units:
    """What one run's epoch goes through, as groups of rows.

    rows: int64 (m), triplets, group after group; targets: int64 (m), which of the row's targets
    (-1: not said); starts: int64 (n + 1), where each group begins; shards: int32 (n), the shard
    of a group's first row.
    """

    rows: Array
    targets: Array
    starts: Array
    shards: Array

    def __len__(self) -> int:
        return len(self.starts) - 1


def units(by: Iterate, pairs: pa.ChunkedArray, targets: pa.ChunkedArray, shards: Array) -> Units:
    """The units of a run of n triplets: by its columns ``pair`` and ``targets`` (ids)."""
    rows = np.arange(len(pairs), dtype=np.int64)
    if by == "triplet":
        none = np.full(len(rows), -1, np.int64)
        return Units(rows, none, np.arange(len(rows) + 1, dtype=np.int64), shards)
    if by == "pair":
        names, chosen = pairs.combine_chunks(), np.full(len(rows), -1, np.int64)
    else:
        together = targets.combine_chunks()
        names = together.flatten()
        rows = pc.list_parent_indices(together).to_numpy(zero_copy_only=False).astype(np.int64)
        first = np.cumsum(np.r_[0, pc.list_value_length(together).to_numpy(False)])[:-1]
        chosen = np.arange(len(rows), dtype=np.int64) - first[rows]
    encoded = pc.dictionary_encode(names)
    codes = np.asarray(encoded.indices, dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    starts = np.r_[0, np.cumsum(np.bincount(codes, minlength=len(encoded.dictionary)))]
    rows, chosen = rows[order], chosen[order]
    return Units(rows, chosen, starts.astype(np.int64), shards[rows[starts[:-1]]])


@dataclass(frozen=True)
class Plan:
    """The order of every epoch over several runs.

    weights: the share of each run in an epoch, None for each run once as it is; samples: of an
    epoch where there are weights (0: as many as all runs have units); window: how many shards
    are mixed with one another (0: all).
    """

    units: Sequence[Units]
    weights: Sequence[float] | None = None
    samples: int = 0
    shuffle: bool = True
    window: int = 0
    seed: int = 0

    def counts(self) -> list[int]:
        """Samples of each run in an epoch, by largest remainder."""
        own = [len(one) for one in self.units]
        if self.weights is None:
            return own
        total = self.samples or sum(own)
        exact = np.asarray(self.weights, np.float64) / sum(self.weights) * total
        counts = np.floor(exact).astype(np.int64)
        for run in np.argsort(counts - exact, kind="stable")[: total - counts.sum()]:
            counts[run] += 1
        return [int(count) for count in counts]

    def __len__(self) -> int:
        return sum(self.counts())

    def epoch(self, number: int) -> Array:
        """The samples of epoch ``number`` in order: int64 (n, 3) of run, row and target (-1: any).

        A run is gone through in passes, each in an order of its own. Without weights an epoch is
        one pass of each; with them a run goes on where its last epoch ended, so that none of its
        units comes again before all others did.
        """
        parts, places = [], []
        for run, count in enumerate(self.counts()):
            parts.append(self._stretch(run, number * count, count))
            places.append(self._places(run, number, count))
        samples = np.concatenate([np.zeros((0, 3), np.int64), *parts])
        if len(parts) > 1 and (self.shuffle or self.weights is not None):
            samples = samples[np.argsort(np.concatenate(places), kind="stable")]
        return samples

    def _places(self, run: int, epoch: int, count: int) -> Array:
        """Where in the epoch, 0 to 1, the samples of a run stand: evenly, so that every batch
        holds each run by its share."""
        random = np.random.default_rng([self.seed, epoch, run, 1])
        spread = random.random(count) if self.shuffle else 0.5
        places = (np.arange(count) + spread) / max(1, count)
        return np.asarray(places)

    def _stretch(self, run: int, begin: int, count: int) -> Array:
        """Places ``begin`` to ``begin + count`` of the endless row of passes over a run."""
        own, size = self.units[run], len(self.units[run])
        if not count or not size:
            return np.zeros((0, 3), np.int64)
        out = []
        for number in range(begin // size, (begin + count - 1) // size + 1):
            first, last = number * size, (number + 1) * size
            part = self._pass(own, run, number)
            out.append(part[max(begin, first) - first : min(begin + count, last) - first])
        return np.concatenate(out)

    def _pass(self, own: Units, run: int, number: int) -> Array:
        """Every unit of a run once, in the order of pass ``number``."""
        sizes = np.diff(own.starts)
        # Each group starts at a row of its own and takes the next one at every pass.
        first = np.random.default_rng([self.seed, run, 2]).random(len(sizes))
        member = ((first * sizes).astype(np.int64) + number) % sizes
        at = own.starts[:-1] + (member if self.shuffle else number % sizes)
        rows = np.stack([np.full(len(at), run), own.rows[at], own.targets[at]], axis=1)
        if not self.shuffle:
            return rows.astype(np.int64)
        random = np.random.default_rng([self.seed, run, 3, number])
        order = random.permutation(len(at))
        if self.window:
            # Shards in an order of their own, so many at a time.
            shards = int(own.shards.max()) + 1
            turn = np.empty(shards, np.int64)
            turn[random.permutation(shards)] = np.arange(shards) // self.window
            order = order[np.argsort(turn[own.shards[order]], kind="stable")]
        return rows[order].astype(np.int64)
