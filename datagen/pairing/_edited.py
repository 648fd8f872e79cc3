"""Captions edited by rule, with the words of the collection itself.

TransAgg (arXiv:2306.07272) edits a caption by templates of several kinds and says so in a text.
Which word or phrase may stand in a place is learned from the captions: words seen between the same
two words, phrases seen after the same word. Everything is drawn by hash, nothing by order.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from datagen import schema

Kind = Literal["number", "word", "add", "remove", "place", "view", "both"]
KINDS: tuple[Kind, ...] = get_args(Kind)

K = TypeVar("K")

#: (removed, added)
Words = tuple[str | None, str | None]

#: Alternatives that are kept for a place in a caption, the most frequent ones.
MOST = 20
#: A phrase has at most so many words with its preposition.
LONGEST = 6

_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PLACES = _words(
    "in on at near under behind beside by through along across inside outside over below above "
    "between against next around"
)
_STARTS = _PLACES | {"with"}
#: Words that say nothing that could be seen: never exchanged.
_FUNCTION = _STARTS | _words(
    "a an the this that these those his her their its my your our some any each every another "
    "other both all and or but nor than then so not no as if while when where who which what "
    "is are was were be been being am has have had do does did can could will would should may "
    "might he she it they them him it's to from of off into onto up down out for about without "
    "during before after there here very one more most many much few several"
)
_VIEWS = ("seen from above", "seen from behind", "seen from the side", "seen from far away")
_VIEWED = _words("seen view viewed close-up closeup above behind aerial")


@dataclass(frozen=True)
class Edit:
    """An edit of a caption. words: what goes and what comes, for each change; text: says so."""

    kind: Kind
    caption: str
    words: tuple[Words, ...]
    text: str


@dataclass
class Vocabulary:
    """What may stand where, as the captions of a collection have it."""

    between: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    tails: dict[str, list[str]] = field(default_factory=dict)

    @staticmethod
    def of(captions: Iterable[str]) -> Vocabulary:
        """Learn from distinct captions, in any order. What is seen once alone is chance."""
        between: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        tails: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for caption in captions:
            forms = [form_of(word) for word in caption.split()]
            for one, word, two in zip(forms, forms[1:], forms[2:], strict=False):
                if _is_open(word):
                    between[one, two][word] += 1
            at = _tail(forms)
            if at is not None:
                tails[forms[at - 1]][" ".join(forms[at:])] += 1
        return Vocabulary(_frequent(between), _frequent(tails))

    def edits(
        self, caption: str, kinds: Sequence[Kind], most: int, draw: Callable[[str], int]
    ) -> list[Edit]:
        """Edits of at most so many of the ``kinds``, drawn by ``draw``: a number for a name."""
        words = caption.split()
        if words:
            words[-1] = words[-1].rstrip(".,;!") or words[-1]
        forms = [form_of(word) for word in words]
        made: list[Edit] = []
        for kind in sorted(kinds, key=lambda kind: draw(f"kind {kind}")):
            edit = self._made(kind, words, forms, draw) if len(made) < most else None
            if edit is not None:
                made.append(edit)
        return made

    def _made(
        self, kind: Kind, words: list[str], forms: list[str], draw: Callable[[str], int]
    ) -> Edit | None:
        rules: dict[Kind, Callable[[list[str], list[str], Callable[[str], int]], Edit | None]] = {
            "number": _number,
            "word": self._word,
            "add": self._add,
            "remove": _remove,
            "place": self._place,
            "view": _view,
            "both": self._both,
        }
        return rules[kind](words, forms, draw)

    def _word(self, words: list[str], forms: list[str], draw: Callable[[str], int]) -> Edit | None:
        """Another word that stands between the same two words elsewhere."""
        places = []
        for at in range(1, len(forms) - 1):
            around = self.between.get((forms[at - 1], forms[at + 1]), [])
            others = [word for word in around if _is_other(word, forms[at])]
            if _is_open(forms[at]) and others:
                places.append((at, others))
        if not places:
            return None
        at, others = places[draw("word") % len(places)]
        old, new = forms[at], others[draw("other word") % len(others)]
        texts = (f"{new} instead of {old}", f"{new} rather than {old}", f"{new}, not {old}")
        caption = " ".join([*words[:at], new, *words[at + 1 :]])
        return Edit("word", caption, ((old, new),), texts[draw("text") % len(texts)])

    def _add(self, words: list[str], forms: list[str], draw: Callable[[str], int]) -> Edit | None:
        """A phrase that follows the last word elsewhere."""
        if not forms or _tail(forms) is not None or not self.tails.get(forms[-1]):
            return None
        found = self.tails[forms[-1]]
        new = found[draw("tail") % len(found)]
        texts = (f"now {new}", f"{new} this time", f"the same {new}")
        caption = " ".join([*words, new])
        return Edit("add", caption, ((None, new),), texts[draw("text") % len(texts)])

    def _place(self, words: list[str], forms: list[str], draw: Callable[[str], int]) -> Edit | None:
        """Another place, that follows the same word elsewhere."""
        at = _tail(forms)
        if at is None or forms[at] not in _PLACES:
            return None
        old = " ".join(forms[at:])
        found = [
            one
            for one in self.tails.get(forms[at - 1], [])
            if one.split()[0] in _PLACES and one.split()[-1] != forms[-1]
        ]
        if not found:
            return None
        new = found[draw("place") % len(found)]
        texts = (f"{new} instead of {old}", f"{new} rather than {old}", f"{new}, not {old}")
        caption = " ".join([*words[:at], new])
        return Edit("place", caption, ((old, new),), texts[draw("text") % len(texts)])

    def _both(self, words: list[str], forms: list[str], draw: Callable[[str], int]) -> Edit | None:
        """A word or number, and what stands at the end."""
        one = self._word(words, forms, draw) or _number(words, forms, draw)
        if one is None:
            return None
        edited = one.caption.split()
        forms = [form_of(word) for word in edited]
        rest = self._place(edited, forms, draw) or self._add(edited, forms, draw)
        if rest is None or set(one.words) & set(rest.words):
            return None
        return Edit("both", rest.caption, one.words + rest.words, f"{one.text} and {rest.text}")


def drawer(*parts: str) -> Callable[[str], int]:
    """A function that draws a number for a name, by hash of ``parts``."""
    return lambda name: int(schema.content_id(*parts, name)[:12], 16)


@functools.lru_cache(maxsize=1 << 16)
def form_of(word: str) -> str:
    """A word as it is compared."""
    return word.casefold().strip(".,;:!?\"'()[]")


def _is_open(word: str) -> bool:
    return word.replace("-", "").isalpha() and len(word) > 1 and word not in _FUNCTION


def _is_other(one: str, two: str) -> bool:
    """Whether two words end alike ("runs", "walks") and are not one, or forms of one."""
    short, long = sorted((one, two), key=len)
    stem = long.startswith(short) and len(long) - len(short) <= 3
    return not stem and _ending(one) == _ending(two)


def _ending(word: str) -> str:
    return next((end for end in ("ing", "ed", "ss", "s") if word.endswith(end)), "")


def _tail(forms: Sequence[str]) -> int | None:
    """Where the prepositional phrase that ends a caption begins; None where there is none."""
    for at in range(len(forms) - 2, max(0, len(forms) - LONGEST - 1), -1):
        if forms[at] in _STARTS:
            # "next to", "in front of" begin a word earlier.
            begin = at - 1 if at > 1 and forms[at - 1] in _STARTS else at
            whole = all(forms[begin:]) and begin > 0 and _is_open(forms[begin - 1])
            return begin if whole else None
    return None


def _frequent(counts: Mapping[K, Counter[str]]) -> dict[K, list[str]]:
    """The most frequent of each, of those that were seen twice, in their own order."""
    out = {}
    for key, found in counts.items():
        some = sorted((-count, one) for one, count in found.items() if count > 1)[:MOST]
        if some:
            out[key] = sorted(one for _, one in some)
    return out


def _number(words: list[str], forms: list[str], draw: Callable[[str], int]) -> Edit | None:
    """Another number of the same things."""
    at = next(
        (n for n in range(len(forms) - 1) if forms[n] in _NUMBERS and _is_open(forms[n + 1])), None
    )
    if at is None:
        return None
    old = forms[at]
    others = [one for one in _NUMBERS[:4] if one != old]
    new = others[draw("number") % len(others)]
    texts = (f"{new} instead of {old}", f"make it {new} rather than {old}")
    caption = " ".join([*words[:at], new, *words[at + 1 :]])
    return Edit("number", caption, ((old, new),), texts[draw("text") % len(texts)])


def _remove(words: list[str], forms: list[str], draw: Callable[[str], int]) -> Edit | None:
    """Without what the caption ends with."""
    at = _tail(forms)
    if at is None or forms[at] != "with":
        return None
    old = " ".join(forms[at + 1 :])
    texts = (f"without {old}", f"no longer with {old}", f"the same without {old}")
    text = texts[draw("text") % len(texts)]
    return Edit("remove", " ".join(words[:at]), ((f"with {old}", None),), text)


def _view(words: list[str], forms: list[str], draw: Callable[[str], int]) -> Edit | None:
    """Another point of view."""
    if not words or not _VIEWED.isdisjoint(forms):
        return None
    new = _VIEWS[draw("view") % len(_VIEWS)]
    return Edit("view", " ".join([*words, new]), ((None, new),), new)
