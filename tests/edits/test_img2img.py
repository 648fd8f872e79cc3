"""Variations of pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import painting
import pyarrow as pa
import pytest
from painting import answers, member, row, stored, table

from datagen import schema
from datagen.edits.img2img import Img2img, Img2imgSettings
from datagen.errors import DatagenError

pytest.importorskip("diffusers", reason="needs datagen[diffusion]")
import tiny_diffusers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_diffusers.tiny_stable_diffusion(tmp_path_factory.mktemp("img2img"))


def items(*captions: str | None, folder: Path) -> pa.Table:
    def item(number: int, caption: str | None) -> dict[str, Any]:
        own = stored(folder / f"{number}.png", painting.picture(number))
        none = dict.fromkeys(schema.ITEMS.names)
        captions = [caption] if caption else []
        return none | {"id": f"item-{number}", "media": own, "captions": captions, "labels": "{}"}

    rows = [item(number, caption) for number, caption in enumerate(captions)]
    return pa.Table.from_pylist(rows, schema.ITEMS)


def test_an_item_becomes_a_pair_with_its_variation(model: str, tmp_path: Path) -> None:
    operator = painting.opened(Img2img, "img2img", tmp_path, model=model, strength=(0.5, 1.0))
    assert operator.leaves("items") == "pairs"
    assert operator.leaves("triplets") == "triplets"
    lines = answers(operator, items("a dog", None, "a cat", folder=tmp_path))
    assert {one["id"]: one["rule"] for one in lines} == {
        "item-0": None,
        "item-1": "no_caption",
        "item-2": None,
    }
    (first, _) = (one for one in lines if one["verdict"] == schema.KEPT)
    assert first["references"] is None
    assert first["targets"][0]["caption"] == "a dog"
    assert first["evidence"]["operator"] == "img2img"
    assert "a variation of it, at a strength of 0." in first["evidence"]["reason"]
    record = json.loads(first["edit"])
    assert record["prompt"] == "a dog"
    assert 0.5 <= record["strength"] <= 1
    assert painting.pixels(first).shape == (64, 64, 3)


def test_a_small_strength_stays_near_the_picture(model: str, tmp_path: Path) -> None:
    rows = items("a dog", folder=tmp_path)
    found = []
    for strength in (0.1, 1.0):
        told = {"strength": strength, "steps": 10, "guidance": 1.0}
        operator = painting.opened(
            Img2img, "img2img", tmp_path / str(strength), model=model, **told
        )
        found.append(painting.pixels(answers(operator, rows)[0]).astype(float))
    # What the autoencoder alone makes of the picture.
    import diffusers
    import torch

    folder = model.removeprefix("file:")
    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae")
    given = torch.from_numpy(np.array(painting.picture(0))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        there = vae.decode(vae.encode(given).latent_dist.mode()).sample
    own = ((there[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1) * 255).astype(float)
    near, far = (np.abs(one - own).mean() for one in found)
    assert near < far


def test_a_triplet_gets_a_target_from_its_reference_and_caption(model: str, tmp_path: Path) -> None:
    operator = painting.opened(Img2img, "img2img", tmp_path, model=model, strength=0.9)
    own = member("a red dog", stored(tmp_path / "dog.png", painting.picture(1)))
    (line,) = answers(operator, table(row("a", references=[own])))
    assert line["references"] is None
    assert line["targets"][0]["caption"] == "a red cat on the grass"
    assert line["evidence"]["reason"] == "dog, cat"
    assert json.loads(line["edit"])["prompt"] == "a red cat on the grass"


def test_a_prompt_of_no_words_paints_items_without_captions(model: str, tmp_path: Path) -> None:
    told = {"prompt": "a photo", "strength": 0.5}
    operator = painting.opened(Img2img, "img2img", tmp_path, model=model, **told)
    assert "items.captions" not in operator.needs("items")
    (line,) = answers(operator, items(None, folder=tmp_path))
    assert line["verdict"] == schema.KEPT
    assert line["targets"][0]["caption"] is None


@pytest.mark.parametrize(("strength", "told"), [((0.2, 0.9), "0.2"), (0.0, "0;")])
def test_a_strength_that_leaves_no_step_is_an_error(model: str, strength: Any, told: str) -> None:
    settings = Img2imgSettings(model=model, steps=2, strength=strength)
    (fault,) = Img2img(settings).check()
    assert f"no step left: 2 steps at a strength of {told}" in fault


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"size": 0}, "size: multiples of 8 from 16 to 8192 expected, 0 found"),
        ({"keep": {"model": "bundled:tinyeditor", "count": 1}}, "keep: .*tinyeditor"),
    ],
)
def test_what_cannot_be_is_told_before_the_first_row(
    model: str, wrong: dict[str, Any], told: str
) -> None:
    (fault,) = Img2img(Img2imgSettings(model=model, **wrong)).check()
    assert re.search(told, fault)


def test_a_prompt_of_blanks_is_none(model: str) -> None:
    with pytest.raises(DatagenError, match="prompt: a text expected"):
        Img2img(Img2imgSettings(model=model, prompt="  "))
