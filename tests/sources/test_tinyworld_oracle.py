"""The oracle of the tinyworld: differences, and texts that are right, wrong, short or long."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.oracle import Change, difference, says
from datagen.sources.tinyworld.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    VALUES,
    Scene,
    Thing,
    changes,
    possible,
)

STAR = Thing("star", "red", "small", "plain", 1, "left")
SQUARE = Thing("square", "green", "small", "striped", 2, "bottom right")
REFERENCE = Scene((STAR, SQUARE), "mint")
RING = Thing("ring", "blue", "small", "plain", 1, "top right")


def with_star(**changed):
    return Scene((replace(STAR, **changed), SQUARE), "mint")


def with_squares(**changed):
    return Scene((STAR, replace(SQUARE, **changed)), "mint")


BLUE = with_star(colour="blue")
CIRCLE = with_star(shape="circle")
LARGE = with_star(size="large")
STRIPED = with_star(texture="striped")
DOTTED = with_squares(texture="dotted")
PLAIN = with_squares(texture="plain")
THREE = with_squares(count=3)
ONE = with_squares(count=1)
HEARTS = with_squares(shape="heart")
TOP_LEFT = with_star(position="top left")
GRAY = Scene((STAR, SQUARE), "gray")
NO_STAR = Scene((SQUARE,), "mint")
NO_SQUARES = Scene((STAR,), "mint")
MORE = Scene((STAR, SQUARE, RING), "mint")
BLUE_ON_GRAY = Scene(BLUE.objects, "gray")

SAID = {
    "blue": (
        BLUE,
        """make the star blue | change red to blue | turn the red star blue | instead of red, blue
        | blue rather than red | blue, not red | the star is blue instead of red | make it blue
        | change the color of the star from red to blue | change the star's colour to blue
        | recolor the star to blue | a blue star instead of a red one | The red star becomes blue.
        | the star is no longer red but blue | swap red for blue | replace red with blue
        | replace the red star with a blue star | replace the red star with a blue one
        | make the red star on the left blue | the star that was red is now blue | a blue star
        | same but with a blue star | keep the squares, but make the star blue | red -> blue
        | paint the star blue while keeping everything else the same | from red to blue
        | The star has turned blue | the red star turns into a blue one | in blue | blue
        | Modify the star to be blue. | with the star colored blue | I want the star in blue
        | Swap the star's color from red to blue. | Instead of a red star, show a blue star.
        | the star should be blue, not red""",
    ),
    "circle": (
        CIRCLE,
        """replace the star with a circle | as a circle instead of a star | circle, not star
        | turn the star into a circle | swap the star for a circle | a circle in place of the star
        | substitute a circle for the star | change the red star to a red circle | star to circle
        | remove the star and replace it with a circle | the star is replaced with a circle
        | The small red star was replaced by a small red circle. | swap star for circle | circle
        | exchange the star on the left for a circle""",
    ),
    "large": (
        LARGE,
        """the star is now large | enlarge the star | make the star bigger | large star instead of
        little | the star is no longer small | increase the size of the star | a large star
        | change the star from small to large""",
    ),
    "striped": (
        STRIPED,
        """add stripes to the star | make the star striped | give the star stripes
        | the star with stripes | replace plain with stripes | the star has stripes now
        | turn the plain star into a striped one""",
    ),
    "dotted": (
        DOTTED,
        """dotted instead of striped | replace the stripes with dots | make the squares dotted
        | replace the stripes on the squares with dots | make the striped pattern dotted
        | change the pattern of the squares from stripes to dots | squares with polka dots""",
    ),
    "plain squares": (
        PLAIN,
        """remove the stripes from the squares | the squares are no longer striped
        | squares without stripes | make the striped squares plain""",
    ),
    "three": (
        THREE,
        """have three squares instead of two | three squares instead of two | change two to three
        | add one more square | add another square | from two to three squares | three, not two
        | change the number of squares from two to three | make it three squares
        | there are three squares rather than two""",
    ),
    "one": (
        ONE,
        """remove one square | one square rather than two | remove one of the two squares
        | reduce the number of squares to one | change the two squares to one square
        | only one square""",
    ),
    "hearts": (
        HEARTS,
        """change the two squares into two hearts | turn the squares into hearts
        | hearts instead of squares | replace the green squares with green hearts""",
    ),
    "top left": (
        TOP_LEFT,
        """move the star to the top left corner | put the star in the top-left corner
        | the star is in the top left instead of on the left
        | move the star from the left to the top left
        | shift the star on the left to the top left | the star at the upper left
        | make the star at the top left rather than on the left""",
    ),
    "gray": (
        GRAY,
        """with a gray background | make the background grey | change mint to gray
        | on gray instead of mint | gray background instead of mint | on a gray background
        | change the background from mint to gray | the background is now gray
        | on a gray backdrop rather than a mint one | same scene with a gray background
        | replace the mint background with a gray one | use a gray background
        | instead of a mint background, a gray background | switch the background to gray
        | Change the background color to gray. | a gray scene, not a mint scene
        | turn the mint scene gray | make the scene gray instead of mint""",
    ),
    "added": (
        MORE,
        """add a small blue ring | add a blue ring at the top right | include a ring
        | there is also a blue ring | with an additional blue ring | a blue ring is added
        | insert one small ring""",
    ),
    "no star": (
        NO_STAR,
        """remove the star | without the star | no star | the star is removed | delete the red star
        | take away the star on the left""",
    ),
    "no squares": (
        NO_SQUARES,
        """delete both squares | get rid of the two green squares | remove the squares""",
    ),
    "blue on gray": (
        BLUE_ON_GRAY,
        """make the star blue and the background gray | a blue star on a gray background
        | the star should be blue, the background gray | change red to blue and mint to gray""",
    ),
    "blue and large": (
        with_star(colour="blue", size="large"),
        """make the star large and blue | a large blue star instead of a small red star
        | turn the star blue, and enlarge it""",
    ),
}
TEXTS = [
    (" ".join(text.split()), name) for name, (_, texts) in SAID.items() for text in texts.split("|")
]


@pytest.mark.parametrize(("text", "name"), TEXTS)
def test_a_text_is_right_for_its_target_and_wrong_for_every_other(text, name):
    verdict = says(text, REFERENCE, SAID[name][0])
    assert (verdict.right, verdict.complete, verdict.minimal) == (True, True, True), verdict
    for other, (target, _) in SAID.items():
        if other != name:
            assert not says(text, REFERENCE, target).right, other


def test_a_text_that_says_too_little_is_not_complete():
    verdict = says("make the star blue", REFERENCE, BLUE_ON_GRAY)
    assert (verdict.right, verdict.complete, verdict.minimal) == (False, False, True)
    assert "background" in verdict.reason


def test_a_text_that_says_too_much_is_not_minimal():
    verdict = says("make the star blue and large", REFERENCE, BLUE)
    assert (verdict.right, verdict.complete, verdict.minimal) == (False, True, False)
    idle = says("make the star blue and small", REFERENCE, BLUE)
    assert (idle.right, idle.complete, idle.minimal) == (True, True, False)
    assert "already" in idle.reason


@pytest.mark.parametrize(
    "text",
    ["", "asdf", "make it pretty", "move the star left of the square", "keep everything the same",
     "add a dog", "replace the star with a blue dog", "make the star blue and add a hat",
     "blue " * 200],
)  # fmt: skip
def test_what_cannot_be_read_is_not_understood(text):
    verdict = says(text, REFERENCE, BLUE)
    assert not verdict.right
    assert verdict.reason == "not understood"


@pytest.mark.parametrize(
    "text",
    ["make the heart blue", "change orange to blue", "replace the ring with a circle",
     "make the large star blue", "make the three squares blue", "change white to gray"],
)  # fmt: skip
def test_what_the_reference_does_not_have_cannot_be_changed(text):
    for target in (BLUE, CIRCLE, GRAY):
        verdict = says(text, REFERENCE, target)
        assert not verdict.right
        assert verdict.reason == "does not apply to the reference"


def test_a_text_that_may_mean_two_things_is_marked():
    assert says("make it blue", REFERENCE, BLUE).ambiguous
    assert not says("make the star blue", REFERENCE, BLUE).ambiguous


def test_colours_and_shapes_of_other_worlds_are_wrong_not_misread():
    assert not says("make the star gold", REFERENCE, with_star(colour="yellow")).right
    assert not says("replace the star with an oval", REFERENCE, CIRCLE).right
    assert not says("with a green background", REFERENCE, GRAY).right


def test_sides_of_a_corner_change_one_at_a_time():
    corner = with_star(position="top left")
    for text in (
        "at the right, not at the left",
        "change the left to the right",
        "make it at the right rather than at the left",
        "right instead of left",
    ):
        assert says(text, corner, with_star(position="top right")).right, text
        assert not says(text, corner, with_star(position="bottom left")).right, text
    assert says("bottom, not top", corner, with_star(position="bottom left")).right


# --- differences ------------------------------------------------------------------------------


def brute_difference(before, after):
    """The least number of differences, over every way to match things."""
    a, b = list(before.objects), list(after.objects)
    best = 99
    for kept in range(min(len(a), len(b)) + 1):
        for left in itertools.combinations(a, kept):
            for right in itertools.permutations(b, kept):
                cost = sum(
                    getattr(x, name) != getattr(y, name)
                    for x, y in zip(left, right, strict=True)
                    for name in ATTRIBUTES
                )
                best = min(best, cost + 2.7 * (len(a) + len(b) - 2 * kept))
    return best


def test_the_difference_is_minimal_by_brute_force():
    scenes = [drawn(21, index, max_objects=4).scene for index in range(60)]
    for before, after in itertools.product(scenes[:12], scenes):
        found = difference(before, after)
        cost = sum(
            2.7 if change.attribute == "object" else 1
            for change in found
            if change.attribute != "background"
        )
        assert cost <= brute_difference(before, after) + 0.2
        assert (Change("background", before.background, after.background) in found) == (
            before.background != after.background
        )


def test_the_difference_of_a_neighbour_is_its_one_change():
    for index in range(400):
        made = drawn(22, index, max_objects=4)
        if made.base is not None:
            found = difference(drawn(22, made.base, max_objects=4).scene, made.scene)
            assert [change.attribute for change in found] == [made.changed]


def test_the_order_of_things_makes_no_difference():
    assert difference(REFERENCE, Scene((SQUARE, STAR), "mint")) == []


def test_things_that_come_and_go_are_told_as_such():
    assert difference(REFERENCE, NO_STAR) == [Change("object", STAR, None, 0)]
    assert difference(REFERENCE, MORE) == [Change("object", None, RING)]


# --- texts made for random changes ------------------------------------------------------------


def plural(thing):
    if thing.count == 1:
        return thing.shape
    return thing.shape + ("es" if thing.shape == "cross" else "s")


def texts_for(change, reference, value):
    """Texts that say that ``change`` happened, with ``value`` as the new value."""
    if change.attribute == "background":
        return [
            f"with a {value} background", f"change the background to {value}",
            f"change the background from {change.before} to {value}",
            f"on {value} instead of {change.before}", f"the background is {value} now",
        ]  # fmt: skip
    thing = reference.objects[change.at]
    noun = plural(thing)
    some = "the " + noun
    if change.attribute == "colour":
        return [
            f"make {some} {value}", f"change {thing.colour} to {value}", f"turn {some} {value}",
            f"{value} instead of {thing.colour}", f"replace {thing.colour} with {value}",
            f"{some} should be {value}, not {thing.colour}",
            f"change the colour of {some} from {thing.colour} to {value}",
        ]  # fmt: skip
    if change.attribute == "shape":
        new = plural(replace(thing, shape=value))
        one = f"a {new}" if thing.count == 1 else new
        old = f"a {noun}" if thing.count == 1 else noun
        return [
            f"replace {some} with {one}", f"turn the {thing.colour} {noun} into {one}",
            f"{one} instead of {old}", f"swap {some} for {one}", f"change the {noun} to {one}",
        ]  # fmt: skip
    if change.attribute in ("size", "texture"):
        old = getattr(thing, change.attribute)
        return [
            f"make {some} {value}", f"{some} is now {value}", f"{value} {noun}, not {old}",
            f"change {some} from {old} to {value}",
        ]  # fmt: skip
    if change.attribute == "position":
        return [f"move {some} to the {value}", f"put the {thing.colour} {noun} at the {value}"]
    number = ["zero", "one", "two", "three", "four"][value]
    new = plural(replace(thing, count=value))
    old = ["zero", "one", "two", "three", "four"][thing.count]
    return [
        f"have {number} {new} instead of {old}", f"{number} {new}, not {old}",
        f"change the number of {plural(replace(thing, count=2))} from {old} to {number}",
    ]  # fmt: skip


def test_texts_of_random_changes_are_right_and_wrong_when_one_value_is_swapped():
    draw = random.Random(5)
    judged = 0
    for index in range(350):
        made = drawn(23, index, neighbours=0.9, max_objects=4)
        if made.base is None:
            continue
        reference = drawn(23, made.base, neighbours=0.9, max_objects=4).scene
        (change,) = difference(reference, made.scene)
        wrong = draw.choice(
            [v for v in VALUES[change.attribute] if v not in (change.before, change.after)]
            or [None]
        )
        for text in texts_for(change, reference, change.after):
            verdict = says(text, reference, made.scene)
            assert (verdict.right, verdict.complete, verdict.minimal) == (True, True, True), (
                text, reference, made.scene, verdict,
            )  # fmt: skip
            judged += 1
        for text in texts_for(change, reference, wrong) if wrong is not None else ():
            assert not says(text, reference, made.scene).right, (text, reference, made.scene)
        # The opposite direction says the wrong thing, too.
        for text in texts_for(change, reference, change.after):
            assert not says(text, made.scene, reference).right, (text, made.scene, reference)
    assert judged > 1000


def test_a_right_text_is_wrong_for_another_change_of_the_same_reference():
    draw = random.Random(6)
    for index in range(60):
        reference = drawn(24, index, neighbours=0, max_objects=3).scene
        options = [s for name in (*ATTRIBUTES, "background") for s in changes(reference, name)]
        first, second = draw.sample(options, 2)
        (change,) = difference(reference, first)
        for text in texts_for(change, reference, change.after):
            assert not says(text, reference, second).right, (text, reference, second)


WORDS = [
    *COLOURS, *SHAPES, *BACKGROUNDS, "stars", "the", "a", "one", "two", "instead", "of", "not",
    "to", "from", "and", ",", "make", "replace", "with", "remove", "add", "background", "left",
    "top", "stripes", "without", "it", "is", "now", "same", "dog", "more", "on", "in", ".", "but",
    "keep",
]  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12), st.text(max_size=30))
def test_no_text_makes_the_oracle_stumble(tokens, rest):
    text = " ".join(tokens) + rest
    for target in (BLUE, MORE, GRAY):
        verdict = says(text, REFERENCE, target)
        assert not verdict.right or verdict.complete
        assert verdict == says(text, REFERENCE, target)
    assert (
        not says(text, REFERENCE, REFERENCE).right
        or "already" in says(text, REFERENCE, REFERENCE).reason
    )


def test_the_reference_of_these_tests_is_possible():
    assert all(possible(scene) for scene in (REFERENCE, *(target for target, _ in SAID.values())))
