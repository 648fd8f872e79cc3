"""What a training does beside its steps: hooks, called at an epoch, before and after a batch.

A hook changes what a batch holds (weights of samples, vectors that stand for references) or what
the loader draws from (negatives). Every rank calls it alike. Its state goes into checkpoints, so
that a training that is stopped goes on as if it had not been.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from datagen.training.across import Ranks
from datagen.training.batch import Batch
from datagen.training.loader import Loader
from datagen.training.loader_settings import Source
from datagen.training.model import Model
from datagen.training.query_settings import MaskedSettings, NeighbourSettings
from datagen.training.settings import TrainSettings


@dataclass(frozen=True)
class Parts:
    """What a training is made of. cast: the precision that it reckons in, for a block."""

    settings: TrainSettings
    sources: Sequence[Source]
    model: Model
    loader: Loader
    ranks: Ranks
    cast: Callable[[], contextlib.AbstractContextManager[Any]]


class Hook:
    """Does nothing by itself. It is made before a training begins or goes on, and raises
    DatagenError then where it cannot do its work."""

    def epoch(self, number: int) -> None:
        """Before the first batch of epoch ``number``."""

    def batch(self, batch: Batch) -> Batch:
        """The batch as it is to be learned from; random numbers follow from the step."""
        return batch

    def saw(self, batch: Batch, lost: Tensor) -> None:
        """After the gradients of a batch; lost: (B), what each of its samples lost."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, the same on every rank."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""


def made(parts: Parts) -> dict[str, Hook]:
    """The hooks that the settings ask for, by name, in the order of their calls. Raises
    DatagenError.
    """
    from datagen.training.mining import Mining
    from datagen.training.neighbours import Neighbours
    from datagen.training.noisy import Noisy
    from datagen.training.wording import Captions, Masked

    out: dict[str, Hook] = {}
    if parts.settings.mining is not None:
        out["mining"] = Mining(parts.settings.mining, parts)
    queries = parts.settings.queries
    if isinstance(queries, NeighbourSettings):
        out["queries"] = Neighbours(queries, parts)
    elif isinstance(queries, MaskedSettings):
        out["queries"] = Masked(queries, parts)
    elif queries is not None:
        out["queries"] = Captions(queries, parts)
    if parts.settings.noise is not None:
        loader = parts.settings.loader
        mixed = loader.image_only + loader.text_only + loader.captions > 0
        out["noise"] = Noisy(parts.settings.noise, parts.ranks, mixed and queries is None)
    return out
