"""The judge of rendered scenes, against the oracle asked about every item."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import schema
from datagen.audit.tinyworld import WorldJudge
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.answers import Collection
from datagen.sources.tinyworld.captions import captions
from datagen.sources.tinyworld.events import Clip
from datagen.sources.tinyworld.family import drawn

COUNT = 90
SCENES = [drawn(3, at, neighbours=0.7, max_objects=3, clips=0.3) for at in range(COUNT)]
SHOWN = [scene.shown for scene in SCENES]
EVERY = Collection(SHOWN)
TEXTS = [
    "make it blue",
    "make it red instead of blue",
    "have a green star instead",
    "three instead of one",
    "add a small ring",
    "add a red heart at the top",
    "remove the star",
    "with a white background",
    "make it dotted and put it on the left",
    "move it to the top right",
    "make it spin",
    "let it turn blue",
    "make it stop",
    "spin instead of grow",
    "make it gold",
    "buy some milk",
    "",
]


def item(at):
    labels = schema.canonical_json({**SHOWN[at].graph(), "index": at})
    texts, _ = captions(SCENES[at], 3)
    return {"id": f"item{at}", "captions": texts, "labels": labels}


ITEMS = [item(at) for at in range(COUNT)]
JUDGE = WorldJudge(ITEMS)


def member(at):
    found = {"id": f"item{at}", "key": "k", "source": "s", "media": None}
    return {**found, "caption": ITEMS[at]["captions"][0], "labels": ITEMS[at]["labels"]}


def row(reference, target, text=None, changes=()):
    return {
        "id": "row",
        "references": [member(reference)],
        "targets": [member(target)],
        "evidence": {"operator": "x", "reason": "y", "changes": list(changes), "score": None},
        "modification": text,
    }


@pytest.mark.parametrize("text", TEXTS)
def test_answers_are_those_of_the_oracle_asked_about_every_item(text):
    for reference in range(0, COUNT, 9):
        brute = [
            at
            for at, target in enumerate(SHOWN)
            if oracle.says(text, SHOWN[reference], target).right
        ]
        assert EVERY.answers(text, SHOWN[reference]) == brute


@settings(max_examples=20, deadline=None)
@given(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1), st.sampled_from(TEXTS))
def test_the_best_answer_is_the_nearest_of_all_items(reference, target, text):
    ask = SHOWN[reference]

    def apart(what):
        found = oracle.outcomes(text, ask, isinstance(what, Clip))
        return min((oracle.distance(one, what) for one in found), default=None)

    own = apart(SHOWN[target])
    assert EVERY.distance(text, ask, SHOWN[target]) == own
    found = JUDGE.best(row(reference, target, text))
    if own is None:
        assert found is None
        return
    others = [apart(what) for at, what in enumerate(SHOWN) if at != reference]
    nearest = min(one for one in others if one is not None) if reference != target else None
    if reference == target:
        nearest = min([own, *(one for one in others if one is not None)])
    assert found is (own == 0 or own <= nearest)


def test_nothing_is_nearer_than_what_the_text_leads_to():
    for reference, target in itertools.product(range(0, COUNT, 17), range(0, COUNT, 2)):
        for text in TEXTS[:12:3]:
            right = oracle.says(text, SHOWN[reference], SHOWN[target]).right
            distance = EVERY.distance(text, SHOWN[reference], SHOWN[target])
            assert right == (distance == 0)


def test_a_triplet_is_judged_by_the_oracle():
    for reference, target in itertools.product(range(0, COUNT, 10), range(0, COUNT, 9)):
        for text in ("make it blue", "with a white background", "buy some milk"):
            said = oracle.says(text, SHOWN[reference], SHOWN[target])
            found = JUDGE.triplet(row(reference, target, text))
            assert (found.right, found.complete, found.minimal, found.ambiguous) == (
                *(said.right, said.complete, said.minimal, said.ambiguous),
            )


def neighbours():
    """(reference, target) that differ in one attribute told by one word, and the words."""
    for target, scene in enumerate(SCENES):
        if scene.base is None or scene.base >= COUNT or scene.base == target:
            continue
        words = [ITEMS[at]["captions"][0].split() for at in (scene.base, target)]
        if len(words[0]) == len(words[1]):
            differ = [(a, b) for a, b in zip(*words, strict=True) if a != b]
            if len(differ) == 1:
                yield scene.base, target, differ[0]


def test_answers_to_texts_that_are_true_hold_the_target_and_all_like_it():
    several = 0
    for reference, target, (removed, added) in neighbours():
        text = f"{added} instead of {removed}"
        brute = [
            at for at, what in enumerate(SHOWN) if oracle.says(text, SHOWN[reference], what).right
        ]
        found = JUDGE.answers(row(reference, target, text))
        assert found == [f"item{at}" for at in brute]
        assert target in brute
        several += len(brute) > 1
    assert several


def test_a_pair_that_names_its_change_is_right_and_one_that_names_another_is_not():
    found = list(neighbours())
    assert len(found) > 10
    for reference, target, (removed, added) in found:
        change = {"field": None, "removed": removed, "added": added}
        assert JUDGE.pair(row(reference, target, changes=[change])).right, (removed, added)
        swapped = {"field": None, "removed": added, "added": removed}
        assert not JUDGE.pair(row(reference, target, changes=[swapped])).right


def test_ready_made_texts_of_a_pair_are_judged_as_they_stand():
    reference, target, (removed, added) = next(iter(neighbours()))
    for text, right in ((f"{added} instead of {removed}", True), ("make it gold", False)):
        change = {"field": "text", "removed": None, "added": text}
        assert JUDGE.pair(row(reference, target, changes=[change])).right is right


def test_several_targets_must_all_be_right():
    reference, target, (removed, added) = next(iter(neighbours()))
    text = f"{added} instead of {removed}"
    both = row(reference, target, text)
    assert JUDGE.triplet(both).right
    both["targets"] = [member(target), member(reference)]
    assert not JUDGE.triplet(both).right
    both["references"] = [member(target), member(reference)]
    assert JUDGE.triplet(both).right is None


def test_an_item_whose_caption_is_wrong_is_not_right():
    assert all(JUDGE.item(one).right for one in ITEMS)
    wrong = {**ITEMS[0], "captions": ["four gold rings on a black background"]}
    assert JUDGE.item(wrong).right is False
    assert JUDGE.item({**ITEMS[0], "captions": []}).right is None


@pytest.mark.parametrize(
    "labels",
    [
        None,
        "not json",
        "[]",
        "{}",
        '{"objects": 3, "background": "white"}',
        '{"objects": [{"shape": ["star"], "colour": "red"}], "background": "white"}',
        '{"objects": [{"shape": "star", "colour": "plaid"}], "background": "white"}',
        '{"objects": [], "background": {}}',
        '{"objects": [], "background": "white", "event": {"kind": "vanish", "thing": 7, "to": 1}}',
    ],
)
def test_labels_of_another_world_are_not_known(labels):
    judge = WorldJudge([{"id": "a", "captions": [], "labels": labels}, ITEMS[1]])
    assert judge.known == 1
    strange = row(1, 2, "make it blue")
    strange["targets"] = [{**member(2), "id": "a", "labels": labels}]
    assert judge.triplet(strange).right is None
    assert judge.answers(strange) is None
