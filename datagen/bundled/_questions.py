"""What a small language model of the rendered world is asked, and what it should answer."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from datagen.bundled import _llama, _pairs, _requests, _scenes
from datagen.bundled._pairs import Pair
from datagen.chat import prompts
from datagen.chat.answers import TEXTS
from datagen.chat.prompts import Prompt, Wanted
from datagen.chat.subject import Change, Subject
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.scene import ATTRIBUTES, SHAPES, Dice

#: Raised when the same dice give other pairs or answers than before.
VERSION = 2
#: Prompts that are learned, and how often each is drawn.
PROMPTS = {"modification": 6, "covr": 2, "lasco": 2}
#: Changes that a question without captions tells, at most.
_MOST_CHANGES = 3
_NUMBERS = ([1, 2, 3, 4], [3, 6, 2, 1])
_WORDED = (
    "{a} instead of {r}", "{a} rather than {r}", "{a}, not {r}", "make it {a} instead of {r}",
    "change {r} to {a}", "replace {r} with {a}", "swap {r} for {a}", "show {a} instead of {r}",
    "make it {a}, not {r}", "change it from {r} to {a}", "change the background from {r} to {a}",
    "make the background {a}", "make the background {a} instead of {r}",
)  # fmt: skip
_VERBS = {
    form: gerund
    for gerund, forms in {
        "growing": "grow grows", "shrinking": "shrink shrinks", "spinning": "spin spins",
        "rotating": "rotate rotates", "moving": "move moves", "sliding": "slide slides",
        "vanishing": "vanish vanishes", "disappearing": "disappear disappears",
        "appearing": "appear appears", "emerging": "emerge emerges",
    }.items()
    for form in forms.split()
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A question as a prompt's user turn, and its answer as JSON; ``pair``: what it is about."""

    prompt: str
    asked: str
    answer: str
    pair: Pair


# ---------------------------------------------------------------- questions and answers


@functools.cache
def _prompt(name: str) -> Prompt:
    """A prompt without its system text and examples."""
    return prompts.load(name).model_copy(update={"system": "", "examples": ()})


def asked(name: str, subject: Subject, number: int) -> str:
    """The user turn of a prompt."""
    return str(_prompt(name).messages(subject, Wanted(number))[-1]["content"])


def known(made: Pair) -> tuple[Change, ...]:
    """What differs in a pair as evidence tells it: the one word, or what each value is."""
    left, right = made.reference.split(), made.target.split()
    differ = [(a, b) for a, b in zip(left, right, strict=False) if a != b]
    if len(left) == len(right) and len(differ) == 1:
        ((a, b),) = differ
        return (Change(field="caption", removed=a.strip(","), added=b.strip(",")),)
    if made.before is None or made.after is None:
        return (Change(field=made.target[:20], removed=made.reference, added=made.target),)
    return tuple(
        Change(field=one.attribute, removed=str(one.before), added=str(one.after))
        for one in oracle.difference(made.before, made.after)
        if one.attribute not in ("object", "event")
    )


def worded(changed: Sequence[Change], made: Pair, number: int, dice: Dice) -> list[str] | None:
    """Texts from words alone; None where the oracle calls none right."""
    if made.before is None or made.after is None:
        return []
    if made.before == made.after:
        return []
    found: list[str] = []
    for _ in range(16):
        parts = [
            dice.pick(_WORDED).format(r=_spoken(one.removed), a=_spoken(one.added))
            for one in changed
        ]
        text = " and ".join(parts)
        said = oracle.says(text, made.before, made.after)
        if said.right and said.complete and said.minimal and text not in found:
            found.append(text)
        if len(found) == number:
            break
    return found or None


def _spoken(value: str | None) -> str:
    """A value or word as it stands in a text."""
    value = value or ""
    if value.isdigit():
        return ("zero", "one", "two", "three", "four")[int(value) % 5]
    return _VERBS.get(value, value)


def example(dice: Dice) -> Example | None:
    """A question and its answer; None where there is no right one."""
    made = _pairs.pair(dice.pick(list(_pairs.KINDS), list(_pairs.KINDS.values())), dice)
    name = dice.pick(list(PROMPTS), list(PROMPTS.values()))
    number = dice.pick(*_NUMBERS)
    changed: tuple[Change, ...] = ()
    if name == "lasco":
        changed = known(made)
        if not 0 < len(changed) <= _MOST_CHANGES:
            return None
        texts = worded(changed, made, number, dice)
    else:
        texts = answers(made, number, dice, _prompt(name).max_words)
    if texts is None:
        return None
    question = asked(name, Subject(made.reference, made.target, changed), number)
    return Example(name, question, json.dumps({TEXTS: texts}), made)


def answers(made: Pair, number: int, dice: Dice, most_words: int) -> list[str] | None:
    """Right texts of a pair, as :func:`_requests.requests`."""
    if made.before is None or made.after is None:
        return []
    return _requests.requests(made.before, made.after, number, dice, most_words, made.come)


# ---------------------------------------------------------------- words

#: What stands around captions and values in questions.
PARTS = (
    'in hand: "', '"\nwanted: "', '"\nNumber of requests: ',
    'before: "', '"\nafter: "', '"\nNumber of instructions: ',
    'property: "', '", first: "', '", second: "', '"\nproperty: "', "property: ", ", first: ",
    ", second: ", "\nproperty: ", "\nNumber of instructions: ", "null",
)  # fmt: skip


#: What stands before, between and after two captions.
BOUNDS = frozenset(PARTS[:6])


def vocabulary() -> list[str]:
    """Every word of captions, of texts, and of fields that change; in alphabetical order."""
    said = [*_scenes.vocabulary(), *_requests.wordings(), *_WORDED, *_VERBS.values()]
    said += [_requests.plural(shape) for shape in SHAPES]
    said += [*ATTRIBUTES, "background caption one two three four"]
    texts = (re.sub(r"\{\w+\}", " ", text) for text in said)
    return sorted({word for text in texts for word in re.findall("[a-z]+", text)})


def parts() -> list[str]:
    """Parts of questions and answers that are one token each."""
    return [*PARTS, _llama.OPEN, _llama.NEXT, _llama.CLOSE, _llama.EMPTY]
