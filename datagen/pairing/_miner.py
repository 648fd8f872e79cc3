"""What miners of pairs share: items go in, pairs come out."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from datagen.schema import Level
from datagen.step import Settings, TableOperator

S = TypeVar("S", bound=Settings)


class Miner(TableOperator[S]):
    """Makes pairs of the items of the whole table."""

    levels: ClassVar[tuple[Level, ...]] = ("items",)
    result: ClassVar[Level | None] = "pairs"

    def gives(self, level: Level) -> set[str]:
        return {"pairs"}


class LabelMiner(Miner[S]):
    """A miner that reads labels."""

    def needs(self, level: Level) -> set[str]:
        return {"items.labels"}
