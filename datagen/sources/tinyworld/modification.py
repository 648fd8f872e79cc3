"""From modification texts to edits of a reference scene.

A text may have several readings for a given scene (which thing is meant by "make it blue"?); all
of them are returned, and the oracle picks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datagen.sources.tinyworld import words
from datagen.sources.tinyworld.clauses import Clause, clauses
from datagen.sources.tinyworld.scene import CENTRES, SIZES, Scene, Thing
from datagen.sources.tinyworld.words import Phrase

#: Longer texts than this are no modification texts (characters).
LONGEST = 400
_MOST_READINGS = 400


@dataclass(frozen=True)
class Edit:
    """One change that a text states, in terms of the reference.

    kind: "set" (``attribute`` of thing ``at`` becomes ``value``), "remove" (thing ``at``), "add"
    (``value``: pairs of what is said about the new thing) or "background" (becomes ``value``).
    """

    kind: str
    at: int = -1
    attribute: str = ""
    value: Any = None


@dataclass(frozen=True)
class Reading:
    """One way to understand a text: its edits, and what it tells as new that is so already."""

    edits: tuple[Edit, ...] = ()
    idle: tuple[str, ...] = ()


def _merged(phrases: Iterable[Phrase]) -> dict[str, Any] | None:
    """All that ``phrases`` say; None where they say two things about one attribute."""
    says: dict[str, Any] = {}
    for phrase in phrases:
        for name, value in phrase.says.items():
            if says.setdefault(name, value) != value:
                return None
    return says


def _matches(thing: Thing, says: dict[str, Any], but: str = "") -> bool:
    return all(getattr(thing, name) == value for name, value in says.items() if name != but)


def _split(clause: Clause) -> tuple[Clause, Clause]:
    """The part of ``clause`` about things, and the part about the background."""
    things, ground = Clause(clause.verb), Clause(clause.verb)
    nouns = [p for p in clause.phrases() if "shape" in p.says]
    spoken_ground = any(p.ground for p in clause.phrases())
    of_subject = any(p.noun and not p.ground for p in clause.subject)
    for role in ("subject", "removed", "added"):
        for phrase in getattr(clause, role):
            own = words.is_background(phrase) and not of_subject
            bare = set(phrase.says) == {"colour"}
            about_ground = phrase.ground or own or (bare and spoken_ground and not nouns)
            getattr(ground if about_ground else things, role).append(phrase)
    return things, ground


def _background(clause: Clause, scene: Scene) -> list[Reading]:
    clause = _arranged(clause)
    before = _merged([*clause.subject, *clause.removed])
    after = _merged(clause.added)
    if before is None or after is None:
        return []
    if set(before) | set(after) != {"colour"} or "colour" not in after:
        return []
    if before.get("colour", scene.background) != scene.background:
        return []
    if after["colour"] == scene.background:
        return [Reading(idle=(f"the background is {scene.background} already",))]
    return [Reading((Edit("background", value=after["colour"]),))]


def _adding(clause: Clause, scene: Scene) -> list[Reading]:
    says = _merged(clause.added)
    place = _merged([*clause.subject, *clause.removed])
    if not says or place is None:
        return []
    readings = []
    if set(says) == {"texture"}:
        return [
            Reading((Edit("set", at, "texture", says["texture"]),))
            for at, thing in enumerate(scene.objects)
            if _matches(thing, place) and thing.texture != says["texture"]
        ]
    more = any(phrase.more for phrase in clause.added)
    for at, thing in enumerate(scene.objects):
        if "shape" in says and _matches(thing, says, but="count"):
            readings.append(
                Reading((Edit("set", at, "count", thing.count + says.get("count", 1)),))
            )
    if "shape" in says and not (more and readings):
        told = clause.added[0].described() if len(clause.added) == 1 else says
        readings.append(Reading((Edit("add", value=tuple(sorted(told.items()))),)))
    return readings


def _removing(clause: Clause, scene: Scene) -> list[Reading]:
    named = clause.removed or clause.subject
    part: int | None = None
    if len(clause.removed) > 1 and clause.removed[0].only("count"):
        # "one of the three stars"
        part, named = clause.removed[0].says["count"], clause.removed[1:]
    says = _merged([*clause.subject, *named])
    gone = _merged(named)
    if says is None or not gone:
        return []
    readings = []
    pattern = set(gone) == {"texture"} and not any(p.noun for p in named)
    for at, thing in enumerate(scene.objects):
        if not _matches(thing, says, but="" if pattern or part else "count"):
            continue
        if pattern:
            readings.append(Reading((Edit("set", at, "texture", "plain"),)))
            continue
        single = any(p.article == "a" and not p.plural for p in named)
        taken = part or says.get("count", 1 if single and thing.count > 1 else thing.count)
        if taken < thing.count:
            readings.append(Reading((Edit("set", at, "count", thing.count - taken),)))
        elif taken == thing.count:
            readings.append(Reading((Edit("remove", at),)))
    return readings


def _arranged(clause: Clause) -> Clause:
    """Settle what is added where the clause leaves it to its verb."""
    if clause.verb in ("xenlarge", "xshrink"):
        size = {"xenlarge": "large", "xshrink": "small"}[clause.verb]
        clause.added.append(Phrase({"size": size}))
    if clause.added or not clause.subject:
        return clause
    last = clause.subject[-1]
    if "position" in last.says and last.noun and (clause.verb == "xmove" or clause.removed):
        # "put the star on the left", "show it at the top instead of the bottom"
        clause.added = [Phrase({"position": last.says["position"]})]
        rest = {name: value for name, value in last.says.items() if name != "position"}
        clause.subject = [*clause.subject[:-1], Phrase(rest, noun=True)]
    elif clause.removed and not last.noun:
        # "make the scene white instead of gray"
        clause.subject, clause.added = [], clause.subject
    elif not clause.removed:
        clause.subject, clause.added = [], clause.subject
    return clause


def _taken_away(clause: Clause) -> list[Phrase]:
    """What comes where only what goes is told: "no longer striped", "not small"."""
    gone = _merged(clause.removed) or {}
    if set(gone) == {"texture"} and gone["texture"] != "plain":
        return [Phrase({"texture": "plain"})]
    if set(gone) == {"size"} and gone["size"] in SIZES:
        return [Phrase({"size": next(size for size in SIZES if size != gone["size"])})]
    return []


def _setting(clause: Clause, scene: Scene) -> list[Reading]:
    clause = _arranged(clause)
    selector = _merged([*clause.subject, *clause.removed])
    added = clause.added or _taken_away(clause)
    new = _merged(added)
    if selector is None or not new:
        return []
    first = added[0]
    single = first.article == "a" and "shape" in first.says and not first.plural
    if single and not any(p.article == "a" for p in [*clause.subject, *clause.removed]):
        new.setdefault("count", 1)
    more = any(phrase.more for phrase in added)
    readings = []
    for at, thing in enumerate(scene.objects):
        corner = _other_corner(thing, selector, new)
        if corner and _matches(thing, selector, but="position"):
            readings.append(Reading((Edit("set", at, "position", corner),)))
        if not _matches(thing, selector):
            continue
        if more and _matches(thing, new, but="count"):
            readings.append(Reading((Edit("set", at, "count", thing.count + new.get("count", 1)),)))
            continue
        edits, idle = [], []
        for name, value in new.items():
            if getattr(thing, name) != value:
                edits.append(Edit("set", at, name, value))
            elif not _identifies(name, thing, selector, added):
                idle.append(f"the {thing.colour} {thing.shape} has {name} {value} already")
        if edits or idle:
            readings.append(Reading(tuple(edits), tuple(idle)))
    return readings


def _other_corner(thing: Thing, gone: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Where "right instead of left" leads from a corner: it keeps the height."""
    sides = thing.position.split()
    before, after = gone.get("position"), new.get("position")
    if set(new) != {"position"} or len(sides) < 2 or before not in sides:
        return None
    corner = thing.position.replace(before, str(after))
    return corner if corner in CENTRES and corner != thing.position else None


def _identifies(name: str, thing: Thing, selector: dict[str, Any], added: Iterable[Phrase]) -> bool:
    """Whether an unchanged attribute only tells which thing is meant."""
    told = [phrase for phrase in added if name in phrase.says]
    implied = name == "count" and not told
    return implied or name in selector or any(p.says.get("shape") == thing.shape for p in told)


def _readings(clause: Clause, scene: Scene) -> list[Reading]:
    """All readings of one clause for ``scene``; none where it does not apply."""
    things, ground = _split(clause)
    options: list[list[Reading]] = []
    if ground.phrases():
        options.append(_background(ground, scene))
    if things.phrases():
        if things.verb == "xadd":
            options.append(_adding(things, scene))
        elif _takes_away(things):
            options.append(_removing(things, scene))
        else:
            readings = _setting(things, scene)
            if not things.verb and any(phrase.more for phrase in things.added):
                readings += _adding(things, scene)
            if things.verb == "xmove" and not readings:
                readings = _adding(Clause("xadd", added=things.phrases()), scene)
            options.append(readings)
    return _joined(options)


def _takes_away(clause: Clause) -> bool:
    """Whether the clause only tells what goes: "remove the star", "without a ring"."""
    return clause.verb == "xremove" and not clause.added


def _joined(options: list[list[Reading]]) -> list[Reading]:
    joined: list[Reading] = []
    for chosen in itertools.islice(itertools.product(*options), _MOST_READINGS):
        edits = tuple(dict.fromkeys(edit for reading in chosen for edit in reading.edits))
        joined.append(Reading(edits, tuple(note for reading in chosen for note in reading.idle)))
    return joined


def readings(text: str, scene: Scene) -> tuple[list[Reading], str]:
    """All readings of ``text`` as a modification of ``scene``.

    Where there is none, the second value says why: "not understood", or "does not apply to the
    reference" (the text speaks of a thing or a value that the reference does not have).
    """
    if len(text) > LONGEST:
        return [], "not understood"
    found: list[Reading] = []
    understood = False
    for way in clauses(text):
        spoken = [phrase for clause in way for phrase in clause.phrases()]
        strange = any(phrase.relational or phrase.foreign for phrase in spoken)
        strange = strange or not all(clause.phrases() for clause in way)
        if any(phrase.says for phrase in spoken) and not strange:
            understood = True
            found += _joined([_readings(clause, scene) for clause in way])
    if not understood:
        return [], "not understood"
    return list(dict.fromkeys(found)), "" if found else "does not apply to the reference"
