"""What the duplicates filter finds and what it wrongly finds, with its default settings.

Found: copies of real photos, made by the script. Wrongly found: photos of products whose titles
differ in one word and whose colour labels differ; rendered scenes that differ in one attribute.
Each figure stands beside that of the hash alone. Some labels are wrong themselves: the fashion
photos hold exact copies with two colours.

    python benchmarks/duplicates_quality.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from datagen import colours, media, perceptual
from datagen.filters.duplicates import DuplicatesSettings
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.render import encode, picture

Array = np.ndarray[Any, Any]
Signature = tuple[int, bytes]

SETTINGS = DuplicatesSettings()
SETS = {
    "fashion": "photos/fashion/images/*.jpg",
    "exercises": "photos/exercises/images/**/*.jpg",
    "clothing": "photos/clothing/**/*.jpg",
    "COCO": "photos/coco/images/*.jpg",
}


def encoded(photo: Image.Image, format: str = "JPEG", quality: int = 90) -> bytes:
    out = io.BytesIO()
    photo.save(out, format, quality=quality)
    return out.getvalue()


def copies(photo: Image.Image, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Kinds of copies, and their bytes."""
    for quality in (50, 75, 95):
        yield f"JPEG {quality}", encoded(photo, quality=quality)
    for quality in (50, 80):
        yield f"WebP {quality}", encoded(photo, "WEBP", quality)
    for scale in (0.5, 0.75, 1.5, 2.0):
        size = (round(photo.width * scale), round(photo.height * scale))
        yield f"size x {scale:g}", encoded(photo.resize(size, Image.Resampling.BICUBIC))
    for light in (0.95, 1.05):
        yield f"light x {light:g}", encoded(ImageEnhance.Brightness(photo).enhance(light))
    for share in (0.01, 0.02):
        wide, high = (max(1, round(side * share)) for side in photo.size)
        left, top = rng.randint(0, wide), rng.randint(0, high)
        box = (left, top, photo.width - wide + left, photo.height - high + top)
        yield f"{share:.0%} cropped", encoded(photo.crop(box))


def judged(pairs: list[tuple[Signature, Signature]]) -> tuple[Array, Array]:
    """Of each pair whether the hashes are near, and whether the filter calls it the same."""
    left, right = (
        np.array([one[0] for one in side], np.uint64) for side in zip(*pairs, strict=True)
    )
    near = perceptual.distances(left, right) <= SETTINGS.radius
    grids = [
        np.frombuffer(b"".join(one[1] for one in side), np.uint8).reshape(-1, colours.BYTES)
        for side in zip(*pairs, strict=True)
    ]
    tolerance = 255 if SETTINGS.tolerance is None else SETTINGS.tolerance
    return near, near & (colours.distances(*grids) <= tolerance)


def found_copies(data: Path, limit: int) -> None:
    rng = random.Random(0)
    rows: dict[str, list[str]] = defaultdict(list)
    counts = []
    for name, pattern in SETS.items():
        files = sorted(data.glob(pattern))
        files = rng.sample(files, min(limit, len(files)))
        counts.append(f"{name} ({len(files)})")
        pairs: dict[str, list[tuple[Signature, Signature]]] = defaultdict(list)
        for file in files:
            blob = file.read_bytes()
            original = perceptual.signature(blob)
            for kind, copy in copies(media.decode(blob), rng):
                pairs[kind].append((original, perceptual.signature(copy)))
        for kind, made in pairs.items():
            near, same = judged(made)
            rows[kind].append(f"{same.mean():.1%} ({near.mean():.1%})")
    show(
        ["copies found (by the hash alone)", *counts], [[kind, *row] for kind, row in rows.items()]
    )


def wrong_products(data: Path) -> list[str]:
    folder = data / "photos/fashion"
    items = [json.loads(line) for line in (folder / "items.jsonl").open(encoding="utf-8")]
    gaps: dict[tuple[str, ...], list[tuple[int, str]]] = defaultdict(list)
    for at, item in enumerate(items):
        words = item["productDisplayName"].lower().split()
        for place, word in enumerate(words):
            gaps[(*words[:place], "*", *words[place + 1 :])].append((at, word))
    chosen = {
        (a, b) if a < b else (b, a)
        for found in gaps.values()
        for (a, one), (b, other) in itertools.combinations(found, 2)
        if one != other and items[a]["baseColour"] != items[b]["baseColour"]
    }
    known = {
        at: perceptual.signature((folder / "images" / items[at]["image"]).read_bytes())
        for at in sorted({at for pair in chosen for at in pair})
    }
    return told("fashion: colour label", *judged([(known[a], known[b]) for a, b in sorted(chosen)]))


def wrong_scenes(count: int, seed: int) -> list[list[str]]:
    scenes = [drawn(seed, index, neighbours=0.6, max_objects=3) for index in range(count)]
    known = [
        perceptual.signature(encode(picture(one, seed, 96, same_layout=True, jitter=1.0), "png"))
        for one in scenes
    ]
    pairs: dict[str, list[tuple[Signature, Signature]]] = defaultdict(list)
    for scene in scenes:
        if scene.base is not None and scene.changed:
            pairs[scene.changed].append((known[scene.base], known[scene.index]))
    return [told(f"scenes: {name}", *judged(made)) for name, made in sorted(pairs.items())]


def told(name: str, near: Array, same: Array) -> list[str]:
    shares = (f"{part.sum():,} ({part.mean():.1%})" for part in (near, same))
    return [name, f"{len(near):,}", *shares]


def show(head: list[str], lines: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *lines):
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of real photos")
    parser.add_argument("--limit", type=int, default=200, help="photos of a set to copy")
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=5, help="of the scenes")
    chosen = parser.parse_args()
    print(f"radius {SETTINGS.radius}, tolerance {SETTINGS.tolerance}\n")
    lines = wrong_scenes(chosen.scenes, chosen.seed)
    if (chosen.data / "photos").is_dir():
        found_copies(chosen.data, chosen.limit)
        lines.insert(0, wrong_products(chosen.data))
    show(["pairs that differ in", "count", "near by the hash alone", "called the same"], lines)


if __name__ == "__main__":
    main()
