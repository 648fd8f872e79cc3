"""The model that lies in the package: it loads everywhere, and does what its card says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from datagen import clip, models, schema
from datagen.sources.tinyworld.family import Drawn, drawn
from datagen.sources.tinyworld.film import encode_clip, film
from datagen.sources.tinyworld.render import picture
from datagen.step import Context

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
open_clip = pytest.importorskip("open_clip", reason="needs datagen[models]")

from datagen.bundled import _card, _figures, _scenes  # noqa: E402
from datagen.embed.open_clip import OpenClip, OpenClipSettings  # noqa: E402
from datagen.filters.clip_score import ClipScore  # noqa: E402
from datagen.sources.tinyworld.captions import captions  # noqa: E402
from datagen.sources.tinyworld.noise import Noise  # noqa: E402

NAME = "bundled:tinyclip"
FOLDER = Path(models.parse(NAME).folder)
FACTS: dict[str, Any] = yaml.safe_load((FOLDER / "facts.yaml").read_text())
FIGURES = FACTS["figures"]
#: Seed of the worlds of this test: neither of training nor of the card.
SEED = 23
ITEM = pa.schema(
    [("id", pa.string()), ("media", schema.MEDIA), ("captions", pa.list_(pa.string()))]
)


@pytest.fixture(scope="module")
def model() -> clip.Clip:
    return clip.load(models.parse(NAME), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def unseen(model: clip.Clip) -> _figures.Seen:
    scenes = _figures.distinct(SEED, 250, held=True, neighbours=0.6, max_objects=3)
    return _figures.Seen(model, SEED, scenes, 96)


def test_it_is_listed_and_small() -> None:
    assert "tinyclip" in models.bundled()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8_000_000
    assert not [path.name for path in FOLDER.iterdir() if path.suffix in (".bin", ".pt", ".py")]


def test_open_clip_itself_loads_it_and_gives_the_same_vectors(model: clip.Clip) -> None:
    name = f"local-dir:{FOLDER}"
    theirs, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    scenes = [drawn(SEED, index) for index in range(8)]
    pictures = [picture(scene, SEED, 96) for scene in scenes]
    texts = [captions(scene, SEED)[0][0] for scene in scenes]
    with torch.no_grad():
        images = theirs.eval().encode_image(torch.stack([preprocess(one) for one in pictures]))
        words = theirs.encode_text(tokenizer(texts))
    mine = model.images(np.stack([model.geometry.fit(one) for one in pictures]))
    for a, b in ((mine, images), (model.texts(texts), words)):
        unit = torch.nn.functional.normalize(b.float(), dim=-1).numpy()
        assert np.allclose(a, unit, atol=2e-3)


def test_it_finds_unseen_scenes_as_its_card_says(unseen: _figures.Seen) -> None:
    # Fewer scenes are easier to tell apart than the thousand of the card.
    assert unseen.recall(1) >= FIGURES["unseen"]["text to image R@1"] - 0.02
    assert unseen.recall(10) >= FIGURES["unseen"]["text to image R@10"] - 0.02
    assert unseen.recall(1, "images") >= FIGURES["unseen"]["image to text R@1"] - 0.02


def test_it_tells_a_caption_from_one_with_a_mistake_as_its_card_says(
    unseen: _figures.Seen,
) -> None:
    found = _figures.telling(unseen.wrong(2).values())
    assert found >= FIGURES["telling"]["all"] - 0.04


def test_its_threshold_keeps_what_is_right(unseen: _figures.Seen) -> None:
    threshold = FIGURES["threshold"]["value"]
    assert (unseen.right() >= threshold).mean() >= 0.97
    found = (unseen.others() < threshold).mean()
    assert found >= FIGURES["threshold"]["rejected other scene"] - 0.03


def test_figures_are_counted_as_by_hand(unseen: _figures.Seen) -> None:
    texts, images = unseen.texts.astype(np.float64), unseen.images.astype(np.float64)
    hits = 0
    for at, text in enumerate(texts):
        order = sorted(range(len(images)), key=lambda other: -float(images[other] @ text))
        hits += at in order[:10]
    assert unseen.recall(10) == pytest.approx(hits / len(texts), abs=0.005)


def test_its_card_tells_the_facts_beside_it() -> None:
    assert (FOLDER / "README.md").read_text() == _card.card("tinyclip.md.j2", FACTS)


def media_of(folder: Path, scene: Drawn) -> dict[str, Any]:
    moving = scene.clip is not None
    path = folder / f"{scene.index}.{'mp4' if moving else 'png'}"
    if moving:
        path.write_bytes(encode_clip(film(scene, SEED), 8))
    else:
        picture(scene, SEED, 96).save(path)
    return {
        **dict.fromkeys(field.name for field in schema.MEDIA),
        "path": str(path),
        "offset": 0,
        "size": path.stat().st_size,
        "modality": "video" if moving else "image",
        "format": "mp4" if moving else "png",
    }


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Right captions (even ids) and captions of one mistake (odd ids) of images and clips."""
    folder = tmp_path_factory.mktemp("scenes")
    rows = []
    for scene in _figures.distinct(SEED, 30, held=True, clips=0.5):
        place = media_of(folder, scene)
        for wrong in (0, 1):
            texts, _ = captions(scene, SEED, 1, Noise(misname=wrong))
            rows.append(
                {"id": f"{2 * scene.index + wrong:020x}", "media": place, "captions": texts}
            )
    return pa.Table.from_pylist(rows, schema=ITEM)


def test_the_embedder_takes_it_for_images_clips_and_captions(items: pa.Table) -> None:
    vectors = {}
    for space in ("image", "caption"):
        step = OpenClip(OpenClipSettings(space=space, model=NAME, device="cpu"))
        assert list(step.check()) == []
        step.open(Context())
        rows = step(step.prepare(items.select(step.columns("items"))))
        assert rows["verdict"].to_pylist() == ["kept"] * len(items)
        vectors[space] = np.stack(rows["vector"].to_pylist())
    cosines = (vectors["image"] * vectors["caption"]).sum(axis=1)
    assert (cosines[::2] > cosines[1::2]).mean() >= FIGURES["telling"]["all"] - 0.15


def test_the_clip_filter_keeps_right_captions_by_the_threshold_of_the_card(
    items: pa.Table,
) -> None:
    low = FIGURES["threshold"]["value"]
    step = ClipScore(ClipScore.Settings(model=NAME, low=low, device="cpu"))
    step.open(Context())
    scores = step(step.prepare(items.select(step.columns("items"))))
    decided = step.decide(items.append_column("score_clip", scores["score_clip"]), items)
    kept = np.asarray(decided["verdict"].to_pylist()) == "kept"
    assert kept[::2].mean() >= 0.9
    assert kept[1::2].mean() < kept[::2].mean()


def test_no_world_that_users_render_by_default_is_of_training() -> None:
    assert SEED not in _scenes.TRAINING_SEEDS
    assert 0 not in _scenes.TRAINING_SEEDS
