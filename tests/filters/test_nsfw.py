"""Classifiers of pictures beside transformers' own processor and model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import panels
import pyarrow as pa
import pytest
import tiny_clips
from PIL import Image
from pydantic import ValidationError
from tiny_vision import tiny_classifier

from datagen import frames, models, registry, schema
from datagen.filters.nsfw import Nsfw

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
transformers = pytest.importorskip("transformers", reason="needs datagen[models]")

LABELS = ["normal", "nsfw", "drawing"]
SCORE = "score_nsfw"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_classifier(tmp_path_factory.mktemp("classifier"), LABELS)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("items")
    places = [panels.saved(folder, str(n), tiny_clips.picture(n, (50 + n, 60))) for n in range(4)]
    (folder / "clip.mp4").write_bytes(tiny_clips.fade(6))
    (folder / "broken.png").write_bytes(b"no picture")
    places += [
        panels.place(folder / "clip.mp4", modality="video"),
        panels.place(folder / "broken.png"),
        None,
    ]
    return pa.table(
        {"id": ["i0", "i1", "i2", "i3", "clip", "broken", "text"],
         "media": pa.array(places, schema.MEDIA)}
    )  # fmt: skip


def operator(model: str, **settings: Any) -> Nsfw:
    return panels.opened(Nsfw(Nsfw.Settings(model=model, device="cpu", batch_size=3, **settings)))


def shares(reference: str, picture: Image.Image) -> list[float]:
    folder = reference.removeprefix("file:")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    own = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = own(**processor(picture, return_tensors="pt")).logits
    found: list[float] = logits.softmax(-1)[0].tolist()
    return found


def test_the_score_is_the_probability_of_the_unsafe_labels(items: pa.Table, model: str) -> None:
    one = panels.measured(operator(model), items)
    both = panels.measured(operator(model, unsafe=["NSFW", "drawing"]), items)
    for row in items.to_pylist()[:4]:
        expected = shares(model, Image.open(row["media"]["path"]))
        assert one[row["id"]][SCORE] == pytest.approx(expected[1], abs=0.01)
        assert both[row["id"]][SCORE] == pytest.approx(expected[1] + expected[2], abs=0.01)
        assert one[row["id"]]["verdict"] == schema.KEPT


def test_of_a_clip_the_worst_frame_counts(items: pa.Table, model: str) -> None:
    found = panels.measured(operator(model, frames=3), items)["clip"][SCORE]
    pictures = [frame.image for frame in frames.of(items["media"].to_pylist()[4], 3)]
    assert found == pytest.approx(max(shares(model, one)[1] for one in pictures), abs=0.01)


def test_what_cannot_be_seen_has_a_verdict(items: pa.Table, model: str) -> None:
    found = panels.measured(operator(model), items)
    assert found["broken"]["verdict"] == schema.FAILED
    assert (found["text"]["verdict"], found["text"]["rule"]) == (schema.REJECTED, "no_media")
    for size in (1, 2):
        assert panels.measured(operator(model), items, size) == found


def test_a_model_of_several_labels_gives_the_likeliest(items: pa.Table, tmp_path: Path) -> None:
    kind = {"problem_type": "multi_label_classification"}
    model = tiny_classifier(tmp_path / "several", LABELS, **kind)
    found = panels.measured(operator(model, unsafe=["nsfw", "drawing"]), items)
    folder = model.removeprefix("file:")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    own = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    picture = Image.open(items["media"].to_pylist()[0]["path"])
    with torch.inference_mode():
        each = own(**processor(picture, return_tensors="pt")).logits.sigmoid()[0].tolist()
    assert found["i0"][SCORE] == pytest.approx(max(each[1:]), abs=0.01)


def test_rows_go_with_their_unsafe_items() -> None:
    items = pa.table({"id": ["a", "b", "c"], SCORE: pa.array([0.1, 0.9, None], pa.float64())})
    member = {name: panels.member(name, None) for name in "abc"}
    rows = panels.pairs(
        [
            ("good", [member["a"]], [member["a"]]),
            ("target", [member["a"]], [member["b"]]),
            ("lost", [member["c"]], [member["a"]]),
        ]
    )
    made = Nsfw(Nsfw.Settings())
    expected = {"good": "kept", "target": "too_high", "lost": "failed"}
    assert panels.decided(made, rows, items) == expected
    made = Nsfw(Nsfw.Settings(of="reference"))
    assert panels.decided(made, rows, items) == {**expected, "target": "kept"}
    assert panels.decided(made, items, items) == {"a": "kept", "b": "too_high", "c": "failed"}
    assert Nsfw.rules == {"high", "of"}


def test_unknown_labels_and_models_are_named_before_the_run(model: str, tmp_path: Path) -> None:
    (told,) = Nsfw(Nsfw.Settings(model=model, unsafe=["nfsw"])).check()
    assert told.startswith("nsfw.unsafe:")
    assert "did you mean 'nsfw'?" in told
    (told,) = Nsfw(Nsfw.Settings(model="open_clip:ViT-B-32/openai")).check()
    assert "hf: or file:" in told
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 28}))
    (told,) = Nsfw(Nsfw.Settings(model=f"file:{tmp_path}")).check()
    assert "labels cannot be read" in told


def test_the_default_model_is_a_published_one() -> None:
    settings = Nsfw.Settings()
    assert (settings.model, settings.unsafe) == ("hf:Falconsai/nsfw_image_detection", ("nsfw",))
    assert registry.find("filter", "nsfw") is Nsfw
    assert Nsfw(settings).gives("items") == {f"items.{SCORE}"}
    with pytest.raises(ValidationError):
        Nsfw.Settings(unsafe=[])
