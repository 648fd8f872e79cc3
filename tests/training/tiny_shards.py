"""Small runs of shards whose every sample is known, written by the shards step itself."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from datagen import schema, store
from datagen.preprocess import Geometry
from datagen.registry import find
from datagen.step import Context, Tables

GEOMETRY = Geometry(32, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
TRIPLETS = pa.schema(
    [*schema.TRIPLETS, schema.NEGATIVES, schema.SPLIT, pa.field("score_clip", pa.float64())]
)


def jpeg(seed: int, size=(72, 60)) -> bytes:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (6, 7, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


class Items:
    """Items whose bytes lie in a folder; the item of a number is always the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.bytes: dict[str, bytes] = {}

    def __call__(self, number: int, data: bytes | None = None, **media):
        path = self.folder / f"{number}.bin"
        data = jpeg(number) if data is None else data
        path.write_bytes(data)
        about = {
            "path": str(path), "offset": 0, "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(), "modality": "image", "format": "jpeg",
            "width": 72, "height": 60, "seconds": None, "frames": None, **media,
        }  # fmt: skip
        caption = f"caption {number}"
        name = schema.item_id(about["sha256"], [caption], "{}")
        self.bytes[name] = data
        return {"id": name, "key": str(number), "source": "s", "media": about,
                "caption": caption, "labels": "{}"}  # fmt: skip


def triplet(references, targets, text, negatives=(), split="train"):
    pair = schema.pair_id([one["id"] for one in references], [one["id"] for one in targets])
    return {
        "id": schema.triplet_id(pair, text), "references": references, "targets": targets,
        "evidence": {"operator": "test", "reason": "", "changes": [], "score": 1.0},
        "provenance": [], "pair": pair, "modification": text,
        "negatives": [{"kind": "mined", "score": 0.5, "item": one} for one in negatives],
        "split": split, "score_clip": 0.5,
    }  # fmt: skip


def write(out: Path, rows, **settings) -> str:
    """Shards of ``rows`` in the run directory ``out``; gives its path."""
    operator = find("shards", "webdataset")
    step = operator(operator.Settings(**settings))
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=TRIPLETS)
    step(Tables(pa.table({}), table, "triplets"), Context("shards", 0, str(out)))
    return str(out)


def chain(items: Items, count: int, texts: int = 1, negatives: int = 2, first: int = 0):
    """Triplets from item n to n + 1, ``texts`` of each pair; the first negative is the
    reference."""
    own = {n: items(n) for n in range(first, first + count + negatives + 2)}
    return [
        triplet(
            [own[n]], [own[n + 1]], f"{n} to {n + 1}, said {said}",
            [own[n], *(own[n + 2 + k] for k in range(negatives - 1))] if negatives else [],
        )
        for n in range(first, first + count)
        for said in range(texts)
    ]  # fmt: skip


def spoil(run: str, data: bytes, manifest: bool = True) -> None:
    """Overwrite the middle of ``data`` wherever it stands in the shards."""
    told = store.read_json(f"{run}/shards/manifest.json")
    for shard in told["shards"]:
        path = Path(f"{run}/shards/{shard['name']}")
        whole = path.read_bytes().replace(data, data[:8] + bytes(len(data) - 8))
        path.write_bytes(whole)
        if manifest:
            shard["sha256"] = hashlib.sha256(whole).hexdigest()
    store.write_json(f"{run}/shards/manifest.json", told)
