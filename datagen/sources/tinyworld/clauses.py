"""Cuts modification texts into clauses: which phrases are the subject, what goes, what comes.

There are no templates. Wordings become cues, texts are cut at separators, and each phrase takes a
role from the cues around it: the *subject*, what is *removed* ("instead of red", "from red", "no
longer red") and what is *added* ("to blue", "with a ring").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from datagen.sources.tinyworld import words
from datagen.sources.tinyworld.words import Phrase, word_set

# Wordings that stand for one cue. Earlier lines win.
_DONE = "removed|deleted|replaced|swapped|changed|turned|converted|transformed|recolou?red|painted|"
_CUES = (
    # The passive: "the star is replaced with a ring".
    ("", rf"(?:is|are|was|were|has been|have been|should be|gets?)(?= (?:now )?"
         rf"(?:{_DONE}added|moved))"),
    ("to", r"xarrow"),
    ("xinstead", r"instead of|rather than|in (?:place|lieu) of|as opposed to|(?:and|but) not|"
                 r"no longer|isn't|aren't|not"),
    ("", r"instead|please|any ?more"),
    ("xenlarge", r"enlarges?|grows?|(?:increase|raise) the size of|expand"),
    ("xshrink", r"shrinks?|(?:reduce|decrease|lower) the size of"),
    ("xremove", r"removes?|removed|deletes?|deleted|drops?|erases?|eliminates?|get rid of|"
                r"take (?:away|out)|without|with no|no|loses?|disappears?|is gone"),
    ("xadd", r"adds?|added|inserts?|includes?|introduces?|"
             r"(?:there is|there are) (?:also|now)|also"),
    ("xsubstitute", r"substitutes?"),
    ("xswap", r"replaces?|replaced|swap out|swaps?|swapped|exchanges?|switch out|switch|trade"),
    ("xmake", r"changes?|changed|turns?|turned|makes?|converts?|converted|transforms?|"
              r"transformed|recolou?rs?|recolou?red|paints?|painted|modify|sets?|alters?|dyes?|gives?|fill|cover|decorate|use"),
    ("xmove", r"moves?|moved|shifts?|relocates?|places?|puts?|positions?|brings?"),
    ("xwas", r"was|were|used to be|previously|formerly"),
    ("xis", r"is|are|be|becomes?|should|now|has|have|having|must|will|features?|shows?|contains?"),
)  # fmt: skip
_CUE = re.compile(
    "|".join(rf"(?P<c{at}>\b(?:{wording})\b)" for at, (_, wording) in enumerate(_CUES))
)
_KEEP = word_set(
    "keep keeping unchanged remain remains same everything else rest leave stay stays maintain"
    " preserve otherwise"
)
_SEPARATORS = word_set(", . ; : and then but while except so")
_VERBS = word_set("xenlarge xshrink xremove xadd xsubstitute xswap xmake xmove")
_FIRST_ROLE = {"xremove": "removed", "xswap": "removed", "xadd": "added", "xsubstitute": "added"}

Part = Phrase | str


@dataclass
class Clause:
    """Phrases by role."""

    verb: str = ""
    subject: list[Phrase] = field(default_factory=list)
    removed: list[Phrase] = field(default_factory=list)
    added: list[Phrase] = field(default_factory=list)

    def phrases(self) -> list[Phrase]:
        """All phrases."""
        return [*self.subject, *self.removed, *self.added]


def cut(text: str, patterns_follow: bool = True) -> list[Part]:
    """``text`` as phrases and cues, in order."""
    text = re.sub(r"[-=]+>|→|⇒", " xarrow ", text.lower().replace("’", "'"))
    text = _CUE.sub(lambda match: f" {_CUES[int(str(match.lastgroup)[1:])][0]} ", text)
    return words.read(text, patterns_follow)


def _segments(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Runs between separators, without those that say what stays as it is."""
    now: list[Part] = []
    for part in [*parts, "."]:
        if not (isinstance(part, str) and part in _SEPARATORS):
            now.append(part)
            continue
        kept = [at for at, p in enumerate(now) if isinstance(p, str) and p in _KEEP]
        if kept:
            # "the same picture with a white background" still says something.
            rest = now[kept[-1] :]
            now = rest[rest.index("with") :] if now[kept[-1]] == "same" and "with" in rest else []
        if any(isinstance(p, Phrase) or p in _VERBS for p in now):
            yield now
        now = []


def _spoken(parts: Iterable[Part]) -> list[Phrase]:
    return [part for part in parts if isinstance(part, Phrase)]


def _verb(parts: Iterable[Part]) -> str:
    return next((part for part in parts if isinstance(part, str) and part in _VERBS), "")


def _continues(segment: list[Part], before: list[Part]) -> bool:
    """Whether ``segment`` belongs to the clause ``before`` it."""
    verb, earlier = _verb(segment), _verb(before)
    phrases = _spoken(segment)
    pending = before[0] in ("xinstead", "xwas") and len(_spoken(before)) == 1
    if verb:
        # "remove the star and replace it with a ring"
        orphan = verb == "xswap" and not any(phrase.says for phrase in phrases[:-1])
        return pending or (orphan and earlier == "xremove")
    if pending or segment[0] in ("xinstead", "xwas"):
        return True
    if all(not phrase.noun for phrase in phrases):
        # "and mint to gray" stands by itself, ", from mint to gray" does not.
        return "from" in segment or not (len(phrases) > 1 and "to" in segment)
    return earlier == "xswap" and not any(cue in before for cue in ("with", "by", "for"))


def _grouped(parts: list[Part]) -> list[list[Part]]:
    """The parts of each clause."""
    found: list[list[Part]] = []
    for segment in _segments(parts):
        before = found[-1] if found else None
        if before is None:
            found.append(segment)
            continue
        verb = _verb(before)
        phrases = _spoken(segment)
        if _continues(segment, before):
            if verb == "xremove" and _verb(segment) == "xswap":
                before[before.index("xremove")] = "xswap"
            before.extend(part for part in segment if part != "xswap")
        elif _verb(segment) or "xis" in segment or not verb:
            found.append(segment)
        elif verb in ("xmake", "xmove") and len(_spoken(before)) == 1 and len(phrases) > 1:
            # "make the star and the ring blue"
            before.extend(segment[segment.index(phrases[0]) + 1 :])
            found.append([verb, *segment])
        elif verb in ("xmake", "xmove") and len(phrases) == 1:
            found.append(segment)
        else:
            found.append([verb, *segment])
    return found


def _roles(parts: list[Part]) -> Clause:
    """Give every phrase of a clause its role."""
    clause = Clause(_verb(parts))
    role = first = _FIRST_ROLE.get(clause.verb, "subject" if clause.verb else "added")
    if clause.verb == "xremove":
        role = "subject"  # until the verb: "the squares without stripes"
    once = ""  # a role for the next phrase only
    for at, part in enumerate(parts):
        if isinstance(part, Phrase):
            getattr(clause, once or role).append(part)
            if role == "subject" and clause.verb != "xremove":
                role = "added"
            once = ""
        elif part in ("xinstead", "xwas"):
            once = "removed"
        elif part == clause.verb:
            role = first if clause.verb == "xremove" else role
        elif part == "xis" and not clause.verb:
            if not clause.subject:
                clause.subject, clause.added = clause.added, []
            role = "added"
        elif part == "from":
            once = "subject" if clause.verb == "xremove" else "removed"
        elif part in ("to", "into", "as", "with", "by", "for", "on", "in", "onto"):
            role = _after(part, parts[at + 1 :], clause, role)
    return clause


def _after(cue: str, rest: list[Part], clause: Clause, role: str) -> str:
    """The role of what follows a preposition."""
    coming = _spoken(rest)
    onto_thing = bool(coming) and coming[0].noun and not coming[0].ground
    if cue in ("on", "in", "onto") and clause.verb in ("xmake", "xswap") and not clause.added:
        # "change the stripes on the star to dots"
        return "subject" if onto_thing and "shape" in coming[0].says else "added"
    if cue in ("to", "into") and not clause.verb and not clause.subject and not clause.removed:
        clause.subject, clause.added = clause.added, []  # "red to blue"
    if clause.verb == "xadd":
        return "subject" if onto_thing and clause.added and cue != "with" else "added"
    if clause.verb == "xremove":
        return "subject" if cue in ("on", "in") else role
    if clause.verb == "xsubstitute" and cue == "for":
        return "removed"
    return "added"


def clauses(text: str) -> list[list[Clause]]:
    """The clauses of a modification text; one or two ways to cut it.

    A clause without phrases is one that adds, removes or replaces what is none of this world.
    """
    ways: list[list[Clause]] = []
    for patterns_follow in (True, False):
        found = [_roles(parts) for parts in _grouped(cut(text, patterns_follow))]
        found = [clause for clause in found if clause.phrases() or clause.verb in _FIRST_ROLE]
        if found not in ways:
            ways.append(found)
    return ways
