"""Where the words of a change stand in the two captions, and a change as it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from datagen.texts import _caption as captions
from datagen.texts import _doings as doings
from datagen.texts import _lexicon as lexicon
from datagen.texts._caption import Caption, Word
from datagen.texts._sentences import Kind
from datagen.texts._words import common

_ATTACHED = "|".join(map(re.escape, sorted(lexicon.UNITS | {"%"})))


@dataclass(frozen=True)
class Reading:
    """A change, ready for the sentences of its kind; ``slots`` are theirs."""

    kind: Kind
    removed: str | None
    added: str | None
    slots: dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where a phrase stands in its caption."""

    caption: Caption
    start: int
    end: int

    @property
    def span(self) -> doings.Span:
        return self.caption, self.start, self.end

    @property
    def kind(self) -> Word:
        return captions.kind_of(self.caption, self.start, self.end)

    @property
    def text(self) -> str:
        places = range(self.start, self.end)
        return " ".join(captions.written(self.caption, place) for place in places)

    @property
    def common(self) -> str:
        """The phrase as common words: only titles write those with capitals."""
        plain = self.caption.title and self.kind is not Word.NAME
        return " ".join(map(common, self.text.split())) if plain else self.text

    @property
    def described(self) -> str:
        """The phrase before a noun: "striped", where a title has "stripes"."""
        return lexicon.PATTERNS.get(self.common, self.common)

    @property
    def surface(self) -> str:
        """The phrase as it is written in its caption."""
        return " ".join(self.caption.surface[self.start : self.end])

    @property
    def first(self) -> str:
        return self.caption.at(self.start)

    @property
    def last(self) -> str:
        return self.caption.at(self.end - 1)

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def measure(self) -> str:
        """A number with its unit ("5 kg", "20%"); empty for any other words."""
        if self.caption.title or self.length > 1:
            return ""
        if re.fullmatch(rf"[\d.,]+-?({_ATTACHED})", self.first):
            return self.text
        unit = self.caption.after(self.end)
        counts = self.first in lexicon.NUMBERS or re.fullmatch(r"[\d.,]+", self.first)
        if not counts or unit not in lexicon.UNITS:
            return ""
        old = " old" if self.caption.after(self.end + 1) == "old" else ""
        return f"{self.text} {unit}{old}"

    @property
    def head_of_measure(self) -> str:
        """What a measure describes: the dumbbell of "5 kg dumbbell"."""
        return captions.head_after(self.caption, self.end + self.measure.count(" "))

    def part(self, start: int, end: int) -> Place:
        """Some of the words, counted from the first."""
        return Place(self.caption, self.start + start, self.start + end)

    @property
    def phrase(self) -> tuple[str, str]:
        """A noun with the determiner that suits it, and made definite."""
        first, _, rest = self.common.partition(" ")
        if rest and first.lower() in lexicon.ARTICLES | lexicon.POSSESSIVES | lexicon.POINTERS:
            return self.common, f"the {rest}"
        return captions.noun_phrase(self.caption, self.start, self.common)

    @property
    def head(self) -> str:
        return captions.head_after(self.caption, self.end)


def clean(text: str | None) -> str | None:
    words = " ".join(word.replace('"', "") for word, _ in captions.tokens(text or ""))
    return words or None


def places_of(
    old: str | None, new: str | None, reference: str, target: str
) -> tuple[Place | None, Place | None]:
    """Where the two phrases stand: at the same place in both captions where that is so."""
    first, second = captions.read(reference), captions.read(target)
    left, right = _occurrences(first, old), _occurrences(second, new)
    same = [start for start in left if start in right]
    if not same and left and right:  # counted from the end
        ends = {len(second.words) - start - len((new or "").split()) for start in right}
        same_end = [s for s in left if len(first.words) - s - len((old or "").split()) in ends]
        left = same_end or left
    at = (same or left or [-1])[0], (same or right or [-1])[0]
    return (
        Place(first, at[0], at[0] + len(old.split())) if old and at[0] >= 0 else None,
        Place(second, at[1], at[1] + len(new.split())) if new and at[1] >= 0 else None,
    )


def _occurrences(caption: Caption, phrase: str | None) -> list[int]:
    wanted = captions.read(phrase or "").words
    if not wanted:
        return []
    starts = range(len(caption.words) - len(wanted) + 1)
    return [start for start in starts if caption.words[start : start + len(wanted)] == wanted]


def reading_of(kind: Kind, removed: str | None, added: str | None, **slots: str) -> Reading:
    given = {"removed": removed or "", "added": added or "", "r": removed or "", "a": added or ""}
    given |= {"the_r": removed or ""}
    return Reading(kind, removed, added, {**given, **slots})
