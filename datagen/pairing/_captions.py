"""Between captions and items: who uses which caption, and which items stand for a caption pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa

from datagen.errors import DatagenError
from datagen.pairing import _one_word as maths
from datagen.pairing._neighbours import cosines
from datagen.pairing._table import Array, Canon, blocks, expand, flat_captions, mix64
from datagen.pairing._words import distinct, word_counts
from datagen.space import Space

#: Candidate item pairs looked at together.
BLOCK = 1 << 17

#: With a space to choose by, the first so many items of a shared caption (in seeded order) are
#: looked at: a caption of 10,000 items would otherwise cost 10,000² cosines.
POOL = 100

#: Item pairs that are listed at most.
MOST_PAIRS = 100_000_000


@dataclass(frozen=True)
class Captions:
    """Distinct normalised captions and their uses by items. Items are numbered in canonical order.

    total: captions there are; unique: distinct ones (large_string, u); texts: the original
    captions, flat; start: where the uses of each distinct caption begin (int64, u + 1); item,
    caption, text: item, distinct caption and original text of each use (int64, o), the uses of a
    caption in a seeded order of items; any, usable, too_long: of each item, whether it has a
    caption with a word in it, one within the limits, and one above them (bool, n).
    """

    total: int
    unique: pa.Array
    texts: pa.Array
    start: Array
    item: Array
    caption: Array
    text: Array
    any: Array
    usable: Array
    too_long: Array

    @staticmethod
    def of(
        items: pa.Table,
        canon: Canon,
        normalise: Callable[[pa.Array], pa.Array],
        min_words: int,
        max_words: int | None,
    ) -> Captions:
        """Read the captions of all items."""
        texts, rows = flat_captions(items)
        normalised = normalise(texts)
        words = word_counts(normalised)
        parent = canon.places[rows]
        above = words > (np.iinfo(np.int64).max if max_words is None else max_words)
        within = (words >= min_words) & ~above
        flags = np.zeros((3, len(canon)), bool)
        for flag, where in zip(flags, (words > 0, within, above), strict=True):
            flag[parent[where]] = True
        text = np.flatnonzero(within)
        unique, caption = distinct(normalised.filter(pa.array(within)))
        item = parent[within]
        # An item that has the same caption twice uses it once, in the words it has first.
        order = np.lexsort((text, item, canon.hashes[item], caption))
        item, caption, text = item[order], caption[order], text[order]
        once = np.ones(len(item), bool)
        once[1:] = (caption[1:] != caption[:-1]) | (item[1:] != item[:-1])
        item, caption, text = item[once], caption[once], text[once]
        start = np.searchsorted(caption, np.arange(len(unique) + 1))
        return Captions(len(texts), unique, texts, start, item, caption, text, *flags)

    def partnered(self, pairs: maths.Part, canon: Canon) -> Array:
        """Which items (bool, n) have, for one of their captions, another item to be paired with."""
        if not len(self.unique):
            return np.zeros(len(canon), bool)
        looks = canon.looks[self.item]
        edges = self.start[:-1]
        low, high = np.minimum.reduceat(looks, edges), np.maximum.reduceat(looks, edges)
        least = np.full(len(self.unique), np.iinfo(np.int64).max)
        most = np.full(len(self.unique), -1)
        for one, two in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
            np.minimum.at(least, one, low[two])
            np.maximum.at(most, one, high[two])
        # All partners are the item itself only if the least and the most of them are.
        some = most[self.caption] >= 0
        some &= (least[self.caption] != looks) | (most[self.caption] != looks)
        out = np.zeros(len(canon), bool)
        out[self.item[some]] = True
        return out


@dataclass(frozen=True)
class ItemPairs:
    """Pairs of items, as arrays of length m.

    references, targets: items in canonical order; reference_uses, target_uses: rows of the uses
    in :class:`Captions`; reference_captions, target_captions: distinct captions; position: of the
    word that differs; scores: cosines rounded to four decimals, or NaN.
    """

    references: Array
    targets: Array
    reference_uses: Array
    target_uses: Array
    reference_captions: Array
    target_captions: Array
    position: Array
    scores: Array

    @staticmethod
    def joined(parts: list[ItemPairs]) -> ItemPairs:
        """All pairs of ``parts``, one after the other."""
        names = [field.name for field in fields(ItemPairs)]
        return ItemPairs(*(np.concatenate([getattr(part, n) for part in parts]) for n in names))

    def filtered(self, keep: Array) -> ItemPairs:
        """The pairs for which ``keep`` (bool, m) holds."""
        return ItemPairs(*(getattr(self, field.name)[keep] for field in fields(ItemPairs)))

    def reversed(self) -> ItemPairs:
        """Every pair with its target as the reference."""
        return ItemPairs(
            self.targets,
            self.references,
            self.target_uses,
            self.reference_uses,
            self.target_captions,
            self.reference_captions,
            self.position,
            self.scores,
        )

    def words(self, tokens: maths.Tokens) -> tuple[Array, Array]:
        """The words that are removed and added (rows of the vocabulary, m each)."""
        return (
            np.asarray(tokens.words[tokens.starts[self.reference_captions] + self.position]),
            np.asarray(tokens.words[tokens.starts[self.target_captions] + self.position]),
        )

    def first_of_each(self, tokens: maths.Tokens) -> Array:
        """One pair (bool, m) of each (reference, target, change): that of the first captions."""
        removed, added = self.words(tokens)
        if not len(removed):
            return np.empty(0, bool)
        members = self.references.astype(np.int64) << 32 | self.targets
        change = removed.astype(np.int64) << 32 | added
        captions = self.reference_captions.astype(np.int64) << 32 | self.target_captions
        order = np.lexsort((captions, change, members))
        first = np.ones(len(order), bool)
        same = members[order][1:] == members[order][:-1]
        first[1:] = ~same | (change[order][1:] != change[order][:-1])
        out = np.empty(len(order), bool)
        out[order] = first
        return out

    def turn(self, tokens: maths.Tokens, canon: Canon) -> Array:
        """A seeded hash of each pair (uint64, m): the turn in which it meets the caps."""
        removed, added = self.words(tokens)
        change = mix64(tokens.hashes[removed] + mix64(tokens.hashes[added]))
        target = mix64(canon.hashes[self.targets] ^ change)
        return mix64(canon.hashes[self.references] ^ target)


def item_pairs(
    pairs: maths.Part,
    captions: Captions,
    canon: Canon,
    ids: pa.ChunkedArray,
    most: int | None,
    space: Space | None,
) -> tuple[ItemPairs, dict[str, int]]:
    """The items of each caption pair: at most ``most`` stand for one caption.

    Without a space they are the first in a seeded order. With one, those that come closest to any
    item of a partner caption. Two items with the same media bytes are never a pair. Returns the
    pairs in one direction and what was dropped. Raises DatagenError where they are too many.
    """
    sizes = np.diff(captions.start)
    every = int((sizes[pairs.left] * sizes[pairs.right]).sum())
    vectors = rows = None
    if space is not None:
        vectors = space.vectors
        rows = space.rows(ids)[canon.rows]
    stands = np.ones(len(captions.item), bool)
    if most is not None and len(stands):
        place = np.arange(len(stands)) - captions.start[captions.caption]
        stands = place < most
        if vectors is not None and rows is not None and (sizes > most).any():
            stands = _closest(pairs, captions, canon, vectors, rows, most)
    uses = np.flatnonzero(stands)
    start = np.searchsorted(captions.caption[uses], np.arange(len(sizes) + 1))
    sizes = np.diff(start)
    products = sizes[pairs.left] * sizes[pairs.right]
    if int(products.sum()) > MOST_PAIRS:
        raise DatagenError(
            f"one_word_diff: {int(products.sum()):,} item pairs; lower max_items_per_caption "
            f"(now {most}) or max_per_caption"
        )
    done = []
    for low, high in blocks(products, BLOCK):
        owner, one, two = _products(pairs.slice(low, high), start, sizes)
        found = _paired(pairs.slice(low, high), owner, uses[one], uses[two], captions)
        different = canon.looks[found.references] != canon.looks[found.targets]
        found = found.filtered(different)
        if vectors is not None and rows is not None:
            scores = cosines(vectors, rows[found.references], rows[found.targets])
            found = replace(found, scores=scores)
        done.append(found)
    nothing = np.empty(0, np.int64)
    whole = ItemPairs.joined(done or [_paired(pairs, nothing, nothing, nothing, captions)])
    listed = int(products.sum())
    dropped = {
        "dropped_max_items_per_caption": every - listed,
        "dropped_same_item_or_media": listed - len(whole.references),
    }
    return whole, dropped


def _products(pairs: maths.Part, start: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """All (use of left, use of right) of each caption pair, with the number of the pair."""
    width = sizes[pairs.right]
    owner, at = expand(sizes[pairs.left] * width)
    one = start[pairs.left][owner] + at // width[owner]
    return owner, one, start[pairs.right][owner] + at % width[owner]


def _paired(
    pairs: maths.Part, owner: Array, one: Array, two: Array, captions: Captions
) -> ItemPairs:
    return ItemPairs(
        captions.item[one],
        captions.item[two],
        one,
        two,
        pairs.left[owner],
        pairs.right[owner],
        pairs.position[owner],
        np.full(len(owner), np.nan),
    )


def _closest(
    pairs: maths.Part,
    captions: Captions,
    canon: Canon,
    vectors: Array,
    rows: Array,
    most: int,
) -> Array:
    """Which uses (bool, o) stand for their caption: ``most``, by their best cosine to a partner."""
    sizes = np.minimum(np.diff(captions.start), POOL)
    best = np.full(len(captions.item), -np.inf)
    crowded = np.diff(captions.start) > most
    some = pairs.filtered(crowded[pairs.left] | crowded[pairs.right])
    for low, high in blocks(sizes[some.left] * sizes[some.right], BLOCK):
        _, one, two = _products(some.slice(low, high), captions.start[:-1], sizes)
        different = canon.looks[captions.item[one]] != canon.looks[captions.item[two]]
        one, two = one[different], two[different]
        cosine = cosines(vectors, rows[captions.item[one]], rows[captions.item[two]])
        cosine = np.nan_to_num(cosine, nan=-2.0)
        np.maximum.at(best, one, cosine)
        np.maximum.at(best, two, cosine)
    order = np.lexsort((np.arange(len(best)), -best, captions.caption))
    out = np.empty(len(best), bool)
    out[order] = np.arange(len(best)) - captions.start[captions.caption[order]] < most
    return out
