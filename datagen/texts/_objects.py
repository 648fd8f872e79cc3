"""Lists of objects that a model gave: what differs between two of them, and what a text names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datagen.chat.answers import text_of
from datagen.chat.subject import Change
from datagen.texts import _lexicon as lexicon
from datagen.texts._words import singular, verb_base

#: Characters of the longest name; a longer one is a sentence.
MOST = 80
#: What stands for an object of which nothing more is said.
_THERE = "there"
_WORDS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_PIECES = re.compile(rf"{_WORDS.pattern}|[^\w\s]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = (
    lexicon.ARTICLES
    | lexicon.POINTERS
    | lexicon.POSSESSIVES
    | lexicon.QUANTIFIERS
    | frozenset(lexicon.NUMBERS)
)
_DESCRIBING = (
    lexicon.COLOURS
    | lexicon.QUALITIES
    | lexicon.MATERIALS
    | lexicon.ADVERBS
    | lexicon.UNITS
    | frozenset(lexicon.PLACES)
    | _words("closer nearer further farther better worse more less different similar own")
)
#: Nouns of requests that are no objects of a picture.
_GENERAL = lexicon.SIDES | _words(
    "picture image photo photograph clip video scene view shot frame camera angle viewpoint one "
    "ones thing object item colour color shade tone size shape pattern number amount pair group "
    "set lot bit way style kind sort type place position spot rest difference light lighting "
    "time day night evening morning half part whole length height width distance order row "
    "version setting season weather look close-up closeup sketch portrait first second third "
    "fourth fifth last next"
)
_SMALL = lexicon.FUNCTION | _DETERMINERS
_ENDINGS = ("ing", "ed", "ly", "est")


@dataclass(frozen=True)
class Thing:
    """An object of a list: what it is called, and what is said of it."""

    name: str
    attributes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What it goes by in other lists."""
        words = _WORDS.findall(self.name.casefold())
        return " ".join(singular(word) for word in words) or self.name.casefold()

    @property
    def told(self) -> str:
        """What is said of it, in a line."""
        return ", ".join(self.attributes) or _THERE

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.attributes)}" if self.attributes else self.name


def things_of(answer: Mapping[str, Any]) -> tuple[list[Thing], list[str]]:
    """The objects of an answer, those of one name put together; and what is no name."""
    found: dict[str, Thing] = {}
    lost: list[str] = []
    for raw in answer["objects"]:
        name = text_of(raw["name"]) if isinstance(raw.get("name"), str) else ""
        if not name or len(name) > MOST:
            lost.append(name[:MOST] or "(no name)")
            continue
        given = raw.get("attributes")
        texts = [text_of(one) for one in given if isinstance(one, str)] if given else []
        thing = Thing(name, tuple(filter(None, texts)))
        old = found.get(thing.key, thing)
        every = dict.fromkeys([*old.attributes, *thing.attributes])
        found[thing.key] = Thing(old.name, tuple(every))
    return list(found.values()), lost


def named_in(things: Iterable[Thing], texts: Sequence[str]) -> tuple[list[Thing], list[str]]:
    """The objects whose name, or a word of it, stands in one of ``texts``; names of the others.

    Small words ("of") are passed over. Names in scripts that set no blanks are looked for as they
    are.
    """
    whole = [text.casefold() for text in texts]
    words = {form for text in texts for form in forms_of(text)}
    there: list[Thing] = []
    lost: list[str] = []
    for thing in things:
        own = set(forms_of(thing.name))
        own = own - _SMALL or own
        name = thing.name.casefold()
        said = own & words or (not name.isascii() and any(name in text for text in whole))
        (there.append(thing) if said else lost.append(thing.name))
    return there, lost


def differences(
    reference: Sequence[Thing], target: Sequence[Thing]
) -> tuple[tuple[Change, ...], tuple[Thing, ...]]:
    """What differs between two lists, object by object, and the objects that do not.

    The objects of the reference come first. Qualities count, and not their order.
    """
    before, after = ({thing.key: thing for thing in side} for side in (reference, target))
    changes: list[Change] = []
    same: list[Thing] = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if old and new and _said(old) == _said(new):
            same.append(old)
            continue
        name = (old or new or Thing(key)).name
        told = (one.told if one else None for one in (old, new))
        changes.append(Change(field=name, **dict(zip(("removed", "added"), told, strict=True))))
    return tuple(changes), tuple(same)


def _said(thing: Thing) -> set[str]:
    return {one.casefold() for one in thing.attributes}


def forms_of(text: str) -> Iterable[str]:
    """The words of a text, in singular and base form too."""
    for word in _WORDS.findall(text.casefold()):
        yield word
        yield singular(word)
        if base := verb_base(word):
            yield base


def unlisted(text: str, known: frozenset[str]) -> str | None:
    """A thing that an English text names and that is not ``known`` (forms of words); None: none.

    A thing is what follows an article, a number or the like, up to the next small word. Words
    that describe, verbs, and nouns that every request may use are no things. Where it is unsure
    the text is taken to be right.
    """
    pieces = _PIECES.findall(text.casefold())
    at = 0
    while at < len(pieces):
        at += 1
        if pieces[at - 1] not in _DETERMINERS:
            continue
        start = at
        while at < len(pieces) and _in_phrase(pieces[at]):
            at += 1
        phrase = pieces[start:at]
        nouns = [word for word in phrase if not _describes(word)]
        if nouns and not any(_is_known(word, known) for word in nouns):
            return " ".join(phrase)
    return None


def _in_phrase(piece: str) -> bool:
    return bool(_WORDS.fullmatch(piece)) and piece not in _SMALL


def _describes(word: str) -> bool:
    stem = word.removesuffix("er")
    compared = stem != word and bool({stem, stem + "e", stem[:-1]} & _DESCRIBING)
    return word in _DESCRIBING or compared or word.endswith(_ENDINGS) or word[0].isdigit()


def _is_known(word: str, known: frozenset[str]) -> bool:
    return any(
        form in known or form in _GENERAL or verb_base(form) is not None for form in forms_of(word)
    )
