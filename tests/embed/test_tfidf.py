from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import registry, schema
from datagen.embed import tfidf
from datagen.embed.tfidf import Tfidf, TfidfSettings
from datagen.errors import DatagenError
from datagen.step import Context, Result, Tables


def items(rows: list[list[str] | None]) -> pa.Table:
    return pa.table(
        {
            "id": [schema.content_id("item", str(number)) for number in range(len(rows))],
            "key": [str(number) for number in range(len(rows))],
            "captions": pa.array(rows, pa.list_(pa.string())),
        }
    )


def run(table: pa.Table, seed: int = 0, **chosen: Any) -> Result:
    return Tfidf(TfidfSettings(**chosen))(Tables(table, table, "items"), Context(seed=seed))


def made_up(count: int) -> list[list[str] | None]:
    chance = random.Random(1)
    colours = ["red", "blue", "green", "black", "white"]
    things = [f"thing{n}" for n in range(40)]
    places = [f"in place{n}" for n in range(12)]
    return [
        [
            f"a {chance.choice(colours)} {chance.choice(things)} {chance.choice(places)}"
            for _ in range(chance.choice([1, 2]))
        ]
        for _ in range(count)
    ]


def check_conserved(table: pa.Table, result: Result) -> None:
    assert sorted(result.verdicts["id"].to_pylist()) == sorted(table["id"].to_pylist())
    assert result.verdicts.schema == schema.VERDICTS
    kept = [row["id"] for row in result.verdicts.to_pylist() if row["verdict"] == schema.KEPT]
    assert result.rows["id"].to_pylist() == sorted(kept)
    assert result.vectors is not None
    assert len(result.vectors) == len(kept)
    assert np.isfinite(result.vectors).all()
    assert np.abs(np.linalg.norm(result.vectors, axis=1) - 1).max(initial=0) < 2e-3


def test_captions_that_share_words_are_near_and_others_far() -> None:
    table = items([["a red dog runs"], ["the red dog runs fast"], ["two green chairs"]])
    result = run(table)
    check_conserved(table, result)
    at = {key: n for n, key in enumerate(result.rows["key"].to_pylist())}
    assert result.vectors is not None
    vectors = result.vectors[[at["0"], at["1"], at["2"]]]
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.3
    assert abs(cosines[0, 2]) < 0.01


def test_without_reduction_cosines_equal_those_of_the_weights_themselves() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [f"word{n} word{n + 1} common" for n in range(6)]
    result = run(items([[text] for text in texts]), width=512)
    order = [int(key) for key in result.rows["key"].to_pylist()]
    own = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts).toarray()
    assert result.vectors is not None
    # Six captions span six dimensions at most, and those hold all of their weights.
    assert result.notes["width"] == 6
    assert np.abs(result.vectors @ result.vectors.T - (own @ own.T)[order][:, order]).max() < 2e-3


def test_the_same_items_give_the_same_vectors_in_any_order() -> None:
    table = items(made_up(300))
    first = run(table, width=32)
    order = np.random.default_rng(0).permutation(300)
    again = run(table.take(pa.array(order)), width=32)
    assert first.vectors is not None
    assert again.vectors is not None
    assert first.vectors.shape == (300, 32)
    assert (first.vectors == again.vectors).all()
    assert first.rows.equals(again.rows)
    assert first.rows.column_names == table.column_names


def test_what_it_learns_from_depends_on_ids_and_not_on_order() -> None:
    table = items(made_up(400))
    first = run(table, width=16, fit_on=100)
    assert 90 <= first.notes["learned_from"] <= 100
    again = run(table.take(pa.array(np.arange(400)[::-1])), width=16, fit_on=100)
    assert first.vectors is not None
    assert (first.vectors == again.vectors).all()
    check_conserved(table, first)


def test_items_without_captions_or_words_are_rejected_with_the_rule() -> None:
    table = items([["a red dog"], [], None, ["  "], ["!!! ..."], ["", "red cat"]])
    result = run(table)
    check_conserved(table, result)
    by_key = dict(zip(table["id"].to_pylist(), table["key"].to_pylist(), strict=True))
    rules = {by_key[row["id"]]: row["rule"] for row in result.verdicts.to_pylist()}
    assert rules == {
        "0": None,
        "1": "no_caption",
        "2": "no_caption",
        "3": "no_caption",
        "4": "no_known_word",
        "5": None,
    }


def test_words_outside_what_was_learned_have_no_direction() -> None:
    rows: list[list[str] | None] = [[f"alone{n}"] for n in range(30)]
    table = items(rows)
    result = run(table, fit_on=10)
    check_conserved(table, result)
    assert result.rows.num_rows == 10


def test_one_item_and_no_item_are_collections_too() -> None:
    one = items([["a single red dog on a beach of sand"]])
    check_conserved(one, run(one))
    none = items([])
    result = run(none)
    assert result.rows.num_rows == 0
    assert result.verdicts.num_rows == 0


@pytest.mark.parametrize("rows", [[["!!!"], ["…"]], [[], None]])
def test_no_words_at_all_is_one_clear_line(rows: list[list[str] | None]) -> None:
    with pytest.raises(DatagenError, match="no words to learn from"):
        run(items(rows))


def test_letters_serve_languages_without_spaces() -> None:
    table = items([["红色的衬衫"], ["红色的裙子"], ["一只狗在海滩上"]])
    result = run(table, unit="letters")
    check_conserved(table, result)
    at = {key: n for n, key in enumerate(result.rows["key"].to_pylist())}
    assert result.vectors is not None
    cosines = result.vectors @ result.vectors.T
    assert cosines[at["0"], at["1"]] > 0.2 > cosines[at["0"], at["2"]]


def test_the_first_caption_alone_can_stand_for_an_item() -> None:
    table = items([["red dog", "green chair"], ["red dog"], ["green chair"]])
    result = run(table, which="first")
    at = {key: n for n, key in enumerate(result.rows["key"].to_pylist())}
    assert result.vectors is not None
    assert (result.vectors[at["0"]] == result.vectors[at["1"]]).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.lists(st.text(alphabet="ab c!é", max_size=12), max_size=3)),
        max_size=12,
    ),
    st.sampled_from([2, 3, 128]),
    st.integers(1, 3),
)
def test_any_captions_are_conserved(rows: list[list[str] | None], width: int, words: int) -> None:
    table = items(rows)
    try:
        result = run(table, width=width, words=words)
    except DatagenError:
        assert not any(c.isalnum() for many in rows for text in many or () for c in text)
        return
    check_conserved(table, result)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    table = items(made_up(100))
    whole = run(table, width=16).vectors
    monkeypatch.setattr(tfidf, "CHUNK", 7)
    pieces = run(table, width=16).vectors
    assert whole is not None
    assert (whole == pieces).all()


def test_the_registry_finds_it() -> None:
    assert registry.find("embed", "tfidf") is Tfidf
    operator = Tfidf(TfidfSettings(space="words"))
    assert operator.needs("items") == {"items.captions"}
    assert operator.gives("items") == {"space.words"}
