"""CIRR on its official files: figures against plain sorting, submissions against official ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from known_retriever import Known, first, official, query, ranked, share, told, touch

from datagen.errors import DatagenError
from datagen.evaluation import protocols
from datagen.evaluation.measure import IMAGE, TEXT, MissingMedia, measure


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of the official repository, with empty images."""
    folder = tmp_path_factory.mktemp("cirr_dataset")
    (folder / "cirr").symlink_to(official("cirr"))
    for split in ("val", "test1"):
        paths = json.loads((folder / f"cirr/image_splits/split.rc2.{split}.json").read_text())
        touch(folder, paths.values())
    return folder


def rows(data: Path, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        (data / f"cirr/captions/cap.rc2.{split}.json").read_text()
    )
    return found


def names(data: Path, split: str) -> list[str]:
    return list(json.loads((data / f"cirr/image_splits/split.rc2.{split}.json").read_text()))


def test_figures_of_val_are_those_of_plain_sorting(data: Path) -> None:
    protocol = protocols.protocol("cirr")
    found = measure(Known(), protocol, first(protocol.read(str(data)), 200))
    gallery = names(data, "val")
    for kind in ("composed", IMAGE, TEXT):
        hits: dict[str, list[bool]] = {"R@1": [], "R@10": [], "R@50": [], "Rs@1": [], "Rs@3": []}
        for row in rows(data, "val")[:200]:
            references = [] if kind == TEXT else [row["reference"]]
            asked = query(references, None if kind == IMAGE else row["caption"])
            order = ranked(asked, gallery, [row["reference"]])
            own = [name for name in order if name in row["img_set"]["members"]]
            for metric, some in hits.items():
                k = int(metric.partition("@")[2])
                some.append(row["target_hard"] in (own if "s" in metric else order)[:k])
        values = told(found.lines, kind)
        for metric, some in hits.items():
            part = "subset" if "s" in metric else "gallery"
            assert values[part, metric] == pytest.approx(share(some))
        mean = (values["gallery", "R@5"] + values["subset", "Rs@1"]) / 2
        assert values["mean", "R@5, Rs@1"] == pytest.approx(mean)
    # By chance one of five is right.
    assert told(found.lines)["subset", "Rs@1"] == pytest.approx(0.2, abs=0.1)


def test_part_of_the_official_queries_is_said_in_every_line(data: Path) -> None:
    protocol = protocols.protocol("cirr")
    found = measure(Known(), protocol, protocol.read(str(data)), probes=False)
    have = len(rows(data, "val"))
    for line in found.lines:
        assert line.partial == ("" if have == 4181 else f"{have:,} of 4,181 queries")
        assert (line.items, line.whole_items) == (2297, 2297)
        assert line.each == ((5, 5) if line.part == "subset" else None)


def test_submissions_have_the_form_of_the_official_examples(data: Path) -> None:
    protocol = protocols.protocol("cirr", ["split=test1"])
    found = measure(Known(), protocol, protocol.read(str(data)), probes=False)
    assert found.lines == []
    assert found.notes == []
    few = measure(Known(), protocol, first(protocol.read(str(data)), 40), probes=False)
    assert few.notes[0].startswith("gallery: answers to 40 of 4,148 queries of the benchmark")
    examples = {
        "recall": json.loads(
            gzip.decompress(official("cirr/demo/test1_pred_ranks_recall.json.gz").read_bytes())
        ),
        "recall_subset": json.loads(
            official("cirr/demo/test1_pred_ranks_recall_subset.json").read_text()
        ),
    }
    gallery = names(data, "test1")
    by_id = {str(row["pairid"]): row for row in rows(data, "test1")}
    for metric, example in examples.items():
        made = json.loads(json.dumps(found.files[f"cirr_test1_{metric}.json"]))
        assert set(made) == set(example)
        assert (made["version"], made["metric"]) == ("rc2", metric)
        assert len(json.dumps(made)) < 5 << 20
        for number, row in by_id.items():
            assert len(made[number]) == len(set(made[number])) == len(example[number])
            assert row["reference"] not in made[number]
            if metric == "recall_subset":
                assert set(made[number]) < set(row["img_set"]["members"])
    for number, row in list(by_id.items())[:50]:
        order = ranked(query([row["reference"]], row["caption"]), gallery, [row["reference"]])
        own = [name for name in order if name in row["img_set"]["members"]]
        assert found.files["cirr_test1_recall.json"][number] == order[:50]
        assert found.files["cirr_test1_recall_subset.json"][number] == own[:3]


def test_missing_images_stop_it_and_no_submission_is_made_of_a_part(tmp_path: Path) -> None:
    (tmp_path / "cirr").symlink_to(official("cirr"))
    listed = json.loads((tmp_path / "cirr/image_splits/split.rc2.test1.json").read_text())
    touch(tmp_path, list(listed.values())[10:])
    protocol = protocols.protocol("cirr", ["split=test1"])
    read = protocol.read(str(tmp_path))
    with pytest.raises(
        MissingMedia, match=r"10 of 2,315 images .*test1/.*--allow-missing"
    ) as wrong:
        measure(Known(), protocol, read)
    assert set(wrong.value.lost) == {
        str(tmp_path / path.removeprefix("./")) for path in list(listed.values())[:10]
    }
    few = first(read, 50)
    found = measure(Known(), protocol, few, allow_missing=True, probes=False)
    assert found.files == {}
    assert any("items of galleries" in note for note in found.notes)


def test_annotations_of_another_version_are_told_apart(tmp_path: Path) -> None:
    for folder in ("captions", "image_splits"):
        (tmp_path / folder).mkdir()
    row = {
        "pairid": 1,
        "reference": "a",
        "target_hard": "b",
        "caption": "more",
        "img_set": {"members": ["a", "b", "c"]},
    }
    captions = tmp_path / "captions/cap.rc2.val.json"
    captions.write_text(json.dumps([row]))
    (tmp_path / "image_splits/split.rc2.val.json").write_text(json.dumps({"a": "./dev/a.png"}))
    protocol = protocols.protocol("cirr")
    with pytest.raises(DatagenError, match=r"cap.rc2.val.json: names 2 .*\(b, c\)"):
        protocol.read(str(tmp_path))
    captions.write_text(json.dumps([row, {**row, "caption": 3}]))
    with pytest.raises(DatagenError, match=r"entry 1: caption"):
        protocol.read(str(tmp_path))
    with pytest.raises(DatagenError, match=r"no cirr/captions/cap.rc2.test1.json .*CIRR"):
        protocols.protocol("cirr", ["split=test1"]).read(str(tmp_path))


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    for folder in ("captions", "image_splits"):
        (tmp_path / folder).mkdir()
    row = {"pairid": 1, "reference": "a", "caption": "more", "img_set": {"members": ["a"]}}
    (tmp_path / "captions/cap.rc2.val.json").write_text(json.dumps([row]))
    listed = tmp_path / "image_splits/split.rc2.val.json"
    listed.write_text(json.dumps({"a": "./dev/../../\x1b[31mpasswd.png"}))
    with pytest.raises(DatagenError, match=r"leads out of its folder") as wrong:
        protocols.protocol("cirr").read(str(tmp_path))
    assert "\x1b" not in str(wrong.value)
