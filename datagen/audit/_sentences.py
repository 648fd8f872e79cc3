"""A small grammar of sentences about pictures of NLVR, and what is true of their structure.

Pictures are three boxes of coloured squares, circles and triangles, scattered or stacked to
towers (Suhr et al., "A Corpus of Natural Language for Visual Reasoning", ACL 2017). A number
without "exactly" or "at least" can mean either: where these differ the answer is None.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Pixels of a box, and how far from its edge a thing still touches it.
_SIDE, _NEAR = 100, 1
_COLOURS = {"yellow": "yellow", "black": "black", "#0099ff": "blue", "blue": "blue"}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
_NUMBERS = {word: number for number, word in enumerate(_WORDS)}
_MANY = 99


@dataclass(frozen=True)
class Shape:
    """One thing in a box; x, y: its upper left corner; size: its side (pixels)."""

    shape: str
    colour: str
    size: int
    x: int
    y: int

    @property
    def touches(self) -> bool:
        """Whether it stands at an edge of its box."""
        low, high = min(self.x, self.y), max(self.x, self.y) + self.size
        return low <= _NEAR or high >= _SIDE - _NEAR


Box = tuple[Shape, ...]
Boxes = tuple[Box, ...]
#: What a number may mean: (least, most), one or several readings.
Amount = tuple[tuple[int, int], ...]
Truth = bool | None
Sentence = Callable[[Boxes], Truth]


def boxes(structure: Any) -> Boxes:
    """The boxes of a ``structured_rep``. Raises KeyError, TypeError or ValueError for others."""
    return tuple(
        tuple(
            Shape(
                str(one["type"]).lower(), _COLOURS[str(one["color"]).lower()],
                int(one["size"]), int(one["x_loc"]), int(one["y_loc"]),
            )
            for one in box
        )
        for box in structure
    )  # fmt: skip


def _tower(box: Box) -> list[Shape] | None:
    """The blocks of a tower from its base to its top; None where the box holds none."""
    stacked = len({one.x for one in box}) == 1 and all(one.shape == "square" for one in box)
    if not box or not stacked or len({one.size for one in box}) != 1:
        return None
    return sorted(box, key=lambda one: -one.y)


_COLOUR = r"(?P<{0}>black|blue|yellow)"
_AMOUNT = (
    r"(?P<{0}>no|(?:(?:at least|exactly|only|more than) )?"
    r"(?:an?|one|two|three|four|five|six|seven|\d))"
)
_THING = (
    _AMOUNT.format("n")
    + rf" (?:{_COLOUR.format('colour')} )?(?P<shape>square|circle|triangle|item|object|block)s?"
)
_EDGE = r"(?: (?P<away>not )?touching (?:the|an|any|a) (?:edge|wall|side))?"
_END = r"(?:at|as) (?:the )?(?P<end>top|base|bottom)"
_HAS = r"(?:with|having|that has|that have|which has|which have)"
_OVER = r"(?P<over>over|above|on)"

_SCATTERED = re.compile(rf"there (?:is|are) {_THING}{_EDGE}")
_TOWERS = re.compile(rf"there (?:is|are) {_AMOUNT.format('n')} towers? {_HAS} (?P<body>.+)")
_ENDS = re.compile(
    rf"there (?:is|are) {_AMOUNT.format('n')} {_COLOUR.format('colour')} blocks? {_END} of a tower"
    rf"(?: with {_AMOUNT.format('height')} blocks?)?"
)
_STACKED = re.compile(
    rf"there (?:is|are) (?P<n>no|an?|one|at least one) {_COLOUR.format('colour')} block {_OVER} "
    rf"an? {_COLOUR.format('below')} block"
)
_BOXES = re.compile(rf"there (?:is|are) {_AMOUNT.format('n')} box(?:es)? with (?P<body>.+)")
_BODY_END = re.compile(rf"(?:an?|1) {_COLOUR.format('colour')} block {_END}")
_BODY_OVER = re.compile(
    rf"an? {_COLOUR.format('colour')} block {_OVER} an? {_COLOUR.format('below')} block"
)
_BODY_THINGS = re.compile(_THING + _EDGE)


def amount(text: str) -> Amount:
    """What ``a``, ``two``, ``at least 3`` or ``no`` may mean."""
    *how, word = text.split()
    if word == "no":
        return ((0, 0),)
    number = 1 if word in ("a", "an") else _NUMBERS.get(word, int(word) if word.isdigit() else 0)
    kind = " ".join(how)
    if kind == "more than":
        return ((number + 1, _MANY),)
    if kind in ("exactly", "only"):
        return ((number, number),)
    if kind == "at least" or word in ("a", "an"):
        return ((number, _MANY),)
    return ((number, number), (number, _MANY))


def _fits(amounts: Amount, found: Sequence[Truth]) -> Truth:
    """Whether as many of ``found`` hold as ``amounts`` say; None where that is open."""
    least = sum(one is True for one in found)
    counts = range(least, least + sum(one is None for one in found) + 1)
    told = {low <= count <= high for low, high in amounts for count in counts}
    return told.pop() if len(told) == 1 else None


def _both(one: Truth, other: Truth) -> Truth:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def sentence(text: str) -> Sentence | None:
    """What a sentence says, to be asked about pictures; None where the grammar has no such one."""
    said = " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("atleast", "at least")))
    said = said.replace("closely ", "")
    for pattern, reader in (
        (_ENDS, _read_ends), (_STACKED, _read_stacked), (_SCATTERED, _read_things),
        (_TOWERS, _read_towers), (_BOXES, _read_boxes),
    ):  # fmt: skip
        match = pattern.fullmatch(said)
        if match:
            return reader(_edged(said, match.groupdict()))
    return None


Groups = Mapping[str, Any]


def _thing(groups: Groups) -> Callable[[Shape], bool]:
    """Whether a thing is of the kind that a phrase names."""
    shape = {"block": "square", "item": None, "object": None}.get(groups["shape"], groups["shape"])
    colour, edge = groups["colour"], groups.get("away")

    def fits(one: Shape) -> bool:
        if shape not in (None, one.shape) or colour not in (None, one.colour):
            return False
        return not groups["edge"] or one.touches is (edge is None)

    return fits


def _edged(text: str, groups: Groups) -> Groups:
    return {**groups, "edge": "touching" in text}


def _read_things(groups: Groups) -> Sentence:
    fits, amounts = _thing(groups), amount(groups["n"])
    return lambda picture: _fits(amounts, [fits(one) for box in picture for one in box])


def _end(tower: Sequence[Shape], end: str) -> str:
    return tower[-1 if end == "top" else 0].colour


def _read_ends(groups: Groups) -> Sentence:
    amounts, height = amount(groups["n"]), groups["height"]

    def holds(picture: Boxes) -> Truth:
        towers = [_tower(box) for box in picture]
        if None in towers:
            return None
        found: list[Truth] = []
        for tower in towers:
            assert tower is not None
            high = _fits(amount(height), [True] * len(tower)) if height else True
            found.append(_both(_end(tower, groups["end"]) == groups["colour"], high))
        return _fits(amounts, found)

    return holds


def _over(tower: Sequence[Shape], groups: Groups) -> Truth:
    """Whether a block of one colour stands over one of another: right on it, or anywhere above."""
    wanted = (groups["colour"], groups["below"])
    pairs = [(high.colour, low.colour) for low, high in itertools.pairwise(tower)]
    anywhere = any(
        (high.colour, low.colour) == wanted
        for at, low in enumerate(tower)
        for high in tower[at + 1 :]
    )
    right_on = wanted in pairs
    if groups["over"] == "on":
        return right_on
    return right_on if right_on == anywhere else None


def _read_stacked(groups: Groups) -> Sentence:
    amounts = ((0, 0),) if groups["n"] == "no" else ((1, _MANY),)

    def holds(picture: Boxes) -> Truth:
        towers = [_tower(box) for box in picture]
        if None in towers:
            return None
        return _fits(amounts, [_over(tower, groups) for tower in towers if tower is not None])

    return holds


def _body(text: str) -> Callable[[Sequence[Shape]], Truth] | None:
    """What is said of one tower."""
    if match := _BODY_END.fullmatch(text):
        end, colour = match["end"], match["colour"]
        return lambda tower: _end(tower, end) == colour
    if match := _BODY_OVER.fullmatch(text):
        groups = match.groupdict()
        return lambda tower: _over(tower, groups)
    if (match := _BODY_THINGS.fullmatch(text)) and match["shape"] == "block":
        fits, amounts = _thing(_edged(text, match.groupdict())), amount(match["n"])
        return lambda tower: _fits(amounts, [fits(one) for one in tower])
    return None


def _read_towers(groups: Groups) -> Sentence | None:
    body, amounts = _body(groups["body"]), amount(groups["n"])
    if body is None:
        return None

    def holds(picture: Boxes) -> Truth:
        towers = [_tower(box) for box in picture]
        if None in towers:
            return None
        return _fits(amounts, [body(tower) for tower in towers if tower is not None])

    return holds


def _read_boxes(groups: Groups) -> Sentence | None:
    clauses = []
    for text in groups["body"].split(" and "):
        match = _BODY_THINGS.fullmatch(text)
        if match is None or match["shape"] == "block":
            return None
        clauses.append((_thing(_edged(text, match.groupdict())), amount(match["n"])))
    amounts = amount(groups["n"])

    def holds(picture: Boxes) -> Truth:
        found: list[Truth] = []
        for box in picture:
            said: Truth = True
            for fits, wanted in clauses:
                said = _both(said, _fits(wanted, [fits(one) for one in box]))
            found.append(said)
        return _fits(amounts, found)

    return holds
