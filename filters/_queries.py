"""What the filters on queries share: vectors of a row's references, targets and texts in one space
that holds pictures and texts (or captions and texts), and what is wrong with rows that lack them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from datagen import models, ranks, schema
from datagen.faults import Fault
from datagen.schema import Level
from datagen.space import Space
from datagen.step import Context, Filter, Resources, Settings

Array = np.ndarray[Any, Any]


class SpaceSettings(Protocol):
    """Settings that name a space."""

    @property
    def space(self) -> str: ...


S = TypeVar("S", bound=Settings)

NO_DIRECTION = (schema.FAILED, "no_direction", "the model gave no finite vector")


class Members(NamedTuple):
    """References or targets of rows: space rows, row by row, and where each row's begin (n + 1)."""

    at: Array
    starts: Array

    def lists(self) -> list[list[int]]:
        """The space rows of each row."""
        flat, cuts = self.at.tolist(), self.starts.tolist()
        return [flat[a:b] for a, b in itertools.pairwise(cuts)]


class QueryFilter(Filter[S]):
    """A filter that compares texts with the items of a space, by the model that made the space."""

    #: Rows that are compared with all items of the space at once.
    batch: ClassVar[int] = 1024
    space: Space
    encode: Callable[[Sequence[str]], Array]

    def needs(self, level: Level) -> set[str]:
        name = self._name
        return {f"space.{name}", f"texts.{name}", "pairs"}

    @property
    def _name(self) -> str:
        name: str = self.settings.space  # type: ignore[attr-defined]
        return name

    def resources(self) -> Resources:
        """One CPU, and a GPU where there is one: for texts, and for comparing with all items."""
        return Resources(gpus=models.gpus("auto"), batch_size=self.batch, actor=True)

    def open(self, context: Context) -> None:
        """Open the space, and the model that made it."""
        self.space = context.space(self._name)
        embedder = context.embedders[self._name]
        embedder.open(context)  # type: ignore[attr-defined]
        self.encode = embedder.texts  # type: ignore[attr-defined]

    def faults(self, rows: pa.Table, texts: Sequence[Sequence[str | None]]) -> list[Fault]:
        """What is wrong with each row: members without a vector, or none, or a text that lacks."""
        name = self._name
        wrong: list[Fault] = [None] * rows.num_rows
        for column in ("targets", "references"):
            for number, members in enumerate(rows[column].to_pylist()):
                ids = [one["id"] for one in members or ()]
                have: Array = np.asarray(np.isfinite(self.space.of(ids)).all(axis=1))
                lacks = [one for one, at in zip(ids, have.tolist(), strict=True) if not at]
                if not ids:
                    wrong[number] = (schema.FAILED, "no_vector", f"the row has no {column}")
                elif lacks:
                    detail = f"{column[:-1]} {lacks[0]} has no vector in space '{name}'"
                    wrong[number] = (schema.FAILED, "no_vector", detail)
        for number, words in enumerate(texts):
            if wrong[number] is None and not all(text and text.strip() for text in words):
                wrong[number] = (schema.FAILED, "no_text", "there is no text to compare")
        return wrong

    def encoded(
        self, texts: Sequence[Sequence[str | None]], wrong: list[Fault]
    ) -> tuple[list[int], Array]:
        """Rows that are sound, and the vectors of their texts, row by row.

        A row with a text that the model gives no direction is marked in ``wrong``.
        """
        usable = [number for number, fault in enumerate(wrong) if fault is None]
        owner = [number for number in usable for _ in texts[number]]
        words = self.encode([text or "" for number in usable for text in texts[number]])
        good: Array = np.asarray(np.isfinite(words).all(axis=1))
        for number, fine in zip(owner, good.tolist(), strict=True):
            if not fine:
                wrong[number] = NO_DIRECTION
        sound = np.array([wrong[number] is None for number in owner], dtype=bool)
        return [number for number in usable if wrong[number] is None], words[sound]

    def members(self, rows: pa.Table, column: str, usable: Sequence[int]) -> Members:
        """Space rows of a list column of the ``usable`` rows."""
        lists = rows[column].take(pa.array(usable, pa.int64())).to_pylist()
        at = self.space.rows([one["id"] for members in lists for one in members])
        return Members(at, np.cumsum([0, *(len(members) for members in lists)]))

    def mean(self, members: Members) -> Array:
        """The mean direction of each row's members: unit vectors (n, d), float64."""
        if not len(members.at):
            return np.zeros((0, self.space.width))
        vectors = ranks.unit(self.space.vectors[members.at])
        return ranks.unit(np.add.reduceat(vectors, members.starts[:-1], axis=0))


def member_texts(rows: pa.Table, column: str) -> list[list[str | None]]:
    """Captions of the members of a list column."""
    lists = rows[column].to_pylist()
    return [[one["caption"] for one in members or ()] for members in lists]
