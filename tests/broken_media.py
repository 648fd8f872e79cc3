"""Broken and odd media, built afresh: what a crawl of the web really brings.

``make(folder)`` writes the files and gives {file name: "kept" or the rule that refuses it};
``TRUTH`` has (format, width, height as displayed) of those that are kept.
"""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

KEPT = "kept"
WIDTH, HEIGHT = 96, 64

#: Format, width and height of the media that are kept.
TRUTH: dict[str, tuple[str, int, int]] = {}


def scene(width: int = WIDTH, height: int = HEIGHT, mode: str = "RGB") -> Image.Image:
    """A gradient with a bright square top left and some noise: no flip of it is itself."""
    noise = np.random.default_rng(7).integers(0, 40, (height, width, 3))
    across = np.linspace(0, 150, width)[None, :, None]
    down = np.linspace(0, 60, height)[:, None, None]
    pixels = (noise + across + down).astype(np.uint8)
    pixels[: height // 4, : width // 4] = (250, 40, 40)
    return Image.fromarray(pixels).convert(mode)


def encode(picture: Image.Image, format: str, **options: Any) -> bytes:
    """``picture`` as a file of ``format``."""
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG from filtered rows; ``extra`` chunks stand before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            *extra,
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        ]
    )


def exif(orientation: int) -> bytes:
    """An EXIF block that holds nothing but an orientation."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + b"\0\0\0\0"


def cut(data: bytes, share: float) -> bytes:
    """The first ``share`` of ``data``."""
    return data[: int(len(data) * share)]


def rgb16_tiff() -> bytes:
    """An uncompressed TIFF of three 16-bit channels; every channel of every pixel is 0x8080."""
    body = b"\x80\x80" * (WIDTH * HEIGHT * 3)
    entries = [
        (256, 3, 1, WIDTH),
        (257, 3, 1, HEIGHT),
        (258, 3, 3, None),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, None),
        (277, 3, 1, 3),
        (278, 3, 1, HEIGHT),
        (279, 4, 1, len(body)),
    ]
    after = 8 + 2 + 12 * len(entries) + 4
    out = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, kind, count, value in entries:
        where = {258: after, 273: after + 6}.get(tag, value)
        out += struct.pack("<HHII", tag, kind, count, where)
    return out + struct.pack("<I3H", 0, 16, 16, 16) + body


def _plain() -> dict[str, tuple[bytes, str, tuple[int, int]]]:
    """Good files: bytes, format, size as displayed."""
    picture, size = scene(), (WIDTH, HEIGHT)
    jpeg = encode(picture, "JPEG", quality=90)
    clear = Image.new("P", size, 3)
    clear.putpalette([10, 20, 30] * 256)
    alpha = picture.convert("RGBA")
    alpha.putalpha(128)
    grey16 = struct.pack(">H", 0x8080) * WIDTH
    ramp = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    still = encode(picture, "GIF")
    return {
        "good.jpg": (jpeg, "jpeg", size),
        "good.png": (encode(picture, "PNG"), "png", size),
        "good.webp": (encode(picture, "WEBP"), "webp", size),
        "lossless.webp": (encode(picture, "WEBP", lossless=True), "webp", size),
        "alpha.webp": (encode(alpha, "WEBP"), "webp", size),
        "still.gif": (still, "gif", size),
        "good.bmp": (encode(picture, "BMP"), "bmp", size),
        "good.tif": (encode(picture, "TIFF"), "tiff", size),
        "packed.tiff": (encode(picture, "TIFF", compression="tiff_lzw"), "tiff", size),
        "good.ppm": (encode(picture, "PPM"), "ppm", size),
        "one_pixel.png": (encode(scene(8, 8).crop((0, 0, 1, 1)), "PNG"), "png", (1, 1)),
        "one_pixel.jpg": (encode(Image.new("RGB", (1, 1)), "JPEG"), "jpeg", (1, 1)),
        "needle.png": (encode(Image.new("RGB", (1, 20_000), "red"), "PNG"), "png", (1, 20_000)),
        "cmyk.jpg": (encode(picture.convert("CMYK"), "JPEG"), "jpeg", size),
        "grey.jpg": (encode(picture.convert("L"), "JPEG"), "jpeg", size),
        "progressive.jpg": (encode(picture, "JPEG", progressive=True), "jpeg", size),
        "grey16.png": (png(WIDTH, HEIGHT, 16, 0, (b"\0" + grey16) * HEIGHT), "png", size),
        "rgb16.png": (
            png(WIDTH, HEIGHT, 16, 2, (b"\0" + b"\x80\x80" * 3 * WIDTH) * HEIGHT),
            "png",
            size,
        ),
        "rgb16.tif": (rgb16_tiff(), "tiff", size),
        "float.tif": (encode(Image.fromarray(ramp), "TIFF"), "tiff", size),
        "palette_clear.png": (encode(clear, "PNG", transparency=3), "png", size),
        "one_bit.png": (encode(picture.convert("1"), "PNG"), "png", size),
        "grey_alpha.png": (encode(alpha.convert("LA"), "PNG"), "png", size),
        "turned.jpg": (encode(picture, "JPEG", exif=exif(6)), "jpeg", (HEIGHT, WIDTH)),
        "turned.png": (encode(picture, "PNG", exif=exif(8)[6:]), "png", (HEIGHT, WIDTH)),
        "turned.webp": (encode(picture, "WEBP", exif=exif(5)), "webp", (HEIGHT, WIDTH)),
        "turned.tif": (encode(picture, "TIFF", tiffinfo={274: 6}), "tiff", (HEIGHT, WIDTH)),
        "broken_exif.jpg": (
            encode(picture, "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40),
            "jpeg",
            size,
        ),
        "cut_exif.jpg": (encode(picture, "JPEG", exif=exif(6)[:22]), "jpeg", size),
        "really_png.jpg": (encode(picture, "PNG"), "png", size),
        "really_jpeg.gif": (jpeg, "jpeg", size),
        "trailing_garbage.jpg": (jpeg + b"garbage" * 999, "jpeg", size),
        "camera_preview.jpg": (
            encode(picture, "MPO", save_all=True, append_images=[scene(48, 32)]),
            "jpeg",
            size,
        ),
        "with a space.jpg": (jpeg, "jpeg", size),
        "ünïcødé-图片-🦊.jpg": (jpeg, "jpeg", size),
        "new\nline.jpg": (jpeg, "jpeg", size),
        "quote'\"$(x).jpg": (jpeg, "jpeg", size),
        "percent%20#hash?.jpg": (jpeg, "jpeg", size),
    }


def good(names: Iterable[str]) -> dict[str, bytes]:
    """The bytes of some of the media that are kept."""
    plain = _plain()
    return {name: plain[name][0] for name in names}


def _ended() -> dict[str, tuple[bytes, str]]:
    """Files that stop too early."""
    picture = scene()
    jpeg = encode(picture, "JPEG", quality=90)
    return {
        "zero.jpg": (b"", "empty_file"),
        "zero.png": (b"", "empty_file"),
        "cut.jpg": (cut(jpeg, 0.6), "truncated"),
        "cut_in_header.jpg": (jpeg[:100], "truncated"),
        "cut_progressive.jpg": (
            cut(encode(picture, "JPEG", progressive=True, quality=90), 0.6),
            "truncated",
        ),
        "cut.png": (cut(encode(picture, "PNG"), 0.6), "truncated"),
        "cut_in_header.png": (encode(picture, "PNG")[:20], "truncated"),
        "cut.webp": (cut(encode(picture, "WEBP", quality=90), 0.6), "truncated"),
        "cut.gif": (cut(encode(picture, "GIF"), 0.6), "truncated"),
        "cut.bmp": (cut(encode(picture, "BMP"), 0.6), "truncated"),
        "cut.tif": (cut(encode(picture, "TIFF"), 0.4), "truncated"),
        "cut.ppm": (cut(encode(picture, "PPM"), 0.6), "truncated"),
    }


def _damaged() -> dict[str, tuple[bytes, str]]:
    """Files of an image format with wrong bytes, or of sizes that nobody wants."""
    picture = scene()
    jpeg, plain = encode(picture, "JPEG", quality=90), encode(picture, "PNG")
    middle = bytearray(plain)
    middle[len(plain) // 2] ^= 0x55
    webp = bytearray(encode(picture, "WEBP"))
    webp[20:30] = b"\xff" * 10
    frames = [scene(), scene().transpose(Image.Transpose.ROTATE_180)]
    rest: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    return {
        "no_magic.jpg": (b"\0" * 16 + jpeg[16:], "not_an_image"),
        "broken_header.jpg": (jpeg[:2] + b"\xff\xc0\0\x04" + jpeg[6:], "corrupt"),
        "broken_header.png": (plain[:16] + b"\0" * 8 + plain[24:], "corrupt"),
        "broken_middle.png": (bytes(middle), "corrupt"),
        "broken_header.webp": (bytes(webp), "corrupt"),
        "bomb.png": (png(60_000, 60_000, 1, 0, b"\0" * 1000), "too_many_pixels"),
        "bomb.gif": (
            b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 6 + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
            "too_many_pixels",
        ),
        "bomb.webp": (
            b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8X" + struct.pack("<I", 10)
            + b"\0" * 4 + b"\xfe\xff\x00" * 2 + b"\0" * 4,
            "too_many_pixels",
        ),
        "bomb.bmp": (
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
            "too_many_pixels",
        ),
        "text_bomb.png": (
            png(
                1, 1, 8, 0, b"\0\0",
                *[png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * (8 << 20)))] * 9,
            ),
            "corrupt",
        ),
        "moving.gif": (encode(frames[0], "GIF", **rest), "animated"),
        "moving.webp": (encode(frames[0], "WEBP", **rest), "animated"),
        "moving.png": (encode(frames[0], "PNG", **rest), "animated"),
        "pages.tif": (encode(frames[0], "TIFF", **rest), "multi_page"),
    }  # fmt: skip


def _foreign() -> dict[str, tuple[bytes, str]]:
    """Files that are no image at all, or none that is decoded."""
    html = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>"
    return {
        "random.jpg": (random.Random(3).randbytes(5000), "not_an_image"),
        "text.jpg": (b"This picture has been removed.\n", "not_an_image"),
        "page.jpg": (html, "not_an_image"),
        "drawing.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
        "document.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not_an_image"),
        "archive.jpg": (b"PK\x03\x04" + b"\0" * 40, "not_an_image"),
        "answer.jpg": (b'{"error": "rate limit"}', "not_an_image"),
        "zeros.jpg": (b"\0" * 5000, "not_an_image"),
        "print.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported_format"),
        "icon.jpg": (encode(scene(32, 32), "ICO"), "unsupported_format"),
        "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 60, "unsupported_format"),
        "layers.jpg": (b"8BPS\0\x01" + b"\0" * 60, "unsupported_format"),
    }


def _misplaced(folder: Path) -> dict[str, str]:
    """Names with no readable file behind them."""
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    os.symlink("nowhere.jpg", folder / "dangling.jpg")
    os.symlink("loop_b.jpg", folder / "loop_a.jpg")
    os.symlink("loop_a.jpg", folder / "loop_b.jpg")
    expected = {
        "folder.jpg": "not_a_file",
        "pipe.jpg": "not_a_file",
        "dangling.jpg": "missing_file",
        "loop_a.jpg": "unreadable_file",
        "loop_b.jpg": "unreadable_file",
        "missing.jpg": "missing_file",
    }
    if os.geteuid() != 0:
        (folder / "locked.jpg").write_bytes(encode(scene(), "JPEG"))
        (folder / "locked.jpg").chmod(0)
        expected["locked.jpg"] = "unreadable_file"
    return expected


def make(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Write all cases into ``folder``; ``missing.jpg`` is expected but not there."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    expected: dict[str, str] = {}
    for name, (data, format, size) in _plain().items():
        (place / name).write_bytes(data)
        expected[name] = KEPT
        TRUTH[name] = (format, *size)
    for cases in (_ended(), _damaged(), _foreign()):
        for name, (data, rule) in cases.items():
            (place / name).write_bytes(data)
            expected[name] = rule
    return expected | _misplaced(place)
