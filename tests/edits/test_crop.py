"""Crops beside their pictures: the very pixels of the region that is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from self_pairs import (
    BOXES,
    CAT,
    DOG,
    SIZE,
    answers,
    items,
    opened,
    original,
    pairs,
    pixels,
    record,
    regions,
    rules,
)

from datagen.edits.crop import Crop
from datagen.texts.given import Given

SIDES = {"crop": ("references", "targets"), "whole": ("targets", "references")}


@pytest.mark.parametrize("reference", ["crop", "whole"])
@pytest.mark.parametrize("by", ["boxes", "random"])
def test_the_crop_has_the_pixels_of_its_region_and_the_other_member_is_the_item(
    tmp_path: Path, reference: str, by: str
) -> None:
    rows = items(tmp_path, *[{"boxes": BOXES}] * 4)
    told = {"by": by, "reference": reference, "area": [0.1, 0.5]}
    found = pairs(opened(Crop, tmp_path, **told), rows, tmp_path)
    assert len(found) == 4
    cut, other = SIDES[reference]
    for pair in found:
        (part,), (whole,) = pair[cut], pair[other]
        ((left, top, right, bottom),) = regions(pair)
        own = original(whole)
        assert np.array_equal(pixels(part), own[top:bottom, left:right])
        assert min(right - left, bottom - top) >= 32
        assert 0.1 <= (right - left) * (bottom - top) / (SIZE[0] * SIZE[1]) <= 0.52
        if by == "boxes":
            label = {DOG: "dog", CAT: "cat"}[left, top, right, bottom]
            assert part["caption"] == record(pair)["label"] == label
            assert label in pair["evidence"]["reason"]
        else:
            assert part["caption"] is None
    assert {pair[other][0]["id"] for pair in found} == set(rows["id"].to_pylist())


def test_the_text_is_what_leads_to_the_target(tmp_path: Path) -> None:
    rows = items(tmp_path, {"boxes": BOXES})
    for reference, wanted in (("crop", {"a dog 0"}), ("whole", {"dog", "cat"})):
        folder = tmp_path / reference
        folder.mkdir()
        found = pairs(opened(Crop, folder, reference=reference, samples=2), rows, folder)
        texts = Given(Given.Settings())(pa.Table.from_pylist(found)).to_pylist()
        assert {one["modification"] for one in texts} == wanted


def test_every_sample_takes_another_box_and_those_beyond_the_last_are_counted(
    tmp_path: Path,
) -> None:
    rows = items(tmp_path, {"boxes": BOXES}, {"boxes": BOXES[:1]})
    operator = opened(Crop, tmp_path, samples=3)
    lines = answers(operator, rows).to_pylist()
    keys = dict(zip(rows["id"].to_pylist(), rows["key"].to_pylist(), strict=True))
    told = sorted((keys[one["id"]], one["rule"] or "") for one in lines)
    assert told == sorted(
        [("0", ""), ("0", ""), ("0", "no_more_boxes"), ("1", ""), ("1", "no_more_boxes"),
         ("1", "no_more_boxes")]
    )  # fmt: skip
    found = pairs(opened(Crop, tmp_path, samples=3), rows, tmp_path)
    boxes = [(pair["targets"][0]["key"], regions(pair)[0]) for pair in found]
    assert sorted(boxes) == sorted([("0", DOG), ("0", CAT), ("1", DOG)])


def test_a_margin_is_cut_around_the_box_within_the_picture(tmp_path: Path) -> None:
    rows = items(tmp_path, {"boxes": BOXES[1:]})
    (pair,) = pairs(opened(Crop, tmp_path, margin=0.5), rows, tmp_path)
    assert regions(pair) == [(62, 0, 120, 62)]


def test_random_crops_have_the_area_and_shape_that_is_asked_for(tmp_path: Path) -> None:
    told = {"by": "random", "area": [0.1, 0.3], "aspect": [0.8, 1.25], "least_side": 16}
    found = pairs(opened(Crop, tmp_path, samples=40, **told), items(tmp_path, {}), tmp_path)
    assert len(found) == 40
    boxes = np.array([regions(pair)[0] for pair in found])
    wide, high = (boxes[:, 2:] - boxes[:, :2]).T
    shares = wide * high / (SIZE[0] * SIZE[1])
    assert (shares > 0.09).all()
    assert (shares < 0.31).all()
    assert np.ptp(shares) > 0.1
    assert ((wide / high > 0.74) & (wide / high < 1.35)).all()


def test_an_item_without_a_box_that_fits_is_rejected_by_its_rule(tmp_path: Path) -> None:
    labels: list[dict[str, Any]] = [
        {"boxes": BOXES},
        {},
        {"boxes": [["a", 1, 2, 3]]},
        {"boxes": [{"box": [0, 0, 8, 8]}]},
        {"boxes": [{"box": [0, 0, 110, 80]}]},
        {"boxes": [{"box": [0, 0, 120, 20]}]},
    ]
    found = rules(opened(Crop, tmp_path), items(tmp_path, *labels))
    assert found == {
        "0": None, "1": "no_boxes", "2": "bad_boxes", "3": "too_small", "4": "too_large",
        "5": "too_small",
    }  # fmt: skip
    small = opened(Crop, tmp_path, by="random", area=[0.01, 0.02])
    assert rules(small, items(tmp_path, {})) == {"0": "too_small"}


@pytest.mark.parametrize(
    "told",
    [{"area": [0.5, 0.1]}, {"area": [0, 0.1]}, {"by": "random", "margin": 0.1}, {"aspect": [1, 2]},
     {"reference": "both"}, {"samples": 0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Crop.Settings.model_validate(told)
