"""Places of targets by text or reference alone, against loops over all items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import queries
from pydantic import ValidationError

from datagen import ranks, registry, schema
from datagen.filters.shortcut import Shortcut, ShortcutSettings
from datagen.space import Space
from datagen.step import Context


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return queries.world(tmp_path_factory.mktemp("space"))


def opened(context: Context, **settings: object) -> Shortcut:
    operator = Shortcut(ShortcutSettings(space="image", **settings))
    operator.open(context)
    return operator


def place(context: Context, query: np.ndarray, references: list[str], targets: list[str]) -> int:
    """By the definition: 1 + the items as near as the nearest target, but for the row's own."""
    space = context.space("image")
    names = [name.decode() for name in space.ids]
    near = {}
    for name, vector in zip(names, space.vectors.astype(np.float64), strict=True):
        length = np.linalg.norm(vector) * np.linalg.norm(query)
        near[name] = round(float(vector @ query / length), 6)
    best = max(near[name] for name in targets)
    return 1 + sum(near[n] >= best for n in names if n not in (*references, *targets))


def test_places_are_those_of_loops_over_all_items(context: Context) -> None:
    rows = queries.drawn(60)
    found = queries.measured(opened(context), queries.triplets(rows))
    space = context.space("image")
    by_text, by_reference = [], []
    for left, right, text in rows:
        by_text.append(place(context, queries.vector(text).astype(np.float64), left, right))
        vectors = space.of(left).astype(np.float64)
        mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
        by_reference.append(place(context, mean, left, right))
    assert found["score_shortcut_text"].to_pylist() == by_text
    assert found["score_shortcut_reference"].to_pylist() == by_reference
    assert np.median(by_text[::3]) == 1
    assert len(set(by_text)) > 20


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_batches_do_not_show(context: Context, batch: int) -> None:
    table, operator = queries.triplets(queries.drawn(50, seed=4)), opened(context)
    assert queries.measured(operator, table, batch).equals(queries.measured(operator, table))


@pytest.mark.parametrize("reject", [("text",), ("reference",), ("text", "reference")])
@pytest.mark.parametrize("rank", [1, 5])
def test_rows_that_one_query_solves_are_rejected_by_its_rule(
    context: Context, reject: tuple[str, ...], rank: int
) -> None:
    table = queries.triplets(queries.drawn(60, seed=2))
    operator = opened(context, rank=rank, reject=reject)
    scores = queries.measured(operator, table)
    places = {name: scores[f"score_shortcut_{name}"].to_pylist() for name in reject}
    expected = []
    for number in range(60):
        solved = [name for name in ("text", "reference") if name in reject]
        solved = [name for name in solved if places[name][number] <= rank]
        rule = (schema.REJECTED, f"{solved[0]}_alone") if solved else (schema.KEPT, None)
        expected.append(rule)
    assert queries.decided(operator, table, scores) == expected
    assert rank == 1 or len(set(expected)) == len(reject) + 1


def test_rows_that_lack_something_fail(context: Context) -> None:
    lost = f"i{queries.ITEMS - 1:03d}"
    table = queries.triplets(
        [
            (["i000"], ["i001"], "change 1"),
            ([lost], ["i001"], "a change"),
            (["i000"], ["i001", lost], "a change"),
            (["i000"], ["i001"], " "),
            (["i000"], ["i001"], None),
            (["i000"], ["i001"], "nothing"),
            ([], ["i001"], "a change"),
        ]
    )
    operator = opened(context)
    scores = queries.measured(operator, table)
    rules = [None, "no_vector", "no_vector", "no_text", "no_text", "no_direction", "no_vector"]
    assert scores["rule"].to_pylist() == rules
    assert scores["score_shortcut_text"].null_count == 6
    verdicts = [verdict for verdict, _ in queries.decided(operator, table, scores)]
    assert verdicts == [schema.KEPT] + [schema.FAILED] * 6


def test_the_reference_itself_is_no_rival(context: Context) -> None:
    # The nearest item of the reference is the target: were the reference counted, it would be 2.
    space = context.space("image")
    names = [name.decode() for name in space.ids]
    near = space.vectors[0].astype(np.float64) @ space.vectors.T.astype(np.float64)
    nearest = names[int(np.argsort(near)[-2])]
    scores = queries.measured(opened(context), queries.triplets([([names[0]], [nearest], "x")]))
    assert scores["score_shortcut_reference"].to_pylist() == [1]


def test_it_is_found_by_its_name_and_says_what_it_reads() -> None:
    assert registry.find("filter", "shortcut") is Shortcut
    operator = Shortcut(ShortcutSettings(space="x"))
    assert operator.needs("triplets") == {
        *("pairs", "modification", "space.x", "texts.x", "collection.x")
    }
    assert operator.gives("triplets") == {"score_shortcut_text", "score_shortcut_reference"}


@pytest.mark.parametrize("reject", [[], ["text", "text"], ["target"]])
def test_what_cannot_be_rejected_is_told(reject: list[str]) -> None:
    with pytest.raises(ValidationError):
        ShortcutSettings(space="x", reject=reject)  # type: ignore[arg-type]


def test_a_target_whose_vector_has_no_value_fails_and_is_not_the_first(tmp_path: Path) -> None:
    context = queries.world(tmp_path)
    space = context.space("image")
    vectors = np.array(space.vectors)
    vectors[1] = np.nan
    Space.write(str(tmp_path), [str(name, "ascii") for name in space.ids], vectors)
    table = queries.triplets([(["i000"], ["i001"], "a change"), (["i001"], ["i002"], "a change")])
    scores = queries.measured(opened(context), table)
    assert scores["rule"].to_pylist() == ["no_vector"] * 2
    with np.errstate(invalid="ignore"):
        place = ranks.ranks(context.space("image"), vectors[:1], [[1]], [[]])
    assert place.tolist() == [queries.ITEMS - 2 + 1]
