"""What a sample is: what it is drawn from, and what comes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from datagen.training.shard_index import JSON, NEGATIVE, REFERENCE, TARGET, TEXT, VECTOR
from datagen.training.triplets import Entry

Array = np.ndarray[Any, Any]

#: What a query is made of: reference and text, the reference alone, the text alone, or the
#: target's caption alone.
KINDS = ("composed", "image", "text", "caption")
COMPOSED, IMAGE_ONLY, TEXT_ONLY, CAPTION = range(len(KINDS))


@dataclass(frozen=True)
class Choices:
    """What a sample is made of; as the fields of the same names of
    :class:`datagen.training.loader.LoaderSettings`."""

    targets: Literal["one", "all"] = "one"
    most_targets: int = 8
    negatives: int = 0
    draw_negatives: bool = True
    image_only: float = 0.0
    text_only: float = 0.0
    captions: float = 0.0
    media: bool = True
    keep: tuple[str, ...] = ()
    seed: int = 0


class Ticket(NamedTuple):
    """What a worker is asked for: ``rows`` int64 (n, 4) of run, row, target (-1: any) and place in
    the epoch; ``spares``: the same, of samples that step in for broken ones; ``others``: by run and
    row, places int64 (m, 4) of other triplets' media that are negatives (run, row, role, number of
    the member), of which a sample has ``draw``."""

    epoch: int
    rows: Array
    spares: Array
    others: Mapping[tuple[int, int], Array] | None = None
    draw: int = 0


class Fault(NamedTuple):
    """What could not be used: of which run, shard and triplet which member, and why.

    lost: whether the whole sample went with it.
    """

    run: str
    shard: str
    key: str
    member: str
    rule: str
    detail: str
    lost: bool


@dataclass
class Sample:
    """One query and what it should find. Numbers are those of media in the chunk."""

    run: int
    place: int
    key: str
    pair: str
    kind: int
    text: str | None = None
    caption: str | None = None
    reference_caption: str | None = None
    references: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    negatives: list[int] = field(default_factory=list)
    target_ids: list[str] = field(default_factory=list)
    vector: Array | None = None
    json: dict[str, Any] = field(default_factory=dict)


@dataclass
class Chunk:
    """Samples that one worker made together.

    pictures: of each medium uint8 (frames, height, width, 3); items: the id of each medium's item.
    """

    samples: list[Sample] = field(default_factory=list)
    pictures: list[Array] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def number_of(name: str) -> int:
    """An id as a number of 64 bits, the same everywhere; 0 stands for none."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


#: A triplet, and the bytes of some of its members.
Other = tuple[Entry, Mapping[tuple[int, int], bytes]]


class Lost(Exception):
    """A sample or a member that cannot be made: (member, rule, detail)."""

    args: tuple[str, str, str]


#: Of a medium of another triplet: run, row, role and number.
Place = tuple[int, int, int, int]


@dataclass
class Drawn:
    """A sample before its bytes: where it lies, and what of it is wanted."""

    run: int
    place: int
    entry: Entry
    random: np.random.Generator
    kind: int
    targets: list[int]
    negatives: list[int]
    others: list[Place] = field(default_factory=list)
    media: bool = True

    @property
    def wanted(self) -> list[tuple[int, int]]:
        """Members to read."""
        known = self.entry
        if not self.media:
            return [(TEXT, 0), (JSON, 0)]
        queried = self.kind in (COMPOSED, IMAGE_ONLY, CAPTION)
        return [
            *((REFERENCE, number) for number in known.numbers(REFERENCE) if queried),
            *((TARGET, number) for number in self.targets if (TARGET, number) in known.members),
            *((NEGATIVE, number) for number in self.negatives),
            *((role, 0) for role in (TEXT, JSON, VECTOR) if (role, 0) in known.members),
        ]
