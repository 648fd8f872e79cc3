"""The verbs of events: how captions say them, and how they are found in texts.

Each verb has a *mark*, a word that stands for all its forms when a text is read.
"""

from __future__ import annotations

import re
from typing import Any

from datagen.sources.tinyworld.events import Act
from datagen.sources.tinyworld.words import Phrase

MOVE, GROW, SHRINK, TURN, SPIN, VANISH, APPEAR, STAY = (
    "xvmove", "xvgrow", "xvshrink", "xvturn", "xvspin", "xvvanish", "xvappear", "xvstay"
)  # fmt: skip
#: Verbs in the third person and the plural; a caption keeps to one column.
_VERBS: dict[str, tuple[tuple[str, str], ...]] = {
    MOVE: (("moves", "move"), ("slides", "slide")),
    GROW: (("grows", "grow"), ("grows", "grow")),
    SHRINK: (("shrinks", "shrink"), ("shrinks", "shrink")),
    TURN: (("turns", "turn"), ("becomes", "become")),
    SPIN: (("spins", "spin"), ("rotates", "rotate")),
    VANISH: (("vanishes", "vanish"), ("disappears", "disappear")),
    APPEAR: (("appears", "appear"), ("emerges", "emerge")),
}
#: How many columns of verbs there are.
COLUMNS = 2
#: All forms, and other verbs that say the same. Earlier lines win.
_FORMS = (
    (VANISH, r"vanish(?:es|ed|ing)?|disappear(?:s|ed|ing)?|fad(?:e|es|ed|ing) (?:out|away)"),
    (APPEAR, r"appear(?:s|ed|ing)?|emerg(?:e|es|ed|ing)|show(?:s|ing)? up|fad(?:e|es|ed|ing) in|"
             r"com(?:e|es|ing) into view"),
    (GROW, r"grow(?:s|n|ing)?|grew|(?:get|gets|getting|become|becomes|becoming) (?:bigger|larger)"),
    (SHRINK, r"shrink(?:s|ing)?|shrank|(?:get|gets|getting|become|becomes|becoming) smaller"),
    (SPIN, r"spin(?:s|ning)?|spun|rotat(?:e|es|ed|ing)|twirl(?:s|ed|ing)?|turn(?:s|ing)? around"),
    (STAY, r"(?:stay|stays|staying|stand|stands|standing|keep|keeps|keeping|remain|remains|"
           r"remaining) (?:still|put|in place)|be still|do(?:es)? nothing|motionless|"
           r"still(?=\s*(?:$|[,.;]))"),
    (MOVE, r"mov(?:e|es|ing)|slid(?:e|es|ing)|glid(?:e|es|ing)|travel(?:s|ling|ing)?|"
           r"drift(?:s|ing)?|goes|going|go"),
    (TURN, r"turn(?:s|ing)?|becom(?:e|es|ing)|became|chang(?:es|ing)"),
)  # fmt: skip
_PATTERN = re.compile("|".join(rf"(?P<{mark}>\b(?:{forms})\b)" for mark, forms in _FORMS))
MARKS = frozenset(mark for mark, _ in _FORMS)

_SIZE_MARKS = {"large": GROW, "small": SHRINK}
#: Acts that need no word beside the verb.
WHOLE = {
    GROW: Act("size", "large"),
    SHRINK: Act("size", "small"),
    SPIN: Act("spin"),
    VANISH: Act("vanish"),
    APPEAR: Act("appear"),
}
#: What a thing can turn.
_TURNED = ("colour", "texture", "count", "size", "shape")


def marked(text: str) -> str:
    """``text`` in lower case, with the mark of each verb in its place."""
    return _PATTERN.sub(lambda match: str(match.lastgroup), text.lower())


def verb(act: Act, plural: bool, column: int) -> str:
    """The verb that tells ``act``."""
    marks = {"position": MOVE, "spin": SPIN, "vanish": VANISH, "appear": APPEAR}
    mark = _SIZE_MARKS[act.to] if act.kind == "size" else marks.get(act.kind, TURN)
    # Not "turns three".
    return _VERBS[mark][1 if act.kind == "count" else column][plural]


def completed(mark: str, phrase: Phrase, ground: bool) -> Act | None:
    """The act of a verb and what follows it ("to the right", "blue"); None if that belongs to
    something else. ground: whether the background does it."""
    said: dict[str, Any] = phrase.says
    if mark == MOVE:
        return Act("position", said["position"]) if set(said) == {"position"} else None
    if mark != TURN or len(said) != 1:
        return None
    ((name, value),) = said.items()
    if ground:
        return Act("background", value) if name == "colour" else None
    if name not in _TURNED or (phrase.noun and name != "count"):
        return None
    return Act(name, value)


def holds(told: Act | None, true: Act | None) -> bool:
    """Whether what is told to happen is what happens; a value left open does no harm."""
    if told is None or true is None:
        return told is true
    return told.kind == true.kind and told.to in (None, true.to)
