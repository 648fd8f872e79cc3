"""Rejects rows whose pictures came out as nothing, or whose target kept nothing of its reference.

A painter that fails gives one colour or noise; an edit that runs away gives another picture. How
much of the reference is left is told by structure, not by the share of pixels that changed: a new
background changes most of them. Measured by ``benchmarks/edits_seen.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import preprocess, schema
from datagen.faults import Fault
from datagen.filters._bounds import numbers, verdicts
from datagen.filters._changes import contrast, noise, structure
from datagen.filters._panels import Array, PanelFilter, Panels, paired
from datagen.preprocess import Geometry
from datagen.step import Resources, Settings

STRUCTURE, CONTRAST, NOISE = "score_structure", "score_contrast", "score_noise"
#: Pixels of a side: details of which the place moves a little are gone.
SIDE = 128


class CollapsedSettings(Settings):
    """min_structure: how alike in structure reference and target must be (0 to 1; null: not at
    all). min_contrast: levels of 255 between the darkest and the lightest part of every picture
    (null: any). max_noise: 0 is a plain picture, 1 white noise (null: any). frames: of a clip so
    many frames at even distances, ``first``, ``middle``, ``key``, or those at a list of seconds.
    """

    min_structure: float | None = Field(0.2, ge=0, le=1)
    min_contrast: float | None = Field(8, ge=0, le=255)
    max_noise: float | None = Field(0.6, ge=0, le=2)
    frames: preprocess.Frames = 4


class Collapsed(PanelFilter[CollapsedSettings]):
    """Measures ``score_structure``, ``score_contrast`` and ``score_noise``; rejects rows as
    ``lost_structure``, ``one_colour`` or ``noise``.

    Pictures are compared on 128 x 128 pixels, whatever their sizes. Contrast and noise are those
    of the worst picture of the row, references as well as targets; structure that of the reference
    and target which are least alike. Of clips the worst frame counts; for structure the mean of
    all.
    """

    Settings = CollapsedSettings
    rules = frozenset({"min_structure", "min_contrast", "max_noise"})
    scores = (STRUCTURE, CONTRAST, NOISE)

    def resources(self) -> Resources:
        return Resources(batch_size=64)

    @property
    def geometry(self) -> Geometry:
        return Geometry(SIDE, SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", "squash")

    def measured(self, rows: Sequence[Panels]) -> list[dict[str, float] | Fault]:
        return [_measure(row) for row in rows]

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        columns = (numbers(rows[name]).tolist() for name in self.scores)
        return verdicts(rows["id"], [self._fault(*one) for one in zip(*columns, strict=True)])

    def _fault(self, alike: float, span: float, strange: float) -> Fault:
        least, plain, most = (
            self.settings.min_structure,
            self.settings.min_contrast,
            self.settings.max_noise,
        )
        if span != span:
            return schema.FAILED, None, "the pictures of the row were not looked at"
        if plain is not None and span < plain:
            return schema.REJECTED, "one_colour", f"a picture has {span:g} < {plain:g} levels"
        if most is not None and strange > most:
            return schema.REJECTED, "noise", f"noise of a picture: {strange:.4f} > {most:g}"
        if least is not None and alike < least:
            return schema.REJECTED, "lost_structure", f"{alike:.4f} < {least:g}"
        return None


def _measure(row: Panels) -> dict[str, float]:
    frames = [frame for medium in (*row.references, *row.targets) for frame in medium]
    return {
        STRUCTURE: min(_alike(one, other) for one in row.references for other in row.targets),
        CONTRAST: min(map(contrast, frames)),
        NOISE: max(map(noise, frames)),
    }


def _alike(one: Array, other: Array) -> float:
    return float(np.mean([structure(a, b) for a, b in paired(one, other)]))
