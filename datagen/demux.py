"""Clips: opened safely, timed by their packets, probed and checked at a bounded cost.

A clip is read from bytes in memory, by the one demuxer that its magic number names, with the
decoders of :data:`DECODERS` alone. No address or file beside it can be opened. Times come from
the packets and never from a header, which may be missing or lie.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import io
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any, Protocol

import av
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.frame import VideoFrame

from datagen.containers import VIDEO_FORMATS, MediaError, Probe, overfull, promised

#: Decoders that may be started. Left out are those of text art, games, screens and still
#: formats of other uses, which no collection of clips needs, and libvpx, which would know
#: transparency but keeps no limit of size.
DECODERS = frozenset(
    {
        *("h264", "hevc", "vvc", "vp8", "vp9", "libdav1d", "av1"),
        *("mpeg4", "mpeg1video", "mpeg2video", "msmpeg4v1", "msmpeg4v2", "msmpeg4"),
        *("h263", "h263p", "h263i", "flv", "wmv1", "wmv2", "wmv3", "vc1", "theora"),
        *("mjpeg", "png", "prores", "dnxhd", "dvvideo", "cfhd", "rawvideo", "qtrle", "rpza"),
        *("ffv1", "huffyuv", "ffvhuff", "utvideo", "cinepak", "svq1", "svq3", "indeo3"),
    }
)

#: A clip of up to so many packets is checked by decoding all of them; of a longer one, so many
#: key frames and so many packets from the last key frame on are decoded.
CHECKED_WHOLE, CHECKED_KEYS, CHECKED_TAIL = 600, 16, 240

#: Packets of a clip that are kept from the first reading of it for the next one: so many, of so
#: many bytes. Of a longer clip, the packets are read again.
HELD_PACKETS, HELD_BYTES = 1024, 16 << 20

#: Packets that may go by before a decoder must have given its first frame.
_PATIENCE = 240

#: Shapes of pixels beyond this are taken for a broken header.
_WIDEST_PIXEL = 8

_sides: Any = SideDataContainer


class Limits(Protocol):
    """The part of :class:`datagen.media.Limits` that clips need."""

    @property
    def max_pixels(self) -> int: ...
    @property
    def max_seconds(self) -> float: ...
    @property
    def max_frames(self) -> int: ...


@dataclass(frozen=True)
class Timeline:
    """When the frames of a clip are shown, told by its packets; times are in ``unit`` seconds.

    times: when each shown frame begins, rising; end: when the last one ends; keys: (place among
    the packets, time) of the packets that decode without another one, in stream order; packets:
    how many there are.
    """

    times: tuple[int, ...]
    end: int
    keys: tuple[tuple[int, int], ...]
    packets: int
    unit: Fraction

    @property
    def seconds(self) -> float:
        return self.since(self.end)

    def since(self, time: int) -> float:
        """Seconds from the clip's beginning to ``time``, to the microsecond."""
        return round(float((time - self.times[0]) * self.unit), 6)

    def shown(self, time: Fraction | float) -> int:
        """When the frame begins that is shown at ``time``; the first where none is yet."""
        return self.times[max(0, bisect.bisect_right(self.times, time) - 1)]

    def start(self, time: int) -> int:
        """The packet from which decoding must start for the frame shown at ``time``."""
        # A key frame that is shown later cannot help: frames may be shown before it that stand
        # behind it in the file, and these need the key frame before.
        times, starts = self._starts
        place = bisect.bisect_right(times, time)
        return starts[place - 1] if place else 0

    @functools.cached_property
    def _starts(self) -> tuple[list[int], list[int]]:
        """Times of the key frames, rising, and the last packet of those up to each."""
        keys = sorted((time, at) for at, time in self.keys)
        return [time for time, _ in keys], list(accumulate((at for _, at in keys), max))


class _Held:
    """Packets, as long as they are few; then ``packets`` is None."""

    def __init__(self) -> None:
        self.packets: list[Any] | None = []
        self._bytes = 0

    def add(self, packet: Any) -> None:
        if self.packets is None:
            return
        self.packets.append(packet)
        self._bytes += packet.size
        if len(self.packets) > HELD_PACKETS or self._bytes > HELD_BYTES:
            self.packets = None


class Clip:
    """An open clip: its container and its video stream. Made by :func:`opened`."""

    def __init__(self, container: Any, stream: Any, whole: bool) -> None:
        self.container, self.stream, self.whole = container, stream, whole
        #: All packets, where :meth:`timeline` has gone through them and they are few.
        self.held: list[Any] | None = None

    def packets(self) -> Iterator[Any]:
        """The packets of the video stream in stream order; the last one, of size 0, flushes.

        Where the container breaks off, they end there, or (``whole``) that is raised. They can be
        read once, and again where they are held.
        """
        return iter(self.held) if self.held is not None else self._read()

    def _read(self) -> Iterator[Any]:
        try:
            for packet in self.container.demux(self.stream):
                if packet.size and packet.is_corrupt:
                    raise MediaError("truncated", "ends within a frame")
                yield packet
        except (MediaError, av.FFmpegError):
            if self.whole:
                raise
            yield av.Packet()

    def decoder(self) -> Any:
        """A decoder of the stream, of one thread: its frames are the same on every machine."""
        coded = self.stream.codec_context
        coded.thread_count, coded.thread_type = 1, "NONE"
        return coded

    def timeline(self, limits: Limits) -> Timeline:
        """Go through all packets, and hold them where they are few. Raises MediaError:
        ``too_many_frames``, ``too_long``, ``corrupt`` (not one frame), and of a clip opened as
        ``whole`` ``truncated``."""
        # (time, end) of the frames that are shown; an empty frame ends where it begins.
        shown: list[tuple[int, int]] = []
        keys: list[tuple[int, int]] = []
        vp8 = self.stream.codec_context.name == "vp8"
        count, held = 0, _Held()
        for packet in self.packets():
            held.add(packet)
            if not packet.size:
                continue
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None:
                time = shown[-1][1] if shown else 0
            if packet.is_keyframe:
                keys.append((count, time))
            # Outside of an edit list, or a frame of VP8 that only helps others.
            if not packet.is_discard and not (vp8 and not memoryview(packet)[0] & 0x10):
                shown.append((time, time + (packet.duration or 0)))
            count += 1
            if count > limits.max_frames:
                detail = f"more than {limits.max_frames} frames (media.max_frames)"
                raise MediaError("too_many_frames", detail)
        found = self._timed(shown, keys, count, limits)
        self.held = held.packets
        return found

    def _timed(
        self, shown: list[tuple[int, int]], keys: list[tuple[int, int]], count: int, limits: Limits
    ) -> Timeline:
        if not shown:
            raise MediaError("corrupt", "no frame at all")
        unit = self.stream.time_base
        times = sorted({time for time, _ in shown})
        end = max(until for _, until in shown)
        if end <= times[-1]:
            # The last frame's length is not told: as long as the one before it.
            rate = self.stream.average_rate
            known = Fraction(1) / rate / unit if rate else Fraction(0)
            end = times[-1] + (times[-1] - times[-2] if len(times) > 1 else round(known))
        found = Timeline(tuple(times), end, tuple(keys), count, unit)
        if found.seconds > limits.max_seconds:
            detail = (
                f"{found.seconds:g} seconds, at most {limits.max_seconds:g} (media.max_seconds)"
            )
            raise MediaError("too_long", detail)
        return found


@contextlib.contextmanager
def opened(data: bytes, name: str, limits: Limits, whole: bool = False) -> Iterator[Clip]:
    """The clip ``data`` in a container ``name`` (of VIDEO_FORMATS).

    Of several video streams the default one is taken; cover pictures are none. A clip that
    breaks off is read as far as it goes, unless it is wanted ``whole``. Whatever FFmpeg raises
    within becomes MediaError: ``corrupt``, ``truncated``, ``no_video``, ``unsupported_format``,
    ``too_many_pixels``.
    """
    if whole and promised(data, name) > len(data):
        raise MediaError("truncated", f"{len(data)} of {promised(data, name)} bytes")
    options = {
        "codec_whitelist": ",".join(sorted(DECODERS)),
        "protocol_whitelist": "none",
        # Keeps probing from decoding a bomb. Coded sizes are a little larger than shown ones.
        "max_pixels": str(2 * limits.max_pixels + (1 << 20)),
    }
    if VIDEO_FORMATS[name] == "mov" and overfull(data):
        raise MediaError("corrupt", f"{name}: a fragment with more samples than bytes")
    try:
        with av.open(
            io.BytesIO(data),
            "r",
            format=VIDEO_FORMATS[name],
            options=options,
            metadata_errors="replace",
            buffer_size=1 << 18,
            io_open=_nothing_else,
        ) as container:
            stream = _stream(container, name)
            stream.codec_context.options = {"max_pixels": options["max_pixels"]}
            yield Clip(container, stream, whole)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError("too_many_pixels", "not enough memory to decode it") from error
    except Exception as error:
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if VIDEO_FORMATS[name] == "mov" and b"moov" not in data:
            detail = "no moov box, so nothing tells where its frames are"
        elif promised(data, name) <= len(data):
            raise MediaError("corrupt", f"{name}: {detail}") from error
        raise MediaError("truncated", f"{name}: {detail}") from error


def _nothing_else(url: str, flags: int, options: object) -> Any:
    raise PermissionError("a clip may not open other files")


def _stream(container: Any, name: str) -> Any:
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
    ]
    if not streams:
        raise MediaError("no_video", f"a {name} container without a video stream")
    stream = next((one for one in streams if one.disposition & Disposition.default), streams[0])
    coded = stream.codec_context
    if coded is None or coded.name not in DECODERS:
        what = f"coded as {coded.name}" if coded else "of an unknown codec, or encrypted"
        raise MediaError("unsupported_format", f"a clip {what}; convert it to H.264")
    return stream


@dataclass(frozen=True)
class Shape:
    """How a decoded frame is shown: stretched to ``width`` x ``height``, then turned.

    ``across`` and ``down`` say whether it is mirrored left to right and top to bottom, after its
    axes were swapped where ``swapped`` is set.
    """

    width: int
    height: int
    swapped: bool
    across: bool
    down: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as displayed."""
        return (self.height, self.width) if self.swapped else (self.width, self.height)


def shape(frame: VideoFrame, stream: Any) -> Shape:
    """The shape of ``frame``: pixels that are not square, and its display matrix.

    Turns that are no multiple of 90 degrees are taken for the nearest one that is.
    """
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _WIDEST_PIXEL) <= ratio <= _WIDEST_PIXEL:
        ratio = Fraction(1)
    width = max(1, math.floor(frame.width * ratio + Fraction(1, 2)))
    # Not frame.side_data: a frame and what it keeps there hold each other, and so the memory of
    # decoded pictures, until the garbage collector comes by.
    matrix = bytes(_sides(frame).get(SideData.DISPLAYMATRIX, b""))
    if len(matrix) < 36:
        return Shape(width, frame.height, False, False, False)
    # A point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Shape(width, frame.height, False, a < 0, d < 0)
    return Shape(width, frame.height, True, c < 0, b < 0)


def probe(data: bytes, name: str, limits: Limits, check: Any, whole: bool = False) -> Probe:
    """Size as displayed, seconds and frames of a clip; ``check`` judges a width and a height.

    All packets are gone through, and the first frame is decoded. With ``whole``, a clip must
    have all the bytes and packets that its container tells of, and must decode: all of it, or of
    more than :data:`CHECKED_WHOLE` packets some stretches, so that the cost is bounded. Found are
    files that end early, and damage that the decoder notices in what was decoded; damage
    elsewhere shows when a frame there is wanted.
    Raises MediaError: ``corrupt``, ``truncated``, ``no_video``, ``unsupported_format``,
    ``too_many_frames``, ``too_long`` and what ``check`` raises.
    """
    with opened(data, name, limits, whole) as clip:
        if clip.stream.width:
            check(clip.stream.width, clip.stream.height)
        timeline = clip.timeline(limits)
        size = _size(clip, timeline, name, check) if clip.held else None
    if size is None:
        with opened(data, name, limits) as clip:
            size = _size(clip, timeline, name, check)
    if whole:
        with opened(data, name, limits, whole) as clip:
            _check(clip, timeline)
    return Probe(name, *size, "video", timeline.seconds, len(timeline.times))


def _size(clip: Clip, timeline: Timeline, name: str, check: Any) -> tuple[int, int]:
    """Width and height as displayed, of the first frame."""
    first = _first(clip, timeline)
    if first is None:
        raise MediaError("corrupt", f"a {name} container without a frame that can be decoded")
    size = shape(first, clip.stream).size
    check(*size)
    return size


def _first(clip: Clip, timeline: Timeline) -> VideoFrame | None:
    start = timeline.start(timeline.times[0]) if timeline.keys else 0
    decoder = clip.decoder()
    for at, packet in enumerate(clip.packets()):
        if at >= start or not packet.size:
            for frame in decoder.decode(packet if packet.size else None):
                return frame  # type: ignore[no-any-return]
        if at > start + _PATIENCE:
            break
    return None


def _check(clip: Clip, timeline: Timeline) -> None:
    """Decode all, or some stretches. Raises what FFmpeg raises, or MediaError ``corrupt``."""
    keys = [at for at, _ in timeline.keys] or [0]
    alone, tail, end = set[int](), keys[0], timeline.packets
    if timeline.packets > CHECKED_WHOLE:
        parts = range(CHECKED_KEYS)
        alone = {keys[(2 * part + 1) * len(keys) // (2 * CHECKED_KEYS)] for part in parts}
        tail, end = keys[-1], keys[-1] + CHECKED_TAIL
    # Frames that stand behind the first key frame and are shown before it lack what they need.
    first = timeline.keys[0][1] if timeline.keys else timeline.times[0]
    decoder = clip.decoder()
    for at, packet in enumerate(clip.packets()):
        if at in alone and at < tail:
            _sound([*decoder.decode(packet), *decoder.decode(None)], first)
            decoder.flush_buffers()
        elif at >= tail:
            _sound(decoder.decode(packet if packet.size else None), first)
        if at >= end:
            break


def _sound(frames: Iterable[VideoFrame], first: int) -> None:
    for frame in frames:
        if frame.is_corrupt and (frame.pts is None or frame.pts >= first):
            raise MediaError("corrupt", "damaged frames")
