"""Modification texts of the rendered world, in several wordings, that its oracle calls right.

Every text is checked before it is used: it leads from the reference to the target, leaves nothing
unsaid and tells nothing that did not change (:func:`datagen.sources.tinyworld.oracle.says`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datagen.sources.tinyworld import grammar, motion, oracle, words
from datagen.sources.tinyworld.events import Act, Shown, scene_of
from datagen.sources.tinyworld.oracle import Change
from datagen.sources.tinyworld.scene import ATTRIBUTES, Dice, Thing

#: Ways to tell several changes that are tried for a pair.
_TRIED = 12
#: More than these are not put into one text.
_MOST_PARTS = 3

_COLOUR = (
    "make {the} {new}", "turn {the} {new}", "change {the} from {old} to {new}",
    "make {the} {new} instead of {old}", "paint {the} {new}", "{the} should be {new}",
    "turn the {old} {noun} {new}", "{the} in {new} instead of {old}",
)  # fmt: skip
_BARE = ("{new} instead of {old}", "{new}, not {old}", "{new} rather than {old}")
_SHAPE = (
    "replace {the} with {a_new}", "swap {the} for {a_new}", "change {the} to {a_new}",
    "turn {the} into {a_new}", "{a_new} instead of {the}", "{a_new} in place of {the}",
)  # fmt: skip
_SIZE = (
    "make {the} {new}", "make {the} {more}", "{verb} {the}", "{the} should be {new}",
    "make {the} {new} instead of {old}", "change {the} from {old} to {new}",
)  # fmt: skip
_TEXTURE = (
    "make {the} {new}", "make {the} {new} instead of {old}", "{the} should be {new}",
    "change {the} from {old} to {new}", "turn {the} {new}",
)  # fmt: skip
_STRIPPED = (
    "remove the {pattern} from {the}",
    "take the {pattern} off {the}",
    "{the} without {pattern}",
)
_PATTERNED = ("add {pattern} to {the}", "give {the} {pattern}", "{the} with {pattern}")
_COUNT = (
    "make it {n} {many}", "show {n} {many}", "{n} {many} instead of {m}",
    "show {n} {many}, not {m}", "have {n} {many}", "{n} {many} rather than {m}",
    "change the number of {all} from {m} to {n}",
)  # fmt: skip
_MORE = ("add {d} more {dmany}", "{d} more {dmany}", "show {d} more {dmany}")
_FEWER = ("remove {d} of the {all}", "take away {d} of the {all}")
_POSITION = (
    "move {the} to the {new}", "put {the} {at_new}", "shift {the} to the {new}",
    "place {the} {at_new}", "move {the} from the {old} to the {new}",
    "{the} {at_new} instead of {at_old}", "put {the} {at_new} instead of {at_old}",
)  # fmt: skip
_GONE = (
    "remove {the}", "take {the} away", "drop {the}", "without {the}", "get rid of {the}",
    "delete {the}",
)  # fmt: skip
_COME = ("add {np}", "also show {np}", "there is also {np}", "insert {np}", "include {np}")
_SWAPPED = ("replace {the} with {np}", "swap {the} for {np}", "{np} instead of {the}")
_GROUND = (
    "make the background {new}", "change the background from {old} to {new}",
    "on a {new} background", "a {new} background instead of {old}", "use a {new} background",
    "turn the background {new}", "the background should be {new}",
    "change the {old} background to {new}", "with a {new} backdrop",
)  # fmt: skip
_DO = (
    "make {the} {do}", "let {the} {do}", "have {the} {do}", "{the} should {do}",
)  # fmt: skip
_DO_OTHER = (
    "make {the} {do} instead of {doing_old}", "let {the} {do} instead of {doing_old}",
    "have {the} {do}, not {do_old}", "{doing} instead of {doing_old}",
    "{doing} rather than {doing_old}", "change the action from {doing_old} to {doing}",
    "make {the} {do}", "let {the} {do}", "{the} should {do}",
)  # fmt: skip
_DO_NOTHING = (
    "make {the} stop {doing_old}", "{the} should stop {doing_old}", "let {the} stay still",
    "{the} should stand still", "keep {the} still", "no longer {doing_old}", "stop {doing_old}",
)  # fmt: skip
_DO_ELSE = (
    "let {the} {do} instead of {the_old}", "make {the} {do} instead of {the_old}",
    "have {the} {do}, not {the_old}", "let {the} {do}", "make {the} {do}",
)  # fmt: skip
_PATTERNS = {"striped": "stripes", "dotted": "dots"}
_GERUNDS = {"move": "moving", "slide": "sliding", "become": "becoming", "spin": "spinning",
            "rotate": "rotating", "disappear": "disappearing", "emerge": "emerging"}  # fmt: skip


def plural(shape: str) -> str:
    """The plural of a shape."""
    return "crosses" if shape == "cross" else f"{shape}s"


def _noun(thing: Thing) -> str:
    return thing.shape if thing.count == 1 else plural(thing.shape)


def _a(rest: str) -> str:
    return f"{'an' if rest[0] in 'aeiou' else 'a'} {rest}"


def _the(what: Shown, at: int | None, dice: Dice) -> str:
    """A name of a thing, or of the background."""
    if at is None:
        return "the background"
    things = scene_of(what).objects
    thing = things[at]
    alike = sum(other.shape == thing.shape for other in things) > 1
    if alike or dice.uniform() < 0.15:
        return f"the {thing.colour} {_noun(thing)}"
    return f"the {_noun(thing)}"


def _does(act: Act, column: int) -> tuple[str, str]:
    """ "move to the left", "moving to the left"."""
    base = motion.verb(act, True, column)
    rest = ""
    if act.kind == "position":
        rest = f" to the {act.to}"
    elif act.kind == "count":
        rest = f" {words.NUMBERS[act.to]}"
    elif act.to is not None and act.kind != "size":
        rest = f" {act.to}"
    return base + rest, _GERUNDS.get(base, f"{base}ing") + rest


def described(told: Mapping[str, Any]) -> str:
    """A thing with what is told of it, as a text introduces it."""
    kept = {name: value for name, value in told.items() if name != "event"}
    return grammar.noun_phrase(kept, grammar.Style(0, texture="terse"))


def _of_thing(change: Change, reference: Shown, alone: bool, dice: Dice) -> Iterator[str]:
    """Wordings of a changed attribute of a thing; alone: also those that do not name it."""
    assert change.at is not None
    bare = _BARE if alone else ()
    thing = scene_of(reference).objects[change.at]
    noun, name = _noun(thing), change.attribute
    the, old, new = _the(reference, change.at, dice), change.before, change.after
    slots = {"the": the, "noun": noun, "old": old, "new": new}
    if name == "colour":
        yield from (text.format(**slots) for text in (*_COLOUR, *bare))
    elif name == "shape":
        a_new = plural(new) if thing.count > 1 else _a(new)
        yield from (text.format(**slots, a_new=a_new) for text in _SHAPE)
        if thing.count > 1:
            yield f"make {the} {a_new}"
            yield f"{a_new} instead of {noun}"
        else:
            yield f"{_a(new)} instead of {_a(thing.shape)}"
    elif name == "size":
        more = {"large": "bigger", "small": "smaller"}[new]
        verb = {"large": "enlarge", "small": "shrink"}[new]
        yield from (text.format(**slots, more=more, verb=verb) for text in (*_SIZE, *bare))
    elif name == "texture":
        yield from (text.format(**slots) for text in (*_TEXTURE, *bare))
        if new == "plain":
            yield from (text.format(the=the, pattern=_PATTERNS[old]) for text in _STRIPPED)
        elif old == "plain":
            yield from (text.format(the=the, pattern=_PATTERNS[new]) for text in _PATTERNED)
    elif name == "count":
        yield from _counted(thing.shape, old, new)
    elif name == "position":
        places = {"at_old": _at(old), "at_new": _at(new)}
        yield from (text.format(**slots, **places) for text in _POSITION)


def _at(position: str) -> str:
    if " " in position:
        return f"in the {position} corner"
    return {"left": "on the left", "right": "on the right", "centre": "in the centre"}.get(
        position, f"at the {position}"
    )


def _counted(shape: str, old: int, new: int) -> Iterator[str]:
    many = shape if new == 1 else plural(shape)
    apart = abs(new - old)
    slots = {
        "n": words.NUMBERS[new], "m": words.NUMBERS[old], "many": many, "all": plural(shape),
        "d": words.NUMBERS[apart], "dmany": shape if apart == 1 else plural(shape),
    }  # fmt: skip
    yield from (text.format(**slots) for text in _COUNT)
    yield from (text.format(**slots) for text in (_MORE if new > old else _FEWER))


def _of_event(change: Change, reference: Shown, dice: Dice) -> Iterator[str]:
    column = dice.pick(range(motion.COLUMNS))
    slots = {"the": _the(reference, change.at, dice)}
    if change.after is not None:
        slots["do"], slots["doing"] = _does(change.after, column)
    if change.before is not None:
        slots["do_old"], slots["doing_old"] = _does(change.before, column)
    table = _DO if change.before is None else _DO_NOTHING if change.after is None else _DO_OTHER
    yield from (text.format(**slots) for text in table)


def _moved_event(gone: Change, come: Change, reference: Shown, dice: Dice) -> Iterator[str]:
    """Another thing does something: what the first one did is over."""
    do, _ = _does(come.after, dice.pick(range(motion.COLUMNS)))
    the, the_old = (_the(reference, one.at, dice) for one in (come, gone))
    yield from (text.format(the=the, the_old=the_old, do=do) for text in _DO_ELSE)


def _orders(
    changed: Sequence[Change],
    reference: Shown,
    come: Mapping[Thing, Mapping[str, Any]],
    dice: Dice,
) -> list[list[str]]:
    """Wordings of each change; changes that belong together share one."""
    found: list[list[str]] = []
    left = list(changed)
    alone = len(left) == 1
    events = [one for one in left if one.attribute == "event"]
    if len(events) == 2:
        gone = next((one for one in events if one.after is None), None)
        comes = next((one for one in events if one.before is None), None)
        if gone is not None and comes is not None:
            found.append(list(_moved_event(gone, comes, reference, dice)))
            left = [one for one in left if one not in events]
    goes = [one for one in left if one.attribute == "object" and one.after is None]
    new = [one for one in left if one.attribute == "object" and one.before is None]
    for one, other in zip(list(goes), list(new), strict=False):
        slots = {"the": _the(reference, one.at, dice), "np": described(come[other.after])}
        found.append([text.format(**slots) for text in _SWAPPED])
        left = [rest for rest in left if rest not in (one, other)]
    for at in sorted({one.at for one in left if one.at is not None}):
        own = [one for one in left if one.at == at and one.attribute in ATTRIBUTES]
        shaped = any(one.attribute == "shape" for one in own)
        if len(own) > 2 - shaped:
            found.append(list(_rebuilt(own, reference, dice)))
            left = [one for one in left if one not in own]
    for one in left:
        if one.attribute == "object" and one.after is None:
            found.append([text.format(the=_the(reference, one.at, dice)) for text in _GONE])
        elif one.attribute == "object":
            found.append([text.format(np=described(come[one.after])) for text in _COME])
        elif one.attribute == "background":
            slots = {"old": one.before, "new": one.after}
            found.append([text.format(**slots) for text in _GROUND])
        elif one.attribute == "event":
            found.append(list(_of_event(one, reference, dice)))
        else:
            found.append(list(_of_thing(one, reference, alone, dice)))
    return found


def _rebuilt(changed: Sequence[Change], reference: Shown, dice: Dice) -> Iterator[str]:
    """A thing that changes in several ways: it is put in the place of what it was."""
    at = changed[0].at
    assert at is not None
    thing = scene_of(reference).objects[at]
    told = {"shape": thing.shape, "count": thing.count}
    new = described(told | {one.attribute: one.after for one in changed})
    if thing.count > 1 and not any(one.attribute == "count" for one in changed):
        new = new.split(" ", 1)[1]  # as many as there were
    slots = {"the": _the(reference, at, dice), "a_new": new}
    yield from (text.format(**slots) for text in _SHAPE)


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1]


def _candidates(options: list[list[str]], dice: Dice) -> Iterator[str]:
    if len(options) == 1:
        yield from dice.order(options[0])
        return
    orders = [[text for text in one if "," not in text] for one in options]
    for _ in range(_TRIED):
        yield _joined([dice.pick(one) for one in orders])


def requests(
    reference: Shown,
    target: Shown,
    number: int,
    dice: Dice,
    most_words: int = 20,
    come: Mapping[Thing, Mapping[str, Any]] | None = None,
) -> list[str] | None:
    """``number`` different texts that lead from ``reference`` to ``target``, or fewer; [] where
    nothing differs or no text of ``most_words`` words tells it; None where the oracle calls none
    right.

    come: what captions tell of the things of the target; all that there is by default.
    """
    changed = oracle.difference(reference, target)
    if not changed:
        return []
    told = come or {thing: vars(thing) for thing in scene_of(target).objects}
    options = _orders(changed, reference, told, dice)
    if len(options) > _MOST_PARTS:
        return []
    found: list[str] = []
    unsure: list[str] = []
    lengths: list[int] = []
    for text in _candidates(options, dice):
        if text in found or text in unsure:
            continue
        said = oracle.says(text, reference, target)
        if not (said.right and said.complete and said.minimal):
            continue
        lengths.append(len(text.split()))
        if lengths[-1] > most_words:
            continue
        (unsure if said.ambiguous else found).append(text)
        if len(found) == number:
            break
    if not lengths:
        return None
    return (found or unsure)[:number]


def _tables() -> list[tuple[str, ...]]:
    return [
        _COLOUR, _BARE, _SHAPE, _SIZE, _TEXTURE, _STRIPPED, _PATTERNED, _COUNT, _MORE, _FEWER,
        _POSITION, _GONE, _COME, _SWAPPED, _GROUND, _DO, _DO_OTHER, _DO_NOTHING, _DO_ELSE,
    ]  # fmt: skip


def number() -> int:
    """How many wordings there are."""
    return sum(map(len, _tables()))


def wordings() -> Iterator[str]:
    """Every word that a text can have, in texts."""
    for text in itertools.chain.from_iterable(_tables()):
        yield " ".join("" if part.startswith("{") else part for part in text.split())
    yield "bigger smaller enlarge shrink stripes dots and , in the corner on at centre background"
    for mark in (Act("position", "left"), Act("size", "large"), Act("size", "small"), Act("spin"),
                 Act("vanish"), Act("appear"), Act("colour", "red"), Act("count", 2)):  # fmt: skip
        for column in range(motion.COLUMNS):
            yield " ".join(_does(mark, column))
