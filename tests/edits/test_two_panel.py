"""Both pictures of a row as halves of one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import painting
import pytest
from painting import answers, member, row, table

from datagen.edits._calls import Call
from datagen.edits._pipelines import load
from datagen.edits.two_panel import TwoPanel, TwoPanelSettings

pytest.importorskip("diffusers", reason="needs datagen[diffusion]")
import tiny_diffusers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_diffusers.tiny_stable_diffusion(tmp_path_factory.mktemp("panels"))


def test_the_pictures_are_the_halves_of_one(model: str, tmp_path: Path) -> None:
    told = {"guidance": 4.0, "size": (64, 32)}
    operator = painting.opened(TwoPanel, "two_panel", tmp_path, model=model, **told)
    (line,) = answers(operator, table(row("a")))
    left, right = (painting.pixels(line, side) for side in painting.SIDES)
    assert left.shape == right.shape == (32, 64, 3)
    record = json.loads(line["edit"])
    assert record["prompt"].endswith("Left: a red dog on the grass Right: a red cat on the grass")
    settings = TwoPanelSettings(model=model, steps=2, device="cpu", size=(64, 32))
    call = Call(record["prompt"], record["seed"], size=(128, 32), drawn={"guidance": 4.0})
    whole = load(settings, "text")([call, call])[0].pixels
    assert np.abs(np.concatenate([left, right], axis=1) - whole * 255).max() <= 0.51
    captions = [line[side][0]["caption"] for side in painting.SIDES]
    assert captions == ["a red dog on the grass", "a red cat on the grass"]
    assert line["references"][0]["id"] is None
    assert line["evidence"]["operator"] == "two_panel"


def test_the_size_of_a_half_is_the_pipelines_own(model: str, tmp_path: Path) -> None:
    operator = painting.opened(TwoPanel, "two_panel", tmp_path, model=model, size=None)
    (line,) = answers(operator, table(row("a")))
    assert painting.pixels(line).shape == (64, 64, 3)


def test_rows_without_two_captions_are_rejected(model: str, tmp_path: Path) -> None:
    operator = painting.opened(TwoPanel, "two_panel", tmp_path, model=model)
    rows = table(
        row("a", references=[member(None, None)]),
        row("b", targets=[member("", None)]),
        row("c", targets=[member("A red dog on the grass", None)]),
    )
    rules = {"a": "no_caption", "b": "no_caption", "c": "same_caption"}
    assert painting.told(operator, rows) == rules


def test_it_reads_no_picture(model: str) -> None:
    operator = TwoPanel(TwoPanelSettings(model=model))
    assert "items.media" not in operator.needs("pairs")
    assert {"pairs", "items.captions"} <= operator.needs("pairs")
