"""Questions with different answers, against brute force over all pairs of images.

The files are those of VQA v2 in form: https://visualqa.org/vqa_v2_teaser.html.
"""

from __future__ import annotations

import gzip
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen import registry, schema
from datagen.chat.prompts import load
from datagen.chat.subject import subject_of
from datagen.errors import DatagenError
from datagen.pairing import _complement, _vqa
from datagen.pairing.union import Union, UnionSettings
from datagen.pairing.vqa_complement import LOST, Settings, VqaComplement
from datagen.space import Space
from datagen.step import Context, Result, Tables
from datagen.texts.template import Template, TemplateSettings

#: Image, question, answers of the people asked.
Row = tuple[int, str, list[str]]


def make_items(images: list[int], hashes: list[str] | None = None) -> pa.Table:
    rows = []
    for place, image in enumerate(images):
        name = f"COCO_train2014_{image:012d}.jpg"
        rows.append(
            {
                "id": schema.content_id("test", str(image)),
                "key": f"train2014/{name}",
                "source": "coco",
                "media": {
                    "path": f"/photos/{name}",
                    "sha256": hashes[place] if hashes else f"hash{image}",
                    "modality": "image",
                },
                "captions": [f"caption {image}"],
                "labels": "{}",
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def write(folder: Path, rows: list[Row], ids: list[int] | None = None) -> dict[str, str]:
    """The two files as VQA v2 publishes them; question ids count from 1 unless given."""
    names = ids or list(range(1, len(rows) + 1))
    asked = [
        {"image_id": image, "question": question, "question_id": name}
        for name, (image, question, _) in zip(names, rows, strict=True)
    ]
    told = [
        {
            "question_type": "what",
            "multiple_choice_answer": Counter(said).most_common(1)[0][0] if said else "",
            "answers": [
                {"answer": one, "answer_confidence": "yes", "answer_id": place}
                for place, one in enumerate(said, 1)
            ],
            "image_id": image,
            "answer_type": "other",
            "question_id": name,
        }
        for name, (image, _, said) in zip(names, rows, strict=True)
    ]
    head = {"info": {"version": "2.0"}, "license": {}, "data_subtype": "train2014"}
    folder.mkdir(parents=True, exist_ok=True)
    files = {"questions": asked, "annotations": told}
    for name, entries in files.items():
        (folder / f"{name}.json").write_text(json.dumps({**head, name: entries}))
    return {name: str(folder / f"{name}.json") for name in files}


def context_of(folder: Path, items: pa.Table, vectors: np.ndarray, seed: int = 0) -> Context:
    place = str(folder / f"space-{schema.content_id(vectors.tobytes())}")
    Space.write(place, items["id"].to_pylist(), vectors.astype(np.float32))
    return Context(seed=seed, spaces={"image": place})


def mine(items: pa.Table, context: Context | None = None, **chosen: Any) -> Result:
    operator = VqaComplement(Settings(**chosen))
    assert list(operator.check()) == []
    return operator(Tables(items, items, "items"), context or Context())


Edge = tuple[str, str, str, str, str]


def edges(result: Result) -> set[Edge]:
    """Image numbers of both sides, question, removed, added."""
    out = []
    for row in result.rows.to_pylist():
        one, two = (str(int(row[side][0]["key"][-16:-4])) for side in ("references", "targets"))
        (change,) = row["evidence"]["changes"]
        out.append((one, two, change["field"], change["removed"], change["added"]))
    assert len(set(out)) == len(out)
    return set(out)


def rules_of(result: Result) -> dict[str, str | None]:
    columns = result.verdicts["id"].to_pylist(), result.verdicts["rule"].to_pylist()
    return dict(zip(*columns, strict=True))


def brute_force(rows: list[Row], near: set[frozenset[int]], least: float = 0.5) -> set[Edge]:
    """Straight from the words of the operator; answers here are plain words."""
    known: dict[tuple[int, str], set[str]] = {}
    for image, question, said in rows:
        if not said:
            continue
        top = max(Counter(said).values())
        answer = min(one for one, count in Counter(said).items() if count == top)
        if top / len(said) >= least and answer != "unknown":
            known.setdefault((image, question), set()).add(answer)
    sure = {key: next(iter(said)) for key, said in known.items() if len(said) == 1}
    return {
        (str(a), str(b), question, sure[a, question], sure[b, question])
        for pair in near
        for a, b in itertools.permutations(sorted(pair), 2)
        for question in {q for _, q in sure}
        if (a, question) in sure and (b, question) in sure
        if sure[a, question] != sure[b, question]
    }


def true_near(items: pa.Table, vectors: np.ndarray, k: int, low: float) -> set[frozenset[int]]:
    wide = vectors.astype(np.float32).astype(np.float64)
    wide = wide / np.linalg.norm(wide, axis=1)[:, None]
    ids = items["id"].to_pylist()
    images = [int(key[-16:-4]) for key in items["key"].to_pylist()]
    out = set()
    for one in range(len(wide)):
        order = sorted(
            (-round(float(wide[one] @ wide[two]), 4), ids[two], two)
            for two in range(len(wide))
            if two != one
        )
        out |= {frozenset((images[one], images[two])) for c, _, two in order[:k] if -c >= low}
    return out


QUESTIONS = ["What is it?", "Is it raining?", "How many dogs?"]
ANSWERS = ["cat", "dog", "bird", "unknown"]


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 9),
            st.sampled_from(QUESTIONS),
            st.lists(st.sampled_from(ANSWERS), max_size=4),
        ),
        max_size=30,
    ),
    k=st.integers(1, 8),
    low=st.sampled_from([-1.0, 0.0, 0.5]),
    seed=st.integers(0, 5),
)
def test_pairs_equal_those_of_brute_force(
    tmp_path: Path, rows: list[Row], k: int, low: float, seed: int
) -> None:
    items = make_items(list(range(1, 10)))
    rows = [*rows, (1, "What else?", ["cat"])]
    files = write(tmp_path / str(abs(hash(str(rows)))), rows)
    vectors = np.random.default_rng(seed).normal(size=(9, 3))
    result = mine(items, context_of(tmp_path, items, vectors), k=k, low=low, **files)
    assert edges(result) == brute_force(rows, true_near(items, vectors, k, low))
    notes = result.notes
    assert notes["questions"] == notes["questions_used"] + sum(notes[name] for name in LOST)


def test_a_larger_collection_asked_in_small_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_complement, "BLOCK", 50)
    dice = random.Random(0)
    images = list(range(1, 301))
    rows = [
        (image, question, [dice.choice(ANSWERS[:3])] * 10)
        for image in images
        for question in dice.sample(["a?", "b?", "c?", "d?", "e?"], 3)
    ]
    items = make_items(images)
    vectors = np.random.default_rng(1).normal(size=(300, 6))
    files = write(tmp_path / "vqa", rows)
    result = mine(items, context_of(tmp_path, items, vectors), k=12, low=0.2, **files)
    expected = brute_force(rows, true_near(items, vectors, 12, 0.2))
    assert len(expected) > 1000
    assert edges(result) == expected


def test_complementary_pairs_need_no_space(tmp_path: Path) -> None:
    rows = [
        (1, "What is the boy holding?", ["bat"] * 10),
        (2, "What is the boy holding?", ["ball"] * 9 + ["bat"]),
        (3, "What is the boy holding?", ["racket"] * 10),
        (1, "Is it sunny?", ["yes"] * 10),
        (2, "Is it sunny?", ["no"] * 10),
        (3, "Is it sunny?", ["yes"] * 10),
    ]
    files = write(tmp_path, rows, [1000, 2000, 3000, 1001, 2001, 3001])
    (tmp_path / "pairs.json").write_text(
        json.dumps([[1000, 2000], [3001, 1001], [1000, 2001], [7, 8]])
    )
    operator = VqaComplement(Settings(pairs=str(tmp_path / "pairs.json"), **files))
    assert operator.needs("items") == set()
    items = make_items([1, 2, 3])
    result = operator(Tables(items, items, "items"), Context())
    assert edges(result) == {
        ("1", "2", "What is the boy holding?", "bat", "ball"),
        ("2", "1", "What is the boy holding?", "ball", "bat"),
    }
    assert result.notes["complementary_pairs"] == 4
    assert result.notes["complementary_pairs_used"] == 2
    assert rules_of(result)[items["id"][2].as_py()] == "no_partner"
    (row, _) = result.rows.sort_by("id").to_pylist()
    assert row["evidence"]["score"] is None
    assert row["evidence"]["reason"].startswith("'What is the boy holding?' 'ba")
    changes = json.dumps(row["evidence"]["changes"], sort_keys=True, separators=(",", ":"))
    ends = [[row[side][0]["id"]] for side in ("references", "targets")]
    assert row["id"] == schema.pair_id(*ends, changes)
    (tmp_path / "pairs.json.gz").write_bytes(gzip.compress((tmp_path / "pairs.json").read_bytes()))
    packed = mine(items, pairs=(str(tmp_path / "pairs.json.gz"),), **files)
    assert edges(packed) == edges(result)


def test_complementary_pairs_may_be_held_in_a_band(tmp_path: Path) -> None:
    rows = [(n, "Which?", [word] * 3) for n, word in ((1, "a1"), (2, "b1"), (3, "c1"), (4, "d1"))]
    files = write(tmp_path, rows)
    (tmp_path / "pairs.json").write_text("[[1, 2], [3, 4]]")
    items = make_items([1, 2, 3, 4])
    vectors = np.array([[1, 0], [1, 0.1], [1, 0], [-1, 0.3]])
    context = context_of(tmp_path, items, vectors)
    chosen = {"pairs": str(tmp_path / "pairs.json"), **files}
    operator = VqaComplement(Settings(low=0.5, **chosen))
    assert operator.needs("items") == {"space.image"}
    result = operator(Tables(items, items, "items"), context)
    assert {edge[:2] for edge in edges(result)} == {("1", "2"), ("2", "1")}
    assert {row["evidence"]["score"] for row in result.rows.to_pylist()} == {0.995}


@pytest.mark.parametrize(
    ("said", "answer", "agreement"),
    [
        (["a bat", "bat", "Bat.", "ball"], "bat", 0.75),
        (["2", "two", "Two", "3"], "2", 0.75),
        (["no", "yes"], "no", 0.5),
        (["the left", "left", "left"], "left", 1.0),
    ],
)
def test_people_who_say_the_same_in_other_words_agree(
    said: list[str], answer: str, agreement: float
) -> None:
    found = _vqa.consensus(said)
    assert found is not None
    assert (_vqa.answer_form(found.answer), found.agreement) == (answer, agreement)
    assert found.answer in said
    assert _vqa.consensus([]) is None


def test_what_is_not_used_is_counted_with_examples(tmp_path: Path) -> None:
    rows = [
        (1, "What is it?", ["cat"] * 6 + ["dog"] * 4),
        (2, "what is it", ["dog"] * 10),
        (2, "Where?", ["here", "there", "nowhere", "home"]),
        (3, "What?", ["unknown"] * 10),
        (3, "Who?", []),
        (4, "Who?", ["he"] * 10),
        (99, "Who?", ["she"] * 10),
        (5, "Say", ["red"] * 10),
        (5, "Say?", ["blue"] * 10),
        (1, "Why?", ["rain"] * 10),
    ]
    files = write(tmp_path, rows)
    data = json.loads(Path(files["annotations"]).read_text())
    data["annotations"].pop()
    Path(files["annotations"]).write_text(json.dumps(data))
    (tmp_path / "pairs.json").write_text("[[1, 2]]")
    result = mine(make_items([1, 2, 3, 4, 5, 6]), pairs=str(tmp_path / "pairs.json"), **files)
    assert {name: result.notes[name] for name in LOST} == {
        "not_annotated": 1,
        "image_not_found": 1,
        "image_ambiguous": 0,
        "no_answer": 2,
        "low_agreement": 1,
        "answered_twice": 2,
    }
    assert result.notes["examples"]["image_not_found"] == ["question 7: image 99"]
    assert edges(result) == {
        ("1", "2", "What is it?", "cat", "dog"),
        ("2", "1", "what is it", "dog", "cat"),
    }
    told = list(rules_of(result).values())
    assert told == [None, None, "no_answer", "no_partner", "no_answer", "no_question"]


def test_order_of_tables_and_files_does_not_show(tmp_path: Path) -> None:
    dice = random.Random(3)
    images = list(range(1, 41))
    rows = [(i, q, [dice.choice(ANSWERS[:3])] * 10) for i in images for q in QUESTIONS]
    items = make_items(images)
    vectors = np.random.default_rng(2).normal(size=(40, 4))
    context = context_of(tmp_path, items, vectors)
    chosen = {"k": 9, "max_per_question": 60, "max_per_reference": 4, "max_per_target": 3,
              "both_directions": False}  # fmt: skip
    first = mine(items, context, **chosen, **write(tmp_path / "one", rows))
    order = list(range(len(rows)))
    dice.shuffle(order)
    files = write(tmp_path / "two", [rows[n] for n in order], [n + 1 for n in order])
    second = mine(items.take(pa.array(dice.sample(range(40), 40))), context, **chosen, **files)
    # Provenance holds the hashes of the files, whose bytes differ.
    one, two = (made.rows.drop_columns(["provenance"]).sort_by("id") for made in (first, second))
    assert one.to_pylist() == two.to_pylist()
    assert rules_of(first) == rules_of(second)
    found = edges(first)
    assert found
    for place, most in ((0, 4), (1, 3), (2, 60)):
        assert max(Counter(edge[place] for edge in found).values()) <= most
    assert not {(a, b, q) for a, b, q, *_ in found} & {(b, a, q) for a, b, q, *_ in found}
    assert first.notes["pairs"] == len(found)


@pytest.mark.parametrize(
    ("questions", "annotations", "said"),
    [
        ("nothing", None, "not JSON"),
        ("[1]", None, "list 'questions' was expected"),
        ('{"annotations": []}', None, "this is the file of annotations"),
        ('{"questions": [7]}', None, "questions 1: an object was expected"),
        ('{"questions": [{"question_id": 1, "image_id": 2}]}', None, "question: a text"),
        ('{"questions": [{"question": "a", "image_id": 2}]}', None, "question_id: a whole number"),
        (
            '{"questions": [{"question": "a", "image_id": 2, "question_id": 9223372036854775808}]}',
            None,
            "question_id: a whole number",
        ),
        (
            '{"questions": [{"question": "a", "image_id": 2, "question_id": "%s"}]}' % ("9" * 5000),
            None,
            "question_id: a whole number",
        ),
        ('{"questions": [{"question": "a", "question_id": 2}]}', None, "image_id: a number"),
        (None, '{"questions": []}', "this is the file of questions"),
        (None, '{"annotations": [{"question_id": 1, "answers": [3]}]}', "answers: a list of"),
        (None, '{"annotations": [{"question_id": 1, "answers": "no"}]}', "answers: a list of"),
        (None, '{"annotations": [{"answers": []}]}', "question_id: a whole number"),
    ],
)
def test_a_malformed_file_is_told_in_one_line(
    tmp_path: Path, questions: str | None, annotations: str | None, said: str
) -> None:
    files = write(tmp_path, [(1, "What?", ["this"])])
    for name, text in (("questions", questions), ("annotations", annotations)):
        if text is not None:
            Path(files[name]).write_text(text)
    faults = list(VqaComplement(Settings(**files)).check())
    assert len(faults) == 1
    assert said in faults[0]
    assert str(tmp_path) in faults[0]
    assert "\n" not in faults[0]


@pytest.mark.parametrize("text", ["{}", "[1, 2]", "[[1]]", '[["a", 2]]', "[[1, true]]"])
def test_a_malformed_list_of_pairs_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    files = write(tmp_path, [(1, "What?", ["this"])])
    (tmp_path / "pairs.json").write_text(text)
    (fault,) = VqaComplement(Settings(pairs=str(tmp_path / "pairs.json"), **files)).check()
    assert "pairs.json: " in fault
    assert "expected" in fault


def test_faults_that_show_before_the_run(tmp_path: Path) -> None:
    assert registry.find("pair", "vqa_complement") is VqaComplement
    files = write(tmp_path, [(1, "What?", ["this"])])
    absent = VqaComplement(Settings(questions="nowhere.json", annotations=(), low=0.9, high=0.1))
    assert list(absent.check()) == [
        "low=0.9 is above high=0.1",
        "nowhere.json: no such file; set questions to a file of VQA v2",
        "annotations: an empty list; name a file",
    ]
    with pytest.raises(
        DatagenError, match=r"none of the images \('1'\) is an item; keys"
    ) as caught:
        mine(make_items([2]), **files)
    assert "\n" not in str(caught.value)
    operator = VqaComplement(Settings(match="label:coco", **files))
    assert operator.needs("items") == {"items.labels", "space.image"}
    before = operator.revision()
    write(tmp_path, [(1, "What else?", ["this"])])
    assert operator.revision() != before


def test_equal_media_are_no_pair_and_a_union_holds_the_rest(tmp_path: Path) -> None:
    rows = [(n, "Which?", [word] * 3) for n, word in ((1, "one"), (2, "red"), (3, "blue"))]
    files = write(tmp_path, rows)
    items = make_items([1, 2, 3], ["same", "same", "other"])
    vectors = np.random.default_rng(0).normal(size=(3, 2))
    context = context_of(tmp_path, items, vectors)
    result = mine(items, context, **files)
    assert {edge[:2] for edge in edges(result)} == {("1", "3"), ("3", "1"), ("2", "3"), ("3", "2")}
    of = ({"op": "vqa_complement", **files}, {"op": "knn_band", "low": -1, "high": 1})
    found = Union(UnionSettings(of=of))(Tables(items, items, "items"), context)
    assert found.rows.num_rows == 4
    assert found.notes["found_by_several"] == 4


def test_texts_can_be_written_from_questions_and_answers(tmp_path: Path) -> None:
    rows = [
        (1, "What is the boy holding?", ["a bat"] * 3),
        (2, "What is the boy holding?", ["ball"] * 3),
    ]
    (tmp_path / "pairs.json").write_text("[[1, 2]]")
    files = write(tmp_path, rows)
    result = mine(
        make_items([1, 2]), pairs=str(tmp_path / "pairs.json"), both_directions=False, **files
    )
    prompt = load("lasco")
    (row,) = result.rows.to_pylist()
    (change,) = subject_of(row).changes
    assert {change.removed, change.added} == {"a bat", "ball"}
    assert change.field == "What is the boy holding?"
    assert prompt.name == "lasco"
    texts = Template(TemplateSettings())(result.rows)
    assert texts["verdict"].to_pylist() == ["kept"]
    assert "what is the boy holding" in texts["modification"][0].as_py().lower()
