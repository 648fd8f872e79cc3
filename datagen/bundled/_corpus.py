"""Questions and answers to train and measure small language models on, made once and kept."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import store
from datagen.bundled import _questions, _scenes
from datagen.schema import content_id
from datagen.sources.tinyworld.scene import Dice

#: Questions that are made at a time.
_PART = 2000


def _part(work: tuple[int, range]) -> pa.Table:
    seed, numbers = work
    made = (_questions.example(Dice("tinywriter", seed, number)) for number in numbers)
    rows = [vars(one) for one in made if one is not None]
    names = ("prompt", "asked", "answer")
    return pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in names})


def made(seed: int, count: int, folder: str, processes: int) -> pa.Table:
    """Questions (columns prompt, asked, answer) of ``count`` pairs; those of which no text is
    right are left out.

    seed: 0 and up, of :data:`_scenes.TRAINING_SEEDS`. They are kept in ``folder``, and are the
    same on any number of processes.
    """
    seed = _scenes.TRAINING_SEEDS[seed]
    stamp = content_id("pairs", str(seed), str(_PART), str(_questions.VERSION))[:12]
    os.makedirs(folder, exist_ok=True)
    parts = [range(at, min(at + _PART, count)) for at in range(0, count, _PART)]
    paths = [Path(folder, f"{stamp}-{part.start:07d}-{part.stop:07d}.parquet") for part in parts]
    waiting = [(path, (seed, part)) for path, part in zip(paths, parts, strict=True)
               if not path.exists()]  # fmt: skip
    for path, table in _written(waiting, processes):
        with store.writing(str(path)) as file:
            pq.write_table(table, file, compression="zstd")
    return pa.concat_tables(pq.read_table(path) for path in paths)


def _written(waiting: list[Any], processes: int) -> Iterator[tuple[Path, pa.Table]]:
    if not waiting:
        return
    names, work = zip(*waiting, strict=True)
    if processes < 2:
        yield from zip(names, map(_part, work), strict=True)
        return
    with multiprocessing.get_context("spawn").Pool(min(processes, os.cpu_count() or 1)) as pool:
        yield from zip(names, pool.imap(_part, work), strict=True)
