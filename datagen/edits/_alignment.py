"""Which words two captions share, as positions of a text encoder's tokens.

Prompt-to-Prompt (arXiv:2208.01626) lets a word that both captions hold be painted where it was
painted for the first. "Refinement" aligns the captions and leaves new words to themselves;
"replacement" gives a word that stands for another the place of that one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: How byte-pair tokens of CLIP mark the last token of a word.
_WORD_END = "</w>"


@dataclass(frozen=True, eq=False)
class Alignment:
    """Of what the target's cross-attention maps are made. T: tokens that the text encoder reads.

    taken: (T, T) float32; column j says what the map of the target's token j takes of the maps of
    the reference's tokens. own: (T,) float32; 1 where the token keeps its own map, else 0.
    same: the encoder reads the same tokens in both captions.
    """

    taken: np.ndarray[Any, Any]
    own: np.ndarray[Any, Any]
    same: bool


@dataclass(frozen=True)
class _Caption:
    """A caption as tokens: ids of all T positions; words with the positions of their tokens;
    positions of the marks at the beginning and at the end; positions that only fill up.
    """

    ids: tuple[int, ...]
    words: tuple[tuple[str, ...], ...]
    places: tuple[tuple[int, ...], ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    filling: tuple[int, ...]


def align(
    tokenizers: Sequence[Any], reference: str, target: str, swapped: bool = True
) -> Alignment:
    """The alignment of two captions, as all ``tokenizers`` of a pipeline see it.

    swapped: a single word that stands for a single other one, between words that the captions
    share, takes over the map of that one. What tokenizers do not agree on keeps its own map.
    """
    found = [
        _aligned(_read(one, reference), _read(one, target), swapped=swapped) for one in tokenizers
    ]
    taken, own = found[0].taken.copy(), found[0].own.copy()
    for other in found[1:]:
        differs = (other.taken != taken).any(axis=0) | (other.own != own)
        taken[:, differs], own[differs] = 0, 1
    return Alignment(taken, own, all(one.same for one in found))


def common(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[int, int]]:
    """A longest common subsequence, as pairs of places in ``first`` and ``second``.

    Of several equally long ones the same one is taken each time.
    """
    # longest[i][j]: of first[i:] and second[j:].
    longest = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i in reversed(range(len(first))):
        for j in reversed(range(len(second))):
            if first[i] == second[j]:
                longest[i][j] = longest[i + 1][j + 1] + 1
            else:
                longest[i][j] = max(longest[i + 1][j], longest[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        if first[i] == second[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def swaps(pairs: Sequence[tuple[int, int]], before: int, after: int) -> list[tuple[int, int]]:
    """Places where one word stands for one other, between ``pairs`` of :func:`common` words.

    before, after: how many words the two captions have.
    """
    ends = [(-1, -1), *pairs, (before, after)]
    gaps = itertools.pairwise(ends)
    return [(i + 1, j + 1) for (i, j), (k, m) in gaps if k - i == 2 and m - j == 2]


def _aligned(reference: _Caption, target: _Caption, *, swapped: bool) -> Alignment:
    size = len(target.ids)
    taken = np.zeros((size, size), np.float32)
    words = common(reference.words, target.words)
    if swapped:
        words = words + swaps(words, len(reference.words), len(target.words))
    for i, j in words:
        _take(taken, reference.places[i], target.places[j])
    _take(taken, reference.first, target.first)
    _take(taken, reference.last, target.last)
    for place in set(reference.filling) & set(target.filling):
        taken[place, place] = 1
    own = (taken.sum(axis=0) == 0).astype(np.float32)
    return Alignment(taken, own, reference.ids == target.ids)


def _take(taken: np.ndarray[Any, Any], old: Sequence[int], new: Sequence[int]) -> None:
    """Give the tokens ``new`` the maps of the tokens ``old``; of other numbers equal shares."""
    if len(old) == len(new):
        taken[list(old), list(new)] = 1
    elif old and new:
        taken[np.ix_(list(old), list(new))] = 1 / len(new)


def _read(tokenizer: Any, caption: str) -> _Caption:
    """``caption`` as the pipeline's tokenizer gives it to the text encoder."""
    told = tokenizer(
        caption,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_attention_mask=True,
        return_special_tokens_mask=True,
    )
    ids, used, marks = (
        tuple(told[name]) for name in ("input_ids", "attention_mask", "special_tokens_mask")
    )
    said = [place for place in range(len(ids)) if used[place] and not marks[place]]
    around = [place for place in range(len(ids)) if used[place] and marks[place]]
    begin = said[0] if said else len(around) // 2
    words, places = _words(tokenizer.convert_ids_to_tokens([ids[place] for place in said]), said)
    return _Caption(
        ids,
        words,
        places,
        first=tuple(place for place in around if place < begin),
        last=tuple(place for place in around if place >= begin),
        filling=tuple(place for place in range(len(ids)) if not used[place]),
    )


def _words(
    tokens: Sequence[str], places: Sequence[int]
) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[int, ...], ...]]:
    """Tokens put together to words, with their places; without marks of words each is one."""
    marked = any(token.endswith(_WORD_END) for token in tokens)
    words: list[list[str]] = []
    where: list[list[int]] = []
    ended = True
    for token, place in zip(tokens, places, strict=True):
        if ended:
            words.append([])
            where.append([])
        words[-1].append(token)
        where[-1].append(place)
        ended = not marked or token.endswith(_WORD_END)
    return tuple(map(tuple, words)), tuple(map(tuple, where))
