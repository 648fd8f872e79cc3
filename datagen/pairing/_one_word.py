"""Captions that differ in exactly one word: the mathematics behind ``one_word_diff``.

A caption of n words has n masked forms, one for each word left out. Two captions differ in
exactly one position when they share a masked form. The hash of a caption is the sum over its
words of ``hash(word) * factor(position)`` modulo 2^64, so that of a masked form is the total less
one term: no string is ever masked. Equal hashes are only candidates; words decide.

The space of hashes is cut into parts. Each part scans all words and keeps the masked forms of its
own range, so that parts need no exchange and hold a bounded number of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen import store
from datagen.pairing._table import Array, blocks, expand, mix64, seed64
from datagen.pairing._words import PIECE, is_number, word_counts

#: Masked forms that one part is meant to hold: about 200 MB while they are sorted.
PART_WORDS = 1 << 23

#: Words that are looked at together while hashing, comparing and cutting.
BLOCK = 1 << 20

#: Caption pairs that one part will list; more is a matter for ``max_per_caption``.
MOST_PAIRS = 100_000_000

REASON = "captions differ in one word: '"

#: What a changed word may be: any word, a minor one (articles), one that never counts (numbers).
PLAIN, MINOR, NEVER = 0, 1, 2


@dataclass(frozen=True)
class Tokens:
    """Captions as numbers.

    words: rows of the vocabulary, all captions in a row (int32, w); starts: where each caption
    begins (int64, n + 1); totals: caption hashes (uint64, n); hashes and kinds: hash (uint64) and
    kind (uint8: PLAIN, MINOR, NEVER) of every word of the vocabulary.
    """

    words: Array
    starts: Array
    totals: Array
    hashes: Array
    kinds: Array

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def parts(self) -> int:
        """Into how many parts the work is cut: by the data's size alone."""
        return max(1, -(-len(self.words) // PART_WORDS))

    def write(self, folder: str) -> None:
        """Store the arrays as plain NumPy files in ``folder``."""
        for name, array in vars(self).items():
            store.write_npy(store.join(folder, f"{name}.npy"), array)

    @staticmethod
    def open(folder: str) -> Tokens:
        """Memory-map what :meth:`write` stored."""
        names = ("words", "starts", "totals", "hashes", "kinds")
        local = store.local_copy(folder, [f"{name}.npy" for name in names])
        return Tokens(
            *(np.load(f"{local}/{name}.npy", mmap_mode="r", allow_pickle=False) for name in names)
        )

    def fingerprint(self) -> str:
        """A hash of the content, for the name of the folder."""
        digest = hashlib.blake2b(digest_size=10)
        for array in vars(self).values():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def tokenise(
    normalised: pa.Array, *, skip_digits: bool = False, minor: Sequence[str] = ()
) -> tuple[Tokens, pa.Array]:
    """Turn normalised captions into :class:`Tokens`, and give their vocabulary.

    ``skip_digits`` marks numbers as words that never count as a change; ``minor`` are words of
    which two make no change.
    """
    encoded: list[pa.Array] = []
    lengths = [np.empty(0, np.int64)]
    for start in range(0, len(normalised), PIECE):
        piece = normalised.slice(start, PIECE)
        split = pc.split_pattern(piece, " ")
        count = word_counts(piece)
        flat = split.flatten()
        if (count == 0).any():
            flat = flat.filter(pc.not_equal(flat, ""))
        encoded.append(flat.dictionary_encode())
        lengths.append(count)
    kind = pa.dictionary(pa.int32(), pa.large_string())
    whole = pa.chunked_array(encoded, kind).unify_dictionaries()
    vocabulary = whole.chunk(0).dictionary if whole.num_chunks else pa.array([], pa.large_string())
    words = [chunk.indices.to_numpy() for chunk in whole.chunks]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    flat_words = np.concatenate([np.empty(0, np.int32), *words])
    hashes = _word_hashes(vocabulary)
    tokens = Tokens(
        flat_words,
        starts,
        _totals(flat_words, starts, hashes),
        hashes,
        _kinds(vocabulary, skip_digits, minor),
    )
    return tokens, vocabulary


def _word_hashes(vocabulary: pa.Array) -> Array:
    data = b"".join(
        hashlib.blake2b(word.encode(), digest_size=8).digest() for word in vocabulary.to_pylist()
    )
    return np.frombuffer(data, "<u8").astype(np.uint64)


def _kinds(vocabulary: pa.Array, skip_digits: bool, minor: Sequence[str]) -> Array:
    kinds = np.zeros(len(vocabulary), np.uint8)
    if minor:
        found = pc.is_in(vocabulary, value_set=pa.array(list(minor), vocabulary.type))
        kinds[found.to_numpy(zero_copy_only=False)] = MINOR
    if skip_digits:
        kinds[is_number(vocabulary)] = NEVER
    return kinds


def _terms(words: Array, starts: Array, low: int, high: int, hashes: Array) -> Array:
    """``hash(word) * factor(position)`` of the words of captions ``low`` to ``high``."""
    first, last = int(starts[low]), int(starts[high])
    lengths = np.diff(starts[low : high + 1])
    position = np.arange(first, last) - np.repeat(starts[low:high], lengths)
    factors = mix64(np.arange(int(lengths.max(initial=0)), dtype=np.uint64))
    terms: Array = hashes[words[first:last]]
    terms *= factors[position]
    return terms


def _totals(words: Array, starts: Array, hashes: Array) -> Array:
    out = np.zeros(len(starts) - 1, np.uint64)
    for low, high in blocks(np.diff(starts), BLOCK):
        sums = np.zeros(int(starts[high] - starts[low]) + 1, np.uint64)
        np.cumsum(_terms(words, starts, low, high, hashes), out=sums[1:])
        edges = starts[low : high + 1] - starts[low]
        out[low:high] = sums[edges[1:]] - sums[edges[:-1]]
    return out


@dataclass(frozen=True)
class Part:
    """What one part found.

    left, right: places of captions, ``left < right`` (int32, m); position: the word, from 0, in
    which they differ (int32, m); found: pairs there are before anything is dropped; numbers,
    minor: pairs dropped because a number changes, or one minor word into another; overflow: there
    are more than MOST_PAIRS, and none is listed.
    """

    left: Array
    right: Array
    position: Array
    found: int = 0
    numbers: int = 0
    minor: int = 0
    overflow: bool = False

    def filtered(self, keep: Array) -> Part:
        """The pairs for which ``keep`` (bool, m) holds."""
        return replace(
            self, left=self.left[keep], right=self.right[keep], position=self.position[keep]
        )

    def slice(self, low: int, high: int) -> Part:
        """Pairs ``low`` to ``high``."""
        return replace(
            self,
            left=self.left[low:high],
            right=self.right[low:high],
            position=self.position[low:high],
        )


def part_pairs(
    part: int, *, folder: str, parts: int, max_per_caption: int | None = None, seed: int = 0
) -> Part:
    """Caption pairs of one part, from the tokens stored in ``folder``."""
    return pairs_of(Tokens.open(folder), part, parts, max_per_caption, seed)


def one_word_pairs(
    captions: Sequence[str] | pa.Array,
    *,
    part: int = 0,
    parts: int = 1,
    max_per_caption: int | None = None,
    skip_digits: bool = False,
    skip_words: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Array, Array]:
    """Pairs of distinct, normalised captions that differ in exactly one word.

    Returns places of captions (int64, m × 2, first below second) and the position, from 0, of the
    word (int32, m). Each pair is in exactly one of ``parts`` parts.
    """
    texts = captions if isinstance(captions, pa.Array) else pa.array(list(captions), pa.string())
    tokens, _ = tokenise(texts.cast(pa.large_string()), skip_digits=skip_digits, minor=skip_words)
    found = pairs_of(tokens, part, parts, max_per_caption, seed)
    if found.overflow:
        raise ValueError(f"{found.found} caption pairs; set max_per_caption")
    return np.stack([found.left, found.right], axis=1).astype(np.int64), found.position


def pairs_of(tokens: Tokens, part: int, parts: int, max_per_caption: int | None, seed: int) -> Part:
    """The caption pairs whose masked hash lies in part ``part`` of ``parts``."""
    owner, caption, position = _groups(tokens, part, parts)
    word = tokens.words[tokens.starts[caption] + position]
    kind = tokens.kinds[word]
    groups = int(owner[-1]) + 1 if len(owner) else 0
    size = np.bincount(owner, minlength=groups)
    size_used = np.bincount(owner[kind != NEVER], minlength=groups)
    size_minor = np.bincount(owner[kind == MINOR], minlength=groups)
    found, used, minor = (int((n * (n - 1) // 2).sum()) for n in (size, size_used, size_minor))
    keep = kind != NEVER
    owner, caption, position, kind = owner[keep], caption[keep], position[keep], kind[keep]
    # In a group everyone's order is by a seeded hash of the caption, never by its place.
    turn = mix64(tokens.totals[caption] ^ seed64(seed))
    order = np.lexsort((caption, turn, owner))
    owner, caption, position, kind = owner[order], caption[order], position[order], kind[order]
    nothing = np.empty(0, np.int32)
    counts, start = _partners(owner, max_per_caption)
    if int(counts.sum()) > MOST_PAIRS:
        return Part(nothing, nothing, nothing, found, found - used, minor, overflow=True)
    size_of = np.bincount(owner, minlength=groups)[owner]
    pieces: list[tuple[Array, Array, Array]] = [(nothing, nothing, nothing)]
    for low, high in blocks(counts, BLOCK):
        one, step = expand(counts[low:high])
        one += low
        two = start[one] + (one - start[one] + 1 + step) % size_of[one]
        wanted = (kind[one] != MINOR) | (kind[two] != MINOR)
        one, two = one[wanted], two[wanted]
        a, b = caption[one].astype(np.int32), caption[two].astype(np.int32)
        pieces.append((np.minimum(a, b), np.maximum(a, b), position[one].astype(np.int32)))
    left, right, where = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Part(left, right, where, found, found - used, minor)


def _partners(owner: Array, most: int | None) -> tuple[Array, Array]:
    """How many of the next ones in its group each entry is paired with; where its group starts.

    All that follow in a small group. In a group of more than ``most`` + 1 entries stand in a
    ring, and each is paired with the next half of ``most``: it then has about ``most`` partners,
    and no one lists pairs that are going to be dropped.
    """
    _, first, size = np.unique(owner, return_index=True, return_counts=True)
    start = np.repeat(first, size)
    of_group = np.repeat(size, size)
    following = of_group - 1 - (np.arange(len(owner)) - start)
    if most is None:
        return following, start
    half = -(-most // 2)
    return np.where(of_group > most + 1, half, following), start


def _groups(tokens: Tokens, part: int, parts: int) -> tuple[Array, Array, Array]:
    """Masked forms that two or more captions share: group number, caption and position of each."""
    hashes, places = _masked_hashes(tokens, part, parts)
    order = np.argsort(hashes)
    hashes, places = hashes[order], places[order]
    equal = hashes[1:] == hashes[:-1]
    shared = np.zeros(len(hashes), bool)
    shared[1:] |= equal
    shared[:-1] |= equal
    hashes, places = hashes[shared], places[shared]
    run = np.zeros(len(hashes), np.int64)
    run[1:] = np.cumsum(hashes[1:] != hashes[:-1])
    caption = np.searchsorted(tokens.starts, places, side="right") - 1
    return _verified(tokens, run, caption, places - tokens.starts[caption])


def _masked_hashes(tokens: Tokens, part: int, parts: int) -> tuple[Array, Array]:
    hashes = [np.empty(0, np.uint64)]
    places = [np.empty(0, np.int64)]
    shift = np.uint64(32)
    for low, high in blocks(np.diff(tokens.starts), BLOCK):
        terms = _terms(tokens.words, tokens.starts, low, high, tokens.hashes)
        masked = np.repeat(tokens.totals[low:high], np.diff(tokens.starts[low : high + 1]))
        masked -= terms
        if parts > 1:
            mine = np.flatnonzero((masked >> shift) * np.uint64(parts) >> shift == part)
            masked = masked[mine]
        else:
            mine = np.arange(len(masked))
        hashes.append(masked)
        places.append(mine + int(tokens.starts[low]))
    return np.concatenate(hashes), np.concatenate(places)


def _verified(
    tokens: Tokens, run: Array, caption: Array, position: Array
) -> tuple[Array, Array, Array]:
    """Split runs of equal hashes by their real words, and leave out who stands alone.

    Everyone is compared with the first of the run; who differs waits for the next round. A second
    round is needed only where two masked forms collide in 64 bits.
    """
    owner = np.full(len(run), -1, np.int64)
    waiting = np.arange(len(run))
    done = 0
    while len(waiting):
        _, first, inverse = np.unique(run[waiting], return_index=True, return_inverse=True)
        leader = waiting[first][inverse]
        same = same_but_one(
            tokens, caption[waiting], position[waiting], caption[leader], position[leader]
        )
        owner[waiting[same]] = done + inverse[same]
        done += len(first)
        waiting = waiting[~same]
    keep = (np.bincount(owner, minlength=done) > 1)[owner] if len(owner) else np.empty(0, bool)
    owner, caption, position = owner[keep], caption[keep], position[keep]
    order = np.argsort(owner, kind="stable")
    numbers = np.unique(owner[order], return_inverse=True)[1]
    return numbers, caption[order], position[order]


def same_but_one(
    tokens: Tokens, left: Array, left_position: Array, right: Array, right_position: Array
) -> Array:
    """Which captions (bool, m) equal each other in all words but that at one common position."""
    length = tokens.starts[left + 1] - tokens.starts[left]
    other = tokens.starts[right + 1] - tokens.starts[right]
    out: Array = (length == other) & (left_position == right_position)
    rows = np.flatnonzero(out & (left != right))
    for low, high in blocks(length[rows], BLOCK):
        some = rows[low:high]
        owner, at = expand(length[some])
        a = tokens.words[tokens.starts[left[some]][owner] + at]
        b = tokens.words[tokens.starts[right[some]][owner] + at]
        wrong = (a != b) & (at != left_position[some][owner])
        out[some] = np.bincount(owner[wrong], minlength=len(some)) == 0
    return out


def joined(parts: Sequence[Part]) -> Part:
    """All parts as one, its pairs in the order of captions."""
    left, right, position = (
        np.concatenate([np.empty(0, np.int32), *(getattr(part, name) for part in parts)])
        for name in ("left", "right", "position")
    )
    order = np.lexsort((right, left))
    found, numbers, minor = (
        sum(getattr(part, name) for part in parts) for name in ("found", "numbers", "minor")
    )
    return Part(left[order], right[order], position[order], found, numbers, minor)


def reasons(removed: pa.Array, added: pa.Array) -> pa.Array:
    """One readable sentence per change (large_string)."""
    text = [pa.scalar(s, pa.large_string()) for s in (REASON, "' → '", "'", "")]
    return pc.binary_join_element_wise(text[0], removed, text[1], added, text[2], text[3])
