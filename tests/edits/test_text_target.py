"""Captions as targets: the vectors are those of the models themselves, up to the shards."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
from tiny_models import tiny_open_clip, tiny_sentence_transformer

from datagen import models, schema
from datagen.edits.text_target import TextTarget
from datagen.explode import explode
from datagen.made import Maker
from datagen.registry import find
from datagen.shards import _plan
from datagen.shards._read import read_shard
from datagen.step import Context, Tables

models.prepare()
pytest.importorskip("open_clip", reason="needs datagen[models]")
pytest.importorskip("sentence_transformers", reason="needs datagen[models]")

LINE = {"step": "edit", "operator": "edit.text_target", "seed": 0}


@pytest.fixture(scope="module", params=["open_clip", "sentences"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(request.param)
    return {"open_clip": tiny_open_clip, "sentences": tiny_sentence_transformer}[request.param](
        folder
    )


def theirs(model: str, texts: list[str]) -> np.ndarray[Any, Any]:
    """Unit vectors by the model's own library."""
    import open_clip
    import torch
    from sentence_transformers import SentenceTransformer

    folder = model.removeprefix("file:")
    if not os.path.exists(os.path.join(folder, models.OPEN_CLIP_CONFIG)):
        own = SentenceTransformer(folder, device="cpu")
        return np.asarray(own.encode(texts, normalize_embeddings=True))
    network = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        return network.encode_text(tokens, normalize=True).numpy()


def member(number: int, caption: str | None, picture: bool = True) -> dict[str, Any]:
    media = dict.fromkeys(field.name for field in schema.MEDIA)
    media |= {"path": f"/{number}.jpg", "sha256": f"{number:064x}", "size": 1, "offset": 0}
    media |= {"modality": "image", "format": "jpeg"}
    item = {
        "id": f"{number:020x}", "key": str(number), "source": "s",
        "media": media if picture else None,
        "captions": [caption] if caption else [], "labels": "{}",
    }  # fmt: skip
    return schema.member(item)


def triplet(references: list[Any], targets: list[Any], text: str = "change it") -> dict[str, Any]:
    pair = schema.pair_id([r["id"] for r in references], [t["id"] for t in targets])
    return {
        "id": schema.triplet_id(pair, text), "pair": pair, "modification": text,
        "references": references, "targets": targets, "provenance": [],
        "evidence": {"operator": "test", "reason": "so", "changes": [], "score": 0.5},
    }  # fmt: skip


def rows() -> pa.Table:
    made = [
        triplet([member(1, "a red dog")], [member(2, "a blue dog")]),
        triplet([member(3, "a man")], [member(4, None)]),
        triplet([member(5, "a cat")], [member(6, "two cats"), member(7, "three cats")]),
        triplet([member(8, None)], [member(9, "a shoe on grass", picture=False)]),
    ]
    return pa.Table.from_pylist(made, schema=schema.TRIPLETS).sort_by("id")


def opened(model: str, **settings: Any) -> TextTarget:
    operator = TextTarget(TextTarget.Settings(model=model, device="cpu", batch_size=4, **settings))
    assert list(operator.check()) == []
    operator = cloudpickle.loads(cloudpickle.dumps(operator))
    operator.open(Context())
    return operator


def made_of(operator: TextTarget, table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows and items that a run would have after the step."""
    answer = operator(table)
    answered = answer.rename_columns(["unit" if n == "id" else n for n in answer.column_names])
    maker = Maker(schema.empty(schema.ITEMS), "edit")
    return explode(table, answered, LINE, maker).rows, maker.items()


def test_the_target_is_the_vector_of_its_caption(model: str) -> None:
    table = rows()
    made, items = made_of(opened(model), table)
    wanted = {
        "a blue dog": theirs(model, ["a blue dog"])[0],
        "two cats": theirs(model, ["two cats", "three cats"]).mean(0),
        "a shoe on grass": theirs(model, ["a shoe on grass"])[0],
    }
    found = {row["targets"][0]["caption"]: row for row in made.to_pylist()}
    assert found.keys() == wanted.keys()
    for caption, vector in wanted.items():
        own = np.array(found[caption]["target_vector"])
        assert abs(np.linalg.norm(own) - 1) < 1e-3
        assert np.abs(own - vector / np.linalg.norm(vector)).max() < 2e-3
    assert [item["captions"] for item in items.to_pylist()] != []
    assert {text for item in items.to_pylist() for text in item["captions"]} == {
        "a blue dog", "two cats", "three cats",
    }  # fmt: skip
    assert all(item["media"] is None for item in items.to_pylist())
    assert [one["caption"] for one in found["two cats"]["targets"]] == ["two cats", "three cats"]
    # Every row that is left tells of the model, also the one whose target was a caption before.
    assert all(row["provenance"][-1]["step"] == "edit" for row in found.values())
    before = {row["id"]: row for row in table.to_pylist()}
    assert found["a shoe on grass"]["id"] in before
    assert found["a blue dog"]["references"][0]["id"] == f"{1:020x}"


def test_a_target_without_a_caption_is_rejected(model: str) -> None:
    answer = {row["id"]: row for row in opened(model)(rows()).to_pylist()}
    lost = [row for row in answer.values() if row["verdict"] != "kept"]
    (told,) = [row["id"] for row in rows().to_pylist() if row["targets"][0]["caption"] is None]
    assert [(row["id"], row["verdict"], row["rule"]) for row in lost] == [
        (told, "rejected", "no_caption")
    ]
    assert lost[0]["target_vector"] is None


def test_a_row_alone_gives_what_it_gives_beside_others(model: str) -> None:
    operator, table = opened(model), rows()
    whole = operator(table)
    for place in range(len(table)):
        alone = operator(table.slice(place, 1))
        assert alone.schema == whole.schema
        assert alone.to_pylist() == whole.slice(place, 1).to_pylist()


def test_a_batch_in_which_nothing_is_kept_has_the_same_columns(model: str) -> None:
    operator, table = opened(model), rows()
    lost = table.filter(pa.array([row["targets"][0]["caption"] is None for row in
                                  table.to_pylist()]))  # fmt: skip
    assert operator(lost).schema == operator(table).schema


def shards(folder: Path, table: pa.Table) -> str:
    operator = find("shards", "webdataset")
    step = operator(operator.Settings())
    step(Tables(pa.table({}), table, "triplets"), Context("shards", 0, str(folder)))
    return f"{folder}/shards/train-000000.tar"


def captions_only(model: str) -> pa.Table:
    """Triplets of captions, half of them with a vector."""
    made = [
        triplet([member(n, f"a red dog {n}", False)], [member(n + 50, f"a cat {n}", False)])
        for n in range(8)
    ]
    table = pa.Table.from_pylist(made, schema=schema.TRIPLETS).sort_by("id")
    answer = opened(model)(table)
    column = answer["target_vector"].combine_chunks()
    half = pa.array([None if n % 2 else n for n in range(len(table))])
    return table.append_column("target_vector", column.take(half))


def test_shards_carry_the_vector_to_every_reader(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WDS_SECURE", "1")
    import webdataset

    table = captions_only(model)
    path = shards(tmp_path, table)
    wanted = {row["id"]: row["target_vector"] for row in table.to_pylist()}
    read = {sample["key"]: sample for sample in read_shard(path)}
    assert read.keys() == wanted.keys()
    for name, vector in wanted.items():
        if vector is None:
            assert "target_vector" not in read[name]
        else:
            assert read[name]["target_vector"].dtype == np.dtype("<f4")
            assert read[name]["target_vector"].tolist() == vector
        assert read[name]["targets"] == []
    for sample in webdataset.WebDataset(path, shardshuffle=False).decode():
        if wanted[sample["__key__"]] is not None:
            assert sample["target.npy"].tolist() == wanted[sample["__key__"]]
    with tarfile.open(path) as archive:
        names = [info.name for info in archive if info.name.endswith(".npy")]
        loaded = {name: np.load(io.BytesIO(archive.extractfile(name).read()), allow_pickle=False)
                  for name in names}  # type: ignore[union-attr]  # fmt: skip
    assert sorted(name.partition(".")[0] for name in names) == sorted(
        name for name, vector in wanted.items() if vector is not None
    )
    assert all(one.tolist() == wanted[name.partition(".")[0]] for name, one in loaded.items())


def test_the_planned_size_of_a_shard_counts_vectors(model: str) -> None:
    table = captions_only(model)
    plain = _plan.sizes(table.drop_columns(["target_vector"]), True)
    more = np.array(_plan.sizes(table, True)) - plain
    dimensions = table["target_vector"].type.list_size
    there = np.array([one is not None for one in table["target_vector"].to_pylist()])
    assert (more[there] == 512 + -(-(128 + 4 * dimensions) // 512) * 512).all()
    assert (more[~there] == 0).all()


def test_a_broken_vector_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in (("k.target.npy", b"\x80\x04N."), ("k.txt", b"x"), ("k.json", b"{}")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(Exception, match=r"broken target\.npy") as caught:
        list(read_shard(str(path)))
    assert "\n" not in str(caught.value)


def test_without_the_column_shards_have_no_such_member(model: str, tmp_path: Path) -> None:
    table = captions_only(model)
    bare = table.drop_columns(["target_vector"])
    with tarfile.open(shards(tmp_path, bare)) as archive:
        assert {name.partition(".")[2] for name in archive.getnames()} == {"txt", "json"}


def test_a_prompt_is_of_sentence_encoders(model: str) -> None:
    operator = TextTarget(TextTarget.Settings(model=model, prompt="query: "))
    told = list(operator.check())
    assert bool(told) == os.path.exists(model.removeprefix("file:") + "/open_clip_config.json")
    assert all("sentence encoder" in line for line in told)
