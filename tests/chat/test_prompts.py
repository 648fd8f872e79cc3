"""Prompt files: what they must hold, and what is made of them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml

from datagen.chat import prompts
from datagen.chat.answers import NotJson
from datagen.chat.prompts import Wanted
from datagen.chat.subject import Change, Data, Subject
from datagen.errors import DatagenError

#: Whoever changes what a prompt sends raises its version, and puts its new hash here.
HASHES = {
    "actions": "actions@1#8fae003fca60",
    "fashion": "fashion@1#92a1bd442965",
    "fashion_differences": "fashion_differences@1#ae063af4f256",
    "mtcir": "mtcir@1#a6837d6f3901",
    "narrations": "narrations@1#f21020280ca7",
    "objects": "objects@1#896b7acc4e57",
    "objects_compared": "objects_compared@1#2066018a873c",
    "objects_differences": "objects_differences@1#af006e192f1f",
    "objects_pictured": "objects_pictured@1#59f63732baa3",
    "objects_pictured_compared": "objects_pictured_compared@1#591c5597c40f",
    "same_page": "same_page@1#e482ae17f3b7",
    "judge": "judge@1#bf053a5f1f8a",
    "judge_pictures": "judge_pictures@1#b1802ddef8dc",
    "seed_words": "seed_words@1#48b74b0bb899",
    "rewrite_short": "rewrite_short@1#62c9e0e7b542",
    "rewrite_reverse": "rewrite_reverse@1#12a5171f225b",
    "rewrite_paraphrase": "rewrite_paraphrase@1#d92d45ccfcdd",
    "rewrite_dense": "rewrite_dense@1#89d5137595bc",
    "edits": "edits@1#7e765b0b08d6",
    "caption": "caption@1#30dd4ddb3f6e",
    "caption_dense": "caption_dense@1#ddf90f469ea8",
    "covr": "covr@1#b749bac3c6be",
    "dense": "dense@1#3db07d767351",
    "describe": "describe@1#79351a3497e2",
    "from_differences": "from_differences@1#a4c0c0a89fbb",
    "lasco": "lasco@1#c4d87da8b284",
    "modification": "modification@1#30911b2a7c9f",
    "vlm_modification": "vlm_modification@1#c5edbbf0e2ba",
}
PAIR = Subject("a red mug", "a blue mug", (Change(field="colour", removed="red", added="blue"),))


def file(**changes: Any) -> str:
    data = {
        "name": "mine",
        "version": 1,
        "about": "mine",
        "template": "{{ reference }} {{ target }} {{ texts }}",
        "schema": {
            "type": "object",
            "required": ["modifications"],
            "properties": {"modifications": {"type": "array", "items": {"type": "string"}}},
        },
    }
    return yaml.safe_dump({key: v for key, v in (data | changes).items() if v is not None})


def words(content: Any) -> str:
    """The text of a turn, whatever is shown beside it."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def test_a_prompt_whose_words_changed_has_another_version() -> None:
    assert {name: prompts.load(name).fingerprint for name in prompts.names()} == HASHES


@pytest.mark.parametrize("name", prompts.names())
def test_examples_are_right_answers_in_turns_that_look_like_the_last_one(name: str) -> None:
    prompt = prompts.load(name)
    messages = prompt.messages(PAIR, Wanted(2))
    roles = [one["role"] for one in messages]
    assert roles == ["system", *["user", "assistant"] * len(prompt.examples), "user"]
    for example in prompt.examples:
        # An example of one text asks for one.
        number = min(2, len(example.answer.get("modifications", ())) or 2)
        asked = prompt.messages(example.subject, Wanted(number))[-1]["content"]
        assert asked in [one["content"] for one in messages]
    for one in messages:
        if one["role"] == "assistant":
            answer = json.loads(one["content"])
            jsonschema.validate(answer, prompt.answer_schema)
            texts = answer.get("modifications", [])
            assert len(texts) <= 2
            assert all(len(t.split()) <= prompt.max_words for t in texts)
    # A model that says its question back has not answered.
    with pytest.raises(NotJson):
        prompt.shape.parse(words(messages[-1]["content"]))
    with pytest.raises(NotJson):
        prompt.shape.parse(messages[0]["content"])


def test_examples_keep_to_what_is_wanted() -> None:
    prompt = prompts.load("modification")

    def answers(**wanted: Any) -> list[list[str]]:
        said = prompt.messages(PAIR, Wanted(**wanted))
        turns = [one["content"] for one in said if one["role"] == "assistant"]
        return [json.loads(text)["modifications"] for text in turns]

    assert [len(texts) for texts in answers(texts=1)] == [1, 1, 1]
    assert [len(texts) for texts in answers(texts=9)] == [3, 3, 3]
    assert answers(texts=9, aspects=("viewpoint",)) == [["look at her from behind"]]
    assert all(len(t.split()) <= 3 for some in answers(texts=9, max_words=3) for t in some)
    assert answers(texts=2, language="German") == []
    said = prompt.messages(PAIR, Wanted(2, 7, "German", ("negation",)))[0]["content"]
    assert "in German, of 7 words" in said
    assert "- negation: " in said
    assert "- viewpoint" not in said


def test_data_writes_itself_as_a_json_string_and_shows_nothing_else() -> None:
    for text in ('say "x"', "<|im_end|>[INST]", "a\nb", "{{ x }}", "ä 猫"):
        written = str(Data(text))
        assert json.loads(written) == " ".join(text.split())
        assert not set("<>[]\n") & set(written)
    assert str(Data(None)) == "null"
    for template in ("{{ reference._text }}", "{{ reference.__class__ }}", "{{ reference[0] }}"):
        with pytest.raises(DatagenError):
            prompts.read(file(template=template + "{{ target }}"), "x.yaml")


def referring(to: str) -> dict[str, Any]:
    known = {"type": "array", "items": {"type": "string"}}
    return {
        "type": "object",
        "required": ["modifications"],
        "properties": {"modifications": known, "more": {"$ref": to}},
        "$defs": {"some": {"type": "string"}},
    }


def test_a_schema_may_refer_to_its_own_parts() -> None:
    shape = prompts.read(file(schema=referring("#/$defs/some")), "mine.yaml").shape
    assert shape.fault({"modifications": [], "more": "x"}) is None
    assert shape.fault({"modifications": [], "more": 1}) == "more: does not fit 'type: string'"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"template": "{{ refrence }} {{ target }}"}, "did you mean 'reference'?"),
        ({"system": "{{ reference }}"}, "stands in the template only"),
        ({"template": "{{ texts }}"}, "says nothing of the row"),
        ({"template": "{{ reference"}, "template: "),
        ({"template": "{% for x in reference %}{% endfor %}"}, "template: "),
        ({"template": None}, "template: must be given"),
        ({"tempalte": "x"}, "did you mean 'template'?"),
        ({"version": 0}, "version"),
        ({"name": "A b"}, "name"),
        ({"schema": {"type": "array"}}, "requires 'modifications'"),
        ({"schema": {"type": "nothing"}}, "schema.type"),
        ({"schema": referring("#/$defs/none")}, "'$ref: #/$defs/none' leads nowhere"),
        ({"schema": referring("http://localhost/x.json")}, "leads nowhere"),
        ({"pictures": ["reference", "reference"]}, "pictures: each side once"),
        ({"examples": [{"answer": {"texts": []}}]}, "examples.1.answer"),
        (
            {"examples": [{"answer": {"modifications": ["x"]}, "aspects": ["y"]}]},
            "examples.1.aspects",
        ),
    ],
)
def test_a_faulty_prompt_is_a_line_with_its_place(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DatagenError, match=r"^mine\.yaml[^\n]*$") as error:
        prompts.read(file(**changes), "mine.yaml")
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "!!python/object/apply:os.system [ls]"])
def test_what_is_no_prompt_at_all_is_a_line(text: str) -> None:
    with pytest.raises(DatagenError, match=r"^mine\.yaml: [^\n]*$"):
        prompts.read(text, "mine.yaml")


def test_a_setting_that_a_prompt_does_not_use_is_refused() -> None:
    prompt = prompts.read(file(template="{{ reference }} {{ target }}"), "x.yaml")
    told = list(prompt.faults(Wanted(2, None, "German", ("viewpoint",))))
    assert [line.partition(":")[0] for line in told] == ["aspects", "texts_per_pair", "language"]
    assert not list(prompt.faults(Wanted(1)))


def test_the_hash_covers_what_is_sent_and_not_what_is_told_about_it() -> None:
    def hashed(**changes: Any) -> str:
        return prompts.read(file(**changes), "x.yaml").fingerprint

    assert hashed(about="other", paper="p") == hashed()
    differ = {hashed(), hashed(system="s"), hashed(version=2), hashed(max_words=3)}
    assert len(differ) == 4


def test_pictures_stand_before_the_text_each_under_its_side() -> None:
    shown = {"reference": ("data:1",), "target": ("data:2", "data:3")}
    subject = Subject("a red mug", pictures=shown)
    last = prompts.load("vlm_modification").messages(subject, Wanted(1))[-1]["content"]
    assert [part.get("text") or part["image_url"]["url"] for part in last] == [
        *("reference:", "data:1"),
        *("target (2 frames of a clip, in order of time):", "data:2", "data:3"),
        'description of the reference: "a red mug"\nNumber of requests: 1',
    ]
    alone = prompts.load("caption").messages(Subject(pictures=shown), Wanted(1))[-1]["content"]
    assert [part["text"] for part in alone if part["type"] == "text"] == [
        "shown:",
        "Number of descriptions: 1",
    ]
