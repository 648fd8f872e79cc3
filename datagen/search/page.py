"""A page of what a search found: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from datagen import frames, media, store
from datagen.search.gallery import Item

#: The longest side of a picture on the page, in pixels.
SIDE = 320
#: Frames of a clip that are shown beside one another.
FRAMES = 4


@dataclass(frozen=True)
class Shown:
    """An item on the page: its place among the answers (0: of the query), and its cosine."""

    item: Item
    rank: int = 0
    score: float = 0.0


def write(
    path: str, asked: Sequence[Item], text: str | None, found: Sequence[Shown], about: str
) -> None:
    """Write the page of what ``asked`` with ``text`` found. Nothing on it asks another machine.

    about: the model and the gallery, in words. Raises DatagenError where it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    html = environment.get_template("page.html.j2").render(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'",
        style=Markup(style),
        asked=[_told(Shown(one)) for one in asked],
        text=text,
        found=[_told(one) for one in found],
        about=about,
    )
    store.write_bytes(path, html.encode())


def _told(one: Shown) -> Mapping[str, Any]:
    place = one.item.place
    picture = _picture(place)
    return {
        "name": one.item.name,
        "caption": one.item.caption,
        "rank": one.rank,
        "score": f"{one.score:.3f}",
        "clip": place["modality"] == "video",
        "picture": picture,
    }


def _picture(place: Mapping[str, Any]) -> str | None:
    """A data URI of a small picture, of a clip several frames; None where it cannot be read."""
    choice: frames.Choice = FRAMES if place["modality"] == "video" else "first"
    try:
        seen = [one.image for one in frames.of(place, choice)]
    except media.MediaError:
        return None
    for one in seen:
        one.thumbnail((SIDE if len(seen) == 1 else SIDE // 2,) * 2)
    across = 1 if len(seen) == 1 else 2
    width, height = max(one.width for one in seen), max(one.height for one in seen)
    down = -(-len(seen) // across)
    sheet = Image.new("RGB", (width * across, height * down), "white")
    for number, one in enumerate(seen):
        sheet.paste(one, (number % across * width, number // across * height))
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
