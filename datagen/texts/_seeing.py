"""What writers that show pairs as pictures have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

import pyarrow as pa

from datagen.chat import pictures
from datagen.chat.prompts import Prompt
from datagen.chat.subject import Subject
from datagen.schema import Level
from datagen.step import Resources
from datagen.texts._writer import Writer, WriterSettings

_COLUMNS = {"reference": "references", "target": "targets"}


class SeeingSettings(WriterSettings, pictures.PictureSettings):
    """What texts are asked for, and what is shown of images and clips."""


S = TypeVar("S", bound=SeeingSettings)


class Seeing(Writer[S], Generic[S]):
    """A writer whose prompt ``seen`` shows pictures; captions of a pair are told as well."""

    seen: Prompt

    def needs(self, level: Level) -> set[str]:
        return {"pairs", "items.media"}

    def resources(self) -> Resources:
        """Those of the engine, with no more rows at once than have room for their pictures."""
        wants = super().resources()
        rows = self.settings.rows_at_once(len(self.seen.pictures))
        return replace(wants, batch_size=min(wants.batch_size, rows))

    def prepare(self, rows: pa.Table) -> pa.Table:
        sides: dict[str, list[Mapping[str, Any] | None]] = {
            name: [_medium(members) for members in rows[_COLUMNS[name]].to_pylist()]
            for name in self.seen.pictures
        }
        return pictures.prepared(rows, sides, self.settings)

    def subjects(self, rows: pa.Table) -> dict[str, Subject]:
        told = super().subjects(rows).items()
        return {
            name: replace(subject, pictures=shown)
            for (name, subject), shown in zip(told, pictures.of(rows), strict=True)
        }


def _medium(members: Any) -> Mapping[str, Any] | None:
    """The image or clip of the first reference or target, whose caption is told as well."""
    return members[0]["media"] if members else None
