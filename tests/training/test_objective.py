"""Batches through models and losses: whole, in chunks, and as training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datagen import models
from datagen.errors import DatagenError

torch = pytest.importorskip("torch", reason="needs datagen[models]")
models.prepare()

from datagen.training import composers, towers  # noqa: E402
from datagen.training.losses import Contrast, LossSettings  # noqa: E402
from datagen.training.model import Model, Pictures  # noqa: E402
from datagen.training.objective import Objective, candidates  # noqa: E402

ALL: list[dict[str, Any]] = [
    {"op": "sum", "learned": True},
    {"op": "combiner", "projection": 1, "hidden": 1, "dropout": 0},
    {"op": "inversion", "hidden": 1, "dropout": 0},
    {"op": "fusion", "layers": 1, "heads": 2, "dropout": 0},
]


def batch(seed: int = 0) -> dict[str, Any]:
    """Five samples over eight media: shared references, a clip, a text alone, a reference alone,
    two targets, negatives, and one target that is a vector."""
    random = np.random.default_rng(seed)
    counts = [1, 3, 1, 1, 2, 1, 1, 1]
    return {
        "pixels": torch.from_numpy(random.integers(0, 256, (11, 64, 64, 3), dtype=np.uint8)),
        "counts": torch.tensor(counts),
        "items": torch.tensor([11, 12, 13, 14, 15, 16, 13, 17]),
        "references": torch.tensor([[0, -1], [0, 1], [-1, -1], [4, -1], [7, -1]]),
        "targets": torch.tensor([[2, -1], [3, 5], [6, -1], [4, -1], [-1, -1]]),
        "negatives": torch.tensor([[1], [7], [-1], [-1], [0]]),
        "target_ids": torch.tensor([[13, 0], [14, 16], [13, 0], [15, 0], [18, 0]]),
        "target_vectors": torch.cat([torch.zeros(4, 24), torch.ones(1, 24)]),
        "has_vector": torch.tensor([False] * 4 + [True]),
        "texts": ["in red", "a dog", "two cats on the table", None, "a woman"],
        "captions": ["a red dog", None, "two cats", "a man", "a woman on the beach"],
    }


def objective(ref: str, composer: dict[str, Any], parts: Any = "all", **loss: Any) -> Any:
    torch.manual_seed(2)
    found = towers.load(towers.TowerSettings(model=ref, image=parts, text=parts))
    model = Model(found, composers.make(composer, found), composer["op"])
    return Objective(model, Contrast(LossSettings(**loss))).train()


@pytest.mark.parametrize("composer", ALL, ids=lambda one: one["op"])
def test_media_that_are_encoded_once_give_what_they_give_apart(
    tiny_clip: str, composer: dict[str, Any]
) -> None:
    model, given = objective(tiny_clip, composer).model.eval(), batch()
    pictures = Pictures(given["pixels"], given["counts"], given["references"])
    with torch.no_grad():
        ids, told = model.tokenize(given["texts"], (pictures.lists >= 0).any(1))
        queries, media = model.batch(pictures, ids, told)
        frames = given["pixels"].split(given["counts"].tolist())
        apart = Pictures.of([[one.numpy()] for one in frames], (64, 64))
        np.testing.assert_allclose(media, model.targets(apart), atol=1e-6)
        rows = [[frames[n].numpy() for n in row if n >= 0] for row in given["references"].tolist()]
        np.testing.assert_allclose(
            queries, model.queries(Pictures.of(rows, (64, 64)), ids, told), atol=1e-5
        )


@pytest.mark.parametrize("composer", ALL, ids=lambda one: one["op"])
@pytest.mark.parametrize("size", [1, 2, 64])
def test_chunks_have_the_gradients_of_the_whole_batch(
    tiny_clip: str, composer: dict[str, Any], size: int
) -> None:
    weights = torch.tensor([1.0, 0.5, 1.0, 0.2, 1.0])
    given = {"beta": 0.5, "learned": True, "caption": 0.5, "temperature": 0.2}
    whole, chunks = (objective(tiny_clip, composer, **given) for _ in range(2))
    known = whole(batch(), weights)
    known.total.backward()
    found = chunks.cached(batch(), size, weights)
    assert found.total.item() == pytest.approx(known.total.item(), abs=1e-5)
    np.testing.assert_allclose(found.each, known.each, 1e-5, 1e-5)
    assert found.parts.keys() == {"contrast", "caption"}
    theirs = dict(chunks.named_parameters())
    moved = 0
    for name, one in whole.named_parameters():
        if one.grad is None:
            assert theirs[name].grad is None, name
            continue
        moved += 1
        np.testing.assert_allclose(theirs[name].grad, one.grad, 1e-5, 1e-5, err_msg=name)
    assert moved > 20


@pytest.mark.parametrize("composer", ALL, ids=lambda one: one["op"])
def test_mixed_precision_trains_whole_and_in_chunks(
    tiny_clip: str, composer: dict[str, Any]
) -> None:
    plain, whole, chunks = (objective(tiny_clip, composer, temperature=0.2) for _ in range(3))
    known = plain(batch()).total
    known.backward()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = whole(batch()).total
        found = chunks.cached(batch(), 2).total
    mixed.backward()
    for one, module in ((mixed, whole), (found, chunks)):
        assert one.item() == pytest.approx(known.item(), rel=0.05)
        pairs = zip(plain.parameters(), module.parameters(), strict=True)
        both = [(a.grad, b.grad) for a, b in pairs if a.grad is not None]
        flat = [torch.cat([one[side].flatten() for one in both]) for side in (0, 1)]
        assert torch.nn.functional.cosine_similarity(*flat, dim=0).item() > 0.98


def test_candidates_know_their_items_and_the_vectors_that_stand_for_targets() -> None:
    found = candidates(batch(), torch.nn.functional.normalize(torch.randn(8, 24), dim=-1))
    assert found.ids.tolist() == [11, 12, 13, 14, 15, 16, 13, 17, 18]
    assert found.targets[4].tolist() == [-1, -1, 8]
    np.testing.assert_allclose(found.vectors[8], np.full(24, 24**-0.5), atol=1e-6)


def test_vectors_of_another_model_are_one_line() -> None:
    with pytest.raises(DatagenError, match="target vectors of 24 numbers, the model's have 16"):
        candidates(batch(), torch.randn(8, 16))


def test_a_composer_learns_what_its_frozen_towers_cannot_say(tiny_clip: str) -> None:
    found = objective(
        tiny_clip, {"op": "combiner", "dropout": 0}, "none", both=False, temperature=0.02
    )
    random = np.random.default_rng(4)
    pixels = torch.from_numpy(random.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8))
    none = torch.full((8, 1), -1)
    given = {
        **batch(),
        "pixels": pixels,
        "counts": torch.ones(16, dtype=torch.int64),
        "items": torch.arange(1, 17),
        "references": torch.arange(8)[:, None],
        "targets": torch.arange(8, 16)[:, None],
        "negatives": none,
        "target_ids": torch.arange(9, 17)[:, None],
        "has_vector": torch.zeros(8, dtype=torch.bool),
        "texts": ["red", "a dog", "two cats", "blue", "shoes", "a man", "grass", "table"],
        "captions": [None] * 8,
    }
    steps = torch.optim.AdamW(found.model.composer.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        steps.zero_grad()
        lost = found(given)
        lost.total.backward()
        steps.step()
        losses.append(lost.total.item())
    assert losses[0] > 1
    assert losses[-1] < 0.3
