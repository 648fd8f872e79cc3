"""Frames of clips at given times, decoded by PyAV with limits first; an image is its one frame."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import av
from PIL import Image

from datagen import containers, media
from datagen.containers import VIDEO_FORMATS, MediaError
from datagen.media import DEFAULT, Limits

#: Which frames of a clip: so many at even distances (the middles of equal parts), the first, the
#: middle one, key frames (eight at most, at even distances), or those shown at given seconds.
Choice = int | Literal["first", "middle", "key"] | tuple[float, ...]


class Frame(NamedTuple):
    """One picture of a clip, upright, RGB; ``seconds`` is its time from the clip's beginning."""

    image: Image.Image
    seconds: float


def of(place: Mapping[str, Any], choice: Choice = 8, limits: Limits = DEFAULT) -> list[Frame]:
    """Read the image or clip that ``place`` (schema.MEDIA) refers to. Raises MediaError."""
    return sample(media.read(place, limits), choice, limits)


def sample(data: bytes, choice: Choice = 8, limits: Limits = DEFAULT) -> list[Frame]:
    """The frames ``choice`` of a clip, in the order of time; an image gives itself.

    A clip with fewer frames than asked for gives each of them as often as needed, so that the
    number is always the one that was asked for (key frames: as many as there are).
    Raises MediaError.
    """
    name = containers.sniff(data)
    if name not in VIDEO_FORMATS:
        return [Frame(media.decode(data, limits=limits), 0.0)]
    try:
        with av.open(io.BytesIO(data), "r", format=VIDEO_FORMATS[name]) as container:
            pictures = list(container.decode(video=0))
    except Exception as error:
        raise MediaError("corrupt", f"{name}: {error}") from error
    if not pictures:
        raise MediaError("corrupt", f"a {name} container without a frame that can be decoded")
    start = float(pictures[0].time or 0.0)
    times = [float(picture.time or 0.0) - start for picture in pictures]
    keys = [at for at, picture in enumerate(pictures) if picture.key_frame]
    return [
        Frame(pictures[at].to_image().rotate(pictures[at].rotation, expand=True), times[at])
        for at in _chosen(choice, times, keys)
    ]


def _chosen(choice: Choice, times: Sequence[float], keys: Sequence[int]) -> list[int]:
    count = len(times)
    if choice == "first":
        return [0]
    if choice == "middle":
        return [count // 2]
    if choice == "key":
        return list(keys)[:8] or [0]
    if isinstance(choice, int):
        return [min(count - 1, int((part + 0.5) * count / choice)) for part in range(choice)]
    assert isinstance(choice, tuple)
    return [
        max([at for at in range(count) if times[at] <= wanted + 1e-6] or [0]) for wanted in choice
    ]
