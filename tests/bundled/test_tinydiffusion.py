"""The models that edit and paint and lie in the package: they load in diffusers, and do what their
cards say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from datagen import models

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
diffusers = pytest.importorskip("diffusers", reason="needs datagen[diffusion]")

from datagen.bundled import _card, _edits, _painting  # noqa: E402
from datagen.sources.tinyworld import oracle  # noqa: E402
from datagen.sources.tinyworld.pixels import read_scene  # noqa: E402

NAMES = ("tinyeditor", "tinypainter")
FOLDERS = {name: Path(models.parse(f"bundled:{name}").folder) for name in NAMES}
FACTS: dict[str, Any] = {
    name: yaml.safe_load((folder / "facts.yaml").read_text()) for name, folder in FOLDERS.items()
}
#: Seed of what this test asks for: neither of training nor of the cards.
SEED = 23


@pytest.fixture(scope="module")
def editor() -> Any:
    return _painting.load("bundled:tinyeditor")


@pytest.fixture(scope="module")
def painter() -> Any:
    return _painting.load("bundled:tinypainter")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_listed_small_and_holds_no_code(name: str) -> None:
    assert name in models.bundled()
    files = [path for path in FOLDERS[name].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".yaml", ".md"}


def test_both_share_all_but_the_denoiser() -> None:
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        one, other = (
            {path.name: path.read_bytes() for path in (FOLDERS[name] / part).iterdir()}
            for name in NAMES
        )
        assert one == other


@pytest.mark.parametrize("name", NAMES)
def test_plain_diffusers_finds_the_pipeline_by_itself(name: str) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(FOLDERS[name])
    kinds = {
        "tinyeditor": diffusers.StableDiffusionInstructPix2PixPipeline,
        "tinypainter": diffusers.StableDiffusionPipeline,
    }
    assert type(pipeline) is kinds[name]
    assert pipeline.safety_checker is None
    assert type(pipeline.scheduler) is diffusers.DDIMScheduler
    layers = [one for one in pipeline.unet.attn_processors if "attn2" in one]
    assert len(layers) == 4
    index = json.loads((FOLDERS[name] / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]


@pytest.mark.parametrize("kind", ["colour", "background", "remove"])
def test_edits_are_as_often_right_as_the_card_says(editor: Any, kind: str) -> None:
    asked = _painting.edits(kind, 16, SEED)
    before = [one.picture(one.before) for one in asked]
    pictures = _painting.made(
        editor, [one.text for one in asked], before, 1, _painting.GUIDANCE["tinyeditor"]
    )
    right = np.mean([one.right(row[0]) for one, row in zip(asked, pictures, strict=True)])
    assert right >= FACTS["tinyeditor"]["figures"][kind]["right"] - 0.3


def test_paintings_are_as_often_right_as_the_card_says(painter: Any) -> None:
    asked = _painting.scenes(32, SEED)
    pictures = _painting.made(
        painter, [text for _, text in asked], None, 1, _painting.GUIDANCE["tinypainter"]
    )
    figures = FACTS["tinypainter"]["figures"]["one"]
    agreed = [
        oracle.read_pixels(row[0], scene)["agrees"]
        for (scene, _), row in zip(asked, pictures, strict=True)
    ]
    for name in ("background", "colour", "shape", "position"):
        assert np.mean([one[name] for one in agreed]) >= figures[name] - 0.22


def test_what_comes_out_of_the_autoencoder_is_read_as_before(painter: Any) -> None:
    asked = [_painting._picture(scene, text) for scene, text in _painting.scenes(40, SEED)]
    same = 0
    with torch.no_grad():
        for image in asked:
            pixels = painter.image_processor.preprocess(image)
            latents = painter.vae.encode(pixels).latent_dist.mode()
            back = painter.image_processor.postprocess(painter.vae.decode(latents).sample)[0]
            same += not oracle.difference(read_scene(image), read_scene(back))
    assert same >= 36


def test_the_same_seed_gives_the_same_picture(editor: Any) -> None:
    one = _painting.edits("colour", 1, SEED)[0]
    first, second = (
        _painting.made(editor, [one.text], [one.picture(one.before)], 2, 1.5, steps=3)[0]
        for _ in range(2)
    )
    assert all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("text", ["", "\x00 <|end|> 黒", "star " * 500, "make it {0} %s"])
def test_strange_texts_and_pictures_give_a_picture(editor: Any, painter: Any, text: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    picture = Image.fromarray(noise).resize((_edits.SIDE, _edits.SIDE))
    for pipeline, more in ((editor, [picture]), (painter, None)):
        (images,) = _painting.made(pipeline, [text], more, 1, 2.0, steps=2)
        assert images[0].size == (_edits.SIDE, _edits.SIDE)
        assert np.isfinite(np.asarray(images[0], float)).all()


@pytest.mark.parametrize("name", NAMES)
def test_its_card_tells_the_facts_beside_it(name: str) -> None:
    written = (FOLDERS[name] / "README.md").read_text()
    assert written == _card.card(f"{name}.md.j2", FACTS[name])
