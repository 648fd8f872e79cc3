"""What is true in the world: which changes lead from one scene to another, whether a modification
text tells them, whether a caption fits, and what a picture shows.

The oracle judges texts and pictures made by templates, language models and editors, so that their
quality can be measured instead of assumed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from datagen.sources.tinyworld.captions import parse
from datagen.sources.tinyworld.modification import Edit, Reading, readings
from datagen.sources.tinyworld.pixels import read_scene
from datagen.sources.tinyworld.scene import ATTRIBUTES, Scene, Thing

#: What it costs to hold two things for the same when they differ in an attribute. The fractions
#: only break ties: a thing is rather known by its shape and colour than by its place.
_COSTS = {
    "shape": 1.03, "colour": 1.02, "size": 1.01, "texture": 1.01, "count": 1.0, "position": 1.0
}  # fmt: skip
_UNMATCHED = 2.7


@dataclass(frozen=True)
class Change:
    """One difference between a reference and a target.

    attribute: one of ATTRIBUTES, "background", or "object" for a thing that comes or goes;
    before, after: its values (things for "object", None where there is none); at: place of the
    thing in the reference, None for a thing that comes and for the background.
    """

    attribute: str
    before: Any
    after: Any
    at: int | None = None


@dataclass(frozen=True)
class Verdict:
    """What the oracle thinks of a modification text.

    right: doing what it states to the reference gives the target; complete: nothing that changed
    is left unsaid; minimal: nothing is stated that did not change; ambiguous: read in another
    way, it would give another picture; reason: one line.
    """

    right: bool
    complete: bool
    minimal: bool
    reason: str
    ambiguous: bool = False


def _pairings(fewer: int, more: int) -> Iterable[tuple[int | None, ...]]:
    """All ways to give each of ``fewer`` things one of ``more`` others, or none."""
    places: list[int | None] = [*range(more), *[None] * fewer]
    return dict.fromkeys(itertools.permutations(places, fewer))


def _cost(before: Thing, after: Thing) -> float:
    return sum(c for name, c in _COSTS.items() if getattr(before, name) != getattr(after, name))


def difference(reference_scene: Scene, target_scene: Scene) -> list[Change]:
    """The fewest changes that turn the reference into the target.

    Things are matched so that the number of changed attributes is least; a thing that would change
    in all six is rather one that goes and one that comes. The order is that of the reference, then
    new things, then the background.
    """
    before, after = reference_scene.objects, target_scene.objects
    best: tuple[float, tuple[int | None, ...]] | None = None
    for chosen in _pairings(len(before), len(after)):
        matched = [(at, to) for at, to in enumerate(chosen) if to is not None]
        cost = sum(_cost(before[at], after[to]) for at, to in matched)
        cost += _UNMATCHED * (len(before) + len(after) - 2 * len(matched))
        if best is None or cost < best[0] - 1e-9:
            best = (cost, chosen)
    chosen = best[1] if best else ()
    found: list[Change] = []
    for at, to in enumerate(chosen):
        if to is None:
            found.append(Change("object", before[at], None, at))
            continue
        for name in ATTRIBUTES:
            old, new = getattr(before[at], name), getattr(after[to], name)
            if old != new:
                found.append(Change(name, old, new, at))
    found += [Change("object", None, thing) for to, thing in enumerate(after) if to not in chosen]
    if reference_scene.background != target_scene.background:
        grounds = (reference_scene.background, target_scene.background)
        found.append(Change("background", *grounds))
    return found


def _covers(said: list[dict[str, Any]], things: list[Thing]) -> bool:
    """Whether each description can have a thing of its own that it holds for."""
    if not said:
        return True
    return any(
        all(getattr(thing, name) == value for name, value in said[0].items())
        and _covers(said[1:], [*things[:at], *things[at + 1 :]])
        for at, thing in enumerate(things)
    )


def _outcome(reading: Reading, scene: Scene) -> tuple[list[dict[str, Any]], str]:
    """What the scene is after the edits: things as far as they are told, and the background."""
    graph = scene.graph()
    things: list[dict[str, Any] | None] = list(graph["objects"])
    ground = scene.background
    for edit in reading.edits:
        if edit.kind == "background":
            ground = edit.value
        elif edit.kind == "add":
            things.append(dict(edit.value))
        elif edit.kind == "remove":
            things[edit.at] = None
        else:
            thing = things[edit.at]
            if thing is not None:
                thing[edit.attribute] = edit.value
    return [thing for thing in things if thing is not None], ground


def _gives(reading: Reading, reference: Scene, target: Scene) -> bool:
    things, ground = _outcome(reading, reference)
    if ground != target.background or len(things) != len(target.objects):
        return False
    return _covers(things, list(target.objects))


def _told(edit: Edit, change: Change) -> bool:
    """Whether ``edit`` states ``change``."""
    if edit.kind == "set":
        return (edit.at, edit.attribute, edit.value) == (change.at, change.attribute, change.after)
    if edit.kind == "background":
        return change.attribute == "background" and edit.value == change.after
    if change.attribute != "object":
        return False
    if edit.kind == "remove":
        return change.at == edit.at
    return change.after is not None and _covers([dict(edit.value)], [change.after])


def _judge(reading: Reading, changed: list[Change], right: bool) -> Verdict:
    unsaid = [c for c in changed if not any(_told(e, c) for e in reading.edits)]
    wrong = [e for e in reading.edits if not any(_told(e, c) for c in changed)]
    if right:
        # The same outcome may be told in another way than the shortest one.
        reason = reading.idle[0] if reading.idle else "says what changed"
        return Verdict(True, True, not reading.idle, reason)
    if wrong:
        reason = f"states what did not happen: {_readable(wrong[0])}"
    elif unsaid:
        reason = f"does not say that the {unsaid[0].attribute} changed"
    else:
        reason = "says nothing that changed"
    return Verdict(False, not unsaid, not (wrong or reading.idle), reason)


def _readable(edit: Edit) -> str:
    if edit.kind == "add":
        return "a new " + " ".join(str(value) for _, value in edit.value)
    if edit.kind == "remove":
        return "a thing goes"
    return f"{edit.attribute or edit.kind} becomes {edit.value}"


def says(modification_text: str, reference_scene: Scene, target_scene: Scene) -> Verdict:
    """Whether a modification text tells what leads from the reference to the target.

    The text is English as templates and small language models write it: "make the star red",
    "instead of red, blue", "have three stars instead of two", "with a green background". Where it
    can be read in several ways, the one that agrees best counts, and the verdict is marked
    ambiguous if another would give another picture. A text that cannot be read gives right=False
    with the reason "not understood".
    """
    found, why = readings(modification_text, reference_scene)
    changed = difference(reference_scene, target_scene)
    if not found:
        return Verdict(False, False, False, why)
    outcomes = {repr(_outcome(reading, reference_scene)) for reading in found}
    verdicts = []
    for reading in found:
        right = _gives(reading, reference_scene, target_scene)
        hits = sum(any(_told(e, c) for c in changed) for e in reading.edits)
        misses = len(reading.edits) - hits + len(reading.idle)
        verdicts.append(((right, hits - misses), _judge(reading, changed, right)))
    best = max(verdicts, key=lambda pair: pair[0])[1]
    return Verdict(best.right, best.complete, best.minimal, best.reason, len(outcomes) > 1)


def fits(scene: Scene, caption: str) -> bool:
    """Whether a caption says nothing that is not so in ``scene``.

    What it leaves out does no harm. A caption with no word of this world fits nothing.
    """
    told = parse(caption)
    if told is None:
        return False
    things, ground = told
    return ground in (None, scene.background) and _covers(things, list(scene.objects))


def read_pixels(image: Image.Image, scene: Scene | None = None) -> dict[str, Any]:
    """What a picture shows, from its pixels alone.

    Returns the graph of the scene (``objects`` and ``background``, as in an item's labels). With
    ``scene`` (what it should show) there is also ``agrees``: for the background, the number of
    objects and each attribute, whether it is as it should be for every thing. Things are matched
    as in :func:`difference`; an attribute of a thing that is missing does not agree.
    """
    seen = read_scene(image)
    found: dict[str, Any] = seen.graph()
    if scene is not None:
        wrong = difference(scene, seen)
        names = {change.attribute for change in wrong}
        missing = "object" in names
        found["agrees"] = {
            "background": "background" not in names,
            "objects": not missing,
            **{name: not missing and name not in names for name in ATTRIBUTES},
        }
    return found
