"""Texts instead of pictures: queries and targets that are made of captions alone.

Masked: LinCIR (Gu et al. 2024, arXiv:2312.01998), self-masking projection: a caption whose
keywords are replaced by a word made of the caption's own vector, with noise, is to have the vector
that the caption has. Captions: RTD (Byun et al. 2024, arXiv:2406.09188), the reference's caption
and the text are to find the target's caption, whose vector the text tower gave before training.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datagen.errors import DatagenError
from datagen.training.batch import Batch, without
from datagen.training.composers.inversion import Inversion
from datagen.training.hooks import Hook, Parts
from datagen.training.query_settings import CaptionSettings, MaskedSettings
from datagen.training.samples import COMPOSED, IMAGE_ONLY, number_of
from datagen.training.towers import Towers, unit

_WORD = re.compile(r"\w[\w'’-]*")


class _Captions(Hook):
    """What both have in common: vectors of captions as the text tower gives them before it is
    trained, and no pictures."""

    def __init__(self, noise: float, parts: Parts) -> None:
        self.noise, self.parts = noise, parts
        if parts.settings.loader.media:
            raise DatagenError("queries: made of captions alone; set loader.media=false")
        self.towers = _still(parts.model.towers)

    def _vectors(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (n, d) of captions, without a gradient."""
        size = self.parts.settings.chunk or max(1, len(captions))
        with torch.no_grad(), self.parts.cast():
            ids = self.towers.tokenize(list(captions))
            parts = [unit(self.towers.texts(one).pooled) for one in ids.split(size)]
        return torch.cat(parts)

    def _moved(self, vectors: Tensor) -> Tensor:
        """``vectors`` (n, d) moved by random ones, of length 1 again: a normal one, of length 1
        on average, times the noise, times a share from 0 to 1 of each row's own."""
        share = torch.rand(len(vectors), 1)
        moved = self.noise * share * torch.randn(vectors.shape) / vectors.shape[1] ** 0.5
        return unit(vectors + moved.to(vectors.device))

    def _batch(self, batch: Batch, targets: Sequence[str], vectors: Tensor, **more: Any) -> Batch:
        """The batch with texts alone: ``vectors`` (n, d) are its candidates, the first ones those
        of the targets, whose captions are ``targets``."""
        numbers = torch.tensor([number_of(caption) for caption in targets])
        return {
            **without(batch, "references", "targets", "negatives", "media"),
            "targets": torch.arange(len(targets))[:, None],
            "target_ids": numbers[:, None],
            "target_vectors": torch.zeros(len(targets), 0),
            "has_vector": torch.zeros(len(targets), dtype=torch.bool),
            "given": vectors,
            "given_items": numbers,
            **more,
        }


class Masked(_Captions):
    """Captions with their keywords replaced, to be what they were."""

    def __init__(self, settings: MaskedSettings, parts: Parts) -> None:
        super().__init__(settings.noise, parts)
        composer = parts.model.composer
        if not isinstance(composer, Inversion) or composer.settings.words != 1:
            raise DatagenError(
                "queries: masked keywords become one word each; set composer={op: inversion}"
            )
        self.composer = composer
        self.keep = _functional() if settings.keep is None else frozenset(settings.keep)

    def batch(self, batch: Batch) -> Batch:
        captions = [caption or "" for caption in batch["captions"]]
        vectors = self._vectors(captions)
        split = [around(caption, self.keep) for caption in captions]
        ids, slots = self.composer.masked(self.parts.model.towers, split)
        standing = {
            "reference_vectors": self._moved(vectors),
            "has_reference": slots.any(1),
            "ids": ids,
            "slots": slots,
        }
        return self._batch(batch, captions, vectors, texts=captions, **standing)


class Captions(_Captions):
    """Triplets of a reference's caption, a text, and a target's caption."""

    def __init__(self, settings: CaptionSettings, parts: Parts) -> None:
        super().__init__(settings.noise, parts)
        self.settings = settings
        composer = parts.model.composer
        if composer.wants_tokens:
            raise DatagenError(
                f"queries: composer {parts.model.op} reads the tokens of pictures, and captions "
                "have none; choose inversion, combiner or sum"
            )

    def batch(self, batch: Batch) -> Batch:
        targets = [caption or "" for caption in batch["captions"]]
        references = [caption or "" for caption in batch["reference_captions"]]
        vectors = self._vectors([*targets, *references])
        count = len(targets)
        # A query of a text or a caption alone has no reference, though this one is known.
        kinds = batch["kinds"]
        there = torch.tensor([bool(caption) for caption in references])
        standing = {
            "reference_vectors": self._moved(vectors[count:]),
            "has_reference": there & ((kinds == COMPOSED) | (kinds == IMAGE_ONLY)),
        }
        if not self.settings.negatives:
            return self._batch(batch, targets, vectors[:count], **standing)
        out = self._batch(batch, targets, vectors, **standing)
        numbers = torch.tensor([number_of(caption) for caption in references])
        out["given_items"] = torch.cat([out["given_items"], numbers])
        own = torch.where(there, torch.arange(count) + count, -1)
        return {**out, "negatives": own[:, None]}


def around(caption: str, keep: frozenset[str]) -> list[str]:
    """What stands around the keywords of a caption: between two parts stood some.

    Keywords are words that are not in ``keep``, as many as follow one another at once. A caption
    without any is one part.
    """
    parts, begin, last = [], 0, None
    for found in _WORD.finditer(caption):
        if found[0].lower() in keep or found[0].isdigit():
            last = None
            continue
        if last is None:
            parts.append(caption[begin : found.start()])
        elif caption[last : found.start()].strip():
            # A comma or the like between two keywords parts them.
            parts.append(caption[last : found.start()])
        begin = last = found.end()
    return [*parts, caption[begin:]]


def _functional() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


def _still(towers: Towers) -> Towers:
    """The towers as they are, however these are trained; what is frozen is shared."""
    frozen = {id(one): one for one in towers.parameters() if not one.requires_grad}
    if len(frozen) == len(list(towers.parameters())):
        return towers
    out: Towers = copy.deepcopy(towers, frozen)
    out.eval().requires_grad_(False)
    return out
