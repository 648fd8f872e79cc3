"""Writing triplet shards: this project's writer against webdataset.TarWriter and tarfile.

Each triplet has a reference, a target and four negatives (the reference is the first of them),
read from disk by path, a modification text and a JSON of everything else. The baselines are
handed paths and ready JSON values; ours starts from the Arrow table of triplets, and also plans
the shards, checks every medium against its SHA-256, hashes the tar, syncs, renames, and writes
the manifest. `--sync` has the baselines sync their tar too.

    python benchmarks/shard_writing.py --triplets 3000 --rounds 3
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import io
import json
import os
import pstats
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import webdataset
from PIL import Image

from datagen import schema
from datagen.shards.webdataset import WebDatasetShards
from datagen.step import Context, Tables

NEGATIVES = 4
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def photos(folder: str) -> tuple[list[str], str]:
    """Paths of the real photos where they are, else of rendered ones; and which they are."""
    data = os.path.join(ROOT, os.environ.get("DATAGEN_TEST_DATA", "../shared/data"))
    real = os.path.join(data, "photos", "fashion", "images")
    if os.path.isdir(real):
        return sorted(os.path.join(real, name) for name in os.listdir(real)), "real photos"
    paths = []
    random = np.random.default_rng(0)
    for number in range(2000):
        coarse = random.integers(0, 255, (24, 18, 3), dtype=np.uint8)
        path = os.path.join(folder, f"{number}.jpg")
        Image.fromarray(coarse).resize((180, 240)).save(path, quality=90)
        paths.append(path)
    return paths, "rendered images"


def member(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        data = file.read()
    digest = hashlib.sha256(data).hexdigest()
    media = {"path": path, "offset": 0, "size": len(data), "sha256": digest,
             "modality": "image", "format": "jpeg", "width": 180, "height": 240}  # fmt: skip
    labels = '{"colour":"blue","season":"summer"}'
    caption = f"a product photo called {os.path.basename(path)}"
    return {"id": schema.item_id(digest, [caption], labels), "key": os.path.basename(path),
            "media": media, "caption": caption, "labels": labels}  # fmt: skip


def triplets(paths: Sequence[str], count: int) -> pa.Table:
    """Triplets over the photos, each photo used as often as any other."""
    known = [member(path) for path in paths]
    rows = []
    for number in range(count):
        chosen = [known[(number * 7 + step * 13) % len(known)] for step in range(NEGATIVES + 1)]
        pair = schema.pair_id([chosen[0]["id"]], [chosen[1]["id"]], str(number))
        text = f"make it blue rather than red, as number {number} says"
        negatives = [chosen[0], *chosen[2:]]
        rows.append(
            {
                "id": schema.triplet_id(pair, text), "references": [chosen[0]],
                "targets": [chosen[1]], "pair": pair, "modification": text,
                "evidence": {"operator": "one_word_diff", "reason": "red → blue", "score": 0.9,
                             "changes": [{"field": "caption", "removed": "red", "added": "blue"}]},
                "provenance": [{"step": "pair", "operator": "one_word_diff", "seed": 0}],
                "negatives": [{"kind": "mined", "score": 0.5, "item": one} for one in negatives],
                "split": "train", "score_clip": 0.25,
            }
        )  # fmt: skip
    fields = [*schema.TRIPLETS, schema.NEGATIVES, schema.SPLIT, ("score_clip", pa.float64())]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def ours(table: pa.Table, folder: str, max_size: int) -> str:
    operator = WebDatasetShards(WebDatasetShards.Settings(max_size=max_size))
    operator(Tables(table.slice(0, 0), table, "triplets"), Context(out_dir=folder))
    return os.path.join(folder, "shards")


def samples(table: pa.Table) -> list[tuple[str, dict[str, str], str, dict[str, Any]]]:
    """What the baselines are given: key, member name and path, text, JSON value."""
    out = []
    for row in table.to_pylist():
        named = {"reference.jpg": row["references"][0], "target.jpg": row["targets"][0]}
        for number, negative in enumerate(row["negatives"]):
            named[f"negative.{number}.jpg"] = negative["item"]
        paths = {name: one["media"]["path"] for name, one in named.items()}
        out.append((row["id"], paths, row["modification"], row))
    return out


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def tar_writer(given: list[Any], folder: str, max_size: int) -> str:
    with webdataset.ShardWriter(
        os.path.join(folder, "train-%06d.tar"), maxcount=10**9, maxsize=max_size, verbose=0
    ) as writer:
        for key, paths, text, value in given:
            media = {name: read(path) for name, path in paths.items()}
            writer.write({"__key__": key, **media, "txt": text, "json": value})
    return folder


def tar_file(given: list[Any], folder: str, max_size: int) -> str:
    number, size, archive = 0, max_size + 1, None
    for key, paths, text, value in given:
        if size > max_size:
            if archive is not None:
                archive.close()
            archive = tarfile.open(os.path.join(folder, f"train-{number:06d}.tar"), "w")  # noqa: SIM115
            number, size = number + 1, 0
        parts = {name: read(path) for name, path in paths.items()}
        parts |= {"txt": text.encode(), "json": json.dumps(value).encode()}
        for name, data in parts.items():
            info = tarfile.TarInfo(f"{key}.{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))  # type: ignore[union-attr]
            size += len(data) + 512
    if archive is not None:
        archive.close()
    return folder


def synced(write: Callable[..., str]) -> Callable[..., str]:
    def writing(given: Any, folder: str, max_size: int) -> str:
        out = write(given, folder, max_size)
        for name in os.listdir(out):
            handle = os.open(os.path.join(out, name), os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        return out

    return writing


def timed(
    write: Callable[..., str], given: Any, max_size: int, count: int
) -> tuple[float, float, int]:
    """Seconds, of the CPU too, and bytes of the tars; the number of samples is checked."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("DATAGEN_BENCH_DIR")) as folder:
        start, busy = time.perf_counter(), time.process_time()
        out = write(given, folder, max_size)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        size = keys = 0
        for name in os.listdir(out):
            if name.endswith(".tar"):
                size += os.path.getsize(os.path.join(out, name))
                with tarfile.open(os.path.join(out, name)) as archive:
                    keys += sum(one.endswith(".txt") for one in archive.getnames())
        if keys != count:
            raise SystemExit(f"{write}: {keys} samples instead of {count}")
        return seconds, busy, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triplets", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-size", type=int, default=128_000_000)
    parser.add_argument("--sync", action="store_true", help="sync the baselines' tars as well")
    parser.add_argument("--profile", action="store_true", help="print where ours spends its time")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths, kind = photos(folder)
        table = triplets(paths, chosen.triplets)
        given = samples(table)
        if chosen.profile:
            profile = cProfile.Profile()
            profile.runcall(ours, table, folder, chosen.max_size)
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)
            shutil.rmtree(os.path.join(folder, "shards"))
        maybe = synced if chosen.sync else (lambda write: write)
        rivals: dict[str, tuple[Callable[..., str], Any]] = {
            "datagen (verified, hashed, synced)": (ours, table),
            "webdataset.ShardWriter (TarWriter)": (maybe(tar_writer), given),
            "tarfile": (maybe(tar_file), given),
        }
        seconds: dict[str, list[float]] = {name: [] for name in rivals}
        busy: dict[str, list[float]] = {name: [] for name in rivals}
        sizes = {}
        for _ in range(chosen.rounds):
            for name, (write, data) in rivals.items():
                took, cpu, sizes[name] = timed(write, data, chosen.max_size, chosen.triplets)
                seconds[name].append(took)
                busy[name].append(cpu)
    base = statistics.median(seconds["webdataset.ShardWriter (TarWriter)"])
    print(f"{chosen.triplets} triplets of {NEGATIVES + 2} media, {kind}, "
          f"median of {chosen.rounds} rounds, sync of baselines: {chosen.sync}\n")  # fmt: skip
    print("| writer | triplets/s | MB/s | seconds (min–max) | CPU seconds | vs TarWriter |")
    print("|---|---|---|---|---|---|")
    for name, times in seconds.items():
        middle = statistics.median(times)
        rate, speed = chosen.triplets / middle, sizes[name] / middle / 1e6
        spread = f"{middle:.2f} ({min(times):.2f}–{max(times):.2f})"
        cpu = statistics.median(busy[name])
        print(
            f"| {name} | {rate:,.0f} | {speed:.0f} | {spread} | {cpu:.2f} | {base / middle:.2f} |"
        )


if __name__ == "__main__":
    main()
