"""The judges of labelled collections and of NLVR's structures."""

import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.audit._sentences import boxes, sentence
from datagen.audit.labels import LabelJudge, named, words
from datagen.audit.structure import StructureJudge

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data") / "photos"

COLOURS = ("Red", "Blue", "Navy Blue", "Green")
KINDS = ("Shirts", "Jeans", "Dress")
USES = ("Casual", "Sports")
SHOP = [
    {"id": f"p{at}", "captions": [], "labels": json.dumps(
        {"colour": colour, "kind": kind, "usage": usage, "sku": f"Blue {at}", "picture": [{}]})}
    for at, (colour, kind, usage, _) in enumerate(itertools.product(COLOURS, KINDS, USES, "ab"))
]  # fmt: skip
JUDGE = LabelJudge(SHOP)


def find(colour, kind="Shirts", usage="Casual"):
    """The first product with these labels."""
    wanted = {"colour": colour, "kind": kind, "usage": usage}
    return next(one for one in SHOP if wanted.items() <= json.loads(one["labels"]).items())


def row(reference, target, text, changes=()):
    members = [{**one, "key": "", "source": "", "media": None, "caption": one.get("caption", "")}
               for one in (reference, target)]  # fmt: skip
    evidence = {"changes": list(changes)}
    return {"id": "t", "references": members[:1], "targets": members[1:], "evidence": evidence,
            "modification": text}  # fmt: skip


def test_labels_that_name_single_items_tell_nothing():
    assert JUDGE.keys == ["colour", "kind", "usage"]
    assert JUDGE.known == len(SHOP)


@pytest.mark.parametrize(
    ("text", "right", "complete", "minimal"),
    [
        ("make it blue", True, True, True),
        ("blue instead of red", True, True, True),
        ("turn the red shirt BLUE", True, True, True),
        ("change red to blue", True, True, True),
        ("red instead of blue", False, True, False),
        ("blue is replaced: replace blue with red", False, True, False),
        ("make it green", False, False, False),
        ("blue, and sports", False, True, False),
        ("navy blue", False, False, False),
        ("shirts in red", False, False, True),
        ("the same again", None, None, None),
        ("a version for everyone instead of red", None, None, None),
        ("make the shirt red", False, False, True),
        ("not for sports but blue", False, True, False),
        ("not blue", False, True, False),
        ("blue, not for casual use", False, True, False),
        ("blue, not the red casual shirt", True, True, True),
        ("blue instead of this casual shirt", True, True, True),
    ],
)
def test_a_text_is_right_where_it_names_what_the_target_has(text, right, complete, minimal):
    found = JUDGE.triplet(row(find("Red"), find("Blue"), text))
    assert (found.right, found.complete, found.minimal) == (right, complete, minimal), found


def test_what_both_captions_say_only_tells_which_thing_is_meant():
    one, two = ({**find(colour), "caption": f"{colour} jeans jacket"} for colour in ("Red", "Blue"))
    assert JUDGE.triplet(row(one, two, "make the jeans jacket blue")).right
    assert JUDGE.triplet(row(one, find("Blue"), "make the jeans jacket blue")).right is False


def test_a_text_that_leaves_a_label_out_is_right_but_not_complete():
    found = JUDGE.triplet(row(find("Red"), find("Blue", "Jeans"), "make it blue"))
    assert (found.right, found.complete) == (True, False)
    found = JUDGE.triplet(row(find("Red"), find("Blue", "Jeans"), "have blue jeans instead"))
    assert (found.right, found.complete) == (True, True)


def test_a_change_told_that_was_so_before_is_not_minimal():
    change = {"field": "usage", "removed": "Sports", "added": "Casual"}
    found = JUDGE.triplet(row(find("Red"), find("Blue"), "blue and casual", [change]))
    assert (found.right, found.minimal) == (True, False)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(SHOP) - 1), st.integers(0, len(SHOP) - 1), st.booleans())
def test_answers_are_the_items_with_the_told_labels(reference, target, whole):
    before, after = (json.loads(SHOP[at]["labels"]) for at in (reference, target))
    keys = [key for key in JUDGE.keys if before[key] != after[key]]
    told = keys if whole else keys[:1]
    query = row(SHOP[reference], SHOP[target], " and ".join(after[key].lower() for key in told))
    found = JUDGE.answers(query)
    if not told:
        assert found is None
        return
    wanted = {key: (after if key in told else before)[key] for key in JUDGE.keys}
    brute = [one["id"] for one in SHOP if wanted.items() <= json.loads(one["labels"]).items()]
    assert found == brute
    judged = JUDGE.triplet(query)
    assert judged.right
    assert judged.complete is (told == keys)
    assert JUDGE.best(query) is (SHOP[target]["id"] in brute)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("make it green", ("Green", "Shirts")),
        ("a blue dress, no longer jeans", ("Blue", "Dress")),
        ("jeans, not blue", ("Red", "Jeans")),
    ],
)
def test_what_the_target_lacks_is_asked_for_and_what_is_refused_is_not(text, asked):
    query = row(find("Red"), find("Blue"), text)
    wanted = {"colour": asked[0], "kind": asked[1], "usage": "Casual"}
    brute = [one["id"] for one in SHOP if wanted.items() <= json.loads(one["labels"]).items()]
    assert JUDGE.triplet(query).right is False
    assert JUDGE.answers(query) == brute
    assert JUDGE.best(query) is False


def test_a_pair_is_judged_by_the_labels_that_its_evidence_names():
    good = {"field": "colour", "removed": "Red", "added": "Blue"}
    wrong = {"field": "colour", "removed": "Blue", "added": "Red"}
    assert JUDGE.pair(row(find("Red"), find("Blue"), None, [good])).right
    assert JUDGE.pair(row(find("Red"), find("Blue"), None, [wrong])).right is False
    assert JUDGE.pair(row(find("Red"), find("Blue"), None, [])).right is None


def test_lists_of_labels_are_compared_as_sets():
    items = [
        {"id": str(at), "captions": [], "labels": json.dumps({"muscles": muscles})}
        for at, muscles in enumerate([["chest", "arms"], ["arms", "chest"], ["arms"], ["arms"]])
    ]
    judge = LabelJudge(items)
    found = judge.triplet(row(items[0], items[2], "without the chest"))
    assert (found.right, found.complete) == (True, True)
    assert judge.answers(row(items[0], items[2], "without the chest")) == ["2", "3"]
    assert judge.answers(row(items[2], items[0], "and the chest as well")) == ["0", "1"]


@settings(deadline=None)
@given(st.text(max_size=80))
def test_no_text_makes_the_judge_stumble(text):
    query = row(find("Red"), find("Blue"), text)
    assert (JUDGE.triplet(query).right is None) or JUDGE.triplet(query).reason
    JUDGE.best(query)
    named(text)


def test_words_are_alike_in_case_and_number():
    assert words("Navy-Blue SHIRTS, dress") == ("navy", "blue", "shirt", "dress")


# --- structures ---------------------------------------------------------------------------------


def block(colour, at, shape="square"):
    return {"type": shape, "color": colour, "size": 20, "x_loc": 40, "y_loc": 80 - 21 * at}


def picture(*towers):
    """Three towers, each named from its base to its top."""
    names = {"b": "#0099ff", "k": "Black", "y": "Yellow"}
    return [[block(names[one], at) for at, one in enumerate(tower)] for tower in towers]


@pytest.mark.parametrize(
    ("text", "towers", "true"),
    [
        ("There is exactly one tower with a blue block at the top.", ("kb", "k", "y"), True),
        ("There is exactly one tower with a blue block at the base.", ("kb", "k", "y"), False),
        ("There are two towers with a black block at the base", ("kb", "k", "y"), True),
        ("There are two towers with a black block at the base", ("kb", "k", "k"), None),
        ("There is a blue block on a black block", ("kb", "k", "y"), True),
        ("There is a blue block over a black block", ("kyb", "k", "y"), None),
        ("There is no yellow block above a blue block", ("kb", "k", "y"), True),
        ("There is a tower with four blocks", ("kbkb", "k", "y"), True),
        ("There is at least one tower with exactly 3 blocks", ("kbkb", "k", "y"), False),
        ("There are exactly two black blocks as the top of a tower", ("bk", "k", "y"), True),
        ("There is a box with 4 items", ("kbkb", "k", "y"), True),
    ],
)
def test_sentences_are_true_of_towers_as_they_stand(text, towers, true):
    assert sentence(text)(boxes(picture(*towers))) is true


@pytest.mark.parametrize("text", ["", "A dog.", "There is", "the towers have the same height"])
def test_other_sentences_are_not_read(text):
    assert sentence(text) is None


def structured(name, caption, *towers):
    labels = json.dumps({"structured_rep": picture(*towers)})
    return {"id": name, "captions": [caption], "caption": caption, "labels": labels}


def test_a_triplet_of_structures_is_right_where_both_captions_are_true_and_the_change_is_told():
    blue = structured("a", "There is a blue block as the base of a tower", "bk", "k", "k")
    black = structured("b", "There is a yellow block as the base of a tower", "yk", "k", "k")
    judge = StructureJudge([blue, black])
    found = judge.triplet(row(blue, black, "yellow instead of blue"))
    assert (found.right, found.minimal) == (True, True)
    assert judge.answers(row(blue, black, "yellow instead of blue")) == ["b"]
    assert judge.triplet(row(blue, black, "blue instead of yellow")).right is False
    assert judge.triplet(row(blue, black, "make it black")).right is False
    false = {**black, "labels": blue["labels"], "id": "c"}
    assert judge.triplet(row(blue, false, "yellow instead of blue")).right is False
    strange = {**black, "caption": "a strange thing"}
    assert judge.triplet(row(blue, strange, "yellow instead of blue")).right is None


@pytest.mark.real_data
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no real photos (DATAGEN_TEST_DATA)")
def test_the_grammar_agrees_with_people_about_real_sentences():
    lines = (PHOTOS / "nlvr" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    agree = read = 0
    for one in rows:
        said = sentence(one["sentence"])
        found = said(boxes(one["structured_rep"])) if said else None
        if found is not None:
            read += 1
            agree += found is (one["label"] == "true")
    assert read > 0.45 * len(rows)
    assert agree >= 0.99 * read


@pytest.mark.real_data
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no real photos (DATAGEN_TEST_DATA)")
def test_product_photos_that_differ_in_colour_are_judged_by_their_labels():
    lines = (PHOTOS / "fashion" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    items = []
    for line in lines[:1500]:
        one = json.loads(line)
        items.append({"id": one["id"], "captions": [one["productDisplayName"]],
                      "labels": json.dumps(one)})  # fmt: skip
    judge = LabelJudge(items)
    assert "baseColour" in judge.keys
    assert not {"id", "productDisplayName", "image"} & set(judge.keys)
    found = 0
    for one, two in itertools.pairwise(items):
        before, after = (json.loads(item["labels"]) for item in (one, two))
        differ = [key for key in judge.keys if before.get(key) != after.get(key)]
        if differ == ["baseColour"]:
            text = f"make it {after['baseColour'].lower()}"
            query = row(one, two, text)
            assert judge.triplet(query).right
            assert two["id"] in judge.answers(query)
            assert judge.triplet(row(two, one, text)).right is False
            found += 1
    assert found > 20
