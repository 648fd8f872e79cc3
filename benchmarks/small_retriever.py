"""A retriever small enough for a minute of one processor: kept vectors and a Combiner.

Vectors of items are computed once and stay as they are, so that a training is a few seconds and
many can be compared. Composer, loss, places and metrics are datagen's own.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datagen.evaluation import metrics
from datagen.evaluation.places import places
from datagen.training import composers
from datagen.training.composers._contract import Asked
from datagen.training.losses import Candidates, Contrast, LossSettings
from datagen.training.towers import Encoded, unit

Array = np.ndarray[Any, Any]

#: What of a query a model is trained and asked with.
BOTH, IMAGE, TEXT = "both", "image", "text"
COMBINER = {"op": "combiner", "projection": 1, "hidden": 2, "dropout": 0.1}
RATE, WARMUP = 1e-3, 10
#: Hard negatives of a query: the items nearest to its reference.
NEAR = 8
#: R@1 of queries whose reference is asked for two things or more.
SEVERAL = "R@1, several"


@dataclass(frozen=True)
class Triplets:
    """Queries and their answers. references: rows of the collection, one a query; texts; targets:
    rows of all right answers, of which training draws one at a time.
    """

    references: Sequence[int]
    texts: Sequence[str]
    targets: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.texts)


class Words(nn.Module):  # type: ignore[misc]
    """Texts as the mean of learned vectors of their words and pairs of words, and what a frozen
    model says of them where one is given; words that stand in no training text count for nothing.
    """

    def __init__(
        self, texts: Sequence[str], width: int, frozen: Mapping[str, Array] | None = None
    ) -> None:
        super().__init__()
        known = sorted({piece for text in texts for piece in pieces(text)})
        self.rows = {piece: row for row, piece in enumerate(known, 1)}
        self.bag = nn.EmbeddingBag(len(known) + 1, width, mode="mean", padding_idx=0)
        self.width = width
        self.places = {text: row for row, text in enumerate(frozen or {})}
        vectors = np.stack(list((frozen or {"": np.zeros(width)}).values()))
        self.register_buffer("vectors", torch.from_numpy(vectors).float())

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """The place of each text's frozen vector, and its words."""
        found = [[self.rows[one] for one in pieces(text) if one in self.rows] for text in texts]
        out = torch.zeros(len(texts), 2 + max(map(len, found)), dtype=torch.int64)
        for row, ids in enumerate(found):
            out[row, 0] = self.places[texts[row]] if self.places else 0
            out[row, 1 : 1 + len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return out

    def texts(self, ids: Tensor) -> Encoded:
        return Encoded(unit(self.vectors[ids[:, 0]]) + self.bag(ids[:, 1:]))


def pieces(text: str) -> list[str]:
    """The words of a text, and each two that follow one another."""
    words = re.findall(r"[\w-]+", text.lower())
    return [*words, *(" ".join(two) for two in itertools.pairwise(words))]


class Small(nn.Module):  # type: ignore[misc]
    """Texts, a linear map of kept vectors of items, and a Combiner over both."""

    def __init__(self, side: Any, kind: str) -> None:
        super().__init__()
        self.side, self.kind = side, kind
        self.composer = composers.make(COMBINER, side)
        self.map = nn.Linear(side.width, side.width, bias=False)
        nn.init.eye_(self.map.weight)

    def items(self, vectors: Tensor) -> Tensor:
        """Vectors of items, turned by a learned map that begins as none."""
        return unit(self.map(vectors))

    def forward(self, images: Tensor, ids: Tensor, kind: str) -> Tensor:
        pictured = torch.full((len(ids),), kind != TEXT)
        told = torch.full((len(ids),), kind != IMAGE)
        images = self.items(images) * pictured[:, None]
        return self.composer(self.side, Asked(images, ids, pictured, told))


def trained(
    vectors: Tensor, side: Callable[[], Any], triplets: Triplets, seed: int, steps: int,
    batch: int, kind: str = BOTH,
) -> Small:  # fmt: skip
    """A retriever after ``steps`` batches of ``triplets``; what ``side`` makes of texts is trained
    where it can be."""
    torch.manual_seed(seed)
    model = Small(side(), kind).train()
    contrast = Contrast(LossSettings())
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARMUP) * (1 + np.cos(np.pi * step / steps)) / 2
    )
    draw = np.random.default_rng(seed)
    ids, order = model.side.tokens(triplets.texts), np.empty(0, np.int64)
    batch = min(batch, len(triplets))
    near = nearest(vectors, triplets)
    for _ in range(steps):
        if len(order) < batch:
            order = draw.permutation(len(triplets))
        rows, order = order[:batch], order[batch:]
        references = torch.tensor([triplets.references[row] for row in rows])
        queries = model(vectors[references], ids[torch.from_numpy(rows)], kind)
        given = candidates(vectors, triplets, rows, near, draw)
        lost = contrast(queries, dataclasses.replace(given, vectors=model.items(given.vectors)))
        optimizer.zero_grad()
        lost.total.backward()
        optimizer.step()
        rate.step()
    return model.eval()


def nearest(vectors: Tensor, triplets: Triplets) -> Array:
    """Rows (n, NEAR) of the items nearest to each reference, but for itself."""
    own = torch.tensor(triplets.references)
    scores = vectors[own] @ vectors.T
    scores[torch.arange(len(own)), own] = -2
    found: Array = scores.topk(NEAR).indices.numpy()
    return found


def candidates(
    vectors: Tensor, triplets: Triplets, rows: Array, near: Array, draw: np.random.Generator
) -> Candidates:
    """References, targets and hard negatives of a batch, each item once; an item is named by its
    row plus one. What is right for a query is none of its negatives."""
    answers = [triplets.targets[row] for row in rows]
    references = np.array([triplets.references[row] for row in rows])
    targets = np.array([draw.choice(some) for some in answers])
    hard = near[rows]
    items = np.unique(np.concatenate([references, targets, hard.ravel()]))
    right = torch.zeros(len(rows), max(map(len, answers)), dtype=torch.int64)
    for row, some in enumerate(answers):
        right[row, : len(some)] = torch.tensor(some) + 1
    places_of = [torch.from_numpy(np.searchsorted(items, one))[:, None]
                 for one in (targets, references)]  # fmt: skip
    negatives = torch.from_numpy(np.searchsorted(items, hard))
    ids = torch.from_numpy(items)
    return Candidates(vectors[ids], ids + 1, *places_of, negatives, right)


def asked(model: Small, vectors: Tensor, triplets: Triplets, kind: str = BOTH) -> dict[str, float]:
    """R@1, R@10 and mAP (shares) of ``triplets`` among all items but the reference, and R@1 of
    those whose reference is asked for several things."""
    with torch.inference_mode():
        queries = model(vectors[torch.tensor(triplets.references)],
                        model.side.tokens(triplets.texts), kind)  # fmt: skip
        gallery = model.items(vectors)
    return figures(queries.numpy(), gallery.numpy(), triplets)


def figures(queries: Array, gallery: Array, triplets: Triplets) -> dict[str, float]:
    """The same of vectors of queries."""
    hidden = [[one] for one in triplets.references]
    found = places(queries, gallery, triplets.targets, hidden).targets
    out = {f"R@{k}": metrics.mean(metrics.recall(k), found) for k in (1, 10)}
    out["mAP"] = metrics.mean(metrics.average_precision, found)
    some = [found[row] for row in several(triplets)]
    return out | ({SEVERAL: metrics.mean(metrics.recall(1), some)} if some else {})


def several(triplets: Triplets) -> list[int]:
    """Queries whose reference is asked for two things or more: no picture alone answers all."""
    wanted: dict[int, set[tuple[int, ...]]] = {}
    for reference, answers in zip(triplets.references, triplets.targets, strict=True):
        wanted.setdefault(reference, set()).add(tuple(answers))
    return [row for row, one in enumerate(triplets.references) if len(wanted[one]) > 1]


def summed(
    vectors: Tensor, frozen: Mapping[str, Array], triplets: Triplets, weight: float
) -> dict[str, float]:
    """Figures of an untrained query: the weighted sum of image and text."""
    texts = unit(torch.from_numpy(np.stack([frozen[text] for text in triplets.texts])))
    images = vectors[torch.tensor(triplets.references)]
    return figures(((1 - weight) * images + weight * texts).numpy(), vectors.numpy(), triplets)
