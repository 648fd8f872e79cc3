"""Pictures for vision-language models: frames of images and clips, as small JPEG files.

Media are read by reference and decoded in ``prepare``, on CPU workers ahead of whoever asks; from
there on pictures travel as JPEG bytes. The same medium and settings give the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image
from pydantic import Field

from datagen import faults, frames, media, preprocess, schema
from datagen.faults import Fault
from datagen.step import Settings

#: Bytes of the pictures of one medium; two of them, as text, are what servers still take.
MOST = 8 << 20
#: Bytes of pictures that a batch of rows may come to, about: some workers hold several batches.
BATCH = 64 << 20
_QUALITY = 90
#: Bytes of a JPEG of that quality for each pixel: half of it is usual, noise takes more.
_A_PIXEL = 0.4
_URL = "data:image/jpeg;base64,"


class PictureSettings(Settings):
    """What is shown of images and clips."""

    #: Frames of a clip: so many at even distances, first, middle, key, or those at a list of
    #: seconds. An image is shown once, whatever stands here.
    frames: preprocess.Frames = 4
    #: Longest side of what is shown (pixels); larger pictures are made smaller.
    picture_size: int = Field(512, ge=32, le=4096)

    def rows_at_once(self, media_of_a_row: int) -> int:
        """Rows whose pictures may lie in memory together."""
        pictures = media_of_a_row * preprocess.frames_at_most(self.frames)
        return max(1, int(BATCH / (pictures * self.picture_size**2 * _A_PIXEL)))


def jpeg(picture: Image.Image, size: int) -> bytes:
    """An RGB picture as a JPEG file whose longest side has ``size`` pixels at most.

    It holds pixels alone: no comment, profile or EXIF of the file that the picture came from.
    """
    ratio = size / max(picture.size)
    if ratio < 1:
        width, height = (max(1, round(side * ratio)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY, comment=b"", exif=b"", icc_profile=b"")
    return out.getvalue()


def prepared(
    rows: pa.Table,
    sides: Mapping[str, Sequence[Mapping[str, Any] | None]],
    settings: PictureSettings,
) -> pa.Table:
    """``rows`` with a column ``pictures_<side>`` for each of ``sides``, and verdicts.

    sides: where the medium of each row lies (schema.MEDIA), by name of the side. A row whose
    medium cannot be shown is rejected as ``no_media``, or has failed by the rules of
    :mod:`datagen.media` and as ``too_many_bytes``, and its lists are null.
    """
    made: dict[str, list[bytes] | media.MediaError] = {}
    columns: dict[str, list[list[bytes] | None]] = {name: [] for name in sides}
    wrong: list[Fault] = []
    for places in zip(*sides.values(), strict=True):
        found: list[list[bytes]] = []
        fault: Fault = None
        for name, place in zip(sides, places, strict=True):
            if place is None:
                fault = (schema.REJECTED, "no_media", f"the {name} has no image or clip")
                break
            # A medium stands in many pairs.
            key = schema.canonical_json([place.get(part) for part in ("path", "offset", "size")])
            if key not in made:
                made[key] = _made(place, settings)
            one = made[key]
            if isinstance(one, media.MediaError):
                fault = (schema.FAILED, one.rule, f"{name}: {one.detail}")
                break
            found.append(one)
        wrong.append(fault)
        for at, name in enumerate(sides):
            columns[name].append(None if fault else found[at])
    for name, pictures in columns.items():
        lists = pa.array(pictures, pa.large_list(pa.large_binary()))
        rows = rows.append_column(f"pictures_{name}", lists)
    for name, column in faults.columns(wrong).items():
        rows = rows.append_column(name, column)
    return rows


def _made(place: Mapping[str, Any], settings: PictureSettings) -> list[bytes] | media.MediaError:
    """The pictures of a medium, one of them decoded at a time."""
    limits = media.admitted(place)

    def fit(picture: Image.Image) -> bytes:
        return jpeg(picture, settings.picture_size)

    try:
        data = media.read(place, limits)
        found = [one for one, _ in frames.fitted(data, fit, settings.frames, limits)]
        if (size := sum(map(len, found))) > MOST:
            raise media.MediaError(
                "too_many_bytes",
                f"{len(found)} pictures of {size:,} bytes, {MOST:,} can be shown; set fewer "
                "frames, or a smaller picture_size",
            )
    except media.MediaError as error:
        return error
    return found


def of(rows: pa.Table) -> list[dict[str, tuple[str, ...]]]:
    """The pictures of each row of :func:`prepared`, as ``data:`` addresses by side."""
    sides = [name for name in rows.column_names if name.startswith("pictures_")]
    lists = {name.removeprefix("pictures_"): rows[name].to_pylist() for name in sides}
    return [
        {name: tuple(map(address, many[at] or ())) for name, many in lists.items()}
        for at in range(rows.num_rows)
    ]


def address(data: bytes) -> str:
    """A JPEG file as a ``data:`` address."""
    return _URL + base64.b64encode(data).decode("ascii")


def file_of(url: str) -> bytes:
    """The bytes behind a ``data:`` address. Raises ValueError for any other address."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise ValueError("no data: address of a picture")
    return base64.b64decode(data, validate=True)
