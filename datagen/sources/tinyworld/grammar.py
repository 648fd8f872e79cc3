"""How captions are phrased: the content of a caption, its style, and the sentence of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datagen.sources.tinyworld import motion, words
from datagen.sources.tinyworld.events import Act, Shown, acts_of, scene_of

#: Each frame with a background, and without.
FRAMES = (
    ("{things} on a {ground} background", "{things}"),
    ("on a {ground} background there {is} {things}", "there {is} {things}"),
    ("{things} against a {ground} backdrop", "{things}"),
    ("a picture of {things} on a {ground} background", "a picture of {things}"),
    ("a {ground} background with {things}", "a scene with {things}"),
    ("a {ground} scene that shows {things}", "a scene that shows {things}"),
)
#: Frames of a clip in which a thing does something.
THING_FRAMES = (
    ("{subject} {does}{beside} on a {ground} background", "{subject} {does}{beside}"),
    ("on a {ground} background {subject} {does}{beside}", "{subject} {does}{beside}"),
    ("{subject} {does}{beside} against a {ground} backdrop", "{subject} {does}{beside}"),
    ("a video of {subject} that {does}{beside} on a {ground} background",
     "a video of {subject} that {does}{beside}"),
)  # fmt: skip
#: Frames of a clip in which the background changes.
GROUND_FRAMES = (
    ("{things} on a {ground} background that {does}", "{things} on a background that {does}"),
    ("a {ground} background {does} behind {things}", "the background {does} behind {things}"),
    ("{things} against a {ground} backdrop that {does}", "{things} on a backdrop that {does}"),
    ("a video of {things} on a {ground} background that {does}",
     "a video of {things} on a background that {does}"),
)  # fmt: skip
SIZE_WORDS = (
    {"small": "small", "large": "large"},
    {"small": "little", "large": "big"},
    {"small": "tiny", "large": "huge"},
)
TEXTURE_WORDS = {"striped": "stripes", "dotted": "dots"}
_PLURALS = {"cross": "crosses"}


@dataclass(frozen=True)
class Style:
    """How one caption is phrased.

    frame: index into FRAMES (or THING_FRAMES, GROUND_FRAMES); sizes: into SIZE_WORDS; texture:
    "said" (plain is said too), "terse" (plain is not said) or "with" ("with stripes");
    colour_first: "red striped"; at: "at the left" rather than "on the left"; verbs: column of the
    verbs of motion; origin: "moves from the left to the right" rather than "on the left moves to
    the right".
    """

    frame: int
    sizes: int = 0
    texture: str = "said"
    colour_first: bool = False
    at: bool = False
    verbs: int = 0
    origin: bool = False


@dataclass
class Told:
    """What a caption says: attributes of each thing (left out where unsaid; ``event``, an
    :class:`events.Act`, of a thing that does something), the background, and what it does."""

    things: list[dict[str, Any]]
    ground: str | None
    ground_act: Act | None = None

    @property
    def subject(self) -> int | None:
        """The thing that does something."""
        return next((at for at, thing in enumerate(self.things) if thing.get("event")), None)


def truth(what: Shown) -> Told:
    """All that there is to say about an image or clip."""
    graph = scene_of(what).graph()
    acts, ground_act = acts_of(what)
    for thing, act in zip(graph["objects"], acts, strict=True):
        if act is not None:
            thing["event"] = act
    return Told(graph["objects"], graph["background"], ground_act)


def _place(position: str, at: bool) -> str:
    if at:
        return f"at the {position}"
    if " " in position:
        return f"in the {position} corner"
    preposition = {"top": "at", "bottom": "at", "centre": "in"}.get(position, "on")
    return f"{preposition} the {position}"


def noun_phrase(told: dict[str, Any], style: Style) -> str:
    """A thing with all that is told of it, but for what it does."""
    count = told["count"]
    texture = told.get("texture")
    adjective = texture if style.texture == "said" or texture != "plain" else None
    if style.texture == "with" and texture != "plain":
        adjective = None
    pair = [adjective, told.get("colour")]
    if style.colour_first:
        pair.reverse()
    size = SIZE_WORDS[style.sizes][told["size"]] if "size" in told else None
    shape = told["shape"] if count == 1 else _PLURALS.get(told["shape"], told["shape"] + "s")
    rest = " ".join(word for word in (size, *pair, shape) if word)
    article = "an" if rest[0] in "aeiou" else "a"
    phrase = f"{article if count == 1 else words.NUMBERS[count]} {rest}"
    if style.texture == "with" and texture in TEXTURE_WORDS:
        phrase += f" with {TEXTURE_WORDS[texture]}"
    if "position" in told:
        phrase += f" {_place(told['position'], style.at)}"
    return phrase


def _listed(phrases: list[str]) -> str:
    return ", ".join(phrases[:-1]) + (" and " if phrases[1:] else "") + phrases[-1]


def write(told: Told, style: Style) -> str:
    """The caption that tells ``told`` in ``style``."""
    if told.subject is not None:
        return _with_event(told, told.subject, style)
    things = _listed([noun_phrase(thing, style) for thing in told.things])
    if told.ground_act is not None:
        does = f"{motion.verb(told.ground_act, False, style.verbs)} {told.ground_act.to}"
        frame = GROUND_FRAMES[style.frame][told.ground is None]
        return frame.format(things=things, ground=told.ground, does=does)
    frame = FRAMES[style.frame][told.ground is None]
    verb = "is" if told.things[0]["count"] == 1 else "are"
    return frame.format(things=things, ground=told.ground, **{"is": verb})


def _with_event(told: Told, at: int, style: Style) -> str:
    thing = dict(told.things[at])
    act: Act = thing.pop("event")
    does = [motion.verb(act, thing["count"] > 1, style.verbs)]
    if act.kind == "position":
        if style.origin and "position" in thing:
            does.append(f"from the {thing.pop('position')}")
        does.append(f"to the {act.to}")
    elif act.kind == "count":
        does.append(words.NUMBERS[act.to])
    elif act.kind in ("colour", "texture"):
        does.append(act.to)
    others = [noun_phrase(other, style) for place, other in enumerate(told.things) if place != at]
    frame = THING_FRAMES[style.frame][told.ground is None]
    return frame.format(
        subject=noun_phrase(thing, style),
        does=" ".join(does),
        beside=f" beside {_listed(others)}" if others else "",
        ground=told.ground,
    )
