"""Directional similarity beside InstructPix2Pix' own formula on open_clip's own vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import panels
import pyarrow as pa
import pytest
import tiny_clips
from PIL import Image
from pydantic import ValidationError

from datagen import models, registry, schema
from datagen.filters.clip_directional import ClipDirectional
from datagen.step import Context

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
open_clip = pytest.importorskip("open_clip", reason="needs datagen[models]")

CAPTIONS = ["a red shirt", "two dogs on the beach", "a cat", "the table is green", "a woman"]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for number, caption in enumerate(CAPTIONS):
        picture = tiny_clips.picture(number, (70 + 6 * number, 80))
        made.append(
            panels.member(f"i{number}", panels.saved(folder, str(number), picture), caption)
        )
    return made


@pytest.fixture(scope="module")
def rows(members: list[dict[str, Any]]) -> pa.Table:
    chosen = [([0], [1]), ([1], [0]), ([2], [3]), ([0, 2], [1]), ([4], [1, 2, 3]), ([3, 1], [0, 4])]
    return panels.pairs(
        [
            (f"p{number}", [members[at] for at in left], [members[at] for at in right])
            for number, (left, right) in enumerate(chosen)
        ]
    )


def operator(model: str, **settings: Any) -> ClipDirectional:
    made = ClipDirectional(
        ClipDirectional.Settings(model=model, device="cpu", batch_size=3, **settings)
    )
    assert list(made.check()) == []
    made = cloudpickle.loads(cloudpickle.dumps(made))
    made.open(Context())
    return made


def own(reference: str, row: dict[str, Any]) -> float:
    """The least directional similarity of a row: both encoders and the formula spelt out."""
    name = reference.replace("file:", "local-dir:")
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer = open_clip.get_tokenizer(name)
    similarity = torch.nn.functional.cosine_similarity

    def both(member: dict[str, Any]) -> tuple[Any, Any]:
        with torch.inference_mode():
            image = preprocess(Image.open(member["media"]["path"]))[None]
            shown = model.eval().encode_image(image, normalize=True)
            return shown, model.encode_text(tokenizer([member["caption"]]), normalize=True)

    return min(
        float(similarity(both(right)[0] - both(left)[0], both(right)[1] - both(left)[1]))
        for left in row["references"]
        for right in row["targets"]
    )


def test_the_score_is_the_worst_cosine_of_both_ways(rows: pa.Table, tiny_clip: str) -> None:
    found = panels.measured(operator(tiny_clip), rows)
    for row in rows.to_pylist():
        expected = own(tiny_clip, row)
        # Vectors of half precision, of which the difference is taken.
        assert found[row["id"]]["score_clip_directional"] == pytest.approx(expected, abs=0.02)
        assert found[row["id"]]["verdict"] == schema.KEPT


def test_the_way_back_has_the_same_score(rows: pa.Table, tiny_clip: str) -> None:
    found = panels.measured(operator(tiny_clip), rows)
    there, back = (found[name]["score_clip_directional"] for name in ("p0", "p1"))
    assert there == pytest.approx(back, abs=1e-4)


def test_scores_do_not_depend_on_batches_or_order(rows: pa.Table, tiny_clip: str) -> None:
    opened = operator(tiny_clip)
    expected = panels.measured(opened, rows)
    for size in (1, 2, 5):
        assert panels.measured(opened, rows, size) == expected
        backwards = rows.take(pa.array(range(rows.num_rows)[::-1]))
        assert panels.measured(opened, backwards, size) == expected


def test_a_clip_has_the_mean_of_its_frames(
    members: list[dict[str, Any]], tiny_clip: str, tmp_path: Path
) -> None:
    still = tiny_clips.picture(40)
    (tmp_path / "still.mp4").write_bytes(tiny_clips.encoded([still] * 6))
    (tmp_path / "moving.mp4").write_bytes(tiny_clips.fade(6, 7))
    clips = [
        panels.member(name, panels.place(tmp_path / f"{name}.mp4", modality="video"), "the sea")
        for name in ("still", "moving")
    ]
    table = panels.pairs(
        [(one["id"], [members[0]], [one]) for one in clips]
        + [
            (
                "picture",
                [members[0]],
                [panels.member("s", panels.saved(tmp_path, "s", still), "the sea")],
            )
        ]
    )
    found = panels.measured(operator(tiny_clip, frames=3), table)
    scores = {name: row["score_clip_directional"] for name, row in found.items()}
    assert scores["still"] == pytest.approx(scores["picture"], abs=0.05)
    assert scores["moving"] != scores["still"]


def test_where_nothing_leads_from_one_to_the_other_a_rule_says_so(
    members: list[dict[str, Any]], tiny_clip: str
) -> None:
    first, second = members[:2]
    table = panels.pairs(
        [
            ("picture", [first], [{**first, "id": "x", "caption": "a dog"}]),
            ("caption", [first], [{**second, "caption": f" {first['caption']} "}]),
            ("one_of_two", [first], [second, {**first, "id": "x", "caption": "a dog"}]),
            ("mute", [first], [{**second, "caption": " "}]),
            ("none", [first], [{**second, "caption": None}]),
            ("alone", [first], []),
            ("text", [first], [{**second, "media": None}]),
            ("good", [first], [second]),
        ]
    )
    found = panels.measured(operator(tiny_clip), table)
    rules = {name: (row["verdict"], row["rule"]) for name, row in found.items()}
    assert rules == {
        "picture": (schema.REJECTED, "same_picture"),
        "caption": (schema.REJECTED, "same_caption"),
        "one_of_two": (schema.REJECTED, "same_picture"),
        "mute": (schema.FAILED, "no_text"),
        "none": (schema.FAILED, "no_text"),
        "alone": (schema.FAILED, "no_image"),
        "text": (schema.REJECTED, "no_media"),
        "good": (schema.KEPT, None),
    }
    lost = [row["score_clip_directional"] for name, row in found.items() if name != "good"]
    assert lost == [None] * 7


def test_the_score_is_that_of_a_world_that_is_known() -> None:
    """Vectors of one's own choice: the ways at 60 degrees, and the worst of two targets."""
    made = ClipDirectional(ClipDirectional.Settings(model="hf:unused/model"))
    half = np.array([0.5, np.sqrt(3) / 2])
    images = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    texts = np.array([[0.0, 0.0], 2 * half, [1.0, 0.0]])
    assert made.measured(images[:2], texts[:2], 1) == pytest.approx(0.5)
    assert made.measured(images, texts, 1) == pytest.approx(0.5)
    backwards = made.measured(images[[0, 2]], -texts[[0, 2]], 1)
    assert backwards == pytest.approx(-1)


def test_rows_below_the_threshold_go() -> None:
    rows = pa.table(
        {"id": ["a", "b", "c"], "score_clip_directional": pa.array([0.19, 0.2, None], pa.float64())}
    )
    made = ClipDirectional(ClipDirectional.Settings(model="hf:unused/model"))
    assert panels.decided(made, rows) == {"a": "too_low", "b": "kept", "c": "failed"}
    assert {"low", "high"} == ClipDirectional.rules


def test_the_default_is_that_of_instructpix2pix() -> None:
    settings = ClipDirectional.Settings()
    assert (settings.model, settings.low, settings.high) == ("open_clip:ViT-L-14/openai", 0.2, None)
    with pytest.raises(ValidationError, match="give low, high or both"):
        ClipDirectional.Settings(low=None)


def test_the_registry_finds_it_and_it_says_what_it_needs(tiny_clip: str) -> None:
    assert registry.find("filter", "clip_directional") is ClipDirectional
    made = ClipDirectional(ClipDirectional.Settings(model=tiny_clip))
    assert made.needs("triplets") == {"items.media", "items.captions", "pairs"}
    assert made.gives("pairs") == {"score_clip_directional"}
