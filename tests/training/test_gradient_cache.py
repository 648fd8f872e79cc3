"""Chunks against the whole batch: the same gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs datagen[models]")

from datagen.training import gradient_cache  # noqa: E402


def network(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    nn = torch.nn
    layers = (nn.Linear(5, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 4))
    return nn.Sequential(*layers)


class Contrast(torch.nn.Module):  # type: ignore[misc]
    """A loss of all with all, with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, queries: Any, targets: Any) -> Any:
        normal = torch.nn.functional.normalize
        scores = normal(queries, dim=1) @ normal(targets, dim=1).T * self.scale
        return torch.nn.functional.cross_entropy(scores, torch.arange(len(queries)))


def gradients(*modules: Any) -> list[Any]:
    return [one.grad for module in modules for one in module.parameters()]


@given(st.integers(1, 13), st.integers(1, 13), st.booleans())
@settings(max_examples=25)
def test_any_chunks_have_the_gradients_of_the_whole(one: int, other: int, shared: bool) -> None:
    torch.manual_seed(7)
    queries, targets = torch.randn(12, 5), torch.randn(12, 5)

    def encoders() -> tuple[Any, Any, Any]:
        first = network()
        return first, first if shared else network(), Contrast()

    query, target, loss = encoders()
    whole = loss(query(queries), target(targets))
    whole.backward()
    query_, target_, loss_ = encoders()
    cached = gradient_cache.step(
        [query_, target_], [queries.split(one), targets.split(other)], loss_
    )
    assert cached.item() == pytest.approx(whole.item(), abs=1e-6)
    pairs = zip(gradients(query, target, loss), gradients(query_, target_, loss_), strict=True)
    for known, found in pairs:
        np.testing.assert_allclose(found, known, atol=1e-6)


def test_dropout_drops_the_same_in_both_passes() -> None:
    queries, targets = torch.randn(9, 5), torch.randn(9, 5)
    one, other, loss = network(0.5), network(0.5), Contrast()
    torch.manual_seed(11)
    found = [torch.cat([net(part) for part in rows.split(4)])
             for net, rows in ((one, queries), (other, targets))]  # fmt: skip
    known = loss(*found)
    known.backward()
    wanted = gradients(one, other, loss)
    one, other, loss = network(0.5), network(0.5), Contrast()
    torch.manual_seed(11)
    lost = gradient_cache.step([one, other], [queries.split(4), targets.split(4)], loss)
    after = torch.rand(1)
    assert lost.item() == pytest.approx(known.item(), abs=1e-6)
    for a, b in zip(wanted, gradients(one, other, loss), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    torch.manual_seed(11)
    for net, rows in ((one, queries), (other, targets)):
        for part in rows.split(4):
            net(part)
    assert torch.equal(after, torch.rand(1)), "random numbers go on as after one pass"


def test_gradients_add_up_and_are_scaled_as_asked() -> None:
    rows = torch.randn(6, 5)
    net, loss = network(), Contrast()
    for _ in range(2):
        gradient_cache.step([net, net], [rows.split(2), rows.split(3)], loss)
    twice = [one.clone() for one in gradients(net, loss)]
    net.zero_grad()
    loss.zero_grad()
    given_ = {"scaled": lambda total: total * 2}
    gradient_cache.step([net, net], [rows.split(2), rows.split(3)], loss, **given_)
    for a, b in zip(twice, gradients(net, loss), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_weights_cast_without_a_graph_get_their_gradients_all_the_same() -> None:
    rows = torch.randn(6, 5)
    found = []
    for size in (6, 2):
        net, loss = network(), Contrast()
        with torch.autocast("cpu", torch.bfloat16):
            gradient_cache.step([net, net], [rows.split(size), rows.split(size)], loss)
        found.append(gradients(net, loss))
    for whole, chunks in zip(*found, strict=True):
        assert bool(whole.any())
        np.testing.assert_allclose(whole, chunks, atol=2e-2)


def test_all_but_the_last_chunk_are_quiet() -> None:
    rows, seen, inside = torch.randn(6, 5), [], [False]
    net, loss = network(), Contrast()

    @contextlib.contextmanager
    def quiet() -> Iterator[None]:
        inside[0] = True
        yield
        inside[0] = False

    net[0].weight.register_hook(lambda _: seen.append(inside[0]))
    gradient_cache.step([net, net], [rows.split(2), rows.split(3)], loss, quiet=quiet)
    assert seen == [True, True, True, True, False]


def test_a_frozen_encoder_is_left_alone() -> None:
    rows = torch.randn(6, 5)
    net, fixed, loss = network(), network(), Contrast()
    fixed.requires_grad_(False)
    gradient_cache.step([net, fixed], [rows.split(2), rows.split(2)], loss)
    assert all(one is None for one in gradients(fixed))
    assert all(bool(one.any()) for one in gradients(net))
