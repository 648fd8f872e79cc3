"""The contract of a format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from datagen.export.book import Book
from datagen.export.files import Mode, extension
from datagen.export.selection import Item, Selection


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    media: how media are written; category: the label that tells categories apart (fashioniq);
    extension: what every medium's name ends in, whatever its format (None: its true format).
    """

    media: Mode = "copy"
    category: str | None = None
    extension: str | None = None


class Format(ABC):
    """One format: where media lie, and which files tell the triplets."""

    #: One line for ``datagen export --help`` and the docs.
    about: ClassVar[str]
    #: Roles whose items have media in the export.
    roles: ClassVar[tuple[str, ...]] = ("references", "targets")
    #: Columns of triplets that it does not use.
    without: ClassVar[tuple[str, ...]] = ("evidence", "provenance", "rule", "detail", "step")
    #: Extensions that the released loaders look for; empty: any.
    looks_for: ClassVar[tuple[str, ...]] = ()

    #: Whether its released loaders open images alone, and no clips.
    images_only: ClassVar[bool] = True
    #: Whether media are no files by item: the format writes them with its triplets.
    embeds: bool = False

    def __init__(self, options: Options, numbers: Mapping[str, int], selection: Selection) -> None:
        self.options = options
        self.numbers = numbers
        self.selection = selection

    def ending(self, item: Item) -> str:
        """The extension of an item's file."""
        return self.options.extension or extension(item["media"])

    def place(self, item: Item) -> str:
        """The path of an item's medium below the export's folder."""
        return f"images/{self.folder(item)}/{item['id']}.{self.ending(item)}"

    def folder(self, item: Item) -> str:
        """One of some 256 folders, so that none grows too large."""
        return str(item["id"])[:2]

    @abstractmethod
    def write(self, book: Book) -> None:
        """Write the files of one split."""

    def embedded(self, items: int) -> dict[str, int]:
        """What became of the media of a format that ``embeds`` them, of so many items."""
        return {"embedded": items}

    @abstractmethod
    def reading(self, out: str, splits: Sequence[str]) -> list[str]:
        """Lines that say how to read the export in ``out``."""
