"""Batches: what the loader gives, as dictionaries of tensors.

========================  ================================================================
``pixels``                uint8 (P, height, width, 3): the pictures of all media, one after another
``counts``                int64 (N): how many pictures each medium has; clips have several
``items``                 int64 (N): a number for each medium's item, equal for equal items
``references``            int64 (B, R): numbers of media, -1 where there is none
``targets``               int64 (B, T), the same
``negatives``             int64 (B, K), the same
``target_ids``            int64 (B, T): numbers of the targets' items as in ``items``, 0 for none
``target_vectors``        float32 (B, D): vectors that stand for targets, zeros where there is none;
                          D is 0 where no sample has one
``has_vector``            bool (B)
``kinds``                 int64 (B): what the query is made of, places in :data:`KINDS`
``runs``                  int64 (B): which run a sample is of, places in ``names``
``places``                int64 (B): the sample's place in the epoch
``texts``                 B texts of queries; None for an image-only query
``captions``              B captions of the (first) target, None where there is none
``reference_captions``    the same of the (first) reference
``keys``, ``pairs``       B ids of triplets and of pairs
``json``                  B dictionaries of the fields asked for by ``keep``
``names``                 names of the runs
========================  ================================================================

Hooks of a training may add to them:

========================  ================================================================
``weights``               float32 (B): of the samples
``reference_vectors``     float32 (B, d): vectors that stand for references
``has_reference``         bool (B): which samples have one
``ids``, ``slots``        int64 and bool (B, length): tokens instead of those of ``texts``, and
                          where a reference's word stands among them
``given``, ``given_items``  float32 (V, d), int64 (V): vectors that candidates are besides media,
                          numbered on from these, and their items
========================  ================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from datagen.errors import DatagenError
from datagen.libraries import import_torch
from datagen.preprocess import Geometry
from datagen.training.samples import Chunk, Sample, number_of

Array = np.ndarray[Any, Any]
Batch = dict[str, Any]
Role = Literal["references", "targets", "negatives"]

ROLES: tuple[Role, ...] = ("references", "targets", "negatives")
_LISTS = ("texts", "captions", "reference_captions", "keys", "pairs", "json")


def packed(chunk: Chunk, geometry: Geometry) -> Batch:
    """A chunk as a batch of its own, without ``names``."""
    torch = import_torch()
    samples, shape = chunk.samples, (0, geometry.height, geometry.width, 3)
    pixels = np.concatenate([np.zeros(shape, np.uint8), *chunk.pictures])
    vectors, there = _vectors(samples)
    arrays: dict[str, Array] = {
        "pixels": pixels,
        "counts": np.asarray([len(one) for one in chunk.pictures], np.int64),
        "items": np.asarray([number_of(item) for item in chunk.items], np.int64),
        **{role: _padded([getattr(one, role) for one in samples], -1) for role in ROLES},
        "target_ids": _padded([list(map(number_of, one.target_ids)) for one in samples], 0),
        "target_vectors": vectors,
        "has_vector": there,
        "kinds": np.asarray([one.kind for one in samples], np.int64),
        "runs": np.asarray([one.run for one in samples], np.int64),
        "places": np.asarray([one.place for one in samples], np.int64),
    }
    lists = {
        "texts": [one.text for one in samples],
        "captions": [one.caption for one in samples],
        "reference_captions": [one.reference_caption for one in samples],
        "keys": [one.key for one in samples],
        "pairs": [one.pair for one in samples],
        "json": [one.json for one in samples],
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | lists


def _padded(lists: Sequence[Sequence[int]], none: int) -> Array:
    out = np.full((len(lists), max(map(len, lists), default=0)), none, np.int64)
    for row, numbers in zip(out, lists, strict=True):
        row[: len(numbers)] = numbers
    return out


def _vectors(samples: Sequence[Sample]) -> tuple[Array, Array]:
    there = np.asarray([one.vector is not None for one in samples], np.bool_)
    width = max((len(one.vector) for one in samples if one.vector is not None), default=0)
    _alike(len(one.vector) for one in samples if one.vector is not None)
    out = np.zeros((len(samples), width), np.float32)
    for row, one in zip(out, samples, strict=True):
        if one.vector is not None:
            row[: len(one.vector)] = one.vector
    return out, there


def _alike(widths: Iterable[int]) -> None:
    """Raise DatagenError for vectors that cannot stand in one batch."""
    found = sorted(set(widths) - {0})
    if len(found) > 1:
        raise DatagenError(
            f"target vectors of {' and '.join(map(str, found))} numbers in one batch; train on "
            "runs whose vectors are of one model"
        )


def joined(chunks: Sequence[Batch], pin: bool = False) -> Batch:
    """Several chunks as one batch: numbers of media count on, lists are padded alike.

    pin: into page-locked memory, which a GPU copies from beside its work, where there is one.
    """
    torch = import_torch()
    pin = pin and torch.cuda.is_available()
    out: Batch = {}
    before = np.cumsum([0, *(len(one["counts"]) for one in chunks)])
    for name in chunks[0]:
        parts = [one[name] for one in chunks]
        if name in _LISTS:
            out[name] = [value for part in parts for value in part]
            continue
        if name in ROLES:
            parts = [
                torch.where(part >= 0, part + int(first), part)
                for part, first in zip(parts, before[:-1], strict=True)
            ]
        if parts[0].ndim == 2:
            none = -1 if name in ROLES else 0
            if name == "target_vectors":
                _alike(part.shape[1] for part in parts)
            width = max(part.shape[1] for part in parts)
            parts = [
                torch.nn.functional.pad(part, (0, width - part.shape[1]), value=none)
                for part in parts
            ]
        if len(parts) > 1 or pin:
            size = (sum(len(part) for part in parts), *parts[0].shape[1:])
            whole = torch.empty(size, dtype=parts[0].dtype, pin_memory=pin)
            out[name] = torch.cat(parts, out=whole)
        else:
            out[name] = parts[0]
    return out


def without(batch: Mapping[str, Any], *parts: Role | Literal["media"]) -> Batch:
    """The batch with nobody in some roles, and without pictures where ``media`` is one of them."""
    out = dict(batch)
    for part in parts:
        for name in ("pixels", "counts", "items") if part == "media" else (part,):
            out[name] = batch[name][:0] if part == "media" else batch[name][:, :0]
    return out


def padded(batch: Mapping[str, Any], role: Role) -> tuple[Any, Any]:
    """The pictures of a role, sample by sample, and which of them are there.

    Returns uint8 (B, n, F, height, width, 3), zeros where there is nothing, and bool (B, n, F):
    n media a sample, F pictures a medium, at most. Media that several samples share are copied.
    """
    torch = import_torch()
    numbers, counts, pixels = batch[role], batch["counts"], batch["pixels"]
    frames = int(counts.max()) if len(counts) else 1
    if not len(counts):
        shape = (*numbers.shape, frames)
        mask = torch.zeros(shape, dtype=torch.bool, device=numbers.device)
        return pixels.new_zeros((*shape, *pixels.shape[1:])), mask
    starts = counts.cumsum(0) - counts
    steps = torch.arange(frames, device=numbers.device)
    chosen = numbers.clamp(min=0)
    mask = (numbers >= 0).unsqueeze(-1) & (steps < counts[chosen].unsqueeze(-1))
    at = torch.where(mask, starts[chosen].unsqueeze(-1) + steps, 0)
    found = pixels[at]
    return found * mask.view(*mask.shape, 1, 1, 1), mask


def normalised(pixels: Any, geometry: Geometry) -> Any:
    """float32 (n, 3, height, width) of uint8 (n, height, width, 3), on the same device: the second
    half of a CLIP model's preprocessing, as open_clip has it, bit for bit."""
    torch = import_torch()
    values = pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
    for numbers, change in ((geometry.mean, "sub_"), (geometry.std, "div_")):
        getattr(values, change)(torch.tensor(numbers, device=values.device).view(1, 3, 1, 1))
    return values


def moved(batch: Mapping[str, Any], device: str) -> Batch:
    """The batch with its tensors on ``device``; copies from pinned memory do not wait."""
    torch = import_torch()
    return {
        name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
        for name, value in batch.items()
    }
