"""The judge of pictures with a structured representation, as NLVR has: captions are sentences,
and what they say is checked against the shapes that the picture was drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datagen.audit._sentences import Boxes, boxes, sentence
from datagen.audit.judge import Judgement, Row, labels_of, unjudged
from datagen.audit.labels import named, words

#: The label that holds the structure.
LABEL = "structured_rep"


class StructureJudge:
    """Judges by captions that a small grammar reads (``_sentences``), each of one picture.

    A triplet asks for a picture of which the target's caption is true. right: the text names every
    word of that caption which the reference's has not, and none of them as gone; each caption is
    true of its picture; minimal: the target's caption is not true of the reference already.
    Sentences never tell a whole picture, so complete is what is right. A row is judged only where
    both captions can be read and the structures answer them.
    """

    name = "structure"
    about = "shapes of the pictures; captions are judged where a small grammar reads them"

    def __init__(self, items: Sequence[Row]) -> None:
        self._ids = [str(item["id"]) for item in items]
        self._boxes = [_boxes(item) for item in items]
        self._places = {name: at for at, name in enumerate(self._ids)}
        self.known = sum(one is not None for one in self._boxes)

    def _of(self, member: Row) -> Boxes | None:
        at = self._places.get(member["id"])
        return _boxes(member) if at is None else self._boxes[at]

    def triplet(self, row: Row) -> Judgement:
        return self._judged(row, row["modification"] or "")

    def pair(self, row: Row) -> Judgement:
        """A pair is right if its captions are, whatever a text will say."""
        return self._judged(row, None)

    def _judged(self, row: Row, text: str | None) -> Judgement:
        members = [*row["references"], *row["targets"]]
        if len(members) != 2:
            return unjudged("several references or targets")
        reference, target = (self._of(member) for member in members)
        first, second = (sentence(member["caption"] or "") for member in members)
        if reference is None or target is None or first is None or second is None:
            return unjudged("a caption that the grammar does not read")
        before, after, idle = first(reference), second(target), second(reference)
        if before is None or after is None:
            return unjudged("a caption that can be read in two ways")
        if text is not None and (lacking := _lacking(text, *members)):
            return Judgement(False, False, not idle, f"does not name what comes: {lacking}")
        if not (before and after):
            which = "target" if before else "reference"
            return Judgement(False, False, not idle, f"a caption is not true: that of the {which}")
        if idle is None:
            return Judgement(True, True, None, "the captions are true")
        reason = "asks for what is so already" if idle else "the captions are true"
        return Judgement(True, True, not idle, reason)

    def item(self, row: Row) -> Judgement:
        picture = self._of(row)
        said = [sentence(text) for text in row["captions"] or []]
        found = [one(picture) if one is not None and picture else None for one in said]
        if not found or None in found:
            return unjudged("a caption that the grammar does not read")
        right = all(found)
        reason = "the captions are true" if right else "a caption is not true"
        return Judgement(right, None, right, reason)

    def answers(self, row: Row) -> list[str] | None:
        """Items of which the target's caption is true."""
        if len(row["targets"]) != 1 or self.triplet(row).right is None:
            return None
        said = sentence(row["targets"][0]["caption"] or "")
        if said is None:
            return None
        pairs = zip(self._ids, self._boxes, strict=True)
        return [name for name, one in pairs if one is not None and said(one)]

    def best(self, row: Row) -> bool | None:
        found = self.answers(row)
        return None if found is None else row["targets"][0]["id"] in found


def _lacking(text: str, reference: Row, target: Row) -> str:
    """Words of the target's caption that the reference's has not and ``text`` does not name as
    what comes; empty where there are none."""
    new = [word for word in words(target["caption"]) if word not in words(reference["caption"])]
    coming = named(text)
    return " ".join(word for word in new if word not in coming)


def _boxes(item: Row) -> Boxes | None:
    found: Any = (labels_of(item) or {}).get(LABEL)
    if not isinstance(found, list):
        return None
    try:
        return boxes(found) or None
    except (KeyError, TypeError, ValueError):
        return None
