"""Reads a change between two captions (or two labels) into the words that a sentence needs.

A small lexicon and the words around the change decide its kind. Where they do not, the kind is
one whose sentences quote the words, which suits any word class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from datagen.texts import _caption as captions
from datagen.texts import _doings as doings
from datagen.texts import _lexicon as lexicon
from datagen.texts._caption import Caption, Word
from datagen.texts._sentences import Kind
from datagen.texts._words import common, gerund, is_plural, plural, singular, spelling, verb_base

#: Names of fields whose changes are words of the captions rather than labels.
CAPTION_FIELDS = frozenset(
    ["", "word", "words", "caption", "captions", "text", "title", "phrase", "token", "narration"]
)
_NAMES = frozenset(["brand", "name", "model", "maker", "designer", "artist", "city", "country"])
_FUNCTIONS = frozenset([Word.ARTICLE, Word.AUXILIARY, Word.FUNCTION])
_DESCRIBING = frozenset([Word.COLOUR, Word.QUALITY, Word.MODIFIER])
_PLAIN = frozenset([Word.COLOUR, Word.PREDICATE, Word.ADVERB, Word.VERB])
_SINGLE = frozenset(["1", "one"])
#: Verbs whose meaning lies in the particle: "turn off", "put down".
_TURNS = frozenset(
    form
    for verb in ("turn", "switch", "put", "take", "pick", "throw", "push", "pull", "go", "walk")
    for form in (verb, f"{verb}s", gerund(verb))
)
#: Words that say no more than an article does.
_VAGUE = lexicon.ARTICLES | lexicon.POINTERS | {"some", "any", "one", "each", "every"}


@dataclass(frozen=True)
class Reading:
    """A change, ready for the sentences of its kind; ``slots`` are theirs."""

    kind: Kind
    removed: str | None
    added: str | None
    slots: dict[str, str]


@dataclass(frozen=True)
class _Place:
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
        return " ".join(map(common, self.text.split())) if self.caption.title else self.text

    @property
    def first(self) -> str:
        return self.caption.at(self.start)

    @property
    def length(self) -> int:
        return self.end - self.start

    def part(self, start: int, end: int) -> _Place:
        """Some of the words, counted from the first."""
        return _Place(self.caption, self.start + start, self.start + end)

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


def read_change(
    removed: str | None, added: str | None, field: str | None, reference: str, target: str
) -> Reading | None:
    """The reading of one change; None where it changes nothing that could be seen.

    ``field`` names a label; None or a name in CAPTION_FIELDS means words of the captions.
    """
    old, new = _clean(removed), _clean(added)
    if spelling(old or "") == spelling(new or ""):
        return None
    if (field or "").lower() not in CAPTION_FIELDS:
        return _read_label(old, new, field or "", reference, target)
    places = _places(old, new, reference, target)
    if old is not None and new is not None:
        return _read_replacement(places[0], places[1], old, new)
    place, text = (places[1], new) if old is None else (places[0], old)
    return _read_single(place, text or "", added=old is None)


def _clean(text: str | None) -> str | None:
    words = " ".join(word.replace('"', "") for word, _ in captions.tokens(text or ""))
    return words or None


def _places(
    old: str | None, new: str | None, reference: str, target: str
) -> tuple[_Place | None, _Place | None]:
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
        _Place(first, at[0], at[0] + len(old.split())) if old and at[0] >= 0 else None,
        _Place(second, at[1], at[1] + len(new.split())) if new and at[1] >= 0 else None,
    )


def _occurrences(caption: Caption, phrase: str | None) -> list[int]:
    wanted = captions.read(phrase or "").words
    if not wanted:
        return []
    starts = range(len(caption.words) - len(wanted) + 1)
    return [start for start in starts if caption.words[start : start + len(wanted)] == wanted]


def _slots(kind: Kind, removed: str | None, added: str | None, **slots: str) -> Reading:
    given = {"removed": removed or "", "added": added or "", "r": removed or "", "a": added or ""}
    given |= {"the_r": removed or ""}
    return Reading(kind, removed, added, {**given, **slots})


def _read_replacement(
    left: _Place | None, right: _Place | None, old: str, new: str
) -> Reading | None:
    if left is None or right is None:
        return _slots(Kind.QUOTED, old, new)
    left, right = _narrowed(left, right)
    kinds = {left.kind, right.kind}
    if kinds <= _FUNCTIONS | {Word.POSSESSIVE} and kinds != {Word.POSSESSIVE}:
        return None
    if {left.text, right.text} <= _VAGUE:
        return None
    base = verb_base(left.text)
    if base is not None and base == verb_base(right.text) and Word.VERB in kinds:
        return None
    led = doings.of_complements(left.span, right.span)
    if led is not None:
        return _slots(led[0], left.text, right.text, **led[1])
    counted = _read_number(left, right)
    if counted is not None:
        return counted
    if left.caption.title or right.caption.title:
        return _read_in_titles(left, right)
    if kinds <= _DESCRIBING | {Word.POSSESSIVE} and right.head:
        return _read_description(left, right)
    if kinds == {Word.NOUN}:
        return _read_nouns(left, right)
    if kinds == {Word.PREPOSITION}:
        return _read_prepositions(left, right)
    if Word.VERB in kinds and kinds <= {Word.VERB, Word.PREDICATE}:
        return _read_verbs(left, right)
    if kinds == {Word.COLOUR}:
        return _slots(Kind.COLOUR, left.text, right.text)
    if kinds == {Word.PHRASE}:
        return _slots(Kind.PLACE, left.text, right.text)
    alike = Word.ADVERB not in kinds or left.text[-2:] == right.text[-2:] == "ly"
    if kinds <= _PLAIN and alike:
        return _slots(Kind.PLAIN, _doing(left), _doing(right))
    return _slots(Kind.QUOTED, left.text, right.text)


def _narrowed(left: _Place, right: _Place) -> tuple[_Place, _Place]:
    """Without what the words drag along: "a young" to "an old", "three dogs" to "one dog"."""
    if min(left.length, right.length) < 2:
        return left, right
    if {left.first, right.first} <= lexicon.ARTICLES:
        return left.part(1, left.length), right.part(1, right.length)
    old, new = (
        left.caption.words[left.start : left.end],
        right.caption.words[right.start : right.end],
    )
    if old[1:-1] == new[1:-1] and singular(old[-1]) == singular(new[-1]):
        return left.part(0, 1), right.part(0, 1)
    return left, right


def _doing(place: _Place) -> str:
    if place.kind is not Word.VERB:
        return place.text
    return captions.action(place.caption, place.start, place.end)


def _read_verbs(left: _Place, right: _Place) -> Reading | None:
    texts = [_doing(place) for place in (left, right)]
    if texts[0] == texts[1]:
        return None
    slots = doings.of_verbs(left.span, right.span)
    return _slots(Kind.ACTION if slots is None else Kind.DOING, *texts, **(slots or {}))


def _read_number(left: _Place, right: _Place) -> Reading | None:
    """ "two dogs" to "three dogs", "a dog" to "two dogs", "two dogs" to "several dogs"."""
    old = "one" if left.first in ("a", "an") else left.text
    new = "one" if right.first in ("a", "an") else right.text
    kinds = {left.kind, right.kind}
    counts = {Word.NUMBER, Word.QUANTITY}
    if not kinds <= counts | {Word.ARTICLE} or not kinds & counts or old == new:
        return None
    if {left.first, right.first} & (lexicon.POINTERS | {"the", "another", "other", "no"}):
        return None
    head = right.head
    if not head:
        return _slots(Kind.PLAIN, old, new)
    stem, _, noun = head.rpartition(" ")
    one = singular(noun) if is_plural(noun) else noun
    single = new in _SINGLE or new in ("each", "every")
    many = f"{stem} {one if single else plural(noun)}".strip()
    kind = Kind.NUMBER if kinds <= {Word.NUMBER, Word.ARTICLE} else Kind.QUANTITY
    return _slots(kind, old, new, many=many, heads=f"{stem} {plural(noun)}".strip())


def _read_in_titles(left: _Place, right: _Place) -> Reading | None:
    kinds, head = {left.kind, right.kind}, right.head
    old, new = left.common, right.common
    if singular(old) == singular(new) or spelling(singular(old)) == spelling(singular(new)):
        return None
    if kinds == {Word.COLOUR}:
        return _slots(Kind.COLOUR_OF if head else Kind.COLOUR, old, new, head=head)
    if kinds == {Word.AUDIENCE}:
        groups = [lexicon.AUDIENCES[place.first] for place in (left, right)]
        return None if groups[0] == groups[1] else _slots(Kind.FOR, *groups)
    if kinds == {Word.NOUN} or (Word.NOUN in kinds and _both_last(left, right)):
        return _read_nouns(left, right)
    if kinds <= {Word.QUALITY, Word.COLOUR} and head:
        return _read_description(left, right)
    return _slots(Kind.NAME if kinds == {Word.NAME} else Kind.QUOTED, left.text, right.text)


def _both_last(left: _Place, right: _Place) -> bool:
    """Both words end their titles and are plain words: products that no list knows."""
    return all(
        place.end == len(place.caption.words) and place.kind in (Word.NOUN, Word.NAME)
        for place in (left, right)
    ) and all(re.fullmatch("[a-z-]+", place.first) for place in (left, right))


def _read_description(left: _Place, right: _Place) -> Reading:
    """Two descriptions of one noun: "red dress" to "blue dress", "baseball cap" to "wool cap"."""
    head, old, new = right.head, left.common, right.common
    if Word.POSSESSIVE in {left.kind, right.kind}:
        if {left.kind, right.kind} != {Word.POSSESSIVE}:
            return _slots(Kind.QUOTED, old, new)
        r, a = f"{old} {head}", f"{new} {head}"
        return _slots(Kind.MODIFIER, old, new, r=r, a=a, the_r=r, head=head)
    r, the_r = captions.noun_phrase(left.caption, left.start, f"{old} {head}")
    a, _ = captions.noun_phrase(right.caption, right.start, f"{new} {head}")
    kind = Kind.MODIFIER
    if {left.kind, right.kind} == {Word.COLOUR}:
        kind = Kind.COLOUR_OF
    elif Word.MODIFIER not in {left.kind, right.kind}:
        kind = Kind.QUALITY
    return _slots(kind, old, new, r=r, a=a, the_r=the_r, head=head)


def _read_nouns(left: _Place, right: _Place) -> Reading:
    old, new = left.common, right.common
    if singular(old) == singular(new) and is_plural(old) != is_plural(new):
        counts = ("several", "one") if is_plural(old) else ("one", "several")
        return _slots(Kind.QUANTITY, *counts, many=new, heads=plural(new))
    if left.start == right.start == 0 and not any(map(_sure_noun, (old, new))):
        return _slots(Kind.QUOTED, old, new)  # perhaps two verbs that no list knows
    (r, the_r), (a, _) = left.phrase, right.phrase
    where = captions.preposition_before(right.caption, right.start)
    if where and where == captions.preposition_before(left.caption, left.start):
        slots = {"in_r": f"{where} {r}", "in_a": f"{where} {a}"}
        return _slots(Kind.WHERE, left.common, right.common, r=r, a=a, the_r=the_r, **slots)
    return _slots(Kind.NOUN, left.common, right.common, r=r, a=a, the_r=the_r)


def _sure_noun(phrase: str) -> bool:
    noun = phrase.rsplit(" ", 1)[-1].lower()
    return is_plural(noun) or noun in lexicon.PEOPLE | lexicon.MASS | lexicon.PRODUCTS


def _read_prepositions(left: _Place, right: _Place) -> Reading:
    old, new = left.text, right.text
    before = left.caption.before(left.start)
    if {old, new} <= lexicon.PARTICLES | {"on", "in"} and before in _TURNS:
        return _slots(Kind.ACTION, gerund(f"{before} {old}"), gerund(f"{before} {new}"))
    if "of" in (old, new) or not _object(right):
        return _slots(Kind.QUOTED, old, new)
    r, a = f"{old} {_object(left)}", f"{new} {_object(right)}"
    return _slots(Kind.PLACE, old, new, r=r, a=a)


def _object(place: _Place) -> str:
    """The noun phrase after a preposition: "the snow"."""
    caption, end = place.caption, place.end
    determiner = caption.after(end)
    taken = determiner if determiner in captions.DETERMINERS else ""
    noun = captions.head_after(caption, end + 1 if taken else end)
    return f"{taken} {noun}".strip() if noun else ""


def _read_single(place: _Place | None, text: str, added: bool) -> Reading | None:
    """Words that only one side has."""
    old, new = (None, text) if added else (text, None)
    if place is None:
        return _slots(Kind.QUOTED, old, new)
    if place.first in lexicon.CONJUNCTIONS and place.length > 1:
        place = place.part(1, place.length)
    kind, said = place.kind, place.common
    if kind in _FUNCTIONS | {Word.POSSESSIVE}:
        return None

    def reading(of: Kind, word: str, phrase: str = "", definite: str = "", **slots: str) -> Reading:
        sides = (None, word) if added else (word, None)
        phrase = phrase or word
        return _slots(of, *sides, a=phrase, r=phrase, the_r=definite or phrase, **slots)

    if kind is Word.NOUN:
        return reading(Kind.NOUN, said, *place.phrase)
    if kind in (Word.NUMBER, Word.QUANTITY) and place.head:
        heads = plural(place.head)
        many = place.head if place.first in _SINGLE else heads
        return reading(Kind.QUANTITY, said, many=many, heads=heads)
    if kind is Word.VERB:
        return reading(Kind.ACTION, _doing(place))
    if kind in _DESCRIBING and place.head:
        phrases = captions.noun_phrase(place.caption, place.start, f"{said} {place.head}")
        of = {Word.COLOUR: Kind.COLOUR_OF, Word.QUALITY: Kind.QUALITY}.get(kind, Kind.MODIFIER)
        return reading(of, said, *phrases, head=place.head)
    if kind is Word.AUDIENCE:
        return reading(Kind.FOR, lexicon.AUDIENCES[place.first])
    simple = {
        Word.NAME: Kind.NAME,
        Word.COLOUR: Kind.COLOUR,
        Word.PREDICATE: Kind.PLAIN,
        Word.ADVERB: Kind.PLAIN,
        Word.PHRASE: Kind.PLACE,
    }
    return reading(simple.get(kind, Kind.QUOTED), place.text)


def _read_label(
    old: str | None, new: str | None, field: str, reference: str, target: str
) -> Reading | None:
    """A label that differs: "baseColour" red, blue."""
    if "?" in field or len(field.split()) > 3:
        return _slots(Kind.ANSWER, old, new, field=" ".join((_clean(field) or "").split()) + "?")
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", field)
    name = " ".join(re.sub(r"[\W_]+", " ", name).lower().split())
    last = name.rsplit(" ", 1)[-1]
    if last not in _NAMES:
        old, new = (" ".join(map(common, text.split())) if text else None for text in (old, new))
    values = [value for value in (old, new) if value]
    if last in ("colour", "color"):
        places = _places(old, new, reference, target)
        here = next((place for place in places[::-1] if place is not None), None)
        head = here.head if here is not None else ""
        return _slots(Kind.COLOUR_OF if head else Kind.COLOUR, old, new, head=head)
    if last in ("gender", "audience", "sex") and all(v in lexicon.AUDIENCES for v in values):
        groups = [lexicon.AUDIENCES[value] if value else None for value in (old, new)]
        return None if groups[0] == groups[1] else _slots(Kind.FOR, *groups)
    if last == "season" and all(value in lexicon.SEASONS for value in values):
        return _slots(Kind.FOR, old, new)
    if last in ("verb", "action", "activity"):
        doing: Any = [gerund(value.replace("-", " ")) if value else None for value in (old, new)]
        return _slots(Kind.ACTION, *doing)
    if last in ("noun", "object"):
        definite, other = (f"the {value}" if value else "" for value in (old, new))
        return _slots(Kind.NOUN, old, new, r=definite, the_r=definite, a=other)
    return _slots(Kind.LABEL, old, new, field=name or "label")
