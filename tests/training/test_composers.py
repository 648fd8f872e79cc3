"""Composers: what they make of references and texts, together and alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import models

torch = pytest.importorskip("torch", reason="needs datagen[models]")
models.prepare()

from datagen.training import composers, towers  # noqa: E402
from datagen.training.composers import sum as weighted  # noqa: E402
from datagen.training.model import Model, Pictures  # noqa: E402

ALL: list[dict[str, Any]] = [
    {"op": "sum"},
    {"op": "sum", "how": "slerp", "weight": 0.7},
    {"op": "sum", "how": "slerp", "learned": True},
    {"op": "sum", "learned": True, "weight": 0.3},
    {"op": "combiner", "projection": 2, "hidden": 2},
    {"op": "inversion", "words": 2, "hidden": 2},
    {"op": "fusion", "layers": 1, "heads": 2},
]
NAMES = [" ".join(map(str, one.values())) for one in ALL]
TEXTS = ["in red", None, "a dog on the grass", "two of them", "*** a * b", None]


@pytest.fixture(scope="module")
def frozen(tiny_clip: str) -> Any:
    return towers.load(towers.TowerSettings(model=tiny_clip))


def model(frozen: Any, composer: dict[str, Any]) -> Any:
    torch.manual_seed(1)
    return Model(frozen, composers.make(composer, frozen), composer["op"]).eval()


def medium(frames: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8)


#: One reference, a clip, none, two, one, two of which one is a clip.
ROWS = [[medium(1, 0)], [medium(3, 1)], [], [medium(1, 2), medium(1, 3)], [medium(1, 4)],
        [medium(2, 5), medium(1, 6)]]  # fmt: skip


def asked(found: Any, order: list[int], rows: list[Any] = ROWS) -> Any:
    chosen = [rows[n] for n in order]
    ids, told = found.tokenize([TEXTS[n] for n in order], [bool(row) for row in chosen])
    return found.queries(Pictures.of(chosen, (64, 64)), ids, told)


@pytest.mark.parametrize("composer", ALL, ids=NAMES)
def test_a_query_is_the_same_alone_and_in_any_company(
    frozen: Any, composer: dict[str, Any]
) -> None:
    found = model(frozen, composer)
    with torch.no_grad():
        together = asked(found, list(range(6)))
        assert together.shape == (6, frozen.width)
        assert together.dtype == torch.float32
        np.testing.assert_allclose(together.norm(dim=1), 1, atol=1e-5)
        shuffled = asked(found, [4, 1, 5, 0, 3, 2])
        np.testing.assert_allclose(shuffled, together[[4, 1, 5, 0, 3, 2]], atol=1e-5)
        alone = torch.cat([asked(found, [n]) for n in range(6)])
        np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize("composer", ALL, ids=NAMES)
def test_the_order_of_references_does_not_matter(frozen: Any, composer: dict[str, Any]) -> None:
    found = model(frozen, composer)
    with torch.no_grad():
        turned = [row[::-1] for row in ROWS]
        np.testing.assert_allclose(asked(found, [3, 5]), asked(found, [3, 5], turned), atol=1e-5)


@pytest.mark.parametrize("composer", ALL, ids=NAMES)
def test_gradients_reach_the_composer_and_nothing_frozen(
    frozen: Any, composer: dict[str, Any]
) -> None:
    found = model(frozen, composer)
    found.train()
    weights = list(found.composer.named_parameters())
    vectors = asked(found, list(range(6)))
    if not weights:
        assert not vectors.requires_grad
        return
    made = torch.Generator().manual_seed(3)
    (vectors * torch.randn(vectors.shape, generator=made)).sum().backward()
    assert all(one.grad is None for one in frozen.parameters())
    for name, one in weights:
        assert one.grad is not None, name
        assert bool(torch.isfinite(one.grad).all()), name
        assert bool(one.grad.any()), name


@pytest.mark.parametrize("composer", ALL[:4], ids=NAMES[:4])
def test_a_sum_of_one_part_is_that_part(frozen: Any, composer: dict[str, Any]) -> None:
    found = model(frozen, composer)
    with torch.no_grad():
        both = asked(found, [1, 2])
        clip = found.targets(Pictures.of([ROWS[1]], (64, 64)))
        text = found.captions(frozen.tokenize([TEXTS[2] or ""]))
    np.testing.assert_allclose(both, torch.cat([clip, text]), atol=1e-5)


@given(st.integers(0, 999), st.floats(0, 1), st.sampled_from([2, 3, 17]))
@settings(max_examples=40)
def test_slerp_is_the_closed_form(seed: int, share: float, width: int) -> None:
    random = np.random.default_rng(seed)
    start, end = random.normal(size=(2, width))
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    angle = np.arccos(np.clip(start @ end, -1, 1))
    if not 1e-2 < angle < np.pi - 1e-2:
        return
    wanted = (np.sin((1 - share) * angle) * start + np.sin(share * angle) * end) / np.sin(angle)
    one, other = (torch.tensor(v, dtype=torch.float64)[None] for v in (start, end))
    found = weighted.slerp(one, other, torch.tensor([[share]], dtype=torch.float64))[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    # It turns at an even rate, and keeps its length.
    assert float(found.norm()) == pytest.approx(1, abs=1e-5)
    assert np.arccos(np.clip(found.numpy() @ start, -1, 1)) == pytest.approx(
        share * angle, abs=2e-3
    )


def test_slerp_between_equal_and_opposite_vectors_is_finite() -> None:
    start = torch.eye(3)[[0, 0, 0]].requires_grad_()
    end = (torch.eye(3)[[0, 0, 0]] * torch.tensor([[1.0], [-1.0], [0.0]])).requires_grad_()
    found = weighted.slerp(start, end, torch.tensor([[0.5], [0.3], [0.5]]))
    found.sum().backward()
    assert bool(torch.isfinite(found).all())
    assert bool(torch.isfinite(start.grad).all())
    assert bool(torch.isfinite(end.grad).all())
    np.testing.assert_allclose(found[0].detach(), [1, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found[1].detach(), [1, 0, 0], atol=1e-5)


def test_an_inverted_reference_stands_in_the_text_by_hand(frozen: Any) -> None:
    found = model(frozen, {"op": "inversion", "words": 2, "hidden": 2})
    clip, composer = frozen.model, found.composer
    with torch.no_grad():
        vectors = asked(found, [0, 4])
        image = found.targets(Pictures.of([ROWS[0], ROWS[4]], (64, 64)))
        words = composer.network(image).reshape(2, 2, -1)
        for row, text in enumerate(("in red", "*** a * b")):
            before = frozen.tokenize(["a photo of"])[0]
            place = int((before != 0).sum()) - 1
            ids = frozen.tokenize([f"a photo of * * that {text}"])
            states = clip.token_embedding(ids)
            states[0, place : place + 2] = words[row]
            states = clip.transformer(states + clip.positional_embedding, attn_mask=clip.attn_mask)
            end = clip.ln_final(states)[0, int(ids[0].argmax())] @ clip.text_projection
            np.testing.assert_allclose(vectors[row], end / end.norm(), atol=1e-5)


def test_a_text_alone_is_read_without_the_prompt(frozen: Any) -> None:
    found = model(frozen, {"op": "inversion"})
    with torch.no_grad():
        plain = found.captions(frozen.tokenize([TEXTS[2] or ""]))
        np.testing.assert_allclose(asked(found, [2]), plain, atol=1e-6)


@pytest.mark.parametrize("words", [1, 3, 8])
def test_every_tokenizer_has_a_place_for_references(words: int) -> None:
    found = towers.load(towers.TowerSettings(model="bundled:tinyclip"))
    made = composers.make({"op": "inversion", "words": words}, found)
    with_it = found.tokenize([made.prompt("red", True)])[0].tolist()
    without = found.tokenize(["a photo of that red"])[0].tolist()
    at = made._at
    assert with_it[:at] == without[:at]
    assert with_it[at + words : at + words + 2] == without[at : at + 2]


def test_a_combiner_that_adds_nothing_is_the_sum(frozen: Any) -> None:
    found = model(frozen, {"op": "combiner", "projection": 1, "hidden": 1})
    with torch.no_grad():
        for one in (*found.composer.out.parameters(), *found.composer.share[-1].parameters()):
            one.zero_()
        plain = asked(model(frozen, {"op": "sum"}), list(range(6)))
        np.testing.assert_allclose(asked(found, list(range(6))), plain, atol=1e-5)
