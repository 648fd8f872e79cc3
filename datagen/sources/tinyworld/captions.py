"""Captions of scenes from a seeded grammar, the noise one may ask for, and how to read them back.

The phrasing belongs to the root of a chain of changes, so a scene and its neighbour are told in
the same words but one. Noise is written down beside the caption that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datagen.sources.tinyworld import words
from datagen.sources.tinyworld.scene import (
    COLOURS,
    SHAPES,
    VALUES,
    Dice,
    Drawn,
    Scene,
    Thing,
)

#: Each frame with a background, and without.
FRAMES = (
    ("{things} on a {ground} background", "{things}"),
    ("on a {ground} background there {is} {things}", "there {is} {things}"),
    ("{things} against a {ground} backdrop", "{things}"),
    ("a picture of {things} on a {ground} background", "a picture of {things}"),
    ("a {ground} background with {things}", "a scene with {things}"),
    ("a {ground} scene that shows {things}", "a scene that shows {things}"),
)
SIZE_WORDS = (
    {"small": "small", "large": "large"},
    {"small": "little", "large": "big"},
    {"small": "tiny", "large": "huge"},
)
TEXTURE_WORDS = {"striped": "stripes", "dotted": "dots"}
_PLURALS = {"cross": "crosses"}
#: What ``omit`` may leave out. Shape and count are what a noun phrase is made of.
_OMITTED = ("colour", "size", "texture", "position", "background")
_MISNAMED = ("colour", "shape", "size", "texture", "position", "background")


@dataclass(frozen=True)
class Noise:
    """Shares of captions (0-1 each, together at most 1) that are wrong on purpose.

    omit: an attribute is left out; misname: one attribute of one thing, or the background, is
    wrong; contradict: another count, a thing that is not there, or two things whose colours are
    swapped.
    """

    omit: float = 0.0
    misname: float = 0.0
    contradict: float = 0.0


@dataclass(frozen=True)
class Style:
    """How one caption is phrased.

    frame: index into FRAMES; sizes: into SIZE_WORDS; texture: "said" (plain is said too),
    "terse" (plain is not said) or "with" ("with stripes"); colour_first: "red striped";
    at: "at the left" rather than "on the left".
    """

    frame: int
    sizes: int = 0
    texture: str = "said"
    colour_first: bool = False
    at: bool = False


#: A caption's content: attributes of each thing (left out where unsaid) and the background.
Told = tuple[list[dict[str, Any]], str | None]


def _place(position: str, at: bool) -> str:
    if at:
        return f"at the {position}"
    if " " in position:
        return f"in the {position} corner"
    preposition = {"top": "at", "bottom": "at", "centre": "in"}.get(position, "on")
    return f"{preposition} the {position}"


def _noun_phrase(told: dict[str, Any], style: Style) -> str:
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


def write(told: Told, style: Style) -> str:
    """The caption that tells ``told`` in ``style``."""
    things, ground = told
    phrases = [_noun_phrase(thing, style) for thing in things]
    listed = ", ".join(phrases[:-1]) + (" and " if phrases[1:] else "") + phrases[-1]
    frame = FRAMES[style.frame][ground is None]
    verb = "is" if things[0]["count"] == 1 else "are"
    return frame.format(things=listed, ground=ground, **{"is": verb})


def truth(scene: Scene) -> Told:
    """All that there is to say about ``scene``."""
    graph = scene.graph()
    return graph["objects"], graph["background"]


def styles(seed: int, root: int, number: int) -> list[Style]:
    """The phrasing of ``number`` captions of the scenes that stem from ``root``."""
    dice = Dice("words", seed, root)
    frames = dice.order(range(len(FRAMES)), [4, 3, 2, 2, 2, 1])[:number]
    return [
        Style(
            frame,
            sizes=dice.pick([0, 1, 2], [4, 2, 1]),
            texture=dice.pick(["said", "terse", "with"], [6, 1, 1]),
            colour_first=dice.uniform() < 0.3,
            at=dice.uniform() < 0.5,
        )
        for frame in frames
    ]


def _omit(told: Told, style: Style, dice: Dice) -> tuple[Told, dict[str, Any]]:
    things, ground = told
    at = dice.pick(range(len(things)))
    silent = things[at]["texture"] == "plain" and style.texture != "said"
    attribute = dice.pick([name for name in _OMITTED if not (silent and name == "texture")])
    note: dict[str, Any] = {"kind": "omit", "attribute": attribute, "said": None}
    if attribute == "background":
        return (things, None), {**note, "object": None, "true": ground}
    note = {**note, "object": at, "true": things[at].pop(attribute)}
    return told, note


def _misname(told: Told, style: Style, dice: Dice) -> tuple[Told, dict[str, Any]]:
    things, ground = told
    at = dice.pick(range(len(things)))
    attribute = dice.pick(_MISNAMED)
    true = ground if attribute == "background" else things[at][attribute]
    wrong = [value for value in VALUES[attribute] if value != true]
    if attribute == "texture" and style.texture != "said":
        # Unsaid plainness would leave the texture out rather than get it wrong.
        wrong = [value for value in wrong if value != "plain"]
    said = dice.pick(wrong)
    note = {"kind": "misname", "attribute": attribute, "said": said, "true": true, "object": at}
    if attribute == "background":
        return (things, str(said)), {**note, "object": None}
    things[at][attribute] = said
    return told, note


def _contradict(told: Told, dice: Dice) -> tuple[Told, dict[str, Any]]:
    things, _ = told
    at = dice.pick(range(len(things)))
    way = dice.pick(["count", "extra"] + ["swapped"] * (len(things) > 1))
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
        things.append(extra)
        return told, _contradiction("object", len(things) - 1, f"{colour} {shape}", None)
    other = dice.pick([place for place in range(len(things)) if place != at])
    first, second = things[at]["colour"], things[other]["colour"]
    things[at]["colour"], things[other]["colour"] = second, first
    return told, _contradiction("colour", at, second, first)


def _contradiction(attribute: str, at: int, said: Any, true: Any) -> dict[str, Any]:
    return {
        "kind": "contradict", "attribute": attribute, "said": said, "true": true, "object": at,
    }  # fmt: skip


def caption(
    scene: Scene, style: Style, noise: Noise, dice: Dice
) -> tuple[str, dict[str, Any] | None]:
    """A caption of ``scene``, and what is wrong with it: None, or a note with the keys ``kind``
    (omit, misname, contradict), ``attribute``, ``object`` (place in the caption; None for the
    background), ``said`` and ``true``."""
    told = truth(scene)
    note: dict[str, Any] | None = None
    draw = dice.uniform()
    if draw < noise.omit:
        told, note = _omit(told, style, dice)
    elif draw < noise.omit + noise.misname:
        told, note = _misname(told, style, dice)
    elif draw < noise.omit + noise.misname + noise.contradict:
        told, note = _contradict(told, dice)
    return write(told, style), note


def captions(
    drawn: Drawn, seed: int, number: int = 1, noise: Noise | None = None
) -> tuple[list[str], list[dict[str, Any] | None]]:
    """``number`` captions of a scene, each in a frame of its own, and the note on each."""
    texts, notes = [], []
    for at, style in enumerate(styles(seed, drawn.root, number)):
        dice = Dice("noise", seed, drawn.index, at)
        text, note = caption(drawn.scene, style, noise or Noise(), dice)
        texts.append(text)
        notes.append(note)
    return texts, notes


def parse(text: str) -> Told | None:
    """What a caption says, by vocabulary alone; None where it says nothing of this world.

    Each thing is a dictionary of the attributes that are said; ``count`` follows from the article.
    """
    things: list[dict[str, Any]] = []
    ground: str | None = None
    for part in words.read(text):
        if isinstance(part, str):
            continue
        if words.is_background(part):
            if ground is None:
                ground = part.says.get("colour")
        elif part.says and not set(part.says) <= {"position"}:
            things.append(part.described())
    return (things, ground) if things or ground else None


def parsed_scene(text: str) -> Scene | None:
    """The scene that a caption describes in full; None where it leaves something open.

    A texture that is not said is plain.
    """
    told = parse(text)
    spoken = {"shape", "colour", "size", "count", "position"}
    if told is None or told[1] is None or not all(spoken <= set(thing) for thing in told[0]):
        return None
    return Scene(tuple(Thing(**{"texture": "plain", **thing}) for thing in told[0]), told[1])
