"""How models that edit and paint are trained: scenes, texts, fences, and going on after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen import models

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
pytest.importorskip("diffusers", reason="needs datagen[diffusion]")

from datagen.bundled import (  # noqa: E402
    _autoencoder,
    _denoiser,
    _diffusers,
    _edits,
    _masters,
    _painting,
    _scenes,
    train_tinydiffusion,
)
from datagen.sources.tinyworld import oracle  # noqa: E402
from datagen.sources.tinyworld.captions import parsed_scene  # noqa: E402
from datagen.sources.tinyworld.render import BACKGROUND_RGB  # noqa: E402
from datagen.sources.tinyworld.scene import BACKGROUNDS, POSITIONS, Dice, Scene  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def examples(folder: Path) -> _edits.Examples:
    return _edits.read(_edits.rendered(_edits.World(3, 10, 4), str(folder), 1))


def scene_of(truth: Any) -> Scene:
    there = np.flatnonzero(truth[:-1].reshape(len(POSITIONS), -1)[:, 0] >= 0)
    return Scene(tuple(_edits.thing(truth, at) for at in there), BACKGROUNDS[truth[-1]])


# ---------------------------------------------------------------- scenes and texts


def test_texts_of_training_are_right_and_captions_tell_the_scene(examples: _edits.Examples) -> None:
    assert len(examples.before) > 40
    for before, after, kind, texts in zip(
        examples.before, examples.after, examples.kinds, examples.texts, strict=True
    ):
        one, other = scene_of(examples.truth[before]), scene_of(examples.truth[after])
        changes = oracle.difference(one, other)
        assert [_edits.kind_of(change) for change in changes] == [kind]
        for text in texts:
            said = oracle.says(text, one, other)
            assert said.right
            assert said.complete
            assert said.minimal
    for truth, captions in zip(examples.truth, examples.captions, strict=True):
        for text in captions:
            told = parsed_scene(text)
            assert told is not None
            assert not oracle.difference(scene_of(truth), told)


def test_pictures_show_their_truth(examples: _edits.Examples) -> None:
    right = [
        not oracle.difference(scene_of(truth), _painting.read_scene(_picture(pixels)))
        for truth, pixels in zip(examples.truth, examples.pixels, strict=True)
    ]
    assert np.mean(right) > 0.9


def _picture(pixels: Any) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def test_parts_with_a_thing_are_those_that_are_not_of_the_background(
    examples: _edits.Examples,
) -> None:
    step = _edits.SIDE // _edits.PARTS
    inside, outside = [], []
    for pixels, truth, cells in zip(examples.pixels, examples.truth, examples.cells, strict=True):
        ground = np.asarray(BACKGROUND_RGB[BACKGROUNDS[truth[-1]]], float)
        apart = np.abs(pixels.astype(float) - ground).max(axis=-1) > 60
        shares = apart.reshape(_edits.PARTS, step, _edits.PARTS, step).mean(axis=(1, 3))
        inside += shares[cells >= 0].tolist()
        outside += shares[cells < 0].tolist()
        there = truth[:-1].reshape(len(POSITIONS), -1)[:, 0] >= 0
        assert set(cells[cells >= 0].tolist()) == set(np.flatnonzero(there).tolist())
    # Shapes have corners and holes, and reach a little into the parts beside theirs.
    assert np.mean(inside) > 0.4
    assert np.mean(outside) < 0.05


def test_a_family_changes_nothing_but_what_its_edits_say(examples: _edits.Examples) -> None:
    for before, after, kind in zip(examples.before, examples.after, examples.kinds, strict=True):
        one, other = examples.cells[before], examples.cells[after]
        step = _edits.SIDE // _edits.PARTS
        there = np.kron((one >= 0) | (other >= 0), np.ones((step, step), bool))
        grown = there | np.roll(there, step, 0) | np.roll(there, -step, 0)
        grown = grown | np.roll(grown, step, 1) | np.roll(grown, -step, 1)
        if kind != "background":
            a, b = (examples.pixels[at].astype(int) for at in (before, after))
            assert np.abs(a - b)[~grown].max(initial=0) == 0


def test_nothing_of_training_is_held_out_and_all_figures_are(examples: _edits.Examples) -> None:
    assert not any(_scenes.held_out(scene_of(truth)) for truth in examples.truth)
    for kind in _painting.KINDS:
        for one in _painting.edits(kind, 4):
            assert _scenes.held_out(one.before) or _scenes.held_out(one.after)
            assert [_edits.kind_of(c) for c in oracle.difference(one.before, one.after)] == [kind]
    assert all(_scenes.held_out(scene) for scene, _ in _painting.scenes(10))
    assert _painting.SEED not in _scenes.TRAINING_SEEDS


def test_the_same_world_is_the_same_again(examples: _edits.Examples, tmp_path: Path) -> None:
    again = _edits.read(_edits.rendered(_edits.World(3, 10, 4), str(tmp_path), 2))
    assert np.array_equal(again.pixels, examples.pixels)
    assert again.texts == examples.texts
    assert again.captions == examples.captions


def test_every_word_is_a_token_of_its_own_and_texts_fit(examples: _edits.Examples) -> None:
    words = _diffusers.tokenizer()
    texts = [text for some in (*examples.texts, *examples.captions) for text in some]
    texts += [one.text for kind in _painting.KINDS for one in _painting.edits(kind, 5)]
    texts += [text for _, text in _painting.scenes(50)]
    for text in texts:
        ids = words(text).input_ids
        assert words.unk_token_id not in ids
        assert len(ids) == len(text.replace(",", " ,").split()) + 2 <= _diffusers.LENGTH


def test_answers_are_what_a_text_says() -> None:
    asked = {"kind": _edits._KINDS, "value": _edits._VALUES}
    for kind, text, value in (
        ("colour", "make the star blue", "blue"), ("count", "show three stars", 3),
        ("position", "move the star to the left", "left"),
    ):  # fmt: skip
        before = Scene.of({"objects": [{"shape": "star", "colour": "red", "size": "small",
                                            "position": "top"}],
                           "background": "white"})  # fmt: skip
        (after,) = [
            one for one in _edits.changes(before, kind)
            if value in vars(one.objects[0]).values()
        ]  # fmt: skip
        found = _edits.answers(kind, _scenes.truth(before), _scenes.truth(after), text)
        assert [asked["kind"][found[0]], asked["value"][found[1]]] == [kind, value]
        assert found[2] == _edits.SHAPES.index("star")


def test_an_edit_is_judged_by_all_of_the_picture() -> None:
    for kind in _painting.KINDS:
        for one in _painting.edits(kind, 6):
            after, before = one.picture(one.after), one.picture(one.before)
            seen = _painting.read_scene(after)
            if not oracle.difference(seen, one.after):
                assert one.right(after)
                assert one.kept(after)
            assert not one.right(before)
            other = _edits.changed(one.after, "background", Dice("other", one.text))
            assert other is not None
            assert not one.right(one.picture(other))


# ---------------------------------------------------------------- parts


def test_a_painter_is_the_editor_without_a_reference() -> None:
    torch.manual_seed(0)
    unet = _diffusers.build_unet((16, 32), 16).eval()
    with torch.no_grad():
        unet.conv_in.weight.normal_()
    painter = _diffusers.painters(unet)
    noisy, words = torch.randn(3, 4, 16, 16), torch.randn(3, 8, 16)
    times = torch.tensor([1, 500, 999])
    with torch.no_grad():
        whole = unet(torch.cat([noisy, torch.zeros_like(noisy)], 1), times, words).sample
        assert torch.allclose(painter(noisy, times, words).sample, whole, atol=1e-5)


def test_settled_latents_are_of_one_size_and_decode_to_the_same(
    examples: _edits.Examples,
) -> None:
    torch.manual_seed(0)
    vae = _diffusers.build_vae((8, 8, 8)).eval()
    pictures = _autoencoder.tensors(examples.pixels[:8])
    with torch.no_grad():
        before = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
        _autoencoder.settle(vae, examples.pixels[:8])
        held = vae.encode(pictures).latent_dist
        assert torch.allclose(vae.decode(held.mode()).sample, before, atol=1e-4)
    assert torch.allclose(held.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-2)
    assert torch.allclose(held.mean.std((0, 2, 3)), torch.ones(4), atol=1e-2)
    assert torch.allclose(held.std, torch.full_like(held.std, _diffusers.TOLERATED), atol=1e-5)


def test_masters_step_as_plain_adamw_does_in_float32() -> None:
    torch.manual_seed(0)
    one, other = (torch.nn.Linear(5, 3) for _ in range(2))
    other.load_state_dict(one.state_dict())
    masters = _masters.Masters(one, muon=False)
    adam = torch.optim.AdamW(other.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(5):
        seen = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)) * 1e-2
        one(seen).square().mean().backward()
        masters.step(1e-2)
        adam.zero_grad()
        other(seen).square().mean().backward()
        adam.step()
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def _meet(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    live = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]
    live[0].grad = torch.full((2, 3), 1.0 + 2 * rank)
    if rank:
        live[1].grad = torch.ones(4)
    assert _masters.place() == (rank, 2)
    _masters.shared(live)
    torch.save([one.grad for one in live], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_that_train_together_step_by_the_mean_of_their_gradients(tmp_path: Path) -> None:
    assert _masters.place() == (0, 1)
    torch.multiprocessing.spawn(_meet, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        first, second = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(first, torch.full((2, 3), 2.0))
        assert torch.equal(second, torch.full((4,), 0.5))


# ---------------------------------------------------------------- training


def arguments(folder: Path, steps: int, *more: str) -> Any:
    return train_tinydiffusion.arguments(
        ["--out", str(folder / "out"), "--families", "10", "--vae-steps", "3", "--vae-batch", "4",
         "--text-steps", "2", "--text-batch", "8", "--steps", str(steps), "--batch", "8",
         "--widths", "16", "32", "--text-width", "32", "--text-layers", "1", "--processes", "1",
         "--precision", "fp32", "--measured", "1", "--workers", "1", *more]
    )  # fmt: skip


def test_a_training_goes_on_where_it_stopped(
    examples: _edits.Examples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _diffusers.tokenizer()
    latents = torch.randn(len(examples.pixels), 4, 16, 16).half()
    data = _denoiser.Data.of(examples, latents, words)
    found = []
    for name, stops in (("once", (4,)), ("twice", (2, 4))):
        args = arguments(tmp_path / name, 4)
        Path(args.work).mkdir(parents=True)
        for stop in stops:
            nets = train_tinydiffusion.nets(args, words)
            _denoiser.train(nets, data, args, until=stop)
        found.append(nets.state_dict())
    assert "goes on from step 2" in capsys.readouterr().out
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-5), name


def test_the_whole_script_writes_two_models_with_their_cards(tmp_path: Path) -> None:
    args = arguments(tmp_path, 2, "--workers", "2")
    train_tinydiffusion.run(args)
    for name in ("tinyeditor", "tinypainter"):
        folder = Path(args.out) / name
        assert {path.name for path in folder.iterdir()} == {
            "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae",
            "README.md", "facts.yaml",
        }  # fmt: skip
        assert models.revision(models.parse(f"file:{folder}"))
        assert "2 steps of 8, 66 in 100 of them edits" in (folder / "README.md").read_text()
        held = {path.name for path in Path(args.out).iterdir()}
        assert held == {"tinyeditor", "tinypainter"}
