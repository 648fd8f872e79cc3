"""The oracle on clips: differences, and texts about what happens that are right or wrong."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.sources.tinyworld.captions import captions
from datagen.sources.tinyworld.events import Act, Clip, clips_of, possible_clip, scene_of
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.noise import Noise
from datagen.sources.tinyworld.oracle import Change, difference, fits, says
from datagen.sources.tinyworld.scene import Scene, Thing

STAR = Thing("star", "red", "small", "plain", 1, "left")
RINGS = Thing("ring", "blue", "small", "striped", 2, "bottom right")
STILL = Scene((STAR, RINGS), "gray")


def doing(at, kind, to=None, scene=STILL):
    return Clip(scene, at, Act(kind, to))


def starring(**changed):
    return Scene((replace(STAR, **changed), RINGS), "gray")


UP = doing(0, "position", "top")
UP_LEFT = doing(0, "position", "top left")
GROWS = doing(0, "size", "large")
SPINS = doing(0, "spin")
GREEN = doing(0, "colour", "green")
PINK = doing(0, "colour", "pink")
DOTTED = doing(0, "texture", "dotted")
THREE = doing(0, "count", 3)
GONE = doing(0, "vanish")
COMES = doing(0, "appear")
RINGS_GONE = doing(1, "vanish")
NAVY = doing(None, "background", "navy")
WHITE = doing(None, "background", "white")
GREEN_SPINS = doing(0, "spin", scene=starring(colour="green"))
HEART_SPINS = doing(0, "spin", scene=starring(shape="heart"))
FROM_TOP_LEFT = doing(0, "position", "top", scene=starring(position="top left"))
ALL = {
    "still": STILL, "up": UP, "up left": UP_LEFT, "grows": GROWS, "spins": SPINS, "green": GREEN,
    "pink": PINK, "dotted": DOTTED, "three": THREE, "gone": GONE, "comes": COMES,
    "rings gone": RINGS_GONE, "navy": NAVY, "white": WHITE, "green spins": GREEN_SPINS,
    "heart spins": HEART_SPINS, "from top left": FROM_TOP_LEFT,
}  # fmt: skip

#: Reference, target, texts that lead from the one to the other.
SAID = [
    ("still", "up", """make it move to the top | make the star move to the top
        | the star moves to the top | have the red star move from the left to the top
        | let the star slide upwards to the top | the star should move to the top"""),
    ("still", "spins", """make the star spin | the star spins | let it rotate
        | the star is now spinning | make the red star rotate"""),
    ("still", "green", """make the star turn green | the star turns green | the star becomes green
        | the star changes from red to green | have the star turn from red to green"""),
    ("still", "navy", """make the background turn navy | the background turns navy
        | have the background turn from gray to navy | the gray background becomes navy"""),
    ("still", "gone", """make the star vanish | the star disappears | let the star fade out
        | the star should disappear"""),
    ("still", "comes", "the star appears | make the star appear | let the star fade in"),
    ("still", "three", """the star becomes three | make the star become three stars
        | the star turns into three"""),
    ("up", "still", """the star stays still | stop the star | keep the star still | without moving
        | the star no longer moves | make it stay still | the star stops moving
        | now standing still"""),
    ("spins", "still", """stop spinning | no longer spinning | the star does not spin
        | without spinning"""),
    ("up", "up left", """make the star move to the top left instead of the top
        | have the star move to the top left, not to the top | make it move to the top left instead
        | the star moves to the top left rather than to the top | to the top left, not the top
        | moving to the top left instead of the top | change the top to the top left"""),
    ("up", "from top left", """make the star move from the top left instead of the left
        | have the star move from the top left, not from the left
        | the star starts at the top left instead of the left"""),
    ("grows", "spins", """make the star spin instead of growing | spinning instead of growing
        | change the action from growing to spinning | switch from growing to spinning
        | replace growing with spinning | instead of growing, it spins | the star spins
        | instead of growing, spin | have the star spin, not grow | swap growing for spinning
        | the star should spin rather than grow | now spinning, no longer growing"""),
    ("green", "pink", """make the star turn pink instead of green | turning pink rather than green
        | pink instead of green | make it pink instead of green | change green to pink
        | the star becomes pink, not green"""),
    ("green", "dotted", """make the star turn dotted | dotted instead of green
        | turning dotted instead of green | the star becomes dotted"""),
    ("navy", "white", """make the background turn white instead of navy | change navy to white
        | the background turning white rather than navy | the background becomes white"""),
    ("gone", "rings gone", """make the rings vanish instead of the star | the rings vanish
        | the rings disappear rather than the star"""),
    ("gone", "comes", """make the star appear instead of vanishing
        | appearing instead of vanishing"""),
    ("spins", "green spins", """make the star green | turn the star green | green, not red
        | the star is green instead of red | a green star instead of a red one"""),
    ("spins", "heart spins", "replace the star with a heart | a heart instead of a star"),
    ("grows", "green spins", """make the star green and have it spin
        | make the star spin and turn the star green"""),
]  # fmt: skip
TEXTS = [(t.strip(), a, b) for a, b, texts in SAID for t in " ".join(texts.split()).split("|")]


@pytest.mark.parametrize(("text", "reference", "target"), TEXTS)
def test_a_text_is_right_for_its_target_and_wrong_for_every_other(text, reference, target):
    verdict = says(text, ALL[reference], ALL[target])
    assert (verdict.right, verdict.complete) == (True, True), verdict
    for other, shown in ALL.items():
        if other != target:
            assert not says(text, ALL[reference], shown).right, other


def test_the_clips_of_these_tests_are_possible():
    assert all(possible_clip(clip) for clip in ALL.values() if isinstance(clip, Clip))


def test_a_text_that_leaves_the_event_unsaid_is_not_complete():
    verdict = says("make the star green", GROWS, GREEN_SPINS)
    assert (verdict.right, verdict.complete) == (False, False)
    assert "event" in verdict.reason


@pytest.mark.parametrize("text", ["", "make the dog run", "asdf", "move " * 200, "make it pretty"])
def test_what_is_none_of_this_world_is_not_right(text):
    assert not says(text, SPINS, GROWS).right


def test_what_does_not_happen_cannot_be_replaced():
    verdict = says("make the star spin instead of shrinking", GROWS, SPINS)
    assert not verdict.right
    assert verdict.reason == "does not apply to the reference"


def test_a_text_about_an_event_is_read_as_before_between_images():
    moved = starring(position="top")
    assert says("make the star move to the top", STILL, moved).right
    assert not says("make the star move to the top", STILL, UP_LEFT).right


# --- differences ------------------------------------------------------------------------------


def test_events_are_told_apart_by_thing_kind_and_end():
    assert difference(UP, UP_LEFT) == [
        Change("event", Act("position", "top"), Act("position", "top left"), 0)
    ]
    assert difference(STILL, SPINS) == [Change("event", None, Act("spin"), 0)]
    assert [change.at for change in difference(GONE, RINGS_GONE)] == [0, 1]
    assert difference(NAVY, STILL) == [Change("event", Act("background", "navy"), None)]


SEEDS = st.integers(0, 40)


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.integers(0, 60), st.integers(0, 60))
def test_no_difference_means_the_same_and_it_goes_both_ways(seed, one, two):
    a, b = (drawn(seed, index, clips=0.7).shown for index in (one, two))
    assert difference(a, a) == []
    forth, back = difference(a, b), difference(b, a)
    assert bool(forth) == bool(back)
    if not forth:
        assert isinstance(a, Clip) == isinstance(b, Clip)
        assert set(scene_of(a).objects) == set(scene_of(b).objects)


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.integers(0, 60), st.sampled_from(["misname", "contradict"]))
def test_a_caption_that_contradicts_is_never_judged_true(seed, index, kind):
    made = drawn(seed, index, clips=0.7)
    texts, notes = captions(made, seed, 3, Noise(**{kind: 1.0}))
    assert all(notes)
    assert not any(fits(made.shown, text) for text in texts), texts


def orders(act, subject):
    """Ways to order ``act`` of ``subject``."""
    verbs = {"spin": "spin", "vanish": "vanish", "appear": "appear"}
    if act.kind == "size":
        verb = "grow" if act.to == "large" else "shrink"
    elif act.kind == "position":
        verb = f"move to the {act.to}"
    elif act.kind == "count":
        verb = f"become {['one', 'two', 'three', 'four'][act.to - 1]}"
    else:
        verb = verbs.get(act.kind, f"turn {act.to}")
    return [f"make {subject} {verb}", f"have {subject} {verb} instead", f"{subject} should {verb}"]


@settings(max_examples=120, deadline=None)
@given(SEEDS, st.integers(0, 100), st.data())
def test_an_order_is_right_for_the_clip_that_it_orders_and_for_no_other(seed, index, data):
    scene = drawn(seed, index).scene
    options = clips_of(scene)
    reference = data.draw(st.sampled_from([scene, *options]))
    target, other = (data.draw(st.sampled_from([c for c in options if c != reference]))
                     for _ in range(2))  # fmt: skip
    if target.at is None:
        subject = "the background"
    else:
        thing = scene.objects[target.at]
        ending = "" if thing.count == 1 else "es" if thing.shape == "cross" else "s"
        subject = f"the {thing.colour} {thing.shape}{ending}"
    for text in orders(target.act, subject):
        assert says(text, reference, target).right, (text, reference, target)
        if other != target:
            assert not says(text, reference, other).right, (text, reference, other)


WORDS = [
    "the", "star", "rings", "make", "it", "spin", "spinning", "grows", "turn", "green", "to", "top",
    "from", "left", "instead", "of", "not", ",", "and", "no", "longer", "still", "stop", "navy",
    "background", "becomes", "three", "vanish", "replace", "with", "moves", "have", "red", ".",
]  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=10), st.text(max_size=15))
def test_no_text_makes_the_oracle_stumble(tokens, rest):
    text = " ".join(tokens) + rest
    for reference, target in ((GROWS, SPINS), (STILL, GREEN), (NAVY, WHITE), (UP, STILL)):
        verdict = says(text, reference, target)
        assert not verdict.right or verdict.complete
        assert verdict == says(text, reference, target)
        fits(target, text)
