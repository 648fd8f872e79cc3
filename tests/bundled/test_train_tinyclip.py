"""How bundled:tinyclip is made: its words, its scenes, its losses, and a training of four steps."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import models

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
open_clip = pytest.importorskip("open_clip", reason="needs datagen[models]")

from datagen.bundled import _figures, _losses, _open_clip, _scenes, train_tinyclip  # noqa: E402
from datagen.sources.tinyworld import oracle  # noqa: E402
from datagen.sources.tinyworld.captions import captions, parse, parsed  # noqa: E402
from datagen.sources.tinyworld.events import Clip, scene_of  # noqa: E402
from datagen.sources.tinyworld.family import drawn  # noqa: E402
from datagen.sources.tinyworld.noise import Noise  # noqa: E402
from datagen.sources.tinyworld.scene import BACKGROUNDS, POSITIONS, Scene, Thing  # noqa: E402

WORDS = _scenes.vocabulary()
WORLD = _scenes.World(5, 256, clips=0.3)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> _scenes.Examples:
    folder = str(tmp_path_factory.mktemp("scenes"))
    return _scenes.render(WORLD, train_tinyclip.GEOMETRY, folder, 1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _open_clip.word_tokenizer(WORDS, train_tinyclip.CONTEXT)


# ---------------------------------------------------------------- words


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    index=st.integers(0, 10**5),
    things=st.integers(1, 4),
    clips=st.booleans(),
    noise=st.sampled_from([Noise(), Noise(omit=1), Noise(misname=1), Noise(contradict=1)]),
)
def test_every_caption_is_made_of_words_that_the_model_has(
    seed: int, index: int, things: int, clips: bool, noise: Noise
) -> None:
    scene = drawn(seed, index, max_objects=things, clips=float(clips))
    for text in captions(scene, seed, 3, noise)[0]:
        assert set(re.findall(r"\w+|[^\w\s]", text)) <= set(WORDS)


def test_every_word_that_the_model_has_is_said_somewhere() -> None:
    said: set[str] = set()
    for index in range(0, 6000, 3):
        scene = drawn(3, index, max_objects=4, clips=0.5)
        # "an" is said only where a size is left out.
        for text in captions(scene, 3, 3, Noise(omit=0.5))[0]:
            said |= set(re.findall(r"\w+|,", text))
    assert set(WORDS) == said


def test_a_text_is_its_words_between_two_ends_and_padding(tokenizer: Any) -> None:
    tokens = tokenizer("Two RED-ish stars, a ring!").input_ids
    told = tokenizer.convert_ids_to_tokens(tokens)
    assert told == ["[BOS]", "two", "red", "[UNK]", "stars", ",", "a", "ring", "[EOS]"]
    assert tokenizer.pad_token_id == 0
    assert max(tokens) == tokens[-1] == len(tokenizer) - 1


def test_the_longest_caption_fits(tokenizer: Any) -> None:
    lengths = []
    for index in range(4000):
        scene = drawn(9, index, max_objects=4, clips=0.5)
        if len(scene.scene.objects) == 4:
            texts = captions(scene, 9, 3, Noise(contradict=1))[0]
            lengths += [len(ids) for ids in tokenizer(texts).input_ids]
    assert max(lengths) <= train_tinyclip.CONTEXT


# ---------------------------------------------------------------- scenes


def told_cells(text: str) -> set[tuple[Any, ...]]:
    told = parse(text)
    assert told is not None
    return {
        (t["position"], t["shape"], t["colour"], t["size"], t.get("texture", "plain"), t["count"])
        for t in told.things
    }


def cells(row: Any) -> set[tuple[Any, ...]]:
    found = set()
    grid = row[:-1].reshape(len(POSITIONS), -1)
    for position, values in zip(POSITIONS, grid, strict=True):
        if values[0] != _scenes.NOTHING:
            kinds = zip(_scenes.SLOTS.values(), values, strict=True)
            found.add((position, *(kind[at] for kind, at in kinds)))
    return found


def test_the_truth_of_a_picture_is_what_its_captions_tell(examples: _scenes.Examples) -> None:
    images = np.flatnonzero(examples.number == 1)
    assert len(images) > 100
    for at in images:
        for text in examples.right[at]:
            assert cells(examples.truth[at]) == told_cells(text)
            told = parse(text)
            assert told is not None
            assert told.ground == BACKGROUNDS[examples.truth[at][-1]]


def test_other_captions_are_wrong_unless_they_are_marked_incomplete(
    examples: _scenes.Examples,
) -> None:
    seen = {True: 0, False: 0}
    for at in np.flatnonzero(examples.number == 1):
        ground = BACKGROUNDS[examples.truth[at][-1]]
        order = ("position", "shape", "colour", "size", "texture", "count")
        things = [Thing(**dict(zip(order, c, strict=True))) for c in cells(examples.truth[at])]
        scene = Scene(tuple(things), ground)
        for text, partial in zip(examples.other[at], examples.partial[at], strict=True):
            assert oracle.fits(scene, text) == partial
            seen[bool(partial)] += 1
    assert min(seen.values()) > 20


def test_no_picture_of_a_training_world_is_held_out(examples: _scenes.Examples) -> None:
    for texts in examples.right:
        for text in texts:
            told = parsed(text)
            assert told is not None
            scenes = {told.start, told.end, told.scene} if isinstance(told, Clip) else {told}
            assert not any(_scenes.held_out(scene) for scene in scenes)


def test_held_out_is_a_matter_of_content_and_one_in_so_many() -> None:
    scenes = {scene_of(drawn(2, index).shown) for index in range(4000)}
    held = [scene for scene in scenes if _scenes.held_out(scene)]
    assert len(held) / len(scenes) == pytest.approx(1 / _scenes.SHARE, abs=0.03)
    for scene in held:
        assert _scenes.held_out(Scene(scene.objects[::-1], scene.background))


def test_figures_are_of_other_seeds_than_training() -> None:
    assert {_figures.SEED, _figures.SEED + 1}.isdisjoint(_scenes.TRAINING_SEEDS)
    chosen = _figures.distinct(_figures.SEED, 40, held=True)
    assert all(_scenes.held_out(scene.shown) for scene in chosen)
    told = {frozenset(told_cells(captions(scene, 1)[0][0])) for scene in chosen}
    grounds = {(scene.scene.background, frozenset(scene.scene.objects)) for scene in chosen}
    assert len(grounds) == 40 >= len(told)


def test_the_same_world_is_the_same_on_two_processes(
    examples: _scenes.Examples, tmp_path: Path
) -> None:
    small = _scenes.World(5, 64 * 16, clips=0.0)
    geometry = train_tinyclip.GEOMETRY
    one = _scenes.render(small, geometry, str(tmp_path / "one"), 1)
    two = _scenes.render(small, geometry, str(tmp_path / "two"), 2)
    again = _scenes.render(small, geometry, str(tmp_path / "two"), 2)
    for other in (two, again):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.right, one.other) == (other.right, other.other)
    assert len(list((tmp_path / "two").iterdir())) == 2


# ---------------------------------------------------------------- losses and batches


@pytest.fixture(scope="module")
def feed(examples: _scenes.Examples, tokenizer: Any) -> train_tinyclip.Feed:
    return train_tinyclip.Feed(examples, tokenizer, seed=3, size=4, device="cpu")


def test_a_batch_holds_whole_families_with_their_own_captions(
    feed: train_tinyclip.Feed, examples: _scenes.Examples, tokenizer: Any
) -> None:
    batch = feed.batch(2)
    n = len(batch.images)
    unknown = feed.unknown
    own = {tuple(t.input_ids): at for at, row in enumerate(examples.right) for t in
           map(tokenizer, row)}  # fmt: skip
    rows = []
    for tokens in batch.tokens[:n].tolist():
        plain = [token for token in tokens if token not in (0, unknown)]
        rows.append(own[tuple(plain)])
    families = examples.family[rows]
    assert len(set(families.tolist())) == 4
    assert sum(len(one) for one in feed.families if examples.family[one[0]] in families) == n
    assert np.array_equal(batch.truth.numpy(), examples.truth[rows])
    assert np.array_equal(batch.images.numpy(), examples.number[rows] == 1)
    for frame, owner in zip(batch.pixels, batch.owner.tolist(), strict=True):
        start, number = examples.start[rows[owner]], examples.number[rows[owner]]
        pixels = ((frame + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert any((pixels == one).all() for one in examples.pixels[start : start + number])


def test_texts_of_one_length_together_give_what_open_clip_gives(feed: train_tinyclip.Feed) -> None:
    torch.manual_seed(1)
    model, _, _ = train_tinyclip.build(WORDS)
    tokens = feed.batch(0).tokens
    with torch.no_grad():
        mine = _open_clip.encode_text(model.eval(), tokens)
        assert torch.allclose(mine, model.encode_text(tokens), atol=1e-5)


def test_the_reading_loss_is_none_for_the_truth_and_more_for_each_mistake() -> None:
    scene = drawn(4, 7, max_objects=4).scene
    row = torch.from_numpy(_scenes.truth(scene).astype(np.int64))[None]
    parts = []
    for values in row[0, :-1].reshape(len(POSITIONS), -1):
        for at, kind in enumerate(_scenes.SLOTS.values()):
            scores = torch.full((len(kind) + (at == 0),), -50.0)
            scores[values[at]] = 50.0
            parts.append(scores)
    ground = torch.full((len(BACKGROUNDS),), -50.0)
    ground[row[0, -1]] = 50.0
    perfect = torch.cat([*parts, ground])[None]
    assert _losses.read_loss(perfect, row).item() == pytest.approx(0, abs=1e-6)
    worse = row.clone()
    worse[0, -1] = (worse[0, -1] + 1) % len(BACKGROUNDS)
    assert _losses.read_loss(perfect, worse).item() > 10
    there = int((row[0, :-1] != _scenes.NOTHING).nonzero()[0])
    worse = row.clone()
    worse[0, there] = (worse[0, there] + 1) % 10
    assert _losses.read_loss(perfect, worse).item() > 10


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [train_tinyclip.rate(step, 600, 200, 1.0) for step in range(600)]
    assert rates[0] < 0.02
    assert rates[60:400] == [1.0] * 340
    assert all(a > b for a, b in itertools.pairwise(rates[401:]))
    assert 0 < rates[-1] < 0.01


# ---------------------------------------------------------------- training


def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    feed: train_tinyclip.Feed, tmp_path: Path
) -> None:
    def run(work: Path, *lengths: int) -> Any:
        for steps in lengths:
            given = ["--out", "x", "--work", str(work), "--steps", str(steps)]
            args = train_tinyclip.arguments([*given, "--precision", "fp32", "--device", "cpu"])
            torch.manual_seed(args.seed)
            model, _, _ = train_tinyclip.build(WORDS)
            train_tinyclip.train(model, feed, args)
        return model

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The rate of the first steps does not depend on how many there will be.
        whole = run(tmp_path / "whole", 6)
        parts = run(tmp_path / "parts", 4, 6)
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_script_writes_a_folder_with_a_card(tmp_path: Path) -> None:
    out = tmp_path / "small"
    train_tinyclip.main(
        ["--out", str(out), "--scenes", "256", "--steps", "2", "--families", "2",
         "--measured", "20", "--processes", "1", "--device", "cpu"]
    )  # fmt: skip
    names = {path.name for path in out.iterdir()}
    assert {"open_clip_model.safetensors", "open_clip_config.json", "tokenizer.json",
            "README.md", "facts.yaml"} <= names  # fmt: skip
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    assert model.visual.image_size in (64, (64, 64))
    assert "--steps 2 " in (out / "README.md").read_text()
