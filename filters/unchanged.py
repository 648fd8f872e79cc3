"""Rejects rows whose target looks as its reference does: the edit did nothing.

A model of pictures does not see it: an edit that failed has a cosine near 1, and so has one of a
small thing. A perceptual hash is blind to hue. So pixels are compared: the share of the picture
that differs, not how much it does on average, as an edit may be small and strong while grain,
another coding and a decoder's losses are everywhere and weak. Measured on rendered scenes and on
photos by ``benchmarks/edits_seen.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from pydantic import Field

from datagen import preprocess, schema
from datagen.faults import Fault
from datagen.filters._bounds import numbers, verdicts
from datagen.filters._changes import differences
from datagen.filters._panels import Array, PanelFilter, Panels, paired
from datagen.preprocess import Geometry
from datagen.step import Resources, Settings


class UnchangedSettings(Settings):
    """low: the smallest share of the picture that must differ (0 to 1).

    tolerance: levels of 255 by which a place may differ and count as the same. reach: pixels by
    which edges may lie elsewhere; 4 where pictures are drawn anew rather than edited. size: pixels
    of a side of the square that all pictures are resized to; take no more than the pictures have.
    frames: of a clip so many frames at even distances, ``first``, ``middle``, ``key``, or those at
    a list of seconds.
    """

    low: float = Field(0.002, ge=0, le=1)
    tolerance: int = Field(16, ge=0, le=254)
    reach: int = Field(1, ge=0, le=16)
    size: int = Field(128, ge=32, le=1024)
    frames: preprocess.Frames = 4


class Unchanged(PanelFilter[UnchangedSettings]):
    """Measures ``score_changed``: the share of the picture in which reference and target differ.

    A place differs where its colour, a little blurred, lies more than ``tolerance`` levels outside
    of the colours that the other picture has within ``reach`` pixels. Of clips it is the largest
    share of any of the frames, which are compared one by one; with several references or targets,
    that of the two which are most alike.
    """

    Settings = UnchangedSettings
    rules = frozenset({"low"})
    scores = ("score_changed",)

    def resources(self) -> Resources:
        return Resources(batch_size=64)

    @property
    def geometry(self) -> Geometry:
        size = self.settings.size
        return Geometry(size, size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", "squash")

    def measured(self, rows: Sequence[Panels]) -> list[dict[str, float] | Fault]:
        return [{"score_changed": self._share(row)} for row in rows]

    def _share(self, row: Panels) -> float:
        return min(self._between(one, other) for one in row.references for other in row.targets)

    def _between(self, one: Array, other: Array) -> float:
        reach, tolerance = self.settings.reach, self.settings.tolerance
        frames = (differences(a, b, reach) for a, b in paired(one, other))
        return max(float((frame > tolerance).mean()) for frame in frames)

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        low = self.settings.low
        found: list[Fault] = []
        for share in numbers(rows["score_changed"]).tolist():
            if share != share:
                found.append((schema.FAILED, None, "the pictures of the row were not compared"))
            elif share < low:
                found.append((schema.REJECTED, "unchanged", f"{share:.4f} < {low:g} of it differs"))
            else:
                found.append(None)
        return verdicts(rows["id"], found)
