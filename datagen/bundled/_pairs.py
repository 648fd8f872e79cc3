"""Pairs of captions of the rendered world, and what a model that reads them should answer.

Pairs are as miners give them: captions that differ in a word, in two or three things, in none, or
in nearly all; of pictures, clips, or one of each; in the same words or in others; true, or with
what the world's noise does to captions. Beside them stand texts that are none of this world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from datagen.bundled import _scenes, _strange
from datagen.sources.tinyworld import noise
from datagen.sources.tinyworld.captions import styles
from datagen.sources.tinyworld.events import Clip, Shown, happen, scene_of
from datagen.sources.tinyworld.family import change, change_clip
from datagen.sources.tinyworld.grammar import Style, Told, write
from datagen.sources.tinyworld.noise import Noise
from datagen.sources.tinyworld.scene import ATTRIBUTES, Dice, Scene, Thing, invent

#: What differs in a pair, and how often.
KINDS = {
    "one": 56, "two": 13, "three": 7, "thing": 7, "nothing": 6, "any": 5, "strange": 6
}  # fmt: skip
_NOISE = Noise(omit=0.08, misname=0.08, contradict=0.08)


@dataclass(frozen=True)
class Pair:
    """Two captions, what each says (completed where it leaves something out), and of the second
    what is told of each thing; None, and no truth, for captions of something else."""

    reference: str
    target: str
    before: Shown | None = None
    after: Shown | None = None
    come: dict[Thing, dict[str, Any]] | None = None


# ---------------------------------------------------------------- scenes


def _invented(dice: Dice, moving: bool, held: bool) -> Shown:
    while True:
        scene = invent(dice, 4 if dice.uniform() < 0.25 else 3)
        what: Shown | None = happen(scene, dice) if moving else scene
        if what is not None and (held or not _scenes.held_out(what)):
            return what


def _changed(what: Shown, dice: Dice, times: int) -> Shown:
    """``what`` with ``times`` changes of one value."""
    now, seen = what, {what}
    for _ in range(times):
        if isinstance(now, Clip):
            found: Any = change_clip(now, dice, frozenset(seen))  # type: ignore[arg-type]
        else:
            found = change(now, dice, frozenset(seen))  # type: ignore[arg-type]
        if found is None:
            return now
        now = found[0]
        seen.add(now)
    return now


def _without(what: Shown, dice: Dice) -> Shown:
    """``what`` without one of its things; itself where it has one only, or it does something."""
    scene = scene_of(what)
    acting = what.at if isinstance(what, Clip) else None
    places = [at for at in range(len(scene.objects)) if at != acting]
    if len(scene.objects) < 2:
        return what
    at = dice.pick(places)
    rest = replace(scene, objects=(*scene.objects[:at], *scene.objects[at + 1 :]))
    if isinstance(what, Clip):
        return replace(what, scene=rest, at=acting - (acting > at) if acting is not None else None)
    return rest


def _shown(kind: str, dice: Dice, held: bool) -> tuple[Shown, Shown]:
    """What the reference and the target show; held: one of them, or both, are held out."""
    while True:
        moving = dice.uniform() < 0.33
        before = _invented(dice, moving, held)
        if kind == "any":
            after = _invented(dice, dice.uniform() < 0.33, held)
        elif kind == "one" and dice.uniform() < 0.06:
            scene = scene_of(before)
            after = scene if moving else happen(scene, dice) or scene
        elif kind == "thing":
            after = _changed(_without(before, dice), dice, dice.pick([0, 1], [3, 1]))
        else:
            after = _changed(before, dice, {"one": 1, "two": 2, "three": 3}.get(kind, 0))
        if dice.uniform() < 0.5:
            before, after = after, before
        if (_scenes.held_out(before) or _scenes.held_out(after)) == held:
            return before, after


# ---------------------------------------------------------------- captions


def _styles(before: Shown, after: Shown, same: bool, dice: Dice) -> tuple[Style, Style]:
    root = int(dice.uniform() * 2**40)
    clips = isinstance(before, Clip), isinstance(after, Clip)
    one = styles(0, root, 1, clips[0])[0]
    if not same:
        return one, styles(0, root + 1, 1, clips[1])[0]
    return one, one if clips[0] == clips[1] else styles(0, root, 1, clips[1])[0]


def _nearly(style: Style, dice: Dice) -> Style:
    """The same phrasing but for one of its choices."""
    return dice.pick(
        [
            style,
            replace(style, sizes=dice.pick([0, 1, 2])),
            replace(style, at=not style.at),
            replace(style, colour_first=not style.colour_first),
            replace(style, verbs=1 - style.verbs),
        ]
    )


def _spare(told: Sequence[Told], dice: Dice) -> None:
    """Let all captions say less of things."""
    names = dice.order(["size", "texture", "position"])[: dice.pick([1, 2, 3])]
    if dice.uniform() < 0.3:
        names.append("colour")
    for one in told:
        for thing in one.things:
            for name in names:
                thing.pop(name, None)
    if dice.uniform() < 0.4:
        for one in told:
            if one.ground_act is None:
                one.ground = None


def _completed(told: Told, other: Told) -> Shown:
    """What a caption says; what it leaves open is as the other one says, if that says it."""
    things, at, act = [], None, None
    for place, thing in enumerate(told.things):
        alike = [one for one in other.things if one["shape"] == thing["shape"]]
        twin = alike[0] if alike else other.things[place] if place < len(other.things) else {}
        said = {name: thing.get(name, twin.get(name)) for name in ATTRIBUTES if name != "texture"}
        kept = {name: value for name, value in said.items() if value is not None}
        things.append(Thing(**{"colour": "red", "texture": thing.get("texture", "plain"), **kept}))
        if thing.get("event") is not None:
            at, act = place, thing["event"]
    scene = Scene(tuple(things), told.ground or other.ground or "white")
    act = act or told.ground_act
    return scene if act is None else Clip(scene, at, act)


def pair(kind: str, dice: Dice, noisy: bool | None = None, held: bool = False) -> Pair:
    """A pair of two captions that differ as ``kind`` of :data:`KINDS` says.

    held: whether one of them shows what is held out from training (:mod:`_scenes`);
    noisy: whether captions may be wrong, as the world's noise makes them; None: half the time.
    """
    if kind == "strange":
        return _foreign(dice)
    before, after = _shown(kind, dice, held)
    noisy = dice.uniform() < 0.5 if noisy is None else noisy
    one, other = _styles(before, after, dice.uniform() < (0.1 if kind == "any" else 0.75), dice)
    if kind == "nothing" and dice.uniform() < 0.5:
        one, other = one, _nearly(one, dice)
    shares = _NOISE if noisy else Noise()
    told = [noise.told(before, one, shares, dice)[0], noise.told(after, other, shares, dice)[0]]
    if dice.uniform() < 0.06:
        _spare(told, dice)
    if kind != "one" and dice.uniform() < 0.1:
        told[1].things = dice.order(told[1].things)
    shown = _completed(told[0], told[1]), _completed(told[1], told[0])
    things = scene_of(shown[1]).objects
    return Pair(
        write(told[0], one), write(told[1], other), *shown,
        come=dict(zip(things, told[1].things, strict=True)),
    )  # fmt: skip


def _foreign(dice: Dice) -> Pair:
    text = _strange.text(dice)
    if dice.uniform() < 0.2:
        return Pair(text, text)
    world = pair(dice.pick(["one", "any"]), dice)
    other = _strange.text(dice) if dice.uniform() < 0.4 else world.reference
    if dice.uniform() < 0.2:
        # A caption with something else in it.
        at = int(dice.uniform() * len(other))
        other = f"{other[:at]} {_strange.text(dice)[:40]} {other[at:]}"
    return Pair(text, other) if dice.uniform() < 0.5 else Pair(other, text)
