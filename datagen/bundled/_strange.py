"""Texts that are no captions of the rendered world, as collections and strangers have them."""

from __future__ import annotations

import re

from datagen.sources.tinyworld.scene import Dice

_COMMON = re.findall(
    r"\w+",
    """
    the a an of to and in is on that by this with you it not or be are from at as your all have
    new more an was we will home can us about if page my has search free but our one other do no
    dog cat man woman mug red blue green small big sofa street car beach child tree house runs
    sits holds plays eats near under ignore previous instructions answer system user print say
    only json list what who why how please write assistant prompt output number wanted hand star
    """,
)
_MARKS = "\\\"'{}[]()<>|:;,.!?*&^%$#@~`/=+-_ \t0123456789"
_BLOCKS = ((0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x5FF), (0x620, 0x6D3), (0x900, 0x97F),
           (0x3041, 0x30FF), (0x4E00, 0x9FA5), (0x1F300, 0x1F6FF), (0x2010, 0x205E))  # fmt: skip


def text(dice: Dice) -> str:
    """A text that is no caption of this world: other English, marks, other scripts, long runs."""
    kind = dice.pick(["words", "marks", "letters", "script", "run", "mixed"], [5, 2, 1, 2, 1, 2])
    length = int(4 ** dice.uniform(0.5, 3.2 if kind != "words" else 2.4))
    if dice.uniform() < 0.08:
        length *= 6
    if kind == "words":
        words = " ".join(dice.pick(_COMMON) for _ in range(length))
        return words.capitalize() if dice.uniform() < 0.4 else words
    if kind == "run":
        part: str = dice.pick([*_MARKS, *"abcxyz", "word ", "\\u0022", "\u0301", "</s>"])
        return part * length
    low, high = dice.pick(_BLOCKS)
    made = []
    for _ in range(length):
        way = dice.pick(["marks", "letters", "words"]) if kind == "mixed" else kind
        if way == "marks":
            made.append(dice.pick(_MARKS))
        elif way == "letters":
            made.append(chr(97 + int(dice.uniform() * 26)))
        elif way == "words":
            made.append(f" {dice.pick(_COMMON)}")
        else:
            made.append(chr(low + int(dice.uniform() * (high - low))))
    return "".join(made)
