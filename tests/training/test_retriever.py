"""Retrievers asked zero-shot, against the libraries' own functions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clips
import tiny_dual_encoders
from PIL import Image

from datagen import frames, models
from datagen.containers import MediaError
from datagen.errors import DatagenError

torch = pytest.importorskip("torch", reason="needs datagen[models]")
models.prepare()

from datagen.training import retriever  # noqa: E402

Array = np.ndarray[Any, Any]
TEXTS = ["a red dog", "two cats on the table", "a man in a blue shirt running"]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return tiny_dual_encoders.pictures(tmp_path_factory.mktemp("pictures"), 7)


LONG = "a " * 80 + "{reference} {text}"


def unit(vectors: Any) -> Array:
    found = np.asarray(vectors.detach() if hasattr(vectors, "detach") else vectors, np.float64)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def opened(media: list[dict[str, Any]]) -> list[Image.Image]:
    return [Image.open(one["path"]).convert("RGB") for one in media]


def of_open_clip(ref: str, media: list[dict[str, Any]]) -> tuple[Array, Array]:
    """Vectors of pictures and of TEXTS by open_clip's own preprocessing and calls."""
    import open_clip

    name = f"local-dir:{ref.removeprefix('file:')}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(one) for one in opened(media)]))
        return unit(images), unit(model.encode_text(tokenizer(TEXTS)))


def of_transformers(ref: str, media: list[dict[str, Any]]) -> tuple[Array, Array]:
    """The same by transformers' own processor and model."""
    import transformers

    folder = ref.removeprefix("file:")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=opened(media), return_tensors="pt")
    ids = tokenizer(
        TEXTS, padding="max_length", max_length=tiny_dual_encoders.LENGTH, return_tensors="pt"
    )
    with torch.no_grad():
        found = model(input_ids=ids["input_ids"], **pixels)
        return unit(found.image_embeds), unit(found.text_embeds)


@pytest.fixture(scope="module", params=["open_clip", "clip", "siglip"])
def known(
    request: pytest.FixtureRequest,
    tiny_clip: str,
    media: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Array, Array]:
    """A reference, and its vectors of pictures and texts by its library's own code."""
    if request.param == "open_clip":
        return tiny_clip, *of_open_clip(tiny_clip, media)
    make = getattr(tiny_dual_encoders, f"tiny_{request.param}")
    ref = make(tmp_path_factory.mktemp(request.param))
    return ref, *of_transformers(ref, media)


def test_zero_shot_vectors_are_those_of_the_library_itself(
    known: tuple[str, Array, Array], media: list[dict[str, Any]]
) -> None:
    ref, images, texts = known
    found = retriever.load(ref, device="cpu", batch_size=4)
    gallery = found.targets(media)
    assert gallery.dtype == np.float32
    # Resampling of pictures differs between libraries by a grey value here and there.
    np.testing.assert_allclose(gallery, images, atol=1e-2)
    np.testing.assert_allclose(found.queries([[]] * 3, TEXTS), texts, atol=1e-5)
    np.testing.assert_allclose(found.queries([[m] for m in media], [None] * 7), gallery, atol=1e-6)
    both = found.queries([[m] for m in media[:3]], TEXTS)
    np.testing.assert_allclose(both, unit(gallery[:3] + texts), atol=1e-5)


@pytest.mark.parametrize("composer", ["sum", "inversion", "fusion"])
def test_half_precision_answers_nearly_the_same(
    known: tuple[str, Array, Array], media: list[dict[str, Any]], composer: str
) -> None:
    # An open_clip model with a pooling by attention as well.
    for ref in (known[0], "bundled:tinyclip"):
        given = {"op": composer, "heads": 2} if composer == "fusion" else {"op": composer}
        found = []
        for precision in ("fp32", "bf16"):
            torch.manual_seed(0)
            one = retriever.load(ref, device="cpu", precision=precision, composer=given)
            asked = one.queries([media[:1], media[1:3], []], ["in red", None, "two cats"])
            found.append(np.concatenate([one.targets(media), asked]))
        assert ((found[0] * found[1]).sum(1) > 0.999).all()


def test_several_references_are_their_mean(tiny_clip: str, media: list[dict[str, Any]]) -> None:
    found = retriever.load(tiny_clip, device="cpu")
    gallery = found.targets(media).astype(np.float64)
    queries = found.queries([media[:3], media[3:4], media[2::-1]], [None, None, None])
    np.testing.assert_allclose(queries[0], unit(gallery[:3].mean(0)), atol=1e-6)
    np.testing.assert_allclose(queries[2], queries[0], atol=1e-6)


def test_a_vector_is_the_same_whatever_stands_beside_it(
    tiny_clip: str, media: list[dict[str, Any]]
) -> None:
    found = retriever.load(tiny_clip, device="cpu", batch_size=4)
    together = found.targets(media)
    alone = np.concatenate([found.targets([one]) for one in reversed(media)])[::-1]
    assert (together == alone).all()
    texts = ["a dog", None, "red", "two men", None, "a", "blue shoes"]
    asked = [[one] for one in media]
    queries = found.queries(asked, texts)
    order = [3, 0, 6, 1, 5, 2, 4]
    shuffled = found.queries([asked[n] for n in order], [texts[n] for n in order])
    assert (queries[order] == shuffled).all()


def test_the_frames_of_a_clip_are_averaged_or_weighted_by_its_caption(
    tiny_clip: str, tmp_path: Path, media: list[dict[str, Any]]
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(tiny_clips.fade(12))
    clip = {"path": str(path), "modality": "video"}
    stills = []
    for number, frame in enumerate(frames.of(clip, 4)):
        frame.image.save(tmp_path / f"{number}.png")
        stills.append({"path": str(tmp_path / f"{number}.png"), "modality": "image"})
    found = retriever.load(tiny_clip, device="cpu", choice=4)
    single = found.targets(stills).astype(np.float64)
    text = found.queries([[]], ["a red dog"]).astype(np.float64)
    np.testing.assert_allclose(found.targets([clip])[0], unit(single.mean(0)), atol=1e-5)
    shares = np.exp(single @ text[0] / 0.1)
    wanted = unit((shares[:, None] * single).sum(0))
    told = found.targets([clip, media[0], None], ["a red dog", None, "a red dog"])
    np.testing.assert_allclose(told[0], wanted, atol=1e-5)
    np.testing.assert_allclose(told[1], found.targets(media[:1])[0], atol=1e-6)
    np.testing.assert_allclose(told[2], text[0], atol=1e-5)
    assert retriever.load(tiny_clip, device="cpu").targets([clip]).shape == (1, 24)


def test_what_has_neither_part_is_one_line(tiny_clip: str, media: list[dict[str, Any]]) -> None:
    found = retriever.load(tiny_clip, device="cpu")
    with pytest.raises(DatagenError, match="query 1: has neither"):
        found.queries([media[:1], []], ["a", None])
    with pytest.raises(DatagenError, match="target 0: has neither"):
        found.targets([None])
    assert found.targets([]).shape == (0, 24)
    assert found.queries([], []).shape == (0, 24)


def test_a_broken_picture_is_named(tiny_clip: str, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(MediaError, match=r"broken\.jpg"):
        retriever.load(tiny_clip, device="cpu").targets([{"path": str(tmp_path / "broken.jpg")}])


@pytest.mark.parametrize(
    ("reference", "composer", "hint"),
    [
        ("bundled:tinyclp", None, "did you mean 'tinyclip'"),
        ("bundled:tinyclip", {"op": "summ"}, "did you mean 'sum'"),
        ("bundled:tinyclip", {"op": "sum", "weigth": 0.4}, "weigth"),
        ("bundled:tinyclip", {"op": "sum", "weight": 0, "learned": True}, "between 0 and 1"),
        ("bundled:tinyclip", {"op": "inversion", "prompt": "{text} of {reference}"}, "prompt"),
        ("bundled:tinyclip", {"op": "inversion", "prompt": LONG}, "fit"),
        ("bundled:tinyclip", {"op": "inversion", "prompt": "{reference}{text}"}, "a space"),
        ("bundled:tinyclip", {"op": "fusion", "heads": 7}, "7 heads"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_one_line(
    reference: str, composer: dict[str, Any] | None, hint: str
) -> None:
    with pytest.raises(DatagenError, match=hint) as caught:
        retriever.load(reference, device="cpu", composer=composer)
    assert "\n" not in str(caught.value)


def test_other_models_of_transformers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(DatagenError, match="'bert'"):
        retriever.load(str(tmp_path), device="cpu")


def test_importing_the_protocol_imports_no_torch() -> None:
    code = "import sys; from datagen.training import retriever; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
