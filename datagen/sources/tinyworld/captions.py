"""Captions of scenes and clips from a seeded grammar, and how to read them back.

The phrasing belongs to the root of a chain of changes, so a scene and its neighbour are told in
the same words but one. Noise is written down beside the caption that has it.
"""

from __future__ import annotations

from typing import Any

from datagen.sources.tinyworld import motion, noise, words
from datagen.sources.tinyworld.events import Act, Clip, Shown, possible_clip
from datagen.sources.tinyworld.family import Drawn
from datagen.sources.tinyworld.grammar import FRAMES, THING_FRAMES, Style, Told, write
from datagen.sources.tinyworld.noise import Noise
from datagen.sources.tinyworld.scene import Dice, Scene, Thing
from datagen.sources.tinyworld.words import Phrase

__all__ = ["FRAMES", "Noise", "caption", "captions", "parse", "parsed", "parsed_scene", "styles"]


def styles(seed: int, root: int, number: int, clip: bool = False) -> list[Style]:
    """The phrasing of ``number`` captions of the scenes that stem from ``root``."""
    dice = Dice("words of clips" if clip else "words", seed, root)
    weights = [4, 3, 2, 1] if clip else [4, 3, 2, 2, 2, 1]
    frames = dice.order(range(len(THING_FRAMES if clip else FRAMES)), weights)[:number]
    return [
        Style(
            frame,
            sizes=dice.pick([0, 1, 2], [4, 2, 1]),
            texture=dice.pick(["said", "terse", "with"], [6, 1, 1]),
            colour_first=dice.uniform() < 0.3,
            at=dice.uniform() < 0.5,
            verbs=dice.pick(range(motion.COLUMNS), [2, 1]) if clip else 0,
            origin=dice.uniform() < 0.5 if clip else False,
        )
        for frame in frames
    ]


def caption(
    what: Shown, style: Style, shares: Noise, dice: Dice
) -> tuple[str, dict[str, Any] | None]:
    """A caption of an image or clip, and the note on what is wrong with it (see ``noise.told``)."""
    told, note = noise.told(what, style, shares, dice)
    return write(told, style), note


def captions(
    drawn: Drawn, seed: int, number: int = 1, shares: Noise | None = None
) -> tuple[list[str], list[dict[str, Any] | None]]:
    """``number`` captions of a scene, each in a frame of its own, and the note on each."""
    texts, notes = [], []
    for at, style in enumerate(styles(seed, drawn.root, number, drawn.clip is not None)):
        dice = Dice("noise", seed, drawn.index, at)
        text, note = caption(drawn.shown, style, shares or Noise(), dice)
        texts.append(text)
        notes.append(note)
    return texts, notes


class _Account:
    """Collects what a caption says, phrase by phrase."""

    def __init__(self) -> None:
        self.told = Told([], None)
        self.last: int | None = None  # the thing spoken of; -1: the background
        self.verb = ""  # the mark of a verb that waits for what follows it
        self.origin = False

    def word(self, text: str) -> None:
        if text in motion.MARKS:
            self.verb = text if self.last is not None else ""
            self.origin = False
            if self.verb in motion.WHOLE:
                self._happens(motion.WHOLE[self.verb])
        elif text == "from":
            self.origin = True
        elif text not in ("to", "into"):
            if self.verb == motion.MOVE:
                self._happens(Act("position"))
            self.verb, self.origin = "", False

    def phrase(self, phrase: Phrase) -> None:
        if self.verb and self._follows(phrase):
            return
        self.verb, self.origin = "", False
        if words.is_background(phrase):
            self.last = -1
            if self.told.ground is None:
                self.told.ground = phrase.says.get("colour")
        elif phrase.says and not set(phrase.says) <= {"position"}:
            self.told.things.append(phrase.described())
            self.last = len(self.told.things) - 1

    def _follows(self, phrase: Phrase) -> bool:
        """Take ``phrase`` as what belongs to the verb before it, if it does."""
        ground = self.last == -1
        if self.verb in motion.WHOLE and not ground and set(phrase.says) == {"position"}:
            self.told.things[self.last or 0].setdefault("position", phrase.says["position"])
            return True
        act = motion.completed(self.verb, phrase, ground)
        if act is None:
            return False
        if not self.origin:
            self._happens(act)
            self.verb = ""
        elif ground:
            self.told.ground = self.told.ground or act.to
        else:
            self.told.things[self.last or 0].setdefault(act.kind, act.to)
        self.origin = False
        return True

    def _happens(self, act: Act) -> None:
        if self.last == -1:
            self.told.ground_act = act
        else:
            self.told.things[self.last or 0]["event"] = act


def parse(text: str) -> Told | None:
    """What a caption says, by vocabulary alone; None where it says nothing of this world.

    Each thing is a dictionary of the attributes that are said; ``count`` follows from the article.
    """
    account = _Account()
    for part in [*words.read(motion.marked(text)), "."]:
        if isinstance(part, str):
            account.word(part)
        else:
            account.phrase(part)
    told = account.told
    return told if told.things or told.ground or told.ground_act else None


def parsed(text: str) -> Shown | None:
    """The scene or clip that a caption describes in full; None where it leaves something open.

    A texture that is not said is plain. The things stand in the order of the caption.
    """
    told = parse(text)
    spoken = {"shape", "colour", "size", "count", "position"}
    if told is None or told.ground is None or not all(spoken <= set(t) for t in told.things):
        return None
    acts = [thing.pop("event", None) for thing in told.things]
    scene = Scene(tuple(Thing(**{"texture": "plain", **t}) for t in told.things), told.ground)
    happening = [(at, act) for at, act in enumerate(acts) if act is not None]
    if told.ground_act is not None:
        happening.append((-1, told.ground_act))
    if not happening:
        return scene
    at, act = happening[0]
    clip = Clip(scene, None if at == -1 else at, act)
    return clip if len(happening) == 1 and possible_clip(clip) else None


def parsed_scene(text: str) -> Scene | None:
    """The scene that a caption of an image describes in full; else None."""
    found = parsed(text)
    return found if isinstance(found, Scene) else None
