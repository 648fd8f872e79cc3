"""A painter of a test: pictures of noise, slowly."""

import time
from collections.abc import Sequence

import numpy as np

from datagen.edits._painter import Painter, PaintSettings
from datagen.edits._samples import Painted, Range, Sample


class NoiseSettings(PaintSettings):
    guidance: Range = (1.0, 5.0)
    seconds: float = 0.05


class NoisePainter(Painter[NoiseSettings]):
    """Both members are noise; every seventh row fails."""

    Settings = NoiseSettings
    levels = ("pairs", "triplets")
    ranges = ("guidance",)
    requires = ()

    def paint(self, samples: Sequence[Sample]) -> list[Painted]:
        time.sleep(self.settings.seconds)
        return [self._one(sample) for sample in samples]

    def _one(self, sample: Sample) -> Painted:
        dice = np.random.default_rng(sample.seed)
        first, second = dice.random((2, 24, 24, 3), dtype=np.float32)
        if int(sample.row["id"][:8], 16) % 7 == 0:
            first[0, 0] = np.nan
        return Painted(first, second)
