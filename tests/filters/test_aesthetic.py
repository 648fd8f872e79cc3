"""Ratings by a head on CLIP beside torch's own layers, and by models that rate themselves."""

from __future__ import annotations

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
from datagen.filters.aesthetic import Aesthetic

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
open_clip = pytest.importorskip("open_clip", reason="needs datagen[models]")
transformers = pytest.importorskip("transformers", reason="needs datagen[models]")

SCORE = "score_aesthetic"
WIDTH = 24


def head(kind: str) -> Any:
    """A head as LAION's (linear layers with dropout between), with activations, or one layer."""
    torch.manual_seed(4)
    nn = torch.nn
    between = {"none": nn.Dropout(0.2), "relu": nn.ReLU(), "gelu": nn.GELU()}
    if kind == "one":
        return nn.Linear(WIDTH, 1)
    layers = [nn.Linear(WIDTH, 12), between[kind], nn.Linear(12, 12), between[kind]]
    # Twelve modules or more: layers.10 must not come before layers.2.
    layers += [nn.Identity()] * 6 + [nn.Linear(12, 8), between[kind], nn.Linear(8, 1)]
    return nn.Sequential(*layers).eval()


def saved(made: Any, path: Path, **metadata: str) -> str:
    from safetensors.torch import save_file

    save_file(made.state_dict(), path, metadata or None)
    return f"file:{path}"


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("items")
    places = [panels.saved(folder, str(n), tiny_clips.picture(n, (70, 66))) for n in range(4)]
    (folder / "clip.mp4").write_bytes(tiny_clips.fade(6))
    (folder / "broken.png").write_bytes(b"no picture")
    places += [
        panels.place(folder / "clip.mp4", modality="video"),
        panels.place(folder / "broken.png"),
    ]
    return pa.table(
        {"id": ["i0", "i1", "i2", "i3", "clip", "broken"],
         "media": pa.array(places, schema.MEDIA)}
    )  # fmt: skip


def operator(**settings: Any) -> Aesthetic:
    plain = {"device": "cpu", "batch_size": 3, "low": 5.0}
    return panels.opened(Aesthetic(Aesthetic.Settings(**{**plain, **settings})))


@pytest.mark.parametrize("kind", ["one", "none", "relu", "gelu"])
def test_the_score_is_the_heads_of_clips_unit_vector(
    kind: str, items: pa.Table, tiny_clip: str, tmp_path: Path
) -> None:
    made = head(kind)
    told = {"activation": kind} if kind in ("relu", "gelu") else {}
    reference = saved(made, tmp_path / "head.safetensors", **told)
    found = panels.measured(operator(model=tiny_clip, head=reference, frames=2), items)
    model, _, preprocess = open_clip.create_model_and_transforms(
        tiny_clip.replace("file:", "local-dir:")
    )

    def rated(picture: Image.Image) -> float:
        with torch.inference_mode():
            vector = model.eval().encode_image(preprocess(picture)[None], normalize=True)
            return float(made(vector)[0, 0])

    for row in items.to_pylist()[:4]:
        expected = rated(Image.open(row["media"]["path"]))
        assert found[row["id"]][SCORE] == pytest.approx(expected, abs=2e-3)
    pictures = [frame.image for frame in frames.of(items["media"].to_pylist()[4], 2)]
    expected = sum(map(rated, pictures)) / 2
    assert found["clip"][SCORE] == pytest.approx(expected, abs=2e-3)
    assert found["broken"]["verdict"] == schema.FAILED


@pytest.mark.parametrize("labels", [["rating"], ["dull", "fine"]])
def test_a_model_of_transformers_rates_itself(
    labels: list[str], items: pa.Table, tmp_path: Path
) -> None:
    model = tiny_classifier(tmp_path / "rating", labels)
    label = None if len(labels) == 1 else "fine"
    found = panels.measured(operator(model=model, label=label, low=0), items)
    folder = model.removeprefix("file:")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    own = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    for row in items.to_pylist()[:4]:
        picture = Image.open(row["media"]["path"])
        with torch.inference_mode():
            logits = own(**processor(picture, return_tensors="pt")).logits
        expected = float(logits[0, 0] if label is None else logits.softmax(-1)[0, 1])
        assert found[row["id"]][SCORE] == pytest.approx(expected, abs=0.02)


def test_the_revision_hangs_on_both_files(tiny_clip: str, tmp_path: Path) -> None:
    one = saved(head("one"), tmp_path / "one.safetensors")
    other = saved(head("none"), tmp_path / "other.safetensors")
    made = [operator(model=tiny_clip, head=reference) for reference in (one, other)]
    revisions = [each.revision() for each in made]
    assert revisions[0] != revisions[1]
    assert revisions[0].split()[0] == revisions[1].split()[0]


def faults(**settings: Any) -> str:
    (told,) = Aesthetic(Aesthetic.Settings(low=5, **settings)).check()
    assert isinstance(told, str)
    return told


def test_heads_and_models_that_do_not_fit_are_named_before_the_run(
    tiny_clip: str, tmp_path: Path
) -> None:
    assert "name a head" in faults()
    other = torch.nn.Linear(WIDTH + 1, 1)
    told = faults(model=tiny_clip, head=saved(other, tmp_path / "wide.safetensors"))
    assert f"reads vectors of {WIDTH + 1}" in told
    wide = torch.nn.Linear(WIDTH, 2)
    assert "gives 2 values" in faults(
        model=tiny_clip, head=saved(wide, tmp_path / "two.safetensors")
    )
    norm = torch.nn.LayerNorm(WIDTH)
    assert "no linear layer" in faults(
        model=tiny_clip, head=saved(norm, tmp_path / "norm.safetensors")
    )
    strange = saved(head("one"), tmp_path / "strange.safetensors", activation="swish")
    assert "activation 'swish'" in faults(model=tiny_clip, head=strange)
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    told = faults(model=tiny_clip, head=f"file:{tmp_path / 'broken.safetensors'}")
    assert "not a file of safetensors" in told
    assert "one file of safetensors expected" in faults(model=tiny_clip, head=f"file:{tmp_path}")
    labelled = tiny_classifier(tmp_path / "labelled", ["dull", "fine"])
    assert "gives several labels" in faults(model=labelled)
    assert "did you mean 'fine'?" in faults(model=labelled, label="fin")


def test_a_band_decides_and_one_is_wanted() -> None:
    items = pa.table({"id": list("abc"), SCORE: pa.array([4.9, 5.0, None], pa.float64())})
    made = Aesthetic(Aesthetic.Settings(low=5))
    assert panels.decided(made, items) == {"a": "too_low", "b": "kept", "c": "failed"}
    assert Aesthetic.rules == {"low", "high", "of"}
    assert registry.find("filter", "aesthetic") is Aesthetic
    assert made.gives("items") == {f"items.{SCORE}"}
    with pytest.raises(ValidationError, match="give low, high or both"):
        Aesthetic.Settings()
    with pytest.raises(ValidationError, match="not both"):
        Aesthetic.Settings(low=5, head="file:head.safetensors", label="fine")
