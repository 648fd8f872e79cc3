"""What is trained: a model and a loss on batches of the loader, whole or in chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datagen.errors import DatagenError
from datagen.training import gradient_cache
from datagen.training.losses import Candidates, Contrast, Losses
from datagen.training.model import Model, Pictures, Standing


class _Queries(NamedTuple):
    pictures: Pictures
    ids: Tensor
    told: Tensor
    standing: Standing | None


class Objective(torch.nn.Module):  # type: ignore[misc]
    """The loss of a batch as :mod:`datagen.training.batch` describes it: a dictionary with
    ``pixels``, ``counts``, ``items``, ``references``, ``targets``, ``negatives``, ``target_ids``,
    ``target_vectors``, ``has_vector``, ``texts`` and ``captions``, and what hooks add.
    """

    def __init__(self, model: Model, contrast: Contrast) -> None:
        super().__init__()
        self.model, self.contrast = model, contrast

    def forward(self, batch: Mapping[str, Any], weights: Tensor | None = None) -> Losses:
        """The loss of ``batch``; weights: (B), of its samples."""
        asked, ids, captioned = self._read(batch)
        queries, media = self.model.batch(*asked)
        captions = None if ids is None else self.model.captions(ids)
        return self._lost(batch, queries, media, captions, captioned, weights)

    def cached(
        self,
        batch: Mapping[str, Any],
        size: int,
        weights: Tensor | None = None,
        *,
        scaled: Callable[[Tensor], Tensor] | None = None,
        quiet: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> Losses:
        """The same, ``size`` queries and media at a time, with gradients added to all weights
        (:func:`datagen.training.gradient_cache.step`). References are encoded once as such and
        once as candidates.
        """
        asked, ids, captioned = self._read(batch)
        lists = torch.arange(len(asked.pictures.counts), device=self.model.towers.device)[:, None]
        chunks: list[list[Any]] = [
            [_rows(asked, at, size) for at in range(0, len(asked.ids), size)],
            [asked.pictures.chosen(one) for one in lists.split(size)],
        ]
        encoders: list[Callable[[Any], Tensor]] = [
            lambda one: self.model.queries(*one),
            self.model.targets,
        ]
        if ids is not None:
            chunks.append(list(ids.split(size)))
            encoders.append(self.model.captions)
        kept: list[Losses] = []

        def loss(queries: Tensor, media: Tensor, captions: Tensor | None = None) -> Tensor:
            kept.append(self._lost(batch, queries, media, captions, captioned, weights))
            return kept[-1].total

        total = gradient_cache.step(encoders, chunks, loss, scaled=scaled, quiet=quiet)
        return Losses(total, kept[-1].each, kept[-1].parts)

    def _read(self, batch: Mapping[str, Any]) -> tuple[_Queries, Tensor | None, Tensor]:
        """What queries are made of, tokens of captions where the loss wants them, and bool (B),
        which samples have one."""
        at = self.model.towers.device
        pictures = Pictures(batch["pixels"], batch["counts"], batch["references"]).to(at)
        pictured = (pictures.lists >= 0).any(1)
        standing = None
        if "reference_vectors" in batch:
            there = batch["has_reference"].to(at)
            standing = Standing(batch["reference_vectors"].to(at), there, batch.get("slots"))
            pictured = pictured | there
        ids, told = self.model.tokenize(batch["texts"], pictured)
        ids = batch.get("ids", ids)
        captioned = torch.tensor([text is not None for text in batch["captions"]], device=at)
        captions = None
        if self.contrast.settings.caption and bool(captioned.any()):
            captions = self.model.towers.tokenize([text or "" for text in batch["captions"]])
        return _Queries(pictures, ids, told, standing), captions, captioned

    def _lost(
        self,
        batch: Mapping[str, Any],
        queries: Tensor,
        media: Tensor,
        captions: Tensor | None,
        captioned: Tensor,
        weights: Tensor | None,
    ) -> Losses:
        given = candidates(batch, media)
        weights = None if weights is None else weights.to(queries.device)
        found: Losses = self.contrast(queries, given, weights, captions, captioned)
        return found


def candidates(batch: Mapping[str, Any], media: Tensor) -> Candidates:
    """What the queries of ``batch`` are compared with: its media, of vectors (m, d), and the
    vectors that stand for targets.
    """
    at = media.device
    targets, ids = batch["targets"].to(at), batch["items"].to(at)
    right = batch["target_ids"].to(at)
    there = batch["has_vector"].to(at)
    vectors = media
    if "given" in batch:
        vectors = torch.cat([media.float(), batch["given"].to(at).float()])
        ids = torch.cat([ids, batch["given_items"].to(at)])
    if bool(there.any()):
        rows = there.nonzero()[:, 0]
        if batch["target_vectors"].shape[1] != media.shape[1]:
            raise DatagenError(
                f"target vectors of {batch['target_vectors'].shape[1]} numbers, the model's have "
                f"{media.shape[1]}; train the model that they are of, or on other runs"
            )
        given = torch.nn.functional.normalize(batch["target_vectors"].to(at)[rows].float(), dim=-1)
        before = len(vectors)
        vectors = torch.cat([vectors.float(), given])
        number = torch.full((len(targets), 1), -1, device=at)
        number[rows, 0] = torch.arange(len(rows), device=at) + before
        targets = torch.cat([targets, number], dim=1)
        # It stands for the first target.
        own = right[rows, 0] if right.shape[1] else torch.zeros_like(rows)
        ids = torch.cat([ids, own])
    return Candidates(
        vectors, ids, targets, batch["references"].to(at), batch["negatives"].to(at), right
    )


def _rows(asked: _Queries, at: int, size: int) -> _Queries:
    part = slice(at, at + size)
    lists = asked.pictures.lists[part]
    standing = None if asked.standing is None else asked.standing.rows(part)
    return _Queries(asked.pictures.chosen(lists), asked.ids[part], asked.told[part], standing)
