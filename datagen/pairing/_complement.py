"""Items that answer the same question differently: the mathematics behind ``vqa_complement``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datagen.pairing._groups import first_in_turn, first_of_each
from datagen.pairing._labels import combined
from datagen.pairing._table import Array, blocks, expand, mix64

#: Questions of candidate pairs that are looked at together.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Answered:
    """Answers, sorted by item and question, of which each item has one; arrays of length m.

    item: places of items; form, answer: equal where question and answer are; question, said: rows
    of ``words``, as they were put; name: ids of the questions; start: where the answers of each
    item begin.
    """

    item: Array
    form: Array
    answer: Array
    question: Array
    said: Array
    name: Array
    start: Array
    words: list[str]

    def __len__(self) -> int:
        return len(self.item)

    @staticmethod
    def of(
        item: Array,
        name: Array,
        questions: Sequence[tuple[str, str]],
        answers: Sequence[tuple[str, str]],
    ) -> Answered:
        """Answers of which (form, words) of the question and of the answer are known.

        Where an item has answers to one question that differ, none of them counts; of equal ones
        the first by the id of the question.
        """
        texts = {text for many in (questions, answers) for both in many for text in both}
        words = sorted(texts)
        at = {text: place for place, text in enumerate(words)}
        columns = [
            np.array([at[both[side]] for both in many], np.int64)
            for many in (questions, answers)
            for side in (0, 1)
        ]
        order = np.lexsort((name, columns[2], columns[0], item))
        item, name = item[order], name[order]
        form, question, answer, said = (column[order] for column in columns)
        new = np.ones(len(item), bool)
        new[1:] = (item[1:] != item[:-1]) | (form[1:] != form[:-1])
        group = np.cumsum(new) - 1
        split = np.zeros(len(item), bool)
        split[1:] = ~new[1:] & (answer[1:] != answer[:-1])
        torn = np.bincount(group[split], minlength=int(new.sum())) > 0
        keep = new & ~torn[group] if len(group) else new
        item = item[keep]
        start = np.searchsorted(item, np.arange(int(item[-1]) + 2 if len(item) else 1))
        return Answered(
            item, form[keep], answer[keep], question[keep], said[keep], name[keep], start, words
        )

    def key(self) -> Array:
        """Item and question as one integer, ascending."""
        key: Array = self.item * (len(self.words) + 1) + self.form
        return key

    def counts(self, items: Array) -> Array:
        """How many answers each of some items has."""
        last = len(self.start) - 2
        here = np.minimum(items, max(0, last))
        sizes = np.append(np.diff(self.start), 0)
        return np.where(items <= last, sizes[here], 0)


@dataclass(frozen=True)
class Near:
    """Items that may be pairs (``left < right``, each once) with their cosines, NaN for unknown.

    form: the question that they are pairs by; -1: any.
    """

    left: Array
    right: Array
    cosine: Array
    form: Array

    def __len__(self) -> int:
        return len(self.left)

    @staticmethod
    def of_items(one: Array, two: Array, cosine: Array) -> Near:
        """Of items by any question."""
        return Near._once(one, two, cosine, np.full(len(one), -1))

    @staticmethod
    def of_answers(known: Answered, one: Array, two: Array) -> Near:
        """Of answers, by their own question; those of different questions are left out."""
        same = known.form[one] == known.form[two]
        one, two = one[same], two[same]
        ends = known.item[one], known.item[two]
        return Near._once(*ends, np.full(len(one), np.nan), known.form[one])

    @staticmethod
    def _once(one: Array, two: Array, cosine: Array, form: Array) -> Near:
        left, right = np.minimum(one, two), np.maximum(one, two)
        order = np.lexsort((form, right, left))
        left, right, cosine, form = (c[order] for c in (left, right, cosine, form))
        new = np.ones(len(left), bool)
        new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1]) | (form[1:] != form[:-1])
        return Near(left, right, cosine, form).taken(new & (left != right))

    def taken(self, keep: Array) -> Near:
        """Those for which ``keep`` (bool) holds."""
        return Near(*(column[keep] for column in vars(self).values()))

    def scored(self, cosine: Array) -> Near:
        """The same with cosines."""
        return replace(self, cosine=cosine)

    def within(self, low: float | None, high: float | None) -> Near:
        """Those whose cosine is known, and within the bounds."""
        bounds = -np.inf if low is None else low, np.inf if high is None else high
        with np.errstate(invalid="ignore"):
            return self.taken((self.cosine >= bounds[0]) & (self.cosine <= bounds[1]))


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of :class:`Answered` (int64, m each), and the cosines of their items."""

    left: Array
    right: Array
    cosine: Array

    def __len__(self) -> int:
        return len(self.left)

    def taken(self, rows: Array) -> Pairs:
        """The pairs at ``rows`` (places, or a bool per pair)."""
        return Pairs(*(column[rows] for column in vars(self).values()))


def differing(known: Answered, near: Near, looks: Array) -> Pairs:
    """Every question that both items of a candidate answer, differently.

    looks: integers of all items, equal for those of equal media, which are never a pair.
    """
    near = near.taken(looks[near.left] != looks[near.right])
    key = known.key()
    width = len(known.words) + 1
    counts = known.counts(near.left)
    nothing = np.empty(0, np.int64)
    done = [Pairs(nothing, nothing, np.empty(0))]
    for low, high in blocks(counts, BLOCK):
        owner, step = expand(counts[low:high])
        owner = owner + low
        one = known.start[near.left[owner]] + step
        wanted = near.right[owner] * width + known.form[one]
        two = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        good = (key[two] == wanted) & (known.answer[one] != known.answer[two])
        good &= (near.form[owner] < 0) | (near.form[owner] == known.form[one])
        done.append(Pairs(one[good], two[good], near.cosine[owner[good]]))
    columns = zip(*(vars(part).values() for part in done), strict=True)
    return Pairs(*(np.concatenate(column) for column in columns))


def chosen(
    pairs: Pairs,
    known: Answered,
    hashes: Array,
    both: bool,
    most_per_question: int | None,
    caps: tuple[int | None, int | None],
) -> tuple[Pairs, dict[str, int]]:
    """Give directions and apply the caps, in a seeded order; and what was dropped.

    hashes: seeded, of all items; caps: of references and of targets.
    """
    if both:
        sides = np.append(pairs.left, pairs.right), np.append(pairs.right, pairs.left)
        pairs = Pairs(*sides, np.append(pairs.cosine, pairs.cosine))
        swap = np.zeros(len(pairs), bool)
    else:
        swap = (_turn(pairs, known, hashes) & np.uint64(1)).astype(bool)
    left, right = pairs.left, pairs.right
    pairs = Pairs(np.where(swap, right, left), np.where(swap, left, right), pairs.cosine)
    turn = _turn(pairs, known, hashes)
    keep = first_of_each(known.form[pairs.left], turn, most_per_question)
    dropped = {"dropped_max_per_question": int((~keep).sum())}
    pairs, turn = pairs.taken(keep), turn[keep]
    keep = first_in_turn(known.item[pairs.left], known.item[pairs.right], turn, *caps)
    dropped["dropped_per_reference_or_target"] = int((~keep).sum())
    return pairs.taken(keep), dropped


def _turn(pairs: Pairs, known: Answered, hashes: Array) -> Array:
    """A seeded hash of each pair (uint64, m), of both items and the question's id."""
    name = mix64(known.name[pairs.left].astype(np.uint64))
    right = mix64(hashes[known.item[pairs.right]] ^ name)
    return mix64(hashes[known.item[pairs.left]] ^ right)


def distinct_changes(pairs: Pairs, known: Answered) -> tuple[Array, Array]:
    """A pair of each change (question, both answers as they were put), and that of every pair."""
    columns = (known.question[pairs.left], known.said[pairs.left], known.said[pairs.right])
    code = functools.reduce(combined, columns, np.zeros(len(pairs), np.int64))
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return first, which.reshape(-1)
