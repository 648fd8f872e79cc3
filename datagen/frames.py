"""Frames of clips at given times; an image is its one frame.

Frames are chosen by time, never by their place in a list: a frame is shown from its time to that
of the next one, and the frame "at" a time is the one shown then. Only what a wanted frame needs
is decoded, from the key frame before it, and only wanted frames become pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal, NamedTuple, TypeVar

from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from datagen import containers, demux, media
from datagen.containers import VIDEO_FORMATS, MediaError
from datagen.demux import Clip, Timeline
from datagen.media import DEFAULT, Limits

#: Which frames of a clip: so many at even distances (shown at the middles of so many equal parts
#: of its duration), the first, the middle one, key frames (eight at most, at even distances), or
#: those shown at given seconds.
Choice = int | Literal["first", "middle", "key"] | tuple[float, ...]

KEYS = 8

T = TypeVar("T")

#: Exact arithmetic: the same pixels on every machine. Colours between their samples are
#: interpolated linearly, as JPEG decoders do.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class Frame(NamedTuple):
    """One picture of a clip, upright, RGB; ``seconds`` is its time from the clip's beginning."""

    image: Image.Image
    seconds: float


def of(place: Mapping[str, Any], choice: Choice = 8, limits: Limits = DEFAULT) -> list[Frame]:
    """Read the image or clip that ``place`` (schema.MEDIA) refers to. Raises MediaError."""
    return sample(media.read(place, limits), choice, limits)


def sample(data: bytes, choice: Choice = 8, limits: Limits = DEFAULT) -> list[Frame]:
    """The frames ``choice`` of a clip; an image gives itself, once.

    Frames stand in the order of time, or of the seconds that were given; seconds before the
    first frame or after the end give the first or the last one. A clip with fewer frames than
    asked for gives some of them again, so that the number is the one that was asked for (key
    frames: as many as there are). Pictures are upright, with square pixels, transparency laid on
    white; colours follow the clip's own matrix and range. Frames are not deinterlaced.

    A clip whose wanted frames decode gives them, whatever its other parts are like. A wanted
    frame that is damaged, or that depends on a damaged one, is an error, as far as the decoder
    notices.
    Raises MediaError: as media.probe does for clips, and media.decode for images; ValueError for
    a choice that is none.
    """
    found = fitted(data, lambda picture: picture, choice, limits)
    return [Frame(picture, seconds) for picture, seconds in found]


def fitted(
    data: bytes,
    fit: Callable[[Image.Image], T],
    choice: Choice = 8,
    limits: Limits = DEFAULT,
) -> list[tuple[T, float]]:
    """What ``fit`` makes of each picture of :func:`sample`, with its seconds.

    Pictures go to ``fit`` one at a time and are not kept: sixty-four of 4K would take 2 GB.
    Raises as :func:`sample` does.
    """
    _valid(choice)
    name = containers.sniff(data)
    if name not in VIDEO_FORMATS:
        return [(fit(media.decode(data, limits=limits)), 0.0)]
    media.check_clip(data, limits)
    with demux.opened(data, name, limits) as clip:
        timeline = clip.timeline(limits)
        times = _chosen(choice, timeline)
        # A clip of few packets need not be opened and read again.
        made = _made(clip, limits, timeline, times, True, fit) if clip.held else None
    if made is None:
        with demux.opened(data, name, limits) as clip:
            made = _made(clip, limits, timeline, times, True, fit)
    if len(made) < len(set(times)):
        # What a header or an encoder tells of its key frames may be wrong: decode everything.
        with demux.opened(data, name, limits) as clip:
            made = _made(clip, limits, timeline, times, False, fit)
    if len(made) < len(set(times)):
        raise MediaError("corrupt", f"{name}: frames that were wanted cannot be decoded")
    return [(made[time], timeline.since(time)) for time in times]


def _valid(choice: Choice) -> None:
    if isinstance(choice, tuple):
        good = bool(choice) and all(math.isfinite(second) for second in choice)
    elif isinstance(choice, int):
        good = choice >= 1
    else:
        good = choice in ("first", "middle", "key")
    if not good:
        raise ValueError(f"frames: {choice!r} is no choice of frames")


def _chosen(choice: Choice, timeline: Timeline) -> list[int]:
    """When the chosen frames begin, in units of the timeline."""
    start, length = timeline.times[0], timeline.end - timeline.times[0]
    if choice == "first":
        return [start]
    if choice == "key":
        known = set(timeline.times)
        keys = sorted({time for _, time in timeline.keys} & known) or [start]
        most = min(KEYS, len(keys))
        return [keys[(2 * part + 1) * len(keys) // (2 * most)] for part in range(most)]
    if isinstance(choice, tuple):
        # Seconds that were rounded to the microsecond still name their own frame.
        near = Fraction(1, 1_000_000)
        wanted = ((Fraction(second) + near) / timeline.unit for second in choice)
        return [timeline.shown(start + time) for time in wanted]
    parts = 1 if choice == "middle" else int(choice)
    # Frames begin at whole units, so a middle may be rounded down to one.
    middles = ((2 * part + 1) * length // (2 * parts) for part in range(parts))
    return [timeline.shown(start + time) for time in middles]


def _made(
    clip: Clip,
    limits: Limits,
    timeline: Timeline,
    times: list[int],
    short: bool,
    fit: Callable[[Image.Image], T],
) -> dict[int, T]:
    """What ``fit`` makes of the pictures shown from ``times``, as far as they are found."""
    painter = _Painter(clip, limits)
    found = _Decoding(clip, timeline, short).frames(sorted(set(times)))
    return {time: fit(painter.picture(frame)) for time, frame in found}


class _Decoding:
    """Decodes a clip as far as wanted frames need it.

    short: leap from key frame to key frame and pass over frames that no other one needs; else
    decode everything, and take the frame before where one is missing.
    """

    def __init__(self, clip: Clip, timeline: Timeline, short: bool) -> None:
        self.clip, self.timeline, self.short = clip, timeline, short
        self.decoder = clip.decoder()
        # The places in the stream of the packets by their times, and of those that are broken.
        self.places: dict[int, int] = {}
        self.broken: list[int] = []
        self.at = 0

    def frames(self, times: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        """(time, frame) for ``times`` (rising), as far as they are sound."""
        wanted, held = list(times), None
        for frame in self._decoded(wanted, set(times)):
            time = frame.pts if frame.pts is not None else frame.dts
            if time is None:
                continue
            if frame.is_corrupt:
                self.broken.append(self.places.get(time, self.at))
            while wanted and not self.short and time > wanted[0]:
                # Nothing begins just then: what stands still is shown, or what comes first.
                yield from self._sound(wanted.pop(0), held or frame)
            if wanted and time == wanted[0]:
                yield from self._sound(wanted.pop(0), frame)
            held = frame
            if not wanted:
                return
        if held and not self.short:
            for time in wanted:
                yield from self._sound(time, held)

    def _sound(self, time: int, frame: VideoFrame) -> Iterator[tuple[int, VideoFrame]]:
        """``frame`` for ``time``, unless something is broken from its key frame up to it."""
        shown = frame.pts if frame.pts is not None else time
        # They differ where a packet gives no frame: because it is broken, or has none to give.
        start = min(self.timeline.start(shown), self.timeline.start(time))
        at = max(self.places.get(shown, self.at), self.places.get(time, self.at))
        if not any(start <= place <= at for place in self.broken):
            yield time, frame

    def _decoded(self, wanted: list[int], exact: set[int]) -> Iterator[VideoFrame]:
        """Frames in the order of time; ``wanted`` shrinks while it is read."""
        running = not self.short
        for at, packet in enumerate(self.clip.packets()):
            if not wanted:
                return
            start = self.timeline.start(wanted[0]) if self.short else 0
            if packet.size and (at < start or not running):
                if at != start:
                    running = False
                    continue
                self.decoder.flush_buffers()
                running = True
            self.at = at
            if packet.pts is not None:
                self.places[packet.pts] = at
            if self.short:
                self.decoder.skip_frame = "DEFAULT" if packet.pts in exact else "NONREF"
            yield from self._fed(packet)

    def _fed(self, packet: Any) -> list[VideoFrame]:
        try:
            return list(self.decoder.decode(packet if packet.size else None))
        except Exception:
            self.broken.append(self.at)
            return []


class _Painter:
    """Turns decoded frames of one clip into pictures."""

    def __init__(self, clip: Clip, limits: Limits) -> None:
        self.clip, self.limits = clip, limits
        self.reformatter = VideoReformatter()

    def picture(self, frame: VideoFrame) -> Image.Image:
        """RGB, as displayed. Raises MediaError where it is larger than allowed."""
        shape = demux.shape(frame, self.clip.stream)
        media.check_size(*shape.size, self.limits)
        layered = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
        # Four bytes a pixel, as Pillow holds RGB itself: copied at half the cost of three.
        plain = self.reformatter.reformat(frame, format="rgba", interpolation=_EXACT, threads=1)
        (plane,) = plain.planes
        mode, raw = ("RGBA", "RGBA") if layered else ("RGB", "RGBX")
        size = (plain.width, plain.height)
        picture = Image.frombytes(mode, size, memoryview(plane), "raw", raw, plane.line_size, 1)
        if layered:
            white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white, picture).convert("RGB")
        if picture.size != (shape.width, shape.height):
            picture = picture.resize((shape.width, shape.height), Image.Resampling.BICUBIC)
        if shape.swapped:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        if shape.across:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if shape.down:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        return picture
