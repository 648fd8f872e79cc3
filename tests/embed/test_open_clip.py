from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
import tiny_clips
import tiny_models
from PIL import Image

from datagen import clip, models, registry, schema
from datagen.embed.open_clip import OpenClip, OpenClipSettings
from datagen.errors import DatagenError
from datagen.preprocess import Geometry
from datagen.step import Context

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
open_clip = pytest.importorskip("open_clip", reason="needs datagen[models]")

SIZES = ((64, 64), (90, 70), (70, 140), (33, 21), (200, 65), (64, 65), (1, 7), (640, 480))
CAPTIONS = [
    ["a red shirt"],
    ["a dog on the beach", "two dogs", "the sea"],
    ["a man and a woman running in the dark " * 5],
    ["", "  ", "cat"],
    [],
    None,
    ["a black dress", "dress"],
    ["ein Kätzchen 猫 🐈"],
]


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + rng.integers(-20, 20, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def media_of(path: Path, **changes: Any) -> dict[str, Any]:
    names = [field.name for field in schema.MEDIA]
    size = path.stat().st_size if path.exists() else 10
    known = {"path": str(path), "offset": 0, "size": size, "modality": "image", "format": "png"}
    return {**dict.fromkeys(names), **known, **changes}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for number, size in enumerate(SIZES):
        path = folder / f"{number}.png"
        picture(size, number).save(path)
        rows.append({"id": f"{number:020x}", "media": media_of(path), "captions": CAPTIONS[number]})
    types = pa.schema(
        [("id", pa.string()), ("media", schema.MEDIA), ("captions", pa.list_(pa.string()))]
    )
    return pa.Table.from_pylist(rows, schema=types)


def opened(model: str, **settings: Any) -> OpenClip:
    operator = OpenClip(
        OpenClipSettings(
            model=model, device="cpu", **{"space": "image", "batch_size": 4, **settings}
        )
    )
    assert list(operator.check()) == []
    operator.open(Context())
    return operator


@pytest.fixture(scope="module")
def images(tiny_clip: str) -> OpenClip:
    return opened(tiny_clip)


@pytest.fixture(scope="module")
def texts(tiny_clip: str) -> OpenClip:
    return opened(tiny_clip, space="caption")


def embed(operator: OpenClip, rows: pa.Table, size: int = 100) -> dict[str, Any]:
    found = {}
    for start in range(0, rows.num_rows, size):
        out = operator(operator.prepare(rows.slice(start, size)))
        found.update({row["id"]: row for row in out.to_pylist()})
    return found


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_pixels_equal_open_clips_own_preprocess(
    resize_mode: str, interpolation: str, size: tuple[int, int]
) -> None:
    configuration = open_clip.transform.PreprocessCfg(
        size=size, resize_mode=resize_mode, interpolation=interpolation, fill_color=90
    )
    theirs = open_clip.transform.image_transform_v2(configuration, is_train=False)
    mean, std = configuration.mean, configuration.std
    ours = Geometry(*size, mean, std, interpolation, resize_mode, 90)
    for number, shape in enumerate(SIZES):
        image = picture(shape, number)
        pixels = torch.from_numpy(ours.fit(image).copy()).permute(2, 0, 1).float() / 255
        scaled = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        assert torch.equal(scaled, theirs(image)), shape


def test_every_architecture_of_open_clip_has_the_geometry_that_open_clip_gives_it() -> None:
    # Building each model would need gigabytes; its vision tower takes the size from here.
    for name, tag in open_clip.list_pretrained():
        geometry = clip.config(models.parse(f"open_clip:{name}/{tag}")).geometry
        merged = open_clip.transform.merge_preprocess_dict(
            open_clip.transform.PreprocessCfg(), open_clip.get_pretrained_cfg(name, tag)
        )
        size = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
        assert [geometry.height, geometry.width] == ([size] * 2 if isinstance(size, int) else size)
        assert geometry.mean == tuple(merged["mean"])
        assert geometry.std == tuple(merged["std"])
        assert geometry.interpolation == merged["interpolation"]
        assert geometry.resize_mode == merged["resize_mode"]


def test_weights_trained_with_quickgelu_are_run_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_clip: str
) -> None:
    weights = Path(tiny_clip.removeprefix("file:"))
    monkeypatch.setattr(models, "snapshot", lambda *_: str(weights))
    monkeypatch.setattr(models, "commit", lambda *_: "c" * 40)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", tiny_models.TINY_CLIP)
    for tag, quick in (("plain", False), ("openai", True)):
        card = {"hf_hub": "org/tiny/", "quick_gelu": quick, "mean": (0.5,) * 3, "std": (0.5,) * 3}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {tag: card})
        clip.config.cache_clear()
        ref = models.parse(f"open_clip:tiny/{tag}")
        assert models.revision(ref) == f"{tag}@{'c' * 40}"
        held = models.at(ref, models.revision(ref))
        loaded = clip.load(held, device="cpu", batch_size=2)
        kinds = {type(module).__name__ for module in loaded.model.modules()}
        assert ("QuickGELU" in kinds) == quick
        assert loaded.geometry.mean == (0.5, 0.5, 0.5)
    clip.config.cache_clear()


def test_image_vectors_equal_open_clips_own(
    images: OpenClip, items: pa.Table, tiny_clip: str
) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(
        tiny_clip.replace("file:", "local-dir:")
    )
    pictures = [Image.open(row["path"]) for row in items["media"].to_pylist()]
    with torch.inference_mode():
        theirs = model.eval().encode_image(
            torch.stack([preprocess(one) for one in pictures]), normalize=True
        )
    found = embed(images, items)
    ours = np.array([found[name]["vector"] for name in items["id"].to_pylist()])
    assert np.abs(ours - theirs.numpy()).max() < 5e-4


def test_caption_vectors_are_the_mean_of_open_clips_own(
    texts: OpenClip, items: pa.Table, tiny_clip: str
) -> None:
    name = tiny_clip.replace("file:", "local-dir:")
    model, tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
    found = embed(texts, items)
    for row in items.to_pylist():
        words = [text for text in row["captions"] or () if text.strip()]
        if not words:
            assert found[row["id"]]["verdict"] == schema.REJECTED
            assert found[row["id"]]["rule"] == "no_caption"
            assert found[row["id"]]["vector"] is None
            continue
        with torch.inference_mode():
            mean = model.encode_text(tokenizer(words), normalize=True).mean(0)
        theirs = torch.nn.functional.normalize(mean, dim=0).numpy()
        assert np.abs(np.array(found[row["id"]]["vector"]) - theirs).max() < 1e-3


def test_the_first_caption_alone_can_stand_for_an_item(tiny_clip: str, items: pa.Table) -> None:
    first = opened(tiny_clip, space="text", which="first")
    row = items.to_pylist()[1]
    found = embed(first, items)[row["id"]]["vector"]
    alone = first.clip.texts([row["captions"][0]])[0]
    assert found == alone.tolist()


@pytest.mark.parametrize("what", ["images", "texts"])
def test_vectors_do_not_depend_on_batches_or_order(
    what: str, items: pa.Table, request: pytest.FixtureRequest
) -> None:
    operator = request.getfixturevalue(what)
    rng = np.random.default_rng(1)
    many = pa.concat_tables([items] * 3)
    many = many.set_column(0, "id", pa.array([f"{n:020x}" for n in range(many.num_rows)]))
    expected = embed(operator, many)
    for size, shuffle in itertools.product((1, 3, 16), (False, True)):
        order = rng.permutation(many.num_rows) if shuffle else np.arange(many.num_rows)
        assert embed(operator, many.take(pa.array(order)), size) == expected


def test_broken_media_fail_with_their_reason_and_spoil_nobody(
    images: OpenClip, items: pa.Table, tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(tiny_clips.fade(8)[:900])
    bad = {
        "cut": media_of(tmp_path / "cut.png"),
        "empty": media_of(tmp_path / "empty.png"),
        "gone": media_of(tmp_path / "gone.png"),
        "clip": media_of(tmp_path / "cut.mp4", modality="video", format="mp4"),
        "none": None,
    }
    extra = pa.Table.from_pylist(
        [{"id": name, "media": value, "captions": []} for name, value in bad.items()],
        schema=items.schema,
    )
    found = embed(images, pa.concat_tables([extra, items, extra.slice(0, 0)]))
    good = embed(images, items)
    assert {name: row for name, row in found.items() if name not in bad} == good
    for name in bad:
        assert found[name]["vector"] is None
        assert found[name]["verdict"] == (schema.REJECTED if name == "none" else schema.FAILED)
        assert found[name]["detail"]
    assert found["clip"]["rule"] in ("corrupt", "truncated")
    assert found["none"]["rule"] == "no_media"
    assert len({found[name]["rule"] for name in ("cut", "empty", "gone")}) > 1
    alone = images(images.prepare(extra))
    assert alone["vector"].null_count == len(bad)
    assert alone["vector"].type == pa.list_(pa.float32(), 24)


def test_rows_that_failed_without_pixels_pass_through(images: OpenClip, items: pa.Table) -> None:
    names = ("id", "verdict", "rule", "detail")
    failed = pa.table({n: pa.array([v]) for n, v in zip(names, "xfrd", strict=True)})
    prepared = images.prepare(items)
    out = images(pa.concat_tables([prepared, failed], promote_options="permissive"))
    assert out.to_pylist()[-1] == {
        "id": "x",
        "vector": None,
        "verdict": "f",
        "rule": "r",
        "detail": "d",
    }
    assert images(failed).to_pylist()[0]["vector"] is None


def test_an_operator_travels_to_a_worker_with_its_geometry_and_revision(
    tiny_clip: str, items: pa.Table
) -> None:
    operator = OpenClip(OpenClipSettings(space="image", model=tiny_clip, device="cpu"))
    assert list(operator.check()) == []
    there = cloudpickle.loads(cloudpickle.dumps(operator))
    assert there._geometry == operator.geometry
    there.open(Context())
    assert embed(there, items) == embed(opened(tiny_clip, batch_size=64), items)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_stay_near(precision: str, tiny_clip: str, items: pa.Table) -> None:
    rough, exact = opened(tiny_clip, precision=precision), opened(tiny_clip)
    left, right = embed(rough, items), embed(exact, items)
    for name in items["id"].to_pylist():
        assert np.dot(left[name]["vector"], right[name]["vector"]) > 0.99
    assert rough.clip.texts(["a dog"]).shape == (1, 24)


def test_faults_are_seen_before_any_weights(tmp_path: Path, tiny_clip: str) -> None:
    def fault(model: str, **settings: Any) -> str:
        operator = OpenClip(OpenClipSettings(space="image", model=model, **settings))
        (line,) = operator.check()
        assert "\n" not in line
        return line

    assert "no such file" in fault(f"file:{tmp_path / 'absent'}")
    (tmp_path / "config.json").write_text("{}")
    assert "open_clip_config.json" in fault(f"file:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": 3}')
    clip.config.cache_clear()
    assert "not a configuration" in fault(f"file:{tmp_path}")
    assert "device 'gpu'" in fault(tiny_clip, device="gpu")
    assert "precision 'int8'" in fault(tiny_clip, precision="int8")
    assert "open_clip:hf-hub:org/name" in fault("hf:org/name@" + "0" * 40)
    with pytest.raises(DatagenError, match="did you mean 'open_clip'"):
        OpenClip(OpenClipSettings(space="image", model="openclip:ViT-B-32/openai"))


def test_a_folder_without_weights_is_refused_not_filled_at_random(tmp_path: Path) -> None:
    tiny_models.tiny_open_clip(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(DatagenError, match="cannot be loaded"):
        opened(f"file:{tmp_path}")


def test_a_configuration_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    reference = tiny_models.tiny_open_clip(tmp_path)
    path = tmp_path / "open_clip_config.json"
    path.write_text(
        path.read_text().replace(
            '"context_length"', '"tokenizer_kwargs": {"trust_remote_code": true}, "context_length"'
        )
    )
    clip.config.cache_clear()
    with pytest.raises(DatagenError, match="trust_remote_code: true"):
        opened(reference)


def test_the_registry_finds_it_and_it_declares_what_it_reads(tiny_clip: str) -> None:
    assert registry.find("embed", "open_clip") is OpenClip
    image = OpenClip(OpenClipSettings(space="image", model=tiny_clip))
    text = OpenClip(OpenClipSettings(space="mine", of="caption", model=tiny_clip))
    assert image.needs("items") == {"items.media"}
    assert text.needs("items") == {"items.captions"}
    assert image.gives("items") == {"space.image", "texts.image", "images.image"}
    assert text.columns("items") == ["id", "captions"]
    assert image.resources().actor
    assert dataclasses.replace(image.resources(), gpus=0).gpus == 0
    assert image.revision().startswith("sha256:")
