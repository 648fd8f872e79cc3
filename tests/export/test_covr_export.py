"""CoVR's CSV, read as its loader reads it: by pandas, with names found by a glob of the media."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import Made, clip

from datagen.export.write import export


def as_the_loader_reads(out: str, split: str, *endings: str) -> pd.DataFrame:
    """The rows, with the files that ``pth1`` and ``pth2`` lead to."""
    found = [path for end in endings for path in Path(out, "media").glob(f"*/*.{end}")]
    files = {f"{path.parent.stem}/{path.stem}": path for path in found}
    table = pd.read_csv(Path(out, f"covr_{split}.csv"), keep_default_na=False)
    for number in "12":
        table[f"path{number}"] = table[f"pth{number}"].map(files)
        assert table[f"path{number}"].notna().all()
        # The loader's ids: every character but digits is a 0, as a number of 64 bits.
        numbers = table[f"pth{number}"].map(lambda name: int(re.sub(r"\D", "0", name)))
        assert numbers.nunique() == table[f"pth{number}"].nunique()
        assert numbers.max() < 1 << 63
    return table


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_row_is_a_triplet_of_the_run(made: Made, tmp_path: Path, split: str) -> None:
    out = str(tmp_path / "covr")
    export(made.out, "covr", out)
    table = as_the_loader_reads(out, split, "jpg", "png")
    assert list(table.columns[:7]) == ["txt1", "txt2", "sim_txt", "pth1", "pth2", "edit", "scores"]
    kept = made.kept(split)
    assert len(table) == len(kept)
    for (_, row), name in zip(table.iterrows(), sorted(kept), strict=True):
        truth = kept[name]
        reference, target = truth["references"][0], truth["targets"][0]
        assert row["edit"] == truth["modification"]
        assert (row["txt1"], row["txt2"]) == (reference["caption"], target["caption"])
        score = truth["score_similarity_caption"]
        assert row["sim_txt"] in (score, str(score), "" if score is None else score)
        assert row["path1"].read_bytes() == made.bytes_of[reference["id"]]
        assert row["path2"].read_bytes() == made.bytes_of[target["id"]]
        assert ast.literal_eval(row["scores"]) == []


def test_what_a_row_cannot_hold_is_told(made: Made, tmp_path: Path) -> None:
    written = export(made.out, "covr", str(tmp_path / "covr"), ["train"])
    left = written.splits["train"]["left_out"]
    counts = {what.partition(",")[0]: about["count"] for what, about in left.items()}
    assert counts["targets beyond the first"] == 1
    assert counts["references beyond the first"] == 1
    assert counts["negatives"] == 5


def test_clips_keep_their_container_and_are_found(tmp_path: Path) -> None:
    made = Made(str(tmp_path / "run"), str(tmp_path / "clips"))
    ids = [made.item(f"clip {n}", clip(n), "mp4") for n in range(3)]
    made.triplet([ids[0]], [ids[1]], "darker")
    made.triplet([ids[1]], [ids[2]], "darker still")
    made.finish()
    out = str(tmp_path / "covr")
    export(made.out, "covr", out)
    table = as_the_loader_reads(out, "train", "mp4")
    assert {path.read_bytes() for path in table["path2"]} == {made.bytes_of[i] for i in ids[1:]}
