"""Boxes of labels, drawn blocks and patches, and what they hide: by counting pixels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datagen.edits import _regions
from datagen.edits._regions import BadBoxes, Region, labelled

SIZES = st.integers(1, 300)
SHARES = st.floats(0.01, 0.9)
SEEDS = st.integers(0, 2**63 - 1)


def drawn(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ({"label": "dog", "box": [10, 20, 30, 60]}, Region(10, 20, 30, 60, "dog")),
        ({"name": "dog", "box": [0.1, 0.25, 0.5, 1]}, Region(10, 20, 50, 80, "dog")),
        ({"category": " a dog ", "bbox": [10, 20, 30, 40]}, Region(10, 20, 40, 60, "a dog")),
        ([10.4, 20.6, 29.5, 60], Region(10, 20, 30, 60)),
        ({"box": [-5, -5, 300, 300]}, Region(0, 0, 100, 80)),
        ({"box": [0, 0, 1, 1]}, Region(0, 0, 100, 80)),
        ({"box": [50, 50, 50, 60]}, None),
        ({"box": [60, 50, 50, 60]}, None),
        ({"box": [200, 10, 250, 20]}, None),
    ],
)
def test_a_box_of_labels_is_a_region_of_the_picture(entry: Any, wanted: Region | None) -> None:
    found = labelled(json.dumps({"boxes": [entry]}), "boxes", 100, 80)
    assert found == ([] if wanted is None else [wanted])


@pytest.mark.parametrize(
    "value",
    [7, "dog", {"label": "dog"}, [[1, 2, 3]], [[1, 2, 3, "4"]], [{"box": None}], [[1, 2, 3, None]],
     [{"label": "dog"}], [[1, 2, 3, 1e999]]],
)  # fmt: skip
def test_labels_that_hold_no_boxes_say_so_in_one_line(value: Any) -> None:
    with pytest.raises(BadBoxes, match="expected") as caught:
        labelled(json.dumps({"boxes": value}), "boxes", 100, 80)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [None, "", "{}", '{"other": [[1, 2, 3, 4]]}'])
def test_labels_without_the_field_hold_none(labels: str | None) -> None:
    assert labelled(labels, "boxes", 100, 80) == []


@given(SEEDS, st.integers(8, 300), st.integers(8, 300), SHARES, st.floats(0.2, 5))
def test_a_block_has_the_share_that_is_asked_for(
    seed: int, width: int, height: int, share: float, aspect: float
) -> None:
    region = _regions.block(drawn(seed), width, height, share, (aspect, aspect))
    assert 0 <= region.left < region.right <= width
    assert 0 <= region.top < region.bottom <= height
    # A pixel more or less on a side.
    sides = (region.right - region.left, region.bottom - region.top)
    assert abs(region.area - share * width * height) <= max(sides) + 1
    area = share * width * height
    if 2 < (area * aspect) ** 0.5 < width - 1 and 2 < (area / aspect) ** 0.5 < height - 1:
        low, high = (sides[0] - 1) / (sides[1] + 1), (sides[0] + 1) / (sides[1] - 1)
        assert low <= aspect <= high


@given(SEEDS, st.integers(16, 120), st.integers(16, 120), st.floats(0.05, 0.8))
def test_blocks_hide_the_share_and_at_most_one_block_more(
    seed: int, width: int, height: int, share: float
) -> None:
    regions = _regions.blocks(drawn(seed), width, height, share, 0.05, (0.3, 3.3))
    found = _regions.covered(regions, width, height)
    assert share <= found.mean()
    assert _regions.covered(regions[:-1], width, height).mean() < share


@given(SEEDS, SIZES, SIZES, st.floats(0, 1), st.integers(1, 40))
def test_patches_are_whole_cells_of_a_grid(
    seed: int, width: int, height: int, share: float, grid: int
) -> None:
    regions = _regions.patches(drawn(seed), width, height, share, grid)
    cells = min(grid, width) * min(grid, height)
    assert len(regions) == max(1, round(share * cells))
    counted = np.zeros((height, width), int)
    for region in regions:
        region.of(counted)[...] += 1
    assert counted.max() == 1
    assert (counted > 0).sum() == sum(region.area for region in regions)
    if share == 1:
        assert counted.all()


@given(SEEDS)
def test_the_same_seed_draws_the_same_and_another_does_not(seed: int) -> None:
    def draw(of: int) -> list[Region]:
        return _regions.blocks(drawn(of), 640, 480, 0.4, 0.02, (0.5, 2))

    assert draw(seed) == draw(seed)
    assert draw(seed) != draw(seed ^ 1)


def photo(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("fill", ["gray", "blur", "noise"])
def test_outside_of_what_is_hidden_every_pixel_stays(fill: str) -> None:
    picture, mask = photo(), _regions.covered([Region(10, 5, 30, 25)], 60, 40)
    found = np.round(_regions.hidden(picture, mask, fill, 0.05, drawn(3)) * 255).astype(int)
    own = np.asarray(picture).astype(int)
    assert (found[~mask] == own[~mask]).all()
    inside = np.abs(found[mask] - own[mask])
    assert inside.mean() > 30
    if fill == "gray":
        assert set(np.unique(found[mask])) <= {127, 128}
    if fill == "blur":
        # A Gaussian keeps the mean and takes the grain.
        assert abs(found[mask].mean() - own.mean()) < 8
        assert found[mask].std() < own.std() / 3
    if fill == "noise":
        assert found[mask].std() > 60


def test_noise_is_drawn_from_the_seed() -> None:
    picture, mask = photo(), np.ones((40, 60), bool)
    one, same, other = (
        _regions.hidden(picture, mask, "noise", 0.05, drawn(seed)) for seed in (1, 1, 2)
    )
    assert (one == same).all()
    assert (one != other).mean() > 0.9


def test_a_region_grows_by_its_own_size_within_the_picture() -> None:
    assert _regions.grown(Region(10, 10, 30, 20, "dog"), 0.5, 100, 22) == Region(
        0, 5, 40, 22, "dog"
    )
    assert _regions.grown(Region(10, 10, 30, 20), 0, 100, 100) == Region(10, 10, 30, 20)
