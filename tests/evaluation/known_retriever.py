"""A retriever whose vectors hang on names alone, and plain sorting to hold evaluations against."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.containers import MediaError
from datagen.evaluation.benchmark import Benchmark

Array = np.ndarray[Any, Any]
WIDTH = 12
ROOT = Path(__file__).resolve().parents[2]
CIR = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data") / "cir"


def official(*parts: str) -> Path:
    """An official file or folder; skips the test where it is absent."""
    path = CIR.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {'/'.join(parts)} (DATAGEN_TEST_DATA)")
    return path


@functools.cache
def vector(name: str) -> Array:
    """A direction that no other name has."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    found: Array = np.random.default_rng(seed).normal(size=WIDTH)
    return found / np.linalg.norm(found)


class Known:
    """Media are the vectors of their files' stems, queries the sum of references and text.

    broken: stems that cannot be read; asked: the media and queries that were asked for.
    """

    def __init__(self, broken: Iterable[str] = ()) -> None:
        self.broken = set(broken)
        self.asked: list[Any] = []

    def targets(
        self, media: Sequence[Mapping[str, Any] | None], texts: Sequence[str | None] | None = None
    ) -> Array:
        captions = texts or [None] * len(media)
        self.asked += list(zip(media, captions, strict=True))
        rows = [
            vector(text or "") if place is None else self._of(place)
            for place, text in zip(media, captions, strict=True)
        ]
        return np.array(rows, dtype=np.float32).reshape(-1, WIDTH)

    def queries(
        self, references: Sequence[Sequence[Mapping[str, Any]]], texts: Sequence[str | None]
    ) -> Array:
        self.asked += list(zip(references, texts, strict=True))
        return np.array(
            [
                query([self._name(place) for place in places], text)
                for places, text in zip(references, texts, strict=True)
            ],
            dtype=np.float32,
        ).reshape(-1, WIDTH)

    def _of(self, place: Mapping[str, Any]) -> Array:
        return vector(self._name(place))

    def _name(self, place: Mapping[str, Any]) -> str:
        name = Path(place["path"]).stem
        if name in self.broken:
            raise MediaError("corrupt", name)
        return name


def query(references: Sequence[str], text: str | None) -> Array:
    """The direction of a query; empty texts and references count nothing."""
    parts = [vector(name) for name in references] + ([vector(text)] if text else [])
    found: Array = np.sum(parts, axis=0)
    return found / np.linalg.norm(found)


@functools.lru_cache(maxsize=8)
def _matrix(names: tuple[str, ...]) -> Array:
    return np.array([vector(name) for name in names], dtype=np.float32)


def ranked(asked: Array, names: Sequence[str], without: Iterable[str] = ()) -> list[str]:
    """``names`` without some, the nearest first."""
    away = set(without)
    order = np.argsort(-(_matrix(tuple(names)) @ asked), kind="stable")
    return [names[place] for place in order if names[place] not in away]


def share(found: Sequence[bool | float]) -> float:
    return float(np.mean(found))


def first(read: Benchmark, number: int) -> Benchmark:
    """The benchmark with the first ``number`` queries of each part."""
    parts = [dataclasses.replace(part, asked=part.asked[:number]) for part in read.parts]
    return dataclasses.replace(read, parts=tuple(parts))


def touch(folder: Path, names: Iterable[str]) -> None:
    """Empty files: media that are there, and that nobody reads."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def told(lines: Sequence[Any], kind: str = "composed") -> dict[tuple[str, str], float]:
    """Figures by part and metric."""
    return {(line.part, line.metric): line.values[kind] for line in lines if kind in line.values}
