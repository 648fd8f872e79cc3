"""Pictures that came out as nothing, and edits that kept nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import panels
import pyarrow as pa
import pytest
import tiny_clips
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from datagen import registry, schema
from datagen.filters import _changes
from datagen.filters.collapsed import CONTRAST, NOISE, STRUCTURE, Collapsed
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.render import render
from datagen.sources.tinyworld.scene import ATTRIBUTES, Dice, changes

Array = np.ndarray[Any, Any]


def operator(**settings: Any) -> Collapsed:
    return panels.opened(Collapsed(Collapsed.Settings(**settings)))


def told(folder: Path, **pictures: Image.Image) -> dict[str, str]:
    """Rule or verdict of each picture as the target of the first one."""
    made = {
        name: panels.member(name, panels.saved(folder, name, one)) for name, one in pictures.items()
    }
    first = next(iter(made.values()))
    rows = panels.pairs([(name, [first], [one]) for name, one in made.items()])
    found = panels.measured(operator(), rows)
    return panels.decided(operator(), panels.scored(rows, found, *Collapsed.scores))


def noise(block: int, size: int = 512, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (size // block, size // block, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.NEAREST)


def test_noise_and_plain_colours_are_found_at_any_size(tmp_path: Path) -> None:
    base = render(drawn(3, 5).scene, 256, "a", "a")
    grain = np.random.default_rng(0).normal(128, 2, (300, 200, 3))
    pictures = {
        "base": base,
        **{f"noise{block}": noise(block) for block in (1, 2, 4, 8)},
        "small_noise": noise(1, 64),
        "black": Image.new("RGB", (640, 480)),
        "one_pixel": Image.new("RGB", (1, 1), (200, 20, 20)),
        "grey": Image.fromarray(grain.astype(np.uint8)),
    }
    expected = {
        "base": "kept", "noise1": "noise", "noise2": "noise", "noise4": "noise", "noise8": "noise",
        "small_noise": "noise", "black": "one_colour", "one_pixel": "one_colour",
        "grey": "one_colour",
    }  # fmt: skip
    assert told(tmp_path, **pictures) == expected


def test_a_broken_reference_is_found_as_well(tmp_path: Path) -> None:
    black = Image.new("RGB", (64, 64))
    assert told(tmp_path, black=black, good=tiny_clips.picture(1))["good"] == "one_colour"


def test_an_edit_of_one_thing_keeps_the_structure(tmp_path: Path) -> None:
    for index in range(8):
        scene = drawn(5, index).scene
        pictures = {"base": render(scene, 160, "a", "a")}
        for attribute in (*ATTRIBUTES, "background"):
            if options := changes(scene, attribute):
                edited = Dice("collapsed", index, attribute).pick(options)
                # Painters round sizes, and give others than they were given.
                pictures[attribute] = render(edited, 144, "a", "a")
        assert set(told(tmp_path, **pictures).values()) == {"kept"}


def reference_term(left: Array, right: Array) -> float:
    """SSIM's contrast and structure of two grey pictures without the sign, window by window."""
    reach = 11
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * 3.0**2))
    weights = np.outer(line, line) / line.sum() ** 2
    found = []
    padded = [np.pad(one, reach, "symmetric") for one in (left, right)]
    for y in range(left.shape[0]):
        for x in range(left.shape[1]):
            a, b = (one[y : y + 2 * reach + 1, x : x + 2 * reach + 1] for one in padded)
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            spread = (weights * (a - mean_a) ** 2).sum() + (weights * (b - mean_b) ** 2).sum()
            both = abs((weights * (a - mean_a) * (b - mean_b)).sum())
            found.append((2 * both + _changes.STEADY) / (spread + _changes.STEADY))
    return float(np.mean(found))


def test_structure_is_ssims_term_computed_window_by_window() -> None:
    left, right = (np.asarray(tiny_clips.picture(seed, (32, 32))) for seed in (1, 2))
    grey = [np.asarray(Image.fromarray(one).convert("L"), float) for one in (left, right)]
    assert _changes.structure(left, right) == pytest.approx(reference_term(*grey), abs=1e-6)


def test_a_thing_keeps_its_structure_on_a_darker_ground() -> None:
    light, dark = (Image.new("RGB", (128, 128), level) for level in ("white", "black"))
    for ground in (light, dark):
        ground.paste((200, 120, 20), (20, 30, 90, 110))
    assert _changes.structure(np.asarray(light), np.asarray(dark)) > 0.8


@given(seed=st.integers(0, 10_000), shift=st.integers(-60, 60))
def test_structure_is_one_of_itself_and_blind_to_a_tone(seed: int, shift: int) -> None:
    picture = np.asarray(tiny_clips.picture(seed, (48, 40))).astype(int) // 2 + 64
    left, right = picture.astype(np.uint8), (picture + shift).astype(np.uint8)
    assert _changes.structure(left, left) == pytest.approx(1)
    assert _changes.structure(left, right) > 0.97
    assert _changes.structure(left, right) == pytest.approx(_changes.structure(right, left))
    assert _changes.noise(left) == pytest.approx(_changes.noise(right), abs=1e-9)


@given(seed=st.integers(0, 1000), level=st.integers(0, 255))
def test_noise_is_high_of_noise_and_none_of_a_plain_picture(seed: int, level: int) -> None:
    rng = np.random.default_rng(seed)
    assert _changes.noise(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)) > 0.9
    assert _changes.noise(np.full((128, 128, 3), level, np.uint8)) == 0
    assert _changes.contrast(np.full((128, 128, 3), level, np.uint8)) == 0


def test_of_several_the_worst_counts_and_broken_rows_say_so(tmp_path: Path) -> None:
    base, other = tiny_clips.picture(1), tiny_clips.picture(9)
    pictures = {"base": base, "copy": base, "other": other, "noise": noise(2, 128)}
    made = {
        name: panels.member(name, panels.saved(tmp_path, name, one))
        for name, one in pictures.items()
    }
    made["text"] = panels.member("text", None, "a dog")
    chosen = [
        ("base", "copy"), ("base", "other"), ("base", "copy other"), ("other base", "copy"),
        ("base", "copy noise"), ("base", "noise"), ("base", "text"),
    ]  # fmt: skip
    rows = panels.pairs(
        [
            (f"{left}-{right}", *([made[one] for one in side.split()] for side in (left, right)))
            for left, right in chosen
        ]
    )
    found = panels.measured(operator(), rows)
    assert panels.measured(operator(), rows, 1) == found
    assert found["base-copy"][STRUCTURE] == 1
    worst = found["base-other"][STRUCTURE]
    assert worst < 0.9
    assert found["base-copy other"][STRUCTURE] == found["other base-copy"][STRUCTURE] == worst
    for name in (NOISE, CONTRAST):
        assert found["base-copy noise"][name] == found["base-noise"][name]
    assert (found["base-text"]["verdict"], found["base-text"]["rule"]) == (
        schema.REJECTED,
        "no_media",
    )


def test_every_bound_can_be_left_out() -> None:
    rows = pa.table(
        {
            "id": list("abcd"),
            STRUCTURE: pa.array([0.05, 0.9, 0.9, None], pa.float64()),
            CONTRAST: pa.array([90.0, 0.0, 90.0, None], pa.float64()),
            NOISE: pa.array([0.1, 0.0, 1.0, None], pa.float64()),
        }
    )
    made = Collapsed(Collapsed.Settings())
    assert panels.decided(made, rows) == {
        "a": "lost_structure", "b": "one_colour", "c": "noise", "d": "failed",
    }  # fmt: skip
    none = {"min_structure": None, "min_contrast": None, "max_noise": None}
    made = Collapsed(Collapsed.Settings(**none))
    assert panels.decided(made, rows) == {"a": "kept", "b": "kept", "c": "kept", "d": "failed"}
    assert Collapsed.rules == set(none)


def test_the_registry_finds_it_and_wrong_settings_are_refused() -> None:
    assert registry.find("filter", "collapsed") is Collapsed
    assert operator().gives("pairs") == {STRUCTURE, CONTRAST, NOISE}
    with pytest.raises(ValidationError):
        Collapsed.Settings(min_structure=2)
