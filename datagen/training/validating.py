"""Recall on a split of a run while a model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc

import datagen
from datagen import frames, store
from datagen.errors import DatagenError
from datagen.evaluation import protocols
from datagen.evaluation.measure import COMPOSED, KINDS, measure, missing
from datagen.training.answering import Answering
from datagen.training.loader_settings import Source
from datagen.training.model import Model
from datagen.training.settings import ValidationSettings

NONE = "none"
#: The split that is taken where none is named.
SPLIT = "val"


class Validation:
    """A split of a run, read once and asked often. Raises DatagenError where it cannot be."""

    def __init__(self, on: str, settings: ValidationSettings, choice: frames.Choice) -> None:
        self.on, self.settings, self.choice = on, settings, choice
        self._protocol = protocols.protocol(on, [f"gallery={settings.gallery}"])
        self._benchmark = self._protocol.read(on.removeprefix(protocols.RUN))
        #: Images and clips that are not there.
        self.lost = len(missing(self._benchmark))

    def figures(self, model: Model, probes: bool = False) -> dict[str, dict[str, float]]:
        """Metrics (shares from 0 to 1) of ``model`` by what is asked with.

        probes: also of the references alone and of the text alone. The model trains on afterwards
        as it did before.
        """
        before = model.fixed
        try:
            asked = Answering(model, self.settings.batch_size, self.choice)
            found = measure(asked, self._protocol, self._benchmark, probes=probes)
        finally:
            model.fixed = before
            model.train()
        kinds = KINDS if probes else (COMPOSED,)
        return {
            kind: {line.metric: line.values[kind] for line in found.lines if kind in line.values}
            for kind in kinds
        }


def chosen(
    sources: Sequence[Source], settings: ValidationSettings, choice: frames.Choice
) -> tuple[Validation | None, list[str]]:
    """What is validated on: as the settings say, or the split ``val`` of the first source that is
    a run, and has one with all its media; None for nothing. Why others are not, a line each.

    Raises DatagenError where what the settings say cannot be.
    """
    if settings.on == NONE:
        return None, []
    if settings.on:
        if not settings.on.startswith(protocols.RUN):
            raise DatagenError(f"validation.on: {settings.on}: run:DIR#SPLIT or none expected")
        asked = Validation(settings.on, settings, choice)
        if asked.lost:
            raise DatagenError(
                f"validation.on: {settings.on}: {asked.lost:,} of its images or clips are not "
                "there; bring them, or set validation.on=none"
            )
        return asked, []
    notes: list[str] = []
    for source in sources:
        if store.exists(store.join(source.path, "run.json")) and _has_split(source.path):
            found = Validation(f"{protocols.RUN}{source.path}#{SPLIT}", settings, choice)
            if not found.lost:
                return found, notes
            notes.append(f"not validated on {found.on}: {found.lost:,} media are not there")
    return None, notes


def _has_split(out: str) -> bool:
    table: Any = datagen.load(out).triplets()
    return "split" in table.column_names and bool(pc.any(pc.equal(table["split"], SPLIT)).as_py())
