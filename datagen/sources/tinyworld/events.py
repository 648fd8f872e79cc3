"""What happens in a clip: one event over time, about one thing or the background.

A clip is a scene and an event. The scene is that of the beginning, with one exception: a thing
that appears belongs to it from the start. So a clip and a neighbour of it name the same things.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from datagen.sources.tinyworld.scene import (
    BACKGROUNDS,
    DIAMETERS,
    VALUES,
    Dice,
    Scene,
    Thing,
    centres,
    possible,
)

#: Kinds of events that change an attribute of a thing, and how often each is drawn.
CHANGING = {"position": 6, "size": 5, "colour": 5, "texture": 3, "count": 3}
#: Kinds that lead to no other value.
PLAIN = {"spin": 4, "vanish": 2, "appear": 2}
_WEIGHTS = {**CHANGING, **PLAIN, "background": 3}
#: Shapes that look the same at every angle.
_ROUND = frozenset(["circle", "ring"])
#: Kinds that are told by one word after the thing, or by "turns" and a word: exchanging one for
#: another of its own group changes one word of a caption.
_TOLD_ALIKE = (frozenset(["size", "spin", "vanish", "appear"]), frozenset(["colour", "texture"]))
#: Steps at which a moving thing must keep clear of the others.
_STEPS = 12


@dataclass(frozen=True)
class Act:
    """What happens: ``kind`` (an attribute of things, "background", "spin", "vanish" or "appear")
    and the value that it ends with (None for the last three, or where it is left open)."""

    kind: str
    to: Any = None


@dataclass(frozen=True)
class Clip:
    """A scene in which thing ``at`` (None: the background) does ``act``."""

    scene: Scene
    at: int | None
    act: Act

    @property
    def start(self) -> Scene:
        """What the first frame shows."""
        return self._without() if self.act.kind == "appear" else self.scene

    @property
    def end(self) -> Scene:
        """What the last frame shows."""
        if self.act.kind == "background":
            return replace(self.scene, background=self.act.to)
        if self.act.kind == "vanish":
            return self._without()
        if self.at is None or self.act.kind in PLAIN:
            return self.scene
        things = self.scene.objects
        changed = replace(things[self.at], **{self.act.kind: self.act.to})
        return replace(self.scene, objects=(*things[: self.at], changed, *things[self.at + 1 :]))

    def _without(self) -> Scene:
        kept = tuple(thing for at, thing in enumerate(self.scene.objects) if at != self.at)
        return replace(self.scene, objects=kept)

    @property
    def before(self) -> Any:
        """The value that the act begins with; None where it changes none."""
        if self.act.kind == "background":
            return self.scene.background
        if self.at is None or self.act.kind in PLAIN:
            return None
        return getattr(self.scene.objects[self.at], self.act.kind)

    def graph(self) -> dict[str, Any]:
        """The graph of the first frame and ``event``, ready for JSON.

        ``event`` has ``kind``, ``thing`` (its place among ``objects``, or the place that it will
        take there; None for the background), ``from`` and ``to`` (values, or the thing itself
        where one comes or goes).
        """
        told: dict[str, Any] = {"from": self.before, "to": self.act.to}
        if self.at is not None and self.act.kind in ("vanish", "appear"):
            told["to" if self.act.kind == "appear" else "from"] = asdict(
                self.scene.objects[self.at]
            )
        return {**self.start.graph(), "event": {"kind": self.act.kind, "thing": self.at, **told}}


#: What a medium shows.
Shown = Scene | Clip


def shown(labels: Mapping[str, Any]) -> Shown:
    """What the labels of an item (or a graph) tell: a scene, or a clip where they have an event.

    Raises KeyError or TypeError where they are not labels of this world.
    """
    scene, event = Scene.of(labels), labels.get("event")
    if event is None:
        return scene
    kind, at = event["kind"], event["thing"]
    if kind == "appear":
        things = scene.objects
        scene = replace(scene, objects=(*things[:at], Thing(**event["to"]), *things[at:]))
    return Clip(scene, at, Act(kind, None if kind in PLAIN else event["to"]))


def scene_of(what: Shown) -> Scene:
    """The scene of an image or clip, with a thing that appears later."""
    return what.scene if isinstance(what, Clip) else what


def acts_of(what: Shown) -> tuple[list[Act | None], Act | None]:
    """What each thing does, and what the background does; None: nothing."""
    acts: list[Act | None] = [None] * len(scene_of(what).objects)
    if not isinstance(what, Clip):
        return acts, None
    if what.at is None:
        return acts, what.act
    acts[what.at] = what.act
    return acts, None


def _box(thing: Thing) -> list[float]:
    """Left, top, right and bottom of the shapes of a thing (fractions of the side)."""
    half = DIAMETERS[thing.size] / 2 + 0.02
    places = centres(thing) or []
    xs, ys = [x for x, _ in places], [y for _, y in places]
    return [min(xs) - half, min(ys) - half, max(xs) + half, max(ys) + half]


def _clear(clip: Clip) -> bool:
    """Whether the thing meets no other on its way to its last state."""
    assert clip.at is not None
    begin, end = _box(clip.scene.objects[clip.at]), _box(clip.end.objects[clip.at])
    others = [_box(thing) for at, thing in enumerate(clip.scene.objects) if at != clip.at]
    for step in range(_STEPS + 1):
        way = step / _STEPS
        left, top, right, bottom = (a + (b - a) * way for a, b in zip(begin, end, strict=True))
        for other in others:
            if left < other[2] and other[0] < right and top < other[3] and other[1] < bottom:
                return False
    return True


def possible_clip(clip: Clip) -> bool:
    """Whether ``clip`` can be shown: both ends are scenes, and something is seen to happen."""
    kind, at = clip.act.kind, clip.at
    if kind == "background":
        return possible(clip.scene) and clip.act.to != clip.scene.background
    if at is None or not possible(clip.scene):
        return False
    if kind == "spin":
        return clip.scene.objects[at].shape not in _ROUND
    if kind in PLAIN:
        return len(clip.scene.objects) > 1
    return clip.act.to != clip.before and possible(clip.end) and _clear(clip)


@functools.lru_cache(maxsize=512)
def clips_of(scene: Scene) -> tuple[Clip, ...]:
    """All clips that begin as ``scene``."""
    found = [Clip(scene, None, Act("background", value)) for value in BACKGROUNDS]
    for at in range(len(scene.objects)):
        found += [Clip(scene, at, Act(kind, to)) for kind in CHANGING for to in VALUES[kind]]
        found += [Clip(scene, at, Act(kind)) for kind in PLAIN]
    return tuple(clip for clip in found if possible_clip(clip))


def happen(scene: Scene, dice: Dice, avoid: frozenset[Clip] = frozenset()) -> Clip | None:
    """Let something happen in ``scene``, but for ``avoid``; None where there is nothing left."""
    clips = [clip for clip in clips_of(scene) if clip not in avoid]
    kinds = sorted({clip.act.kind for clip in clips})
    if not kinds:
        return None
    kind = dice.pick(kinds, [_WEIGHTS[kind] for kind in kinds])
    return dice.pick([clip for clip in clips if clip.act.kind == kind])


def _alike(one: Act, other: Act) -> bool:
    return one.kind == other.kind or any({one.kind, other.kind} <= g for g in _TOLD_ALIKE)


def other_event(clip: Clip, dice: Dice, avoid: frozenset[Clip] = frozenset()) -> Clip | None:
    """Let something else happen in the scene of ``clip``; None where there is nothing left.

    Mostly the same thing does something of the same kind, or told in as many words.
    """
    clips = [c for c in clips_of(clip.scene) if c != clip and c not in avoid]
    near = [c for c in clips if c.at == clip.at and _alike(c.act, clip.act)]
    if near and dice.uniform() < 0.85:
        clips = near
    return dice.pick(clips) if clips else None
