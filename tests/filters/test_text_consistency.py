"""Texts against captions, in a space where captions are sums of their words."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from queries import decided, measured, triplets, vector

from datagen import registry
from datagen.filters.text_consistency import TextConsistency, TextConsistencySettings
from datagen.space import Space
from datagen.step import Context

REFERENCE, TARGET = "a red mug on a table", "a blue mug on a table"


class Words:
    """A model of texts: the sum of the directions of their words; none for ``nothing``."""

    def open(self, context: Context) -> None:
        self.opened = True

    def texts(self, texts: list[str]) -> np.ndarray[Any, Any]:
        assert self.opened
        found = [np.sum([vector(word) for word in text.split()], axis=0) for text in texts]
        return np.array(found, np.float32).reshape(len(texts), 12)


def opened(folder: Path, **settings: Any) -> TextConsistency:
    Space.write(str(folder / "space"), ["a"], np.ones((1, 12), np.float32))
    context = Context(
        spaces={"caption": str(folder / "space")},
        embedders={"caption": Words()},  # type: ignore[dict-item]
    )
    operator = TextConsistency(TextConsistencySettings(space="caption", **settings))
    operator.open(context)
    return operator


def row(text: str | None, reference: Any = REFERENCE, *targets: Any) -> Any:
    said = targets or (TARGET,)
    members = [{"id": f"t{n}", "caption": one} for n, one in enumerate(said)]
    return [{"id": "r", "caption": reference}], members, text


def by_hand(by: str, reference: str, text: str, target: str) -> float:
    def told(caption: str) -> np.ndarray[Any, Any]:
        found = np.sum([vector(word) for word in caption.split()], axis=0).astype(np.float64)
        return np.asarray(found / np.linalg.norm(found))

    one, edited, aim = told(reference), told(f"{reference} {text}"), told(target)
    if by == "gain":
        return float(edited @ aim - one @ aim)
    move, way = edited - one, aim - one
    return float(move @ way / np.linalg.norm(move) / np.linalg.norm(way))


def test_the_registry_finds_the_operator_by_its_file() -> None:
    assert registry.find("filter", "text_consistency") is TextConsistency


@pytest.mark.parametrize("by", ["direction", "gain"])
def test_the_score_is_that_of_the_formula_and_batches_do_not_show(tmp_path: Path, by: str) -> None:
    operator = opened(tmp_path, by=by)
    texts = ["blue", "make it blue", "green", "on a chair", "a red mug"]
    table = triplets([row(text) for text in texts])
    found = measured(operator, table)
    wanted = [by_hand(by, REFERENCE, text, TARGET) for text in texts]
    np.testing.assert_allclose(found[operator.score].to_pylist(), wanted, atol=6e-5)
    assert measured(operator, table, batch=2).equals(found.combine_chunks())
    assert max(wanted) == wanted[0]


@pytest.mark.parametrize("by", ["direction", "gain"])
def test_of_several_targets_the_best_counts(tmp_path: Path, by: str) -> None:
    operator = opened(tmp_path, by=by)
    others = ("a green mug on a table", TARGET, REFERENCE, None)
    (found,) = measured(operator, triplets([row("blue", REFERENCE, *others)]))[
        operator.score
    ].to_pylist()
    aims = [one for one in others if one and (one != REFERENCE or by == "gain")]
    wanted = max(by_hand(by, REFERENCE, "blue", aim) for aim in aims)
    assert found == pytest.approx(wanted, abs=6e-5)


def test_rows_that_lack_something_fail_alone(tmp_path: Path) -> None:
    operator = opened(tmp_path, low=0.0)
    table = triplets(
        [
            row("blue"),
            row(None),
            row("   "),
            row("blue", None),
            row("blue", REFERENCE, None),
            row("blue", REFERENCE, REFERENCE),
            row("nothing"),
            ([], [], "blue"),
            row("red red red"),
        ]
    )
    scores = measured(operator, table)
    assert scores["rule"].to_pylist() == [
        *(None, "no_text", "no_text", "no_caption", "no_caption"),
        *("no_direction", "no_direction", "no_caption", None),
    ]
    assert decided(operator, table, scores) == [
        ("kept", None),
        *[("failed", rule) for rule in scores["rule"].to_pylist()[1:-1]],
        ("rejected", "too_low"),
    ]


def test_words_tell_how_much_of_what_differs_the_text_names() -> None:
    operator = TextConsistency(TextConsistencySettings(by="words"))
    operator.open(Context())
    table = triplets(
        [
            row("blue instead of red"),
            row("Make it BLUE!"),
            row("a green mug on a table"),
            row("two mugs", "a mug", "two mugs by a cup", "mugs"),
            row("blue", "red mugs", "a red MUG, a"),
            row("blue", "red mugs", "the mug (red)"),
            row("blue", "red mugs", "Red mug!"),
            row("blue", None),
        ]
    )
    scores = measured(operator, table)
    assert scores[operator.score].to_pylist() == [1, 0.5, 0, 0.3333, 0, 0, None, None]
    rules = [None, None, "too_low", None, "too_low", "too_low", "same_words", "no_caption"]
    assert [rule for _, rule in decided(operator, table, scores)] == rules
    operator = TextConsistency(TextConsistencySettings(by="words", low=0.6))
    assert [rule for _, rule in decided(operator, table, scores)][:2] == [None, "too_low"]
    assert operator.needs("triplets") == {"pairs", "modification"}


@pytest.mark.parametrize("settings", [{}, {"by": "gain"}, {"by": "words", "space": "caption"}])
def test_a_space_goes_with_the_measures_that_compare_in_one(settings: Any) -> None:
    with pytest.raises(ValidationError, match="space: must be given"):
        TextConsistencySettings(**settings)


def test_needs_a_model_of_texts_and_no_media() -> None:
    operator = TextConsistency(TextConsistencySettings(space="caption"))
    assert operator.needs("triplets") == {"texts.caption", "pairs", "modification"}


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.one_of(st.none(), st.text(max_size=8))] * 3), max_size=5))
def test_whatever_is_said_every_row_gets_a_verdict(
    tmp_path_factory: pytest.TempPathFactory, said: list[Any]
) -> None:
    operator = opened(tmp_path_factory.mktemp("space"), by="gain")
    # Lone surrogates cannot stand in a table.
    clean = [
        tuple(text and text.encode("utf-8", "ignore").decode() for text in one) for one in said
    ]
    table = triplets([row(text, reference, target) for text, reference, target in clean])
    if not len(table):
        return
    scores = measured(operator, table)
    assert len(decided(operator, table, scores)) == len(table)


@pytest.mark.skipif(not importlib.util.find_spec("open_clip"), reason="no open_clip")
def test_the_bundled_model_tells_right_texts_of_rendered_scenes_from_wrong_ones() -> None:
    from datagen.embed.open_clip import OpenClip

    model = OpenClip(OpenClip.Settings(space="image", model="bundled:tinyclip"))
    model.open(Context())
    operator = TextConsistency(TextConsistencySettings(space="image"))
    operator.encode = model.texts
    colours = ["red", "blue", "green", "yellow", "pink", "brown"]
    right, wrong = [], []
    for number, colour in enumerate(colours):
        was, other = colours[number - 1], colours[number - 2]
        told = [f"a large plain {one} circle on a white background" for one in (was, colour)]
        right.append(row(f"make the circle {colour}", told[0], told[1]))
        wrong.append(row(f"make the circle {other}", told[0], told[1]))
    found = measured(operator, triplets([*right, *wrong]))[operator.score].to_numpy()
    area = np.mean([one > other for one in found[:6] for other in found[6:]])
    assert area > 0.9
