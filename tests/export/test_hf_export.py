"""The dataset as the library ``datasets`` loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Made, clip, picture

from datagen.export import hf
from datagen.export.format import Options
from datagen.export.write import export

datasets = pytest.importorskip("datasets", reason="needs datagen[hf]")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()


def loaded(out: Path, cache: Path) -> Any:
    return datasets.load_dataset(str(out), cache_dir=str(cache))


def test_every_row_is_a_triplet_of_the_run(made: Made, tmp_path: Path) -> None:
    export(made.out, "hf", str(tmp_path / "hf"))
    found = loaded(tmp_path / "hf", tmp_path / "cache")
    assert set(found) == {"train", "val", "test"}
    for split, rows in found.items():
        kept = made.kept(split)
        assert rows["id"][:] == sorted(kept)
        shown = rows[0]["references"][0]
        assert shown.size == (24 + int(rows[0]["reference_items"][0]["key"].split()[1]), 20)
        raw = datasets.Image(decode=False)
        for role in ("references", "targets", "negatives"):
            rows = rows.cast_column(role, datasets.List(raw))
        for row in rows:
            truth = kept[row["id"]]
            assert row["modification"] == truth["modification"]
            assert row["score_similarity_caption"] == truth["score_similarity_caption"]
            for role, side in (("reference", "references"), ("target", "targets")):
                ids = [item["id"] for item in truth[side]]
                assert [one["bytes"] for one in row[side]] == [made.bytes_of[i] for i in ids]
                told = row[f"{role}_items"]
                assert [one["id"] for one in told] == ids
                assert [one["caption"] for one in told] == [x["caption"] for x in truth[side]]
                assert [json.loads(one["labels"]) for one in told] == [
                    json.loads(x["labels"]) for x in truth[side]
                ]
            ids = [one["item"]["id"] for one in truth["negatives"]]
            assert [one["bytes"] for one in row["negatives"]] == [made.bytes_of[i] for i in ids]
            assert [one["kind"] for one in row["negative_items"]] == [
                one["kind"] for one in truth["negatives"]
            ]


def test_shards_are_bounded_and_whole_ones_are_kept(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "SHARD", 6000)
    out = tmp_path / "hf"
    export(made.out, "hf", str(out))
    shards = sorted(out.glob("data/train-*.parquet"))
    assert len(shards) > 1
    assert {path.name[12:] for path in shards} == {f"of-{len(shards):05}.parquet"}
    before = {path: path.stat().st_mtime_ns for path in shards}
    shards[1].unlink()
    written = export(made.out, "hf", str(out))
    assert written.splits["train"]["triplets"] == len(made.kept("train"))
    again = {path: path.stat().st_mtime_ns for path in shards}
    assert [path for path in shards if again[path] != before[path]] == [shards[1]]
    assert loaded(out, tmp_path / "cache")["train"]["id"][:] == sorted(made.kept("train"))


def test_every_adds_the_verdicts(made: Made, tmp_path: Path) -> None:
    export(made.out, "hf", str(tmp_path / "hf"), every=True)
    found = loaded(tmp_path / "hf", tmp_path / "cache")
    assert found["unsplit"]["verdict"][:] == ["rejected"]
    assert found["unsplit"]["rule"][:] == ["by_hand"]
    assert set(found["train"]["verdict"]) == {"kept"}


def test_clips_lie_once_each_in_files_beside_the_tables(tmp_path: Path) -> None:
    made = Made(str(tmp_path / "run"), str(tmp_path / "clips"))
    ids = [made.item(f"clip {n}", clip(n), "mp4") for n in range(2)]
    ids.append(made.item("still", picture(1)))
    made.triplet([ids[0]], [ids[1]], "darker", [ids[0], ids[2]])
    made.triplet([ids[1]], [ids[0]], "lighter", [ids[1]])
    made.finish()
    out = tmp_path / "hf"
    written = export(made.out, "hf", str(out))
    assert written.media["written"] == 3
    for row in loaded(out, tmp_path / "cache")["train"]:
        for role in ("reference", "target", "negative"):
            told = [one["id"] for one in row[f"{role}_items"]]
            data = [(out / path).read_bytes() for path in row[f"{role}s"]]
            assert data == [made.bytes_of[name] for name in told]
    assert {path.suffix for path in (out / "media").rglob("*") if path.is_file()} == {
        ".mp4",
        ".jpg",
    }


def test_without_media_there_are_no_columns_of_media(made: Made, tmp_path: Path) -> None:
    export(made.out, "hf", str(tmp_path / "hf"), options=Options("none"))
    rows = loaded(tmp_path / "hf", tmp_path / "cache")["val"]
    assert "references" not in rows.column_names
    assert [one[0]["caption"] for one in rows["reference_items"]] == [
        made.kept("val")[name]["references"][0]["caption"] for name in rows["id"]
    ]


def test_the_card_shows_what_a_recipe_says_as_text(tmp_path: Path) -> None:
    made = Made(str(tmp_path / "run"), str(tmp_path / "photos"))
    ids = [made.item(f"thing {n}", picture(n)) for n in range(2)]
    made.triplet([ids[0]], [ids[1]], "darker")
    evil = "x\n---\n<script>alert(1)</script> | [a](javascript:b)"
    made.finish(name=evil, about=evil, source={"type": "folder", "license": evil})
    export(made.out, "hf", str(tmp_path / "hf"))
    text = (tmp_path / "hf" / "README.md").read_text("utf-8")
    body = text.partition("\n---\n")[2]
    assert body.lstrip().startswith("# x")
    assert "<script>" not in body
    assert "[a](" not in body
    assert loaded(tmp_path / "hf", tmp_path / "cache")["train"].num_rows == 1
