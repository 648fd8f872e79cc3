"""The best of several samples of a row, by CLIP, as InstructPix2Pix (arXiv:2211.09800) keeps them.

Of 100 samples a prompt it keeps at most four, by the directional similarity of CLIP
(arXiv:2108.00946), among those above four thresholds, which hold for the cosines of ViT-L/14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from datagen import clip, models

Array = np.ndarray[Any, Any]
Score = Literal["directional", "target", "reference", "similarity"]
SCORES: tuple[Score, ...] = ("directional", "target", "reference", "similarity")
#: InstructPix2Pix' thresholds.
PUBLISHED: dict[Score, float] = {
    "directional": 0.2, "target": 0.2, "reference": 0.2, "similarity": 0.7
}  # fmt: skip
#: Digits of a score that are kept.
_DIGITS = 5


class KeepSettings(clip.ModelSettings):
    """Which samples of a row are kept, by the cosines of a CLIP model.

    ``directional``: the change of the picture and that of the caption; ``reference``, ``target``:
    a picture and its caption; ``similarity``: both pictures.
    """

    model: str = "open_clip:ViT-L-14/openai"
    #: Samples of a row that are kept, at most.
    count: int = Field(4, ge=1, le=1000)
    #: The score by which the best are chosen.
    by: Score = "directional"
    #: What a sample needs at least. Other models have other cosines: see docs/QUALITY.md.
    least: dict[Score, float] = Field(default_factory=lambda: dict(PUBLISHED))

    @field_validator("least")
    @classmethod
    def _cosines(cls, value: dict[Score, float]) -> dict[Score, float]:
        if not all(-1 <= one <= 1 for one in value.values()):
            raise ValueError("cosines, from -1 to 1")
        return value


class Best:
    """Chooses among samples. Pickles as long as it is not open."""

    def __init__(self, settings: KeepSettings) -> None:
        self.settings = settings
        self.ref = models.parse(settings.model)
        self._clip: clip.Clip | None = None

    def revision(self) -> str:
        """What identifies the weights; workers are then held to them."""
        found = models.revision(self.ref)
        self.ref = models.at(self.ref, found)
        return found

    def open(self) -> None:
        """Load the weights."""
        chosen = self.settings
        self._clip = clip.load(
            self.ref,
            device=chosen.device,
            precision=chosen.precision,
            batch_size=chosen.batch_size,
            trust_remote_code=chosen.trust_remote_code,
        )

    def scores(
        self,
        references: Sequence[Image.Image],
        targets: Sequence[Image.Image],
        captions: Sequence[tuple[str, str]],
    ) -> list[dict[Score, float]]:
        """The scores of samples, each with its two pictures and their captions.

        A direction that is none (equal pictures or captions) is 0.
        """
        assert self._clip is not None
        geometry = clip.config(self.ref).geometry
        before, after = (
            self._clip.images(np.stack([geometry.fit(one.convert("RGB")) for one in some]))
            .astype(np.float64)
            for some in (references, targets)
        )  # fmt: skip
        words = sorted({text for pair in captions for text in pair})
        vectors = dict(zip(words, self._clip.texts(words).astype(np.float64), strict=True))
        first = np.stack([vectors[one] for one, _ in captions])
        second = np.stack([vectors[two] for _, two in captions])
        found = {
            "directional": _cosines(after - before, second - first),
            "target": _cosines(after, second),
            "reference": _cosines(before, first),
            "similarity": _cosines(before, after),
        }
        return [
            {name: round(float(found[name][at]), _DIGITS) for name in SCORES}
            for at in range(len(captions))
        ]

    def chosen(self, scores: Sequence[Mapping[Score, float]]) -> list[tuple[str, str] | None]:
        """For each sample of one row None where it is kept, else the rule and detail against it."""
        chosen = self.settings
        out: list[tuple[str, str] | None] = []
        for one in scores:
            low = [n for n, least in chosen.least.items() if not one[n] >= least]
            out.append(
                (f"low_{low[0]}", f"{low[0]} {one[low[0]]:.3f} < {chosen.least[low[0]]:g}")
                if low
                else None
            )
        fine = [at for at, fault in enumerate(out) if fault is None]
        fine.sort(key=lambda at: (-scores[at][chosen.by], at))
        for at in fine[chosen.count :]:
            least = scores[fine[chosen.count - 1]][chosen.by]
            out[at] = (
                "not_best",
                f"{chosen.by} {scores[at][chosen.by]:.3f}; kept from {least:.3f}",
            )
        return out


def _cosines(left: Array, right: Array) -> Array:
    """Row by row; 0 where either is null."""
    sizes = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    products = (left * right).sum(axis=-1)
    found: Array = np.where(sizes > 1e-8, products / np.maximum(sizes, 1e-12), 0.0)
    return found
