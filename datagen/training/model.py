"""A retriever as a torch module: towers, a composer, and how frames become one vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
    """Images and clips of n rows, frame by frame.

    pixels: uint8 (f, height, width, 3); medium: int64 (f), which medium a frame is of; row: int64
    (m), which row a medium is of; rows: n. Frames stand in the order of their media, and media in
    that of their rows; a row may have none.
    """

    pixels: Tensor
    medium: Tensor
    row: Tensor
    rows: int

    @classmethod
    def of(cls, lists: Sequence[Sequence[Array]], size: tuple[int, int]) -> Pictures:
        """Of the media of each row, as uint8 arrays (frames, height, width, 3).

        size: height and width, of pictures of rows without any.
        """
        media = [medium for row in lists for medium in row]
        counts = torch.tensor([len(medium) for medium in media], dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in lists], dtype=torch.int64)
        pixels = np.concatenate([np.empty((0, *size, 3), np.uint8), *media])
        return cls(
            torch.from_numpy(pixels),
            torch.repeat_interleave(torch.arange(len(counts)), counts),
            torch.repeat_interleave(torch.arange(len(lengths)), lengths),
            len(lists),
        )

    @classmethod
    def padded(cls, pixels: Tensor, there: Tensor) -> Pictures:
        """Of uint8 (n, media, frames, height, width, 3) and bool (n, media, frames): which of
        them are frames, and not padding.
        """
        some = there.any(2)
        media = torch.cumsum(some.flatten(), 0).reshape(some.shape) - 1
        frames = media[:, :, None].expand(there.shape)
        rows = torch.arange(len(there), device=there.device)[:, None].expand(some.shape)
        return cls(pixels[there], frames[there], rows[some], len(there))

    def part(self, start: int, stop: int) -> Pictures:
        """Rows ``start`` to ``stop``."""
        stop = min(stop, self.rows)
        media = (self.row >= start) & (self.row < stop)
        first = int((self.row < start).sum())
        frames = media[self.medium]
        return Pictures(
            self.pixels[frames],
            self.medium[frames] - first,
            self.row[media] - start,
            max(0, stop - start),
        )

    def to(self, device: Any) -> Pictures:
        """The same on a device."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            medium=self.medium.to(device, non_blocking=True),
            row=self.row.to(device, non_blocking=True),
        )


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
            return self._rows(pictures, frames, None)
        told = told.to(frames.device)
        captions = unit(self._texts(ids)) * told[:, None]
        weights = self._weights(pictures, frames, captions)
        found = self._rows(pictures, frames, weights)
        bare = torch.ones(pictures.rows, dtype=torch.bool, device=found.device)
        bare[pictures.row] = False
        return torch.where((bare & told)[:, None], captions, found)

    def captions(self, ids: Tensor) -> Tensor:
        """Vectors (n, d) of length 1 of plain texts."""
        return unit(self._texts(ids))

    def queries(self, pictures: Pictures, ids: Tensor, told: Tensor) -> Tensor:
        """Vectors (n, d) of length 1 of queries: references, tokens of :meth:`tokenize`, and which
        queries have a text.
        """
        encoded = self._images(pictures.pixels, self.composer.wants_tokens)
        frames = unit(encoded.pooled)
        pictured = torch.zeros(pictures.rows, dtype=torch.bool, device=frames.device)
        pictured[pictures.row] = True
        tokens, mask = (
            self._tokens(pictures, encoded) if self.composer.wants_tokens else (None, None)
        )
        asked = Asked(
            self._rows(pictures, frames, None),
            ids.to(frames.device),
            pictured,
            told.to(frames.device),
            tokens,
            mask,
        )
        if not self.fixed:
            return self.composer(self.towers, asked)
        found = [
            self.composer(self.towers, _filled(asked, start, self.fixed))
            for start in range(0, pictures.rows, self.fixed)
        ]
        return torch.cat(found)[: pictures.rows]

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

    def _rows(self, pictures: Pictures, frames: Tensor, weights: Tensor | None) -> Tensor:
        """The mean over a row's media of the mean over their frames, each of length 1."""
        wide = frames if weights is None else frames * weights[:, None]
        media = _mean(wide, pictures.medium, len(pictures.row))
        return _mean(media, pictures.row, pictures.rows)

    def _weights(self, pictures: Pictures, frames: Tensor, captions: Tensor) -> Tensor:
        """A weight for each frame of a medium; all the same where the row has no caption."""
        medium = pictures.medium.to(frames.device)
        row = pictures.row.to(frames.device)
        scores = (frames * captions[row[medium]]).sum(1) / self.temperature
        highest = torch.full((len(row),), -torch.inf, device=frames.device)
        highest = highest.scatter_reduce(0, medium, scores.detach(), "amax")
        return torch.exp(scores - highest[medium])

    def _tokens(self, pictures: Pictures, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Tokens (n, frames x t, width) of all frames of a row, and which of them are there."""
        assert encoded.tokens is not None
        assert encoded.mask is not None
        each = encoded.tokens.shape[1]
        row = pictures.row.to(encoded.tokens.device)[pictures.medium.to(encoded.tokens.device)]
        counts = torch.bincount(row, minlength=pictures.rows)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        most = max(1, int(counts.max())) if len(counts) else 1
        tokens = encoded.tokens.new_zeros(pictures.rows, most, each, encoded.tokens.shape[2])
        mask = encoded.mask.new_zeros(pictures.rows, most, each)
        tokens = tokens.index_put((row, place), encoded.tokens)
        mask = mask.index_put((row, place), encoded.mask)
        return tokens.flatten(1, 2), mask.flatten(1, 2)


def _mean(vectors: Tensor, owner: Tensor, count: int) -> Tensor:
    """The direction (count, d) of the sum of each owner's ``vectors``; zero where it has none."""
    sums = vectors.new_zeros(count, vectors.shape[1])
    return unit(sums.index_add(0, owner.to(vectors.device), vectors))


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
