"""Loading triplets for training: this project's loader against open_clip's way and webdataset's.

All read the same shards (JPEG photos with a reference, a target and, with --negatives, hard
negatives whose first is the reference), cut with open_clip's random crop (area 0.9 to 1), and give
normalised float32 batches of 224 x 224. open_clip's own pipeline does not start with the installed
webdataset, so its transform runs in a pipeline built of webdataset's parts, as its loader is;
plain webdataset uses torchvision's transforms. Workers are the same number for all.

    python benchmarks/loader.py --triplets 1500 --workers 4 --rounds 3

samples/s: batches taken as fast as they come. waiting: share of the time that a fake training
step, which sleeps --step seconds a batch as a GPU's host does, waits for its batch. CPU: seconds
of all processes for 1,000 samples, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from datagen import models, schema
from datagen.preprocess import Geometry
from datagen.shards.webdataset import WebDatasetShards
from datagen.step import Context, Tables
from datagen.training.batch import normalised
from datagen.training.loader import Augmentation, Loader, LoaderSettings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIZE = 224
GEOMETRY = Geometry(
    SIZE, SIZE, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)


def photos(folder: str, size: tuple[int, int], count: int) -> list[str]:
    """JPEG files of ``size`` made of the real photos where they are, else of rendered ones."""
    data = os.path.join(ROOT, os.environ.get("DATAGEN_TEST_DATA", "../shared/data"))
    real = os.path.join(data, "photos", "coco", "images")
    found = sorted(os.listdir(real)) if os.path.isdir(real) else []
    paths, random = [], np.random.default_rng(0)
    for number in range(count):
        if found:
            picture = Image.open(os.path.join(real, found[number % len(found)])).convert("RGB")
        else:
            coarse = random.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse)
        path = os.path.join(folder, f"{number}.jpg")
        picture.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths


def member(path: str, number: int, size: tuple[int, int]) -> dict[str, Any]:
    with open(path, "rb") as file:
        data = file.read()
    media = {"path": path, "offset": 0, "size": len(data), "modality": "image", "format": "jpeg",
             "sha256": hashlib.sha256(data).hexdigest(), "width": size[0],
             "height": size[1]}  # fmt: skip
    caption = f"photo {number}"
    return {"id": schema.item_id(media["sha256"], [caption], "{}"), "key": str(number),
            "source": "photos", "media": media, "caption": caption, "labels": "{}"}  # fmt: skip


def shards(folder: str, chosen: argparse.Namespace) -> str:
    """A folder of at least as many shards as workers."""
    size = (chosen.width, chosen.height)
    paths = photos(folder, size, 160)
    known = [member(path, number, size) for number, path in enumerate(paths)]
    rows = []
    for number in range(chosen.triplets):
        some = [known[(number * 7 + step * 13) % len(known)] for step in range(6)]
        pair = schema.pair_id([some[0]["id"]], [some[1]["id"]], str(number))
        text = f"make it blue rather than red, as number {number} says"
        negatives = [some[0], *some[2:]][: chosen.negatives]
        rows.append(
            {"id": schema.triplet_id(pair, text), "references": some[:1], "targets": some[1:2],
             "pair": pair, "modification": text, "provenance": [], "split": "train",
             "evidence": {"operator": "benchmark", "reason": "", "changes": [], "score": 0.5},
             "negatives": [{"kind": "mined", "score": 0.5, "item": one} for one in negatives]}
        )  # fmt: skip
    table = pa.Table.from_pylist(
        rows, schema=pa.schema([*schema.TRIPLETS, schema.NEGATIVES, schema.SPLIT])
    )
    count = -(-chosen.triplets // (2 * max(1, chosen.workers)))
    settings = WebDatasetShards.Settings(max_count=count)
    WebDatasetShards(settings)(
        Tables(table.slice(0, 0), table, "triplets"), Context(out_dir=folder)
    )
    return os.path.join(folder, "shards")


Batches = Iterator[tuple[int, list[Any]]]


def ours(folder: str, chosen: argparse.Namespace, draft: float | None = None) -> Batches:
    settings = LoaderSettings(
        batch_size=chosen.batch, negatives=chosen.negatives, augmentation=Augmentation(),
        draft=draft, workers=chosen.workers, drop_last=False, start="fork",
    )  # fmt: skip
    loader = Loader(folder, GEOMETRY, settings)
    for batch in loader.batches():
        yield len(batch["keys"]), [normalised(batch["pixels"], GEOMETRY)]
    loader.close()


def pipeline(folder: str, chosen: argparse.Namespace, decode: str, transform: Any) -> Batches:
    """Shards shared out among workers, samples shuffled, media decoded, batches put together."""
    import torch
    import webdataset

    names = sorted(name for name in os.listdir(folder) if name.endswith(".tar"))
    kept = ["reference.jpg", "target.jpg"]
    kept += [f"negative.{number}.jpg" for number in range(chosen.negatives)]
    data = webdataset.DataPipeline(
        webdataset.SimpleShardList([os.path.join(folder, name) for name in names], seed=0),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(200),
        webdataset.map(partial(only, kept)),
        webdataset.decode(decode),
        webdataset.map(partial(fitted, kept, transform)),
        webdataset.batched(chosen.batch, collation_fn=webdataset.filters.default_collation_fn),
    )
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=chosen.workers)
    for *pictures, texts in loader:
        yield len(texts), pictures


def only(kept: list[str], sample: dict[str, Any]) -> dict[str, Any]:
    return {name: sample[name] for name in ("__key__", *kept, "txt")}


def fitted(kept: list[str], transform: Any, sample: dict[str, Any]) -> tuple[Any, ...]:
    return (*(transform(sample[name]) for name in kept), sample["txt"])


def open_clip_way(folder: str, chosen: argparse.Namespace) -> Batches:
    import open_clip

    transform = open_clip.image_transform(
        SIZE, is_train=True, mean=GEOMETRY.mean, std=GEOMETRY.std,
        aug_cfg=open_clip.AugmentationCfg(scale=(0.9, 1.0)),
    )  # fmt: skip
    return pipeline(folder, chosen, "pilrgb", transform)


def webdataset_way(folder: str, chosen: argparse.Namespace) -> Batches:
    from torchvision import transforms

    how = transforms.InterpolationMode.BICUBIC
    transform = transforms.Compose(
        [transforms.RandomResizedCrop(SIZE, scale=(0.9, 1.0), interpolation=how),
         transforms.ToTensor(), transforms.Normalize(GEOMETRY.mean, GEOMETRY.std)]
    )  # fmt: skip
    return pipeline(folder, chosen, "pil", transform)


def cpu() -> float:
    """CPU seconds of this process and of its ended children."""
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def measured(batches: Batches, step: float, total: int) -> tuple[float, float, float]:
    """Samples a second, the share of waiting, and CPU seconds for 1,000 samples.

    The time to the first batch, in which workers start, counts for neither of the first two.
    """
    busy = cpu()
    seen = waited = 0
    begin: float | None = None
    last = time.perf_counter()
    for count, pictures in batches:
        ready = time.perf_counter()
        if begin is None:
            begin = ready
            first = count
        else:
            waited += ready - last
        seen += count
        assert all(len(one) for one in pictures)
        time.sleep(step)
        last = time.perf_counter()
    if seen != total or begin is None:
        raise SystemExit(f"{seen} samples instead of {total}")
    took = last - begin
    return (seen - first) / took, waited / took, (cpu() - busy) / seen * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triplets", type=int, default=1500)
    parser.add_argument("--negatives", type=int, default=0, help="0 to 5 a triplet")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", type=float, default=0.25, help="of the fake training, seconds")
    chosen = parser.parse_args()
    models.prepare()
    rivals: dict[str, Callable[..., Batches]] = {
        "datagen": ours,
        "datagen, whole decode": partial(ours, draft=0.0),
        "open_clip's transform in webdataset": open_clip_way,
        "webdataset, torchvision": webdataset_way,
    }
    with tempfile.TemporaryDirectory(dir=os.environ.get("DATAGEN_BENCH_DIR")) as folder:
        place = shards(folder, chosen)
        list(ours(place, chosen))  # indexes are made, files are in memory
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in rivals}
        for _ in range(chosen.rounds):
            for name, way in rivals.items():
                speed, _, work = measured(way(place, chosen), 0.0, chosen.triplets)
                _, waiting, _ = measured(way(place, chosen), chosen.step, chosen.triplets)
                found[name].append((speed, waiting, work))
    print(f"{chosen.triplets} triplets, {chosen.negatives} negatives each, {chosen.width} x "
          f"{chosen.height} JPEG, batch {chosen.batch}, {chosen.workers} workers, median of "
          f"{chosen.rounds} rounds, training step {chosen.step} s\n")  # fmt: skip
    print("| loader | samples/s (min–max) | vs open_clip | waiting | CPU s per 1,000 |")
    print("|---|---|---|---|---|")
    base = statistics.median(row[0] for row in found["open_clip's transform in webdataset"])
    for name, rows in found.items():
        speeds, waits, works = zip(*rows, strict=True)
        speed = statistics.median(speeds)
        print(f"| {name} | {speed:,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f}) | "
              f"{speed / base:.2f} | {statistics.median(waits):.0%} | "
              f"{statistics.median(works):.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
