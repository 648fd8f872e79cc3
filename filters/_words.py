"""Words of texts and captions as the filters on texts compare them."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa


def words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word for token in plain.split() if (word := core(token))]


def core(token: str) -> str:
    """The token without punctuation and signs around it."""
    begin, end = 0, len(token)
    while begin < end and is_edge(token[begin]):
        begin += 1
    while end > begin and is_edge(token[end - 1]):
        end -= 1
    return token[begin:end]


def is_edge(letter: str) -> bool:
    # Vowel signs of many scripts are marks, and part of the word.
    return not letter.isalnum() and unicodedata.category(letter)[0] != "M"


def longest_run(words: list[str], caption: list[str]) -> int:
    """Length of the longest run of words that both have."""
    held = f" {' '.join(caption)} "
    best = 0
    for end in range(1, len(words) + 1):
        if end > best and f" {' '.join(words[end - best - 1 : end])} " in held:
            best += 1
    return best


def captions(column: pa.ChunkedArray) -> list[list[str]]:
    """Captions of the members of every row; members without one are left out."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = lists.flatten().field("caption").to_pylist()
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths).tolist()
    return [
        [one for one in flat[begin:end] if one]
        for begin, end in zip([0, *ends], ends, strict=False)
    ]
