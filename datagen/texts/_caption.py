"""What kind of word stands at a place of a caption: lists first, then the words around it."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from enum import StrEnum

from datagen.texts import _lexicon as lexicon
from datagen.texts._words import (
    common,
    gerund,
    is_colour,
    is_ing,
    is_plural,
    plural,
    singular,
    verb_base,
    with_article,
)

_OUTER = ' \t\n.,;:!?"“”()[]{}<>*|'
DETERMINERS = (
    lexicon.ARTICLES
    | lexicon.POINTERS
    | lexicon.POSSESSIVES
    | lexicon.QUANTIFIERS
    | frozenset(lexicon.NUMBERS)
)
_ADJECTIVES = lexicon.COLOURS | lexicon.QUALITIES | lexicon.MATERIALS | frozenset(lexicon.PLACES)
#: What is done to something: "put it", "wash them".
_OBJECTS = frozenset(["it", "them"])
#: Words before a verb in a caption without articles: "hold pan and stir sauce".
_BEFORE_VERB = lexicon.CONJUNCTIONS | frozenset(
    ["to", "still", "continue", "continues", "keep", "keeps", "start", "stop", "finish"]
)
#: Words that only a noun can follow, perhaps after adjectives.
_BEFORE_NOUN = DETERMINERS | _ADJECTIVES


class Word(StrEnum):
    """What a word is, where it stands."""

    ARTICLE = "article"
    AUXILIARY = "auxiliary"
    POSSESSIVE = "possessive"
    NUMBER = "number"
    QUANTITY = "quantity"
    PREPOSITION = "preposition"
    FUNCTION = "function"
    COLOUR = "colour"
    QUALITY = "quality"
    MODIFIER = "modifier"
    PREDICATE = "predicate"
    ADVERB = "adverb"
    VERB = "verb"
    NOUN = "noun"
    AUDIENCE = "audience"
    NAME = "name"
    PHRASE = "prepositional phrase"
    MIXED = "words of several kinds"


@dataclass(frozen=True)
class Caption:
    """Words of a caption: as written, in lower case, and which are followed by a stop."""

    surface: tuple[str, ...]
    words: tuple[str, ...]
    stops: tuple[bool, ...]
    title: bool
    telegraphic: bool

    def at(self, place: int) -> str:
        """The word at ``place``; empty outside the caption."""
        return self.words[place] if 0 <= place < len(self.words) else ""

    def before(self, place: int) -> str:
        """The word before ``place`` in the same clause."""
        return "" if place < 1 or self.stops[place - 1] else self.at(place - 1)

    def after(self, end: int) -> str:
        """The word after the span that ends before ``end``, in the same clause."""
        return "" if end < 1 or end > len(self.words) or self.stops[end - 1] else self.at(end)


def tokens(text: str) -> list[tuple[str, bool]]:
    """Words without outer punctuation, and whether a stop follows each."""
    found: list[tuple[str, bool]] = []
    for raw in "".join(c if c.isprintable() else " " for c in text).split():
        word = raw.strip(_OUTER).strip("'`‘’-–—_")
        if word:
            found.append((word, bool(re.search(r"[.,;:!?()]$", raw))))
        elif found:
            found[-1] = (found[-1][0], True)
    return found


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Caption:
    """Read a caption. A *title* is a product title (most words begin with a capital or digit);
    a *telegraphic* caption leaves articles out and begins with a verb ("put bowl on table")."""
    found = tokens(text)
    surface = tuple(word for word, _ in found)
    words = tuple(re.sub("[.,]", "", word.lower().replace("’", "'")) or word for word in surface)
    long = [word for word in surface if len(word) > 2]
    high = sum(word[0].isupper() or word[0].isdigit() for word in long)
    articles = bool(lexicon.ARTICLES & set(words))
    title = len(long) > 1 and high >= 0.6 * len(long) and not articles
    starts = bool(words) and (is_ing(words[0]) or verb_base(words[0]) is not None)
    telegraphic = not title and not articles and starts
    return Caption(surface, words, tuple(stop for _, stop in found), title, telegraphic)


def is_verb(caption: Caption, place: int) -> bool:
    """Whether the word at ``place`` acts as a verb there."""
    word, before = caption.at(place), caption.before(place)
    # "a dog that runs", not "that dog".
    relative = before == "that" and place > 1 and in_noun_phrase(caption, place - 2)
    # "the light turns green", "a blue square moves".
    after_noun = before in lexicon.ALSO_ADJECTIVES and word.endswith("s")
    relative = relative or (after_noun and verb_base(word) not in lexicon.ALSO_NOUNS)
    # "backless dresses"
    follows_noun_sign = before in _BEFORE_NOUN or before.endswith("less")
    follows_noun_sign = follows_noun_sign and not relative
    if word in lexicon.ING_NOUNS:
        opens = place == 0 and caption.after(1) in lexicon.ARTICLES
        return before in lexicon.AUXILIARIES or (opens and verb_base(word) is not None)
    if is_ing(word):
        # "a standing crowd" and "running shoes" after an adjective; "two standing in a line" not.
        return not (follows_noun_sign and _plain(caption.after(place + 1)))
    if verb_base(word) is None and _begins_order(caption, place):
        return True
    if verb_base(word) is None:
        # "a dog frolics in the snow": an unknown -s after one who can act, before no noun.
        acts = before in lexicon.PEOPLE and word.endswith("s") and is_plural(word)
        return acts and not _plain(caption.after(place + 1))
    if follows_noun_sign:
        return False
    if before in lexicon.PREPOSITIONS - lexicon.PARTICLES - {"to"}:
        return False
    if not before:
        after = caption.after(place + 1)
        return place == 0 and (caption.telegraphic or after in DETERMINERS | _OBJECTS)
    if caption.telegraphic and before not in _BEFORE_VERB:
        return False
    led = relative or is_plural(before) or before in lexicon.AUXILIARIES
    if word in lexicon.ALSO_NOUNS and not led:
        return before in lexicon.CONJUNCTIONS | lexicon.PRONOUNS | {"to"}
    return True


def _begins_order(caption: Caption, place: int) -> bool:
    """Whether an unknown word begins a caption as an order does: "lather the pan", "stem it"."""
    word, after = caption.at(place), caption.after(place + 1)
    known = (
        lexicon.FUNCTION
        | set(lexicon.NUMBERS)
        | lexicon.ADVERBS
        | lexicon.PEOPLE
        | lexicon.QUALITIES
        | {"all"}
    )
    begins = place == 0 and len(caption.words) > 1 and not caption.title
    objects = lexicon.ARTICLES | lexicon.POSSESSIVES | _OBJECTS
    return begins and after in objects and word not in known and not is_plural(word)


def _plain(word: str) -> bool:
    return bool(word) and word not in lexicon.FUNCTION and not is_ing(word) and word[0].isalnum()


def in_noun_phrase(caption: Caption, place: int) -> bool:
    """Whether the word at ``place`` can be the middle or the end of a noun phrase."""
    word = caption.at(place)
    return (
        _plain(word)
        and word not in lexicon.NUMBERS
        and not is_adverb(word)
        and not is_verb(caption, place)
    )


def is_adverb(word: str) -> bool:
    """Whether a word is an adverb: in -ly, or known."""
    known = lexicon.LY_NOUNS | lexicon.QUALITIES
    ends = word.endswith("ly") and len(word) > 4 and word not in known
    return ends or word in lexicon.ADVERBS


def kind_of(caption: Caption, start: int, end: int) -> Word:
    """What the words ``start`` to ``end`` are: one word, or a phrase of a kind."""
    if end - start == 1:
        return _kind_of_word(caption, start)
    kinds = [_kind_of_word(caption, place) for place in range(start, end)]
    last, others = kinds[-1], set(kinds[:-1])
    if caption.title:
        return last if others <= {last} else Word.NAME
    describing = {Word.COLOUR, Word.QUALITY, Word.MODIFIER, Word.NOUN}
    begins = {Word.ARTICLE, Word.POSSESSIVE, Word.NUMBER, Word.QUANTITY}
    if kinds[0] is Word.PREPOSITION and last is Word.NOUN:
        return Word.PHRASE if set(kinds[1:-1]) <= describing | begins else Word.MIXED
    if last is Word.NOUN and set(kinds[1:-1]) <= describing and kinds[0] in describing | begins:
        return Word.NOUN
    if last in describing and others <= describing:
        return last if others <= {last} else Word.MODIFIER
    if kinds[0] is Word.VERB and set(kinds[1:]) <= {Word.ADVERB, Word.PREPOSITION}:
        return Word.VERB
    return Word.MIXED


def _kind_of_word(caption: Caption, place: int) -> Word:
    start, end, word = place, place + 1, caption.at(place)
    closed = _closed(word)
    if word == "can" and caption.before(place) not in lexicon.PRONOUNS:
        closed = None  # a tin; as an auxiliary it is rare in captions
    if closed is not None and not (caption.title and closed is Word.FUNCTION):
        return closed
    if caption.title:
        return _kind_in_title(word)
    before, after = caption.before(start), caption.after(end)
    heads = bool(after) and in_noun_phrase(caption, end)
    if is_verb(caption, place):
        return Word.VERB
    if is_colour(word) or word in lexicon.QUALITIES:
        if heads:
            return Word.COLOUR if is_colour(word) else Word.QUALITY
        # "a small pink square", "turn on light".
        if word in lexicon.ALSO_ADJECTIVES and (before in _ADJECTIVES or caption.telegraphic):
            return Word.NOUN
        if word in lexicon.ALSO_COLOURS and caption.telegraphic:
            return Word.NOUN
        if before in DETERMINERS and after not in ("and", "or"):
            return Word.NOUN
        return Word.COLOUR if is_colour(word) else Word.PREDICATE
    if is_adverb(word) and not (word in lexicon.ADVERBS and before in _BEFORE_NOUN):
        return Word.ADVERB
    participle = word.endswith("ed") and verb_base(word) is not None
    if heads and (participle or is_ing(word) or _may_modify(word)):
        return Word.MODIFIER
    if participle:
        return Word.PREDICATE
    return Word.NOUN


def _may_modify(word: str) -> bool:
    return word not in lexicon.PEOPLE and (not is_plural(word) or word in lexicon.SINGULAR)


def _closed(word: str) -> Word | None:
    if word in lexicon.NUMBERS or word.isdigit():
        return Word.NUMBER
    for kind, words in (
        (Word.ARTICLE, lexicon.ARTICLES | lexicon.POINTERS),
        (Word.AUXILIARY, lexicon.AUXILIARIES),
        (Word.POSSESSIVE, lexicon.POSSESSIVES),
        (Word.QUANTITY, lexicon.QUANTIFIERS),
        (Word.PREPOSITION, lexicon.PREPOSITIONS),
        (Word.FUNCTION, lexicon.FUNCTION),
    ):
        if word in words:
            return kind
    return None


def _kind_in_title(word: str) -> Word:
    if is_colour(word):
        return Word.COLOUR
    if word in lexicon.AUDIENCES:
        return Word.AUDIENCE
    if singular(word) in lexicon.PRODUCTS or word in lexicon.PLURAL | lexicon.MASS - {"ice"}:
        return Word.NOUN
    return Word.QUALITY if word in lexicon.QUALITIES else Word.NAME


def head_after(caption: Caption, end: int) -> str:
    """The rest of the noun phrase after ``end`` ("little dog"); empty where there is none.

    In a title it is the product, wherever it stands.
    """
    if caption.title:
        kinds = [_kind_in_title(word) for word in caption.words]
        nouns = [w for w, kind in zip(caption.words, kinds, strict=True) if kind is Word.NOUN]
        return common(nouns[-1]) if nouns else ""
    found: list[str] = []
    place = end
    while len(found) < 4 and caption.after(place) and in_noun_phrase(caption, place):
        found.append(written(caption, place))
        place += 1
        # "two dogs frolick": a plural that is no modifier ends the phrase.
        if is_plural(caption.at(place - 1)) or caption.at(place - 1) in lexicon.PEOPLE:
            break
    return " ".join(found)


def written(caption: Caption, place: int) -> str:
    """The word at ``place`` as it stands within a sentence: names keep their capitals."""
    surface, word = caption.surface[place], caption.words[place]
    if word in lexicon.PLACES or is_colour(word) or word.startswith("t-shirt"):
        return common(word)
    if word in lexicon.MASS and surface[1:] == surface[1:].lower() and not caption.title:
        return word
    inner_capital = surface[1:] != surface[1:].lower()
    begins = place == 0 or caption.stops[place - 1]
    keeps = caption.title or inner_capital or (surface[0].isupper() and not begins)
    return surface if keeps else surface.lower()


def noun_phrase(caption: Caption, start: int, phrase: str) -> tuple[str, str]:
    """``phrase`` (whose place begins at ``start``) with the determiner that suits its caption, and
    the same made definite: ("a dog", "the dog"), ("dogs", "the dogs"), ("hockey", "hockey")."""
    noun = phrase.rsplit(" ", 1)[-1]
    many, mass = is_plural(noun), noun.lower() in lexicon.MASS
    determiner = "" if caption.title else _determiner(caption, start)
    definite = f"the {phrase}"
    if caption.title:
        return (phrase if many or mass else with_article(phrase)), definite
    counts = determiner in lexicon.NUMBERS or determiner in lexicon.QUANTIFIERS
    if counts and determiner not in ("one", "each", "every", "another", "no", "any", "some"):
        phrase = phrase.removesuffix(noun) + plural(noun)
        return phrase, f"the {phrase}"
    if determiner in ("a", "an", "one", "each", "every", "another"):
        return (phrase if many or mass else with_article(phrase)), definite
    if determiner in lexicon.ARTICLES | lexicon.POINTERS | lexicon.POSSESSIVES or (
        determiner.endswith("'s")
    ):
        return definite, definite
    if caption.telegraphic and noun == noun.lower():
        return definite, definite
    if not many and not mass and noun.lower() in lexicon.PEOPLE:
        return with_article(phrase), definite
    return phrase, (definite if many else phrase)


def preposition_before(caption: Caption, start: int, side: bool = False) -> str:
    """The preposition of place that governs the noun at ``start``; empty where none does.

    ``side``: the noun is one of SIDES, so that "to" and "from" say where as well.
    """
    if caption.title or (caption.telegraphic and not side):
        return ""
    place = phrase_start(caption, start)
    word = caption.before(place + 1)
    if word in DETERMINERS:
        word = caption.before(place)
    return word if word in lexicon.WHERE or (side and word in ("to", "from")) else ""


def _determiner(caption: Caption, start: int) -> str:
    return caption.before(phrase_start(caption, start) + 1)


def phrase_start(caption: Caption, start: int) -> int:
    """The place before the describing words that lead to ``start``."""
    place = start - 1
    for _ in range(3):
        if place < 0 or not caption.before(place + 1) or not in_noun_phrase(caption, place):
            break
        if caption.at(place).endswith("'s"):
            break
        place -= 1
    return place


def action(caption: Caption, start: int, end: int) -> str:
    """The -ing form of the verb at ``start``, with the particle that belongs to it."""
    words = " ".join(caption.words[start:end])
    after = caption.after(end)
    return gerund(f"{words} {after}" if after in lexicon.PARTICLES else words)
