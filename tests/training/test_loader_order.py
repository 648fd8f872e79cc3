"""The order of epochs, against plain Python and counting."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.training.order import Plan, units

#: Triplets as (pair, targets).
ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.lists(st.sampled_from("uvwxyz"), min_size=1,
              max_size=3, unique=True)), min_size=1, max_size=25,
)  # fmt: skip


def made(rows, by="triplet"):
    pairs = pa.chunked_array([pa.array([pair for pair, _ in rows], pa.string())])
    kind = pa.list_(pa.string())
    middle = len(rows) // 2
    targets = pa.chunked_array(
        [pa.array([t for _, t in part], kind) for part in (rows[:middle], rows[middle:])], kind
    )
    shards = np.arange(len(rows), dtype=np.int32) // 4
    return units(by, pairs, targets, shards)


@given(ROWS)
def test_units_are_the_groups_of_plain_python(rows):
    wanted = {
        "triplet": {(n,): {(n, -1)} for n in range(len(rows))},
        "pair": defaultdict(set),
        "target": defaultdict(set),
    }
    for number, (pair, targets) in enumerate(rows):
        wanted["pair"][pair].add((number, -1))
        for at, target in enumerate(targets):
            wanted["target"][target].add((number, at))
    for by, groups in wanted.items():
        found = made(rows, by)
        members = list(zip(found.rows.tolist(), found.targets.tolist(), strict=True))
        starts = found.starts.tolist()
        parts = [members[a:b] for a, b in itertools.pairwise(starts)]
        assert Counter(map(frozenset, parts)) == Counter(map(frozenset, groups.values()))
        assert sum(map(len, parts)) == sum(map(len, groups.values()))
        assert [part[0][0] // 4 for part in parts] == found.shards.tolist()


@given(ROWS, st.sampled_from(["triplet", "pair", "target"]), st.integers(0, 99), st.integers(0, 3))
def test_an_epoch_holds_every_unit_once_and_members_take_turns(rows, by, seed, window):
    own = made(rows, by)
    plan = Plan([own], seed=seed, window=window)
    sizes = np.diff(own.starts)
    group_of = {
        (row, target): group
        for group, (a, b) in enumerate(zip(own.starts, own.starts[1:], strict=False))
        for row, target in zip(own.rows[a:b].tolist(), own.targets[a:b].tolist(), strict=True)
    }
    seen = Counter()
    for epoch in range(int(sizes.max())):
        samples = plan.epoch(epoch)
        assert (samples == Plan([own], seed=seed, window=window).epoch(epoch)).all()
        members = [tuple(one) for one in samples[:, 1:].tolist()]
        assert sorted(group_of[one] for one in members) == list(range(len(own)))
        seen.update(members)
    assert set(seen) == set(group_of)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.data(),
    st.integers(0, 200),
    st.booleans(),
)
def test_weights_are_kept_in_every_stretch_and_units_come_equally_often(
    sizes, data, samples, shuffle
):
    weights = [data.draw(st.floats(0.05, 10)) for _ in sizes]
    runs = [made([(str(n), ["t"]) for n in range(size)]) for size in sizes]
    plan = Plan(runs, weights, samples, shuffle, seed=1)
    total = samples or sum(sizes)
    shares = np.asarray(weights) / sum(weights)
    counts = plan.counts()
    assert sum(counts) == total == len(plan)
    assert (np.abs(np.asarray(counts) - shares * total) < 1).all()
    seen = Counter()
    for epoch in range(3):
        order = plan.epoch(epoch)
        assert len(order) == total
        seen.update(map(tuple, order[:, :2].tolist()))
        for run, count in enumerate(counts):
            upto = np.cumsum(order[:, 0] == run)
            due = np.arange(1, total + 1) * (count / total)
            # No stretch from the beginning is off by more than two samples per run.
            assert (np.abs(upto - due) <= 2 * len(sizes)).all()
    for run, size in enumerate(sizes):
        often = [seen[run, row] for row in range(size)]
        assert max(often) - min(often) <= 1


def test_shuffling_reaches_every_place():
    """The first sample of 400 epochs of 8 triplets is each of them about 50 times."""
    plan = Plan([made([(str(n), ["t"]) for n in range(8)])], seed=7)
    counts = Counter(int(plan.epoch(epoch)[0, 1]) for epoch in range(400))
    assert set(counts) == set(range(8))
    assert max(abs(count - 50) for count in counts.values()) < 5 * np.sqrt(50 * 7 / 8)


@pytest.mark.parametrize("by", ["pair", "target"])
def test_no_triplets_give_no_units(by):
    pairs = pa.chunked_array([], pa.string())
    targets = pa.chunked_array([], pa.list_(pa.string()))
    assert len(units(by, pairs, targets, np.zeros(0, np.int32))) == 0
