"""Edits that did nothing, told from small ones: brute force, and a world whose truth is known."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import panels
import pyarrow as pa
import pytest
import tiny_clips
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from pydantic import ValidationError

from datagen import registry, schema
from datagen.filters import _changes
from datagen.filters.unchanged import Unchanged
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.render import render
from datagen.sources.tinyworld.scene import Dice, changes

Array = np.ndarray[Any, Any]
SCORE = "score_changed"


def operator(**settings: Any) -> Unchanged:
    return panels.opened(Unchanged(Unchanged.Settings(**settings)))


def between(folder: Path, left: Image.Image, right: Image.Image, **settings: Any) -> float:
    """The score of a row of two pictures."""
    one, other = panels.saved(folder, "left", left), panels.saved(folder, "right", right)
    rows = panels.pairs([("p", [panels.member("a", one)], [panels.member("b", other)])])
    found: float = panels.measured(operator(**settings), rows)["p"][SCORE]
    return found


def slow(left: Array, right: Array, reach: int) -> Array:
    """The differences of two pictures, place by place."""
    blurred = [
        np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(1)), int)
        for one in (left, right)
    ]
    out = np.zeros(left.shape[:2], int)
    for one, other in (blurred, blurred[::-1]):
        for y in range(out.shape[0]):
            for x in range(out.shape[1]):
                around = other[
                    max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1
                ].reshape(-1, 3)
                away = np.maximum(one[y, x] - around.max(axis=0), around.min(axis=0) - one[y, x])
                out[y, x] = max(out[y, x], away.max())
    return out


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_differences_are_those_of_every_place_looked_at_alone(reach: int) -> None:
    rng = np.random.default_rng(reach)
    left, right = (
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((20, 17))
        )
        for _ in range(2)
    )
    found = _changes.differences(left, right, reach)
    # Pillow leaves a rim of its filter as it is; within it both must agree.
    inner = (slice(reach, 17 - reach), slice(reach, 20 - reach))
    assert np.array_equal(found[inner], slow(left, right, reach)[inner])


@given(seed=st.integers(0, 10_000), reach=st.integers(0, 4))
def test_differences_know_no_direction_and_shrink_with_reach(seed: int, reach: int) -> None:
    left, right = (np.asarray(tiny_clips.picture(2 * seed + at, (40, 32))) for at in range(2))
    found = _changes.differences(left, right, reach)
    assert np.array_equal(found, _changes.differences(right, left, reach))
    assert (_changes.differences(left, right, reach + 1) <= found).all()
    assert not _changes.differences(left, left, reach).any()


def _jpeg(picture: Image.Image) -> Image.Image:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=60)
    return Image.open(out).convert("RGB")


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "itself": lambda picture: picture,
    "another coding": _jpeg,
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "double size": lambda picture: picture.resize((picture.width * 2, picture.height * 2)),
    "other proportions": lambda picture: picture.resize((picture.width, picture.height + 7)),
    "a little blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(0.8)),
    "a little lighter": lambda picture: picture.point(lambda level: min(255, level + 6)),
    "a pixel of its rim cut": lambda picture: picture.crop((1, 1, *picture.size)),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_unchanged(name: str, tmp_path: Path) -> None:
    picture = render(drawn(3, 5).scene, 192, "a", "a")
    assert between(tmp_path, picture, COPIES[name](picture)) < Unchanged.Settings().low


def test_a_hue_of_the_same_brightness_shows(tmp_path: Path) -> None:
    red, green = (Image.new("RGB", (128, 128), (100, 100, 100)) for _ in range(2))
    red.paste((200, 60, 60), (20, 20, 60, 60))
    green.paste((20, 150, 45), (20, 20, 60, 60))
    grey = [np.asarray(one.convert("L"), int) for one in (red, green)]
    assert np.abs(grey[0] - grey[1]).max() <= 3
    found = between(tmp_path, red, green)
    assert found == pytest.approx(40 * 40 / 128**2, rel=0.25)


def test_the_share_is_that_of_the_part_that_changed(tmp_path: Path) -> None:
    ground = Image.new("RGB", (256, 256), (240, 240, 240))
    for side in (32, 64, 128):
        thing = ground.copy()
        thing.paste((20, 40, 200), (64, 64, 64 + side, 64 + side))
        found = between(tmp_path, ground, thing)
        # The blur and the reach take or give a rim of a pixel or two.
        low, high = (side / 2 - 4) ** 2 / 128**2, (side / 2 + 6) ** 2 / 128**2
        assert low <= found <= high


def test_of_several_the_most_alike_count_and_of_clips_the_frame_that_changed(
    tmp_path: Path,
) -> None:
    scene = drawn(3, 5).scene
    base = render(scene, 96, "a", "a")
    other = render(drawn(3, 40).scene, 96, "a", "a")
    made = {
        name: panels.member(name, panels.saved(tmp_path, name, picture))
        for name, picture in {"base": base, "copy": base, "other": other}.items()
    }
    for name, pictures in {"still": [base] * 8, "ends": [base] * 6 + [other] * 2}.items():
        (tmp_path / f"{name}.mp4").write_bytes(tiny_clips.encoded(pictures))
        place = panels.place(tmp_path / f"{name}.mp4", modality="video", format="mp4")
        made[name] = panels.member(name, place)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    made["broken"] = panels.member("broken", panels.place(tmp_path / "broken.png"))
    made["text"] = panels.member("text", None, "a dog")
    chosen = [
        ("base", "other"), ("base", "other copy"), ("other copy", "base"), ("base", "still"),
        ("still", "ends"), ("base", "ends"), ("base", "broken"), ("base", "text"), ("base", ""),
    ]  # fmt: skip
    rows = panels.pairs(
        [
            (f"{left}-{right}", *([made[one] for one in side.split()] for side in (left, right)))
            for left, right in chosen
        ]
    )
    found = panels.measured(operator(), rows)
    for size in (1, 4):
        assert panels.measured(operator(), rows, size) == found
    score = {name: row[SCORE] for name, row in found.items()}
    assert score["base-other copy"] == score["other copy-base"] == 0
    assert score["base-other"] > 0.05
    assert score["base-still"] < 0.002
    assert score["still-ends"] > 0.05
    assert score["base-ends"] > 0.05
    told = {name: (row["verdict"], row["rule"]) for name, row in found.items()}
    assert told["base-text"] == (schema.REJECTED, "no_media")
    assert told["base-"] == (schema.FAILED, "no_image")
    assert told["base-broken"][0] == schema.FAILED
    assert score["base-broken"] is None


def area(low: list[float], high: list[float]) -> float:
    """Probability that one of ``high`` is above one of ``low``, by counting."""
    wins = [(one > other) + (one == other) / 2 for one in high for other in low]
    return float(np.mean(wins))


def test_a_scene_is_told_from_one_with_another_attribute(tmp_path: Path) -> None:
    """Also where both are drawn anew, with other shifts, turns and lights."""
    again, anew, copies, edits = [], [], [], []
    for index in range(12):
        scene = drawn(11, index).scene
        base = render(scene, 256, f"a{index}", "a")
        copies.append(between(tmp_path, base, _jpeg(base)))
        other = render(scene, 256, f"b{index}", f"b{index}")
        again.append(between(tmp_path, base, other, reach=4, tolerance=24))
        for attribute in ("colour", "shape", "texture", "background", "count", "size"):
            if options := changes(scene, attribute):
                edited = Dice("test", index, attribute).pick(options)
                edits.append(between(tmp_path, base, render(edited, 256, f"a{index}", "a")))
                other = render(edited, 256, f"b{index}", "b")
                anew.append(between(tmp_path, base, other, reach=4, tolerance=24))
    assert area(copies, edits) > 0.99
    # A small hexagon is a small circle at this size.
    assert np.mean(np.array(edits) > Unchanged.Settings().low) > 0.97
    assert area(again, anew) > 0.95


def test_a_share_decides() -> None:
    rows = pa.table({"id": ["a", "b", "c"], SCORE: pa.array([0.001, 0.002, None], pa.float64())})
    made = Unchanged(Unchanged.Settings(low=0.002))
    assert panels.decided(made, rows) == {"a": "unchanged", "b": "kept", "c": "failed"}
    assert Unchanged.rules == {"low"}


@pytest.mark.parametrize("options", [{"low": 1.1}, {"size": 8}, {"tolerance": 255}, {"hig": 1}])
def test_wrong_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Unchanged.Settings(**options)


def test_the_registry_finds_it_and_it_says_what_it_needs() -> None:
    assert registry.find("filter", "unchanged") is Unchanged
    made = operator()
    assert made.needs("pairs") == {"items.media", "pairs"}
    assert made.gives("pairs") == {SCORE}
