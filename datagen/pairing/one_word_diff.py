"""Pairs items whose captions differ in exactly one word.

Follows CoVR (arXiv:2308.14746): captions are lower-cased, ``.`` and ``,`` dropped, and two of them
are a pair when they have the same number of words and differ in one. The search is exact (see
``_one_word``), needs no shuffle and bounded memory.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import step, store
from datagen.errors import DatagenError
from datagen.pairing import _one_word as maths
from datagen.pairing._captions import Captions, ItemPairs, item_pairs
from datagen.pairing._miner import Miner
from datagen.pairing._table import (
    Array,
    Canon,
    Mined,
    mix64,
    pair_table,
    seed64,
    verdict_table,
    within_caps,
)
from datagen.pairing._words import normalise
from datagen.schema import Level
from datagen.step import Context, Parallel, Result, Tables, serial

FIELD = "caption"


class Settings(step.Settings):
    """Settings of one_word_diff."""

    #: Compare in lower case. CoVR: yes.
    ignore_case: bool = True
    #: Characters that are removed before comparing. CoVR: full stop and comma.
    drop: str = ".,"
    #: Captions of fewer words are not used: two single words are always "one word apart".
    #: A choice of this project; 1 uses them all.
    min_words: int = Field(default=2, ge=1)
    #: Captions of more words are not used; None: no bound.
    max_words: int | None = Field(default=None, ge=1)
    #: Drop pairs in which a number changes (``10``, ``2nd``, ``50%``; not ``two``). A choice of
    #: this project: such a change can seldom be seen.
    skip_digits: bool = True
    #: A change from one of these words into another is no modification. A choice of this project.
    skip_words: tuple[str, ...] = ("a", "an", "the")
    #: Captions that one caption is paired with at most, chosen by a seeded hash; None: all.
    #: A choice of this project: it keeps templated captions ("in red", "in blue", …) from filling
    #: the table.
    max_per_caption: int | None = Field(default=100, ge=1)
    #: Items that stand for one caption that many items share; None: all. CoVR: 10.
    max_items_per_caption: int | None = Field(default=10, ge=1)
    #: A space: items of a shared caption, and pairs under a cap, are chosen by the cosine of
    #: reference and target, which becomes the pair's score. CoVR: CLIP of the middle frame.
    #: None: chosen by a seeded hash of the ids.
    best_by: str | None = None
    #: Give each pair in both directions; otherwise in one, chosen by a seeded hash. MegaPairs,
    #: MTCIR: both.
    both_directions: bool = True
    #: Pairs in which an item is the reference, at most; None: no cap.
    max_per_reference: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is the target, at most; None: no cap.
    max_per_target: int | None = Field(default=None, ge=1)


class OneWordDiff(Miner[Settings]):
    """Items whose captions have the same number of words and differ in exactly one position."""

    Settings = Settings

    def needs(self, level: Level) -> set[str]:
        best = self.settings.best_by
        return {"items.captions"} | ({f"space.{best}"} if best else set())

    def check(self) -> Iterable[str]:
        chosen = self.settings
        if chosen.max_words is not None and chosen.max_words < chosen.min_words:
            yield f"max_words={chosen.max_words} is below min_words={chosen.min_words}"

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Mine the pairs. Raises DatagenError where they are too many to list."""
        chosen = self.settings
        items = tables.items
        canon = Canon.of(items, context.seed)
        captions = Captions.of(
            items,
            canon,
            functools.partial(normalise, ignore_case=chosen.ignore_case, drop=chosen.drop),
            chosen.min_words,
            chosen.max_words,
        )
        minor = normalise(
            pa.array(chosen.skip_words, pa.large_string()),
            ignore_case=chosen.ignore_case,
            drop=chosen.drop,
        )
        tokens, vocabulary = maths.tokenise(
            captions.unique, skip_digits=chosen.skip_digits, minor=minor.to_pylist()
        )
        pairs, notes = self._caption_pairs(tokens, context, parallel)
        partnered = captions.partnered(pairs, canon)
        pairs, notes["dropped_max_per_caption"] = self._cap_captions(pairs, tokens, context, notes)
        notes["caption_pairs"] = len(pairs.left)
        space = context.space(chosen.best_by) if chosen.best_by else None
        found, dropped = item_pairs(
            pairs, captions, canon, items["id"], chosen.max_items_per_caption, space
        )
        directed, more = self._directed(found, tokens, canon)
        rows = self._table(items, directed, captions, tokens, vocabulary, canon, context)
        codes = self._codes(directed, captions, partnered, canon)
        notes = {"captions": captions.total, "unique_captions": len(tokens)} | notes
        notes |= dropped | more | {"pairs": len(rows)}
        return Result(rows, verdict_table(items["id"], codes, self._rules()), notes=notes)

    def _caption_pairs(
        self, tokens: maths.Tokens, context: Context, parallel: Parallel
    ) -> tuple[maths.Part, dict[str, Any]]:
        with _folder(tokens, context) as folder:
            work = functools.partial(
                maths.part_pairs,
                folder=folder,
                parts=tokens.parts,
                max_per_caption=self.settings.max_per_caption,
                seed=context.seed,
            )
            done: list[maths.Part] = []
            for part in parallel(work, range(tokens.parts)):
                done.append(part)
                listed = sum(len(one.left) for one in done)
                if part.overflow or listed > maths.MOST_PAIRS:
                    raise DatagenError(
                        f"one_word_diff: more than {maths.MOST_PAIRS:,} caption pairs; set "
                        f"max_per_caption (now {self.settings.max_per_caption}) to 100 or less"
                    )
        whole = maths.joined(done)
        notes = {
            "caption_pairs_found": whole.found,
            "dropped_numbers": whole.numbers,
            "dropped_skip_words": whole.minor,
        }
        return whole, notes

    def _cap_captions(
        self, pairs: maths.Part, tokens: maths.Tokens, context: Context, notes: dict[str, Any]
    ) -> tuple[maths.Part, int]:
        most = self.settings.max_per_caption
        every = notes["caption_pairs_found"] - pairs.numbers - pairs.minor
        if most is not None:
            turn = tokens.totals[pairs.left] + mix64(tokens.totals[pairs.right])
            turn = mix64(turn ^ seed64(context.seed))
            order = np.argsort(turn, kind="stable")
            keep = np.empty(len(order), bool)
            keep[order] = within_caps(
                pairs.left[order], pairs.right[order], most, most, one_kind=True
            )
            pairs = pairs.filtered(keep)
        return pairs, every - len(pairs.left)

    def _directed(
        self, found: ItemPairs, tokens: maths.Tokens, canon: Canon
    ) -> tuple[ItemPairs, dict[str, int]]:
        """Give directions, keep one of each (reference, target, change), then apply the caps."""
        chosen = self.settings
        if chosen.both_directions:
            found = ItemPairs.joined([found, found.reversed()])
        else:
            a, b = canon.hashes[found.references], canon.hashes[found.targets]
            turn = (a > b) | ((a == b) & (found.references > found.targets))
            found = ItemPairs.joined([found.filtered(~turn), found.filtered(turn).reversed()])
        found = found.filtered(found.first_of_each(tokens))
        turn = found.turn(tokens, canon)
        order = np.lexsort((turn, -np.nan_to_num(found.scores, nan=-np.inf)))
        keep = np.empty(len(order), bool)
        keep[order] = within_caps(
            found.references[order],
            found.targets[order],
            chosen.max_per_reference,
            chosen.max_per_target,
        )
        return found.filtered(keep), {"dropped_per_reference_or_target": int((~keep).sum())}

    def _table(
        self,
        items: pa.Table,
        pairs: ItemPairs,
        captions: Captions,
        tokens: maths.Tokens,
        vocabulary: pa.Array,
        canon: Canon,
        context: Context,
    ) -> pa.Table:
        removed, added = pairs.words(tokens)
        changes, which = np.unique(
            removed.astype(np.int64) * max(1, len(vocabulary)) + added, return_inverse=True
        )
        old = vocabulary.take(pa.array(changes // max(1, len(vocabulary))))
        new = vocabulary.take(pa.array(changes % max(1, len(vocabulary))))
        mined = Mined(
            references=canon.rows[pairs.references],
            targets=canon.rows[pairs.targets],
            texts=captions.texts,
            reference_texts=captions.text[pairs.reference_uses],
            target_texts=captions.text[pairs.target_uses],
            scores=pairs.scores,
            reasons=pa.DictionaryArray.from_arrays(pa.array(which), maths.reasons(old, new)),
            words=vocabulary,
            removed=removed,
            added=added,
        )
        return pair_table(
            items,
            mined,
            operator="one_word_diff",
            field=FIELD,
            provenance=self.provenance(context),
        )

    def _rules(self) -> list[tuple[str, str]]:
        chosen = self.settings
        return [
            ("no_caption", "no caption with a word in it"),
            ("too_short", f"every caption has fewer than min_words={chosen.min_words} words"),
            ("too_long", f"no caption has at most max_words={chosen.max_words} words"),
            ("no_partner", "no caption of another item differs from its captions in one word"),
            ("capped", "every pair it was in fell to a cap"),
        ]

    def _codes(self, pairs: ItemPairs, captions: Captions, partnered: Array, canon: Canon) -> Array:
        """Verdict codes of the rows of the items table: 0 kept, else 1 + place in ``_rules``."""
        code = np.full(len(canon), 4, np.int64)
        code[partnered] = 5
        code[~captions.usable] = np.where(captions.too_long[~captions.usable], 3, 2)
        code[~captions.any] = 1
        code[pairs.references] = 0
        code[pairs.targets] = 0
        return code[canon.places]


@contextlib.contextmanager
def _folder(tokens: maths.Tokens, context: Context) -> Iterator[str]:
    """Where the workers find the tokens; gone afterwards."""
    if context.out_dir:
        folder = store.join(context.out_dir, f".words-{tokens.fingerprint()}")
    else:
        folder = tempfile.mkdtemp(prefix="datagen-words-")
    try:
        tokens.write(folder)
        yield folder
    finally:
        store.remove(folder)
