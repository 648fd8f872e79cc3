"""The words of the world: a vocabulary with synonyms, and how texts are cut into phrases.

A *phrase* is a run of words about one thing, such as "the three small striped stars on the left";
everything between phrases ("instead of", "to", a comma) is a *cue*. Captions and modification
texts are both read this way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from datagen.sources.tinyworld.scene import BACKGROUNDS, COLOURS


def word_set(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}

_SYNONYMS: dict[str, dict[str, str]] = {
    "shape": {
        "circle": "circle circles disc discs disk disks",
        "square": "square squares",
        "triangle": "triangle triangles",
        "star": "star stars",
        "heart": "heart hearts",
        "hexagon": "hexagon hexagons",
        "ring": "ring rings donut donuts doughnut doughnuts",
        "cross": "cross crosses",
        "moon": "moon moons crescent crescents",
        "diamond": "diamond diamonds rhombus rhombuses",
        # Shapes that this world does not have, so that a text about one is not half understood.
        **{
            name: f"{name} {name}s"
            for name in sorted(word_set("oval rectangle pentagon octagon arrow cube sphere cone"))
        },
    },
    "colour": {
        **{name: name for name in [*COLOURS, *BACKGROUNDS]},
        "turquoise": "turquoise cyan teal aqua",
        "purple": "purple violet",
        "gray": "gray grey",
        **{name: name for name in sorted(word_set("gold golden silver magenta olive crimson"))},
    },
    "size": {
        "small": "small little tiny smaller",
        "large": "large big huge larger bigger",
        "medium": "medium",
    },
    "texture": {
        "plain": "plain solid unpatterned untextured",
        "striped": "striped stripy stripe stripes",
        "dotted": "dotted spotted dot dots spot spots",
        "checkered": "checkered checked chequered",
    },
    "count": {
        "1": "one single 1",
        "2": "two pair 2",
        "3": "three trio 3",
        "4": "four 4",
        **{str(n): f"{w} {n}" for n, w in zip(range(5, 8), ("five", "six", "seven"), strict=True)},
    },
}
_PLURAL = {
    word
    for name, words in _SYNONYMS["shape"].items()
    for word in words.split()
    if word.endswith("s") and word not in ("cross", "rhombus")
}
_MEANING: dict[str, tuple[str, Any]] = {
    word: (name, int(value) if name == "count" else value)
    for name, values in _SYNONYMS.items()
    for value, words in values.items()
    for word in words.split()
}
_PATTERN_NOUNS = word_set("stripe stripes dot dots spot spots")
_GROUND = word_set("background backdrop ground")
_PRONOUNS = word_set(
    "it them they ones object objects shape shapes thing things figure figures item items group"
)
_ARTICLES = word_set("a an the this that these those all both its their another")
_MORE = word_set("more another extra additional further")
#: Words that may stand within a phrase and say nothing.
_FILLERS = word_set("of colored coloured shaped sized size")

#: Words after which a phrase without a noun is whole: "a blue colour", "the red and ...".
_ENDINGS = word_set(
    "color colour shade tone hue pattern texture version variant style fill and or but then while"
    " to into as with by for from on in at instead rather than too again version"
)

_VERTICAL = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_HORIZONTAL = {"left": "left", "right": "right"}
_CENTRE = word_set("centre center middle")
_PLACE_NOUNS = word_set("side part half corner edge area hand")
_FRAME = word_set("image picture scene frame canvas photo")
_PREPOSITIONS = word_set("on in at near to toward towards into along onto")


@dataclass
class Phrase:
    """What one phrase says: ``says`` maps attributes to values.

    article: "a" or "the" or ""; plural: whether its noun is; ground: whether it is about the
    background; more: whether it counts on top of what is there ("two more stars"); noun: whether
    it names a thing, be it by a pronoun; towards: whether its position is one to go to;
    relational: whether that position is told by another thing ("left of the ring"); foreign:
    whether its noun is none of this world ("a blue dog").
    """

    says: dict[str, Any] = field(default_factory=dict)
    article: str = ""
    plural: bool = False
    ground: bool = False
    more: bool = False
    noun: bool = False
    towards: bool = False
    relational: bool = False
    foreign: bool = False

    def empty(self) -> bool:
        """Whether it says nothing at all."""
        return not (self.says or self.ground or self.noun)

    def only(self, *names: str) -> bool:
        """Whether it speaks of nothing but ``names``."""
        return bool(self.says) and not self.noun and set(self.says) <= set(names)

    def described(self) -> dict[str, Any]:
        """What it says when it introduces a thing: "a star" is one star, "star" may be any."""
        told = dict(self.says)
        if "count" not in told and not self.plural and "shape" in told:
            told["count"] = 1
        return told


@dataclass
class _Word:
    """A token; ``name`` is the attribute that it gives a value to, or a kind of grammar word."""

    text: str
    name: str = ""
    value: Any = None


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks; possessive endings are dropped."""
    text = text.lower().replace("’", "'").replace("'s ", " ").replace("s' ", "s ")
    return re.findall(r"[a-z]+|\d+|[,.;:]", text.replace("-", " "))


def _position(tokens: list[str], at: int) -> tuple[str, int] | None:
    """The position named at ``at``, and how many tokens it takes."""
    start = at
    if tokens[at] == "the":
        at += 1
    high = wide = middle = ""
    begin = at
    while at < len(tokens) and at - begin < 3:
        token = tokens[at]
        if token in _VERTICAL and not high:
            high = _VERTICAL[token]
        elif token in _HORIZONTAL and not wide:
            wide = _HORIZONTAL[token]
        elif token in _CENTRE and not middle:
            middle = token
        else:
            break
        at += 1
    if at == begin:
        return None
    # "the middle left" is the left.
    value = " ".join(part for part in (high, wide) if part) or "centre"
    while at < len(tokens) and tokens[at] in _PLACE_NOUNS:
        at += 1
    if (
        tokens[at : at + 2] in (["of", "the"], ["in", "the"])
        and set(tokens[at + 2 : at + 3]) & _FRAME
    ):
        at += 3
    return value, at - start


def _lex(text: str) -> list[_Word]:
    tokens = words(text)
    found: list[_Word] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        ahead = at + (token in _PREPOSITIONS)
        place = _position(tokens, ahead) if ahead < len(tokens) else None
        if place:
            relative = tokens[ahead + place[1] : ahead + place[1] + 1] == ["of"]
            preposition = token if ahead > at else ""
            found.append(_Word(preposition, "relative" if relative else "position", place[0]))
            at = ahead + place[1]
            continue
        found.append(_word(tokens, at))
        at += 1
    return found


def _word(tokens: list[str], at: int) -> _Word:
    token = tokens[at]
    after = tokens[at + 1] if at + 1 < len(tokens) else ""
    if token == "one" and at and not (after in _MEANING or after in ("more", "of")):
        # "the red one" is a pronoun, "from one to two" is not.
        before = tokens[at - 1]
        if before in _ARTICLES or _MEANING.get(before, ("",))[0] in ("colour", "size", "texture"):
            return _Word(token, "pronoun")
    if token == "polka":
        return _Word(token, "filler")
    if token == "dot" and tokens[at - 1 : at] == ["polka"]:
        return _Word("dotted", "texture", "dotted")
    if token in _MORE:
        return _Word(token, "more")
    for kind, known in (("ground", _GROUND), ("article", _ARTICLES), ("pronoun", _PRONOUNS)):
        if token in known:
            return _Word(token, kind)
    if token in _MEANING:
        return _Word(token, *_MEANING[token])
    return _Word(token, "filler" if token in _FILLERS else "")


class _Reader:
    """Collects words into phrases."""

    def __init__(self) -> None:
        self.parts: list[Phrase | str] = []
        self.now: Phrase | None = None

    def close(self) -> None:
        if self.now is not None and not self.now.empty():
            self.parts.append(self.now)
        self.now = None

    def open(self, fresh: bool) -> Phrase:
        if fresh:
            self.close()
        if self.now is None:
            self.now = Phrase()
        return self.now

    def add(self, word: _Word) -> None:
        now = self.now
        if word.name in ("article", "more"):
            # "the two more", "of the": a leading place waits for the noun that follows it.
            waiting = now is not None and not now.noun and set(now.says) <= {"position", "count"}
            phrase = self.open(now is not None and not waiting)
            phrase.more = phrase.more or word.name == "more" or word.text == "another"
            if word.name == "article":
                phrase.article = "a" if word.text in ("a", "an", "another") else "the"
        elif word.name == "pronoun":
            self.open(now is not None and now.noun).noun = True
        elif word.name == "ground" or self._tinted_frame(word):
            phrase = self.open(now is not None and now.noun)
            phrase.ground = phrase.noun = True
        elif word.name == "shape":
            phrase = self.open(now is not None and now.noun)
            phrase.says["shape"] = word.value
            phrase.noun = True
            phrase.plural = word.text in _PLURAL
        elif word.name in ("position", "relative"):
            self._place(word)
        elif word.name:
            fresh = now is not None and (now.noun or word.name in now.says)
            self.open(fresh).says[word.name] = word.value
        else:
            if now is not None and now.article and not now.noun and now.says:
                alien = word.text.isalpha() and word.text not in _ENDINGS
                now.foreign = alien and not word.text.startswith("x") and "position" not in now.says
            self.close()
            self.parts.append(word.text)

    def _tinted_frame(self, word: _Word) -> bool:
        """Whether ``word`` ends a phrase such as "a gray scene", which is about the background."""
        now = self.now
        return word.text in _FRAME and now is not None and set(now.says) == {"colour"}

    def _place(self, word: _Word) -> None:
        now = self.now
        towards = word.text in ("to", "toward", "towards", "into", "onto")
        if now is None or "position" in now.says or now.ground or not now.noun or towards:
            self.close()
            if towards:
                self.parts.append("to")
            now = self.open(True)
        now.says["position"] = word.value
        now.towards = towards
        now.relational = now.relational or word.name == "relative"


def read(text: str, patterns_follow: bool = True) -> list[Phrase | str]:
    """Cut ``text`` into phrases and cues, in order.

    patterns_follow: "with stripes" belongs to what stands before it, unless a texture is told
    there already; else "with" is a cue as in "replace the dots with stripes".
    """
    found = _lex(text)
    reader = _Reader()
    at = 0
    while at < len(found):
        word = found[at]
        now = reader.now
        if patterns_follow and word.text == "with" and now and "texture" not in now.says:
            ahead = at + 1
            while ahead < len(found) and found[ahead].name in ("filler", "article"):
                ahead += 1
            if ahead < len(found) and found[ahead].text in _PATTERN_NOUNS:
                now.says["texture"] = found[ahead].value
                at = ahead + 1
                continue
        if word.name != "filler":
            reader.add(word)
        at += 1
    reader.close()
    return reader.parts


def is_background(phrase: Phrase) -> bool:
    """Whether ``phrase`` can only be about the background: its noun, or a colour of its own."""
    return phrase.ground or (phrase.only("colour") and phrase.says["colour"] in BACKGROUNDS)
