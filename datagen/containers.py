"""What a run of bytes is, told from its first bytes, and what a container's header declares.

Formats are named by their bytes, never by the file's extension.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Video containers, by the name that FFmpeg gives their demuxer.
VIDEO_FORMATS = {"mp4": "mov", "mov": "mov", "webm": "matroska", "mkv": "matroska", "avi": "avi"}


class MediaError(Exception):
    """Media that cannot be used. ``rule`` is a short slug, ``detail`` one readable line."""

    def __init__(self, rule: str, detail: str) -> None:
        self.rule = rule
        self.detail = " ".join(detail.split())[:300]
        super().__init__(rule, self.detail)

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass(frozen=True)
class Probe:
    """What a header says. ``width`` and ``height`` are pixels as displayed (after orientation).

    ``seconds`` and ``frames`` are None for images.
    """

    format: str
    width: int
    height: int
    modality: str
    seconds: float | None = None
    frames: int | None = None


_IMAGE_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)

_OTHER_IMAGE_MAGIC = (
    (b"\x8aMNG", "an MNG animation"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"\x00\x00\x02\x00", "a Windows cursor"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance image"),
    (b"qoif", "a QOI image"),
    (b"DDS ", "a DDS texture"),
)

_OTHER_VIDEO_MAGIC = (
    (b"OggS", "an Ogg stream"),
    (b"FLV", "a Flash video"),
    (b"\0\0\x01\xba", "an MPEG program stream"),
    (b"\0\0\x01\xb3", "an MPEG video stream"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media stream"),
)

_OTHER_MAGIC = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"7z\xbc\xaf", "a 7-zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"ID3", "an MP3 file"),
    (b"fLaC", "a FLAC file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04\x95", "a Python pickle"),
    (b"\x93NUMPY", "a NumPy array"),
)

_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_BOXES = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"udta", b"meta"}
    | {b"moof", b"mfra", b"sidx", b"styp", b"ssix", b"prft", b"emsg", b"pdin"}
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"heim", b"heis"})


def sniff(data: bytes) -> str:
    """The format of ``data`` by its first bytes: jpeg, png, …, or one of VIDEO_FORMATS.

    Raises MediaError: ``empty_file``, ``unsupported_format`` (an image or clip, but of a format
    that is not decoded) or ``not_an_image``.
    """
    if not data:
        raise MediaError("empty_file", "no bytes")
    head = data[:4096]
    for magic, name in _IMAGE_MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and len(head) >= 12:
        if head[8:12] == b"WEBP":
            return "webp"
        if head[8:12] == b"AVI ":
            return "avi"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    if re.match(rb"P[1-6](\s|#)", head):
        return "ppm"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "webm" if b"webm" in head[:64] else "mkv"
    if head[4:8] == b"ftyp":
        return _brand(head)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "mov"
    raise _unknown(head)


def _brand(head: bytes) -> str:
    size = max(16, min(int.from_bytes(head[:4], "big"), len(head)))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    if b"avif" in brands or b"avis" in brands:
        return "avif"
    if brands[0] in _HEIF_BRANDS:
        raise MediaError("unsupported_format", "a HEIF image; convert it to JPEG or PNG")
    return "mov" if brands[0] == b"qt  " else "mp4"


def _unknown(head: bytes) -> MediaError:
    for magic, name in _OTHER_IMAGE_MAGIC:
        if head.startswith(magic):
            return MediaError("unsupported_format", f"{name}; convert it to JPEG or PNG")
    for magic, name in _OTHER_VIDEO_MAGIC:
        if head.startswith(magic):
            return MediaError("unsupported_format", f"{name}; convert it to MP4")
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":
        return MediaError("unsupported_format", "an MPEG transport stream; convert it to MP4")
    for magic, name in _OTHER_MAGIC:
        if head.startswith(magic):
            return MediaError("not_an_image", f"looks like {name}")
    if len(head) >= 262 and head[257:262] == b"ustar":
        return MediaError("not_an_image", "looks like a tar archive")
    if not any(head):
        return MediaError("not_an_image", "starts with nothing but zero bytes")
    return MediaError("not_an_image", f"looks like {_text(head) or 'unknown binary data'}")


def _text(head: bytes) -> str:
    body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = body[:1024].lower()
    if b"<svg" in lower:
        return "an SVG drawing"
    if lower.startswith((b"<!doctype html", b"<html", b"<head")) or b"<html" in lower:
        return "an HTML page"
    if lower.startswith(b"<?xml"):
        return "an XML document"
    if lower.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself first"
    if body[:1] in (b"{", b"["):
        return "JSON text"
    try:
        # A character may be cut at the end of the head.
        text = head[:-4].decode() if len(head) == 4096 else head.decode()
    except UnicodeDecodeError:
        return ""
    printable = sum(letter.isprintable() or letter.isspace() for letter in text)
    return "text" if text and printable == len(text) else ""


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that a WebP declares, read before the library allocates its canvas.

    Raises MediaError: ``truncated`` where the file ends early, ``corrupt`` for a bad header.
    """
    declared = int.from_bytes(data[4:8], "little") + 8
    if len(data) < 30 or len(data) < declared - 1:
        raise MediaError("truncated", f"{len(data)} of {declared} bytes")
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        return (
            int.from_bytes(body[4:7], "little") + 1,
            int.from_bytes(body[7:10], "little") + 1,
        )
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return (
            int.from_bytes(body[6:8], "little") & 0x3FFF,
            int.from_bytes(body[8:10], "little") & 0x3FFF,
        )
    raise MediaError("corrupt", "a WebP without a readable picture header")


def exif_orientation(exif: bytes | None) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or the EXIF block is broken."""
    if not exif:
        return 1
    body = exif.removeprefix(b"Exif\0\0")
    order: Any = {b"II*\0": "little", b"MM\0*": "big"}.get(body[:4])
    if order is None:
        return 1
    start = int.from_bytes(body[4:8], order)
    count = int.from_bytes(body[start : start + 2], order)
    for number in range(count):
        entry = body[start + 2 + 12 * number : start + 14 + 12 * number]
        if len(entry) < 12:
            return 1
        if int.from_bytes(entry[:2], order) == 0x0112:
            value = int.from_bytes(entry[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def promised(data: bytes, name: str) -> int:
    """Bytes that the outermost elements of a clip's container say it has; 0 where they do not.

    ``name`` is one of VIDEO_FORMATS.
    """
    kind = VIDEO_FORMATS[name]
    if kind == "avi":
        # AVI of more than a gigabyte is a row of RIFF chunks; a live one declares 0.
        return int.from_bytes(data[4:8], "little") + 8 if any(data[4:8]) else 0
    return _matroska_end(data) if kind == "matroska" else _boxes_end(data)


def overfull(data: bytes) -> bool:
    """Whether a fragment of an MP4 tells of more samples than the file has bytes.

    FFmpeg would take memory for each of them before it looks for one.
    """
    samples = 0
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"moof":
            for inner, first, last in _boxes(data, start, end):
                if inner == b"traf":
                    for run, at, _ in _boxes(data, first, last):
                        if run == b"trun":
                            samples += int.from_bytes(data[at + 4 : at + 8], "big")
    return samples > len(data)


def _boxes_end(data: bytes) -> int:
    """Where the last of the top boxes ends, as far as they are those that hold a clip."""
    end = 0
    for kind, _, stop in _boxes(data, 0, len(data)):
        if kind not in _BOXES:
            break
        end = stop
    return end


def _boxes(data: bytes, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the body, end) of the boxes of an MP4 that begin before ``stop``."""
    while at + 8 <= stop:
        size, body = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:
            size, body = int.from_bytes(data[body : body + 8], "big"), body + 8
        elif size == 0:
            size = len(data) - at  # as far as the file goes
        if size < 8:
            return
        yield data[at + 4 : at + 8], body, at + size
        at += size


def _matroska_end(data: bytes) -> int:
    at = 4  # past the id of the EBML header
    size, at = _ebml_size(data, at)
    if size is not None and at + size > len(data):
        return at + size
    if size is None or data[at + size : at + size + 4] != b"\x18\x53\x80\x67":
        return 0
    inner, start = _ebml_size(data, at + size + 4)
    return 0 if inner is None else start + inner


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """The EBML number at ``at`` (None: not known, as in a live stream) and where it ends."""
    first = data[at] if at < len(data) else 0
    length = 9 - first.bit_length()
    if length > 8:
        return None, at
    bits = 7 * length
    value = int.from_bytes(data[at : at + length], "big") & ((1 << bits) - 1)
    return (None if value == (1 << bits) - 1 else value), at + length
