"""The judge of rendered scenes and clips: their labels are the whole truth, and an oracle reads
the texts (datagen.sources.tinyworld.oracle).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from datagen import schema
from datagen.audit.judge import Judgement, Row, labels_of, unjudged
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.answers import Collection
from datagen.sources.tinyworld.captions import parsed
from datagen.sources.tinyworld.events import Clip, Shown, scene_of, shown
from datagen.sources.tinyworld.scene import ATTRIBUTES, BACKGROUNDS, VALUES, Scene
from datagen.texts.template import Template, TemplateSettings

#: Ways to tell the change of a pair that are tried.
TELLINGS = 4


class WorldJudge:
    """Judges by :func:`oracle.says`.

    A text that the oracle cannot read is not right ("not understood"). An image and a clip can
    both be answers, each where the text, read for it, leads to it.
    """

    name = "tinyworld"
    about = "the labels are the whole scene, and an oracle reads the texts"

    def __init__(self, items: Sequence[Row]) -> None:
        self._ids = [str(item["id"]) for item in items]
        self._places = {name: at for at, name in enumerate(self._ids)}
        self._shown = [_shown(item) for item in items]
        self.known = sum(what is not None for what in self._shown)
        self._all = Collection(self._shown) if self.known else None
        self._template = Template(TemplateSettings.model_validate({"texts_per_pair": TELLINGS}))

    def _of(self, member: Row) -> Shown | None:
        at = self._places.get(member["id"])
        return _shown(member) if at is None else self._shown[at]

    def _ends(self, row: Row) -> tuple[Shown, list[Shown]] | str:
        """What the reference and the targets show; else why the row cannot be judged."""
        if len(row["references"]) != 1 or not row["targets"]:
            return "several references, or no target"
        found = [self._of(member) for member in (*row["references"], *row["targets"])]
        known = [what for what in found if what is not None]
        return (known[0], known[1:]) if len(known) == len(found) else "an item of unknown content"

    def triplet(self, row: Row) -> Judgement:
        ends = self._ends(row)
        if isinstance(ends, str):
            return unjudged(ends)
        return _told(row["modification"] or "", *ends)

    def pair(self, row: Row) -> Judgement:
        """A pair is right if its change, told in one of several ways, leads to every target.

        Ready-made texts are tried as they are; other changes in the words of ``text: template``.
        Where these find nothing to tell, it is right if both captions are true.
        """
        ends = self._ends(row)
        if isinstance(ends, str):
            return unjudged(ends)
        tried = [_told(text, *ends) for text in self._tellings(row)]
        if tried:
            return max(tried, key=lambda one: (one.right, one.complete, one.minimal))
        for member, what in zip(
            (*row["references"], *row["targets"]), (ends[0], *ends[1]), strict=True
        ):
            if not oracle.fits(what, member["caption"] or ""):
                return Judgement(False, None, None, "a caption says what is not so")
        return Judgement(True, None, None, "both captions are true")

    def _tellings(self, row: Row) -> list[str]:
        changes = (row["evidence"] or {}).get("changes") or []
        given = [c["added"] for c in changes if c["field"] == "text" and not c["removed"]]
        if given:
            return [text for text in given if text]
        line = {name: row[name] for name in ("id", "references", "targets", "evidence")}
        told = self._template(pa.Table.from_pylist([line], _PAIR))
        return [text for text in told["modification"].to_pylist() if text]

    def item(self, row: Row) -> Judgement:
        what = self._of(row)
        captions = row["captions"] or []
        if what is None or not captions:
            return unjudged("no caption" if what is not None else "an item of unknown content")
        right = all(oracle.fits(what, text) for text in captions)
        complete = all(parsed(text) is not None for text in captions)
        reason = "the captions are true" if right else "a caption says what is not so"
        return Judgement(right, complete, right, reason)

    def answers(self, row: Row) -> list[str] | None:
        ends = self._ends(row)
        if isinstance(ends, str) or self._all is None:
            return None
        found = self._all.answers(row["modification"] or "", ends[0])
        return [self._ids[at] for at in found]

    def best(self, row: Row) -> bool | None:
        ends = self._ends(row)
        if isinstance(ends, str) or self._all is None:
            return None
        reference, targets = ends
        text = row["modification"] or ""
        apart = [self._all.distance(text, reference, target) for target in targets]
        known = [one for one in apart if one is not None]
        if len(known) < len(apart):
            return None
        if max(known) == 0:
            return True
        but = {self._places.get(member["id"], -1) for member in row["references"]}
        return not self._all.any_nearer(text, reference, max(known), frozenset(but))


_PAIR = pa.schema(
    [schema.PAIRS.field(name) for name in ("id", "references", "targets", "evidence")]
)


def _shown(item: Row) -> Shown | None:
    labels = labels_of(item)
    if labels is None or "objects" not in labels:
        return None
    try:
        what = shown(labels)
        scene = scene_of(what)
        known = scene.background in BACKGROUNDS and all(
            getattr(thing, name) in VALUES[name] for thing in scene.objects for name in ATTRIBUTES
        )
        if isinstance(what, Clip):
            known = known and (what.at is None or what.at in range(len(scene.objects)))
        # A clip that is none of this world has no end.
        return what if known and (isinstance(what, Scene) or what.end) else None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return None


def _told(text: str, reference: Shown, targets: Sequence[Shown]) -> Judgement:
    """What the oracle says, the worst over the targets."""
    said: list[Any] = [oracle.says(text, reference, target) for target in targets]
    worst = min(said, key=lambda one: (one.right, one.complete, one.minimal))
    return Judgement(
        all(one.right for one in said),
        all(one.complete for one in said),
        all(one.minimal for one in said),
        worst.reason,
        any(one.ambiguous for one in said),
    )
