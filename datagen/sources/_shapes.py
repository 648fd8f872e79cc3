"""JSON files of known shapes as rows, each a plain object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]


def array(data: Any) -> Iterator[Row]:
    """A JSON array of objects. Raises ValueError where it is none."""
    if not isinstance(data, list):
        raise ValueError("an array of objects was expected; for COCO captions set format: coco")
    yield from data


def coco(data: Any) -> Iterator[Row]:
    """COCO's caption file: an image with its ``captions``, by annotation id.

    Where the file has no list of images, an image is its ``id`` alone. Raises ValueError.
    """
    try:
        captions: dict[Any, list[tuple[Any, str]]] = {}
        for note in data["annotations"]:
            if "caption" in note:
                line = (note.get("id", 0), note["caption"])
                captions.setdefault(note["image_id"], []).append(line)
        images = data["images"] if "images" in data else [{"id": name} for name in captions]
        for image in images:
            found = sorted(captions.get(image["id"], []))
            yield {**image, "captions": [text for _, text in found]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no COCO caption file: {error!r}") from error


def ego4d(data: Any) -> Iterator[Row]:
    """Ego4D's narration.json: ``video``, ``narration``, ``start`` (seconds), ``pass``, ``uid``.

    Both passes of narrators count; the summaries do not. A narration that lacks its text or time
    is a row without it, which fails by name. Raises ValueError.
    """
    videos = data.get("videos", data) if isinstance(data, dict) else None
    if not isinstance(videos, dict) or not any(map(_is_narrated, videos.values())):
        raise ValueError("no narration file of Ego4D: an object of narrated videos was expected")
    for video, told in videos.items():
        for number in (1, 2):
            for note in _notes(video, told, number):
                said = note if isinstance(note, dict) else {}
                yield {
                    "video": video,
                    "narration": said.get("narration_text"),
                    "start": said.get("timestamp_sec"),
                    "pass": number,
                    "uid": said.get("annotation_uid"),
                }


def _notes(video: str, told: Any, number: int) -> list[Any]:
    try:
        found = ((told or {}).get(f"narration_pass_{number}") or {}).get("narrations") or []
    except AttributeError:
        found = None
    if not isinstance(found, list):
        raise ValueError(f"no narration file of Ego4D: no list of narrations in video '{video}'")
    return found


def _is_narrated(video: Any) -> bool:
    passes = ("narration_pass_1", "narration_pass_2")
    return isinstance(video, dict) and any(name in video for name in passes)


#: What reads a JSON file of each kind.
SHAPES: dict[str, Callable[[Any], Iterator[Row]]] = {"json": array, "coco": coco, "ego4d": ego4d}
