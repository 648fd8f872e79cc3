"""The words of captions: the form in which they are compared, and what counts as a number."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen.pairing._table import Array

#: Captions that are looked at together.
PIECE = 1 << 17


def normalise(texts: pa.Array, *, ignore_case: bool = True, drop: str = ".,") -> pa.Array:
    """Bring captions to the form in which they are compared.

    Unicode NFC, lower case (unless told otherwise), the characters ``drop`` removed, words joined
    by single spaces. Takes and returns a large_string array (n,); null becomes empty.
    """
    done = []
    for start in range(0, len(texts), PIECE):
        piece = pc.fill_null(texts.slice(start, PIECE), "")
        if not pc.all(pc.string_is_ascii(piece)).as_py():
            piece = pc.utf8_normalize(piece, form="NFC")
        if ignore_case:
            piece = pc.utf8_lower(piece)
        for character in drop:
            piece = pc.replace_substring(piece, character, "")
        words = pc.utf8_split_whitespace(piece)
        joined = pc.binary_join(words, pa.scalar(" ", pa.large_string()))
        # A space at either end leaves an empty word there.
        done.append(pc.utf8_trim(joined, characters=" "))
    return pa.concat_arrays(done) if done else pa.array([], pa.large_string())


def word_counts(normalised: pa.Array) -> Array:
    """Number of words (int64, n) of normalised captions."""
    spaces = pc.count_substring(normalised, " ").to_numpy(zero_copy_only=False).astype(np.int64)
    empty = pc.equal(pc.binary_length(normalised), 0).to_numpy(zero_copy_only=False)
    return np.where(empty, 0, spaces + 1)


def distinct(normalised: pa.Array) -> tuple[pa.Array, Array]:
    """Distinct captions in the order of their text, and the place of each input among them."""
    if not len(normalised):
        return normalised, np.empty(0, np.int64)
    order = pc.sort_indices(normalised)
    ordered = normalised.take(order)
    new = np.ones(len(ordered), bool)
    new[1:] = pc.not_equal(ordered.slice(1), ordered.slice(0, len(ordered) - 1)).to_numpy(
        zero_copy_only=False
    )
    codes = np.empty(len(ordered), np.int64)
    codes[order.to_numpy()] = np.cumsum(new) - 1
    return ordered.filter(pa.array(new)), codes


def is_number(words: pa.Array) -> Array:
    """Which words (bool, n) are numbers: digits and signs, with at most two letters after them.

    So ``10``, ``1.5``, ``50%``, ``#3``, ``2nd`` and ``4k`` are; ``two`` and ``mp3`` are not.
    """
    plain = pc.match_substring_regex(words, r"^[^\pL\pN]*\pN[^\pL]*\pL{0,2}[^\pL\pN]*$")
    return np.asarray(plain.to_numpy(zero_copy_only=False), bool)
