"""MegaPairs' JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Made, media_at

from datagen.export.write import export


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_line_has_all_texts_of_its_pair_and_the_reference_first(
    made: Made, tmp_path: Path, split: str
) -> None:
    out = tmp_path / "mega"
    export(made.out, "megapairs", str(out))
    text = (out / f"megapairs_{split}.jsonl").read_text("utf-8")
    pairs: dict[str, list[dict]] = {}
    for row in made.kept(split).values():
        pairs.setdefault(row["pair"], []).append(row)
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == len(pairs)
    by_data = {data: name for name, data in made.bytes_of.items()}

    def item(path: str) -> str:
        return by_data[media_at(str(out), path)]

    for line, name in zip(lines, sorted(pairs), strict=True):
        rows = pairs[name]
        assert list(line) == ["q_img", "q_text", "t_img", "hns"]
        assert item(line["q_img"]) == rows[0]["references"][0]["id"]
        assert item(line["t_img"]) == rows[0]["targets"][0]["id"]
        assert sorted(line["q_text"]) == sorted(row["modification"] for row in rows)
        assert line["hns"][0] == line["q_img"]
        mined = [one["item"]["id"] for one in rows[0]["negatives"] if one["kind"] == "mined"]
        assert [item(path) for path in line["hns"][1:]] == mined
