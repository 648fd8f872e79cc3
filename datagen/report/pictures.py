"""Thumbnails of a report: sprite sheets in WebP, clips as film strips of a few frames.

Media are read again by reference, in threads, with the limits that the recipe sets. One that
cannot be read any more keeps the thumbnail that the page before had of the same bytes; without
one, a reason stands in the place of a picture.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from datagen import frames, media, store
from datagen.containers import MediaError
from datagen.errors import DatagenError
from datagen.media import Limits
from datagen.report import earlier

#: Pixels of the longest side of a thumbnail, and distance of two in a sheet.
SIDE = 160
#: Frames of a film strip.
FRAMES = 6
#: Cells of a sheet of images, and of one of clips (a row each), as columns and rows.
_IMAGES = (8, 8)
_CLIPS = (FRAMES, 8)
#: Limits that a recipe may set.
_LIMITED = ("max_bytes", "max_video_bytes", "max_pixels", "min_side", "max_seconds", "max_frames")


@dataclass(frozen=True)
class Picture:
    """Where a thumbnail lies: sheet, left and top edge, size in pixels.

    frames: how many lie side by side, ``SIDE`` apart; seconds: from one of them to the next.
    """

    sheet: int
    x: int
    y: int
    width: int
    height: int
    frames: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Album:
    """The pictures of a report.

    places: by item id, a picture or the reason why there is none; sheets: file name, width and
    height of each sheet; kept: how many pictures are those of the page before.
    """

    places: Mapping[str, Picture | str]
    sheets: Sequence[tuple[str, int, int]]
    kept: int = 0

    @property
    def faults(self) -> Counter[str]:
        """How many media could not be read, by reason."""
        return Counter(place for place in self.places.values() if isinstance(place, str))


def limits_of(recipe: Mapping[str, Any]) -> Limits:
    """The limits on media that the recipe of a run sets."""
    given = recipe.get("media")
    given = given if isinstance(given, Mapping) else {}
    return Limits(**{name: given[name] for name in _LIMITED if name in given})


def draw(
    items: Mapping[str, Mapping[str, Any]],
    out: str,
    folder: str,
    limits: Limits = media.DEFAULT,
    before: str = "",
) -> Album:
    """Write the sheets of ``items`` (schema.MEDIA by item id) to ``folder``.

    ``out`` is the run directory: generated media of a run that was moved are found there;
    before: the folder of data of the page that stands, for media that cannot be read any more.
    """
    batches: list[tuple[bool, tuple[str, ...]]] = []
    for clips, (columns, lines) in ((False, _IMAGES), (True, _CLIPS)):
        chosen = [name for name, m in items.items() if (m.get("modality") == "video") == clips]
        size = lines if clips else columns * lines
        batches += [(clips, tuple(chosen[at : at + size])) for at in range(0, len(chosen), size)]

    def work(number: int) -> tuple[dict[str, Picture | str], tuple[str, int, int]]:
        clips, names = batches[number]
        pictures = {name: _pictures(items[name], out, limits) for name in names}
        return _sheet(number, pictures, clips, folder)

    places: dict[str, Picture | str] = {}
    sheets = []
    # Far stores answer slowly, and Pillow decodes without holding the interpreter.
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for found, sheet in pool.map(work, range(len(batches))):
            places.update(found)
            sheets.append(sheet)
    gone = {name: items[name] for name, place in places.items() if isinstance(place, str)}
    kept, copies = _kept(gone, before, folder, len(sheets)) if before else ({}, [])
    return Album({**places, **kept}, [*sheets, *copies], len(kept))


def _kept(
    gone: Mapping[str, Mapping[str, Any]], before: str, folder: str, first: int
) -> tuple[dict[str, Picture], list[tuple[str, int, int]]]:
    """Pictures that the page before has of ``gone``, and their sheets, numbered from ``first``."""
    found = earlier.wanted(gone, before)
    sizes = earlier.copied(before, (place[0] for place in found.values()), folder, first)
    numbers = {sheet: first + at for at, sheet in enumerate(sizes)}
    kept = {}
    for name, place in found.items():
        sheet, x, y, width, height, count, seconds = place
        if sheet in sizes and earlier.inside(place, sizes[sheet], SIDE):
            kept[name] = Picture(numbers[sheet], x, y, width, height, count, seconds)
    copies = [(f"sheet-{numbers[sheet]}.webp", *size) for sheet, size in sizes.items()]
    return kept, copies


def _pictures(place: Mapping[str, Any], out: str, limits: Limits) -> list[frames.Frame] | str:
    """Small frames of the image or clip at ``place``, or why there are none."""
    try:
        try:
            found = _read(place, limits)
        except MediaError as error:
            moved = store.join(out, "media", os.path.basename(place.get("path") or ""))
            if error.rule != "missing_file" or moved == place.get("path"):
                raise
            found = _read({**place, "path": moved}, limits)
    except MediaError as error:
        return error.rule
    except (DatagenError, OSError):
        return "unreadable_file"
    for frame in found:
        frame.image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return found


def _read(place: Mapping[str, Any], limits: Limits) -> list[frames.Frame]:
    if place.get("modality") == "video":
        return frames.of(place, FRAMES, limits)
    # A JPEG comes at a fraction of its size, which is most of the time saved.
    return [frames.Frame(media.image(place, draft=SIDE, limits=limits), 0.0)]


def _sheet(
    number: int, pictures: Mapping[str, list[frames.Frame] | str], clips: bool, folder: str
) -> tuple[dict[str, Picture | str], tuple[str, int, int]]:
    """Paste ``pictures`` into one sheet and write it."""
    columns, _ = _CLIPS if clips else _IMAGES
    found = {name: shown for name, shown in pictures.items() if not isinstance(shown, str)}
    if not found:
        return {name: str(reason) for name, reason in pictures.items()}, ("", 0, 0)
    cells = len(found) * columns if clips else len(found)
    width, height = min(columns, cells) * SIDE, -(-cells // columns) * SIDE
    canvas = Image.new("RGB", (width, height), (128, 128, 128))
    places: dict[str, Picture | str] = {
        name: shown for name, shown in pictures.items() if isinstance(shown, str)
    }
    for at, (name, shown) in enumerate(found.items()):
        row, column = (at, 0) if clips else divmod(at, columns)
        for step, frame in enumerate(shown):
            _paste(canvas, frame.image, (column + step) * SIDE, row * SIDE)
        first, last = shown[0], shown[-1]
        apart = (last.seconds - first.seconds) / max(1, len(shown) - 1)
        x, y = column * SIDE, row * SIDE
        places[name] = Picture(number, x, y, *first.image.size, len(shown), round(apart, 3))
    file = f"sheet-{number}.webp"
    data = io.BytesIO()
    canvas.save(data, "WEBP", quality=84, method=2)
    with store.writing(store.join(folder, file), durable=False) as target:
        target.write(data.getvalue())
    return places, (file, width, height)


def _paste(canvas: Image.Image, picture: Image.Image, x: int, y: int) -> None:
    """Paste ``picture`` and stretch its edges over the rest of the cell.

    Otherwise compression would draw the colour beside it into the picture.
    """
    width, height = picture.size
    canvas.paste(picture, (x, y))
    if width < SIDE:
        edge = picture.crop((width - 1, 0, width, height))
        canvas.paste(edge.resize((SIDE - width, height)), (x + width, y))
    if height < SIDE:
        edge = picture.crop((0, height - 1, width, height))
        canvas.paste(edge.resize((width, SIDE - height)), (x, y + height))
