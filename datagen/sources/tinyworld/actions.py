"""From modification texts to edits of what happens: "make the star spin instead of grow".

A text is either about what is there (then ``modification`` reads it) or about what happens. The
second kind is known by a verb of motion that has no object: "turn the star blue" is about what is
there, "make the star turn blue" is about what happens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from datagen.sources.tinyworld import clauses, motion, words
from datagen.sources.tinyworld.events import CHANGING, Act, Shown, acts_of, scene_of
from datagen.sources.tinyworld.modification import LONGEST, Edit, Reading, readings
from datagen.sources.tinyworld.scene import Scene
from datagen.sources.tinyworld.words import Phrase

_REPLACES = frozenset(["xswap", "xsubstitute"])
_NEGATES = frozenset(["xinstead", "xremove", "xstop"])
_STOPS = re.compile(r"\b(?:stops?|stopped|quits?|ceases?|halts?)\b")
#: The words of "change the action from growing to spinning".
_TALK = re.compile(r"\b(?:the )?(?:action|motion|movement|event)\b")


@dataclass
class _Doing:
    """What somebody does, as a text tells it: the marks of verbs and the acts that they give."""

    mark: str = ""
    act: Act | None = None
    origin: Act | None = None


@dataclass
class _Statement:
    """One text: who, what they do afterwards, and what they did before."""

    subject: Phrase | None = None
    former: Phrase | None = None
    added: list[_Doing] = field(default_factory=list)
    removed: list[_Doing] = field(default_factory=list)


def _parts(text: str) -> list[Phrase | str]:
    text = _TALK.sub(" ", _STOPS.sub(" xstop ", motion.marked(text.replace("’", "'"))))
    return clauses.cut(text)


def _stated(text: str) -> _Statement | None:
    """What a text says of doings; None where it is not about those, or not understood."""
    reader = _Reader()
    for part in _parts(text):
        if not reader.take(part):
            return None
    found = reader.found
    if reader.stopped and not (found.added or found.removed):
        found.subject = found.subject or found.former
        found.former = None
        found.added.append(_Doing(motion.STAY))
    if not (found.added or found.removed):
        return None
    for doing in [*found.added, *found.removed]:
        if doing.act is None and doing.origin is None and doing.mark == motion.TURN:
            return None
    return found


class _Reader:
    """Gives each verb and each phrase its role, word by word."""

    def __init__(self) -> None:
        self.found = _Statement()
        self.gone = False  # whether what follows is what was done before
        self.once = False  # and only until the next verb or comma
        self.origin = False
        self.doing: _Doing | None = None
        self.swapping = False
        self.stopped = False
        self.becoming = False  # whether "to" followed a verb, as in "change growing to spinning"

    def take(self, part: Phrase | str) -> bool:
        """Read on; False where the text is none about doings."""
        if isinstance(part, Phrase):
            return self._phrase(part)
        if part in motion.MARKS:
            self._verb(part)
        elif part in _NEGATES:
            self.gone = self.once = True
            self.stopped = self.stopped or part == "xstop"
        elif part in _REPLACES:
            self.swapping = self.gone = True
        elif part == "from":
            self.origin = True
        elif part in ("to", "into", "with", "for", "by"):
            self._towards(part)
        elif part in (",", "but", "and", "then", ".") and self.once:
            self.gone = self.once = False
            self.doing = None
        return True

    def _towards(self, word: str) -> None:
        moving = self.doing is not None and self.doing.mark in (motion.MOVE, motion.TURN)
        if self.swapping or (self.gone and not moving) or (self.gone and self.found.removed
                                                           and not self.once):  # fmt: skip
            self.gone = self.once = False
        self.origin = False
        added = self.found.added
        self.becoming = (
            word in ("to", "into") and bool(added) and self.doing is added[-1]
            and added[-1].mark in motion.WHOLE
        )  # fmt: skip

    def _verb(self, mark: str) -> None:
        if self.becoming:
            self.found.removed.append(self.found.added.pop())
            self.becoming = False
        if self.origin:
            self.gone, self.origin = True, False
        self.doing = _Doing(mark, motion.WHOLE.get(mark))
        if mark == motion.MOVE:
            self.doing.act = Act("position")
        (self.found.removed if self.gone else self.found.added).append(self.doing)

    def _phrase(self, phrase: Phrase) -> bool:
        own = self.found.subject
        ground = own is not None and words.is_background(own)
        if self.doing is not None and self._grouped(phrase):
            self._completed(Act("count", phrase.says["count"]))
            return True
        if self.doing is not None and not (phrase.noun and phrase.says.get("shape")):
            act = motion.completed(self.doing.mark, phrase, ground)
            if act is not None:
                self._completed(act)
                return True
        if phrase.foreign or phrase.relational:
            return False
        if self.gone and own is not None and phrase.noun:
            self.found.former = phrase
            return True
        if self.doing is not None and (phrase.noun or self.doing.mark == motion.TURN):
            # "turn the star blue": a verb with an object.
            return False
        if own is not None and phrase.noun:
            return False
        if phrase.noun or phrase.says:
            self.found.subject = phrase
        return True

    def _grouped(self, phrase: Phrase) -> bool:
        """Whether ``phrase`` is the "three stars" that a star becomes."""
        own = self.found.subject
        shape = own.says.get("shape") if own is not None else None
        turning = self.doing is not None and self.doing.mark == motion.TURN
        same = shape in (None, phrase.says.get("shape"))
        return turning and set(phrase.says) == {"count", "shape"} and not phrase.article and same

    def _completed(self, act: Act) -> None:
        assert self.doing is not None
        if self.origin and self.gone:
            self.found.removed.append(_Doing(self.doing.mark, None, act))
            self.origin = False
        elif self.origin:
            self.doing.origin, self.origin = act, False
        elif self.gone and self.doing not in self.found.removed:
            # "move to the top instead of the right"
            side = self.found.added
            started = side[-1].origin if side and side[-1].act in (None, Act("position")) else None
            gone = _Doing(self.doing.mark, None if started else act, act if started else None)
            self.found.removed.append(gone)
        else:
            self.doing.act = act


def _matches(what: Shown, at: int, says: dict[str, Any]) -> bool:
    thing = scene_of(what).objects[at]
    return all(getattr(thing, name) == value for name, value in says.items())


def _who(phrase: Phrase | None, what: Shown) -> list[int]:
    """Who may be meant: places of things, -1 for the background."""
    acts, ground_act = acts_of(what)
    places = range(len(acts))
    busy = [at for at in places if acts[at] is not None] + [-1] * (ground_act is not None)
    if phrase is None or not (phrase.says or phrase.ground):
        return busy or [*places, -1]
    if words.is_background(phrase):
        said = phrase.says.get("colour", scene_of(what).background)
        return [-1] if said == scene_of(what).background else []
    return [at for at in places if _matches(what, at, phrase.says)]


def _did(doing: _Doing, act: Act | None, before: Any) -> bool:
    """Whether ``doing`` tells what happened."""
    if act is None or (doing.origin is not None and doing.origin.to != before):
        return False
    return doing.act is None or motion.holds(_of(doing.act, act), act)


def _of(told: Act, near: Act) -> Act:
    """``told`` as an act of the background where that is meant."""
    if told.kind == "colour" and near.kind == "background":
        return Act("background", told.to)
    return told


def _before(what: Shown, at: int, act: Act | None) -> Any:
    if act is None or act.kind in ("spin", "vanish", "appear"):
        return None
    scene = scene_of(what)
    return scene.background if at < 0 else getattr(scene.objects[at], act.kind)


def _for(who: int, told: _Statement, what: Shown) -> Reading | None:
    acts, ground_act = acts_of(what)
    old = ground_act if who < 0 else acts[who]
    if told.former is not None:
        formers = _who(told.former, what)
        if not any((ground_act if at < 0 else acts[at]) is not None for at in formers):
            return None
    elif not all(_did(doing, old, _before(what, who, old)) for doing in told.removed
                 if doing.mark != motion.STAY):  # fmt: skip
        return None
    edits: list[Edit] = []
    idle: list[str] = []
    if len({doing.act for doing in told.added if doing.act is not None}) > 1:
        return None  # a clip has one event
    for doing in told.added:
        if doing.mark == motion.STAY:
            edits.append(Edit("act", who, value=None))
            continue
        if doing.origin is not None:
            kind = doing.origin.kind if who >= 0 else "background"
            edits.append(_start(who, kind, doing.origin.to))
        act = doing.act
        if act is not None and who < 0:
            act = Act("background", act.to) if act.kind == "colour" else act
            if act.kind != "background":
                return None
        open_move = act == Act("position") and old is not None and old.kind == "position"
        if act is None or (open_move and doing.origin is not None):
            continue
        if motion.holds(act, old):
            idle.append("it does so already")
        else:
            edits.append(Edit("act", who, value=act))
    if not told.added:
        edits.append(Edit("act", who, value=None))
    return Reading(tuple(edits), tuple(idle)) if edits or idle else None


def _start(who: int, kind: str, value: Any) -> Edit:
    if kind == "background":
        return Edit("background", value=value)
    return Edit("set", who, kind, value)


def _about_doings(text: str, what: Shown) -> tuple[list[Reading], bool]:
    """Readings of a text as one about what happens, and whether it is one."""
    told = _stated(text)
    if told is None:
        return [], False
    found = [_for(who, told, what) for who in _who(told.subject, what)]
    return [reading for reading in found if reading is not None], True


def _ended(what: Shown, at: int, act: Act) -> Scene:
    """What an event leads to, with nothing beside the thing that it is about."""
    scene = scene_of(what)
    if at < 0:
        return replace(scene, background=act.to)
    return replace(scene, objects=(replace(scene.objects[at], **{act.kind: act.to}),))


def _swapped_values(text: str, what: Shown, known: list[Reading]) -> list[Reading]:
    """Readings of "blue instead of green" or "change the right to the top" about where an event
    leads, for a text without its verb. known: readings about what is there."""
    acts, ground_act = acts_of(what)
    found = []
    for at, act in [*enumerate(acts), (-1, ground_act)]:
        if act is None or act.to is None:
            continue
        for reading in readings(text, _ended(what, at, act))[0]:
            if len(reading.edits) != 1 or reading.idle:
                continue
            edit = reading.edits[0]
            if at < 0 and edit.kind == "background":
                found.append(Edit("act", -1, value=Act("background", edit.value)))
            # "dotted instead of green": of another kind only where the text names the old value.
            same = edit.attribute == act.kind or not known
            if at >= 0 and edit.kind == "set" and edit.attribute in CHANGING and same:
                found.append(Edit("act", at, value=Act(edit.attribute, edit.value)))
    return [Reading((edit,)) for edit in found]


def clip_readings(text: str, what: Shown) -> tuple[list[Reading], str]:
    """All readings of ``text`` as a modification of a clip, or of an image that becomes one.

    Where there is none, the second value says why, as in :func:`modification.readings`.
    """
    if len(text) > LONGEST:
        return [], "not understood"
    found, known = _about_doings(text, what)
    if known:
        return found, "" if found else "does not apply to the reference"
    found, why = readings(text, scene_of(what))
    found = [*found, *_swapped_values(text, what, found)]
    halves = text.split(" and ")
    if len(halves) == 2:
        one, two = (clip_readings(half, what)[0] for half in halves)
        found += [Reading(a.edits + b.edits, a.idle + b.idle) for a in one for b in two]
    return list(dict.fromkeys(found)), "" if found else why
