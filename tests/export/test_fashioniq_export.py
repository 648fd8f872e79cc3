"""FashionIQ's files against the official ones."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Made, media_at, official, shape

from datagen.export.write import export


def entries(out: Path, split: str) -> dict[str, list]:
    """The entries of every category of a split, by the category's file name."""
    found = sorted((out / "captions").glob(f"cap.*.{split}.json"))
    return {path.name.split(".")[1]: json.loads(path.read_text("utf-8")) for path in found}


def test_the_structure_is_that_of_the_official_files(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "fiq"
    export(made.out, "fashioniq", str(out))
    theirs = official("fashioniq", "captions", "cap.dress.train.json")
    ours = entries(out, "train")["all"]
    assert {json.dumps(shape(one)) for one in ours} == {json.dumps(shape(theirs[0]))}
    # The released loaders unpack two captions, which is what all official entries have.
    assert {len(one["captions"]) for one in theirs} == {2}
    assert {len(one["captions"]) for one in ours} == {2}
    images = json.loads((out / "image_splits/split.all.train.json").read_text("utf-8"))
    assert shape(images) == shape(official("fashioniq", "image_splits", "split.dress.val.json"))


def test_all_texts_of_a_pair_stand_with_it(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "fiq"
    written = export(made.out, "fashioniq", str(out))
    texts: dict[tuple[str, str], set[str]] = {}
    for one in entries(out, "train")["all"]:
        texts.setdefault((one["candidate"], one["target"]), set()).update(one["captions"])
        for name in (one["candidate"], one["target"]):
            assert media_at(str(out / "images"), name, (".jpg",)) == made.bytes_of[name]
    truth: dict[tuple[str, str], set[str]] = {}
    for row in made.kept("train").values():
        pair = (row["references"][0]["id"], row["targets"][0]["id"])
        truth.setdefault(pair, set()).add(row["modification"])
    assert texts == truth
    assert written.splits["train"]["triplets"] == len(made.kept("train"))


def test_categories_are_files_of_their_own_whatever_they_are_called(
    made: Made, tmp_path: Path
) -> None:
    out = tmp_path / "fiq"
    from datagen.export.format import Options

    export(made.out, "fashioniq", str(out), options=Options(category="sort"))
    found = {name for split in ("train", "val", "test") for name in entries(out, split)}
    for split in ("train", "val", "test"):
        for category, ours in entries(out, split).items():
            images = json.loads(
                (out / f"image_splits/split.{category}.{split}.json").read_text("utf-8")
            )
            used = {one[role] for one in ours for role in ("candidate", "target")}
            assert used == set(images)
            labels = {json.loads(made.items[one["target"]]["labels"])["sort"] for one in ours}
            assert len(labels) == 1
    assert "dress" in found
    assert not any("/" in name or ".." in name for name in found)
    assert not list(tmp_path.glob("etc*"))
