"""Forms of single words: articles, plurals, verb forms, spelling."""

from __future__ import annotations

import functools
import re
from typing import Any

from datagen.texts import _lexicon as lexicon

#: Letters whose names begin with a vowel, and words that are read letter by letter.
_VOWEL_LETTERS = frozenset("AEFHILMNORSX")
_SPELT = frozenset(["SUV", "LED", "ATM", "ATV", "FBI", "NBA", "USB", "UFO", "UK", "EU"])


@functools.cache
def _inflect() -> Any:
    import inflect

    return inflect.engine()


@functools.lru_cache(maxsize=1 << 16)
def with_article(phrase: str) -> str:
    """``phrase`` with a or an, by sound."""
    first = re.split(r"[\s-]", phrase, maxsplit=1)[0]
    if re.match(r"(8|11\b|18\b)", first):
        return f"an {phrase}"
    spelt = first.upper() in _SPELT or (first.isupper() and not re.search("[AEIOU]", first))
    if spelt and len(first) > 1:
        return f"{'an' if first[0].upper() in _VOWEL_LETTERS else 'a'} {phrase}"
    if not first[:1].isalnum():
        return f"a {phrase}"
    article: str = _inflect().a(first).split(" ", 1)[0]
    return f"{article} {phrase}"


@functools.lru_cache(maxsize=1 << 16)
def plural(noun: str) -> str:
    """The plural of a noun that may be plural already."""
    if is_plural(noun) or noun.lower() in lexicon.MASS:
        return noun
    formed: str = _inflect().plural_noun(noun)
    return formed


def is_plural(noun: str) -> bool:
    """Whether a noun is plural, by its form."""
    word = noun.lower()
    if word in lexicon.PLURAL or word.endswith(("women", "children", "people")):
        return True
    if word.endswith("men") and word not in ("specimen", "regimen", "abdomen", "ramen", "omen"):
        return True
    if word in lexicon.SINGULAR or word.endswith(("ss", "us", "is", "'s")):
        return False
    return word.endswith("s") and len(word) > 3


@functools.lru_cache(maxsize=1 << 16)
def singular(noun: str) -> str:
    """The singular of a noun that may be singular already; lower case."""
    word = noun.lower()
    if not is_plural(word):
        return word
    if word.endswith("s") and word[:-1] in lexicon.PRODUCTS:
        return word[:-1]
    formed = _inflect().singular_noun(word)
    return str(formed) if formed else word


@functools.lru_cache(maxsize=1 << 16)
def verb_base(word: str) -> str | None:
    """The base form of a form of a verb of the lexicon; None for other words."""
    word = word.lower()
    if word in lexicon.VERBS:
        return word
    if word in lexicon.IRREGULAR:
        return lexicon.IRREGULAR[word]
    for ending in ("ing", "ed", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            stem = word[: -len(ending)]
            tries = [stem, stem + "e"]
            if ending == "s":
                tries = [stem, stem[:-1] if stem.endswith("e") else stem]
            elif len(stem) > 2 and stem[-1] == stem[-2]:
                tries.append(stem[:-1])
            if stem.endswith("i"):
                tries.append(stem[:-1] + "y")
            if stem.endswith("ie"):
                tries.append(stem[:-2] + "y")
            found = next((base for base in tries if base in lexicon.VERBS), None)
            if found:
                return found
    return None


@functools.lru_cache(maxsize=1 << 16)
def gerund(verb: str) -> str:
    """The -ing form of a form of a verb (of its first word, for "turn on")."""
    first, _, rest = verb.partition(" ")
    word = first.lower()
    if not word.endswith("ing") or word in lexicon.VERBS:
        word = _add_ing(verb_base(word) or _without_s(word))
    return f"{word} {rest}" if rest else word


def _without_s(verb: str) -> str:
    """The base form of an unknown verb in the third person."""
    if verb.endswith(("sses", "shes", "ches", "xes", "zes")):
        return verb[:-2]
    if verb.endswith("ies") and len(verb) > 4:
        return verb[:-3] + "y"
    return verb[:-1] if verb.endswith("s") and not verb.endswith("ss") else verb


def _add_ing(base: str) -> str:
    if base.endswith("ie"):
        return base[:-2] + "ying"
    if base.endswith("e") and not base.endswith(("ee", "oe", "ye")) and base != "be":
        return base[:-1] + "ing"
    if base.endswith("ic"):
        return base + "king"
    # A y before a vowel is a consonant: "kayak" has two syllables.
    one_syllable = len(re.findall("(?:[aeiou]|y(?![aeiou]))+", base)) == 1
    one_syllable = one_syllable or base in lexicon.STRESSED
    if one_syllable and re.search("[^aeiou][aeiouy][^aeiouwxy]$", f"-{base}"):
        return base + base[-1] + "ing"
    return base + "ing"


def is_colour(word: str) -> bool:
    """Whether a word names a colour: "navy", "off-white", "cream-coloured"."""
    last = word.rsplit("-", 1)[-1]
    return last in lexicon.COLOURS or (last != word and last in ("coloured", "colored"))


def is_ing(word: str) -> bool:
    """Whether a word looks like the -ing form of a verb rather than a noun such as "ring"."""
    return word.endswith("ing") and len(word) > 4 and word not in lexicon.ING_NOUNS


def spelling(word: str) -> str:
    """What two spellings of one word share: letters and digits, lower case."""
    return re.sub(r"[\W_]", "", word.lower().removesuffix("'s")).replace("gray", "grey")


def common(word: str) -> str:
    """A common noun or adjective as it stands within a sentence."""
    word = word.lower()
    if word in lexicon.PLACES:
        return lexicon.PLACES[word]
    return re.sub("^t-?shirt", "T-shirt", word)
