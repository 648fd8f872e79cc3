"""CIRCO on its official files, against the definition of its metrics on sorted lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_retriever import Known, official, query, ranked, told, touch

from datagen.evaluation import protocols
from datagen.evaluation.measure import measure

INNER = "COCO2017_unlabeled"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout with the images that queries name, and some more."""
    folder = tmp_path_factory.mktemp("circo")
    (folder / "annotations").symlink_to(official("circo"))
    ids = set(range(1, 600_000, 997))
    for split in ("val", "test"):
        for row in json.loads((folder / f"annotations/{split}.json").read_text()):
            ids |= {row["reference_img_id"], *row.get("gt_img_ids", [])}
    images = [{"id": one, "file_name": f"{one:012d}.jpg"} for one in sorted(ids)]
    (folder / INNER / "annotations").mkdir(parents=True)
    (folder / INNER / "annotations/image_info_unlabeled2017.json").write_text(
        json.dumps({"images": images})
    )
    touch(folder / INNER / "unlabeled2017", [one["file_name"] for one in images])
    return folder


def gallery(data: Path) -> list[str]:
    info = json.loads((data / INNER / "annotations/image_info_unlabeled2017.json").read_text())
    return [one["file_name"].removesuffix(".jpg") for one in info["images"]]


def test_figures_of_val_are_those_of_the_official_definition(data: Path) -> None:
    protocol = protocols.protocol("circo")
    found = measure(Known(), protocol, protocol.read(str(data)), probes=False)
    values = told(found.lines)
    names = gallery(data)
    precisions: dict[int, list[float]] = {}
    recalls: dict[int, list[bool]] = {}
    aspects: dict[str, list[float]] = {}
    for row in json.loads((data / "annotations/val.json").read_text()):
        reference = f"{row['reference_img_id']:012d}"
        order = [int(name) for name in ranked(query([reference], row["relative_caption"]), names)]
        labels = np.isin(order[:50], row["gt_img_ids"])
        at = np.cumsum(labels) * labels / np.arange(1, 51)
        for k in (5, 10, 25, 50):
            value = at[:k].sum() / min(len(row["gt_img_ids"]), k)
            precisions.setdefault(k, []).append(value)
            recalls.setdefault(k, []).append(row["target_img_id"] in order[:k])
        for aspect in row["semantic_aspects"]:
            aspects.setdefault(aspect, []).append(precisions[10][-1])
    for k in precisions:
        assert values["gallery", f"mAP@{k}"] == pytest.approx(np.mean(precisions[k]))
        assert values["gallery", f"R@{k}"] == pytest.approx(np.mean(recalls[k]))
    assert len(aspects) == 9
    for aspect, some in aspects.items():
        assert values["gallery", f"mAP@10 {aspect}"] == pytest.approx(np.mean(some))


def valid(submission: dict[str, Any], example: dict[str, Any]) -> None:
    """The checks of the server: every query once, fifty image ids each."""
    assert list(submission) == sorted(submission, key=int)
    assert set(submission) == set(example)
    for ids in submission.values():
        assert len(ids) == len(set(ids)) == 50
        assert all(type(one) is int for one in ids)


def test_the_submission_has_the_form_of_the_official_example(data: Path) -> None:
    protocol = protocols.protocol("circo", ["split=test"])
    found = measure(Known(), protocol, protocol.read(str(data)), probes=False)
    assert found.lines == []
    made = json.loads(json.dumps(found.files["circo_test.json"]))
    valid(made, json.loads(official("circo/submission_test.json").read_text()))
    names = gallery(data)
    for row in json.loads((data / "annotations/test.json").read_text())[:20]:
        asked = query([f"{row['reference_img_id']:012d}"], row["relative_caption"])
        assert made[str(row["id"])] == [int(name) for name in ranked(asked, names)[:50]]


def test_the_reference_stays_in_the_gallery_unless_it_is_told_to_leave(data: Path) -> None:
    rows = json.loads((data / "annotations/test.json").read_text())
    counts = []
    for rules in ([], ["exclude_reference=true"]):
        protocol = protocols.protocol("circo", ["split=test", *rules])
        made = measure(Known(), protocol, protocol.read(str(data)), probes=False).files
        counts.append(
            sum(row["reference_img_id"] in made["circo_test.json"][str(row["id"])] for row in rows)
        )
    # A query lies near its own reference.
    assert counts[0] > 0.8 * len(rows)
    assert counts[1] == 0
