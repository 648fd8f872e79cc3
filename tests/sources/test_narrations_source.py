"""The narrations source, against pandas on the same rows and against pairs mined by hand."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import ingest, schema
from datagen.errors import DatagenError
from datagen.recipe import check
from datagen.registry import find
from datagen.sources import _annotations, _telling
from datagen.step import Context, Tables

Narrations = find("source", "narrations")
SameKey = find("pair", "same_key")
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")

ROWS = [
    {"v": "P01", "t": "Open the door.", "a": "00:00:10.50", "b": "00:00:12", "verb": "open"},
    {"v": "P02", "t": "open  the DOOR", "a": "1:00:00", "b": "", "verb": "open"},
    {"v": "P01", "t": "close door", "a": "2.25", "b": "3", "verb": "close"},
    {"v": "P01", "t": "take cup", "a": "00:10.5", "b": "11", "verb": "take"},
]
COLUMNS = {"video": "v", "narration": "t", "start": "a", "stop": "b"}


def source(**given_settings):
    return Narrations(Narrations.Settings(**given_settings))


def records(**given_settings):
    """All records, with every part sent through JSON as it is between workers."""
    reader = source(**given_settings)
    assert list(reader.check()) == []
    parts = reader.parts(Context())
    tables = [reader.read(json.loads(json.dumps(part)), Context()) for part in parts]
    assert {table.schema for table in tables} == {schema.RECORD}
    return pa.concat_tables(tables).to_pylist()


def written(folder: Path, rows=ROWS, name="rows.jsonl") -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def items(found) -> pa.Table:
    """Records as the items table that pairing sees."""
    rows = []
    for r in found:
        key = schema.item_id(None, r["captions"], r["labels"])
        rows.append({**{n: r[n] for n in ("key", "media", "captions", "labels")},
                     "id": key, "source": "n"})  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema.ITEMS)


def test_times_positions_and_texts_become_labels(tmp_path):
    found = records(path=written(tmp_path), **COLUMNS, labels=["verb"])
    assert [(r["key"], r["media"], r["captions"]) for r in found] == [
        ("P01/10.500", None, ["Open the door."]),
        ("P02/3600.000", None, ["open the DOOR"]),
        ("P01/2.250", None, ["close door"]),
        ("P01/10.500", None, ["take cup"]),
    ]
    assert [json.loads(r["labels"]) for r in found] == [
        {"video": "P01", "start": 10.5, "stop": 12.0, "position": 2, "narration": "open the door",
         "verb": "open"},
        {"video": "P02", "start": 3600.0, "position": 0, "narration": "open the door",
         "verb": "open"},
        {"video": "P01", "start": 2.25, "stop": 3.0, "position": 0, "narration": "close door",
         "verb": "close"},
        {"video": "P01", "start": 10.5, "stop": 11.0, "position": 1, "narration": "take cup",
         "verb": "take"},
    ]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("pqr"), st.integers(0, 4), st.integers(0, 2), st.sampled_from("xy")
        )
    ),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_positions_are_ranks_whatever_the_order_of_rows_and_parts(
    tmp_path_factory, rows, size, shuffle
):
    rows = [{"v": v, "a": a, "b": a + d, "t": t} for v, a, d, t in rows]
    folder = tmp_path_factory.mktemp("n")

    def labels(rows, size):
        before, _annotations.ROWS = _annotations.ROWS, size
        try:
            reader = source(path=written(folder, rows), **COLUMNS)
            return [json.loads(label) for part in reader.parts(Context())
                    for label in reader.read(part, Context())["labels"].to_pylist()]  # fmt: skip
        finally:
            _annotations.ROWS = before

    if not rows:
        return
    found = labels(rows, 500)
    assert labels(rows, size) == found
    mixed = list(range(len(rows)))
    shuffle.shuffle(mixed)
    assert labels([rows[n] for n in mixed], size) == [found[n] for n in mixed]
    for video in {row["v"] for row in rows}:
        here = [label for label in found if label["video"] == video]
        by_place = {}
        for label in here:
            told = (label["start"], label["stop"], label["narration"])
            assert by_place.setdefault(label["position"], told) == told
        assert sorted(by_place) == list(range(len(by_place)))
        times = [told[:2] for _, told in sorted(by_place.items())]
        assert times == sorted(times)


@pytest.mark.parametrize(("value", "expected"), [
    ("00:01:37.05", 97.05), ("1:02", 62.0), ("01:00:00", 3600.0), (12, 12.0), ("12.5", 12.5),
    (" 7 ", 7.0), ("0:0:1,5", 1.5), ("", None), (None, None), ("soon", None), (True, None),
    (float("nan"), None), ("inf", None), (-1, None), ("10-20", None),
])  # fmt: skip
def test_seconds_of_numbers_and_times(value, expected):
    assert _telling.seconds(value) == expected


def test_seconds_are_those_that_pandas_reads():
    turn = random.Random(0)
    for _ in range(200):
        text = (
            f"{turn.randrange(30):02}:{turn.randrange(60):02}:{turn.randrange(60):02}"
            + turn.choice(["", f".{turn.randrange(1000):03}"])
        )
        assert _telling.seconds(text) == pytest.approx(pd.Timedelta(text).total_seconds(), abs=1e-6)


def test_faulty_rows_fail_by_name_and_have_no_position(tmp_path):
    good = {"v": "P", "t": "x", "a": 1, "b": 2}
    rows = [good, {**good, "v": None}, {**good, "a": "soon"}, {**good, "b": "late"},
            {**good, "b": 0.5}, {**good, "t": " … "}, {**good, "a": 5, "b": 6}]  # fmt: skip
    file = Path(written(tmp_path, rows))
    file.write_bytes(file.read_bytes() + b"{broken\n")
    found = records(path=str(file), **COLUMNS)
    assert [r["rule"] for r in found] == [
        None, "no_video", "bad_time", "bad_time", "bad_time", "no_caption", None, "bad_row"
    ]  # fmt: skip
    assert json.loads(found[6]["labels"])["position"] == 1
    assert f"{file}, line 3" in found[2]["detail"]


def test_the_tags_of_ego4d_are_told_in_words(tmp_path):
    texts = ["#C C picks a cup.", "# c c  picks a cup", "#O man X walks", "#C C cuts #unsure",
             "#CC rubs", "#C- C rubs", "#C rubs", "#C #C C rubs", "#C C cuts #Unsre",
             "cuts #1 wood"]  # fmt: skip
    rows = [{"v": "P", "t": text, "a": n} for n, text in enumerate(texts)]
    columns = {**COLUMNS, "stop": None}
    found = records(path=written(tmp_path, rows), **columns)
    assert [(r["verdict"], r["captions"]) for r in found] == [
        ("kept", ["the camera wearer picks a cup."]),
        ("kept", ["the camera wearer picks a cup"]),
        ("kept", ["man X walks"]),
        ("rejected", []),
        *[("kept", ["the camera wearer rubs"])] * 4,
        ("rejected", []),
        ("kept", ["cuts #1 wood"]),
    ]
    assert found[3]["rule"] == "unsure"
    labels = [json.loads(r["labels"])["narration"] for r in found[:2]]
    assert labels == ["the camera wearer picks a cup"] * 2
    kept = records(path=written(tmp_path, rows), **columns, wearer=None)
    assert [r["captions"][0] for r in kept] == [" ".join(text.split()) for text in texts]


def test_ego4d_own_file_is_read_with_both_of_its_passes(tmp_path):
    def told(*texts):
        notes = [{"timestamp_sec": n + 0.5, "narration_text": text, "annotation_uid": f"u{n}",
                  "timestamp_frame": 30 * n} for n, text in enumerate(texts)]  # fmt: skip
        return {"narrations": notes, "summaries": [{"summary_text": "C cooks"}]}

    data = {"v1": {"narration_pass_1": told("#C C a", "#C C b"), "narration_pass_2": told("#C C c"),
                   "status": "complete"},
            "v2": {"status": "redacted"}, "v3": {"narration_pass_1": told("#C C a")}}  # fmt: skip
    file = tmp_path / "narration.json"
    for whole in (data, {"version": "2", "videos": data}):
        file.write_text(json.dumps(whole))
        found = records(path=str(file), format="ego4d", labels=["pass", "uid"], wearer="someone")
        assert [r["captions"][0] for r in found] == [f"someone {w}" for w in "abca"]
        assert [json.loads(r["labels"])["video"] for r in found] == ["v1", "v1", "v1", "v3"]
        assert json.loads(found[2]["labels"])["pass"] == 2


def test_a_narration_of_ego4d_that_lacks_its_text_or_time_fails_alone(tmp_path):
    good = {"timestamp_sec": 1, "narration_text": "#C C a"}
    notes = [good, None, {"timestamp_sec": 2}, {"narration_text": "b"}, 7]
    data = {"v": {"narration_pass_1": {"narrations": notes}}, "w": None, "x": {"status": "gone"}}
    file = tmp_path / "narration.json"
    file.write_text(json.dumps({"videos": data}))
    found = records(path=str(file), format="ego4d")
    assert [r["rule"] for r in found] == [
        None, "bad_time", "no_caption", "bad_time", "bad_time"
    ]  # fmt: skip


@pytest.mark.parametrize("data", [
    [], {"videos": []}, {"a": 1}, {"videos": {}},
    {"v": {"narration_pass_1": {"narrations": "x"}}}, {"v": {"narration_pass_1": [1]}},
])  # fmt: skip
def test_what_is_no_file_of_ego4d_is_told_without_python(tmp_path, data):
    file = tmp_path / "narration.json"
    file.write_text(json.dumps(data))
    (line,) = source(path=str(file), format="ego4d").check()
    assert "no narration file of Ego4D" in line
    assert "Error" not in line


def test_columns_are_read_out_of_clip_names_and_name_the_clips(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a_b_1_2", "a_b_3-250_4"):
        (clips / f"{name}.mp4").write_bytes(b"x")
    rows = [{"clip": name, "t": "x"} for name in ("a_b_1_2", "a_b_3-250_4", "a_b_5_6", "odd")]
    rows.append({"clip": "../clips/a_b_1_2", "t": "x"})
    found = records(
        path=written(tmp_path, rows), narration="t", stop="stop", media="{clip}.mp4",
        media_root=str(clips), fields={"clip": "{video}_{start}_{stop}"}, key="clip",
    )  # fmt: skip
    assert [r["rule"] for r in found] == [
        None, None, "missing_file", "no_video", "outside_root"
    ]  # fmt: skip
    labels = [json.loads(r["labels"]) for r in found[:2]]
    assert [(at["video"], at["start"], at["stop"]) for at in labels] == [
        ("a_b", 1.0, 2.0), ("a_b", 3.25, 4.0)]  # fmt: skip
    assert found[0]["media"]["path"] == str(clips / "a_b_1_2.mp4")
    assert found[0]["media"]["modality"] == "video"
    assert "outside_root" in {r["rule"] for r in records(
        path=written(tmp_path, rows), narration="t", media="../{clip}.mp4",
        media_root=str(clips), fields={"clip": "{video}_{start}_{stop}"})}  # fmt: skip


@pytest.mark.parametrize("fault", [
    ({"path": "/no/such.csv"}, "no such file"),
    ({"video": "vid"}, "video names column 'vid'"),
    ({"start": "begin"}, "start names column 'begin'"),
    ({"labels": ["position"]}, "a label that this source gives itself"),
    ({"fields": {"clip": "{x}_{y}"}}, "fields names column 'clip'"),
    ({"fields": {"v": "{x}{y}"}}, "something must stand between"),
    ({"fields": {"v": "x"}}, "names in braces expected"),
    ({"media_root": "/no/such/folder"}, "no such folder"),
    ({"path": "/"}, "/: a folder; name the file in it"),
    ({"path": "/", "format": "csv"}, "/: a folder; name the file in it"),
    ({"path": "/", "format": "parquet"}, "/: a folder; name the file in it"),
    ({"media": "clip_{.mp4"}, "'clip_{.mp4' names no column"),
    ({"video": "{v}"}, "video names column '{v}'"),
])  # fmt: skip
def test_a_wrong_setting_is_told_before_the_run_in_one_line(tmp_path, fault):
    chosen, words = fault
    reader = source(**{"path": written(tmp_path), **COLUMNS, **chosen})
    lines = list(reader.check())
    assert words in lines[0]
    assert "\n" not in lines[0]
    with pytest.raises(DatagenError):
        reader.parts(Context())


def test_csv_and_parquet_give_what_jsonl_gives(tmp_path):
    expected = records(path=written(tmp_path), **COLUMNS, labels="all")
    pd.DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        assert records(path=str(tmp_path / name), **COLUMNS, labels="all") == expected


def epic() -> str:
    file = DATA / "captions" / "epic55_narrations.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"no real narrations at {file} (set DATAGEN_TEST_DATA)")
    return str(file)


@pytest.mark.real_data
def test_epic_kitchens_pairs_each_action_with_the_next_and_with_itself_elsewhere():
    found = records(path=epic(), video="video_id", start="start_timestamp", stop="stop_timestamp",
                    labels=["verb"], key="uid")  # fmt: skip
    with gzip.open(epic(), "rt", encoding="utf-8") as lines:
        frame = pd.DataFrame(map(json.loads, lines))
    assert len(found) == len(frame) == 12_606
    frame["at"] = pd.to_timedelta(frame.start_timestamp).dt.total_seconds()
    table = items(found)
    assert len(set(table["id"].to_pylist())) == table.num_rows
    labels = [json.loads(text) for text in table["labels"].to_pylist()]
    assert [label["start"] for label in labels] == pytest.approx(frame["at"].tolist())
    ranks = frame.groupby("video_id")["at"].rank(method="min").sub(1).astype(int)
    alone = ~frame.duplicated(["video_id", "at"], keep=False)
    assert [label["position"] for label, ok in zip(labels, alone, strict=True) if ok] == ranks[
        alone
    ].tolist()

    step = SameKey(SameKey.Settings(key="video", order="next", by="start"))
    pairs = step(Tables(table, table, "items"), Context()).rows
    assert pairs.num_rows == len(frame) - frame.video_id.nunique()
    place = dict(zip(table["id"].to_pylist(), labels, strict=True))
    steps = set()
    for row in pairs.select(["references", "targets"]).to_pylist():
        one, two = place[row["references"][0]["id"]], place[row["targets"][0]["id"]]
        assert one["video"] == two["video"]
        assert one["start"] <= two["start"]
        steps.add(two["position"] - one["position"])
    assert 1 in steps
    assert max(steps) <= 2  # two actions that begin at one time

    step = SameKey(SameKey.Settings(key="narration", differ=("video",), max_per_item=None))
    pairs = step(Tables(table, table, "items"), Context()).rows
    groups = defaultdict(list)
    for label in labels:
        groups[label["narration"]].append(label["video"])
    expected = sum(a != b for g in groups.values() for a, b in itertools.combinations(g, 2))
    assert pairs.num_rows == expected


@pytest.mark.real_data
def test_the_clips_of_egocvr_are_read_by_their_names():
    file = DATA / "cir" / "egocvr" / "egocvr_data.csv"
    if not file.is_file():
        pytest.skip(f"no real narrations at {file} (set DATAGEN_TEST_DATA)")
    found = records(path=str(file), video="video_uid", narration="narration_text", stop="stop",
                    fields={"clip_name": "{clip}_{start}_{stop}"}, key="clip_name")  # fmt: skip
    assert len(found) == 6302
    assert {r["rule"] for r in found} == {None, "unsure"}
    labels = [json.loads(r["labels"]) for r in found if r["verdict"] == "kept"]
    assert all(0 <= label["start"] <= label["stop"] for label in labels)
    assert not any("#" in text for r in found for text in r["captions"])


def test_a_recipe_reads_narrations_and_ingests_them_without_media(tmp_path):
    path = written(tmp_path)
    recipe = check({
        "source": {"type": "narrations", "path": path, **COLUMNS},
        "steps": [{"pair": {"op": "same_key", "key": "video"}}],
    })  # fmt: skip
    (origin,) = recipe.sources
    found = [ingest.clean_caption(r["captions"][0])
             for part in origin.source.parts(Context())
             for r in origin.source.read(part, Context()).to_pylist()]  # fmt: skip
    assert found == ["Open the door.", "open the DOOR", "close door", "take cup"]
