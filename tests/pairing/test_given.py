"""Pairs of published annotation files, against the files' own rows read with json and csv."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st

from datagen import registry, schema
from datagen.errors import DatagenError
from datagen.pairing import _given_formats as formats
from datagen.pairing import _given_names as matching
from datagen.pairing.given import LOST, Given, Settings
from datagen.step import Context, Result, Tables
from datagen.texts.given import Given as GivenText
from datagen.texts.given import GivenSettings

ROOT = Path(__file__).parents[2]
CIR = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data") / "cir"

real = [
    pytest.mark.real_data,
    pytest.mark.skipif(not CIR.is_dir(), reason="no annotation files (DATAGEN_TEST_DATA)"),
]


def make_items(
    keys: Iterable[str],
    labels: Sequence[Mapping[str, Any]] | None = None,
    sources: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
) -> pa.Table:
    rows = []
    for number, key in enumerate(keys):
        own = json.dumps(labels[number] if labels else {})
        media = {"path": paths[number], "modality": "image"} if paths else None
        rows.append(
            {
                "id": schema.item_id(f"{number}-{key}", [], own),
                "key": key,
                "source": sources[number] if sources else "test",
                "media": media,
                "captions": [f"about {key}"],
                "labels": own,
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def mine(path: Path | str, items: pa.Table, **chosen: Any) -> Result:
    operator = Given(Settings(path=str(path), **chosen))
    assert list(operator.check()) == []
    result = operator(Tables(items, items, "items"), Context(step="pairs", seed=5))
    result.rows.validate(full=True)
    assert result.rows.schema == schema.PAIRS
    # Every row of the file has one end.
    notes = result.notes
    assert notes["rows"] == notes["pairs"] + sum(notes[name] for name in LOST)
    assert result.rows.num_rows == notes["pairs"]
    ids = result.rows["id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert sorted(result.verdicts["id"].to_pylist()) == sorted(items["id"].to_pylist())
    return result


def told(result: Result) -> list[tuple[str, list[str], list[str]]]:
    """(reference key, target keys, texts) of each pair, in order."""
    return [
        (
            row["references"][0]["key"],
            [one["key"] for one in row["targets"]],
            [one["added"] for one in row["evidence"]["changes"]],
        )
        for row in result.rows.to_pylist()
    ]


def texts_of(result: Result, **chosen: Any) -> list[str]:
    made = GivenText(GivenSettings(**chosen))(result.rows)
    return [text for text in made["modification"].to_pylist() if text is not None]


def write(folder: Path, rows: Any, name: str = "pairs.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


# --- official files ---------------------------------------------------------------------------


@pytest.mark.parametrize("marked", [pytest.param(None, marks=real)])
def test_cirr_gives_a_pair_for_every_row_of_its_file(marked: None) -> None:
    path = CIR / "cirr/captions/cap.rc2.val.json"
    rows = json.loads(path.read_text())
    images = json.loads((CIR / "cirr/image_splits/split.rc2.val.json").read_text())
    result = mine(path, make_items(images.values()))
    assert result.notes["format"] == "cirr"
    assert result.notes["pairs"] == len(rows)
    for row, (reference, targets, texts) in zip(rows, told(result), strict=True):
        assert reference == images[row["reference"]]
        assert targets[0] == images[row["target_hard"]]
        right = {images[name] for name, weight in row["target_soft"].items() if weight == 1}
        # The file calls some targets unsure, and the reference itself right in a row or two.
        assert set(targets) == (right | {images[row["target_hard"]]}) - {reference}
        assert texts == [" ".join(row["caption"].split())]
    said = {name for row in rows for name in (row["reference"], *row["target_soft"])}
    judged = zip(*(result.verdicts[name].to_pylist() for name in ("verdict", "rule")), strict=True)
    kept = [verdict for verdict, rule in judged if verdict == "kept"]
    assert len(kept) <= len(said) < len(images)
    assert set(result.verdicts["rule"].to_pylist()) == {None, "not_named"}
    assert f"pairid {rows[0]['pairid']}" in result.rows["evidence"][0].as_py()["reason"]


@pytest.mark.parametrize("category", [pytest.param(c, marks=real) for c in ("dress", "shirt")])
def test_fashioniq_joins_the_two_captions_as_its_protocol_does(category: str) -> None:
    path = CIR / f"fashioniq/captions/cap.{category}.val.json"
    rows = json.loads(path.read_text())
    names = json.loads((CIR / f"fashioniq/image_splits/split.{category}.val.json").read_text())
    items = make_items([f"images/{name}.jpg" for name in names])
    result = mine(path, items)
    assert (result.notes["pairs"], result.notes["match"]) == (len(rows), "stem")
    for row, (reference, targets, texts) in zip(rows, told(result), strict=True):
        assert reference == f"images/{row['candidate']}.jpg"
        assert targets == [f"images/{row['target']}.jpg"]
        assert len(texts) == 1
        for caption in row["captions"]:
            assert " ".join(caption.split()).strip(" .,;!") in texts[0]
    separate = mine(path, items, texts="separate")
    distinct = [len({" ".join(c.split()) for c in row["captions"]} - {""}) for row in rows]
    assert [len(texts) for _, _, texts in told(separate)] == distinct
    assert len(texts_of(separate)) == sum(distinct)


@pytest.mark.parametrize("marked", [pytest.param(None, marks=real)])
def test_circo_keeps_all_ground_truths_as_targets(marked: None) -> None:
    path = CIR / "circo/val.json"
    rows = json.loads(path.read_text())
    numbers = {n for row in rows for n in (row["reference_img_id"], *row["gt_img_ids"])}
    result = mine(path, make_items([f"unlabeled2017/{n:012d}.jpg" for n in sorted(numbers)]))
    assert (result.notes["pairs"], result.notes["match"]) == (len(rows), "number")
    for row, (reference, targets, texts) in zip(rows, told(result), strict=True):
        assert reference == f"unlabeled2017/{row['reference_img_id']:012d}.jpg"
        assert targets == [f"unlabeled2017/{n:012d}.jpg" for n in row["gt_img_ids"]]
        assert texts == [row["relative_caption"]]
    assert rows[0]["shared_concept"] in result.rows["evidence"][0].as_py()["reason"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=real) for n in ("circo", "cirr")])
def test_a_test_split_hides_its_targets_and_the_error_says_so(name: str) -> None:
    path = CIR / {"circo": "circo/test.json", "cirr": "cirr/captions/cap.rc2.test1.json"}[name]
    with pytest.raises(DatagenError, match="names both a reference and a target"):
        mine(path, make_items(["a"]))


@pytest.mark.parametrize("marked", [pytest.param(None, marks=real)])
def test_shoes_leaves_out_pairs_of_a_shoe_with_itself(marked: None) -> None:
    path = CIR / "shoes/relative_captions_shoes.json"
    rows = json.loads(path.read_text())
    keys = sorted({row[k] for row in rows for k in ("ImageName", "ReferenceImageName")})
    result = mine(path, make_items(keys))
    own = [row for row in rows if row["ImageName"] == row["ReferenceImageName"]]
    assert result.notes["self_pairs"] == len(own) > 0
    assert result.notes["pairs"] == len(rows) - len(own)
    assert len(result.notes["examples"]["self_pairs"]) == 20
    expected = [
        (row["ReferenceImageName"], [row["ImageName"]], [" ".join(row["RelativeCaption"].split())])
        for row in rows
        if row not in own
    ]
    assert told(result) == expected


@pytest.mark.parametrize("marked", [pytest.param(None, marks=real)])
def test_egocvr_reads_lists_that_python_printed(marked: None) -> None:
    path = CIR / "egocvr/egocvr_annotations.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (CIR / "egocvr/egocvr_data.csv").open(newline="", encoding="utf-8") as file:
        clips = [row["clip_name"] for row in csv.DictReader(file)]
    result = mine(path, make_items(dict.fromkeys(clips)))
    expected = []
    for row in rows:
        targets = row["target_clip_ids"].strip("[]").replace("'", "").split(", ")
        targets = [one for one in dict.fromkeys(targets) if one != row["video_clip_id"]]
        if targets:
            expected.append((row["video_clip_id"], targets, [" ".join(row["instruction"].split())]))
    assert result.notes["self_pairs"] == len(rows) - len(expected)
    assert told(result) == expected


@pytest.mark.parametrize("marked", [pytest.param(None, marks=real)])
def test_genecis_rows_that_repeat_are_one_pair(marked: None) -> None:
    path = CIR / "genecis/change_object.json"
    rows = json.loads(path.read_text())
    ends = {row[k]["val_image_id"] for row in rows for k in ("reference", "target")}
    result = mine(path, make_items([f"{n:012d}.jpg" for n in sorted(ends)]))
    distinct = {
        (row["reference"]["val_image_id"], row["target"]["val_image_id"], row["condition"])
        for row in rows
    }
    assert result.notes["pairs"] == len(distinct) < len(rows)
    assert {(int(a[:12]), int(b[0][:12]), t[0]) for a, b, t in told(result)} == distinct


# --- formats whose files are described, not here ----------------------------------------------


def test_lasco_pairs_come_by_their_paths(tmp_path: Path) -> None:
    rows = [
        {
            "qid": 7,
            "query-image": [11, "train2014/COCO_train2014_000000000011.jpg"],
            "query-text": "make it a  cat",
            "target-image": [12, "train2014/COCO_train2014_000000000012.jpg"],
        }
    ]
    path = write(tmp_path, rows)
    for keys in (
        ["COCO_train2014_000000000011.jpg", "COCO_train2014_000000000012.jpg"],
        ["11", "12"],
    ):
        match = "auto" if keys[0] != "11" else "number"
        result = mine(path, make_items(keys), match=match)
        assert told(result) == [(keys[0], [keys[1]], ["make it a cat"])]
        assert result.rows["evidence"][0].as_py()["reason"] == "row 1 of pairs.json: qid 7"


def test_covr_keeps_the_similarity_as_the_score(tmp_path: Path) -> None:
    path = tmp_path / "webvid.csv"
    path.write_text(
        "txt1,txt2,sim_txt,pth1,pth2,edit,scores\n"
        'a red cup,a blue cup,0.91,7/1066665142,9/10,make it blue,"[0.1, 0.2]"\n'
        "a,b,,9/10,7/1066665142,back,\n"
    )
    items = make_items(["videos/7/1066665142.mp4", "videos/9/10.mp4", "videos/8/10.mp4"])
    result = mine(path, items)
    assert told(result) == [
        ("videos/7/1066665142.mp4", ["videos/9/10.mp4"], ["make it blue"]),
        ("videos/9/10.mp4", ["videos/7/1066665142.mp4"], ["back"]),
    ]
    scores = [row["evidence"]["score"] for row in result.rows.to_pylist()]
    assert scores == [0.91, None]


def test_megapairs_has_several_texts_and_each_becomes_a_triplet(tmp_path: Path) -> None:
    row = {"q_img": "a.jpg", "q_text": ["one", "two ", "one"], "t_img": "b.jpg", "hns": ["a.jpg"]}
    path = tmp_path / "mega.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    items = make_items(["x/a.jpg", "x/b.jpg"])
    result = mine(path, items)
    assert told(result) == [("x/a.jpg", ["x/b.jpg"], ["one", "two"])]
    assert texts_of(result) == ["one", "two"]
    assert texts_of(result, texts_per_pair=1) == ["one"]
    joined = mine(path, items, texts="join", joiner="; ")
    assert texts_of(joined) == ["one; two"]


@pytest.mark.parametrize("end", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_named_columns_of_any_kind_of_file(end: str, tmp_path: Path) -> None:
    rows = [
        {"ref": "a", "to": ["b", "c"], "say": "make it [big]"},
        {"ref": "b", "to": ["a"], "say": "[cr1] nothing"},
    ]
    path = tmp_path / f"own.{end}"
    if end == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif end in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(
                file, ["ref", "to", "say"], delimiter="," if end == "csv" else "\t"
            )
            writer.writeheader()
            writer.writerows(rows)
    elif end == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n\n".join(map(json.dumps, rows)))
    chosen = {"reference": "ref", "target": "to", "text": "say"}
    result = mine(path, make_items("abcd"), **chosen)
    assert result.notes["format"] == "columns"
    assert told(result) == [
        ("a", ["b", "c"], ["make it [big]"]),
        ("b", ["a"], ["[cr1] nothing"]),
    ]
    verdicts = dict(zip(*(result.verdicts[n].to_pylist() for n in ("id", "rule")), strict=True))
    assert list(verdicts.values()) == [None, None, None, "not_named"]


# --- what is lost is counted ------------------------------------------------------------------


def test_every_row_that_makes_no_pair_is_counted_by_why(tmp_path: Path) -> None:
    rows = [
        {"reference": "a", "target": "b", "text": "good"},
        {"reference": "a", "target": "b", "text": "good"},
        {"reference": "a", "target": "a", "text": "self"},
        {"reference": "a", "target": "zz", "text": "gone"},
        {"reference": "yy", "target": "a", "text": "gone too"},
        {"reference": "a", "target": None, "text": "hidden"},
        {"reference": {"x": 1}, "target": "b", "text": "bad"},
        {"reference": "twice", "target": "b"},
        {"reference": "a", "target": ["zz", "c", "a"], "text": ""},
        17,
    ]
    items = make_items(["a", "b", "c", "1/twice", "2/twice", "other"])
    result = mine(write(tmp_path, rows), items, match="name")
    notes = result.notes
    assert {name: notes[name] for name in LOST} == {
        "bad_rows": 2,
        "rows_without_target": 1,
        "rows_not_found": 2,
        "rows_ambiguous": 1,
        "self_pairs": 1,
        "duplicate_rows": 1,
    }
    assert notes["targets_not_found"] == 1
    assert told(result) == [("a", ["b"], ["good"]), ("a", ["c"], [])]
    assert notes["examples"]["rows_not_found"] == ["row 4: zz", "row 5: yy"]
    made = GivenText(GivenSettings())(result.rows)
    assert made["rule"].to_pylist() == [None, "no_given_text"]


def test_no_pair_at_all_is_an_error_that_shows_both_sides(tmp_path: Path) -> None:
    path = write(tmp_path, [{"reference": "B001", "target": "B002", "text": "x"}])
    items = make_items(["p/1.jpg", "p/2.jpg"], labels=[{"asin": "B001"}, {"asin": "B002"}])
    with pytest.raises(DatagenError) as caught:
        mine(path, items)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("'B001'", "'p/1.jpg'", "label:NAME", "1 not found"):
        assert part in message
    assert told(mine(path, items, match="label:asin")) == [("p/1.jpg", ["p/2.jpg"], ["x"])]


def test_a_missing_file_and_unknown_columns_are_found_before_any_row(tmp_path: Path) -> None:
    assert "no such file" in next(iter(Given(Settings(path="/nowhere.json")).check()))
    path = write(tmp_path, [{"left": "a", "right": "b"}])
    (fault,) = Given(Settings(path=str(path))).check()
    assert "columns left, right are" in fault
    assert "reference, target and text" in fault
    (fault,) = Given(Settings(path=str(path), format="cirr")).check()
    assert "no column 'reference'" in fault
    (fault,) = Given(Settings(path=str(path), format="columns", reference="lft")).check()
    assert "did you mean 'left'" in fault
    (fault,) = Given(Settings(path=str(write(tmp_path, [], "empty.json")))).check()
    assert "no row" in fault


def test_only_items_of_the_named_source_are_meant(tmp_path: Path) -> None:
    path = write(tmp_path, [{"reference": "a", "target": "b", "text": "x"}])
    items = make_items(["a", "b", "a"], sources=["one", "one", "two"])
    result = mine(path, items, source="one")
    assert told(result) == [("a", ["b"], ["x"])]
    assert result.verdicts["rule"].to_pylist() == [None, None, "other_source"]


def test_order_of_items_does_not_show(tmp_path: Path) -> None:
    rows = [{"reference": f"{n}", "target": f"{(n * 7) % 20}", "text": "t"} for n in range(20)]
    path = write(tmp_path, rows)
    items = make_items([f"{n}.jpg" for n in range(20)])
    back = items.take(pa.array(range(19, -1, -1)))
    assert mine(path, items).rows.sort_by("id") == mine(path, back).rows.sort_by("id")


def test_control_marks_and_surrogates_of_a_file_do_not_reach_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(
        '[{"reference": "a", "target": "b", "text": "one\\ntwo\\u0007 \\ud800 \\u202ethree"}]'
    )
    (text,) = texts_of(mine(path, make_items("ab")))
    assert text.encode("utf-8")
    assert text.split()[:2] == ["one", "two"]
    assert not any(ord(letter) < 32 or letter == "\u202e" for letter in text)


def test_the_revision_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, [{"reference": "a", "target": "b"}])
    first = Given(Settings(path=str(path))).revision()
    write(tmp_path, [{"reference": "b", "target": "a!"}])
    assert len(first) == 64
    assert Given(Settings(path=str(path))).revision() != first


NAME = st.lists(st.sampled_from(["a", "b", "7", "07", "x_7"]), min_size=1, max_size=3).map("/".join)


@settings(max_examples=200, deadline=None)
@given_by(st.lists(NAME, max_size=8, unique=True), st.lists(NAME, min_size=1, unique=True))
def test_a_name_is_found_by_brute_force_too(keys: list[str], names: list[str]) -> None:
    items = make_items([f"{key}.jpg" for key in keys])
    found = matching.find(names, items, "stem")
    for name in names:
        last = name.split("/")[-1]
        near = [n for n, key in enumerate(keys) if key.split("/")[-1] == last]
        exact = [n for n in near if f"/{keys[n]}".endswith(f"/{name}")]
        near = exact if len(near) > 1 and exact else near
        wanted = near[0] if len(near) == 1 else matching.SEVERAL if near else matching.ABSENT
        assert found.rows[name] == wanted


def test_media_in_a_tar_are_known_by_their_keys_alone() -> None:
    items = make_items(["k1", "k2"], paths=["s/000.tar", "s/000.tar"])
    assert matching.find(["k1", "k2"], items, "auto").rows == {"k1": 0, "k2": 1}
    assert matching.find(["000"], items, "stem").rows == {"000": matching.ABSENT}
    files = make_items(["one", "two"], paths=["p/B1.png", "p/B2.png"])
    assert matching.find(["B1", "B2"], files, "auto").rows == {"B1": 0, "B2": 1}


def test_a_list_in_a_cell_is_read_and_a_text_in_brackets_is_a_text() -> None:
    columns = formats.Columns("r", "t", "s")
    row = {"r": "a", "t": "['b', \"c\"]", "s": '["x", "y"]'}
    draft = formats.draft(row, "columns", columns)
    assert (draft.targets, draft.texts) == (("b", "c"), ("x", "y"))
    draft = formats.draft({"r": 3.0, "t": 7, "s": "[as it is]"}, "columns", columns)
    assert (draft.reference, draft.targets, draft.texts) == ("3", ("7",), ("[as it is]",))


def test_it_is_found_by_its_name() -> None:
    assert registry.find("pair", "given") is Given
    assert registry.find("text", "given") is GivenText


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"reference": "ref", "target": "tgtt"}, "no column 'tgtt'.*did you mean 'tgt'"),
        ({"reference": "reff", "target": "tgt"}, "no column 'reff'.*did you mean 'ref'"),
        ({"reference": "ref", "target": "tgt", "text": "txtt"}, "no column 'txtt'.*mean 'txt'"),
    ],
)
def test_a_column_that_is_named_must_be_there(
    tmp_path: Path, chosen: dict[str, str], told: str
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("ref,tgt,txt\na,b,is red\n")
    (fault,) = Given(Settings(path=str(path), **chosen)).check()
    assert re.search(told, fault)


def test_a_file_of_thousands_of_columns_is_told_in_a_line_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps({f"query {number}": [] for number in range(5000)}))
    (fault,) = Given(Settings(path=str(path))).check()
    assert "(5,000 in all)" in fault
    assert len(fault) < 1500


def test_a_source_without_items_is_told_by_its_id(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("reference,target\na,b\n")
    items = make_items("ab")
    operator = Given(Settings(path=str(path), source="catalog"))
    with pytest.raises(DatagenError, match="no items of source 'catalog'"):
        operator(Tables(items, items, "items"), Context(step="pairs", seed=5))


def test_text_that_is_no_utf_8_makes_a_bad_row_not_a_damaged_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes("reference;target;text\na;b;in Größe 4\nb;a;is red\n".encode("latin-1"))
    result = mine(path, make_items("ab"))
    assert result.notes["bad_rows"] == 1
    assert told(result) == [("b", ["a"], ["is red"])]
