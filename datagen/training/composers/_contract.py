"""What a composer is given and gives."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from datagen.errors import DatagenError
from datagen.step import Settings
from datagen.training.towers import Towers

S = TypeVar("S", bound=Settings)


class Asked(NamedTuple):
    """n queries.

    images: (n, d), the mean of each query's references, of length 1, zero where it has none;
    ids: (n, length), tokens of what the composer made of the texts (:meth:`Composer.prompt`);
    pictured, told: bool (n), which queries have references, and which a text; tokens: (n, t,
    image width) of all references, where the composer wants them; mask: bool (n, t), which of
    these are there; slots: bool (n, length), where a reference's word stands among ``ids``, of
    queries whose texts say so themselves.
    """

    images: Tensor
    ids: Tensor
    pictured: Tensor
    told: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None
    slots: Tensor | None = None


class Composer(nn.Module, Generic[S]):  # type: ignore[misc]
    """Makes one vector of a query's references and text.

    A query with one of them alone, and queries of several kinds in one batch, are legal. What
    stands beside a query in a batch does not matter to it.
    """

    Settings: ClassVar[type[Settings]]
    #: Whether it wants the tokens of references, not their vectors alone.
    wants_tokens: ClassVar[bool] = False

    def __init__(self, settings: S, towers: Towers) -> None:
        super().__init__()
        self.settings = settings

    def prompt(self, text: str | None, pictured: bool) -> str:
        """What the text tower reads for a query."""
        return text or ""

    @abstractmethod
    def forward(self, towers: Towers, asked: Asked) -> Tensor:
        """Vectors (n, d), float32 of length 1. Raises DatagenError."""


def told_vectors(towers: Towers, asked: Asked) -> Tensor:
    """Vectors (n, d) of the texts, of length 1, zero where there is none."""
    found = nn.functional.normalize(towers.texts(asked.ids).pooled, dim=-1)
    return torch.where(asked.told[:, None], found, torch.zeros_like(found))


def divided(width: int, heads: int, name: str) -> None:
    """Raise DatagenError where ``width`` is no multiple of ``heads``."""
    if width % heads:
        raise DatagenError(f"{name}: {heads} heads do not divide a width of {width}")
