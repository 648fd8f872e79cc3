"""FashionIQ on its official files: both galleries, how captions are joined, plain sorting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from known_retriever import Known, first, official, query, ranked, share, told, touch

from datagen.errors import DatagenError, RecipeError
from datagen.evaluation import protocols
from datagen.evaluation.measure import measure

TWO = "categories=[dress, shirt]"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashioniq")
    for name in ("captions", "image_splits"):
        (folder / name).symlink_to(official("fashioniq", name))
    for category in ("dress", "shirt"):
        names = json.loads((folder / f"image_splits/split.{category}.val.json").read_text())
        touch(folder / "images", [f"{name}.jpg" for name in names])
    return folder


@pytest.mark.parametrize(("gallery", "sizes"), [("original", (3817, 6346)), ("val", (2628, 3089))])
def test_figures_are_those_of_plain_sorting_in_both_galleries(
    data: Path, gallery: str, sizes: tuple[int, int]
) -> None:
    protocol = protocols.protocol("fashioniq", [TWO, f"gallery={gallery}"])
    read = protocol.read(str(data))
    assert tuple(len(part.gallery) for part in read.parts) == sizes
    assert [len(part.asked) for part in read.parts] == [2017, 2038]
    found = measure(Known(), protocol, first(read, 300), probes=False)
    values = told(found.lines)
    all_rows = json.loads((data / "captions/cap.dress.val.json").read_text())
    names = json.loads((data / "image_splits/split.dress.val.json").read_text())
    if gallery == "val":
        names = sorted({row[side] for row in all_rows for side in ("candidate", "target")})
    hits: list[bool] = []
    for row in all_rows[:300]:
        one, other = (text.strip().strip(".?, ") for text in row["captions"])
        order = ranked(query([row["candidate"]], f"{one} and {other}"), names)
        hits.append(row["target"] in order[:50])
    assert values["dress", "R@50"] == pytest.approx(share(hits))
    mean = (values["dress", "R@10"] + values["shirt", "R@10"]) / 2
    assert values["mean of dress and shirt", "R@10"] == pytest.approx(mean)


def test_captions_are_joined_as_the_rule_says(data: Path) -> None:
    row = json.loads((data / "captions/cap.dress.val.json").read_text())[0]
    one, other = row["captions"]
    wanted = {
        "forward": (f"{one} and {other}",),
        "reversed": (f"{other} and {one}",),
        "both": (f"{one} and {other}", f"{other} and {one}"),
    }
    for order, texts in wanted.items():
        protocol = protocols.protocol("fashioniq", ["categories=[dress]", f"order={order}"])
        assert protocol.read(str(data)).queries[0].texts == texts
    protocol = protocols.protocol("fashioniq", ["categories=[dress]", "joiner=', '"])
    assert protocol.read(str(data)).queries[0].texts == (f"{one}, {other}",)


def test_both_orders_ask_with_the_mean_of_two_queries(tmp_path: Path) -> None:
    (tmp_path / "captions").mkdir()
    rows = [
        {"candidate": "r", "target": f"t{n}", "captions": [f"a{n}", f"b{n}."]} for n in range(9)
    ]
    (tmp_path / "captions/cap.dress.val.json").write_text(json.dumps(rows))
    touch(tmp_path / "images", ["r.png", *(f"t{n}.png" for n in range(9))])
    rules = ["categories=[dress]", "gallery=val", "order=both", "exclude_reference=true"]
    protocol = protocols.protocol("fashioniq", rules)
    read = protocol.read(str(tmp_path))
    found = measure(Known(), protocol, read, probes=False)
    places = []
    for row in rows:
        one, other = row["captions"][0], str(row["captions"][1]).rstrip(".")
        asked = query(["r"], f"{one} and {other}") + query(["r"], f"{other} and {one}")
        order = ranked(asked / np.linalg.norm(asked), [f"t{n}" for n in range(9)])
        places.append(order.index(str(row["target"])) + 1)
    assert told(found.lines)["dress", "R@10"] == 1.0
    from datagen.evaluation import measure as module

    left, _ = module._asked(Known(), read, "composed", lambda done, of: None)
    items = [f"t{n}" for n in range(9)]
    assert [ranked(left[number], items).index(f"t{number}") + 1 for number in range(9)] == places


def test_an_absent_category_is_told_and_wrong_rules_are_named(data: Path) -> None:
    with pytest.raises(DatagenError, match=r"no captions/cap.toptee.val.json"):
        protocols.protocol("fashioniq").read(str(data))
    with pytest.raises(RecipeError, match="gallery"):
        protocols.protocol("fashioniq", ["gallery=all"])
    with pytest.raises(RecipeError, match="did you mean 'order'"):
        protocols.protocol("fashioniq", ["ordre=both"])
    with pytest.raises(DatagenError, match="did you mean 'fashioniq'"):
        protocols.protocol("fashonIQ")
    with pytest.raises(DatagenError, match="KEY=VALUE"):
        protocols.protocol("fashioniq", ["both"])
