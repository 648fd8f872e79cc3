"""Sentences for each kind of change. Orders can be joined by "and"; remarks stand alone.

Slots: removed and added are bare words, r and a the same with the determiner that suits them
("a dog", "in the snow"), the_r is definite ("the dog"), head is the noun they describe, heads its
plural, many the head in the number of ``added``, in_r and in_a are r and a with the preposition
before them, field is the name of a label. subject is who does it ("the man"), do and doing what
("walk", "walking"), do_r and do_a the two verbs, to_r and to_a the two places that a movement leads
to. DOING, GOAL, RESULT, WHERE and WRITTEN are replacements only.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What kind of change a sentence can speak of."""

    COLOUR_OF = "colour of something"
    COLOUR = "colour"
    QUALITY = "quality of something"
    MODIFIER = "part of a noun phrase"
    NUMBER = "number"
    QUANTITY = "quantity"
    ACTION = "action"
    DOING = "action of somebody"
    GOAL = "where a movement leads to or comes from"
    RESULT = "what something becomes"
    NOUN = "noun"
    WHERE = "noun of a place"
    PLACE = "prepositional phrase"
    NAME = "name"
    FOR = "whom or what it is for"
    LABEL = "label"
    ANSWER = "answer to a question"
    WRITTEN = "words that can be read in the picture"
    PLAIN = "words of one kind"
    QUOTED = "words of any kind"


_ACTION = (
    (
        "change the action from {removed} to {added}",
        "switch from {removed} to {added}",
        "replace {removed} with {added}",
    ),
    (
        "{added} instead of {removed}",
        "{added} rather than {removed}",
        "now {added}, no longer {removed}",
    ),
)

#: kind: (orders, remarks).
REPLACE: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Kind.COLOUR_OF: (
        (
            "make the {head} {added}",
            "make the {head} {added} instead of {removed}",
            "change the {head} from {removed} to {added}",
            "turn the {removed} {head} {added}",
        ),
        ("the {head} in {added} instead of {removed}", "the {head} in {added}, not {removed}"),
    ),
    Kind.COLOUR: (
        (
            "change the colour from {removed} to {added}",
            "make it {added} instead of {removed}",
            "use {added} in place of {removed}",
        ),
        ("in {added} rather than {removed}", "the same in {added}, not {removed}"),
    ),
    Kind.QUALITY: (
        (
            "make the {head} {added}",
            "make the {head} {added} rather than {removed}",
            "swap {the_r} for {a}",
            "show {a} instead of {r}",
        ),
        ("{a} instead of {r}", "{a}, not {r}"),
    ),
    Kind.MODIFIER: (
        ("swap {the_r} for {a}", "replace {the_r} with {a}", "show {a} instead of {r}"),
        ("{a} instead of {r}", "{a} rather than {r}", "{a}, not {r}"),
    ),
    Kind.NUMBER: (
        (
            "change the number of {heads} from {removed} to {added}",
            "make it {added} {many} instead of {removed}",
            "show {added} {many} rather than {removed}",
        ),
        ("{added} {many} instead of {removed}", "{added} {many}, not {removed}"),
    ),
    Kind.QUANTITY: (
        ("make it {added} {many} instead of {removed}", "show {added} {many}, not {removed}"),
        ("{added} {many} instead of {removed}", "{added} {many} rather than {removed}"),
    ),
    Kind.ACTION: _ACTION,
    Kind.DOING: (
        (
            *_ACTION[0],
            "make {subject} {do_a} instead of {removed}",
            "have {subject} {do_a}, not {do_r}",
        ),
        (*_ACTION[1], "{subject} {added}, not {removed}"),
    ),
    Kind.GOAL: (
        (
            "make {subject} {do} {to_a} instead of {r}",
            "have {subject} {do} {to_a}, not {to_r}",
            "make {subject} {do} {to_a}",
        ),
        ("{doing} {to_a} instead of {r}", "{subject} {doing} {to_a}, not {to_r}"),
    ),
    Kind.RESULT: (
        (
            "make {subject} {do} {added} instead of {removed}",
            "have {subject} {do} {added}, not {removed}",
            "make {subject} {do} {added}",
        ),
        (
            "{doing} {added} instead of {removed}",
            "{subject} {doing} {added} rather than {removed}",
        ),
    ),
    Kind.NOUN: (
        (
            "replace {the_r} with {a}",
            "swap {the_r} for {a}",
            "change {the_r} to {a}",
            "show {a} rather than {r}",
        ),
        ("{a} instead of {r}", "{a} in place of {r}", "{a}, not {r}"),
    ),
    Kind.WHERE: (
        (
            "change {the_r} to {a}",
            "make it {in_a} rather than {in_r}",
            "show it {in_a}, not {in_r}",
        ),
        (
            "{in_a} instead of {in_r}",
            "{in_a}, not {in_r}",
            "now {in_a}, no longer {in_r}",
            "{a} rather than {r}",
        ),
    ),
    Kind.PLACE: (
        ("make it {a} rather than {r}", "show it {a}, not {r}"),
        ("{a}, not {r}", "{a} rather than {r}", "now {a}, no longer {r}"),
    ),
    Kind.NAME: (
        (
            "change {removed} to {added}",
            "swap {removed} for {added}",
            "make it {added} rather than {removed}",
        ),
        (
            "{added} instead of {removed}",
            "{added} in place of {removed}",
            "the {added} version, not the {removed} one",
        ),
    ),
    Kind.FOR: (
        ("make it for {added} instead of {removed}", "change it to one for {added}"),
        (
            "for {added} rather than {removed}",
            "the same for {added}, not {removed}",
            "a version for {added} instead of {removed}",
        ),
    ),
    Kind.LABEL: (
        (
            "change the {field} from {removed} to {added}",
            "switch the {field} to {added}",
            "set the {field} to {added} instead of {removed}",
        ),
        (
            "{added} as the {field} instead of {removed}",
            "the same with {added} as the {field}, not {removed}",
        ),
    ),
    Kind.ANSWER: (
        (
            'change the answer to "{field}" from "{removed}" to "{added}"',
            'make "{added}" the answer to "{field}", not "{removed}"',
        ),
        (
            '"{added}" instead of "{removed}" as the answer to "{field}"',
            'when asked "{field}", the answer is now "{added}"',
        ),
    ),
    Kind.WRITTEN: (
        (
            'change the word "{removed}" to "{added}"',
            'make it say "{added}" instead of "{removed}"',
            'have it say "{added}", not "{removed}"',
        ),
        ('with the word "{added}" instead of "{removed}"',),
    ),
    Kind.PLAIN: (
        ("make it {added} rather than {removed}", "switch from {removed} to {added}"),
        (
            "{added} instead of {removed}",
            "{added} rather than {removed}",
            "now {added}, no longer {removed}",
        ),
    ),
    Kind.QUOTED: (
        (
            'change "{removed}" to "{added}"',
            'replace "{removed}" with "{added}"',
            'swap "{removed}" for "{added}"',
        ),
        ('"{added}" instead of "{removed}"', '"{added}" rather than "{removed}"'),
    ),
}

ADD: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Kind.COLOUR_OF: (("make the {head} {added}", "turn the {head} {added}"), ()),
    Kind.COLOUR: (("make it {added}", "change the colour to {added}"), ("the same in {added}",)),
    Kind.QUALITY: (
        ("make the {head} {added}", "show {a}"),
        ("this time {a}",),
    ),
    Kind.MODIFIER: (("make it {a}", "show {a}"), ("this time {a}",)),
    Kind.NUMBER: (
        ("make it {added} {many}", "show {added} {many}", "set the number of {heads} to {added}"),
        ("{added} {many} this time",),
    ),
    Kind.QUANTITY: (("make it {added} {many}", "show {added} {many}"), ("now {added} {many}",)),
    Kind.ACTION: (
        ("show it {added}", "change the action to {added}"),
        ("now {added}", "this time {added}"),
    ),
    Kind.NOUN: (
        ("add {a}", "include {a}", "put in {a}"),
        ("the same with {a}", "now with {a} as well"),
    ),
    Kind.PLACE: (("make it {a}", "show it {a}"), ("now {a}", "this time {a}")),
    Kind.NAME: (("make it {added}", "add {added}"), ("the {added} version",)),
    Kind.FOR: (("make it for {added}",), ("the same for {added}", "a version for {added}")),
    Kind.LABEL: (
        ("set the {field} to {added}", "make {added} the {field}"),
        ("the same with {added} as the {field}",),
    ),
    Kind.ANSWER: (('make "{added}" the answer to "{field}"',), ()),
    Kind.PLAIN: (("make it {added}",), ("now {added}", "this time {added}")),
    Kind.QUOTED: (('add "{added}"', 'include "{added}"'), ('now with "{added}"',)),
}

REMOVE: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Kind.COLOUR_OF: (
        ("make the {head} any colour but {removed}",),
        ("the {head}, but not in {removed}", "the {head} no longer {removed}"),
    ),
    Kind.COLOUR: (("make it any colour but {removed}",), ("the same, but not in {removed}",)),
    Kind.QUALITY: (
        ("make the {head} less {removed}",),
        ("the {head} no longer {removed}", "the {head}, but not {removed}"),
    ),
    Kind.MODIFIER: (
        ('drop "{removed}" from "{removed} {head}"',),
        ("not {r} any more", "no longer {r}"),
    ),
    Kind.NUMBER: (
        ("show any number of {heads} but {removed}",),
        ("no longer {removed} {many}", "not {removed} {many} any more"),
    ),
    Kind.QUANTITY: (
        ('drop "{removed}" from "{removed} {many}"',),
        ("no longer {removed} {many}", "not {removed} {many} any more"),
    ),
    Kind.ACTION: (("stop {removed}",), ("no longer {removed}", "not {removed} any more")),
    Kind.NOUN: (
        ("remove {the_r}", "take {the_r} away", "leave out {the_r}"),
        ("the same without {the_r}",),
    ),
    Kind.PLACE: (("have it no longer {r}",), ("no longer {r}", "this time not {r}")),
    Kind.NAME: (("drop {removed}",), ("no longer {removed}", "the same without {removed}")),
    Kind.FOR: (("make it not only for {removed}",), ("no longer only for {removed}",)),
    Kind.LABEL: (
        ("drop {removed} as the {field}",),
        ("no longer {removed} as the {field}", "the same without {removed} as the {field}"),
    ),
    Kind.ANSWER: (
        ('make the answer to "{field}" something other than "{removed}"',),
        ('no longer "{removed}" as the answer to "{field}"',),
    ),
    Kind.PLAIN: (
        ("make it no longer {removed}",),
        ("no longer {removed}", "this time not {removed}"),
    ),
    Kind.QUOTED: (('remove "{removed}"', 'drop "{removed}"'), ('the same without "{removed}"',)),
}
