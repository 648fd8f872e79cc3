"""Reads a change between two captions (or two labels) into the words that a sentence needs.

A small lexicon and the words around the change decide its kind. Where they do not, the kind is
one whose sentences quote the words, which suits any word class.
"""

from __future__ import annotations

import re

from datagen.texts import _caption as captions
from datagen.texts import _doings as doings
from datagen.texts import _lexicon as lexicon
from datagen.texts._caption import Word
from datagen.texts._label import CAPTION_FIELDS, read_label
from datagen.texts._places import Place, Reading, clean, places_of, reading_of
from datagen.texts._sentences import Kind
from datagen.texts._words import gerund, is_plural, plural, singular, spelling, verb_base

_FUNCTIONS = frozenset([Word.ARTICLE, Word.AUXILIARY, Word.FUNCTION])
_DESCRIBING = frozenset([Word.COLOUR, Word.QUALITY, Word.MODIFIER])
_PLAIN = frozenset([Word.COLOUR, Word.PREDICATE, Word.ADVERB, Word.VERB])
_SINGLE = frozenset(["1", "one", "each", "every", "another"])
#: Verbs whose meaning lies in the particle: "turn off", "put down".
_TURNS = frozenset(
    form
    for verb in ("turn", "switch", "put", "take", "pick", "throw", "push", "pull", "go", "walk")
    for form in (verb, f"{verb}s", gerund(verb))
)
#: Words that say no more than an article does.
_VAGUE = (
    lexicon.ARTICLES
    | lexicon.POINTERS
    | frozenset(["some", "any", "one", "each", "every", "another", "other"])
)
#: Words that say that something goes on, which two clips of it share.
_GOING_ON = frozenset(["still", "continue", "continues", "continuing", "keep", "keeps", "keeping"])
#: A word after one of these is what can be read in the picture: "the word love", "a sign saying".
_SAYING = frozenset(
    [
        *("word", "words", "letter", "letters", "lettering", "text", "reads", "reading", "says"),
        *("saying", "spells", "spelling", "labeled", "labelled", "titled", "named", "called"),
    ]
)


def read_change(
    removed: str | None, added: str | None, field: str | None, reference: str, target: str
) -> Reading | None:
    """The reading of one change; None where it changes nothing that could be seen.

    ``field`` names a label; None or a name in CAPTION_FIELDS means words of the captions.
    """
    old, new = clean(removed), clean(added)
    if spelling(old or "") == spelling(new or ""):
        return None
    if (field or "").lower() not in CAPTION_FIELDS:
        return read_label(old, new, field or "", reference, target)
    places = places_of(old, new, reference, target)
    if old is not None and new is not None:
        return _read_replacement(places[0], places[1], old, new)
    place, text = (places[1], new) if old is None else (places[0], old)
    return _read_single(place, text or "", added=old is None)


def _read_replacement(
    left: Place | None, right: Place | None, old: str, new: str
) -> Reading | None:
    if left is None or right is None:
        return reading_of(Kind.QUOTED, old, new)
    left, right = _narrowed(left, right)
    kinds = {left.kind, right.kind}
    if _shows_nothing(left, right):
        return None
    if {place.caption.before(place.start) for place in (left, right)} <= _SAYING:
        return reading_of(Kind.WRITTEN, left.surface, right.surface)
    described = _one_described(left, right)
    if described is not None:
        return described
    measured = _read_measures(left, right)
    if measured is not None:
        return measured
    led = doings.of_complements(left.span, right.span)
    if led is not None:
        return reading_of(led[0], left.text, right.text, **led[1])
    counted = _read_number(left, right)
    if counted is not None:
        return counted
    if left.caption.title or right.caption.title:
        return _read_in_titles(left, right)
    if kinds <= _DESCRIBING | {Word.POSSESSIVE} and right.head:
        return _read_description(left, right)
    if kinds == {Word.NOUN}:
        return _read_nouns(left, right)
    turned = _read_particles(left, right)
    if turned is not None:
        return turned
    if kinds == {Word.PREPOSITION}:
        return _read_prepositions(left, right)
    if Word.VERB in kinds and kinds <= {Word.VERB, Word.PREDICATE}:
        return _read_verbs(left, right)
    if _both_begin_orders(left, right):
        return reading_of(Kind.ACTION, *(_order(place) for place in (left, right)))
    if kinds == {Word.COLOUR}:
        return reading_of(Kind.COLOUR, left.text, right.text)
    if kinds == {Word.PHRASE}:
        return reading_of(Kind.PLACE, left.text, right.text)
    alike = Word.ADVERB not in kinds or left.text[-2:] == right.text[-2:] == "ly"
    if kinds <= _PLAIN and alike:
        return reading_of(Kind.PLAIN, _doing(left), _doing(right))
    return reading_of(Kind.QUOTED, left.text, right.text)


def _shows_nothing(left: Place, right: Place) -> bool:
    """ "is" for "are", "the" for "some", "jumps" for "jumping", "still" for "continue"."""
    kinds = {left.kind, right.kind}
    grammatical = _FUNCTIONS | {Word.POSSESSIVE, Word.PREPOSITION}
    alike = {Word.POSSESSIVE}, {Word.PREPOSITION}
    if kinds <= grammatical and kinds not in alike and Word.PREPOSITION not in kinds:
        return True
    if kinds <= grammatical and kinds & {Word.AUXILIARY, Word.FUNCTION}:
        return True
    if {left.text, right.text} <= _VAGUE or {left.first, right.first} <= _GOING_ON:
        return True
    # What "it" is can be seen in neither caption.
    if {left.first, right.first} & {"it", "them"} and Word.NOUN in kinds:
        return True
    # "two men" may well be "the men".
    if left.kind is Word.NUMBER and right.first in lexicon.POINTERS | {"the"}:
        return True
    base = verb_base(left.text)
    return base is not None and base == verb_base(right.text) and Word.VERB in kinds


def _one_described(left: Place, right: Place) -> Reading | None:
    """ "a dog" to "small dogs", "the men" to "two men": a word where the other has its article."""
    for place, other in ((right, left), (left, right)):
        vague = other.kind is Word.ARTICLE or other.first == "another"
        if not vague or other.length > 1 or not place.head:
            continue
        counted = place is right and place.kind is Word.NUMBER and other.first not in ("a", "an")
        if place.kind in _DESCRIBING or counted:
            return _read_single(place, place.text, added=place is right)
    return None


def _read_measures(left: Place, right: Place) -> Reading | None:
    """ "5 kg" to "10 kg", "20%" to "50%": a number with its unit, which no number of things is."""
    old, new = left.measure, right.measure
    if not old or not new or old == new:
        return None
    if left.head_of_measure and left.head_of_measure == right.head_of_measure:
        head = right.head_of_measure
        r, the_r = captions.noun_phrase(left.caption, left.start, f"{old} {head}")
        a, _ = captions.noun_phrase(right.caption, right.start, f"{new} {head}")
        return reading_of(Kind.MODIFIER, old, new, r=r, a=a, the_r=the_r, head=head)
    return reading_of(Kind.PLAIN, old, new)


def _narrowed(left: Place, right: Place) -> tuple[Place, Place]:
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


def _doing(place: Place) -> str:
    if place.kind is not Word.VERB:
        return place.text
    return captions.action(place.caption, place.start, place.end)


def _both_begin_orders(left: Place, right: Place) -> bool:
    """ "get sponge" and "water sponge": where one begins with a verb, so does the other."""
    orders = any(p.caption.telegraphic and p.kind is Word.VERB for p in (left, right))
    return orders and all(
        p.start == 0 and p.caption.after(p.end) and p.kind in (Word.VERB, Word.NOUN, Word.MODIFIER)
        for p in (left, right)
    )


def _order(place: Place) -> str:
    return captions.action(place.caption, place.start, place.end)


def _read_verbs(left: Place, right: Place) -> Reading | None:
    texts = [_doing(place) for place in (left, right)]
    if texts[0] == texts[1]:
        return None
    slots = doings.of_verbs(left.span, right.span)
    return reading_of(Kind.ACTION if slots is None else Kind.DOING, *texts, **(slots or {}))


def _read_number(left: Place, right: Place) -> Reading | None:
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
        return reading_of(Kind.PLAIN, old, new)
    stem, _, noun = head.rpartition(" ")
    one = singular(noun) if is_plural(noun) else noun
    single = new in _SINGLE or new in ("each", "every")
    many = f"{stem} {one if single else plural(noun)}".strip()
    kind = Kind.NUMBER if kinds <= {Word.NUMBER, Word.ARTICLE} else Kind.QUANTITY
    return reading_of(kind, old, new, many=many, heads=f"{stem} {plural(noun)}".strip())


def _read_in_titles(left: Place, right: Place) -> Reading | None:
    kinds, head = {left.kind, right.kind}, right.head
    old, new = left.common, right.common
    if singular(old) == singular(new) or spelling(singular(old)) == spelling(singular(new)):
        return None
    if kinds == {Word.COLOUR}:
        return reading_of(Kind.COLOUR_OF if head else Kind.COLOUR, old, new, head=head)
    if kinds == {Word.AUDIENCE}:
        groups = [lexicon.AUDIENCES[place.first] for place in (left, right)]
        return None if groups[0] == groups[1] else reading_of(Kind.FOR, *groups)
    if kinds == {Word.NOUN} or (Word.NOUN in kinds and _both_last(left, right)):
        return _read_nouns(left, right)
    described = {Word.QUALITY, Word.COLOUR}
    if head and (kinds <= described or (kinds & described and kinds <= described | {Word.NAME})):
        return _read_description(left, right)
    return reading_of(Kind.NAME if kinds == {Word.NAME} else Kind.QUOTED, left.text, right.text)


def _both_last(left: Place, right: Place) -> bool:
    """Both words end their titles and are plain words: products that no list knows."""
    return all(
        place.end == len(place.caption.words) and place.kind in (Word.NOUN, Word.NAME)
        for place in (left, right)
    ) and all(re.fullmatch("[a-z-]+", place.first) for place in (left, right))


def _read_description(left: Place, right: Place) -> Reading:
    """Two descriptions of one noun: "red dress" to "blue dress", "baseball cap" to "wool cap"."""
    head, old, new = right.head, left.described, right.described
    if Word.POSSESSIVE in {left.kind, right.kind}:
        if {left.kind, right.kind} != {Word.POSSESSIVE}:
            return reading_of(Kind.QUOTED, old, new)
        r, a = f"{old} {head}", f"{new} {head}"
        return reading_of(Kind.MODIFIER, old, new, r=r, a=a, the_r=r, head=head)
    r, the_r = captions.noun_phrase(left.caption, left.start, f"{old} {head}")
    a, _ = captions.noun_phrase(right.caption, right.start, f"{new} {head}")
    kind = Kind.MODIFIER
    if {left.kind, right.kind} == {Word.COLOUR}:
        kind = Kind.COLOUR_OF
    elif not {left.kind, right.kind} & {Word.MODIFIER, Word.NAME}:
        kind = Kind.QUALITY
    return reading_of(kind, old, new, r=r, a=a, the_r=the_r, head=head)


def _read_nouns(left: Place, right: Place) -> Reading:
    old, new = left.common, right.common
    if singular(old) == singular(new) and is_plural(old) != is_plural(new):
        counts = ("several", "one") if is_plural(old) else ("one", "several")
        return reading_of(Kind.QUANTITY, *counts, many=new, heads=plural(new))
    if left.start == right.start == 0 and not any(map(_sure_noun, (old, new))):
        return reading_of(Kind.QUOTED, old, new)  # perhaps two verbs that no list knows
    (r, the_r), (a, _) = left.phrase, right.phrase
    sides = {place.last for place in (left, right)} <= lexicon.SIDES
    where = captions.preposition_before(right.caption, right.start, sides)
    if where and where == captions.preposition_before(left.caption, left.start, sides):
        slots = {"in_r": f"{where} {r}", "in_a": f"{where} {a}"}
        return reading_of(Kind.WHERE, left.common, right.common, r=r, a=a, the_r=the_r, **slots)
    return reading_of(Kind.NOUN, left.common, right.common, r=r, a=a, the_r=the_r)


def _sure_noun(phrase: str) -> bool:
    noun = phrase.rsplit(" ", 1)[-1].lower()
    return is_plural(noun) or noun in lexicon.PEOPLE | lexicon.MASS | lexicon.PRODUCTS


def _read_particles(left: Place, right: Place) -> Reading | None:
    """ "looks around" to "looks down", "put glass away" to "put glass down"."""
    verbs = []
    for place in (left, right):
        caption, at = place.caption, place.start
        closed = place.first in lexicon.PREPOSITIONS | lexicon.ADVERBS
        if place.length > 1 or not closed or caption.after(place.end):
            return None
        verb = at - 1
        if caption.telegraphic and place.first in lexicon.PARTICLES | {"on", "in"}:
            verb = next((n for n in range(at - 1, -1, -1) if captions.is_verb(caption, n)), verb)
        if not captions.is_verb(caption, verb):
            return None
        verbs.append(gerund(f"{caption.at(verb)} {place.first}"))
    return reading_of(Kind.ACTION, *verbs) if verbs[0] != verbs[1] else None


def _read_prepositions(left: Place, right: Place) -> Reading:
    old, new = left.text, right.text
    before = left.caption.before(left.start)
    if {old, new} <= lexicon.PARTICLES | {"on", "in"} and before in _TURNS:
        return reading_of(Kind.ACTION, gerund(f"{before} {old}"), gerund(f"{before} {new}"))
    if "of" in (old, new) or not _object(right):
        return reading_of(Kind.QUOTED, old, new)
    r, a = f"{old} {_object(left)}", f"{new} {_object(right)}"
    return reading_of(Kind.PLACE, old, new, r=r, a=a)


def _object(place: Place) -> str:
    """The noun phrase after a preposition: "the snow"."""
    caption, end = place.caption, place.end
    determiner = caption.after(end)
    taken = determiner if determiner in captions.DETERMINERS else ""
    noun = captions.head_after(caption, end + 1 if taken else end)
    return f"{taken} {noun}".strip() if noun else ""


def _read_single(place: Place | None, text: str, added: bool) -> Reading | None:
    """Words that only one side has."""
    old, new = (None, text) if added else (text, None)
    if place is None:
        return reading_of(Kind.QUOTED, old, new)
    if place.first in lexicon.CONJUNCTIONS and place.length > 1:
        place = place.part(1, place.length)
    kind, said = place.kind, place.common
    if kind in _FUNCTIONS | {Word.POSSESSIVE} or place.text in _GOING_ON:
        return None

    def reading(of: Kind, word: str, phrase: str = "", definite: str = "", **slots: str) -> Reading:
        sides = (None, word) if added else (word, None)
        phrase = phrase or word
        return reading_of(of, *sides, a=phrase, r=phrase, the_r=definite or phrase, **slots)

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
