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
from datagen.filters import _things
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


def test_rows_without_a_score_fail() -> None:
    table = pa.Table.from_pylist([{"id": "0", "modification": "blue"}], schema=schema.TRIPLETS)
    operator = TextQuality(TextQualitySettings(max_copied=0.5, max_unfounded=0))
    for name in operator.gives("triplets"):
        table = table.append_column(name, pa.nulls(1, pa.float64()))
    (row,) = operator.decide(table, schema.empty(schema.ITEMS)).to_pylist()
    assert (row["verdict"], row["detail"]) == ("failed", "the row has no score")


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
        ("negation of the dog", "leak", "negation"),
        ("Spatial relations, background: on the beach", "leak", "spatial relations"),
        ("as in the second description", "leak", "second description"),
        ("I can\u2019t help with that", "refusal", "i can"),
        ("I'm sorry, but the dress stays", "refusal", "i'm sorry"),
        ("As an AI language model I like blue", "refusal", "as an ai"),
        ("There is no visible difference.", "refusal", "no visible difference"),
        ("Sure, here you go: make it blue", "artefact", "opening 'Sure,'"),
        ("Here is one possible request - make it blue", "artefact", "opening"),
        ("To change the image, make it blue", "artefact", "opening"),
        ("Answer: make it blue", "artefact", "opening 'Answer:'"),
        ("Based on the given captions, make it blue", "artefact", "opening"),
        ("**make it blue**", "artefact", "markdown"),
        ("- make it blue", "artefact", "markdown '-'"),
        ("### make it blue", "artefact", "markdown"),
        ("```make it blue```", "artefact", "markdown"),
        ("1. make it blue", "artefact", "numbering"),
        ("(b) make it blue", "artefact", "numbering"),
        ('["make it blue"]', "artefact", "JSON"),
        ('"make it blue", "make it red"', "artefact", "JSON"),
        ("make it\\n blue", "artefact", "JSON"),
        ("make it blue<|im_end|>", "artefact", "token"),
        ("[INST] make it blue", "artefact", "token"),
        ("make it blue (addition)", "artefact", "kind of change"),
        ("make it blue. Let me know if you want more", "artefact", "closing"),
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
        "add a sign: no dogs",
        "the addition of a dog",
        "show it from a lower viewpoint",
        "3 dogs, 2 cats - and a bird",
        "a sure step, then here it is",
        "okay signs on both hands",
        "turn the picture on the wall around",
        "a cat that is not able to jump",
        "a * on the dress",
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
    texts += ["I cannot", "**blue**"]
    off |= {"refusals": False, "artefacts": False}
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


def triplet(name: str, text: str, captions: tuple[Any, Any], *changes: Any) -> dict[str, Any]:
    """A row; ``changes`` are (field, removed, added)."""
    told = [dict(zip(("field", "removed", "added"), one, strict=True)) for one in changes]
    return {
        "id": name,
        "modification": text,
        "pair": f"p{name}",
        "references": [{"caption": captions[0]}],
        "targets": [{"caption": captions[1]}],
        "evidence": {"changes": told},
    }


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.TRIPLETS)


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("add a dog and two red mugs", ["dog", "mugs"]),
        ("the woman wears a long winter coat.", ["coat"]),
        ("replace the cat with a parrot, on the sofa", ["cat", "parrot", "sofa"]),
        ("make it darker and more yellow", []),
        ("put the person in the background", []),
        ("the same, but seen from the side", []),
        ("a tall building near a wedding", ["building", "wedding"]),
        ("the dog running faster", ["dog"]),
        ("", []),
    ],
)
def test_things_are_the_heads_of_noun_phrases(text: str, things: list[str]) -> None:
    assert _things.things(text) == things


def test_a_thing_is_founded_by_a_caption_or_a_change_in_any_of_its_forms() -> None:
    captions = ("A dog on grass", "Two puppies run on a beach with umbrellas")
    rows = [
        triplet("a", "show a puppy under an umbrella at the beach", captions),
        triplet("b", "add a surfboard and a kite", captions),
        triplet("c", "add a surfboard and a kite", captions, ("toy", None, "kites")),
        triplet("d", "add a surfboard", captions, ("text", None, "add a surfboard")),
        triplet("e", "add a surfboard", captions, ("noise", "surfboard", "text")),
        triplet("f", "add a surfboard", (None, None)),
    ]
    found = judged(table_of(*rows), max_unfounded=0)
    assert [row["score_unfounded"] for row in found] == [0, 2, 1, 1, 1, None]
    assert [row["rule"] for row in found] == [None, *["unfounded"] * 4, None]
    assert found[1]["detail"] == "in no caption or change: 'surfboard', 'kite'"
    assert not any(row["rule"] for row in judged(table_of(*rows), max_unfounded=2))


#: One request, as people say it in each language.
SAID = {
    "de": ["ersetze den Becher durch einen Teller", "der Hund soll auf dem Sofa liegen"],
    "fr": ["remplace la tasse par une assiette", "ajoute un chien et enlève le chat"],
    "es": ["cambia la taza por un plato rojo", "quita el perro de la playa y pon una silla"],
    "it": ["sostituisci la tazza con un piatto", "aggiungi un cane sotto il tavolo"],
    "pt": ["troque a xícara por um prato", "adicione um cachorro em cima da mesa"],
    "nl": ["vervang de mok door een bord", "voeg een hond toe naast het bed"],
    "sv": ["byt ut muggen mot ett fat", "ta bort hunden och lägg till en katt"],
    "pl": ["zamień kubek na talerz i dodaj łyżkę", "dodaj psa i usuń kota"],
    "tr": ["fincan yerine bir tabak olsun", "köpek daha büyük olsun"],
    "id": ["ganti cangkir dengan piring", "tambahkan anjing di atas meja"],
    "vi": ["thay cái cốc bằng một cái đĩa", "thêm một con chó trên bàn"],
    "ru": ["замени кружку на тарелку", "собака должна лежать на диване"],
    "zh": ["把杯子换成盘子", "加一只狗"],
    "ja": ["マグカップを皿に替えて", "犬を追加する"],
    "ko": ["컵을 접시로 바꿔", "개를 추가해"],
    "ar": ["استبدل الكوب بصحن", "أضف كلبا"],
    "hi": ["कप की जगह प्लेट रखो", "एक कुत्ता जोड़ो"],
    "th": ["เปลี่ยนแก้วเป็นจาน", "เพิ่มสุนัข"],
    "en": ["replace the mug with a plate", "add a dog and remove the cat", "blue", "a v neck tee",
           "a sign in the Plaza de la Constitución", "Le Petit Café on the corner"],
}  # fmt: skip


@pytest.mark.parametrize("language", SAID)
def test_no_text_is_rejected_for_its_own_language(language: str) -> None:
    rows = judge(list(SAID[language]), language=language)
    assert not [row["detail"] for row in rows if row["rule"]]


@pytest.mark.parametrize("language", [name for name in SAID if name != "en"])
def test_english_and_other_languages_are_told_apart(language: str) -> None:
    rows = judge(list(SAID[language]), language="en")
    assert [row["rule"] for row in rows] == ["other_language"] * 2
    rows = judge(list(SAID["en"][:2]), language=language)
    assert [row["rule"] for row in rows] == ["other_language"] * 2


def test_an_unknown_language_is_a_fault_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="'eng' cannot be told; did you mean 'en'"):
        TextQualitySettings(language="eng")


def test_all_rows_of_a_text_that_too_many_pairs_have_are_rejected() -> None:
    texts = ["change it", "Change it!", "change  IT", "make it blue", "make it blue", "add a dog"]
    rows = [triplet(f"{n}", text, ("a", "b")) for n, text in enumerate(texts)]
    rows[4]["pair"] = rows[3]["pair"]

    def lost(most: int | float) -> list[bool]:
        return [row["rule"] == "same_text" for row in judged(table_of(*rows), max_same_text=most)]

    assert lost(2) == [True, True, True, False, False, False]
    assert lost(3) == lost(0.6) == [False] * 6
    # Five pairs: a share of 0.3 is one of them.
    assert lost(0.3) == lost(1) == [True, True, True, False, False, False]
    with pytest.raises(ValidationError, match="max_same_text"):
        TextQualitySettings(max_same_text=1.5)


@pytest.mark.real_data
@pytest.mark.parametrize("of", ["cirr", "circo", "fashioniq", "shoes"])
def test_hardly_any_text_that_people_wrote_is_taken_for_that_of_a_model(of: str) -> None:
    path, field = {
        "cirr": ("cirr/captions/cap.rc2.val.json", "caption"),
        "circo": ("circo/val.json", "relative_caption"),
        "fashioniq": ("fashioniq/captions/cap.dress.val.json", "captions"),
        "shoes": ("shoes/relative_captions_shoes.json", "RelativeCaption"),
    }[of]
    if not (DATA / "cir" / path).exists():
        pytest.skip(f"no annotations at {DATA / 'cir' / path}; set DATAGEN_TEST_DATA")
    told = [one[field] for one in json.loads((DATA / "cir" / path).read_text(encoding="utf-8"))]
    texts = [text for one in told for text in (one if isinstance(one, list) else [one])]
    rules = [row["rule"] for row in judge(texts, language="en", common_leaks=False)]
    bad = [rule for rule in rules if rule in ("refusal", "artefact", "other_language")]
    assert len(bad) <= 0.01 * len(texts), (len(bad), len(texts))


@hypothesis_settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))))
def test_any_text_gets_a_verdict_that_batches_do_not_change(texts: list[str | None]) -> None:
    on = {"language": "en", "max_unfounded": 0, "max_same_text": 3}
    rows = judge(texts, **on)
    assert judge(texts, batch=2, **on) == rows
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
