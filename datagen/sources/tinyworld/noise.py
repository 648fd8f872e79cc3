"""Captions that are wrong on purpose, and the note of what is wrong with each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from datagen.sources.tinyworld.events import Act, Clip, Shown, clips_of
from datagen.sources.tinyworld.grammar import Style, Told, truth
from datagen.sources.tinyworld.scene import COLOURS, SHAPES, VALUES, Dice

#: What ``omit`` may leave out. Shape and count are what a noun phrase is made of.
_OMITTED = ("colour", "size", "texture", "position", "background")
_MISNAMED = ("colour", "shape", "size", "texture", "position", "background")
_OPPOSITE = {"vanish": "appear", "appear": "vanish"}

Note = dict[str, Any]


@dataclass(frozen=True)
class Noise:
    """Shares of captions (0-1 each, together at most 1) that are wrong on purpose.

    omit: an attribute or the event is left out; misname: one attribute of one thing, the
    background or the event is wrong; contradict: another count, a thing that is not there, two
    things whose colours are swapped, or the event backwards.
    """

    omit: float = 0.0
    misname: float = 0.0
    contradict: float = 0.0


def told(what: Shown, style: Style, noise: Noise, dice: Dice) -> tuple[Told, Note | None]:
    """What a caption of ``what`` tells, and what is wrong with it: None, or a note with the keys
    ``kind`` (omit, misname, contradict), ``attribute``, ``object`` (place in the scene; None for
    the background), ``said`` and ``true``."""
    true = truth(what)
    draw = dice.uniform()
    if draw < noise.omit:
        return _omit(true, what, style, dice)
    if draw < noise.omit + noise.misname:
        return _misname(true, what, style, dice)
    if draw < noise.omit + noise.misname + noise.contradict:
        return _contradict(true, what, dice)
    return true, None


def _values(act: Act) -> dict[str, Any]:
    return {"kind": act.kind, "to": act.to}


def _set_act(told: Told, clip: Clip, act: Act | None) -> None:
    """Let the caption tell another event of the same thing, or none."""
    if clip.at is None:
        told.ground_act = act
    elif act is None:
        del told.things[clip.at]["event"]
    else:
        told.things[clip.at]["event"] = act


def _omit(told: Told, what: Shown, style: Style, dice: Dice) -> tuple[Told, Note]:
    at = dice.pick(range(len(told.things)))
    silent = told.things[at]["texture"] == "plain" and style.texture != "said"
    names = [name for name in _OMITTED if not (silent and name == "texture")]
    attribute = dice.pick(names + ["event"] * isinstance(what, Clip))
    note: Note = {"kind": "omit", "attribute": attribute, "said": None}
    if isinstance(what, Clip) and attribute == "event":
        _set_act(told, what, None)
        return told, {**note, "object": what.at, "true": _values(what.act)}
    if attribute == "background":
        note |= {"object": None, "true": told.ground}
        told.ground = None
        return told, note
    return told, {**note, "object": at, "true": told.things[at].pop(attribute)}


def _misname(told: Told, what: Shown, style: Style, dice: Dice) -> tuple[Told, Note]:
    at = dice.pick(range(len(told.things)))
    attribute = dice.pick(_MISNAMED + ("event",) * isinstance(what, Clip))
    if isinstance(what, Clip) and attribute == "event":
        others = [c.act for c in clips_of(what.scene) if c.at == what.at and c.act != what.act]
        act = dice.pick(others)
        _set_act(told, what, act)
        values = {"said": _values(act), "true": _values(what.act)}
        return told, {"kind": "misname", "attribute": "event", **values, "object": what.at}
    true = told.ground if attribute == "background" else told.things[at][attribute]
    wrong = [value for value in VALUES[attribute] if value != true]
    if attribute == "texture" and style.texture != "said":
        # Unsaid plainness would leave the texture out rather than get it wrong.
        wrong = [value for value in wrong if value != "plain"]
    said = dice.pick(wrong)
    note: Note = {
        "kind": "misname",
        "attribute": attribute,
        "said": said,
        "true": true,
        "object": at,
    }
    if attribute == "background":
        told.ground = str(said)
        return told, {**note, "object": None}
    told.things[at][attribute] = said
    return told, note


def _contradict(told: Told, what: Shown, dice: Dice) -> tuple[Told, Note]:
    things = told.things
    at = dice.pick(range(len(things)))
    backwards = isinstance(what, Clip) and what.act.kind != "spin"
    ways = ["count", "extra"] + ["swapped"] * (len(things) > 1) + ["event"] * backwards
    way = dice.pick(ways)
    if isinstance(what, Clip) and way == "event":
        return _backwards(told, what)
    if way == "count":
        true = things[at]["count"]
        said = dice.pick([value for value in VALUES["count"] if value != true])
        things[at]["count"] = said
        return told, _contradiction("count", at, said, true)
    if way == "extra":
        shape = dice.pick([v for v in SHAPES if all(v != t["shape"] for t in things)])
        colour = dice.pick([v for v in COLOURS if all(v != t["colour"] for t in things)])
        extra = {**things[at], "shape": shape, "colour": colour, "count": 1}
        del extra["position"]
        extra.pop("event", None)
        things.append(extra)
        return told, _contradiction("object", len(things) - 1, f"{colour} {shape}", None)
    other = dice.pick([place for place in range(len(things)) if place != at])
    first, second = things[at]["colour"], things[other]["colour"]
    things[at]["colour"], things[other]["colour"] = second, first
    return told, _contradiction("colour", at, second, first)


def _backwards(told: Told, clip: Clip) -> tuple[Told, Note]:
    """The event from its end to its beginning."""
    kind = clip.act.kind
    act = Act(_OPPOSITE[kind]) if kind in _OPPOSITE else replace(clip.act, to=clip.before)
    if kind == "background":
        told.ground = clip.act.to
    elif clip.at is not None and kind not in _OPPOSITE:
        told.things[clip.at][kind] = clip.act.to
    _set_act(told, clip, act)
    return told, _contradiction("event", clip.at, _values(act), _values(clip.act))


def _contradiction(attribute: str, at: int | None, said: Any, true: Any) -> Note:
    return {
        "kind": "contradict", "attribute": attribute, "said": said, "true": true, "object": at,
    }  # fmt: skip
