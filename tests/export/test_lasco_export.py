"""LaSCo's queries and corpus, in the structure that its repository describes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Made, media_at

from datagen.export.write import export


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_queries_and_corpus_tell_the_triplets(made: Made, tmp_path: Path, split: str) -> None:
    out = tmp_path / "lasco"
    export(made.out, "lasco", str(out))
    queries = json.loads((out / f"lasco_{split}.json").read_text("utf-8"))
    corpus = json.loads((out / f"lasco_{split}_corpus.json").read_text("utf-8"))
    kept = made.kept(split)
    assert len(queries) == len(kept) == len({one["qid"] for one in queries})
    path_of = {one["id"]: one["path"] for one in corpus}
    assert len(path_of) == len(corpus)
    for query, truth in zip(queries, (kept[key] for key in sorted(kept)), strict=True):
        assert list(query) == ["qid", "query-image", "query-text", "target-image"]
        assert query["query-text"] == truth["modification"]
        for role, side in (("query-image", "references"), ("target-image", "targets")):
            number, path = query[role]
            assert isinstance(number, int)
            assert path_of[number] == path
            assert media_at(str(out), path) == made.bytes_of[truth[side][0]["id"]]
    used = {
        item["id"]
        for row in kept.values()
        for item in (
            *row["references"],
            *row["targets"],
            *(one["item"] for one in row["negatives"]),
        )
    }
    assert {Path(path).stem for path in path_of.values()} == used


def test_a_number_means_one_image_in_every_split(made: Made, tmp_path: Path) -> None:
    together, apart = tmp_path / "together", tmp_path / "apart"
    export(made.out, "lasco", str(together))
    for split in ("val", "train", "test"):
        export(made.out, "lasco", str(apart), [split])
    for path in together.glob("lasco_*.json"):
        assert path.read_bytes() == (apart / path.name).read_bytes()
