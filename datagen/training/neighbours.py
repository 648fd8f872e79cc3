"""Triplets on the fly, of images and captions alone.

CoLLM (Huynh et al. 2025, arXiv:2503.19910): an image is the target; the reference is a point on
the great circle between its vector and that of its nearest neighbour in the batch, and the text
says both captions by a template.
"""

from __future__ import annotations

import torch
from torch import Tensor

from datagen.errors import DatagenError
from datagen.training.batch import Batch, without
from datagen.training.composers.sum import slerp
from datagen.training.hooks import Hook, Parts
from datagen.training.model import Model, Pictures
from datagen.training.query_settings import OTHER, TARGET, NeighbourSettings
from datagen.training.samples import number_of


class Neighbours(Hook):
    """Replaces the queries of batches; targets stay.

    Neighbours are looked for among the targets of all ranks, but not the same item and none with
    the same caption. References are constants: no gradient goes through them. A target without a
    caption is asked by its reference alone, one without a neighbour by its caption alone.
    """

    def __init__(self, settings: NeighbourSettings, parts: Parts) -> None:
        self.settings, self.parts = settings, parts
        if parts.model.composer.wants_tokens:
            raise DatagenError(
                f"queries: composer {parts.model.op} reads the tokens of references, and a point "
                "between two images has none; choose combiner, inversion or sum"
            )
        if not parts.settings.loader.media:
            raise DatagenError("queries: neighbours are found by pictures; set loader.media=true")

    def batch(self, batch: Batch) -> Batch:
        given = self.settings
        vectors = self._targets(batch)
        captions = [caption or "" for caption in batch["captions"]]
        best, told = self._nearest(vectors, batch, captions)
        own = torch.where((vectors != 0).any(1, keepdim=True), vectors, 0.0)
        share = own.new_full((len(own), 1), given.share)
        known = [one is not None for one in told]
        pictured = torch.tensor(known, device=own.device)
        references = torch.where(pictured[:, None], slerp(own, best, share), own)
        drawn = torch.rand(len(captions)).tolist()
        forms = torch.randint(len(given.templates), (len(captions),)).tolist()
        texts: list[str | None] = []
        for at, (caption, other) in enumerate(zip(captions, told, strict=True)):
            alone = drawn[at] < given.images
            if caption and (other is None or given.images <= drawn[at] < _both(given)):
                pictured[at] = False
                texts.append(caption)
            elif not caption or other is None or alone:
                # What has neither a caption nor a neighbour is asked by itself.
                pictured[at] = True
                texts.append(None)
            else:
                texts.append(_text(given.templates[forms[at]], caption, other))
        standing = {"reference_vectors": references, "has_reference": pictured}
        return {**without(batch, "references", "negatives"), "texts": texts, **standing}

    def _targets(self, batch: Batch) -> Tensor:
        """Vectors (B, d) of each sample's first target, zero where it has no medium."""
        model: Model = self.parts.model
        at = model.towers.device
        lists = batch["targets"][:, :1]
        pictures = Pictures(batch["pixels"], batch["counts"], lists).to(at)
        size = self.parts.settings.chunk or len(lists)
        model.eval()
        try:
            with torch.no_grad(), self.parts.cast():
                parts = [
                    model.targets(pictures.chosen(pictures.lists[begin : begin + size]))
                    for begin in range(0, len(lists), size)
                ]
        finally:
            model.train()
        return torch.cat(parts).float()

    def _nearest(
        self, vectors: Tensor, batch: Batch, captions: list[str]
    ) -> tuple[Tensor, list[str | None]]:
        """Each target's nearest neighbour: vectors (B, d), and captions, None where there is
        none."""
        ranks = self.parts.ranks
        items = batch["target_ids"][:, 0].to(vectors.device)
        texts = torch.tensor([number_of(caption) for caption in captions], device=vectors.device)
        every, _ = ranks.rows(vectors)
        alike = items[:, None] == ranks.rows(items)[0]
        alike |= texts[:, None] == ranks.rows(texts)[0]
        said = ranks.texts(captions, vectors.device)
        usable = (every != 0).any(1) & torch.tensor([bool(one) for one in said]).to(every.device)
        allowed = usable & ~alike & (vectors != 0).any(1, keepdim=True)
        scores = (vectors @ every.T).masked_fill(~allowed, -float("inf"))
        best = scores.argmax(1)
        there = allowed.any(1).tolist()
        names = [
            said[at] if known else None for at, known in zip(best.tolist(), there, strict=True)
        ]
        return every[best], names


def _both(given: NeighbourSettings) -> float:
    return given.images + given.captions


def _text(template: str, caption: str, other: str) -> str:
    """Both captions in a template. What stands in a caption is never read as a place."""
    out = []
    for part in template.split(TARGET):
        out.append(other.join(part.split(OTHER)))
    return caption.join(out)
