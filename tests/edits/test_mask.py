"""Masked pictures beside themselves: what is hidden, what is not, and what is told of it."""

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
    answers,
    inside,
    items,
    opened,
    original,
    pairs,
    pixels,
    record,
    regions,
    rules,
)

from datagen.edits.mask import Mask
from datagen.registry import find
from datagen.texts.given import Given


@pytest.mark.parametrize("fill", ["gray", "blur", "noise"])
def test_what_is_told_is_hidden_and_every_other_pixel_is_the_pictures_own(
    tmp_path: Path, fill: str
) -> None:
    rows = items(tmp_path, {}, {}, {})
    operator = opened(Mask, tmp_path, share=0.3, block=0.1, fill=fill)
    found = pairs(operator, rows, tmp_path)
    assert len(found) == 3
    for pair in found:
        (masked,), (whole,) = pair["references"], pair["targets"]
        mask = inside(regions(pair))
        assert 0.3 <= mask.mean() < 0.45
        assert record(pair)["hidden"] == round(float(mask.mean()), 4)
        own = original(whole)
        assert np.array_equal(pixels(masked)[~mask], own[~mask])
        assert np.abs(pixels(masked)[mask] - own[mask]).mean() > 20
        if fill == "gray":
            assert np.ptp(pixels(masked)[mask]) == 0
        assert masked["caption"] == whole["caption"] == f"a dog {whole['key']}"
        assert masked["id"] != whole["id"]
    assert {pair["targets"][0]["id"] for pair in found} == set(rows["id"].to_pylist())
    assert len({str(regions(pair)) for pair in found}) == 3


def test_patches_hide_cells_of_a_grid(tmp_path: Path) -> None:
    operator = opened(Mask, tmp_path, by="patches", share=[0.25, 0.75], grid=4)
    found = pairs(operator, items(tmp_path, {}, {}), tmp_path)
    for pair in found:
        grey = (pixels(pair["references"][0]) == 128).all(axis=-1)
        cells = grey.reshape(4, 20, 4, 30).mean(axis=(1, 3))
        # Random pixels are hardly ever gray by themselves.
        assert set(np.round(cells).ravel()) <= {0, 1}
        assert np.round(cells).sum() == round(record(pair)["share"] * 16)


def test_boxes_of_labels_are_hidden_as_many_as_are_wanted(tmp_path: Path) -> None:
    rows = items(tmp_path, *[{"boxes": BOXES}] * 6)
    one = pairs(opened(Mask, tmp_path, by="boxes"), rows, tmp_path)
    assert {box for pair in one for box in regions(pair)} == {DOG, CAT}
    assert all(len(regions(pair)) == 1 for pair in one)
    (tmp_path / "two").mkdir()
    two = pairs(opened(Mask, tmp_path / "two", by="boxes", count=5), rows, tmp_path / "two")
    assert all(set(regions(pair)) == {DOG, CAT} for pair in two)


def test_an_item_without_boxes_that_fit_is_rejected_by_its_rule(tmp_path: Path) -> None:
    labels: list[dict[str, Any]] = [
        {"boxes": BOXES},
        {},
        {"boxes": []},
        {"boxes": "dog"},
        {"boxes": [[1, 2]]},
        {"boxes": [{"box": [0, 0, 4, 4]}]},
        {"boxes": [{"box": [0.0, 0.0, 1.0, 1.0]}]},
        {"boxes": [{"box": [0.0, 0.0, 1.0, 1.0]}, *BOXES]},
    ]
    found = rules(opened(Mask, tmp_path, by="boxes"), items(tmp_path, *labels))
    assert found == {
        "0": None, "1": "no_boxes", "2": "no_boxes", "3": "bad_boxes", "4": "bad_boxes",
        "5": "too_small", "6": "too_large", "7": None,
    }  # fmt: skip


def test_an_item_alone_gives_what_it_gives_beside_others(tmp_path: Path) -> None:
    rows = items(tmp_path, {}, {}, {})
    operator = opened(Mask, tmp_path, samples=2, fill="noise")

    def told(table: pa.Table) -> list[Any]:
        lines = answers(operator, table).to_pylist()
        return [(one["id"], one["edit"], one["references"][0]["media"]["sha256"]) for one in lines]

    whole = told(rows)
    assert [line for n in range(3) for line in told(rows.slice(n, 1))] == whole
    assert len(set(whole)) == 6


def test_only_the_pictures_of_one_item_are_held_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    operator = opened(Mask, tmp_path, samples=2)
    sizes: list[int] = []
    paint = operator.paint

    def watched(samples: Any) -> Any:
        sizes.append(len(samples))
        return paint(samples)

    monkeypatch.setattr(operator, "paint", watched)
    assert answers(operator, items(tmp_path, {}, {}, {})).num_rows == 6
    assert sizes == [2, 2, 2]


def test_the_text_of_a_pair_is_the_items_caption(tmp_path: Path) -> None:
    rows = items(tmp_path, {}, {})
    found = pairs(opened(Mask, tmp_path), rows, tmp_path)
    texts = Given(Given.Settings())(pa.Table.from_pylist(found)).to_pylist()
    wanted = {pair["id"]: pair["targets"][0]["caption"] for pair in found}
    assert {one["id"]: one["modification"] for one in texts} == wanted


def test_items_without_captions_make_pairs_without_a_text(tmp_path: Path) -> None:
    found = pairs(opened(Mask, tmp_path), items(tmp_path, {}, caption=None), tmp_path)
    assert [one["field"] for one in found[0]["evidence"]["changes"]].count("text") == 0
    assert found[0]["references"][0]["caption"] is None


@pytest.mark.parametrize(
    "told",
    [
        {"share": 0}, {"share": 0.99}, {"share": [0.5, 0.2]}, {"by": "boxes", "share": 0.3},
        {"by": "blocks", "grid": 7}, {"by": "patches", "count": 2}, {"radius": 0.1},
        {"by": "boxes", "area": [0.5, 0.1]}, {"fill": "black"},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mask.Settings.model_validate(told)


def test_it_needs_no_model(tmp_path: Path) -> None:
    operator = opened(Mask, tmp_path)
    assert find("edit", "mask") is Mask
    assert operator.requires == ()
    assert operator.leaves("items") == "pairs"
    assert operator.resources().gpus == 0
    assert opened(Mask, tmp_path, by="boxes").needs("items") == {"items.media", "items.labels"}
