"""Vision models beside what transformers itself makes of the same pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_clips
from PIL import Image

from datagen import models, registry, schema
from datagen.embed.vision import Vision, VisionSettings
from datagen.errors import DatagenError
from datagen.step import Context

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
transformers = pytest.importorskip("transformers", reason="needs datagen[models]")

SIZES = ((64, 64), (90, 70), (70, 140), (33, 21), (200, 65), (320, 240))
DINO = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 36},
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
VIT = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 28, "width": 28},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def write(folder: Path, how: dict[str, Any], **config: Any) -> str:
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"image_size": 28, "patch_size": 14}
    if how is DINO:
        kind = transformers.Dinov2WithRegistersModel if config else transformers.Dinov2Model
        model = kind(kind.config_class(**shape, **config))
    else:
        made = transformers.ViTConfig(**shape, intermediate_size=64)
        model = transformers.ViTModel(made, add_pooling_layer=False)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(how))
    return f"file:{folder}"


def rows(folder: Path) -> pa.Table:
    found = []
    for number, size in enumerate(SIZES):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        path = folder / f"{number}.png"
        small.resize(size, Image.Resampling.BICUBIC).save(path)
        found.append(place(path, "image", "png"))
    clip = folder / "clip.mp4"
    clip.write_bytes(tiny_clips.fade(6))
    found.append(place(clip, "video", "mp4"))
    (folder / "broken.png").write_bytes(b"no picture")
    found.append(place(folder / "broken.png", "image", "png"))
    return pa.table(
        {"id": [f"i{n}" for n in range(len(found))], "media": pa.array(found, schema.MEDIA)}
    )


def place(path: Path, modality: str, kind: str) -> dict[str, Any]:
    known = {"path": str(path), "offset": 0, "size": path.stat().st_size}
    names = [field.name for field in schema.MEDIA]
    return {**dict.fromkeys(names), **known, "modality": modality, "format": kind}


def embedded(table: pa.Table, reference: str, **settings: Any) -> pa.Table:
    operator = Vision(VisionSettings(space="structure", model=reference, device="cpu", **settings))
    assert not list(operator.check())
    operator.open(Context())
    return operator(operator.prepare(table))


@pytest.mark.parametrize("how", [DINO, VIT], ids=["dino", "vit"])
def test_vectors_are_those_of_transformers(tmp_path: Path, how: dict[str, Any]) -> None:
    reference = write(tmp_path / "model", how)
    table = rows(tmp_path)
    out = embedded(table, reference, batch_size=4)
    folder = tmp_path / "model"
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    for number in range(len(SIZES)):
        picture = Image.open(tmp_path / f"{number}.png").convert("RGB")
        with torch.inference_mode():
            states = model(**processor(picture, return_tensors="pt")).last_hidden_state
        expected = models.unit_vectors(states[:, 0].numpy())[0]
        found = np.array(out["vector"][number].as_py())
        assert float(found @ expected) > 0.999, number
    verdicts = out["verdict"].to_pylist()
    assert [v for v in verdicts if v not in (None, "kept")] == ["failed"]
    assert out["vector"][len(SIZES)].as_py() is not None


def test_a_row_does_not_hang_on_the_rows_beside_it(tmp_path: Path) -> None:
    reference = write(tmp_path / "model", DINO, num_register_tokens=3)
    table = rows(tmp_path)
    whole = embedded(table, reference, token="mean", batch_size=4)
    for number in range(len(SIZES)):
        alone = embedded(table.slice(number, 1), reference, token="mean", batch_size=4)
        assert alone["vector"].to_pylist() == whole["vector"].slice(number, 1).to_pylist()


def test_the_mean_leaves_out_registers(tmp_path: Path) -> None:
    reference = write(tmp_path / "model", DINO, num_register_tokens=3)
    table = rows(tmp_path).slice(0, 1)
    found = np.array(embedded(table, reference, token="mean", batch_size=1)["vector"][0].as_py())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model", use_fast=False)
    model = transformers.AutoModel.from_pretrained(tmp_path / "model").eval()
    picture = Image.open(tmp_path / "0.png").convert("RGB")
    with torch.inference_mode():
        states = model(**processor(picture, return_tensors="pt")).last_hidden_state
    assert states.shape[1] == 1 + 3 + 4
    expected = models.unit_vectors(states[:, 4:].mean(1).numpy())[0]
    assert float(found @ expected) > 0.9999


def test_a_model_without_a_class_token_has_a_mean_of_all_patches(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"image_size": 28, "patch_size": 14, "intermediate_size": 32}
    transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**shape)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(VIT))
    table = rows(tmp_path).slice(0, 1)
    with pytest.raises(DatagenError, match="no class token; set token: mean"):
        embedded(table, f"file:{folder}")
    found = np.array(embedded(table, f"file:{folder}", token="mean")["vector"][0].as_py())
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**VIT, "image_processor_type": "SiglipImageProcessor"})
    )
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    picture = Image.open(tmp_path / "0.png").convert("RGB")
    with torch.inference_mode():
        states = model(**processor(picture, return_tensors="pt")).last_hidden_state
    expected = models.unit_vectors(states.mean(1).numpy())[0]
    assert states.shape[1] == 4
    assert float(found @ expected) > 0.9999


def test_a_model_without_tokens_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shape = {"hidden_sizes": [8] * 4, "depths": [1] * 4}
    transformers.ConvNextModel(transformers.ConvNextConfig(**shape)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(VIT))
    with pytest.raises(DatagenError, match="no tokens; a ViT expected"):
        embedded(rows(tmp_path).slice(0, 1), f"file:{folder}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, "is it a vision model"),
        ("{}", "sizes of pictures"),
        ("[1]", "sizes of pictures"),
        ("{", "sizes of pictures"),
        (json.dumps({**VIT, "size": {"height": 0, "width": 28}}), "1 to 4096 pixels"),
        (json.dumps({**DINO, "size": {"shortest_edge": 10**9}}), "1 to 4096 pixels"),
        (json.dumps({**VIT, "image_mean": [0.5]}), "three numbers expected"),
        (json.dumps({**VIT, "image_std": [0, 1, 1]}), "image_std above 0"),
    ],
)
def test_a_folder_that_is_no_vision_model_is_a_line(
    tmp_path: Path, change: str | None, told: str
) -> None:
    reference = write(tmp_path / "model", VIT)
    config = tmp_path / "model" / "preprocessor_config.json"
    config.unlink() if change is None else config.write_text(change)
    (line,) = Vision(VisionSettings(space="structure", model=reference)).check()
    assert told in line
    assert "\n" not in line


def test_it_is_found_by_its_name() -> None:
    assert registry.find("embed", "vision") is Vision
