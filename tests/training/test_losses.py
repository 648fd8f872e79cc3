"""Losses against loops over every query, target and negative, and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs datagen[models]")

from datagen.training import losses  # noqa: E402
from datagen.training.losses import Candidates, Contrast, LossSettings  # noqa: E402


def unit(*shape: int, seed: int = 0) -> Any:
    made = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=made), dim=-1)


def one_each(n: int, d: int = 6, seed: int = 1) -> Candidates:
    """One target for each query, nothing else."""
    ids = torch.arange(1, n + 1)
    none = torch.full((n, 1), -1)
    own = torch.arange(n)[:, None]
    return Candidates(unit(n, d, seed=seed), ids, own, none, none, ids[:, None])


def in_loops(queries: Any, some: Candidates, given: LossSettings) -> list[float]:
    """The loss of each query by its definition, in float64 and plain Python."""
    scores = (queries.double() @ some.vectors.double().T / given.temperature).tolist()
    n, c = len(queries), len(some.vectors)
    targets = [[t for t in row if t >= 0] for row in some.targets.tolist()]
    right = [set(row) - {0} for row in some.right.tolist()]
    ids = some.ids.tolist()

    def pool(query: int) -> set[int]:
        found = {target for row in targets for target in row}
        for name in ("references", "negatives"):
            rows = [[t for t in row if t >= 0] for row in getattr(some, name).tolist()]
            whose = getattr(given, name)
            found |= {t for row in rows for t in row} if whose == "all" else set()
            found |= set(rows[query]) if whose == "own" else set()
        return found

    def lost(own: float, negatives: list[float]) -> float:
        hard = [math.exp(given.beta * one) for one in negatives]
        weights = [len(hard) * one / sum(hard) for one in hard]
        below = sum(w * math.exp(s) for w, s in zip(weights, negatives, strict=True))
        return -math.log(math.exp(own) / (given.alpha * math.exp(own) + below))

    out = []
    for query in range(n):
        each = []
        for target in targets[query]:
            wrong = [k for k in range(c) if k in pool(query) and ids[k] not in right[query]]
            wrong = [k for k in wrong if k not in targets[query]]
            value = lost(scores[query][target], [scores[query][k] for k in wrong])
            if given.both:
                others = [q for q in range(n) if q != query and ids[target] not in right[q]]
                back = lost(scores[query][target], [scores[q][target] for q in others])
                value = (value + back) / 2
            each.append(value)
        out.append(sum(each) / len(each))
    return out


@st.composite
def batches(draw: Callable[..., Any]) -> tuple[Any, Candidates]:
    """Queries with several targets, references and negatives, among items that come again."""
    n, c = draw(st.integers(2, 5)), draw(st.integers(3, 9))
    ids = draw(st.lists(st.integers(1, 6), min_size=c, max_size=c))
    one = st.integers(-1, c - 1)

    def lists(least: int) -> Any:
        rows = [draw(st.lists(one, min_size=2, max_size=2)) for _ in range(n)]
        for row in rows if least else []:
            row[0] = draw(st.integers(0, c - 1))
        return torch.tensor(rows)

    targets = lists(1)
    right = torch.tensor([[ids[t] if t >= 0 else 0 for t in row] for row in targets.tolist()])
    more = torch.tensor(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))[:, None]
    made = Candidates(
        unit(c, 4, seed=draw(st.integers(0, 99))),
        torch.tensor(ids),
        targets,
        lists(0),
        lists(0),
        torch.cat([right, more], 1),
    )
    return unit(n, 4, seed=draw(st.integers(100, 199))), made


@given(
    batches(),
    st.sampled_from(["none", "own", "all"]),
    st.sampled_from(["none", "own", "all"]),
    st.booleans(),
    st.sampled_from([(1.0, 0.0), (1.0, 0.5), (0.5, 1.0)]),
)
@settings(max_examples=60)
def test_the_loss_is_that_of_its_definition(
    batch: tuple[Any, Candidates], references: Any, negatives: Any, both: bool, shape: Any
) -> None:
    queries, some = batch
    # A target that is listed twice counts once.
    some = Candidates(**{**vars(some), "targets": distinct(some.targets)})
    wanted = LossSettings(
        alpha=shape[0], beta=shape[1], temperature=0.2, both=both,
        references=references, negatives=negatives,
    )  # fmt: skip
    found = Contrast(wanted)(queries, some)
    known = in_loops(queries, some, wanted)
    np.testing.assert_allclose(found.each, known, rtol=1e-4, atol=1e-4)
    assert float(found.total) == pytest.approx(np.mean(known), rel=1e-4, abs=1e-4)


def distinct(numbers: Any) -> Any:
    rows = [
        [t if t not in row[:at] else -1 for at, t in enumerate(row)] for row in numbers.tolist()
    ]
    return torch.tensor(rows)


def test_plain_batches_lose_the_cross_entropy_of_both_directions() -> None:
    queries, some = unit(8, 6), one_each(8)
    scores = queries @ some.vectors.T / 0.07
    own = torch.arange(8)
    cross = torch.nn.functional.cross_entropy
    found = Contrast(LossSettings())(queries, some).total
    assert float(found) == pytest.approx(float(cross(scores, own) + cross(scores.T, own)) / 2)
    one_way = Contrast(LossSettings(both=False))(queries, some).total
    assert float(one_way) == pytest.approx(float(cross(scores, own)))


def test_equal_scores_lose_the_logarithm_of_their_number() -> None:
    vectors = torch.ones(5, 1)
    some = Candidates(**{**vars(one_each(5, 1)), "vectors": vectors})
    for beta in (0.0, 0.5, 3.0):
        found = Contrast(LossSettings(beta=beta))(vectors, some)
        assert found.each.tolist() == pytest.approx([math.log(5)] * 5)


def test_a_query_near_its_reference_loses_by_it() -> None:
    vectors = torch.eye(4)
    none = torch.full((2, 1), -1)
    some = Candidates(
        vectors, torch.arange(1, 5), torch.tensor([[0], [1]]), torch.tensor([[2], [3]]), none,
        torch.tensor([[1], [2]]),
    )  # fmt: skip
    queries = torch.nn.functional.normalize(vectors[:2] + vectors[2:], dim=-1)
    with_them = Contrast(LossSettings(both=False))(queries, some).total
    without = Contrast(LossSettings(both=False, references="none"))(queries, some).total
    # Target and own reference are equally near: one bit, and a little for those of the other.
    assert float(with_them) == pytest.approx(math.log(2), abs=1e-3)
    assert float(without) < 1e-3


def test_the_same_target_twice_in_a_batch_is_no_negative() -> None:
    vectors = unit(3, 6)[[0, 0, 1]]
    none = torch.full((3, 1), -1)
    ids = torch.tensor([7, 7, 8])
    some = Candidates(vectors, ids, torch.arange(3)[:, None], none, none, ids[:, None])
    queries = vectors.clone()
    scores = (queries @ vectors.T / 0.07)[0]
    found = Contrast(LossSettings(both=False))(queries, some).each[0]
    wanted = torch.nn.functional.cross_entropy(scores[[0, 2]][None], torch.tensor([0]))
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32"])
def test_sharp_temperatures_stay_finite_in_half_precision(kind: str) -> None:
    queries = unit(6, 8).to(getattr(torch, kind)).requires_grad_()
    some = one_each(6, 8)
    some = Candidates(**{**vars(some), "vectors": some.vectors.to(queries.dtype)})
    for given_ in (
        LossSettings(temperature=0.002, beta=1),
        LossSettings(alpha=0, temperature=0.01),
    ):
        contrast = Contrast(given_)
        with torch.autocast("cpu", torch.bfloat16):
            found = contrast(queries, some).total
        (gradient,) = torch.autograd.grad(found, queries)
        assert found.dtype == torch.float32
        assert bool(torch.isfinite(found))
        assert bool(torch.isfinite(gradient).all())
        wide = contrast(queries.detach().float(), some).total
        assert found.item() == pytest.approx(wide.item(), rel=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_batch_of_one_loses_nothing(alpha: float) -> None:
    queries = unit(1, 6).requires_grad_()
    found = Contrast(LossSettings(alpha=alpha))(queries, one_each(1)).total
    found.backward()
    assert found.item() == 0
    assert queries.grad is not None
    assert not queries.grad.any()


def test_weights_make_the_mean_and_a_learned_temperature_moves() -> None:
    queries, some = unit(4, 6), one_each(4)
    contrast = Contrast(LossSettings(learned=True))
    found = contrast(queries, some)
    weighted = contrast(queries, some, torch.tensor([0.0, 2.0, 1.0, 0.0]))
    each = found.each.tolist()
    assert float(weighted.total) == pytest.approx((2 * each[1] + each[2]) / 3, rel=1e-5)
    assert weighted.each.tolist() == pytest.approx(each)
    assert float(contrast(queries, some, torch.zeros(4)).total) == 0
    found.total.backward()
    assert contrast.log_scale.grad is not None
    assert not list(Contrast(LossSettings()).parameters())


@pytest.mark.parametrize("begin", [0.01, 0.002, 0.07])
def test_a_learned_temperature_comes_back_from_its_bound(begin: float) -> None:
    contrast = Contrast(LossSettings(temperature=begin, learned=True))
    contrast.log_scale.data.fill_(12)
    # Each query has the target of the next one: any sharpness is too much.
    queries = unit(4, 6)
    contrast(queries, Candidates(**{**vars(one_each(4)), "vectors": -queries})).total.backward()
    assert float(contrast.scale()) == pytest.approx(max(100, 1 / begin), rel=1e-5)
    assert contrast.log_scale.grad > 0, "a step of descent lowers it"


def test_captions_of_targets_are_a_second_loss() -> None:
    queries, some, captions = unit(5, 6), one_each(5), unit(5, 6, seed=9)
    there = torch.tensor([True, True, False, True, True])
    contrast = Contrast(LossSettings(caption=0.5))
    found = contrast(queries, some, None, captions, there)
    rows = there.nonzero()[:, 0]
    scores = queries[rows] @ captions[rows].T / 0.07
    cross, own = torch.nn.functional.cross_entropy, torch.arange(4)
    wanted = float(cross(scores, own) + cross(scores.T, own)) / 2
    assert float(found.parts["caption"]) == pytest.approx(wanted, rel=1e-5)
    assert float(found.total) == pytest.approx(float(found.parts["contrast"]) + wanted / 2)
    none = contrast(queries, some, None, captions, torch.zeros(5, dtype=torch.bool))
    assert float(none.total) == pytest.approx(float(none.parts["contrast"]))


def test_a_query_without_a_target_is_an_error() -> None:
    some = one_each(3)
    some = Candidates(**{**vars(some), "targets": torch.tensor([[0], [-1], [2]])})
    with pytest.raises(ValueError, match="query 1"):
        Contrast(LossSettings())(unit(3, 6), some)


def test_numbers_shared_by_rows_leave_zero_out() -> None:
    one, other = torch.tensor([[1, 0], [2, 3]]), torch.tensor([[0], [3], [1]])
    assert losses.shared(one, other).tolist() == [[False, False, True], [False, True, False]]
