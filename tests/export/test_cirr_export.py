"""CIRR's files against the official ones, and as the released evaluation uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Made, media_at, official, shape

from datagen.export.write import export


def read(out: Path, split: str) -> tuple[list, dict]:
    captions = json.loads((out / f"captions/cap.rc2.{split}.json").read_text(encoding="utf-8"))
    images = json.loads((out / f"image_splits/split.rc2.{split}.json").read_text(encoding="utf-8"))
    return captions, images


def test_the_structure_is_that_of_the_official_files(made: Made, tmp_path: Path) -> None:
    export(made.out, "cirr", str(tmp_path / "cirr"))
    captions, images = read(tmp_path / "cirr", "train")
    theirs = official("cirr", "captions", "cap.rc2.val.json")
    assert {json.dumps(shape(one), default=sorted) for one in captions} == {
        json.dumps(shape(theirs[0]), default=sorted)
    }
    assert shape(images) == shape(official("cirr", "image_splits", "split.rc2.val.json"))
    assert all(path.startswith("./") for path in images.values())


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("val", "val"), ("test", "test1")])
def test_every_entry_is_a_triplet_of_the_run(
    made: Made, tmp_path: Path, split: str, name: str
) -> None:
    out = tmp_path / "cirr"
    export(made.out, "cirr", str(out))
    captions, images = read(out, name)
    kept = made.kept(split)
    assert len(captions) == len(kept)
    assert len({one["pairid"] for one in captions}) == len(captions)
    for one, truth in zip(captions, (kept[key] for key in sorted(kept)), strict=True):
        targets = [item["id"] for item in truth["targets"]]
        assert one["caption"] == truth["modification"]
        assert one["reference"] == truth["references"][0]["id"]
        assert one["target_hard"] == targets[0]
        assert one["target_soft"] == dict.fromkeys(targets, 1.0)
        chosen = one["img_set"]
        assert chosen["members"][chosen["reference_rank"]] == one["reference"]
        assert chosen["members"][chosen["target_rank"]] == one["target_hard"]
        mined = [item["item"]["id"] for item in truth["negatives"] if item["kind"] == "mined"]
        assert set(mined[:4]) <= set(chosen["members"])
    for item, path in images.items():
        assert media_at(str(out / "img_raw"), path) == made.bytes_of[item]


@pytest.mark.parametrize("name", ["train", "val", "test1"])
def test_the_released_evaluation_can_use_the_image_sets(
    made: Made, tmp_path: Path, name: str
) -> None:
    export(made.out, "cirr", str(tmp_path / "cirr"))
    captions, images = read(tmp_path / "cirr", name)
    sizes = {len(one["img_set"]["members"]) for one in captions}
    # It stacks them into one array, takes the reference out, and looks for one right answer.
    assert len(sizes) == 1
    for one in captions:
        members = one["img_set"]["members"]
        assert len(set(members)) == len(members)
        assert set(members) <= set(images)
        rest = [member for member in members if member != one["reference"]]
        assert len(rest) == len(members) - 1
        assert [member for member in rest if member in one["target_soft"]] == [one["target_hard"]]
