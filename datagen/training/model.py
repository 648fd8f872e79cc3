"""A retriever as a torch module: towers, a composer, and how frames become one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from datagen.training.composers._contract import Asked, Composer
from datagen.training.towers import Encoded, Towers, unit

Array = np.ndarray[Any, Any]

#: Of the weights of a clip's frames, cosines (CLIP-Hitchhiker, arXiv:2205.08508).
TEMPERATURE = 0.1


@dataclass(frozen=True)
class Pictures:
    """Images and clips, and which of them are whose.

    pixels: uint8 (f, height, width, 3), the frames of all media, one medium after another; counts:
    int64 (m), how many of them each medium has; lists: int64 (n, r), numbers of the media of each
    row, -1 where there is none.
    """

    pixels: Tensor
    counts: Tensor
    lists: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[Array]], size: tuple[int, int]) -> Pictures:
        """Of the media of each row, as uint8 arrays (frames, height, width, 3).

        size: height and width, for rows without any.
        """
        media = [medium for row in rows for medium in row]
        lists = torch.full((len(rows), max((len(row) for row in rows), default=0)), -1)
        number = 0
        for place, row in enumerate(rows):
            lists[place, : len(row)] = torch.arange(number, number + len(row))
            number += len(row)
        pixels = np.concatenate([np.empty((0, *size, 3), np.uint8), *media])
        counts = torch.tensor([len(medium) for medium in media], dtype=torch.int64)
        return cls(torch.from_numpy(pixels), counts, lists)

    def frames(self) -> tuple[Tensor, Tensor]:
        """Numbers (n, r x F) of the frames of each row, F the most of a medium, and which of them
        are there.
        """
        most = int(self.counts.max()) if len(self.counts) else 1
        if not len(self.counts):
            none = self.lists.new_zeros(len(self.lists), self.lists.shape[1] * most)
            return none, none.bool()
        chosen = self.lists.clamp(min=0)
        steps = torch.arange(most, device=self.lists.device)
        starts = self.counts.cumsum(0) - self.counts
        there = (self.lists >= 0)[..., None] & (steps < self.counts[chosen][..., None])
        at = torch.where(there, starts[chosen][..., None] + steps, 0)
        return at.flatten(1), there.flatten(1)

    def chosen(self, lists: Tensor) -> Pictures:
        """The media that ``lists`` name and no others, numbered anew."""
        wanted = torch.unique(lists[lists >= 0])
        numbers = torch.full((len(self.counts) + 1,), -1, device=lists.device)
        numbers[wanted] = torch.arange(len(wanted), device=lists.device)
        keep = torch.zeros(len(self.counts), dtype=torch.bool, device=lists.device)
        keep[wanted] = True
        pixels = self.pixels[torch.repeat_interleave(keep, self.counts)]
        # The last number is that of no medium.
        return Pictures(pixels, self.counts[wanted], numbers[lists])

    def to(self, device: Any) -> Pictures:
        """The same on a device."""
        parts = (self.pixels, self.counts, self.lists)
        return Pictures(*(one.to(device, non_blocking=True) for one in parts))


class Standing(NamedTuple):
    """Vectors that stand for the references of n queries.

    vectors: (n, d) of length 1; there: bool (n), which queries have one; slots: bool (n, length),
    where their words stand in the texts, as composers of words may be told.
    """

    vectors: Tensor
    there: Tensor
    slots: Tensor | None = None

    def rows(self, part: slice) -> Standing:
        """Those of some queries."""
        slots = None if self.slots is None else self.slots[part]
        return Standing(self.vectors[part], self.there[part], slots)


class Model(nn.Module):  # type: ignore[misc]
    """Towers and a composer.

    op: the composer's name. fixed: where set, every pass of a tower has so many rows, filled up
    with zeros: the kernels, and so the vector of a row, are then the same whatever stands beside
    it. For answering, not for training.
    """

    def __init__(self, towers: Towers, composer: Composer[Any], op: str = "sum") -> None:
        super().__init__()
        self.towers, self.composer, self.op = towers, composer, op
        self.temperature = TEMPERATURE
        self.fixed: int | None = None

    def tokenize(
        self, texts: Sequence[str | None], pictured: Sequence[bool] | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Token ids (n, length) of queries' texts as the composer reads them, and bool (n), which
        queries have a text. pictured: which have references.
        """
        read = [
            self.composer.prompt(text, bool(there))
            for text, there in zip(texts, pictured, strict=True)
        ]
        told = torch.tensor([text is not None for text in texts], dtype=torch.bool)
        return self.towers.tokenize(read), told

    def targets(
        self, pictures: Pictures, ids: Tensor | None = None, told: Tensor | None = None
    ) -> Tensor:
        """Vectors (n, d) of length 1 of rows of images and clips.

        ids: tokens (n, length) of captions; told: bool (n), which rows have one. A row without
        pictures is its caption, and the frames of a clip are weighted by how near each is to it.
        """
        frames = unit(self._images(pictures.pixels, tokens=False).pooled)
        if ids is None or told is None or not bool(told.any()):
            return self._rows(pictures, self._media(pictures, frames))
        told = told.to(frames.device)
        captions = self.captions(ids) * told[:, None]
        found = self._weighted(pictures, frames, captions)
        bare = (pictures.lists < 0).all(1).to(found.device)
        return torch.where((bare & told)[:, None], captions, found)

    def captions(self, ids: Tensor) -> Tensor:
        """Vectors (n, d) of length 1 of plain texts."""
        return unit(self._texts(ids))

    def train(self, mode: bool = True) -> Model:
        """As of any module, but that a composer whose weights are frozen stays as it answers."""
        super().train(mode)
        own = list(self.composer.parameters())
        if mode and own and not any(one.requires_grad for one in own):
            self.composer.eval()
        return self

    def queries(
        self, pictures: Pictures, ids: Tensor, told: Tensor, standing: Standing | None = None
    ) -> Tensor:
        """Vectors (n, d) of length 1 of queries: references, tokens of :meth:`tokenize`, and which
        queries have a text.
        """
        encoded = self._images(pictures.pixels, self.composer.wants_tokens)
        media = self._media(pictures, unit(encoded.pooled))
        return self._composed(pictures, encoded, media, ids, told, standing)

    def batch(
        self, pictures: Pictures, ids: Tensor, told: Tensor, standing: Standing | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors (n, d) of queries, and (m, d) of all media, of length 1; each medium is encoded
        once. ``pictures.lists`` are the references.
        """
        references = torch.zeros(len(pictures.counts), dtype=torch.bool)
        references[pictures.lists[pictures.lists >= 0].cpu()] = True
        if not self.composer.wants_tokens or bool(references.all()):
            encoded = self._images(pictures.pixels, self.composer.wants_tokens)
            media = self._media(pictures, unit(encoded.pooled))
            return self._composed(pictures, encoded, media, ids, told, standing), media
        # Tokens of references alone: those of all media would fill the memory.
        asked = pictures.chosen(pictures.lists)
        rest = (~references).nonzero()[:, 0][:, None].to(pictures.lists.device)
        others = pictures.chosen(rest)
        encoded = self._images(asked.pixels, True)
        own = self._media(asked, unit(encoded.pooled))
        found = self._media(others, unit(self._images(others.pixels, False).pooled))
        media = own.new_zeros(len(references), own.shape[1])
        places = references.to(own.device)
        media = media.masked_scatter(places[:, None], own)
        media = media.masked_scatter(~places[:, None], found)
        return self._composed(asked, encoded, own, ids, told, standing), media

    def _composed(
        self,
        pictures: Pictures,
        encoded: Encoded,
        media: Tensor,
        ids: Tensor,
        told: Tensor,
        standing: Standing | None = None,
    ) -> Tensor:
        pictured = (pictures.lists >= 0).any(1).to(media.device)
        tokens, mask = None, None
        if self.composer.wants_tokens:
            tokens, mask = _tokens(pictures, encoded)
        rows = self._rows(pictures, media)
        slots = None
        if standing is not None:
            there, slots = standing.there.to(media.device), standing.slots
            rows = torch.where(there[:, None], standing.vectors.to(rows), rows)
            pictured = pictured | there
        told = told.to(media.device)
        asked = Asked(rows, ids.to(media.device), pictured, told, tokens, mask, slots)
        if not self.fixed or not len(rows):
            return self.composer(self.towers, asked)
        found = [
            self.composer(self.towers, _filled(asked, start, self.fixed))
            for start in range(0, len(rows), self.fixed)
        ]
        return torch.cat(found)[: len(rows)]

    def _images(self, pixels: Tensor, tokens: bool) -> Encoded:
        if not len(pixels):
            width = self.towers.image_width
            at = {"device": self.towers.device}
            none = torch.zeros(0, 1, width, **at) if tokens else None
            mask = torch.zeros(0, 1, dtype=torch.bool, **at) if tokens else None
            return Encoded(torch.zeros(0, self.towers.width, **at), none, mask)
        if not self.fixed:
            return self.towers.images(pixels, tokens)
        passes = [self.towers.images(one, tokens) for one in _full(pixels, self.fixed)]
        parts = zip(*passes, strict=True)
        return Encoded(*(None if p[0] is None else torch.cat(p)[: len(pixels)] for p in parts))

    def _texts(self, ids: Tensor) -> Tensor:
        if not self.fixed:
            return self.towers.texts(ids).pooled
        found = [self.towers.texts(one).pooled for one in _full(ids, self.fixed)]
        return torch.cat(found)[: len(ids)]

    def _media(self, pictures: Pictures, frames: Tensor) -> Tensor:
        """The direction (m, d) of the mean of each medium's frames."""
        counts = pictures.counts.to(frames.device)
        owner = torch.repeat_interleave(torch.arange(len(counts), device=frames.device), counts)
        sums = frames.new_zeros(len(counts), frames.shape[1])
        return unit(sums.index_add(0, owner, frames))

    def _rows(self, pictures: Pictures, media: Tensor) -> Tensor:
        """The direction (n, d) of the mean of each row's media; zero where it has none."""
        lists = pictures.lists.to(media.device)
        if not len(media):
            return media.new_zeros(len(lists), media.shape[1])
        return unit((media[lists.clamp(min=0)] * (lists >= 0)[..., None]).sum(1))

    def _weighted(self, pictures: Pictures, frames: Tensor, captions: Tensor) -> Tensor:
        """The mean of a row's frames, by how near each is to the row's caption, of those of its
        medium; without a caption (zero) all weigh the same.
        """
        lists = pictures.lists.to(frames.device)
        at, there = (one.to(frames.device) for one in pictures.frames())
        if not len(frames):
            return captions.new_zeros(captions.shape)
        shape = (*lists.shape, -1)
        scores = (frames[at] * captions[:, None]).sum(-1) / self.temperature
        shares = scores.masked_fill(~there, -1e9).reshape(shape).softmax(-1).flatten(1)
        wide = frames[at] * (shares * there)[..., None]
        media = unit(wide.reshape(*shape, frames.shape[1]).sum(2))
        return unit((media * (lists >= 0)[..., None]).sum(1))


def _tokens(pictures: Pictures, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Tokens (n, frames x t, width) of all frames of a row, and which of them are there."""
    assert encoded.tokens is not None
    assert encoded.mask is not None
    at, there = (one.to(encoded.tokens.device) for one in pictures.frames())
    if not len(encoded.tokens) or not at.shape[1]:
        shape = (len(at), 1, encoded.tokens.shape[2])
        return encoded.tokens.new_zeros(shape), encoded.mask.new_zeros(shape[:2])
    mask = encoded.mask[at] & there[..., None]
    return encoded.tokens[at].flatten(1, 2), mask.flatten(1, 2)


def _full(rows: Tensor, size: int) -> list[Tensor]:
    """``rows``, so many at a time, the last filled up with zeros."""
    parts = list(rows.split(size))
    missing = size - len(parts[-1])
    if missing:
        parts[-1] = torch.cat([parts[-1], parts[-1].new_zeros(missing, *rows.shape[1:])])
    return parts


def _filled(asked: Asked, start: int, size: int) -> Asked:
    values = (None if one is None else _full(one[start : start + size], size)[0] for one in asked)
    return Asked(*values)
