"""Things that a text names: the heads of its noun phrases, and which of them nothing else tells of.

There is no tagger with learned weights here. A noun phrase is known by what opens it (an article,
a number, a preposition, "add"), and its head is the last word before the phrase ends. So things
are missed rather than found where there are none.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

from datagen.filters._words import core, words


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: What opens a noun phrase.
_OPENS = _set(
    "a an the another some any no every each this that these those his her their its my your our "
    "one two three four five six seven eight nine ten several many few both more fewer less extra "
    "add remove replace show with without of in on at by near behind beside under over into onto "
    "from holding wearing has have like than include add adds"
)
#: What ends one.
_ENDS = _OPENS | _set(
    "and or but so not to for as is are was were be been being it he she they them him who which "
    "where while when if then instead next out up down off away back through across around along "
    "against above below between among inside outside toward towards during before after past "
    "should would could can will must do does did make makes made change turn put take give get "
    "let have keep swap exchange become becomes only also just very too there here now still "
    "rather until because about except"
)
#: Verbs that follow a noun or pronoun at once, as said of one or of several.
_VERBS = _set(
    "wear hold sit stand lie lay play ride run walk look eat drink watch carry jump swim fly sleep "
    "rest lean hang face show see use talk smile point move go come turn throw catch kick hit pull "
    "push wait work read write sing dance drive float climb bend touch need want appear seem stay"
)
_DOING = _VERBS | {f"{verb}s" for verb in _VERBS} | _set("lies flies carries watches catches goes")
#: Words that qualify, and are no head, and endings of such words.
_QUALITIES = _set(
    "red orange yellow green blue purple pink brown black white grey gray beige tan navy teal gold "
    "golden silver big large huge small tiny little tall short long wide narrow thick thin old "
    "young new modern heavy light dark bright shiny dull wet dry clean dirty open closed full "
    "empty happy sad hot cold warm cool round square same different similar other single double "
    "whole more less fewer visible present together alone outdoors indoors left right top bottom "
    "front upper lower plain simple casual formal colourful colorful wooden first second third "
    "slow fast high low deep better best worse worst most least first last main instead"
)
_QUALIFYING = re.compile(r"..+(?:ing|ed|er|est|ly|ful|less|ous|ish|ward|wards)$")
#: Nouns in such endings.
_NOUNS = _set(
    "thing something anything nothing everything building ring king string spring wing ceiling "
    "clothing wedding railing painting drawing evening morning bed shed sled seaweed reed weed "
    "water flower river paper tower computer player rider runner surfer skier driver dancer singer "
    "container counter corner shower mirror layer letter butter leather feather ladder sweater "
    "jumper hamster tiger spider beer deer finger counter banner shutter rooster lobster burger "
    "laptop trailer helicopter poster number forest nest chest guest vest family belly butterfly "
    "jelly dish fish bus dress glass grass officer singer baker teacher soldier father mother "
    "brother sister daughter baby"
)
#: Things that may be named whatever the captions say.
_GENERAL = _set(
    "one ones thing things item object person people someone somebody man men woman women human "
    "background foreground scene view angle side sides front back top bottom left right centre "
    "center middle edge corner distance place position area colour color shape size pattern style "
    "kind type number amount pair group lot bit piece part half rest way time image picture photo "
    "video clip frame shot camera viewer light lighting shade instead addition change version set "
    "other others body end day night direction total fewer dozen floor ground wall air"
)
_VOWELS = frozenset("aeiou")


def unfounded(text: str, told: Iterable[str]) -> list[str]:
    """Things of ``text`` of which no text of ``told`` has the word, nor another form of it."""
    found = things(text)
    if not found:
        return []
    known = {stem(word) for one in told for word in _pieces(one)}
    return [word for word in found if not any(stem(one) in known for one in _pieces(word))]


def things(text: str) -> list[str]:
    """Heads of the noun phrases of ``text``, each once, but for :data:`_GENERAL` words."""
    found: dict[str, None] = {}
    phrase: list[str] = []
    opened = False
    for token in [*text.split(), "."]:
        word = core(token).casefold()
        stops = not word or word in _ENDS or ((bool(phrase) or not opened) and word in _DOING)
        if not stops and opened:
            phrase.append(word)
        if stops or not token[-1:].isalnum():
            if head := _head(phrase):
                found[head] = None
            phrase, opened = [], word in _OPENS
    return list(found)


def _head(phrase: Sequence[str]) -> str | None:
    """The head of a noun phrase without what opens it: its last word that is no quality."""
    for word in reversed(phrase):
        if word in _GENERAL:
            return None
        qualifies = word in _QUALITIES or (_QUALIFYING.match(word) and word not in _NOUNS)
        if not qualifies and word.isascii() and word.replace("-", "").isalpha() and len(word) > 2:
            return word
    return None


def _pieces(text: str) -> list[str]:
    """Words, and the parts of those with hyphens."""
    return [part for word in words(text) for part in {word, *re.split(r"[-/']", word)} if part]


@functools.lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A word without the endings of plural, tense and likeness; only fit to be compared."""
    word = word.removesuffix("'s").removesuffix("’s")
    for ending, least in (("ies", 2), ("ied", 2), ("ing", 3), ("edly", 3), ("ed", 3), ("es", 3),
                          ("ly", 3), ("s", 2), ("er", 3), ("y", 3)):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= least and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in _VOWELS:
        word = word[:-1]
    return word.removesuffix("e")
