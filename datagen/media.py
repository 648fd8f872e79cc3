"""Safe reading of media by reference, and decoding of images: limits first, pixels last.

Media bytes are untrusted. Every function here either gives its result or raises
:class:`MediaError`; nothing else that Pillow, FFmpeg or the file system may throw comes out.
The order is fixed: bytes read, format by magic number, size from the header, limits, decode.
Only the one decoder that the magic number names is tried.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from datagen import containers, demux, fetch, store
from datagen.containers import VIDEO_FORMATS, MediaError, Probe

__all__ = [
    "Limits",
    "MediaError",
    "Probe",
    "admitted",
    "again",
    "decode",
    "image",
    "probe",
    "read",
    "verify",
]

# Pillow warns about odd tags of files that it reads well; no worker's log needs that.
warnings.filterwarnings("ignore", module=r"PIL\.(Tiff|Png|Gif|WebP|Avif)ImagePlugin")


class _Jpeg(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Not read: it costs time, and warns about every broken EXIF block."""


# The classes are called directly: Image.open would try every decoder there is, and judges sizes
# by a process-wide setting. The JPEG class reads a camera's MPO as the JPEG that it starts with.
# Left out on purpose: EPS and PS (they would start Ghostscript), PDF, WMF, icons, layered files,
# and formats without a magic number.
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": _Jpeg,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
}

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_VIDEO_ENDINGS = tuple(f".{name}" for name in (*VIDEO_FORMATS, "m4v"))


@dataclass(frozen=True)
class Limits:
    """What media may cost.

    max_bytes: of an image; max_video_bytes: of a clip; max_pixels: width times height that a
    header may declare; min_side, max_side: pixels; max_seconds, max_frames: of a clip; protocols:
    remote stores that paths may name; allow_http: fetch http and https addresses, public ones
    only; http_seconds: for one fetch.
    """

    max_bytes: int = 64 << 20
    max_video_bytes: int = 1 << 30
    max_pixels: int = 80_000_000
    min_side: int = 1
    max_side: int = 65_535
    max_seconds: float = 600.0
    max_frames: int = 36_000
    protocols: frozenset[str] = frozenset(
        {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hdfs", "oci", "hf", "memory"}
    )
    allow_http: bool = False
    http_seconds: float = 30.0

    def most_bytes(self, media: Mapping[str, Any]) -> int:
        """How many bytes ``media`` (schema.MEDIA) may have, by its modality or its name."""
        path = (media.get("path") or "").lower()
        clip = media.get("modality") == "video" or path.endswith(_VIDEO_ENDINGS)
        return self.max_video_bytes if clip else self.max_bytes


DEFAULT = Limits()


def admitted(media: Mapping[str, Any]) -> Limits:
    """The limits for an item that was taken in: what it was found to be then is allowed still."""
    size = media.get("size") or 0
    width, height = media.get("width") or 0, media.get("height") or 0
    seconds, frames = media.get("seconds") or 0, media.get("frames") or 0
    return Limits(
        max_bytes=max(DEFAULT.max_bytes, size),
        max_video_bytes=max(DEFAULT.max_video_bytes, size),
        max_pixels=max(DEFAULT.max_pixels, width * height),
        max_side=max(DEFAULT.max_side, width, height),
        max_seconds=max(DEFAULT.max_seconds, seconds + 1),
        # Packets are counted against it, of which a few may not be shown.
        max_frames=max(DEFAULT.max_frames, 2 * frames),
        allow_http=True,
    )


def read(media: Mapping[str, Any], limits: Limits = DEFAULT) -> bytes:
    """The bytes of ``media`` (a mapping shaped like :data:`datagen.schema.MEDIA`).

    ``offset`` and ``size`` cut a range out of a tar; without a size the file is read to its end.
    Where ``sha256`` is known, the bytes are those that it tells.
    Raises MediaError: ``missing_file``, ``not_a_file``, ``unreadable_file``, ``truncated``
    (shorter than ``size``), ``empty_file``, ``too_many_bytes``, ``http_not_allowed``,
    ``protocol_not_allowed``, ``media_changed`` (other bytes than ``sha256`` tells).
    """
    path = media.get("path") or ""
    offset, size = media.get("offset") or 0, media.get("size")
    if not path:
        raise MediaError("missing_file", "no path")
    most = limits.most_bytes(media)
    if offset < 0 or (size is not None and size < 0):
        raise MediaError("corrupt", f"{path}: offset {offset}, size {size}")
    if size is not None and size > most:
        raise MediaError("too_many_bytes", f"{size} bytes, at most {most} are allowed")
    # One byte more than allowed tells a file that is too long without reading all of it.
    wanted = size if size is not None else most + 1
    data = _fetch(path, offset, wanted, limits)
    known = media.get("sha256")
    if known and hashlib.sha256(data).hexdigest() != known:
        raise MediaError("media_changed", f"{path}: other bytes than when it was listed")
    if size is not None and len(data) < size:
        raise MediaError("truncated", f"{path}: {len(data)} of {size} bytes")
    if len(data) > most:
        raise MediaError("too_many_bytes", f"more than {most} bytes")
    if not data:
        raise MediaError("empty_file", f"{path}: no bytes")
    return data


def again(media: Mapping[str, Any]) -> bytes:
    """The bytes of an item that was taken in (:func:`admitted`), as they were then.

    Raises MediaError as :func:`read` does.
    """
    return read(media, admitted(media))


def _fetch(path: str, offset: int, size: int, limits: Limits) -> bytes:
    if store.is_local(path):
        return _read_local(path, offset, size)
    protocol = path.partition("://")[0].lower()
    if protocol in ("http", "https"):
        if not limits.allow_http:
            raise MediaError("http_not_allowed", f"{path}: fetching from the web is switched off")
        return fetch.fetch(path, offset, size, limits.http_seconds)
    if protocol not in limits.protocols:
        # This also stops chained addresses such as simplecache::http://…
        raise MediaError("protocol_not_allowed", f"{path}: '{protocol}' is not an allowed store")
    try:
        return store.read_bytes(path, offset, size)
    except FileNotFoundError as error:
        raise MediaError("missing_file", path) from error
    except Exception as error:
        raise MediaError("unreadable_file", f"{path}: {type(error).__name__}: {error}") from error


def _read_local(path: str, offset: int, size: int) -> bytes:
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for ever.
        handle = os.open(store.local_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError("missing_file", path) from error
    except OSError as error:
        reason = "a loop of links" if error.errno == errno.ELOOP else error.strerror
        raise MediaError("unreadable_file", f"{path}: {reason}") from error
    except ValueError as error:
        raise MediaError("missing_file", f"{path!r}: not a possible path") from error
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise MediaError("not_a_file", f"{path}: a folder or device, not a file")
        chunks, end = [], min(about.st_size, offset + size)
        while offset < end:
            chunk = os.pread(handle, min(end - offset, 16 << 20), offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset += len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except OSError as error:
        raise MediaError("unreadable_file", f"{path}: {error.strerror}") from error
    finally:
        os.close(handle)


def probe(data: bytes, limits: Limits = DEFAULT) -> Probe:
    """What the header of ``data`` declares; of an image no pixel is decoded, of a clip one frame.

    Raises MediaError: ``empty_file``, ``not_an_image``, ``unsupported_format``, ``corrupt``,
    ``truncated``, ``too_many_bytes``, ``too_many_pixels``, ``too_small``, ``animated``,
    ``multi_page``, and for clips ``no_video``, ``too_long``, ``too_many_frames``.
    """
    return _probed(data, limits, whole=False)


def verify(data: bytes, limits: Limits = DEFAULT) -> Probe:
    """Probe ``data`` and decode it once, cheaply, to find truncation and corruption.

    A JPEG is decoded at an eighth of its size: all of its coded data is still read. Damage that
    leaves a valid JPEG stream is not seen, as the format carries no checksum; PNG chunks are
    checked by their own. Of a clip all packets are read, and some are decoded
    (:func:`datagen.demux.probe`). Raises MediaError as :func:`probe` and :func:`decode` do.
    """
    found = _probed(data, limits, whole=True)
    if found.modality == "image":
        picture, _ = _open(data, found.format, limits)
        with _guard():
            if found.format == "jpeg":
                picture.draft(picture.mode, (1, 1))
            picture.load()
        if found.format == "png":
            with _guard():
                PngImagePlugin.PngImageFile(io.BytesIO(data)).verify()
    return found


def _probed(data: bytes, limits: Limits, whole: bool) -> Probe:
    name = containers.sniff(data)
    if name in VIDEO_FORMATS:
        check_clip(data, limits)
        return demux.probe(
            data, name, limits, lambda width, height: check_size(width, height, limits), whole
        )
    picture, turn = _open(data, name, limits)
    width, height = picture.size
    if turn >= 5:
        width, height = height, width
    return Probe(name, width, height, "image")


def decode(data: bytes, *, draft: int | None = None, limits: Limits = DEFAULT) -> Image.Image:
    """Decode an image: RGB, turned as EXIF says, fully loaded, transparency laid on white.

    ``draft`` is the smallest side that is still enough, in pixels: a JPEG may then come at a
    half, a quarter or an eighth of its size. 16-bit channels are scaled to 8 bits, not clipped;
    CMYK is converted without a colour profile. Raises MediaError as :func:`probe` does, and
    ``not_an_image`` for a clip.
    """
    name = containers.sniff(data)
    if name in VIDEO_FORMATS:
        raise MediaError("not_an_image", f"looks like a video ({name})")
    picture, turn = _open(data, name, limits)
    with _guard():
        if name == "jpeg":
            wanted = "RGB" if picture.mode in ("RGB", "L") else picture.mode
            size = (max(1, draft), max(1, draft)) if draft is not None else picture.size
            picture.draft(wanted, size)
        picture.load()
        plain = _convert(picture)
        if turn in _TRANSPOSE:
            plain = plain.transpose(_TRANSPOSE[turn])
        return plain


def image(
    media: Mapping[str, Any], *, draft: int | None = None, limits: Limits = DEFAULT
) -> Image.Image:
    """Read and decode the image that ``media`` refers to. Raises MediaError."""
    return decode(read(media, limits), draft=draft, limits=limits)


def _open(data: bytes, name: str, limits: Limits) -> tuple[ImageFile.ImageFile, int]:
    """Read the header, check the limits; gives the unloaded picture and its EXIF orientation."""
    if len(data) > limits.max_bytes:
        most = limits.max_bytes
        raise MediaError("too_many_bytes", f"{len(data)} bytes, at most {most} are allowed")
    if name == "webp":
        check_size(*containers.webp_size(data), limits)
    stream = io.BytesIO(data)
    with _guard(stream):
        picture = _DECODERS[name](stream)
        check_size(*picture.size, limits)
        # Pillow turns a TIFF by itself when it loads.
        exif = None if name == "tiff" else picture.info.get("exif")
        turn = containers.exif_orientation(exif)
        frames = getattr(picture, "n_frames", 1) if name in ("png", "webp", "tiff", "avif") else 1
        moves = name == "gif" and getattr(picture, "is_animated", False)
    if name == "tiff" and frames > 1:
        raise MediaError("multi_page", f"a TIFF of {frames} pages")
    if frames > 1 or moves:
        raise MediaError("animated", f"an animated {name}")
    return picture, turn


def check_clip(data: bytes, limits: Limits) -> None:
    """Raises MediaError ``too_many_bytes`` for a clip of more bytes than allowed."""
    if len(data) > limits.max_video_bytes:
        most = limits.max_video_bytes
        raise MediaError("too_many_bytes", f"{len(data)} bytes, at most {most} are allowed")


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raises MediaError for a picture that is too large, too small, or of no size at all."""
    if width < 1 or height < 1:
        raise MediaError("corrupt", f"declares {width} x {height} pixels")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        most = f"at most {limits.max_pixels}, {limits.max_side} a side"
        raise MediaError("too_many_pixels", f"{width} x {height} pixels; {most}")
    if min(width, height) < limits.min_side:
        raise MediaError("too_small", f"{width} x {height} pixels; sides from {limits.min_side}")


_ENDED = ("truncat", "unexpected end", "end of file", "premature", "not enough", "eof")


@contextlib.contextmanager
def _guard(stream: io.BytesIO | None = None) -> Iterator[None]:
    """Turn whatever a decoder throws into MediaError: ``truncated`` or ``corrupt``."""
    try:
        yield
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError("too_many_pixels", "not enough memory to decode it") from error
    except Exception as error:
        text = str(error) or type(error).__name__
        ended = any(word in text.lower() for word in _ENDED) or isinstance(error, EOFError)
        # A header that was read to the last byte wanted more of them.
        spent = stream is not None and stream.tell() >= stream.getbuffer().nbytes
        raise MediaError("truncated" if ended or spent else "corrupt", text) from error


def _convert(picture: Image.Image) -> Image.Image:
    """``picture``, loaded, as RGB of 8 bits."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _eight_bits(picture).convert("RGB")
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    if picture.mode == "RGB":
        return picture.copy()  # a plain image, without the file behind it
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey to 8 bits.

    16-bit values are divided by 257. Wider types do not say their range: values within 0..1
    (floats), 0..255 and 0..65535 are taken as such; others are stretched from their smallest to
    their largest.
    """
    values = np.asarray(picture).astype(np.float64)
    finite = np.isfinite(values)
    values = np.where(finite, values, 0.0)
    low, high = float(values.min()), float(values.max())
    if picture.mode.startswith("I;16"):
        scale, low = 1 / 257, 0.0
    elif low >= 0 and high <= 1 and picture.mode == "F":
        scale, low = 255.0, 0.0
    elif low >= 0 and high <= 255:
        scale, low = 1.0, 0.0
    elif low >= 0 and high <= 65_535:
        scale, low = 1 / 257, 0.0
    else:
        scale = 255 / (high - low)
    return Image.fromarray(np.rint((values - low) * scale).clip(0, 255).astype(np.uint8))
