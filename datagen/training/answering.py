"""A model that answers: media read and decoded ahead of it, vectors out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from datagen import frames, media, preprocess
from datagen.clip import FRAMES
from datagen.errors import DatagenError
from datagen.preprocess import Geometry
from datagen.training.model import Model, Pictures

Array = np.ndarray[Any, Any]
Media = Mapping[str, Any]


class Answering:
    """A :class:`datagen.training.retriever.Retriever` of a model.

    model: in eval mode afterwards; batch_size: rows of every pass of a tower; choice: frames of a
    clip.
    """

    def __init__(self, model: Model, batch_size: int = 64, choice: frames.Choice = 8) -> None:
        self.model = model.eval()
        model.fixed = batch_size
        self.batch_size, self.choice = batch_size, choice

    @property
    def width(self) -> int:
        """How long the vectors are."""
        return int(self.model.towers.width)

    def targets(
        self, media: Sequence[Media | None], texts: Sequence[str | None] | None = None
    ) -> Array:
        """Vectors of a gallery; see :class:`datagen.training.retriever.Retriever`."""
        told = [None] * len(media) if texts is None else list(texts)
        for number, (medium, text) in enumerate(zip(media, told, strict=True)):
            if medium is None and text is None:
                raise DatagenError(f"target {number}: has neither a medium nor a text")
        lists = [[] if medium is None else [medium] for medium in media]
        out = np.zeros((len(media), self.width), np.float32)
        with torch.inference_mode():
            for rows, pictures in self._read(lists):
                texts_of = told[rows]
                there = torch.tensor([text is not None for text in texts_of], dtype=torch.bool)
                ids = None
                if bool(there.any()):
                    ids = self.model.towers.tokenize([text or "" for text in texts_of])
                out[rows] = self.model.targets(pictures, ids, there).cpu().numpy()
        return out

    def queries(self, references: Sequence[Sequence[Media]], texts: Sequence[str | None]) -> Array:
        """Vectors of queries; see :class:`datagen.training.retriever.Retriever`."""
        for number, (some, text) in enumerate(zip(references, texts, strict=True)):
            if not some and text is None:
                raise DatagenError(f"query {number}: has neither a reference nor a text")
        out = np.zeros((len(references), self.width), np.float32)
        with torch.inference_mode():
            for rows, pictures in self._read(references):
                pictured = [bool(some) for some in references[rows]]
                ids, told = self.model.tokenize(texts[rows], pictured)
                out[rows] = self.model.queries(pictures, ids, told).cpu().numpy()
        return out

    def _read(self, lists: Sequence[Sequence[Media]]) -> Iterator[tuple[slice, Pictures]]:
        """``lists`` a batch at a time, the next one decoded while the model has the last."""
        geometry = self.model.towers.geometry
        size = (geometry.height, geometry.width)
        step = self.batch_size
        if any(one.get("modality") == "video" for row in lists for one in row):
            step = max(1, min(step, FRAMES // preprocess.frames_at_most(self.choice)))
        with ThreadPoolExecutor(max(1, min(16, os.cpu_count() or 1))) as pool:
            waiting: deque[tuple[slice, list[list[Future[Array]]]]] = deque()
            try:
                for start in range(0, len(lists), step):
                    rows = slice(start, min(start + step, len(lists)))
                    asked = [
                        [pool.submit(_fitted, one, geometry, self.choice) for one in row]
                        for row in lists[rows]
                    ]
                    waiting.append((rows, asked))
                    if len(waiting) > 1:
                        yield _done(*waiting.popleft(), size)
                while waiting:
                    yield _done(*waiting.popleft(), size)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _fitted(place: Media, geometry: Geometry, choice: frames.Choice) -> Array:
    """Frames of a medium as the model takes them, uint8 (f, height, width, 3). Raises MediaError
    that names the file.
    """
    limits = media.admitted(place)
    try:
        data = media.read(place, limits)
        return np.stack([one for one, _ in frames.fitted(data, geometry.fit, choice, limits)])
    except media.MediaError as error:
        path = str(place.get("path"))
        if path in error.detail:
            raise
        raise media.MediaError(error.rule, f"{path}: {error.detail}") from error


def _done(
    rows: slice, asked: list[list[Future[Array]]], size: tuple[int, int]
) -> tuple[slice, Pictures]:
    return rows, Pictures.of([[one.result() for one in row] for row in asked], size)
