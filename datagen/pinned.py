"""Operators with a model: named in the driver, held to one revision, checked before any row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, TypeVar

from datagen import models
from datagen.errors import DatagenError
from datagen.step import RowOperator, Settings


class ModelChoice(Settings):
    """model: a model reference. device: auto, cpu, cuda, mps. precision: auto (bf16 on CUDA, else
    fp32), fp32, bf16, fp16.
    """

    model: str
    device: str = "auto"
    precision: str = "auto"


S = TypeVar("S", bound=ModelChoice)


class Pinned(RowOperator[S]):
    """An operator with the model that its settings name. Pickles as long as it is not open.

    Raises DatagenError where the reference is not one.
    """

    #: What takes models of open_clip, where this operator does not.
    instead: ClassVar[str | None] = None

    def __init__(self, settings: S) -> None:
        super().__init__(settings)
        self.ref = models.parse(settings.model)

    def revision(self) -> str:
        """The model's revision, to which the workers are then held."""
        found = models.revision(self.ref)
        self.ref = models.at(self.ref, found)
        return found

    def check(self) -> Iterable[str]:
        """What can be seen to be wrong before any weights are loaded; one line each."""
        try:
            if self.instead and self.ref.scheme == "open_clip":
                raise DatagenError(f"model '{self.ref}': {self.instead}")
            self.revision()
            models.check_choices(self.settings.device, self.settings.precision)
            self.look()
        except DatagenError as error:
            yield str(error)

    def look(self) -> None:
        """Read what is known of the model before its weights. Raises DatagenError."""
