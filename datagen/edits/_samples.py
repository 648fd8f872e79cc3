"""One picture to be painted, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from datagen import schema
from datagen.ingest import clean_caption

Array = np.ndarray[Any, Any]
#: A number, or the ends of a range that every sample draws its own number from.
Range = float | tuple[float, float]
#: A picture of which no value (0 to 1) reaches this is black.
_BLACK = 0.01
#: Digits of a number that is drawn.
_DIGITS = 4


@dataclass(frozen=True)
class Sample:
    """One picture, or pair of pictures, to be painted.

    row: the columns that the operator reads, and ``picture``, the decoded reference, where it
    ``reads_picture``; number: of this row, from 0; seed: 0 to 2^63 - 1; drawn: a number for each
    of the operator's ``ranges``.
    """

    row: Mapping[str, Any]
    number: int
    seed: int
    drawn: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Painted:
    """What came of a sample: float arrays (height, width, 3), 0 to 1, of what was painted.

    unsafe: what a pipeline's safety checker says; note: more that the sample's record shall tell;
    fault: rule and detail of a sample that could not be painted.
    """

    target: Array | None = None
    reference: Array | None = None
    unsafe: bool = False
    note: Mapping[str, Any] = field(default_factory=dict)
    fault: tuple[str, str] | None = None


def drawn(wanted: Range, key: Sequence[str]) -> float:
    """A number of a range, by its key."""
    if not isinstance(wanted, (tuple, list)):
        return float(wanted)
    low, high = wanted
    share: float = int(schema.content_id(*key)[:13], 16) / 16**13
    return round(low + (high - low) * share, _DIGITS)


def caption_of(row: Mapping[str, Any], side: str) -> str | None:
    """The caption of the first member of a row; of an item its own."""
    if side in row:
        members = row[side] or []
        return (members[0]["caption"] or None) if members else None
    captions = row.get("captions") or []
    return clean_caption(captions[0]) or None if captions else None


def new_member(media: Mapping[str, Any], caption: str | None) -> dict[str, Any]:
    """A member that is a new item: it has no id yet."""
    none = dict.fromkeys(one.name for one in schema.MEMBER)
    return none | {"media": dict(media), "caption": caption}


def as_image(pixels: Array) -> Image.Image:
    """A picture of floats from 0 to 1."""
    return Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8), "RGB")


def fault_of(painted: Painted) -> tuple[str, str] | None:
    """What is wrong with what was painted."""
    if painted.unsafe:
        return "unsafe_picture", "the pipeline's safety checker says so"
    for side, pixels in (("reference", painted.reference), ("target", painted.target)):
        if pixels is None:
            continue
        if not np.isfinite(pixels).all():
            return "not_finite", f"the {side} has numbers that are none; try another precision"
        if pixels.max() < _BLACK:
            return "black_picture", f"the {side} is black"
    return None
