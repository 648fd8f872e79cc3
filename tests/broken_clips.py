"""Broken and odd clips, built afresh.

``cases()`` gives {file name: (bytes, "kept" or the rule that refuses it)}; ``TRUTH`` has (format,
width, height as displayed, frames) of those that are kept, all of numbered frames.
"""

from __future__ import annotations

import functools
import io
import random
import struct
from fractions import Fraction
from typing import Any

import av
import broken_media
import numpy as np
from coded_clips import HEIGHT, WIDTH, add_sound, clip, coded

KEPT = "kept"
SIZE = (WIDTH, HEIGHT)
#: Frames of most clips; a key frame every eight.
FRAMES = 24
GROUPS = {"g": "8", "bf": "2"}

#: Format, width, height and frames of the clips that are kept.
TRUTH: dict[str, tuple[str, int, int, int]] = {}


def box(kind: bytes, body: bytes = b"") -> bytes:
    """A box of an MP4."""
    return struct.pack(">I", len(body) + 8) + kind + body


def find(data: bytes, kind: bytes) -> int:
    """Where the box ``kind`` begins."""
    return data.index(kind) - 4


def damaged(data: bytes, start: int, stop: int, seed: int = 1) -> bytes:
    """``data`` with noise from ``start`` to ``stop``."""
    return data[:start] + random.Random(seed).randbytes(stop - start) + data[stop:]


def front(data: bytes) -> bytes:
    """An MP4 with its tables before its frames, as for streaming."""
    at, size = find(data, b"moov"), len(data) - find(data, b"moov")
    tables = bytearray(data[at:])
    place = bytes(tables).index(b"stco") + 4
    count = struct.unpack(">I", tables[place + 4 : place + 8])[0]
    for entry in range(place + 8, place + 8 + 4 * count, 4):
        (offset,) = struct.unpack(">I", tables[entry : entry + 4])
        tables[entry : entry + 4] = struct.pack(">I", offset + size)
    start = find(data, b"free")
    return data[:start] + bytes(tables) + data[start:at]


def sound_only() -> bytes:
    """An MP4 of sound alone."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as writer:
        add_sound(writer)
    return out.getvalue()


def words_only() -> bytes:
    """A Matroska of subtitles alone."""
    out, words = io.BytesIO(), io.BytesIO(b"1\n00:00:00,000 --> 00:00:02,000\nHello\n")
    with av.open(words, "r", format="srt") as reader, av.open(out, "w", "matroska") as writer:
        stream = writer.add_stream_from_template(reader.streams[0])
        for packet in reader.demux():
            if packet.size:
                packet.stream = stream
                writer.mux(packet)
    return out.getvalue()


def transparent(kind: str, codec: str, pix_fmt: str) -> bytes:
    """A clip whose ground is clear: laid on white, it shows white there."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as writer:
        stream: Any = writer.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pix_fmt
        for at in range(4):
            alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
            alpha[2 * (HEIGHT // 3) :] = 0
            layered = np.concatenate([coded(at), alpha], axis=2)
            frame = av.VideoFrame.from_ndarray(layered, format="rgba")
            frame.pts, frame.time_base = at, Fraction(1, 12)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode())
    return out.getvalue()


def covered() -> bytes:
    """A clip after a cover picture of another size, which is a video stream as well."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as writer:
        art: Any = writer.add_stream("png", rate=1)
        art.width, art.height, art.pix_fmt = 200, 200, "rgb24"
        art.disposition = av.stream.Disposition.attached_pic
        film: Any = writer.add_stream("libx264", rate=12, options={"preset": "veryfast"})
        film.width, film.height, film.pix_fmt = *SIZE, "yuv420p"
        writer.mux(art.encode(av.VideoFrame.from_ndarray(coded(9, 200, 200), format="rgb24")))
        for at in range(6):
            frame = av.VideoFrame.from_ndarray(coded(at), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 12)
            writer.mux(film.encode(frame))
        writer.mux(film.encode())
    return out.getvalue()


def attached() -> bytes:
    """A Matroska with a file attached."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as writer:
        film: Any = writer.add_stream("libx264", rate=12, options={"preset": "veryfast"})
        film.width, film.height, film.pix_fmt = *SIZE, "yuv420p"
        writer.add_attachment("evil.sh", "application/x-sh", b"#!/bin/sh\n" * 9)
        for at in range(6):
            frame = av.VideoFrame.from_ndarray(coded(at), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 12)
            writer.mux(film.encode(frame))
        writer.mux(film.encode())
    return out.getvalue()


def _formats() -> dict[str, tuple[bytes, str, tuple[int, int], int]]:
    """Good clips of many formats: bytes, format, size, frames."""
    tall, n = (HEIGHT, WIDTH), FRAMES
    mp4 = clip(options=GROUPS)
    live = clip("matroska", container={"live": "1"}, options=GROUPS)
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    wide = Fraction(2)
    return {
        "good.mp4": (mp4, "mp4", SIZE, n),
        "good.mov": (clip("mov", options=GROUPS), "mov", SIZE, n),
        "good.mkv": (clip("matroska", options=GROUPS), "mkv", SIZE, n),
        "vp8.webm": (clip("webm", "libvpx"), "webm", SIZE, n),
        "vp9.webm": (clip("webm", "libvpx-vp9"), "webm", SIZE, n),
        "divx.avi": (clip("avi", "mpeg4", options={"bf": "2"}), "avi", SIZE, n),
        "photos.avi": (clip("avi", "mjpeg", pix_fmt="yuvj420p"), "avi", SIZE, n),
        "hevc.mp4": (clip("mp4", "libx265"), "mp4", SIZE, n),
        "studio.mov": (clip("mov", "prores_ks", pix_fmt="yuv422p10le"), "mov", SIZE, n),
        "pieces.mp4": (clip(container=fragments, options=GROUPS), "mp4", SIZE, n),
        "front.mp4": (front(mp4), "mp4", SIZE, n),
        "live.mkv": (live, "mkv", SIZE, n),
        "one_frame.mp4": (clip(frames=1), "mp4", SIZE, 1),
        "sound.mp4": (clip(sound=True), "mp4", SIZE, n),
        "late.mkv": (clip("matroska", times=[*range(5000, 7000, 100)]), "mkv", SIZE, 20),
        "uneven.mp4": (clip(times=[0, 40, 50, 900, 910, 2000]), "mp4", SIZE, 6),
        "odd_sides.mkv": (clip("matroska", "ffv1", 4, size=(79, 47)), "mkv", (79, 47), 4),
        "one_pixel.mkv": (
            clip("matroska", "ffv1", 3, size=(1, 1), pix_fmt="yuv444p"),
            "mkv",
            (1, 1),
            3,
        ),
        "ten_bits.mkv": (clip("matroska", pix_fmt="yuv444p10le"), "mkv", SIZE, n),
        "grey.mkv": (clip("matroska", pix_fmt="gray", full=True), "mkv", SIZE, n),
        "clear.mov": (transparent("mov", "png", "rgba"), "mov", SIZE, 4),
        "turned_90.mp4": (clip(turn=90), "mp4", tall, n),
        "turned_180.mp4": (clip(turn=180), "mp4", SIZE, n),
        "turned_270.mov": (clip("mov", turn=270), "mov", tall, n),
        "mirrored.mp4": (clip(hflip=True), "mp4", SIZE, n),
        "wide_pixels.mp4": (clip(ratio=wide), "mp4", (2 * WIDTH, HEIGHT), n),
        "cover.mp4": (covered(), "mp4", SIZE, 6),
        "attachment.mkv": (attached(), "mkv", SIZE, 6),
        "really_mp4.avi": (mp4, "mp4", SIZE, n),
        "really_mp4.jpg": (mp4, "mp4", SIZE, n),
        "trailing.mp4": (mp4 + b"garbage" * 99, "mp4", SIZE, n),
        "lying.avi": (_lying_avi(), "avi", SIZE, n),
        "lying.mkv": (_lying_mkv(), "mkv", SIZE, n),
    }


def _lying_avi() -> bytes:
    """The headers declare a million frames."""
    data = bytearray(clip("avi", "mpeg4"))
    at = data.index(b"strh") + 8
    data[at + 32 : at + 36] = struct.pack("<I", 1_000_000)
    at = data.index(b"avih") + 8
    data[at + 16 : at + 20] = struct.pack("<I", 1_000_000)
    return bytes(data)


def _lying_mkv() -> bytes:
    """The header declares a length of years."""
    data = bytearray(clip("matroska"))
    at = data.index(b"\x44\x89\x88") + 3
    data[at : at + 8] = struct.pack(">d", 1e14)
    return bytes(data)


def _ended() -> dict[str, tuple[bytes, str]]:
    """Clips that stop too early."""
    mp4, mkv = clip(options=GROUPS), clip("matroska", options=GROUPS)
    early = front(mp4)
    pieces = clip(container={"movflags": "frag_keyframe+empty_moov"}, options=GROUPS)
    avi, webm = clip("avi", "mpeg4"), clip("webm", "libvpx-vp9")
    cut = broken_media.cut
    return {
        "zero.mp4": (b"", "empty_file"),
        "header_only.mp4": (mp4[: find(mp4, b"free")], "truncated"),
        "no_moov.mp4": (mp4[: find(mp4, b"moov")], "truncated"),
        **{f"cut_{s}.mp4": (cut(mp4, s / 100), "truncated") for s in (10, 50, 90, 99)},
        **{f"cut_front_{s}.mp4": (cut(early, s / 100), "truncated") for s in (30, 60, 99)},
        "cut_pieces.mp4": (cut(pieces, 0.7), "truncated"),
        **{f"cut_{s}.mkv": (cut(mkv, s / 100), "truncated") for s in (20, 60, 99)},
        "cut.webm": (cut(webm, 0.7), "truncated"),
        **{f"cut_{s}.avi": (cut(avi, s / 100), "truncated") for s in (70, 90)},
        "cut_in_header.avi": (avi[:60], "truncated"),
        "cut_in_header.mkv": (mkv[:30], "truncated"),
    }


def _damaged() -> dict[str, tuple[bytes, str]]:
    """Clips with wrong bytes, or with nothing to see."""
    mp4, avi = clip(options=GROUPS), clip("avi", "mpeg4")
    start, stop = find(mp4, b"mdat") + 8, find(mp4, b"moov")
    large = bytearray(clip("avi", "rawvideo", 3, pix_fmt="bgr24"))
    at = bytes(large).index(b"strf") + 12
    large[at : at + 8] = struct.pack("<2i", 10_000, 9_000)
    bomb = clip("mov", "png", 3, pix_fmt="rgb24")
    small, big = struct.pack(">2I", *SIZE), struct.pack(">2I", 60_000, 60_000)
    nothing = io.BytesIO()
    with av.open(nothing, "w", format="mp4") as writer:
        stream: Any = writer.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        writer.start_encoding()
    return {
        "noise.mp4": (damaged(mp4, start, stop), "corrupt"),
        "zeros.mp4": (mp4[:start] + b"\0" * (stop - start) + mp4[stop:], "corrupt"),
        "damaged_keys.mp4": (damaged(mp4, start + 700, start + 1400), "corrupt"),
        "damaged_end.mp4": (damaged(mp4, stop - 60, stop), "corrupt"),
        "damaged_tables.mp4": (damaged(mp4, find(mp4, b"stsd"), len(mp4)), "unsupported_format"),
        "sound_only.mp4": (sound_only(), "no_video"),
        "words_only.mkv": (words_only(), "no_video"),
        "large.avi": (bytes(large), "too_many_pixels"),
        "bomb_pieces.mp4": (_overfull(), "corrupt"),
        "bomb.mov": (bomb.replace(b"IHDR" + small, b"IHDR" + big), "corrupt"),
        "no_frames.mp4": (nothing.getvalue(), "no_video"),
        "encrypted.mp4": (mp4.replace(b"avc1", b"encv"), "unsupported_format"),
        "unknown.avi": (avi.replace(b"FMP4", b"ZZZZ"), "unsupported_format"),
        "too_long.mp4": (clip(times=[0, 40, 700_000]), "too_long"),
        "too_many.avi": (_many(), "too_many_frames"),
    }


def _overfull() -> bytes:
    """A fragment that declares four thousand million samples."""
    data = bytearray(clip(container={"movflags": "frag_keyframe+empty_moov"}, options=GROUPS))
    at = bytes(data).index(b"trun") + 8
    data[at : at + 4] = b"\xff\xff\xff\xf0"
    return bytes(data)


def _many() -> bytes:
    """More frames than anybody wants, of few bytes each."""
    out = io.BytesIO()
    with av.open(out, "w", format="avi") as writer:
        stream: Any = writer.add_stream("rawvideo", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 2, 2, "bgr24"
        stream.codec_context.open(False)
        for at in range(36_001):
            packet = av.Packet(b"\0" * 16)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, at, at, True
            packet.time_base = Fraction(1, 1000)
            writer.mux(packet)
    return out.getvalue()


def _foreign() -> dict[str, tuple[bytes, str]]:
    """Names of clips for what is none, or none that is read."""
    hls = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    moving = {"save_all": True, "append_images": [broken_media.scene().rotate(180)]}
    return {
        "playlist.mp4": (hls, "not_an_image"),
        "concat.mp4": (b"ffconcat version 1.0\nfile /etc/passwd\n", "not_an_image"),
        "page.mp4": (b"<!DOCTYPE html><html>404</html>", "not_an_image"),
        "stream.mp4": (clip("mpegts", "mpeg2video", rate=25), "unsupported_format"),
        "flash.mp4": (clip("flv", "flv"), "unsupported_format"),
        "moving.mp4": (broken_media.encode(broken_media.scene(), "GIF", **moving), "animated"),
        "text.mp4": (b"This clip has been removed.", "not_an_image"),
    }


@functools.cache
def cases() -> dict[str, tuple[bytes, str]]:
    """All cases; an image under the name of a clip is kept as an image and is not in TRUTH."""
    found: dict[str, tuple[bytes, str]] = {}
    for name, (data, format, size, frames) in _formats().items():
        found[name] = (data, KEPT)
        TRUTH[name] = (format, *size, frames)
    jpeg = broken_media.encode(broken_media.scene(), "JPEG")
    return {**found, **_ended(), **_damaged(), **_foreign(), "really_jpeg.mp4": (jpeg, KEPT)}
