"""What holds for every format: media, resuming, folders that hold something else, far stores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import ODD, Made, clip, fill, picture, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import cli, store
from datagen.errors import DatagenError
from datagen.export.format import Options
from datagen.export.selection import numbers
from datagen.export.write import FORMATS, NOTES, export

EVERY = sorted(FORMATS)
#: Formats that have a file for each item.
WITH_FILES = [name for name in EVERY if name not in ("hf", "instruct_pix2pix")]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", EVERY)
def test_the_same_run_gives_the_same_bytes(made: Made, tmp_path: Path, name: str) -> None:
    for out in ("one", "two"):
        export(made.out, name, str(tmp_path / out))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("name", EVERY)
def test_every_triplet_is_written_or_accounted_for(made: Made, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    written = export(made.out, name, str(out))
    for split in ("train", "val", "test"):
        told = [one for line in lines(out / f"{NOTES}/entries.{split}.jsonl") for one in
                line["triplets"]]  # fmt: skip
        assert set(told) == set(made.kept(split))
        assert written.splits[split]["triplets"] >= len(made.kept(split))


@pytest.mark.parametrize("name", WITH_FILES)
def test_items_are_written_once_each_with_the_bytes_of_the_run(
    made: Made, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    written = export(made.out, name, str(out))
    files: dict[str, str] = {}
    for split in written.splits:
        for line in lines(out / f"{NOTES}/items.{split}.jsonl"):
            assert files.setdefault(line["id"], line["file"]) == line["file"]
            assert (out / line["file"]).read_bytes() == made.bytes_of[line["id"]]
    assert written.media["written"] == len(files) == len(set(files.values()))


@pytest.mark.parametrize("name", EVERY)
def test_an_export_that_was_cut_off_is_completed(made: Made, tmp_path: Path, name: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    export(made.out, name, str(whole))
    export(made.out, name, str(cut))
    wanted = tree(whole)
    media = [path for path in wanted if path.endswith((".jpg", ".parquet"))]
    (cut / media[0]).unlink()
    (cut / media[1]).write_bytes(b"half")
    (cut / NOTES / "entries.train.jsonl").unlink()
    written = export(made.out, name, str(cut))
    assert tree(cut) == wanted
    if name != "hf":
        assert written.media["written"] == 2
        assert written.media["kept"] == len(media) - 2


def test_linked_media_are_the_files_themselves_and_tar_members_are_copied(
    made: Made, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    written = export(made.out, "lasco", str(out), options=Options("link"))
    assert written.media["linked"] == 7
    assert written.media["written"] == 5
    linked = set()
    for split in ("train", "val", "test"):
        for line in lines(out / f"{NOTES}/items.{split}.jsonl"):
            where = made.items[line["id"]]["media"]
            path = out / line["file"]
            assert path.read_bytes() == made.bytes_of[line["id"]]
            if os.path.samefile(path, where["path"]):
                linked.add(line["id"])
    assert len(linked) == 7
    again = export(made.out, "lasco", str(out), options=Options("link"))
    assert again.media["kept"] == 12


def test_links_reach_across_disks(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    export(made.out, "lasco", str(tmp_path / "out"), options=Options("link"))
    found = [path for path in (tmp_path / "out").rglob("*.jpg") if path.is_symlink()]
    assert len(found) == 7
    assert all(path.read_bytes() in made.bytes_of.values() for path in found)


def test_without_media_the_files_tell_the_same(made: Made, tmp_path: Path) -> None:
    export(made.out, "lasco", str(tmp_path / "with"))
    export(made.out, "lasco", str(tmp_path / "without"), options=Options("none"))
    files = tree(tmp_path / "without")
    assert not [path for path in files if path.endswith(".jpg")]
    assert files.items() <= tree(tmp_path / "with").items()


def test_media_may_all_get_one_extension(made: Made, tmp_path: Path) -> None:
    export(made.out, "fashioniq", str(tmp_path / "out"), options=Options(extension="png"))
    found = [path.suffix for path in (tmp_path / "out" / "images").iterdir()]
    assert set(found) == {".png"}


def test_a_medium_that_has_changed_takes_its_triplets_away_and_is_told(
    made: Made, tmp_path: Path
) -> None:
    changed = next(row for row in made.rows if row["modification"] == "null")["targets"][0]
    path = Path(changed["media"]["path"])
    path.write_bytes(picture(77)[: changed["media"]["size"]].ljust(changed["media"]["size"], b"x"))
    for name in EVERY:
        written = export(made.out, name, str(tmp_path / name), ["train", "test"])
        assert not [w for w in written.splits["train"]["left_out"] if "triplets" in w]
        with pytest.raises(DatagenError, match=r"no triplet could be written .*other bytes"):
            export(made.out, name, str(tmp_path / f"{name}-val"), ["val"])
        told = lines(tmp_path / f"{name}-val" / NOTES / "left_out.val.jsonl")
        assert {line["triplet"] for line in told} >= set(made.kept("val"))


def test_a_negative_that_is_gone_is_taken_off_the_list(made: Made, tmp_path: Path) -> None:
    row = next(row for row in made.rows if row["modification"] == "either")
    gone = row["negatives"][-1]["item"]
    Path(gone["media"]["path"]).unlink()
    export(made.out, "megapairs", str(tmp_path / "out"), ["train"])
    text = (tmp_path / "out" / "megapairs_train.jsonl").read_text("utf-8")
    assert gone["id"] not in text
    told = lines(tmp_path / "out" / NOTES / "left_out.train.jsonl")
    assert {"triplet": row["id"], "items": [gone["id"]]}.items() <= next(
        line for line in told if line["what"].startswith("negatives without")
    ).items()


@pytest.mark.parametrize("name", EVERY)
def test_a_folder_that_holds_something_else_is_left_alone(
    made: Made, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(DatagenError, match="not empty, and no export"):
        export(made.out, name, str(out))
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_exports_of_another_run_or_format_do_not_mix(made: Made, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    export(made.out, "cirr", out)
    with pytest.raises(DatagenError, match=r"holds another export \(format: 'cirr'\)"):
        export(made.out, "lasco", out)
    made.rows.pop()
    made.finish()
    with pytest.raises(DatagenError, match="holds another run"):
        export(made.out, "cirr", out)


@pytest.mark.parametrize("name", EVERY)
def test_captions_alone_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    made = Made(str(tmp_path / "run"), str(tmp_path / "photos"))
    ids = [made.item(f"text {n}", None) for n in range(2)]
    made.triplet([ids[0]], [ids[1]], "darker")
    made.finish()
    with pytest.raises(DatagenError, match="captions only") as caught:
        export(made.out, name, str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_triplets_without_media_among_others_are_left_out_and_told(
    made: Made, tmp_path: Path
) -> None:
    told = made.item("told only", None)
    row = made.triplet([next(iter(made.items))], [told], "into words")
    made.finish()
    written = export(made.out, "covr", str(tmp_path / "out"), ["train"])
    left = written.splits["train"]["left_out"]["triplets without a readable medium"]
    assert left == {"count": 1, "examples": [row], "why": "captions only"}
    assert written.splits["train"]["triplets"] == len(made.kept("train")) - 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": "coco"}, "--format coco: "),
        ({"splits": ["vall"]}, "--split vall: did you mean 'val'"),
        ({"options": Options(category="sort")}, "--category goes with --format fashioniq"),
    ],
)
def test_a_wrong_choice_is_one_line(
    made: Made, tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    chosen: dict[str, Any] = {"format": "cirr", "out": str(tmp_path / "out"), **change}
    with pytest.raises(DatagenError, match=expected) as caught:
        export(made.out, **chosen)
    assert "\n" not in str(caught.value)


def test_a_run_that_is_not_finished_is_not_exported(made: Made, tmp_path: Path) -> None:
    made.finish("stopped")
    with pytest.raises(DatagenError, match="this run is stopped"):
        export(made.out, "cirr", str(tmp_path / "out"))


@pytest.mark.parametrize("name", EVERY)
def test_far_runs_and_far_folders_give_the_same(
    made: Made, far: Made, tmp_path: Path, name: str
) -> None:
    """What is written to a store is what is written to a disk, and it is completed there too."""
    fs = fsspec.filesystem("memory")
    out = f"{far.out}-{name}"
    export(far.out, name, out)
    fs.get(out, str(tmp_path / "far"), recursive=True)
    near = fill(Made(str(tmp_path / "run2"), str(tmp_path / "photos2"))).finish()
    export(near.out, name, str(tmp_path / "near"))
    theirs, ours = tree(tmp_path / "far"), tree(tmp_path / "near")
    note = f"{NOTES}/export.json"
    assert theirs.keys() == ours.keys()
    assert {path for path in ours if ours[path] != theirs[path]} <= {note}
    again = export(far.out, name, out)
    assert not again.media.get("written")
    assert store.names(out) == sorted({path.split("/")[0] for path in ours})


@given(st.sets(st.text(max_size=6), max_size=60))
@settings(max_examples=50, deadline=None)
def test_numbers_are_unique_and_fit_64_bits(names: set[str]) -> None:
    given_numbers = numbers(names)
    assert set(given_numbers) == names
    assert len(set(given_numbers.values())) == len(names)
    assert all(0 <= number < 1 << 48 for number in given_numbers.values())


def test_the_command_says_what_it_wrote_and_how_to_read_it(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit) as done:
        cli.main(["export", made.out, "--format", "covr", "--out", out, "--split", "train"])
    assert done.value.code == 0
    said = capsys.readouterr()
    assert "train: 6 triplets" in said.out
    assert "covr_train.csv  6" in said.out
    assert "targets beyond the first" in said.out
    assert "media: 8 written" in said.out
    assert "read it: in CoVR's data configuration" in said.out
    assert ODD not in said.out
    assert "media: 8" in said.err
    for wrong in (["--media", "move"], ["--extension", "../x"], ["--format", "covrr"]):
        with pytest.raises(SystemExit) as done:
            cli.main(["export", made.out, "--format", "covr", "--out", out, *wrong])
        assert done.value.code == 1
        assert capsys.readouterr().err.startswith("error: --")


def test_a_folder_name_is_not_taken_from_an_id(tmp_path: Path) -> None:
    made = Made(str(tmp_path / "run"), str(tmp_path / "photos"))
    ids = [made.item(f"thing {n}", picture(n)) for n in range(3)]
    made.items[ids[0]]["id"] = "../../escape"
    made.triplet([ids[0]], [ids[1]], "darker")
    made.triplet([ids[1]], [ids[2]], "darker still")
    made.finish()
    for name in EVERY:
        out = tmp_path / "deep" / "er" / name
        written = export(made.out, name, str(out))
        assert written.splits["train"]["triplets"] == 1
    assert not list(tmp_path.rglob("escape*"))


def test_media_that_a_released_loader_would_not_find_are_told(tmp_path: Path) -> None:
    made = Made(str(tmp_path / "run"), str(tmp_path / "photos"))
    ids = [made.item(f"thing {n}", picture(n, "webp"), "webp") for n in range(3)]
    made.triplet([ids[0]], [ids[1]], "darker")
    made.finish()
    written = export(made.out, "covr", str(tmp_path / "one"))
    assert written.notes[0].startswith("2 media end in webp, but the released loaders look for")
    named = export(made.out, "covr", str(tmp_path / "two"), options=Options(extension="jpg"))
    assert named.notes == []


@pytest.mark.parametrize("name", [name for name in EVERY if name != "instruct_pix2pix"])
def test_clips_in_a_format_of_images_are_told(name: str, tmp_path: Path) -> None:
    made = Made(str(tmp_path / "run"), str(tmp_path / "clips"))
    ids = [made.item(f"clip {n}", clip(n), "mp4") for n in range(2)]
    ids.append(made.item("photo", picture(2)))
    made.triplet([ids[0]], [ids[1]], "darker")
    made.triplet([ids[1]], [ids[2]], "still")
    made.finish()
    written = export(made.out, name, str(tmp_path / "out"))
    told = [note for note in written.notes if note.startswith("2 of 3 media are clips")]
    assert len(told) == (name not in ("covr", "hf"))
    # What a loader looks for by name is said of images; another name makes no image of a clip.
    odd = [note for note in written.notes if "mp4" in note]
    assert not odd
    there = {path.suffix: path.read_bytes() for path in (tmp_path / "out").rglob("*.mp4")}
    assert there[".mp4"] in (made.bytes_of[ids[0]], made.bytes_of[ids[1]])
