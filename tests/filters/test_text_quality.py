"""The text filter on a table of cases, on junk, and on texts of real titles."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from datagen import schema
from datagen.errors import DatagenError
from datagen.filters.text_quality import TextQuality, TextQualitySettings
from datagen.pairing.one_word_diff import OneWordDiff
from datagen.step import Context, Tables
from datagen.texts.template import Template

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
REFERENCE, TARGET = "A red dress from Bora Bora", "a blue dress on the beach"


def judge(texts: list[str | None], batch: int = 1000, **settings: Any) -> list[dict[str, Any]]:
    """Scores, verdict, rule and detail of every text between two fixed captions."""
    rows = [
        {
            "id": f"{n:04}",
            "modification": text,
            "references": [{"caption": REFERENCE}],
            "targets": [{"caption": TARGET}, {"caption": None}],
        }
        for n, text in enumerate(texts)
    ]
    return judged(pa.Table.from_pylist(rows, schema=schema.TRIPLETS), batch, **settings)


def judged(table: pa.Table, batch: int = 1000, **settings: Any) -> list[dict[str, Any]]:
    operator = TextQuality(TextQualitySettings(**settings))
    read = table.select(operator.columns("triplets"))
    parts = [operator(read.slice(at, batch)) for at in range(0, max(len(read), 1), batch)]
    scores = pa.concat_tables(parts)
    assert set(scores.column_names) == {"id", *operator.gives("triplets")}
    for name in sorted(operator.gives("triplets")):
        table = table.append_column(name, scores[name])
    out = operator.decide(table, schema.empty(schema.ITEMS))
    assert out.schema.equals(schema.VERDICTS)
    pairs = zip(scores.to_pylist(), out.to_pylist(), strict=True)
    return [{**score, **verdict} for score, verdict in pairs]


@pytest.mark.parametrize(
    ("text", "rule", "found"),
    [
        (None, "too_short", "0 words"),
        (" … ", "too_short", "0 words"),
        ("more " + "and bluer " * 30, "too_long", "61 words > 60"),
        ("a Blue dress on the beach!", "copies_caption", "target"),
        ("a red dress from bora bora.", "copies_caption", "reference"),
        ("make it like image 1", "leak", "image 1"),
        ("like Image_one", "leak", "image_one"),
        ("as in the first  picture", "leak", "first"),
        ("To transform the reference image, add a dog", "leak", "reference image"),
        ("follow the caption", "leak", "the caption"),
        ("the TARGET image is blue", "leak", "target image"),
        ("Addition: a dog", "leak", "addition:"),
        ("make it {removed}", "malformed", "{removed}"),
        ("make it a <noun>", "malformed", "<noun>"),
        ("dogs &amp; cats", "malformed", "&amp;"),
        ("a cafÃ© table", "malformed", "wrongly decoded"),
        ("it\u2019s \ufffd blue", "malformed", "U+FFFD"),
        ("make\x00 it", "malformed", "U+0000"),
        ("make it blue\nmake it red", "malformed", "U+000A"),
        ('say "hello', "malformed", "quote"),
        ("add a dog (brown", "malformed", "bracket ("),
        ("add a dog] now", "malformed", "bracket ]"),
        ("42", "malformed", "no letter"),
        ("make the the dress blue", "repeated_word", "'the the'"),
        ("make it blue Blue", "repeated_word", "'blue blue'"),
    ],
)
def test_a_fault_has_its_own_rule_and_names_what_was_found(
    text: str | None, rule: str, found: str
) -> None:
    (row,) = judge([text])
    assert (row["verdict"], row["rule"]) == (schema.REJECTED, rule)
    assert found in row["detail"]


@pytest.mark.parametrize(
    "text",
    [
        "make it blue",
        'a 15" screen in place of a 13" one',
        'a 15" screen',
        'a shirt that says "size 10"',
        "very very blue, blue as the sea",
        "now from Bora Bora",
        "make it smile :)",
        "in addition a dog",
        "imagine 10 dogs",
        "I <3 dogs",
        "把裙子换成蓝色",
        "नीली पोशाक",
        "2 dogs (brown) instead of 3\n",
        "a blue dress",
    ],
)
def test_a_sound_text_passes(text: str) -> None:
    (row,) = judge([text])
    assert (row["verdict"], row["detail"]) == (schema.KEPT, None)


def test_scores_are_words_share_of_the_target_and_identity() -> None:
    texts = ["make it a blue dress", "a blue dress on the beach", "cat", ""]
    rows = judge(texts)
    assert [row["score_words"] for row in rows] == [5, 6, 1, 0]
    assert [row["score_copied"] for row in rows] == [0.6, 1, 0, 0]
    assert [row["score_is_caption"] for row in rows] == [0, 1, 0, 0]
    assert [row["rule"] for row in judge(texts[:1], max_copied=0.5)] == ["copies_caption"]


def test_every_rule_can_be_turned_off() -> None:
    texts = ["", "the the", "image 1", "42", "a blue dress on the beach"]
    off = {"min_words": 0, "max_words": None, "copies_caption": False, "common_leaks": False}
    assert not any(r["rule"] for r in judge(texts, **off, malformed=False, repeated_word=False))


def test_own_phrases_are_words_and_never_patterns() -> None:
    texts = ["in scene 3 now", "obscene 3", "a.*b", "see 404", "a b"]
    rows = judge(texts, leaks=("scene #", "404", "a.*b"))
    assert [row["rule"] for row in rows] == ["leak", None, "leak", "leak", "leak"]


@pytest.mark.parametrize("phrase", ["", " ", "#", "…", "x" * 101])
def test_a_phrase_that_cannot_be_found_is_a_fault_that_names_it(phrase: str) -> None:
    with pytest.raises(DatagenError, match=r"text_quality\.leaks"):
        TextQuality(TextQualitySettings(leaks=(phrase,)))


def test_bounds_that_cross_are_a_fault() -> None:
    with pytest.raises(ValidationError, match="min_words"):
        TextQualitySettings(min_words=9, max_words=3)


@hypothesis_settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))))
def test_any_text_gets_a_verdict_that_batches_do_not_change(texts: list[str | None]) -> None:
    rows = judge(texts)
    assert judge(texts, batch=2) == rows
    assert all(0 <= row["score_copied"] <= 1 for row in rows)


@hypothesis_settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([*TARGET.split(), "cat"]), min_size=1, max_size=9))
def test_the_longest_run_is_that_of_all_runs(words: list[str]) -> None:
    aim = TARGET.split()
    runs = {tuple(aim[i:j]) for i in range(len(aim)) for j in range(i + 1, len(aim) + 1)}
    spans = [(i, j) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    best = max((j - i for i, j in spans if tuple(words[i:j]) in runs), default=0)
    assert judge([" ".join(words)])[0]["score_copied"] == round(best / len(words), 4)


@pytest.mark.parametrize("junk", ["a " * 5000, "(" * 9000, "image " * 5000, "first_ " * 5000])
def test_long_junk_is_rejected(junk: str) -> None:
    assert judge([junk])[0]["verdict"] == schema.REJECTED


@pytest.mark.real_data
def test_texts_of_real_titles_pass() -> None:
    path = DATA / "captions" / "product_titles.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no real captions at {path}; set DATAGEN_TEST_DATA")
    with gzip.open(path, "rt") as file:
        lines = [json.loads(line) for _, line in zip(range(6000), file, strict=False)]
    titles = sorted({line["productDisplayName"] for line in lines if line["productDisplayName"]})
    items = [
        {"id": schema.item_id(None, [one], "{}"), "key": one, "captions": [one], "labels": "{}"}
        for one in titles
    ]
    table = pa.Table.from_pylist(items, schema=schema.ITEMS).sort_by("id")
    mined = OneWordDiff(OneWordDiff.Settings())(Tables(table, table, "items"), Context()).rows
    template = Template(Template.Settings())
    template.open(Context())
    made = template(mined).to_pylist()
    texts = {r["id"]: r["modification"] for r in made if r["verdict"] == schema.KEPT}
    rows = [
        {**row, "modification": texts[row["id"]]} for row in mined.to_pylist() if row["id"] in texts
    ]
    out = judged(pa.Table.from_pylist(rows, schema=schema.TRIPLETS))
    bad = [(row["rule"], row["detail"]) for row in out if row["rule"]]
    assert len(out) > 100
    assert len(bad) <= 0.01 * len(out), bad[:20]
