"""Retrievers written and loaded again: the same vectors, and what their own libraries load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dual_encoders
import yaml

from datagen import models
from datagen.errors import DatagenError

torch = pytest.importorskip("torch", reason="needs datagen[models]")
models.prepare()

from datagen.training import composers, folders, retriever, towers  # noqa: E402
from datagen.training.answering import Answering  # noqa: E402
from datagen.training.model import Model  # noqa: E402

ALL: list[dict[str, Any]] = [
    {"op": "sum", "learned": True},
    {"op": "combiner", "projection": 1, "hidden": 1},
    {"op": "inversion", "words": 2, "hidden": 1},
    {"op": "fusion", "layers": 1, "heads": 2},
]
TEXTS = ["in red", None, "a dog"]


@pytest.fixture(scope="module")
def refs(tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "open_clip": tiny_clip,
        "words": "bundled:tinyclip",
        "clip": tiny_dual_encoders.tiny_clip(folder / "clip"),
        "siglip": tiny_dual_encoders.tiny_siglip(folder / "siglip"),
    }


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return tiny_dual_encoders.pictures(tmp_path_factory.mktemp("pictures"), 4)


def trained(ref: str, composer: dict[str, Any], lora: Any = None) -> Any:
    """A model whose weights are no longer those that it was loaded with."""
    torch.manual_seed(5)
    found = towers.load(towers.TowerSettings(model=ref, lora=lora))
    model = Model(found, composers.make(composer, found), composer["op"])
    with torch.no_grad():
        for name, one in model.named_parameters():
            if lora is None or "lora_" in name or name.startswith("composer"):
                one.add_(torch.randn_like(one) * 0.02)
    return model


def answers(found: Any, media: list[dict[str, Any]]) -> Any:
    return np.concatenate([
        found.targets(media),
        found.queries([media[:1], media[1:3], []], TEXTS),
    ])  # fmt: skip


@pytest.mark.parametrize("composer", ALL, ids=lambda one: one["op"])
@pytest.mark.parametrize("kind", ["open_clip", "words", "clip", "siglip"])
def test_a_folder_gives_the_same_vectors_bit_for_bit(
    kind: str, composer: dict[str, Any], refs: dict[str, str], media: Any, tmp_path: Path
) -> None:
    model = trained(refs[kind], composer)
    known = answers(Answering(model, batch_size=3), media)
    folder = str(tmp_path / "out")
    folders.save(folder, model, choice=4, training={"steps": 3})
    found = retriever.load(folder, device="cpu", precision="fp32", batch_size=3)
    assert (answers(found, media) == known).all()
    by_name = retriever.load(f"file:{folder}", device="cpu", batch_size=3)
    assert (answers(by_name, media) == known).all()
    note = folders.read(folder)
    assert (note.frames, note.base, note.training) == (4, refs[kind], {"steps": 3})
    # And once more, from the folder.
    again = folders.model(folder)
    folders.save(str(tmp_path / "again"), again, choice=4, training={"steps": 3})
    for name in ("composer.safetensors", "retriever.json", "README.md"):
        assert Path(folder, name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_another_model_in_the_same_place_leaves_nothing_of_the_first(
    refs: dict[str, str], media: Any, tmp_path: Path
) -> None:
    for kind in ("clip", "open_clip", "siglip"):
        model = trained(refs[kind], {"op": "sum"})
        known = answers(Answering(model, batch_size=3), media)
        folders.save(str(tmp_path), model)
        # And again, where it was read.
        folders.save(str(tmp_path), folders.model(str(tmp_path)))
        found = retriever.load(str(tmp_path), device="cpu", batch_size=3)
        assert (answers(found, media) == known).all()


def test_open_clip_and_transformers_load_the_towers_alone(
    refs: dict[str, str], media: Any, tmp_path: Path
) -> None:
    import open_clip
    import transformers

    for kind in ("open_clip", "words", "clip"):
        model = trained(refs[kind], {"op": "sum"}).eval()
        folder = str(tmp_path / kind)
        folders.save(folder, model)
        texts = ["a red dog", "two"]
        if kind == "clip":
            plain = transformers.AutoModel.from_pretrained(folder).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            ids = tokenizer(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                found = plain.get_text_features(**ids)
            found = getattr(found, "pooler_output", found)
        else:
            plain = open_clip.create_model(f"local-dir:{folder}").eval()
            with torch.no_grad():
                found = plain.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts))
        with torch.no_grad():
            known = model.towers.texts(model.towers.tokenize(texts)).pooled
        np.testing.assert_allclose(found, known, atol=1e-5)


@pytest.mark.parametrize("kind", ["open_clip", "clip"])
def test_adapters_are_written_into_the_weights(
    kind: str, refs: dict[str, str], media: Any, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    model = trained(refs[kind], {"op": "sum"}, towers.LoraSettings(rank=2))
    known = answers(Answering(model, batch_size=3), media)
    folders.save(str(tmp_path), model)
    found = retriever.load(str(tmp_path), device="cpu", batch_size=3)
    np.testing.assert_allclose(answers(found, media), known, atol=1e-4)
    assert not any("lora" in name for name, _ in found.model.named_parameters())  # type: ignore[attr-defined]
    plain = retriever.load(refs[kind], device="cpu", batch_size=3)
    assert not np.allclose(answers(plain, media), known, atol=1e-3)


def test_the_card_tells_settings_and_figures_and_escapes_what_others_wrote(
    refs: dict[str, str], tmp_path: Path
) -> None:
    model = trained(refs["open_clip"], {"op": "inversion", "hidden": 1, "words": 2})
    training = {"runs": [{"path": "```\n# no heading"}], "steps": 100}
    figures = {"CIRR | <val>": {"R@1": 0.25, "queries": 4181}}
    folders.save(str(tmp_path), model, training=training, figures=figures)
    text = (tmp_path / "README.md").read_text()
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(head)["library_name"] == "datagen"
    assert "| words | `2` |" in body
    assert "0.25" in body
    assert "4181" in body
    assert "<val>" not in body
    assert "steps: 100" in body
    bare = trained(refs["open_clip"], {"op": "sum"})
    folders.save(str(tmp_path / "bare"), bare)
    assert "None were measured." in (tmp_path / "bare" / "README.md").read_text()


def test_a_training_that_has_not_ended_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text('{"status": "running"}')
    with pytest.raises(DatagenError, match="has not ended; the command that began it"):
        retriever.load(str(tmp_path), device="cpu")


def test_a_folder_that_is_not_whole_is_one_line(refs: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folders.save(str(folder), trained(refs["open_clip"], {"op": "combiner", "hidden": 1}))
    note = json.loads((folder / "retriever.json").read_text())

    def trouble(told: Any) -> str:
        text = told if isinstance(told, str) else json.dumps(told)
        (folder / "retriever.json").write_text(text)
        with pytest.raises(DatagenError) as caught:
            retriever.load(str(folder), device="cpu")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no JSON" in trouble("{")
    assert "format" in trouble({**note, "format": 2})
    assert "fusion" in trouble({**note, "composer": {"op": "fusio"}})
    assert "not the weights" in trouble({**note, "composer": {"op": "combiner", "hidden": 2}})
    with pytest.raises(DatagenError, match="composer of its own"):
        retriever.load(str(folder), composer={"op": "sum"}, device="cpu")
    (folder / "composer.safetensors").unlink()
    assert "not complete" in trouble(note)
