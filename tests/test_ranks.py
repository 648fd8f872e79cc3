"""Ranks against counting in plain loops, and what must not show in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import models, ranks
from datagen.errors import DatagenError
from datagen.space import Space


def space_of(vectors):
    return Space(np.array([f"{n:08d}" for n in range(len(vectors))], "S"), vectors)


def counted(vectors, query, targets, without):
    """The rank as its definition says, one item at a time."""

    def cosine(row):
        one, other = (np.asarray(v, np.float64) for v in (vectors[row], query))
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        return round(float(one @ other / lengths), 6) if lengths else 0.0

    best = max(cosine(row) for row in targets)
    others = set(range(len(vectors))) - set(targets) - set(without)
    have = [row for row in others if np.isfinite(vectors[row]).all()]
    return 1 + sum(cosine(row) >= best for row in have)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 12), st.booleans())
def test_ranks_are_those_of_the_definition(seed, items, queries, coarse):
    rng = np.random.default_rng(seed)
    width = 3 if coarse else 16
    vectors = rng.integers(-1, 2, (items, width)).astype(np.float32)  # ties and zeros on purpose
    if not coarse:
        vectors = rng.normal(size=(items, width)).astype(np.float32)
    lost = rng.random(items) < 0.1
    lost[:2] = False
    vectors[lost] = np.nan
    asked = rng.normal(size=(queries, width))
    whole = np.flatnonzero(~lost)
    targets = [rng.choice(whole, rng.integers(1, 3)).tolist() for _ in asked]
    without = [rng.choice(items, rng.integers(0, 4)).tolist() for _ in asked]
    found = ranks.ranks(space_of(vectors), asked, targets, without)
    expected = [counted(vectors, *row) for row in zip(asked, targets, without, strict=True)]
    assert found.tolist() == expected


def test_blocks_and_batches_do_not_show(monkeypatch):
    rng = np.random.default_rng(1)
    vectors = models.unit_vectors(rng.normal(size=(700, 24)) + 2)
    vectors[300:350] = vectors[:50]
    queries = models.unit_vectors(vectors[:200] + rng.normal(0, 0.3, (200, 24)))
    targets = [[int(n)] for n in rng.integers(0, 700, 200)]
    without = [[n] for n in range(200)]
    whole = ranks.ranks(space_of(vectors), queries, targets, without)
    monkeypatch.setattr(ranks, "BLOCK", 37)
    monkeypatch.setattr(ranks, "QUERIES", 11)
    monkeypatch.setattr(ranks, "_AGAIN", 5)
    assert ranks.ranks(space_of(vectors), queries, targets, without).tolist() == whole.tolist()
    alone = [
        int(ranks.ranks(space_of(vectors), queries[n : n + 1], targets[n : n + 1], [[n]])[0])
        for n in range(0, 200, 20)
    ]
    assert alone == whole[::20].tolist()
    assert len(set(whole.tolist())) > 50


def test_torch_gives_what_numpy_gives(monkeypatch):
    pytest.importorskip("torch", reason="needs datagen[models]")
    rng = np.random.default_rng(2)
    vectors = models.unit_vectors(rng.integers(-2, 3, (500, 6)) + 0.1)
    vectors[5] = np.nan
    queries = rng.normal(size=(90, 6))
    targets = [[int(n)] for n in rng.integers(6, 500, 90)]
    plain = ranks.ranks(space_of(vectors), queries, targets, [[5]] * 90)
    monkeypatch.setattr(ranks, "_device", lambda: "cpu")
    assert ranks.ranks(space_of(vectors), queries, targets, [[5]] * 90).tolist() == plain.tolist()


def test_equal_items_put_the_target_last():
    vectors = np.ones((5, 4), np.float32)
    assert ranks.ranks(space_of(vectors), np.ones((1, 4)), [[2]], [[0]]).tolist() == [4]


def test_no_query_has_no_rank():
    assert ranks.ranks(space_of(np.ones((5, 4), np.float32)), np.zeros((0, 4)), [], []).size == 0


def test_queries_of_another_width_are_told():
    with pytest.raises(DatagenError, match="3 dimensions cannot be compared in a space of 4"):
        ranks.ranks(space_of(np.ones((5, 4), np.float32)), np.ones((1, 3)), [[0]], [[]])
