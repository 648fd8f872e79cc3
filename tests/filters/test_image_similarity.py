"""Similarity of reference and target pictures beside open_clip's and transformers' own vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cloudpickle
import panels
import pyarrow as pa
import pytest
import tiny_clips
from PIL import Image
from pydantic import ValidationError

from datagen import models, registry, schema
from datagen.filters.image_similarity import ImageSimilarity
from datagen.step import Context

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
open_clip = pytest.importorskip("open_clip", reason="needs datagen[models]")
transformers = pytest.importorskip("transformers", reason="needs datagen[models]")

SCORE = "score_image_similarity"


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random DINOv2."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(1)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = transformers.Dinov2Config(**shape, image_size=28, patch_size=14)
    transformers.Dinov2Model(made).save_pretrained(folder)
    how = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 28, "width": 28},
        "resample": 3,
        "image_mean": [0.5, 0.4, 0.4],
        "image_std": [0.2, 0.2, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(how))
    return f"file:{folder}"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("pictures")
    # As high as the model of transformers wants them: its own resizing is another one.
    pictures = [tiny_clips.picture(number, (36 + 4 * number, 36)) for number in range(4)]
    made = [
        panels.member(f"i{n}", panels.saved(folder, str(n), one)) for n, one in enumerate(pictures)
    ]
    chosen = [([0], [1]), ([1], [1]), ([0, 2], [3]), ([3], [0, 1, 2])]
    return panels.pairs(
        [
            (f"p{n}", [made[at] for at in left], [made[at] for at in right])
            for n, (left, right) in enumerate(chosen)
        ]
    )


def operator(model: str, **settings: Any) -> ImageSimilarity:
    made = ImageSimilarity(
        ImageSimilarity.Settings(model=model, device="cpu", batch_size=3, **settings)
    )
    assert list(made.check()) == []
    made = cloudpickle.loads(cloudpickle.dumps(made))
    made.open(Context())
    return made


def clip_vector(reference: str) -> Any:
    model, _, preprocess = open_clip.create_model_and_transforms(
        reference.replace("file:", "local-dir:")
    )
    return lambda picture: model.eval().encode_image(preprocess(picture)[None], normalize=True)[0]


def dino_vector(reference: str) -> Any:
    folder = reference.removeprefix("file:")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def vector(picture: Image.Image) -> Any:
        states = model(**processor(picture, return_tensors="pt")).last_hidden_state
        return torch.nn.functional.normalize(states[0, 0], dim=0)

    return vector


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_the_score_is_the_least_cosine_of_the_pictures(
    kind: str, rows: pa.Table, tiny_clip: str, dino: str
) -> None:
    reference = tiny_clip if kind == "clip" else dino
    vector = clip_vector(reference) if kind == "clip" else dino_vector(reference)
    found = panels.measured(operator(reference), rows)
    for row in rows.to_pylist():
        with torch.inference_mode():
            left, right = (
                [vector(Image.open(one["media"]["path"]).convert("RGB")) for one in row[side]]
                for side in ("references", "targets")
            )
        expected = min(float(one @ other) for one in left for other in right)
        assert found[row["id"]][SCORE] == pytest.approx(expected, abs=2e-3)
        assert found[row["id"]]["verdict"] == schema.KEPT
    assert found["p1"][SCORE] == pytest.approx(1, abs=1e-3)
    for size in (1, 3):
        assert panels.measured(operator(reference), rows, size) == found


def test_a_clip_beside_a_picture_and_broken_media(dino: str, tmp_path: Path) -> None:
    still = tiny_clips.picture(3)
    (tmp_path / "still.mp4").write_bytes(tiny_clips.encoded([still] * 4))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    picture = panels.member("picture", panels.saved(tmp_path, "p", still))
    clip = panels.member("clip", panels.place(tmp_path / "still.mp4", modality="video"))
    broken = panels.member("broken", panels.place(tmp_path / "broken.png"))
    table = panels.pairs(
        [
            ("clip", [picture], [clip]),
            ("broken", [picture], [broken]),
            ("text", [picture], [panels.member("text", None, "a dog")]),
            ("alone", [], [picture]),
        ]
    )
    found = panels.measured(operator(dino, token="mean", frames=2), table)
    assert found["clip"][SCORE] > 0.98
    told = {name: (row["verdict"], row["rule"]) for name, row in found.items()}
    assert told["text"] == (schema.REJECTED, "no_media")
    assert told["alone"] == (schema.FAILED, "no_image")
    assert told["broken"][0] == schema.FAILED
    assert found["broken"][SCORE] is None


def test_a_band_decides() -> None:
    rows = pa.table({"id": ["a", "b", "c", "d"], SCORE: pa.array([0.69, 0.7, 0.99, None])})
    made = ImageSimilarity(ImageSimilarity.Settings(model="hf:unused/model", high=0.98))
    found = panels.decided(made, rows)
    assert found == {"a": "too_low", "b": "kept", "c": "too_high", "d": "failed"}


def test_models_that_cannot_do_it_are_named_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    made = ImageSimilarity(ImageSimilarity.Settings(model=f"file:{tmp_path}"))
    (told,) = made.check()
    assert "preprocessor_config.json" in told


def test_the_defaults_and_the_name() -> None:
    settings = ImageSimilarity.Settings()
    assert (settings.model, settings.low, settings.high) == ("open_clip:ViT-L-14/openai", 0.7, None)
    assert registry.find("filter", "image_similarity") is ImageSimilarity
    assert ImageSimilarity.rules == {"low", "high"}
    assert ImageSimilarity(settings).gives("pairs") == {SCORE}
    with pytest.raises(ValidationError, match="is above high"):
        ImageSimilarity.Settings(low=0.9, high=0.8)
