"""Which thresholds of a CLIP model say what published ones of another say.

Cosines of two models do not compare: 0.2 of one may be 0.6 of another. This measures the scores of
`clip_score`, `clip_directional` and `image_similarity` on the same pairs, with their own captions
and with those of other pairs, and prints quantiles, and thresholds by the share that they keep.
With `--like`, the published thresholds of that model are turned into those of `--model` which keep
the same share of the same pairs.

    python benchmarks/clip_calibration.py scenes --model bundled:tinyclip
    python benchmarks/clip_calibration.py photos DATA/photos/coco/captions.json \\
        DATA/photos/coco/images --model open_clip:ViT-B-32/openai --like open_clip:ViT-L-14/openai
    python benchmarks/clip_calibration.py run runs/painted --model open_clip:ViT-B-32/openai
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import datagen
from datagen import clip, frames, models
from datagen.sources.tinyworld.captions import captions
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.render import render

Array = np.ndarray[Any, Any]

#: Quantiles that are printed, and shares of pairs that thresholds are to keep.
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
SHARES = (0.99, 0.95, 0.9, 0.75, 0.5)
#: InstructPix2Pix' thresholds, under CLIP ViT-L/14.
PUBLISHED = {"clip_score": 0.2, "clip_directional": 0.2, "image_similarity": 0.7}


#: Of rendered scenes.
SEED = 1


class Side(NamedTuple):
    """A picture and its caption."""

    picture: Image.Image
    caption: str


Pair = tuple[Side, Side]


def of_scenes(count: int, size: int) -> Iterator[Pair]:
    """Rendered scenes and their neighbours, which differ in one attribute."""
    index = 0
    while count:
        one = drawn(SEED, index)
        index += 1
        if one.base is None:
            continue
        count -= 1
        sides = []
        for each in (drawn(SEED, one.base), one):
            (told,), _ = captions(each, SEED)
            sides.append(Side(render(each.scene, size, f"{one.root}", f"{each.index}"), told))
        yield sides[0], sides[1]


def of_photos(file: Path, folder: Path, count: int) -> Iterator[Pair]:
    """Photos of a COCO captions file, each with the one after it: pairs that differ in much."""
    found = json.loads(file.read_text(encoding="utf-8"))
    told: dict[int, str] = {}
    for one in found["annotations"]:
        told.setdefault(one["image_id"], one["caption"].strip())
    named = [one for one in found["images"] if one["id"] in told][:count]
    sides = [
        Side(Image.open(folder / one["file_name"]).convert("RGB"), told[one["id"]]) for one in named
    ]
    yield from itertools.pairwise(sides)


def of_run(out: str, count: int) -> Iterator[Pair]:
    """First reference and target of the triplets that a run made, those it rejected included."""
    rows = datagen.load(out).triplets(every=True)
    draw = np.random.default_rng(0).permutation(rows.num_rows)[:count]
    for row in rows.take(sorted(draw.tolist())).to_pylist():
        members = [row[side][0] for side in ("references", "targets")]
        if all(one["media"] and one["caption"] for one in members):
            one, other = (
                Side(frames.of(member["media"], "middle")[0].image, member["caption"])
                for member in members
            )
            yield one, other


def vectors(model: str, pairs: Sequence[Pair]) -> tuple[Array, Array]:
    """Vectors of pictures and captions of both sides: float64 (pairs, 2, width) each."""
    loaded = clip.load(models.parse(model), batch_size=32)
    sides = [side for pair in pairs for side in pair]
    shown = [
        loaded.images(np.stack([loaded.geometry.fit(side.picture) for side in sides[at : at + 32]]))
        for at in range(0, len(sides), 32)
    ]
    told = loaded.texts([side.caption for side in sides])
    shape = (len(pairs), 2, loaded.width)
    return np.concatenate(shown).reshape(shape).astype(float), told.reshape(shape).astype(float)


def scores(shown: Array, told: Array, others: Array) -> dict[str, tuple[Array, Array]]:
    """Of each score the values of pairs as they are, and of pictures with the captions (or the
    target picture) of ``others``.
    """

    def cosines(left: Array, right: Array) -> Array:
        with np.errstate(invalid="ignore"):
            found: Array = (left * right).sum(-1) / (
                np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
            )
        return found

    ways = shown[:, 1] - shown[:, 0], told[:, 1] - told[:, 0]
    return {
        "clip_score": (
            cosines(shown, told).min(axis=1),
            cosines(shown, told[others]).min(axis=1),
        ),
        "clip_directional": (cosines(*ways), cosines(ways[0], ways[1][others])),
        "image_similarity": (
            cosines(shown[:, 0], shown[:, 1]),
            cosines(shown[:, 0], shown[others, 1]),
        ),
    }


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    for cells in (head, ["---"] + ["---:"] * (len(head) - 1), *lines):
        print("| " + " | ".join(cells) + " |")


def told_scores(model: str, found: dict[str, tuple[Array, Array]]) -> None:
    """Print quantiles, and thresholds by the share of pairs that they keep."""
    print(f"\n{model}\n")
    lines = []
    for name, both in found.items():
        for kind, values in zip(("own", "others'"), both, strict=True):
            quantiles = np.nanquantile(values, QUANTILES)
            lines.append([f"`{name}`", kind, *(f"{one:.3f}" for one in quantiles)])
    table(["score", "captions", *(f"{share:.0%}" for share in QUANTILES)], lines)
    print()
    lines = []
    for name, (own, others) in found.items():
        lows = [float(np.nanquantile(own, 1 - share)) for share in SHARES]
        lines.append(
            [f"`{name}`", *(f"{low:.3f} ({np.nanmean(others >= low):.1%})" for low in lows)]
        )
    head = [f"keeps {share:.0%} (of others' captions)" for share in SHARES]
    table(["low of", *head], lines)


def told_like(model: str, like: str, own: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Print which thresholds of ``model`` keep as many pairs as the published ones of ``like``."""
    print()
    lines = []
    for name, low in PUBLISHED.items():
        share = float(np.nanmean(theirs[name][0] >= low))
        same = float(np.nanquantile(own[name][0], 1 - share))
        lines.append([f"`{name}`", f"{low:g}", f"{share:.1%}", f"{same:.3f}"])
    table(["score", f"`low` of {like}", "keeps", f"`low` of {model}"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    scenes = kinds.add_parser("scenes", help="rendered scenes and their neighbours")
    scenes.add_argument("--size", type=int, default=128, help="pixels of a side")
    photos = kinds.add_parser("photos", help="photos with captions, in COCO's format")
    photos.add_argument("captions", type=Path, help="JSON file of captions")
    photos.add_argument("images", type=Path, help="folder of the photos")
    run = kinds.add_parser("run", help="triplets of a finished run")
    run.add_argument("out", help="run directory")
    for one in (scenes, photos, run):
        one.add_argument(
            "--model", default="bundled:tinyclip", help="of which thresholds are wanted"
        )
        one.add_argument("--like", help="the model that has the published ones")
        one.add_argument("--count", type=int, default=500, help="pairs, at most")
    chosen = parser.parse_args()
    if chosen.kind == "scenes":
        pairs = list(of_scenes(chosen.count, chosen.size))
    elif chosen.kind == "photos":
        pairs = list(of_photos(chosen.captions, chosen.images, chosen.count + 1))
    else:
        pairs = list(of_run(chosen.out, chosen.count))
    if len(pairs) < 10:
        raise SystemExit(f"{len(pairs)} pairs with pictures and captions found, 10 expected")
    print(f"{len(pairs)} pairs")
    # Each takes the captions of the pair that stands half the way round.
    others = np.roll(np.arange(len(pairs)), len(pairs) // 2)
    found = scores(*vectors(chosen.model, pairs), others)
    told_scores(chosen.model, found)
    if chosen.like:
        theirs = scores(*vectors(chosen.like, pairs), others)
        told_scores(chosen.like, theirs)
        told_like(chosen.model, chosen.like, found, theirs)


if __name__ == "__main__":
    main()
