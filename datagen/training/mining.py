"""Hard negatives that the model itself finds while it is trained.

Every so many epochs the model encodes all media and all queries of what it trains on, and each
triplet gets negatives by the scores (:mod:`datagen.training.hard_negatives`). Samples draw from
them until the next time, beside the negatives that shards hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datagen.errors import DatagenError
from datagen.training.batch import Batch
from datagen.training.hard_negatives import hard
from datagen.training.hooks import Hook, Parts
from datagen.training.loader import Loader
from datagen.training.model import Pictures
from datagen.training.others import Gallery, Others
from datagen.training.settings import MiningSettings

#: Scores that are held at once.
_AT_ONCE = 1 << 26


class Mining(Hook):
    """Gives the loader other triplets' media as negatives, and chooses them anew by the model.

    In the epochs before the first time they are random ones. The ranks share the work, and all
    hold what was chosen.
    """

    def __init__(self, settings: MiningSettings, parts: Parts) -> None:
        self.settings, self.parts = settings, parts
        if parts.settings.loss.negatives == "none":
            raise DatagenError("mining: loss.negatives is none; set own or all, or no mining")
        limit = parts.settings.loader.limit
        self.gallery = Gallery.of(parts.loader.runs, limit, settings.candidates == "all")
        if not len(self.gallery):
            raise DatagenError(
                "mining: no triplet has a medium that could be a negative (targets are texts or "
                "vectors alone); train without mining"
            )
        self._right = self.gallery.answers(parts.loader.runs)
        shape = (self.gallery.triplets, settings.keep)
        self._chosen = np.full(shape, -1, np.int32)
        self.at = -1

    def epoch(self, number: int) -> None:
        chosen = self.settings
        due = number >= chosen.warmup and (number - chosen.warmup) % chosen.every == 0
        if due:
            self._set(self._mined())
        elif self.at < 0:
            self._set(self._drawn())
        self.at = number

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "chosen": torch.from_numpy(self._chosen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at = int(state["at"])
        self._set(state["chosen"].numpy())

    def _set(self, chosen: Any) -> None:
        self._chosen = chosen
        self.parts.loader.others = Others(self.gallery, chosen, self.settings.draw)

    def _drawn(self) -> Any:
        """Random negatives, right answers left out: int32 (triplets, keep)."""
        random = np.random.default_rng([self.parts.settings.seed, 7])
        size = (self.gallery.triplets, self.settings.keep)
        out = random.integers(len(self.gallery), size=size, dtype=np.int32)
        for right in self._right.T:
            out[out == right[:, None]] = -1
        return out

    def _mined(self) -> Any:
        """By the scores of the model as it is: int32 (triplets, keep)."""
        model, ranks = self.parts.model, self.parts.ranks
        model.eval()
        try:
            with torch.no_grad(), self.parts.cast():
                vectors, queries, rows = self._encoded()
                right = torch.from_numpy(self._right[rows.cpu().numpy()]).to(vectors.device)
                found = self._hard(vectors, queries, right.long())
        finally:
            model.train()
        rows, _ = ranks.rows(rows)
        found, _ = ranks.rows(found, -1)
        out = np.full((self.gallery.triplets, self.settings.keep), -1, np.int32)
        out[rows.cpu().numpy()] = found.cpu().numpy()
        return out

    def _encoded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors (g, d) of the gallery, not a number for media that cannot be read, and of this
        rank's triplets the queries (n, d) and their numbers (n)."""
        at = self.parts.model.towers.device
        width = self.parts.model.towers.width
        seen: list[Tensor] = []
        media: list[Tensor] = []
        asked: list[Tensor] = []
        rows: list[Tensor] = []
        for batch, numbers in self._batches():
            queries, vectors = self._vectors(batch)
            seen.append(torch.from_numpy(self.gallery.at(batch["items"].numpy())))
            media.append(vectors.float().cpu())
            asked.append(queries.float().cpu())
            rows.append(torch.from_numpy(numbers))
        places, _ = self.parts.ranks.rows(_together(seen, torch.int64).to(at), -1)
        every, _ = self.parts.ranks.rows(_together(media, torch.float32, width).to(at))
        # An item that came several times has the vector of its first time.
        known, first = np.unique(places.cpu().numpy(), return_index=True)
        first = torch.from_numpy(first[known >= 0]).to(at)
        # What could not be read has no number, and is near nothing.
        gallery = torch.full((len(self.gallery), width), float("nan"), device=at)
        gallery[places[first]] = every[first]
        queries = _together(asked, torch.float32, width).to(at)
        return gallery, queries, _together(rows, torch.int64).to(at)

    def _batches(self) -> Iterator[tuple[Batch, Any]]:
        """All triplets once over all ranks, as they are, and their numbers."""
        chosen = self.parts.settings.loader.model_copy(
            update={
                "iterate": "triplet", "samples": 0, "shuffle": False, "drop_last": False,
                "replace": False, "augmentation": None, "draft": None, "negatives": 0,
                "targets": "all", "most_targets": 1 << 30, "keep": (),
                "image_only": 0.0, "text_only": 0.0, "captions": 0.0,
            }
        )  # fmt: skip
        sources = [replace(one, weight=None) for one in self.parts.sources]
        ranks = self.parts.ranks
        geometry = self.parts.model.towers.geometry
        loader = Loader(sources, geometry, chosen, rank=ranks.rank, ranks=ranks.count)
        order = loader.plan.epoch(0)
        try:
            for batch in loader.batches():
                run, row = order[batch["places"].numpy(), :2].T
                yield batch, self.gallery.first[run] + row
        finally:
            loader.close()

    def _vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Queries (B, d) and media (N, d) of a batch, ``chunk`` at a time where one is set."""
        model, at = self.parts.model, self.parts.model.towers.device
        pictures = Pictures(batch["pixels"], batch["counts"], batch["references"]).to(at)
        ids, told = model.tokenize(batch["texts"], (pictures.lists >= 0).any(1))
        size = self.parts.settings.chunk
        if not size:
            return model.batch(pictures, ids, told)
        lists = torch.arange(len(pictures.counts), device=at)[:, None]
        queries = [
            model.queries(pictures.chosen(pictures.lists[part]), ids[part], told[part])
            for part in (slice(begin, begin + size) for begin in range(0, len(ids), size))
        ]
        media = [model.targets(pictures.chosen(one)) for one in lists.split(size)]
        return torch.cat(queries), torch.cat(media)

    def _hard(self, gallery: Tensor, queries: Tensor, right: Tensor) -> Tensor:
        """Hard negatives int64 (n, keep) of queries."""
        size = max(1, _AT_ONCE // max(1, len(gallery)))
        with torch.autocast(gallery.device.type, enabled=False):
            found = [
                hard(queries[part] @ gallery.T, right[part], self.settings)
                for part in (slice(at, at + size) for at in range(0, len(queries), size))
            ]
        return _together(found, torch.int64, self.settings.keep).to(gallery.device)


def _together(parts: list[Tensor], kind: Any, width: int = 0) -> Tensor:
    """``parts`` one after another; of no rows where there are none."""
    none = torch.zeros((0, width) if width else 0, dtype=kind)
    return torch.cat(parts) if parts else none
