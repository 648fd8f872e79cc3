"""What the filter semantic_duplicates finds and what else it takes away, by its threshold.

    python benchmarks/semantic_duplicates_quality.py --data ../shared/data [--limit 40]

Found: copies of real photos, made by the script, in the space of an image classifier (MobileNetV2,
tests/own/mobilenet_space.py), and of rendered scenes in that of ``bundled:tinyclip``. Taken away:
originals, of photos and of scenes that differ in one thing, which no copy is among.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "own"))

from mobilenet_space import MobileNet

from datagen import schema
from datagen.embed.open_clip import OpenClip
from datagen.filters import _clusters
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.render import encode, picture
from datagen.space import Space
from datagen.step import Context

Array = np.ndarray[Any, Any]
SETS = {
    "fashion": "photos/fashion/images/*.jpg",
    "exercises": "photos/exercises/images/**/*.jpg",
    "clothing": "photos/clothing/**/*.jpg",
    "COCO": "photos/coco/images/*.jpg",
}
THRESHOLDS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)


def jpeg(photo: Image.Image, quality: int = 90) -> bytes:
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=quality)
    return out.getvalue()


def copies(photo: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Kinds of copies, and their bytes."""
    width, height = photo.size
    yield "JPEG 50", jpeg(photo, 50)
    yield "size x 0.5", jpeg(photo.resize((width // 2, height // 2), Image.Resampling.BICUBIC))
    yield "light x 1.2", jpeg(ImageEnhance.Brightness(photo).enhance(1.2))
    box = (width // 20, height // 20, width - width // 20, height - height // 20)
    yield "10 % cropped", jpeg(photo.crop(box))
    yield "mirrored", jpeg(ImageOps.mirror(photo))


def embedded(step: Any, folder: Path, files: list[bytes]) -> Array:
    """A vector for each file."""
    places = []
    for number, data in enumerate(files):
        path = folder / f"{number:06d}"
        path.write_bytes(data)
        known: dict[str, Any] = dict.fromkeys(field.name for field in schema.MEDIA)
        places.append({**known, "path": str(path), "offset": 0, "modality": "image"})
    parts = []
    for at in range(0, len(places), 32):
        some = places[at : at + 32]
        ids = pa.array([str(number) for number in range(len(some))])
        rows = pa.table({"id": ids, "media": pa.array(some, schema.MEDIA)})
        found = step(step.prepare(rows))["vector"].combine_chunks()
        parts.append(found.flatten().to_numpy().reshape(len(some), -1))
    return np.concatenate(parts)


def scores(folder: Path, vectors: Array) -> Array:
    """The filter's score of each, all compared with all."""
    place = str(folder / f"space-{len(vectors)}")
    Space.write(place, [f"{number:020x}" for number in range(len(vectors))], vectors)
    rows = np.arange(len(vectors))
    return _clusters.nearest_before(place, rows, 1, True, 0, 20)[0].cosine


def table(
    name: str,
    step: Any,
    folder: Path,
    pictures: list[Image.Image],
    originals: list[bytes],
) -> None:
    """A line per threshold: originals taken away, and copies found by kind."""
    step.open(Context())
    vectors = embedded(step, folder, originals)
    alone = scores(folder, vectors)
    kinds: dict[str, list[bytes]] = {}
    for one in pictures:
        for kind, data in copies(one):
            kinds.setdefault(kind, []).append(data)
    cosines = {}
    for kind, files in kinds.items():
        cosines[kind] = np.einsum("ij,ij->i", vectors, embedded(step, folder, files))
    print(f"{name}: {len(originals):,} originals\n")
    print("| high | originals rejected | " + " | ".join(f"{kind} found" for kind in cosines) + " |")
    print("| " + " | ".join(["---"] * (2 + len(cosines))) + " |")
    for high in THRESHOLDS:
        found = [f"{(values > high).mean():.1%}" for values in cosines.values()]
        print(f"| {high:g} | {(alone > high).mean():.1%} | " + " | ".join(found) + " |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=int, default=40, help="photos of each collection")
    parser.add_argument("--scenes", type=int, default=300)
    chosen = parser.parse_args()
    import tempfile

    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scenes = [drawn(0, at, neighbours=0.6, max_objects=3) for at in range(chosen.scenes)]
        rendered = [picture(one, 0, 96, same_layout=True, jitter=1.0) for one in scenes]
        clip = OpenClip(OpenClip.Settings(space="image", model="bundled:tinyclip"))
        blobs = [encode(one, "png") for one in rendered]
        table("rendered scenes, bundled:tinyclip", clip, folder, rendered, blobs)
        weights = chosen.data / "models/mobilenet_v2_1.0_224_quant.tflite"
        if not weights.is_file():
            print(f"{weights}: not there; no real photos")
            return
        files: list[Path] = []
        for pattern in SETS.values():
            known = sorted(chosen.data.glob(pattern))
            files += rng.sample(known, min(chosen.limit, len(known)))
        blobs = [file.read_bytes() for file in files]
        photos = [Image.open(io.BytesIO(data)).convert("RGB") for data in blobs]
        net = MobileNet(MobileNet.Settings(space="photo", weights=str(weights)))
        table("real photos, MobileNetV2", net, folder, photos, blobs)


if __name__ == "__main__":
    main()
