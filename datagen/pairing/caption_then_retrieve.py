"""Edits captions, and takes the items nearest to what they then say as targets.

TransAgg (arXiv:2306.07272): a caption is edited by template or by a language model, and the image
whose caption is nearest to the edited one, by a sentence encoder, is the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import schema, step
from datagen.pairing import _retrieved as retrieved
from datagen.pairing._edited import KINDS, Edit, Kind, Vocabulary, drawer
from datagen.pairing._found import Triplets
from datagen.pairing._labels import Change, Rows, label_table
from datagen.pairing._miner import Miner
from datagen.pairing._neighbours import Placed
from datagen.pairing._table import (
    Array,
    first_caption,
    flat_captions,
    verdict_table,
    within_caps,
)
from datagen.schema import Level
from datagen.step import Context, Parallel, Result, Tables, serial

RULES = [
    ("no_caption", "no caption to edit"),
    ("no_edit", "no rule edits any of its captions"),
    ("nothing_near", "no other item is near enough to any of its captions as edited"),
    ("capped", "every pair it was in fell to a cap"),
]


class Settings(step.Settings):
    """Settings of caption_then_retrieve. Similarities are cosines, rounded to four decimals."""

    #: The space that edited captions are put into: of captions (TransAgg) or of images, by a
    #: model that takes texts. On triplets, the space as it was before a step made new items.
    space: str = "caption"
    #: Lowest similarity of the target to the edited caption. It hangs on the model. A choice of
    #: this project; TransAgg publishes none.
    low: float = Field(default=0.7, ge=-1, le=1)
    #: The target must be nearer to the edited caption than the reference is; otherwise nothing in
    #: the collection shows the edit. A choice of this project.
    nearer: bool = True
    #: Kinds of edits (items only): number, word, add, remove, place, view, both.
    edits: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    #: Edits of a caption, at most, drawn by a seeded hash (items only).
    edits_per_caption: int = Field(default=1, ge=1)
    #: Captions of an item that are edited, the first ones; None: all (items only).
    captions_per_item: int | None = Field(default=None, ge=1)
    #: Captions, drawn by hash, from which words and phrases are learned (items only).
    learn_from: int = Field(default=200_000, ge=1)
    #: Pairs in which an item is the reference, at most, most similar first; None: no cap.
    max_per_reference: int | None = Field(default=None, ge=1)
    #: Pairs in which an item is the target, at most, most similar first; None: no cap.
    max_per_target: int | None = Field(default=None, ge=1)


class CaptionThenRetrieve(Miner[Settings]):
    """Of items: pairs of an item and the one that is nearest to its caption as edited by rule. The
    text of the edit goes with the pair: ``text: given`` takes it.

    Of triplets whose targets a step made from captions alone (``text: quadruple``): pairs with
    items of the collection in their place, and the modification as the text that goes with them.
    Members that the space holds, or that have media, stay. A triplet is rejected as
    ``nothing_near``, ``reference_nearer``, ``no_text_vector``, ``no_caption``, ``no_member``,
    ``capped``, or ``same_pair`` where another one, first by id, has come to the same.
    """

    Settings = Settings
    levels = ("items", "triplets")

    def needs(self, level: Level) -> set[str]:
        name = self.settings.space
        if level == "triplets":
            return {"modification", f"earlier.{name}"}
        return {"items.captions", f"space.{name}", f"texts.{name}"}

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        """Find the targets. Raises DatagenError where texts do not fit into the space."""
        chosen = self.settings
        there = Placed.of(tables.items, chosen.space, context)
        how = retrieved.Retrieval(chosen.space, chosen.low, chosen.nearer)
        if tables.level == "triplets":
            caps = chosen.max_per_reference, chosen.max_per_target
            triplets = Triplets(tables, there, self.provenance(context))
            return triplets.paired(how, caps, context, parallel)
        return self._of_items(tables.items, there, how, context, parallel)

    def _of_items(
        self,
        items: pa.Table,
        there: Placed,
        how: retrieved.Retrieval,
        context: Context,
        parallel: Parallel,
    ) -> Result:
        chosen, canon = self.settings, there.canon
        texts, parents = flat_captions(items)
        asked = self._edits(items, texts.to_pylist(), parents, context.seed)
        own = canon.places[asked.items]
        captions = [edit.caption for edit in asked.edits]
        found = how.nearest(captions, [[one] for one in own.tolist()], there, context, parallel)
        good = np.flatnonzero(found.fate == retrieved.FOUND)
        turn = [edit.caption for edit in asked.edits]
        rank = {text: place for place, text in enumerate(sorted(set(turn)))}
        said = np.array([rank[turn[n]] for n in good.tolist()], np.int64)
        order = np.lexsort((asked.texts[good], said, found.item[good], own[good],
                            -found.cosine[good]))  # fmt: skip
        good = good[order]
        keep = within_caps(
            own[good], found.item[good], chosen.max_per_reference, chosen.max_per_target
        )
        kept = good[keep]
        code = np.full(len(canon), 1)
        code[canon.places[parents]] = 2
        code[own] = 3
        code[np.concatenate([own[good], found.item[good]])] = 4
        code[np.concatenate([own[kept], found.item[kept]])] = 0
        kinds = Counter(asked.edits[n].kind for n in kept.tolist())
        notes = {
            "items_with_vector": len(there.able),
            "captions": len(texts),
            "captions_without_edit": asked.without,
            "edits": len(asked.edits),
            "no_text_vector": int((found.fate == retrieved.NO_VECTOR).sum()),
            "nothing_near": int((found.fate == retrieved.TOO_FAR).sum()),
            "reference_nearer": int((found.fate == retrieved.REFERENCE_NEARER).sum()),
            "dropped_per_reference_or_target": len(good) - len(kept),
            "pairs": len(kept),
            "pairs_by_edit": {kind: kinds[kind] for kind in KINDS if kinds[kind]},
        }
        targets = canon.rows[found.item[kept]]
        rows, same = self._table(items, asked, kept, targets, found.cosine[kept], context)
        notes["same_pair"] = same
        notes["pairs"] = len(rows)
        return Result(rows, verdict_table(items["id"], code[canon.places], RULES), notes=notes)

    def _edits(self, items: pa.Table, texts: list[str], parents: Array, seed: int) -> _Asked:
        """The edits of all captions."""
        chosen = self.settings
        learned = sorted(set(texts), key=lambda text: schema.content_id("learn", text))
        words = Vocabulary.of(learned[: chosen.learn_from])
        ids = items["id"].to_pylist()
        first = first_caption(parents, len(items))
        edits: list[Edit] = []
        places: list[int] = []
        without = 0
        for place, (text, row) in enumerate(zip(texts, parents.tolist(), strict=True)):
            most = chosen.captions_per_item
            if most is not None and place - first[row] >= most:
                continue
            draw = drawer(str(seed), ids[row], text)
            made = words.edits(text, chosen.edits, chosen.edits_per_caption, draw)
            without += not made
            edits += made
            places += [place] * len(made)
        at = np.array(places, np.int64)
        return _Asked(edits, parents[at], at, without)

    def _table(
        self,
        items: pa.Table,
        asked: _Asked,
        kept: Array,
        targets: Array,
        cosine: Array,
        context: Context,
    ) -> tuple[pa.Table, int]:
        """The table of pairs, each once, and how many were there before."""
        edits = [asked.edits[n] for n in kept.tolist()]
        said = [changes_of(edit) for edit in edits]
        seen: dict[tuple[Change, ...], int] = {}
        which = [seen.setdefault(tuple(one), len(seen)) for one in said]
        name = self.settings.space
        reasons = [
            f"nearest to '{edit.caption}' (edit: {edit.kind}), {name} similarity {value:.3f}"
            for edit, value in zip(edits, cosine.tolist(), strict=True)
        ]
        made = Rows(
            references=asked.items[kept],
            targets=targets,
            starts=np.arange(len(kept) + 1),
            which=np.array(which, np.int64),
            changes=[list(one) for one in seen],
            reasons=pa.array(reasons, pa.string()),
            scores=cosine,
            reference_texts=asked.texts[kept],
        )
        line = self.provenance(context)
        rows = label_table(items, made, operator="caption_then_retrieve", provenance=line)
        _, first = np.unique(np.asarray(rows["id"].to_pylist(), dtype="S"), return_index=True)
        return rows.take(pa.array(np.sort(first))), len(rows) - len(first)


def changes_of(edit: Edit) -> Sequence[Change]:
    """What an edit changes, and its text."""
    words: list[Change] = [("caption", removed, added) for removed, added in edit.words]
    return [*words, ("text", None, edit.text)]


@dataclass(frozen=True)
class _Asked:
    """Edits, with the row of the item of each, the place of its caption in all captions, and how
    many captions have no edit.
    """

    edits: list[Edit]
    items: Array
    texts: Array
    without: int
