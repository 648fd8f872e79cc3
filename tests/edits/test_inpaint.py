"""Regions that are painted anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import painting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painting import answers, member, row, stored, table
from PIL import Image
from pydantic import ValidationError

from datagen.edits import _masks, _segment
from datagen.edits.inpaint import Inpaint, InpaintSettings

pytest.importorskip("diffusers", reason="needs datagen[diffusion]")
import tiny_diffusers

#: Width and height of the reference, and where its dog is.
SIZE = (120, 80)
DOG = (30, 20, 70, 60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_diffusers.tiny_inpaint(tmp_path_factory.mktemp("inpaint"))


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_diffusers.tiny_clipseg(tmp_path_factory.mktemp("clipseg"))


def reference(folder: Path, boxes: Any = None) -> dict[str, Any]:
    own = stored(folder / "own.png", painting.picture(5, SIZE))
    boxes = [{"label": "dog", "box": list(DOG)}] if boxes is None else boxes
    return member("a red dog on the grass", own, boxes=boxes)


def outside(box: tuple[int, int, int, int]) -> Any:
    mask = np.ones((SIZE[1], SIZE[0]), bool)
    mask[box[1] : box[3], box[0] : box[2]] = False
    return mask


@pytest.mark.parametrize("size", [64, (64, 64)])
def test_outside_of_the_region_stays_every_pixel(model: str, tmp_path: Path, size: Any) -> None:
    told = {"size": size, "grow": 0.0, "blur": 0.0, "guidance": 3.0}
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model, **told)
    (line,) = answers(operator, table(row("a", references=[reference(tmp_path)])))
    assert line["references"] is None
    found, own = painting.pixels(line), np.asarray(painting.picture(5, SIZE))
    assert found.shape == own.shape
    around = outside(DOG)
    assert np.array_equal(found[around], own[around])
    assert (found[~around] != own[~around]).any(axis=-1).mean() > 0.9
    record = json.loads(line["edit"])
    assert record["region"] == list(DOG)
    assert record["region_share"] == round(40 * 40 / 9600, 4)
    assert record["prompt"] == "a red cat on the grass"


def test_a_region_grows_and_its_border_is_blurred_inwards(model: str, tmp_path: Path) -> None:
    told = {"size": 64, "grow": 0.05, "blur": 0.05, "quality": 100}
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model, **told)
    (line,) = answers(operator, table(row("a", references=[reference(tmp_path)])))
    found, own = (
        one.astype(float) for one in (painting.pixels(line), np.asarray(painting.picture(5, SIZE)))
    )
    # 0.05 of 120 pixels on every side.
    around = outside((24, 14, 76, 66))
    assert np.array_equal(found[around], own[around])
    changed = np.abs(found - own).mean(axis=-1)
    middle, border = changed[35:45, 45:55].mean(), changed[35:45, 24:27].mean()
    assert 0 < border < middle / 2


def test_of_several_boxes_that_of_the_change_is_painted(model: str, tmp_path: Path) -> None:
    boxes = [
        {"label": "grass", "box": [0, 60, 120, 80]},
        {"label": "red dog", "box": [0.25, 0.25, 0.5, 0.5]},
        {"label": "hot dog stand", "box": [80, 0, 120, 40]},
        {"label": "Dog", "box": list(DOG)},
    ]
    told = {"grow": 0.0, "blur": 0.0}
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model, **told)
    rows = table(row("a", references=[reference(tmp_path, boxes[:2] + boxes[3:])]))
    assert json.loads(answers(operator, rows)[0]["edit"])["region"] == [30, 20, 70, 60]
    told |= {"phrase": "the grass"}
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model, **told)
    assert json.loads(answers(operator, rows)[0]["edit"])["region"] == [0, 60, 120, 80]
    told |= {"phrase": "", "area": (0.005, 1.0)}
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model, **told)
    assert json.loads(answers(operator, rows)[0]["edit"])["region"] == [0, 20, 120, 80]


def test_rows_without_a_region_are_rejected(model: str, tmp_path: Path) -> None:
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model)
    added = row("a")["evidence"] | {"changes": [{"field": "", "removed": None, "added": "cat"}]}
    rows = {
        "no_phrase": row("1", references=[reference(tmp_path)], evidence=added),
        "no_region": row("2", references=[reference(tmp_path, [{"label": "cup", "box": DOG}])]),
        "bad_boxes": row("3", references=[reference(tmp_path, [{"label": "dog", "box": [1]}])]),
        "too_small": row(
            "4", references=[reference(tmp_path, [{"label": "dog", "box": [5, 5, 6, 6]}])]
        ),
        "too_large": row(
            "5", references=[reference(tmp_path, [{"label": "dog", "box": [0, 0, 1, 1]}])]
        ),
        "no_caption": row("6", references=[reference(tmp_path)], targets=[member(None, None)]),
    }
    found = painting.told(operator, table(*rows.values()))
    assert found == {one["id"]: rule for rule, one in rows.items()}


@pytest.mark.parametrize("known", [[], [{"field": "text", "removed": None, "added": "now a cat"}]])
def test_where_no_change_is_known_the_captions_tell_the_region(
    model: str, tmp_path: Path, known: list[dict[str, Any]]
) -> None:
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model, grow=0.0)
    evidence = row("a")["evidence"] | {"changes": known}
    cat = member("a red cat on the grass", None)
    more = member("a red dog on the grass, with a ball", None)
    rows = [
        row(name, references=[reference(tmp_path)], targets=[target], evidence=evidence)
        for name, target in (("a", cat), ("b", more))
    ]
    kept, lost = sorted(answers(operator, table(*rows)), key=lambda one: str(one["id"]))
    assert json.loads(kept["edit"])["region"] == list(DOG)
    # An edit that takes nothing away has no region.
    assert lost["rule"] == "no_phrase"


def test_a_sample_is_the_same_in_any_batch(model: str, tmp_path: Path) -> None:
    told = {"samples": 3, "guidance": (2.0, 7.0), "batch_size": 2}
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model, **told)
    rows = [row(name, references=[reference(tmp_path)]) for name in "ab"]
    rows.insert(1, row("unfit", references=[reference(tmp_path, [])]))
    beside = [one for one in answers(operator, table(*rows)) if one["rule"] is None]
    alone = [line for one in (rows[0], rows[2]) for line in answers(operator, table(one))]
    assert len(beside) == 6
    for first, second in zip(beside, alone, strict=True):
        assert np.array_equal(painting.pixels(first), painting.pixels(second))


def test_a_segmenter_finds_what_is_removed(model: str, clipseg: str, tmp_path: Path) -> None:
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

    folder, own = clipseg.removeprefix("file:"), painting.picture(5, SIZE)
    network = CLIPSegForImageSegmentation.from_pretrained(folder)
    processor = CLIPSegProcessor.from_pretrained(folder)
    inputs = processor(text=["dog"], images=[own], padding="max_length", return_tensors="pt")
    share = network(**inputs).logits.sigmoid().detach().numpy().reshape(64, 64)
    plane = np.asarray(Image.fromarray(share, "F").resize(SIZE, Image.Resampling.BILINEAR))
    # A tenth of the picture, whatever a random model says.
    threshold = float(np.quantile(plane, 0.9))
    told = {"region": "segmenter", "segmenter": clipseg, "threshold": threshold}
    operator = painting.opened(Inpaint, "inpaint", tmp_path, model=model, **told)
    assert "+sha256:" in operator.revision()
    assert "items.labels" not in operator.needs("pairs")
    (line,) = answers(operator, table(row("a", references=[reference(tmp_path, [])])))
    wanted = _masks.grown(plane >= threshold, 0.02)
    found = painting.pixels(line)
    assert np.array_equal(found[~wanted], np.asarray(own)[~wanted])
    assert json.loads(line["edit"])["region_share"] == round(float(wanted.mean()), 4)
    finder = _segment.load(operator.segmenter, "cpu")  # type: ignore[attr-defined]
    both = finder(own, ["dog", "grass"], threshold)
    assert np.array_equal(both, (plane >= threshold) | finder(own, ["grass"], threshold))


def test_a_segmenter_that_is_none_is_an_error(model: str, tmp_path: Path) -> None:
    told = {"model": model, "region": "segmenter", "segmenter": f"file:{tmp_path}/none"}
    (fault,) = Inpaint(InpaintSettings.model_validate(told)).check()
    assert "no such file or folder" in fault
    with pytest.raises(ValidationError, match="a segmenter needs a text"):
        InpaintSettings(model=model, region="segmenter", phrase=" ")
    with pytest.raises(ValidationError, match=r"shares \[low, high\]"):
        InpaintSettings(model=model, area=(0.5, 0.1))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(8, 40), st.integers(8, 40)),
    st.floats(0, 0.2),
    st.floats(0, 0.2),
)
def test_nothing_shows_outside_of_a_mask(
    seed: int, size: tuple[int, int], grow: float, blur: float
) -> None:
    dice = np.random.default_rng(seed)
    mask = dice.random(size) < 0.05
    grown = _masks.grown(mask, grow)
    assert (grown >= mask).all()
    radius = grow * max(size)
    if mask.any():
        rows, columns = np.nonzero(mask)
        down, across = np.indices(size)
        far = (down[..., None] - rows) ** 2 + (across[..., None] - columns) ** 2
        assert np.array_equal(grown, np.sqrt(far.min(axis=-1)) <= radius)
    weight = _masks.softened(grown, blur)
    assert weight.min() >= 0
    assert weight.max() <= 1
    assert (weight[~grown] == 0).all()
    own = dice.integers(0, 256, (*size, 3), np.uint8)
    painted = dice.random((16, 16, 3), dtype=np.float32)
    found = np.rint(_masks.pasted(own, painted, weight) * 255).astype(np.uint8)
    assert np.array_equal(found[~grown], own[~grown])
    full = _masks.pasted(own, np.full((16, 16, 3), 0.5, np.float32), np.ones(size, np.float32))
    np.testing.assert_allclose(full, 0.5, atol=1e-6)
