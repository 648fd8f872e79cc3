"""What the filter leakage finds of real photos that stand in a test set in another form.

    python benchmarks/leakage_quality.py --data ../shared/data [--limit 60]

The test set is a folder with copies of half of the photos (recompressed, resized, cropped, turned
to grey, mirrored) and with other photos of the same four kinds. Found are items of which a copy is
there; wrongly found, those of which none is. The space is that of an image classifier
(MobileNetV2, tests/own/mobilenet_space.py).
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "own"))

from mobilenet_space import MobileNet

from datagen import schema
from datagen.filters.leakage import Leakage
from datagen.space import Space
from datagen.step import Context

SETS = {
    "fashion": "photos/fashion/images/*.jpg",
    "exercises": "photos/exercises/images/**/*.jpg",
    "clothing": "photos/clothing/**/*.jpg",
    "COCO": "photos/coco/images/*.jpg",
}
RADII = (0, 2, 4, 6, 8, 12)
COSINES = (0.8, 0.85, 0.9, 0.95)


def cropped(photo: Image.Image, share: float) -> Image.Image:
    wide, high = (max(1, round(side * share / 2)) for side in photo.size)
    return photo.crop((wide, high, photo.width - wide, photo.height - high))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 60": lambda photo: photo,
    "half the size": lambda photo: photo.resize((photo.width // 2, photo.height // 2)),
    "1 % cropped": lambda photo: cropped(photo, 0.01),
    "10 % cropped": lambda photo: cropped(photo, 0.1),
    "grey": lambda photo: photo.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
}


def items(files: list[Path]) -> pa.Table:
    """Items of files, as a source gives them."""
    rows = []
    for file in files:
        data = file.read_bytes()
        place: dict[str, Any] = dict.fromkeys(field.name for field in schema.MEDIA)
        place |= {"path": str(file), "offset": 0, "size": len(data), "modality": "image"}
        place["sha256"] = hashlib.sha256(data).hexdigest()
        name = schema.content_id(str(file))
        rows.append({"id": name, "key": file.name, "media": place, "labels": "{}"})
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def main() -> None:
    """Print a table by radius and one by cosine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=int, default=60, help="photos of each kind")
    chosen = parser.parse_args()
    rng = random.Random(0)
    files, copied = [], {}
    with tempfile.TemporaryDirectory() as place:
        theirs = Path(place, "test")
        theirs.mkdir()
        for pattern in SETS.values():
            known = sorted(chosen.data.resolve().glob(pattern))
            some = rng.sample(known, min(2 * chosen.limit, len(known)))
            mine, others = some[: len(some) // 2], some[len(some) // 2 :]
            files += mine
            for number, file in enumerate(mine[::2]):
                kind = list(COPIES)[number % len(COPIES)]
                copied[schema.content_id(str(file))] = kind
                made = COPIES[kind](Image.open(file).convert("RGB"))
                made.save(theirs / f"{len(copied):04d}.jpg", quality=60)
            for number, file in enumerate(others):
                (theirs / f"other-{len(files)}-{number}.jpg").write_bytes(file.read_bytes())
        show(chosen.data, Path(place), theirs, items(files), copied)


def show(data: Path, folder: Path, theirs: Path, table: pa.Table, copied: dict[str, str]) -> None:
    """Measure once, and decide by every threshold."""
    weights = data.resolve() / "models/mobilenet_v2_1.0_224_quant.tflite"
    net = MobileNet(MobileNet.Settings(space="photo", weights=str(weights)))
    net.open(Context())
    found = net(net.prepare(table.select(["id", "media"])))["vector"].combine_chunks()
    place = str(folder / "embed" / "rows")
    vectors = found.flatten().to_numpy().reshape(table.num_rows, -1)
    Space.write(place, table["id"].to_pylist(), vectors)
    context = Context(spaces={"photo": place}, embedders={"photo": net})
    step = Leakage(Leakage.Settings(against=[str(theirs)], space="photo", cosine=1))
    step.ready(context)
    step.open(context)
    measured = step(table)
    print(f"{table.num_rows:,} photos, {len(copied):,} of them with a copy in the test set\n")
    kinds = sorted(set(copied.values()), key=list(COPIES).index)
    head = ["", *kinds, "found", "wrongly found"]
    for row in (head, ["---"] * len(head)):
        print("| " + " | ".join(row) + " |")
    bits = measured["score_leak_distance"].to_numpy(zero_copy_only=False).astype(float)
    cosine = measured["score_leak_similarity"].to_numpy(zero_copy_only=False).astype(float)
    ids = table["id"].to_pylist()
    kind = np.array([copied.get(name, "") for name in ids])
    lines = [(f"radius {radius}", bits <= radius) for radius in RADII]
    lines += [(f"cosine {least:g}", cosine >= least) for least in COSINES]
    for name, gone in lines:
        shares = [f"{gone[kind == one].mean():.0%}" for one in kinds]
        wrong = f"{gone[kind == ''].sum():,} of {(kind == '').sum():,}"
        print("| " + " | ".join([name, *shares, f"{gone[kind != ''].mean():.1%}", wrong]) + " |")


if __name__ == "__main__":
    main()
