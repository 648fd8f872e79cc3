"""Who does what in a caption: "a man in a red shirt walks to the car", "the sky turns orange".

Three kinds of changes concern what somebody does: another verb, another place where the movement
leads to or comes from, and another word for what something becomes. Their sentences name who does
it: "make the man walk to the house instead of the car".
"""

from __future__ import annotations

from datagen.texts import _caption as captions
from datagen.texts import _lexicon as lexicon
from datagen.texts._caption import Caption, Word
from datagen.texts._sentences import Kind
from datagen.texts._words import gerund, is_ing, verb_base

#: A run of words: caption, first word, word after the last.
Span = tuple[Caption, int, int]

#: Verbs that say what something becomes.
_BECOMING = frozenset(["turn", "become"])
#: Prepositions of where a movement leads, or comes from.
_GOALS = frozenset(["to", "into", "onto", "toward", "towards", "from"])
#: "next to", "close to" say where, not where to.
_NOT_GOALS = frozenset(["next", "close", "due"])
_RELATIVE = frozenset(["that", "which", "who"])
_COMPLEMENTS = frozenset(
    [Word.COLOUR, Word.QUALITY, Word.PREDICATE, Word.MODIFIER, Word.NUMBER, Word.ADVERB, Word.NOUN]
)
#: Words between a verb and the place that it leads to, at most.
_FARTHEST = 5


def subject_of(caption: Caption, verb: int) -> str:
    """Who does what the verb at ``verb`` says: "the man"; "it" where that cannot be told."""
    place = verb - 1
    relative = False
    while place >= 0 and caption.before(place + 1):
        word = caption.at(place)
        relative = relative or word in _RELATIVE
        if not (word in lexicon.AUXILIARIES | _RELATIVE or captions.is_adverb(word)):
            break
        place -= 1
    for _ in range(5):
        if not (
            place >= 0 and caption.before(place + 1) and captions.in_noun_phrase(caption, place)
        ):
            return "it"
        start = captions.phrase_start(caption, place)
        before = caption.before(start + 1)
        if before in captions.DETERMINERS:
            start -= 1
            before = caption.before(start + 1)
        noun = caption.at(place)
        # "a background that turns navy", but "a star on the left that turns blue".
        owned = relative and (noun not in lexicon.SIDES or noun == "background")
        # "a woman wearing a black shirt laughs": the woman.
        held = is_ing(before) and start > 0
        if owned or not (before in lexicon.PREPOSITIONS or held):
            worn = noun == "wearer" and caption.before(place) == "camera"
            name = captions.written(caption, place)
            # "C" is how some narrations call who wears the camera.
            return "it" if len(name) == 1 else f"the {'camera ' if worn else ''}{name}"
        place = start - 1
    return "it"


def of_verbs(left: Span, right: Span) -> dict[str, str] | None:
    """The slots of a change from one verb to another; None where it needs its object to be told,
    or nobody is known who does it."""
    caption, start, end = right
    after = caption.after(end)
    if after in lexicon.PARTICLES:
        after = caption.after(end + 1)
    closed = lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS | lexicon.PRONOUNS
    if caption.telegraphic or not (not after or after in closed or captions.is_adverb(after)):
        return None
    subject = subject_of(caption, start)
    bases = [_base(*span) for span in (left, right)]
    if subject == "it" or not all(bases):
        return None
    return {"subject": subject, "do_r": bases[0], "do_a": bases[1]}


def _base(caption: Caption, start: int, end: int) -> str:
    """ "picks" in "picks up": "pick up"; empty for what is no single known verb."""
    base = verb_base(caption.at(start)) if end - start == 1 else None
    if base is None:
        return ""
    after = caption.after(end)
    return f"{base} {after}" if after in lexicon.PARTICLES else base


def of_complements(left: Span, right: Span) -> tuple[Kind, dict[str, str]] | None:
    """The kind and slots of a change in what a verb leads to; None for any other change."""
    if left[0].title or right[0].telegraphic or left[0].telegraphic:
        return None
    return _becoming(left, right) or _goal(left, right)


def _becoming(left: Span, right: Span) -> tuple[Kind, dict[str, str]] | None:
    verbs = [verb_base(caption.before(start)) for caption, start, _ in (left, right)]
    if verbs[0] != verbs[1] or verbs[0] not in _BECOMING:
        return None
    for caption, start, end in (left, right):
        alone = not (caption.after(end) and captions.in_noun_phrase(caption, end))
        verbal = captions.is_verb(caption, start - 1)
        if not (alone and verbal and captions.kind_of(caption, start, end) in _COMPLEMENTS):
            return None
    return Kind.RESULT, _slots(right[0], right[1] - 1, "")


def _goal(left: Span, right: Span) -> tuple[Kind, dict[str, str]] | None:
    """ "walks to the car", "walks to the house"."""
    found = [_led(*span) for span in (left, right)]
    if found[0] is None or found[1] is None or found[0][0] != found[1][0]:
        return None
    preposition, _, _, r = found[0]
    _, at, verb, a = found[1]
    rest = " ".join(captions.written(right[0], place) for place in range(verb + 1, at))
    slots = _slots(right[0], verb, rest)
    return Kind.GOAL, {**slots, "r": r, "a": a, "to_r": f"{preposition} {r}",
                       "to_a": f"{preposition} {a}"}  # fmt: skip


def _led(caption: Caption, start: int, end: int) -> tuple[str, int, int, str] | None:
    """The preposition of a goal before a noun, its place, that of its verb, and the noun phrase."""
    if end - start > 1 and caption.at(start) in lexicon.ARTICLES | lexicon.POSSESSIVES:
        start += 1  # "to his left", "to the right"
    if not all(captions.in_noun_phrase(caption, place) for place in range(start, end)):
        return None
    at = captions.phrase_start(caption, start)
    if caption.before(at + 1) in captions.DETERMINERS:
        at -= 1
    if caption.before(at + 1) not in _GOALS or caption.before(at) in _NOT_GOALS:
        return None
    for verb in range(at - 1, max(at - 2 - _FARTHEST, -1), -1):
        if caption.stops[verb]:
            return None
        if captions.is_verb(caption, verb) and verb_base(caption.at(verb)):
            last = end
            while caption.after(last) and captions.in_noun_phrase(caption, last):
                last += 1
            words = [captions.written(caption, place) for place in range(at + 1, last)]
            return caption.at(at), at, verb, " ".join(words)
    return None


def _slots(caption: Caption, verb: int, rest: str) -> dict[str, str]:
    base = verb_base(caption.at(verb)) or caption.at(verb)
    return {
        "subject": subject_of(caption, verb),
        "do": f"{base} {rest}".strip(),
        "doing": f"{gerund(base)} {rest}".strip(),
    }
