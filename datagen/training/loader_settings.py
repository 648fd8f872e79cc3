"""What a loader is given: sources, and how their triplets become batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from datagen import preprocess
from datagen.errors import DatagenError
from datagen.step import Settings
from datagen.training.augment import Augmentation, Share
from datagen.training.collection import Mismatch, Verify
from datagen.training.order import Iterate


@dataclass(frozen=True)
class Source:
    """A run, a folder of shards or a tar to train on.

    weight: its share of an epoch beside the others' (None: it is gone through once an epoch);
    name: what batches call it, its path by default; split: None for all.
    """

    path: str
    weight: float | None = None
    name: str = ""
    split: str | None = "train"


class LoaderSettings(Settings):
    """How triplets become batches.

    batch_size: samples of one rank's batch. limit: only the first so many triplets of each source,
    by their ids, which are hashes (0: all). iterate: an epoch is every ``triplet``; every
    ``pair`` once, each time with another of its texts; or every unique ``target`` once, each time
    with another of its triplets. samples: of an epoch over weighted sources (0: as many as they
    hold together). targets: ``one`` drawn of a triplet's targets, or ``all`` of them, at most
    ``most_targets``. negatives: hard negatives of a sample; of more of them some are drawn, the
    reference always among them, or the first ones are taken (``draw_negatives: false``).
    image_only, text_only, captions: shares of samples whose query is the reference without a
    text, the text without a reference, or the target's caption; they have no negatives.
    media: false reads no pictures, only texts and captions; a target is then its caption.
    frames: of clips. augmentation: none by default, the model's exact preprocessing.
    draft: pixels that must be left for each of the result when a JPEG is decoded at a smaller
    size (None: 1 with augmentation, else 0, which decodes whole). shuffle, seed: the order;
    window: mix the samples of so many shards at a time, not of all (0), for stores where far
    reads are slow. drop_last: leave out the rest that fills no batch on all ranks.
    replace: another sample for a broken one, so that batches stay whole (None: where there are
    several ranks). workers: processes (None: the CPUs but one, 16 at most, shared out among the
    ranks of a machine; 0: none). chunk: samples that a worker makes at once; ahead: chunks that
    wait per worker. start: of processes; scripts that train need
    ``if __name__ == "__main__":`` but for ``fork``. pin: page-locked batches, for GPUs.
    verify, mismatch, copy: of shards (:func:`datagen.training.collection.collect`).
    keep: fields of the triplets' JSON that batches carry.
    """

    batch_size: Annotated[int, Field(ge=1)] = 256
    limit: Annotated[int, Field(ge=0)] = 0
    iterate: Iterate = "triplet"
    samples: Annotated[int, Field(ge=0)] = 0
    targets: Literal["one", "all"] = "one"
    most_targets: Annotated[int, Field(ge=1)] = 8
    negatives: Annotated[int, Field(ge=0)] = 0
    draw_negatives: bool = True
    image_only: Share = 0.0
    text_only: Share = 0.0
    captions: Share = 0.0
    media: bool = True
    frames: preprocess.Frames = 8
    augmentation: Augmentation | None = None
    draft: Annotated[float, Field(ge=0)] | None = None
    shuffle: bool = True
    seed: Annotated[int, Field(ge=0)] = 0
    window: Annotated[int, Field(ge=0)] = 0
    drop_last: bool = True
    replace: bool | None = None
    workers: Annotated[int, Field(ge=0)] | None = None
    chunk: Annotated[int, Field(ge=1)] = 32
    ahead: Annotated[int, Field(ge=1)] = 2
    start: Literal["forkserver", "spawn", "fork"] = "forkserver"
    pin: bool = False
    verify: Verify = "hash"
    mismatch: Mismatch = "error"
    copy_shards: bool = False
    keep: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _shares(self) -> LoaderSettings:
        if self.image_only + self.text_only + self.captions > 1:
            raise ValueError("image_only, text_only and captions: more than 1 together")
        return self


def named(given: str | Source | Sequence[str | Source]) -> list[Source]:
    """Sources with names. Raises DatagenError where they cannot go together."""
    listed = [given] if isinstance(given, (str, Source)) else given
    out = [Source(one) if isinstance(one, str) else one for one in listed]
    if not out:
        raise DatagenError("no sources to load; a run directory or a folder of shards expected")
    out = [replace(one, name=one.name or one.path) for one in out]
    if len({one.name for one in out}) < len(out):
        raise DatagenError("two sources have the same name; give each one of its own")
    weights = [one.weight for one in out]
    if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
        raise DatagenError("some sources have a weight and some have none; give it to all or none")
    if any(weight is not None and not 0 < weight < math.inf for weight in weights):
        raise DatagenError("the weight of a source is a number above 0")
    return out
