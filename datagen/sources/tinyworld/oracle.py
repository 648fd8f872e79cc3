"""What is true in the world: which changes lead from one scene or clip to another, whether a
modification text tells them, whether a caption fits, and what a picture or a clip shows.

The oracle judges texts and pictures made by templates, language models and editors, so that their
quality can be measured instead of assumed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from datagen.sources.tinyworld.actions import clip_readings
from datagen.sources.tinyworld.captions import parse
from datagen.sources.tinyworld.events import Act, Clip, Shown, acts_of, scene_of
from datagen.sources.tinyworld.modification import Edit, Reading, readings
from datagen.sources.tinyworld.motion import holds
from datagen.sources.tinyworld.moving_pixels import read_clip
from datagen.sources.tinyworld.pixels import read_scene
from datagen.sources.tinyworld.scene import ATTRIBUTES, Thing

#: What it costs to hold two things for the same when they differ in an attribute. The fractions
#: only break ties: a thing is rather known by its shape and colour than by its place.
_COSTS = {
    "shape": 1.03, "colour": 1.02, "size": 1.01, "texture": 1.01, "count": 1.0, "position": 1.0
}  # fmt: skip
_UNMATCHED = 2.7
#: A thing is known by its looks rather than by what it does.
_ACT_COST = 0.3


@dataclass(frozen=True)
class Change:
    """One difference between a reference and a target.

    attribute: one of ATTRIBUTES, "background", "object" for a thing that comes or goes, or "event"
    for what a thing or the background does in a clip; before, after: its values (things for
    "object", acts for "event", None where there is none); at: place of the thing in the reference,
    None for a thing that comes and for the background.
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


@dataclass(frozen=True)
class Outcome:
    """What a text, read in one way, makes of a reference.

    things: as far as they are told, each with its ``event`` (an act, or None); ground, ground_act:
    the background and what it does.
    """

    things: tuple[dict[str, Any], ...]
    ground: str
    ground_act: Act | None


@functools.cache
def _pairings(fewer: int, more: int) -> tuple[tuple[int | None, ...], ...]:
    """All ways to give each of ``fewer`` things one of ``more`` others, or none."""
    places: list[int | None] = [*range(more), *[None] * fewer]
    return tuple(dict.fromkeys(itertools.permutations(places, fewer)))


def _cost(before: Thing, after: Thing) -> float:
    return sum(c for name, c in _COSTS.items() if getattr(before, name) != getattr(after, name))


def difference(reference: Shown, target: Shown) -> list[Change]:
    """The fewest changes that turn the reference into the target, each a scene or a clip.

    Things are matched so that the number of changed attributes is least; a thing that would change
    in all six is rather one that goes and one that comes. The order is that of the reference, then
    new things, then the background. A clip is compared by its beginning (with a thing that
    appears later) and by its event.
    """
    before, after = scene_of(reference).objects, scene_of(target).objects
    (acts, ground_act), (new_acts, new_ground_act) = acts_of(reference), acts_of(target)
    best: tuple[float, tuple[int | None, ...]] | None = None
    for chosen in _pairings(len(before), len(after)):
        matched = [(at, to) for at, to in enumerate(chosen) if to is not None]
        cost = sum(_cost(before[at], after[to]) for at, to in matched)
        cost += sum(_ACT_COST for at, to in matched if acts[at] != new_acts[to])
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
        if acts[at] != new_acts[to]:
            found.append(Change("event", acts[at], new_acts[to], at))
    found += [Change("object", None, thing) for to, thing in enumerate(after) if to not in chosen]
    grounds = (scene_of(reference).background, scene_of(target).background)
    if grounds[0] != grounds[1]:
        found.append(Change("background", *grounds))
    if ground_act != new_ground_act:
        found.append(Change("event", ground_act, new_ground_act))
    return found


def _agrees(name: str, told: Any, true: Any) -> bool:
    return holds(told, true) if name == "event" else bool(told == true)


def _covers(said: list[dict[str, Any]], things: list[dict[str, Any]]) -> bool:
    """Whether each description can have a thing of its own that it holds for."""
    if not said:
        return True
    return any(
        all(_agrees(name, value, thing[name]) for name, value in said[0].items())
        and _covers(said[1:], [*things[:at], *things[at + 1 :]])
        for at, thing in enumerate(things)
    )


def _all_of(what: Shown) -> list[dict[str, Any]]:
    """Every thing with all its attributes and its ``event``."""
    things: list[dict[str, Any]] = scene_of(what).graph()["objects"]
    acts, _ = acts_of(what)
    return [{**thing, "event": act} for thing, act in zip(things, acts, strict=True)]


def _outcome(reading: Reading, what: Shown) -> Outcome:
    """What is there after the edits."""
    things: list[dict[str, Any] | None] = list(_all_of(what))
    ground, ground_act = scene_of(what).background, acts_of(what)[1]
    # A clip has one event: what is told to happen takes the place of what happened.
    if any(edit.kind == "act" and edit.value is not None for edit in reading.edits):
        things = [thing and {**thing, "event": None} for thing in things]
        ground_act = None
    for edit in reading.edits:
        if edit.kind == "background":
            ground = edit.value
        elif edit.kind == "add":
            things.append({**dict(edit.value), "event": None})
        elif edit.kind == "remove":
            things[edit.at] = None
        elif edit.kind == "act" and edit.at < 0:
            ground_act = edit.value
        else:
            thing = things[edit.at]
            if thing is not None:
                thing["event" if edit.kind == "act" else edit.attribute] = edit.value
    return Outcome(tuple(thing for thing in things if thing is not None), ground, ground_act)


def outcomes(modification_text: str, reference: Shown, clip: bool) -> list[Outcome]:
    """All that a text may make of a reference, one for each way to read it; none where it has no
    meaning for this reference. clip: whether it is a clip that is looked for.

    A target is what the text asks for (:func:`says` calls it right) where :func:`reached` holds
    for one of them.
    """
    found, _ = _read(modification_text, reference, clip)
    unique = {repr(outcome): outcome for outcome in (_outcome(one, reference) for one in found)}
    return list(unique.values())


def reached(outcome: Outcome, target: Shown) -> bool:
    """Whether the target is what a text makes of its reference."""
    scene = scene_of(target)
    if outcome.ground != scene.background or not holds(outcome.ground_act, acts_of(target)[1]):
        return False
    same = len(outcome.things) == len(scene.objects)
    return same and _covers(list(outcome.things), _all_of(target))


def distance(outcome: Outcome, target: Shown) -> int:
    """How far the target is from what a text asks for: 0 where it is :func:`reached`.

    Each attribute of a thing that is told and differs counts 1, as do the background and an event;
    a thing that lacks or is too many counts 3. Things are matched so that the sum is least.
    """
    there = _all_of(target)
    least = 3 * (len(outcome.things) + len(there))
    for chosen in _pairings(len(outcome.things), len(there)):
        matched = [(one, there[to]) for one, to in zip(outcome.things, chosen, strict=True)
                   if to is not None]  # fmt: skip
        sum_ = 3 * (len(outcome.things) + len(there) - 2 * len(matched))
        for told, true in matched:
            sum_ += sum(not _agrees(name, value, true[name]) for name, value in told.items())
        least = min(least, sum_)
    ground = outcome.ground != scene_of(target).background
    return least + ground + (not holds(outcome.ground_act, acts_of(target)[1]))


# A text is asked about many targets in a row.
@functools.lru_cache(maxsize=64)
def _read(text: str, reference: Shown, clip: bool) -> tuple[list[Reading], str]:
    if clip or isinstance(reference, Clip):
        return clip_readings(text, reference)
    return readings(text, reference)


def _told(edit: Edit, change: Change) -> bool:
    """Whether ``edit`` states ``change``."""
    if edit.kind == "set":
        return (edit.at, edit.attribute, edit.value) == (change.at, change.attribute, change.after)
    if edit.kind == "act":
        at = None if edit.at < 0 else edit.at
        here = change.attribute == "event" and change.at == at
        return here and holds(edit.value, change.after)
    if edit.kind == "background":
        return change.attribute == "background" and edit.value == change.after
    if change.attribute != "object":
        return False
    if edit.kind == "remove":
        return change.at == edit.at
    return change.after is not None and _covers([dict(edit.value)], [asdict(change.after)])


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
    if edit.kind == "act":
        return f"the event becomes {edit.value.kind if edit.value else 'none'}"
    return f"{edit.attribute or edit.kind} becomes {edit.value}"


def says(modification_text: str, reference: Shown, target: Shown) -> Verdict:
    """Whether a modification text tells what leads from the reference to the target.

    The text is English as templates and small language models write it: "make the star red",
    "instead of red, blue", "have three stars instead of two", "with a green background", "make
    the star spin instead of grow". Where it can be read in several ways, the one that agrees best
    counts, and the verdict is marked ambiguous if another would give another picture. A text that
    cannot be read gives right=False with the reason "not understood".
    """
    found, why = _read(modification_text, reference, isinstance(target, Clip))
    changed = difference(reference, target)
    if not found:
        return Verdict(False, False, False, why)
    made = [_outcome(reading, reference) for reading in found]
    verdicts = []
    for reading, outcome in zip(found, made, strict=True):
        right = reached(outcome, target)
        hits = sum(any(_told(e, c) for c in changed) for e in reading.edits)
        misses = len(reading.edits) - hits + len(reading.idle)
        verdicts.append(((right, hits - misses), _judge(reading, changed, right)))
    best = max(verdicts, key=lambda pair: pair[0])[1]
    return Verdict(
        best.right, best.complete, best.minimal, best.reason, len(set(map(repr, made))) > 1
    )


def fits(what: Shown, caption: str) -> bool:
    """Whether a caption says nothing that is not so in a scene or clip.

    What it leaves out does no harm; what it says of a clip, but for the event, must be so at the
    beginning. A caption with no word of this world fits nothing.
    """
    told = parse(caption)
    if told is None or told.ground not in (None, scene_of(what).background):
        return False
    if told.ground_act is not None and not holds(told.ground_act, acts_of(what)[1]):
        return False
    return _covers(told.things, _all_of(what))


def read_pixels(
    picture: Image.Image | Sequence[Image.Image], true: Shown | None = None
) -> dict[str, Any]:
    """What a picture, or a clip as its frames in order, shows, from its pixels alone.

    Returns the graph of what is seen, as in an item's labels: ``objects`` and ``background``, and
    ``event`` for frames (None where nothing happens). With ``true`` (what it should show) there is
    also ``agrees``: for the background, the number of objects, each attribute and the event (for
    frames), whether it is as it should be for every thing. Things are matched as in
    :func:`difference`; an attribute of a thing that is missing does not agree.
    """
    clip = not isinstance(picture, Image.Image)
    seen = read_clip(list(picture)) if clip else read_scene(picture)  # type: ignore[arg-type]
    found: dict[str, Any] = {**({"event": None} if clip else {}), **seen.graph()}
    if true is not None:
        wrong = difference(true, seen)
        names = {change.attribute for change in wrong}
        missing = "object" in names
        told = (*ATTRIBUTES, "event") if clip else ATTRIBUTES
        found["agrees"] = {
            "background": "background" not in names,
            "objects": not missing,
            **{name: not missing and name not in names for name in told},
        }
    return found
