"""Vectors of a benchmark's media and queries from a retriever, a chunk at a time.

Where a retriever cannot read a chunk, its media are asked for one by one, so that each broken one
is named and the others are not lost with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from datagen.containers import MediaError
from datagen.errors import DatagenError
from datagen.evaluation import crops
from datagen.evaluation.benchmark import Picture
from datagen.training.retriever import Retriever

Array = np.ndarray[Any, Any]
#: References and text of one query as it is put to a retriever.
Key = tuple[tuple[str, ...], str | None]
#: Called with what has been done, and of how many.
Say = Callable[[int, int], None]

#: Media, and queries, that a retriever is given at a time.
CHUNK = 256


def of_media(
    retriever: Retriever, pictures: Mapping[str, Picture], names: Sequence[str], say: Say
) -> tuple[Array, dict[int, str]]:
    """Vectors (n, d) of ``names`` as items of a gallery; what is wrong with broken ones, by number.

    Those of broken media are zeros.
    """

    def embed(some: Sequence[str]) -> Array:
        chosen = [pictures[name] for name in some]
        texts = [picture.text for picture in chosen]
        with crops.places(chosen) as media:
            return retriever.targets(media, texts if any(texts) else None)

    return _chunked(embed, names, say)


def of_queries(
    retriever: Retriever, pictures: Mapping[str, Picture], keys: Sequence[Key], say: Say
) -> tuple[Array, dict[int, str]]:
    """Vectors (n, d) of queries; what is wrong with those that cannot be read, by number.

    Theirs are zeros.
    """

    def embed(some: Sequence[Key]) -> Array:
        flat = [name for names, _ in some for name in names]
        with crops.places([pictures[name] for name in flat]) as media:
            places = iter(media)
            lists = [[place for place in _take(places, len(names)) if place] for names, _ in some]
            return retriever.queries(lists, [text for _, text in some])

    return _chunked(embed, keys, say)


def _take(places: Any, number: int) -> list[Any]:
    return [next(places) for _ in range(number)]


def _chunked(
    embed: Callable[[Sequence[Any]], Array], asked: Sequence[Any], say: Say
) -> tuple[Array, dict[int, str]]:
    out: Array | None = None
    wrong: dict[int, str] = {}
    for at in range(0, len(asked), CHUNK):
        some = asked[at : at + CHUNK]
        for rows, vectors in _sound(embed, some, at, wrong):
            if out is None:
                out = np.zeros((len(asked), vectors.shape[1]), dtype=np.float32)
            if vectors.shape[1] != out.shape[1]:
                raise DatagenError(
                    f"the retriever gives vectors of {out.shape[1]} and of {vectors.shape[1]} "
                    "dimensions; queries and galleries must share one space"
                )
            out[rows] = vectors
        say(min(at + CHUNK, len(asked)), len(asked))
    return (np.zeros((len(asked), 0), dtype=np.float32) if out is None else out), wrong


def _sound(
    embed: Callable[[Sequence[Any]], Array], some: Sequence[Any], at: int, wrong: dict[int, str]
) -> Iterable[tuple[list[int], Array]]:
    """(numbers, vectors) of those of ``some`` that can be read; ``wrong`` gains the others."""
    found: list[tuple[list[int], Array]] = []
    try:
        found.append((list(range(at, at + len(some))), np.asarray(embed(some))))
    except MediaError:
        for number, one in enumerate(some, start=at):
            try:
                found.append(([number], np.asarray(embed([one]))))
            except MediaError as error:
                wrong[number] = str(error)
    for numbers, vectors in found:
        fine: Array = np.asarray(np.isfinite(vectors).all(axis=1))
        for number, well in zip(numbers, fine, strict=True):
            if not well:
                wrong[number] = "the model gave no finite vector"
        yield [number for number, well in zip(numbers, fine, strict=True) if well], vectors[fine]
