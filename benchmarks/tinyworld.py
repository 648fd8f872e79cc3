"""Scenes and clips per second of the tinyworld source, on one core: python benchmarks/tinyworld.py

Measures drawing, encoding, the whole source (with captions and shards), and reading pixels back;
the last also tells the share of scenes, attributes and events read right. ``--sheet PATH`` saves a
contact sheet of the first scenes; below them, clips with their frames from left to right.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable

from PIL import Image

from datagen import frames
from datagen.sources.tinyworld import TinyWorld
from datagen.sources.tinyworld.family import FAMILY, drawn
from datagen.sources.tinyworld.film import encode_clip, film
from datagen.sources.tinyworld.oracle import read_pixels
from datagen.sources.tinyworld.render import Array, encode, picture
from datagen.sources.tinyworld.scene import ATTRIBUTES
from datagen.step import Context


def rate(work: Callable[[], object], number: int) -> float:
    """Rows per second of ``work`` on ``number`` rows."""
    start = time.perf_counter()
    work()
    return round(number / (time.perf_counter() - start), 1)


def contact_sheet(path: str, size: int, columns: int = 12, rows: int = 8, clips: int = 8) -> None:
    """Save a sheet of the first scenes of seed 0."""
    step = size + 4
    height = (rows + clips) * step + 4
    sheet = Image.new("RGB", (columns * step + 4, height), (96, 96, 96))
    for at in range(columns * rows):
        place = (4 + at % columns * step, 4 + at // columns * step)
        sheet.paste(picture(drawn(0, at), 0, size), place)
    for row in range(clips):
        for at, frame in enumerate(film(drawn(0, row * FAMILY, clips=1.0), 0, size, columns)):
            place = (4 + at * step, 4 + (rows + row) * step)
            sheet.paste(Image.fromarray(frame), place)
    sheet.save(path)


def measure_clips(count: int, size: int, seed: int) -> dict[str, object]:
    """Drawing, encoding and reading back ``count`` clips of 12 frames."""
    made = [drawn(seed, at, clips=1.0, neighbours=0.3) for at in range(count)]
    films: list[list[Array]] = []
    files: list[bytes] = []
    figures: dict[str, object] = {"count": count, "frames": 12}
    figures["draw_per_s"] = rate(lambda: films.extend(film(one, seed, size) for one in made), count)
    figures["encode_per_s"] = rate(lambda: files.extend(encode_clip(f, 8) for f in films), count)
    figures["bytes_mean"] = round(sum(map(len, files)) / count)
    figures["bytes_most"] = max(map(len, files))
    seen = [[frame.image for frame in frames.sample(data, 8)] for data in files]
    agreed: Counter[str] = Counter()

    def read_back() -> None:
        for one, pictures in zip(made, seen, strict=True):
            agrees = read_pixels(pictures, one.shown)["agrees"]
            agreed.update(name for name, right in agrees.items() if right)
            agreed["clip"] += all(agrees.values())

    figures["read_pixels_per_s"] = rate(read_back, count)
    names = ("clip", "background", "objects", *ATTRIBUTES, "event")
    figures["read_right"] = {name: round(agreed[name] / count, 4) for name in names}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--sheet")
    options = parser.parse_args()
    if options.sheet:
        contact_sheet(options.sheet, options.size)
    numbers = range(options.count)
    scenes = [drawn(options.seed, at, max_objects=4) for at in numbers]
    picture(scenes[0], options.seed, options.size)
    images: list[Image.Image] = []
    figures: dict[str, object] = {"count": options.count, "size": options.size}
    figures["draw_per_s"] = rate(
        lambda: images.extend(picture(s, options.seed, options.size) for s in scenes), len(scenes)
    )
    for form in ("png", "jpeg", "webp"):
        figures[f"encode_{form}_per_s"] = rate(
            lambda f=form: [encode(i, f) for i in images], len(images)
        )
    with tempfile.TemporaryDirectory() as folder:
        source = TinyWorld(
            TinyWorld.Settings(count=options.count, size=options.size, seed=options.seed + 1)
        )
        context = Context(media_dir=folder)
        figures["source_per_s"] = rate(
            lambda: [source.read(part, context) for part in source.parts(context)], options.count
        )
    agreed: Counter[str] = Counter()
    read_pixels(images[0])

    def read_back() -> None:
        for scene, image in zip(scenes, images, strict=True):
            agrees = read_pixels(image, scene.scene)["agrees"]
            agreed.update(name for name, right in agrees.items() if right)
            agreed["scene"] += all(agrees.values())

    figures["read_pixels_per_s"] = rate(read_back, len(scenes))
    names = ("scene", "background", "objects", *ATTRIBUTES)
    figures["read_right"] = {name: round(agreed[name] / len(scenes), 4) for name in names}
    figures["clips"] = measure_clips(options.clips, options.size, options.seed)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
