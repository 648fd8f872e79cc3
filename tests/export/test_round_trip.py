"""An export is read back by the operator that reads published files, as pairs and their texts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import Made

from datagen import schema
from datagen.export.write import NOTES, export
from datagen.pairing.given import Given
from datagen.step import Context, Tables

FILES = {
    "covr": "covr_{}.csv",
    "lasco": "lasco_{}.json",
    "cirr": "captions/cap.rc2.{}.json",
    "fashioniq": "captions/cap.all.{}.json",
    "megapairs": "megapairs_{}.jsonl",
}


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("name", sorted(FILES))
def test_an_export_read_as_ready_made_pairs_gives_the_triplets(
    made: Made, tmp_path: Path, name: str, split: str
) -> None:
    out = tmp_path / name
    export(made.out, name, str(out))
    told = (out / NOTES / f"items.{split}.jsonl").read_text("utf-8").splitlines()
    items = pa.Table.from_pylist(
        [
            made.items[one["id"]]
            | {"key": one["file"], "captions": []}
            | {"media": made.items[one["id"]]["media"] | {"path": str(out / one["file"])}}
            for one in map(json.loads, told)
        ],
        schema=schema.ITEMS,
    )
    called = {"test": "test1"}.get(split, split) if name == "cirr" else split
    settings = Given.Settings(path=str(out / FILES[name].format(called)), texts="separate")
    made_of = Given(settings)(Tables(items, items.slice(0, 0), "items"), Context())
    assert made_of.notes["format"] == name
    found: dict[tuple[str, ...], set[str]] = {}
    for row in made_of.rows.to_pylist():
        pair = (row["references"][0]["id"], *(one["id"] for one in row["targets"]))
        texts = {plain(one["added"]) for one in row["evidence"]["changes"]}
        found.setdefault(pair, set()).update(texts)
    truth: dict[tuple[str, ...], set[str]] = {}
    for row in made.kept(split).values():
        targets = row["targets"] if name == "cirr" else row["targets"][:1]
        pair = (row["references"][0]["id"], *(one["id"] for one in targets))
        truth.setdefault(pair, set()).add(plain(row["modification"]))
    assert found == truth
