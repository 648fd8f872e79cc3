"""Scene ``index`` of a seed: an invention, or an earlier scene with one change."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from datagen.sources.tinyworld.events import (
    Clip,
    Shown,
    happen,
    other_event,
    possible_clip,
    scene_of,
)
from datagen.sources.tinyworld.scene import Dice, Scene, changes, invent

#: Scenes are drawn in families: a neighbour changes an earlier scene of its own family.
FAMILY = 16
_CHANGED = {
    "colour": 24,
    "shape": 24,
    "background": 16,
    "size": 11,
    "texture": 11,
    "count": 8,
    "position": 10,
}
_CHANGED_IN_CLIPS = {**_CHANGED, "event": 60}


@dataclass(frozen=True)
class Drawn:
    """Scene ``index`` of a seed, and where it comes from.

    base: the scene that it changes, or None; changed: the attribute that differs from ``base``;
    root: the first scene of the chain of changes (its own index where there is no base);
    clip: what happens in it, None for an image.
    """

    index: int
    scene: Scene
    base: int | None
    changed: str | None
    root: int
    clip: Clip | None = None

    @property
    def shown(self) -> Shown:
        """What the image or clip shows."""
        return self.clip or self.scene


def change(scene: Scene, dice: Dice, avoid: frozenset[Scene]) -> tuple[Scene, str] | None:
    """Change one attribute of ``scene``, to a scene not in ``avoid``; None where none is left."""
    for attribute in dice.order(list(_CHANGED), list(_CHANGED.values())):
        others = [other for other in changes(scene, attribute) if other not in avoid]
        if others:
            return dice.pick(others), attribute
    return None


def change_clip(clip: Clip, dice: Dice, avoid: frozenset[Clip]) -> tuple[Clip, str] | None:
    """Change one attribute of the scene of ``clip``, or its event."""
    for name in dice.order(list(_CHANGED_IN_CLIPS), list(_CHANGED_IN_CLIPS.values())):
        if name == "event":
            other = other_event(clip, dice, avoid)
            if other is not None:
                return other, name
            continue
        others = [Clip(scene, clip.at, clip.act) for scene in changes(clip.scene, name)]
        others = [other for other in others if possible_clip(other) and other not in avoid]
        if others:
            return dice.pick(others), name
    return None


def _neighbour(
    base: Drawn, moving: bool, dice: Dice, drawn: list[Drawn]
) -> tuple[Shown, str] | None:
    """A change of ``base`` that no other of ``drawn`` shows; between modalities it is the event."""
    clips = frozenset(other.clip for other in drawn if other.clip is not None)
    scenes = frozenset(other.scene for other in drawn if other.clip is None)
    if base.clip is not None and moving:
        return change_clip(base.clip, dice, clips)
    if base.clip is None and not moving:
        return change(base.scene, dice, scenes)
    if moving:
        clip = happen(base.scene, dice, clips)
        return None if clip is None else (clip, "event")
    return None if base.scene in scenes else (base.scene, "event")


@functools.lru_cache(maxsize=256)
def _family(
    seed: int, number: int, neighbours: float, max_objects: int, clips: float
) -> tuple[Drawn, ...]:
    """Scenes ``number * FAMILY`` and up, as many as a family has."""
    drawn: list[Drawn] = []
    # The first of a family can change nothing, so the others make up for it.
    share = neighbours * FAMILY / (FAMILY - 1)
    for index in range(number * FAMILY, (number + 1) * FAMILY):
        dice = Dice("tinyworld", seed, index)
        moving = clips > 0 and Dice("clip", seed, index).uniform() < clips
        if drawn and dice.uniform() < share:
            alike = [other for other in drawn if (other.clip is not None) == moving]
            base = dice.pick(alike or drawn)
            made = _neighbour(base, moving, dice, drawn)
            if made is not None:
                what, changed = made
                clip = what if isinstance(what, Clip) else None
                drawn.append(Drawn(index, scene_of(what), base.index, changed, base.root, clip))
                continue
        scene = invent(dice, max_objects)
        drawn.append(
            Drawn(index, scene, None, None, index, happen(scene, dice) if moving else None)
        )
    return tuple(drawn)


def drawn(
    seed: int, index: int, *, neighbours: float = 0.6, max_objects: int = 3, clips: float = 0.0
) -> Drawn:
    """Scene ``index`` of ``seed``. It does not depend on how many scenes are asked for.

    neighbours: share of scenes (0-1; at most 15/16 can be had) that change one attribute of an
    earlier one; max_objects: 1-4 things a scene; clips: share of scenes in which something
    happens.
    """
    number, at = divmod(index, FAMILY)
    return _family(seed, number, neighbours, max_objects, clips)[at]
