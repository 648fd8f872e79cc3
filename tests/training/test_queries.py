"""Queries that a training makes itself: against what is worked out by hand, and through stops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs datagen[models]")

import tiny_shards  # noqa: E402
from tiny_trainings import COMBINER, curve, told  # noqa: E402

from datagen.errors import DatagenError, RecipeError  # noqa: E402
from datagen.training import loop  # noqa: E402
from datagen.training.across import Ranks  # noqa: E402
from datagen.training.loader import Loader, LoaderSettings  # noqa: E402
from datagen.training.loader_settings import named  # noqa: E402
from datagen.training.losses import Candidates, Contrast, LossSettings  # noqa: E402
from datagen.training.objective import candidates  # noqa: E402
from datagen.training.samples import number_of  # noqa: E402
from datagen.training.towers import Words  # noqa: E402
from datagen.training.wording import around  # noqa: E402

NEIGHBOURS = (COMBINER,
              "queries.op=neighbours", "loss.references=none")  # fmt: skip
MASKED = ("composer={op: inversion, hidden: 1}", "queries.op=masked", "loader.media=false",
          "loss.contrast=0", "loss.distance=1")  # fmt: skip
CAPTIONS = ("composer={op: inversion, hidden: 1}", "queries.op=captions", "loader.media=false",
            "model.text=1", "freeze_composer=true", "queries.noise=0")  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """From picture n to picture n + 1; captions are what a scene may be called."""
    folder = tmp_path_factory.mktemp("shards")
    rows = tiny_shards.chain(tiny_shards.Items(folder / "items"), 17, negatives=0)
    for row in rows:
        for one in (*row["references"], *row["targets"]):
            one["caption"] = f"a scene of {one['key']} red cubes"
    return tiny_shards.write(folder / "run", rows)


def begun(shards: str, out: Path, *changes: str) -> loop.Training:
    return loop.Training(named(shards), str(out), told(*changes), "cpu", Ranks(), lambda *_: None)


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ("a red cube", ["a ", ""]),
        ("Red cubes, blue ball", ["", ", ", ""]),
        ("the dog's bone is on the old table.", ["the ", " is on the ", "."]),
        ("two of 3", ["two of 3"]),
        ("", [""]),
    ],
)
def test_keywords_stand_between_the_parts_of_a_caption(caption: str, parts: list[str]) -> None:
    assert around(caption, frozenset({"a", "the", "is", "on", "of", "two"})) == parts


def test_a_word_stands_wherever_a_keyword_stood(shards: str, tmp_path: Path) -> None:
    """With the embedding of `red` as the word, a text is what it is with `red` written out."""
    training = begun(shards, tmp_path, *MASKED)
    towers, composer = training.model.towers, training.model.composer
    split = [["a ", " cube left of a ", " ball"], ["", ""], ["a cube"], ["blue ", " " * 9]]
    ids, slots = composer.masked(towers, split)
    assert slots.sum(1).tolist() == [2, 1, 0, 1]
    red = towers.tokenize(["red"])[0, 1]
    word = towers.embedding()(red[None].to(towers.device))
    words = Words(word.expand(4, 1, -1), 0, torch.ones(4, dtype=torch.bool), slots)
    written = ["a red cube left of a red ball", "red", "a cube", "blue red"]
    with torch.no_grad():
        found = towers.texts(ids, words).pooled
        np.testing.assert_allclose(found, towers.texts(towers.tokenize(written)).pooled, atol=1e-5)


def test_a_reference_stands_between_a_target_and_its_neighbour(shards: str, tmp_path: Path) -> None:
    training = begun(
        shards,
        tmp_path,
        *NEIGHBOURS,
        "queries.share=0.25",
        "queries.templates=['{reference}>{target}']",
    )
    batch = next(training.loader.batches())
    batch["captions"][2] = batch["captions"][3] = "{reference} twice"
    batch["captions"][5] = None
    made = training.hooks["queries"].batch(batch)
    rows = [batch["pixels"][at[0]][None] for at in batch["targets"].tolist()]
    with torch.no_grad():
        model = training.model.eval()
        vectors = [
            torch.nn.functional.normalize(model.towers.images(one).pooled, dim=-1)[0]
            for one in rows
        ]
    for at, own in enumerate(vectors):
        others = [
            (float(own @ other), place)
            for place, other in enumerate(vectors)
            if batch["captions"][place] not in (None, batch["captions"][at])
        ]
        best = max(others)[1]
        angle = math.acos(float(own @ vectors[best]))
        known = (math.sin(0.75 * angle) * own + math.sin(0.25 * angle) * vectors[best]) / math.sin(
            angle
        )
        np.testing.assert_allclose(made["reference_vectors"][at], known, atol=1e-4)
        caption = batch["captions"][at]
        told = None if caption is None else f"{batch['captions'][best]}>{caption}"
        assert made["texts"][at] == told
    assert bool(made["has_reference"].all())
    assert made["references"].shape == (8, 0)


def test_what_has_no_neighbour_is_asked_by_its_caption(shards: str, tmp_path: Path) -> None:
    training = begun(shards, tmp_path, *NEIGHBOURS)
    batch = next(training.loader.batches())
    batch["captions"] = ["the same"] * 8
    made = training.hooks["queries"].batch(batch)
    assert made["texts"] == ["the same"] * 8
    assert not bool(made["has_reference"].any())
    assert "references" in made
    assert bool(torch.isfinite(training.objective(made).total))


def test_captions_are_compared_with_captions(shards: str, tmp_path: Path) -> None:
    """The reference's caption is a hard negative; equal captions are one answer."""
    training = begun(shards, tmp_path, *CAPTIONS)
    batch = next(training.loader.batches())
    assert batch["pixels"].shape[0] == 0
    made = training.hooks["queries"].batch(batch)
    given = candidates(made, torch.zeros(0, training.model.towers.width))
    model = training.model.eval()
    with torch.no_grad():
        texts = [*batch["captions"], *batch["reference_captions"]]
        known = model.captions(model.towers.tokenize(texts))
    np.testing.assert_allclose(given.vectors, known, atol=1e-5)
    np.testing.assert_allclose(made["reference_vectors"], known[8:], atol=1e-5)
    assert given.targets[:, 0].tolist() == list(range(8))
    assert given.negatives[:, 0].tolist() == list(range(8, 16))
    assert given.ids.tolist() == [number_of(text) for text in texts]
    assert given.right[:, 0].tolist() == given.ids[:8].tolist()


@pytest.mark.parametrize(
    ("share", "pictured", "told"),
    [("text_only", False, True), ("captions", False, True), ("image_only", True, False)],
)
def test_queries_of_one_part_have_that_part_alone(
    shards: str, tmp_path: Path, share: str, pictured: bool, told: bool
) -> None:
    training = begun(shards, tmp_path, *CAPTIONS, f"loader.{share}=1")
    batch = training.hooks["queries"].batch(next(training.loader.batches()))
    assert set(batch["has_reference"].tolist()) == {pictured}
    assert {text is not None for text in batch["texts"]} == {told}
    if share == "captions":
        assert batch["texts"] == batch["captions"]


@pytest.mark.parametrize("changes", [NEIGHBOURS, MASKED, CAPTIONS], ids=lambda one: one[1])
def test_chunks_learn_what_the_whole_batch_does(
    shards: str, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    for chunk in ("0", "3"):
        still = told(*changes, "steps=2", "composer.dropout=0", f"chunk={chunk}")
        loop.train([shards], str(tmp_path / chunk), still)
    np.testing.assert_allclose(curve(tmp_path / "3"), curve(tmp_path / "0"), rtol=1e-4)


def test_targets_of_captions_stay_while_the_text_tower_is_trained(
    shards: str, tmp_path: Path
) -> None:
    training = begun(shards, tmp_path, *CAPTIONS)
    hook, batch = training.hooks["queries"], next(training.loader.batches())
    before = hook.batch(batch)["given"]
    with torch.no_grad():
        for one in training.weights.values():
            one.add_(0.1 * torch.randn_like(one))
    assert all(name.startswith("model.towers") for name in training.weights)
    assert torch.equal(hook.batch(batch)["given"], before)
    now = training.model.captions(training.model.towers.tokenize(batch["captions"]))
    assert float((now.detach() - before[:8]).abs().max()) > 1e-3


def test_noise_is_as_long_as_it_says(shards: str, tmp_path: Path) -> None:
    hook: Any = begun(shards, tmp_path, *MASKED, "queries.noise=2").hooks["queries"]
    vectors = torch.nn.functional.normalize(torch.randn(2000, 4096), dim=-1)
    share = 2 * np.random.default_rng(0).random(2000)
    # At a right angle to the vector, so the cosine is that of a triangle with both as sides.
    known = np.sort(1 / np.sqrt(1 + share**2))
    found = np.sort((hook._moved(vectors) * vectors).sum(1).numpy())
    np.testing.assert_allclose(found[100:-100:50], known[100:-100:50], atol=0.05)


def test_without_media_a_sample_is_its_texts(tmp_path: Path) -> None:
    rows = tiny_shards.chain(tiny_shards.Items(tmp_path / "items"), 6, negatives=0)
    rows[2]["targets"][0]["caption"] = None
    run = tiny_shards.write(tmp_path / "run", rows)
    chosen = LoaderSettings(batch_size=6, workers=0, media=False)
    loader = Loader(run, tiny_shards.GEOMETRY, chosen)
    (batch,) = loader.batches()
    assert loader.counts == {"no_caption": 1}
    told = {
        row["modification"]: (row["references"][0]["caption"], row["targets"][0]["caption"])
        for row in rows
    }
    found = zip(batch["texts"], batch["reference_captions"], batch["captions"], strict=True)
    assert len(batch["texts"]) == 5
    assert all(told[text] == (reference, target) for text, reference, target in found)


def test_the_distance_is_that_of_a_query_to_its_targets() -> None:
    unit = torch.nn.functional.normalize(torch.randn(7, 5), dim=-1)
    none = torch.full((2, 1), -1)
    targets, right = torch.tensor([[0, 1], [2, -1]]), torch.tensor([[1, 2], [3, 0]])
    given = Candidates(unit[2:], torch.arange(1, 6), targets, none, none, right)
    lost = Contrast(LossSettings(contrast=0, distance=2))(unit[:2], given)
    first = [1 - float(unit[0] @ unit[2]), 1 - float(unit[0] @ unit[3])]
    known = [2 * sum(first) / 2, 2 * (1 - float(unit[1] @ unit[4]))]
    np.testing.assert_allclose(lost.each, known, rtol=1e-5)
    assert lost.total.item() == pytest.approx(sum(known) / 2, rel=1e-5)


def test_with_its_own_target_alone_a_query_is_a_choice_between_two() -> None:
    """Bradley and Terry: -log sigmoid of the difference to the one negative."""
    unit = torch.nn.functional.normalize(torch.randn(6, 5), dim=-1)
    column = torch.arange(2)[:, None]
    given = Candidates(unit[2:], torch.arange(1, 5), column, column * 0 - 1, column + 2, column + 1)
    chosen = LossSettings(targets="own", both=False, negatives="own", temperature=0.5)
    lost = Contrast(chosen)(unit[:2], given)
    scores = unit[:2] @ unit[2:].T / 0.5
    known = -torch.nn.functional.logsigmoid(scores.diagonal() - scores.diagonal(2))
    np.testing.assert_allclose(lost.each, known, rtol=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("changes", [NEIGHBOURS, MASKED, CAPTIONS], ids=lambda one: one[1])
def test_a_stop_does_not_show(shards: str, tmp_path: Path, changes: tuple[str, ...]) -> None:
    more = ("queries.captions=0.3",) if changes is NEIGHBOURS else ()
    chosen = told(*changes, "steps=4", "checkpoints.every=1", *more)
    loop.train([shards], str(tmp_path / "whole"), chosen)

    def kill(step: int, steps: int, values: Any) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        loop.train([shards], str(tmp_path / "cut"), chosen, kill)
    loop.train([shards], str(tmp_path / "cut"), chosen)
    whole = curve(tmp_path / "whole")
    assert curve(tmp_path / "cut") == whole
    assert len(set(whole)) > 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((*NEIGHBOURS, "composer={op: fusion}"), "reads the tokens of references"),
        ((*MASKED, "composer={op: combiner}"), "set composer"),
        ((*MASKED, "loader.media=true"), "set loader.media=false"),
        ((*CAPTIONS, "composer={op: fusion}"), "reads the tokens of pictures"),
    ],
)
def test_what_cannot_be_is_said_before_the_first_step(
    shards: str, tmp_path: Path, changes: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DatagenError, match=said):
        begun(shards, tmp_path, *changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("loader.media=false",), "set queries"),
        ((*MASKED, "mining.draw=1"), "drop queries"),
        ((*MASKED, "loader.text_only=0.5"), "queries are made otherwise"),
        ((*NEIGHBOURS, "loader.image_only=0.5"), "set queries.images"),
        ((*CAPTIONS, "loader.negatives=1"), "queries have none of the shards"),
        (("queries.op=nearest",), "nearest"),
        (("queries={op: neighbours, templates: [no places]}",), "is missing in"),
        (("loss.targets=own",), "both: false expected"),
        (("loss.contrast=0",), "above 0 expected"),
        (("mining={draw: 3, keep: 2}",), "no more than keep"),
    ],
)
def test_settings_that_do_not_go_together_are_named(changes: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        told(*changes)
