"""How well pixels tell an edit that did nothing, and one that kept nothing.

`unchanged`, on rendered scenes: a scene drawn anew with other small shifts, turns and lights, and
copies of a picture in another coding and size, against the same scene with one attribute changed.
On photos: copies against photos of which a small part has another hue, or shows another photo.
The area under the ROC curve, and at the default threshold the share of copies that are rejected
and of edits that are wrongly rejected.

`collapsed`, on photos of exercises: two phases of the same one (something moved) against two
photos of different ones; photos against noise and plain colours.

    python benchmarks/edits_seen.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import colorsys
import io
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from datagen.filters import _changes
from datagen.filters.collapsed import Collapsed, CollapsedSettings
from datagen.filters.unchanged import Unchanged, UnchangedSettings
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.render import render
from datagen.sources.tinyworld.scene import ATTRIBUTES, Dice, Scene, changes

Array = np.ndarray[Any, Any]
Scores = dict[str, list[float]]

EDIT, WHOLE = UnchangedSettings(), CollapsedSettings()
#: Pictures that are drawn anew have their edges elsewhere.
ANEW = UnchangedSettings(reach=4, tolerance=24)
_FIT = Unchanged(EDIT).geometry.fit, Collapsed(WHOLE).geometry.fit
#: Shares of a photo that are edited.
PARTS = (0.01, 0.02, 0.05, 0.2)


def changed(left: Image.Image, right: Image.Image, how: UnchangedSettings = EDIT) -> float:
    """What `unchanged` measures of two pictures."""
    one, other = (_FIT[0](picture) for picture in (left, right))
    return float((_changes.differences(one, other, how.reach) > how.tolerance).mean())


def alike(left: Image.Image, right: Image.Image) -> float:
    """The structure that `collapsed` measures of two pictures."""
    return _changes.structure(*(_FIT[1](picture) for picture in (left, right)))


def area(low: list[float], high: list[float]) -> float:
    """Probability that one of ``high`` is above one of ``low`` (ties: half)."""
    order = np.sort(low)
    below = np.searchsorted(order, high, "left") + np.searchsorted(order, high, "right")
    return float(below.mean() / (2 * len(order)))


def coded(picture: Image.Image, format: str = "JPEG", **options: Any) -> Image.Image:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return Image.open(out).convert("RGB")


def copies(picture: Image.Image, rng: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """The same picture as an edit that did nothing may leave it."""
    half = (max(1, picture.width // 2), max(1, picture.height // 2))
    grain = rng.normal(0, 6, (picture.height, picture.width, 3))
    noisy = np.clip(np.asarray(picture, np.float64) + grain, 0, 255).astype(np.uint8)
    yield "JPEG 50", coded(picture, quality=50)
    yield "WebP 50", coded(picture, "WEBP", quality=50)
    yield "half the size", picture.resize(half, Image.Resampling.BICUBIC)
    yield "double size", picture.resize((picture.width * 2, picture.height * 2))
    yield "blurred", picture.filter(ImageFilter.GaussianBlur(picture.width / 256))
    yield "grain", Image.fromarray(noisy)
    yield "5 % lighter", ImageEnhance.Brightness(picture).enhance(1.05)


def _edits(index: int) -> Iterator[tuple[str, Scene]]:
    """Scene ``index`` with one attribute changed, each in its turn."""
    scene, dice = drawn(7, index).scene, Dice("edits seen", index)
    for attribute in (*ATTRIBUTES, "background"):
        if options := changes(scene, attribute):
            yield attribute, dice.pick(options)


def scenes(count: int, size: int) -> tuple[Scores, Scores]:
    """Scores of copies, and of scenes in which one attribute changed and the rest is the same."""
    same, other = defaultdict(list), defaultdict(list)
    for index in range(count):
        base = render(drawn(7, index).scene, size, f"a{index}", f"a{index}")
        for name, copy in copies(base, np.random.default_rng(index)):
            same[name].append(changed(base, copy))
        for attribute, edited in _edits(index):
            kept = render(edited, size, f"a{index}", f"a{index}")
            other[attribute].append(changed(base, kept))
    return same, other


def anew(count: int, size: int, how: UnchangedSettings) -> tuple[Scores, Scores]:
    """Scores of scenes drawn anew as they are, and of those with one attribute changed."""
    same, other = defaultdict(list), defaultdict(list)
    for index in range(count):
        scene = drawn(7, index).scene
        base = render(scene, size, f"a{index}", f"a{index}")
        again = render(scene, size, f"b{index}", f"b{index}")
        same["drawn anew"].append(changed(base, again, how))
        for attribute, edited in _edits(index):
            shown = render(edited, size, f"b{index}", f"b{index}")
            other[attribute].append(changed(base, shown, how))
    return same, other


def _spot(picture: Image.Image, part: float, rng: random.Random) -> tuple[int, int, int, int]:
    """A square of ``part`` of the picture's area, somewhere."""
    side = max(4, min(round((part * picture.width * picture.height) ** 0.5), *picture.size))
    x, y = rng.randint(0, picture.width - side), rng.randint(0, picture.height - side)
    return x, y, x + side, y + side


def hued(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """``picture`` with the hue turned by a third within ``box``, of the same brightness."""
    out = picture.copy()
    hue, saturation, value = picture.crop(box).convert("HSV").split()
    turned = hue.point([(level + 85) % 256 for level in range(256)])
    out.paste(Image.merge("HSV", (turned, saturation, value)).convert("RGB"), box[:2])
    return out


def photos(files: list[Path], rng: random.Random) -> tuple[Scores, Scores]:
    """Scores of copies of photos, and of photos that were edited in a spot."""
    same, other = defaultdict(list), defaultdict(list)
    opened = [Image.open(file).convert("RGB") for file in files]
    for number, photo in enumerate(opened):
        for name, copy in copies(photo, np.random.default_rng(number)):
            same[name].append(changed(photo, copy))
        foreign = opened[number - 1].resize(photo.size)
        for part in PARTS:
            box = _spot(photo, part, rng)
            if np.asarray(photo.crop(box).convert("HSV"))[..., 1].mean() > 40:
                other[f"hue of {part:.0%}"].append(changed(photo, hued(photo, box)))
            pasted = photo.copy()
            pasted.paste(foreign.crop(box), box[:2])
            other[f"another photo in {part:.0%}"].append(changed(photo, pasted))
    return same, other


def told(title: str, same: Scores, other: Scores) -> None:
    """Print what of each kind is rejected, and how well it is told from all of the other side."""
    every = [score for scores in same.values() for score in scores]
    edits = [score for scores in other.values() for score in scores]
    print(f"\n{title}: area {area(every, edits):.3f}\n")
    print("| pictures | pairs | median | area | rejected |\n|---|---:|---:|---:|---:|")
    for kind, found, against in (("same", same, edits), ("edited", other, every)):
        for name, scores in found.items():
            sides = (scores, against) if kind == "same" else (against, scores)
            gone = np.mean(np.array(scores) < EDIT.low)
            print(
                f"| {kind}: {name} | {len(scores)} | {np.median(scores):.4f} "
                f"| {area(*sides):.3f} | {gone:.1%} |"
            )


def spoiled(size: int, count: int) -> Iterator[tuple[str, Image.Image]]:
    """Noise of several grains, and plain colours."""
    for number in range(count):
        rng = np.random.default_rng(number)
        for block in (1, 2, 4, 8, 16):
            small = rng.integers(0, 256, (size // block, size // block, 3), dtype=np.uint8)
            yield f"noise of {block} px", Image.fromarray(small).resize((size, size), 0)
            soft = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
            yield f"noise of {block} px, soft", soft
        ground = np.array([colorsys.hsv_to_rgb(rng.random(), rng.random(), 1)]) * 255
        grain = rng.normal(0, 2, (size, size, 3)) + ground
        yield "one colour", Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


def collapses(data: Path, count: int) -> None:
    """Print structure, noise and contrast of photos, pairs and what is none."""
    files = sorted((data / "photos/exercises").rglob("*0.jpg"))[:count]
    pairs = [(file, file.with_name(file.name.replace("0.jpg", "1.jpg"))) for file in files]
    opened = [[Image.open(file).convert("RGB") for file in pair] for pair in pairs]
    kept = [alike(*pair) for pair in opened]
    lost = [alike(one[0], opened[at - 7][1]) for at, one in enumerate(opened)]
    low = WHOLE.min_structure or 0
    edits = [
        alike(render(drawn(7, index).scene, 128, "a", "a"), render(edited, 128, "a", "a"))
        for index in range(count // 2)
        for _, edited in _edits(index)
    ]
    print("\nstructure, of two phases of an exercise, of two exercises, and of edited scenes:")
    for name, scores in (("phases", kept), ("others", lost), ("edits", edits)):
        some = np.quantile(scores, (0.01, 0.05, 0.5, 0.95, 0.99)).round(3).tolist()
        gone = np.mean(np.array(scores) < low)
        print(f"  {name}: {len(scores)}, quantiles 1, 5, 50, 95, 99 %: {some}, rejected {gone:.1%}")
    print(f"  area {area(lost, kept):.3f}")
    strange: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for pattern in ("fashion", "exercises", "clothing", "coco"):
        some_files = sorted((data / "photos" / pattern).rglob("*.jpg"))
        for file in random.Random(0).sample(some_files, min(count, len(some_files))):
            strange[pattern].append(_own(Image.open(file).convert("RGB")))
    for index in range(count):
        strange["scenes"].append(_own(render(drawn(7, index).scene, 64, "a", f"{index}")))
    for name, picture in spoiled(512, 10):
        strange[name].append(_own(picture))
    print("\n| pictures | number | noise, median | 99 % | contrast, 1 % | median |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, both in strange.items():
        noise, contrast = np.array(both).T
        cells = [np.median(noise), np.quantile(noise, 0.99)]
        spans = [np.quantile(contrast, 0.01), np.median(contrast)]
        shown = [*(f"{one:.3f}" for one in cells), *(f"{one:.0f}" for one in spans)]
        print(f"| {name} | {len(both)} | " + " | ".join(shown) + " |")


def _own(picture: Image.Image) -> tuple[float, float]:
    pixels = _FIT[1](picture)
    return _changes.noise(pixels), _changes.contrast(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of photos; without, scenes alone")
    parser.add_argument("--count", type=int, default=200, help="scenes, and photos of each set")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side of scenes")
    chosen = parser.parse_args()
    told(f"{chosen.count} scenes of {chosen.size} px", *scenes(chosen.count, chosen.size))
    for how in (EDIT, ANEW):
        title = f"the same, drawn anew (reach {how.reach}, tolerance {how.tolerance})"
        told(title, *anew(chosen.count, chosen.size, how))
    if chosen.data is None:
        return
    rng = random.Random(0)
    found: list[Path] = []
    for name in ("exercises", "clothing", "coco"):
        files = sorted((chosen.data / "photos" / name).rglob("*.jpg"))
        found += rng.sample(files, min(chosen.count // 3, len(files)))
    told(f"{len(found)} photos", *photos(found, rng))
    collapses(chosen.data, chosen.count)


if __name__ == "__main__":
    main()
