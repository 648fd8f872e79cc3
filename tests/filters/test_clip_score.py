from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pytest
import tiny_clips
from PIL import Image
from pydantic import ValidationError

from datagen import frames, models, registry, schema, store, tables
from datagen.filters.clip_modification import ClipModification
from datagen.filters.clip_score import ClipScore
from datagen.made import Maker
from datagen.step import Context

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
open_clip = pytest.importorskip("open_clip", reason="needs datagen[models]")

CAPTIONS = [["a red shirt"], ["two dogs", "a dog on the beach", "the sea"], ["a cat"], ["a table"]]


def media_of(path: Path, **changes: Any) -> dict[str, Any]:
    names = [field.name for field in schema.MEDIA]
    known = {"path": str(path), "offset": 0, "modality": "image", "format": "png"}
    return {**dict.fromkeys(names), **known, **changes}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    rows = []
    for number, texts in enumerate(CAPTIONS):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(path)
        rows.append({"id": f"i{number}", "media": media_of(path), "captions": texts})
    return pa.Table.from_pylist(rows, schema=ITEM)


ITEM = pa.schema(
    [("id", pa.string()), ("media", schema.MEDIA), ("captions", pa.list_(pa.string()))]
)


def member(items: pa.Table, number: int) -> dict[str, Any]:
    row = items.to_pylist()[number]
    return {**row, "key": "", "caption": row["captions"][0], "labels": "{}"}


def triplets(items: pa.Table) -> pa.Table:
    rows = [
        ("t0", [0], [1], "make it two dogs"),
        ("t1", [1], [2, 3], "a cat"),
        ("t2", [2], [3], " "),
        ("t3", [3], [], "a cat"),
    ]
    return pa.Table.from_pylist(
        [
            {
                "id": name,
                "references": [member(items, n) for n in references],
                "targets": [member(items, n) for n in targets],
                "modification": text,
            }
            for name, references, targets, text in rows
        ],
        schema=pa.schema(
            [
                ("id", pa.string()),
                ("references", pa.list_(schema.MEMBER)),
                ("targets", pa.list_(schema.MEMBER)),
                ("modification", pa.string()),
            ]
        ),
    )


def opened(cls: type[Any], model: str, **settings: Any) -> Any:
    operator = cls(cls.Settings(model=model, device="cpu", batch_size=3, **settings))
    assert list(operator.check()) == []
    operator = cloudpickle.loads(cloudpickle.dumps(operator))
    operator.open(Context())
    return operator


def score(operator: Any, rows: pa.Table, size: int = 100) -> dict[str, Any]:
    parts = [
        operator(operator.prepare(rows.select(operator.columns("items")).slice(start, size)))
        for start in range(0, rows.num_rows, size)
    ]
    return {row["id"]: row for part in parts for row in part.to_pylist()}


class Own:
    """open_clip's own similarity of images and texts."""

    def __init__(self, reference: str) -> None:
        name = reference.replace("file:", "local-dir:")
        model, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.model, self.tokenizer = model.eval(), open_clip.get_tokenizer(name)

    def __call__(self, media: dict[str, Any], texts: list[str]) -> list[float]:
        with torch.inference_mode():
            image = self.preprocess(Image.open(media["path"]))[None]
            left = self.model.encode_image(image, normalize=True)
            right = self.model.encode_text(self.tokenizer(texts), normalize=True)
            found: list[float] = (left @ right.T)[0].tolist()
        return found


def test_the_score_is_open_clips_cosine_with_the_best_caption(
    items: pa.Table, tiny_clip: str
) -> None:
    found, own = score(opened(ClipScore, tiny_clip), items), Own(tiny_clip)
    for row in items.to_pylist():
        expected = max(own(row["media"], row["captions"]))
        assert found[row["id"]]["score_clip"] == pytest.approx(expected, abs=1e-3)
        assert found[row["id"]]["verdict"] == schema.KEPT


def test_the_score_of_a_triplet_is_that_of_its_worst_target(
    items: pa.Table, tiny_clip: str
) -> None:
    rows = triplets(items)
    found, own = score(opened(ClipModification, tiny_clip, low=0), rows), Own(tiny_clip)
    for row in rows.to_pylist()[:2]:
        expected = min(own(one["media"], [row["modification"]])[0] for one in row["targets"])
        assert found[row["id"]]["score_clip_modification"] == pytest.approx(expected, abs=1e-3)
    assert (found["t2"]["verdict"], found["t2"]["rule"]) == (schema.FAILED, "no_text")
    assert (found["t3"]["verdict"], found["t3"]["rule"]) == (schema.FAILED, "no_image")


def test_a_clip_is_scored_by_the_mean_of_its_frames(
    items: pa.Table, tiny_clip: str, tmp_path: Path
) -> None:
    rows = []
    for number, words in enumerate((["a red shirt", "two dogs"], ["the sea"])):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(tiny_clips.fade(12, number))
        about = media_of(path, modality="video", format="mp4")
        rows.append({"id": f"c{number}", "media": about, "captions": words})
    table = pa.concat_tables([items, pa.Table.from_pylist(rows, schema=ITEM)])
    found, own = score(opened(ClipScore, tiny_clip, frames=3), table), Own(tiny_clip)
    assert {k: v for k, v in found.items() if k[0] == "i"} == score(
        opened(ClipScore, tiny_clip), items
    )
    assert score(opened(ClipScore, tiny_clip, frames=3), table, 1) == found

    def vector(row: dict[str, Any], count: int) -> Any:
        chosen = frames.of(row["media"], count) if row["id"][0] == "c" else None
        pictures = [one.image for one in chosen or ()] or [Image.open(row["media"]["path"])]
        pixels = torch.stack([own.preprocess(picture) for picture in pictures])
        with torch.inference_mode():
            mean = own.model.encode_image(pixels, normalize=True).mean(0)
        return mean / mean.norm()

    def text(words: list[str]) -> Any:
        with torch.inference_mode():
            return own.model.encode_text(own.tokenizer(words), normalize=True)

    for row in rows:
        expected = float((text(row["captions"]) @ vector(row, 3)).max())
        assert found[row["id"]]["score_clip"] == pytest.approx(expected, abs=1e-3)
    # Targets of both kinds in one triplet, with different numbers of frames.
    members = [member(table, number) for number in (4, 1, 5)]
    made = triplets(items).slice(0, 1).to_pylist()[0] | {"targets": members}
    one = pa.Table.from_pylist([made], schema=triplets(items).schema)
    both = score(opened(ClipModification, tiny_clip, low=0, frames=3), one)["t0"]
    known = table.to_pylist()
    expected = min(
        float((text([made["modification"]]) @ vector(known[number], 3)).max())
        for number in (4, 1, 5)
    )
    assert both["score_clip_modification"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("cls", [ClipScore, ClipModification])
def test_scores_do_not_depend_on_batches_or_order(
    cls: type[Any], items: pa.Table, tiny_clip: str
) -> None:
    operator = opened(cls, tiny_clip, low=0)
    rows = items if cls is ClipScore else triplets(items)
    expected = score(operator, rows)
    for size in (1, 3, 16):
        assert score(operator, rows, size) == expected
        assert score(operator, rows.take(pa.array([3, 1, 0, 2])), size) == expected


def test_items_that_cannot_be_scored_fail_with_a_reason(
    items: pa.Table, tiny_clip: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n...")
    (tmp_path / "cut.mp4").write_bytes(tiny_clips.fade(8)[:900])
    good = items["media"].to_pylist()[0]
    bad = [
        {"id": "broken", "media": media_of(tmp_path / "broken.png"), "captions": ["a dog"]},
        {"id": "gone", "media": media_of(tmp_path / "gone.png"), "captions": ["a dog"]},
        {"id": "cut", "media": media_of(tmp_path / "cut.mp4"), "captions": ["a dog"]},
        {"id": "mute", "media": good, "captions": ["", " "]},
    ]
    rows = pa.concat_tables([pa.Table.from_pylist(bad, schema=ITEM), items])
    found = score(opened(ClipScore, tiny_clip), rows)
    assert {k: v for k, v in found.items() if k[0] == "i"} == score(
        opened(ClipScore, tiny_clip), items
    )
    for row in bad:
        assert found[row["id"]]["verdict"] == schema.FAILED
        assert found[row["id"]]["score_clip"] is None
        assert found[row["id"]]["detail"]
    assert found["mute"]["rule"] == "no_text"


def decided(items: pa.Table, scores: list[float | None], **settings: Any) -> dict[str, str]:
    scored = items.append_column("score_clip", pa.array(scores, pa.float64()))
    operator = ClipScore(ClipScore.Settings(model="hf:unused/model", **settings))
    rows = triplets(items).slice(0, 3)
    return {
        row["id"]: row["rule"] or row["verdict"]
        for row in operator.decide(rows, scored).to_pylist()
    }


def test_a_row_is_kept_when_every_member_that_counts_is_in_the_band(items: pa.Table) -> None:
    scores = [0.1, 0.2, 0.3, 0.4]
    low, kept = "too_low", schema.KEPT
    assert decided(items, scores) == {"t0": low, "t1": kept, "t2": kept}
    assert decided(items, scores, of="target") == {"t0": kept, "t1": kept, "t2": kept}
    assert decided(items, scores, low=0.25, of="reference") == {"t0": low, "t1": low, "t2": kept}
    assert decided(items, scores, low=None, high=0.3) == {
        "t0": kept,
        "t1": "too_high",
        "t2": "too_high",
    }
    assert decided(items, [0.5, None, 0.5, 0.5]) == {
        "t0": schema.FAILED,
        "t1": schema.FAILED,
        "t2": kept,
    }


def test_items_themselves_can_be_filtered(items: pa.Table, tiny_clip: str) -> None:
    operator = opened(ClipScore, tiny_clip, low=0.0)
    found = score(operator, items)
    scored = tables.with_columns(
        items,
        pa.table({"id": list(found), "score_clip": [row["score_clip"] for row in found.values()]}),
    )
    verdicts = operator.decide(scored, scored)
    assert verdicts.schema == schema.VERDICTS
    for row, verdict in zip(scored.to_pylist(), verdicts.to_pylist(), strict=True):
        assert verdict["id"] == row["id"]
        assert verdict["verdict"] == (schema.KEPT if row["score_clip"] >= 0 else schema.REJECTED)


def test_items_that_a_step_made_are_scored_by_their_own_captions(
    items: pa.Table, tiny_clip: str
) -> None:
    """Two painted panels, with the captions of the pair that they were painted for."""
    places = items["media"].to_pylist()[:2]
    told = ["a red shirt", "a blue shirt"]
    drafts = [
        [{"media": {**place, "sha256": store.file_hash(place["path"])}, "caption": text}]
        for place, text in zip(places, told, strict=True)
    ]
    maker = Maker(schema.empty(schema.ITEMS), "paint")
    names = ("references", "targets")
    members = [maker.named(pa.array([one], schema.PAIRS.field("targets").type)) for one in drafts]
    found = score(opened(ClipScore, tiny_clip), maker.items())
    own = Own(tiny_clip)
    rows = pa.table({"id": ["p"], **dict(zip(names, members, strict=True))})
    for at, name in enumerate(names):
        (one,) = rows[name].to_pylist()[0]
        assert one["caption"] == told[at]
        expected = own(places[at], [told[at]])[0]
        assert found[one["id"]]["score_clip"] == pytest.approx(expected, abs=1e-3)
    scored = tables.with_columns(
        maker.items(),
        pa.table({"id": list(found), "score_clip": [row["score_clip"] for row in found.values()]}),
    )
    both = sorted(row["score_clip"] for row in found.values())
    for low, verdict in ((both[0], "kept"), (both[0] + 1e-4, "rejected"), (both[1], "rejected")):
        operator = ClipScore(ClipScore.Settings(model=tiny_clip, low=low))
        assert operator.decide(rows, scored)["verdict"].to_pylist() == [verdict]


def test_a_changed_threshold_scores_nothing_again() -> None:
    assert {"low", "high", "of"} == ClipScore.rules
    assert {"low", "high"} == ClipModification.rules
    assert ClipScore.on_items
    assert not ClipModification.on_items


def test_the_default_is_that_of_instructpix2pix() -> None:
    settings = ClipScore.Settings()
    assert (settings.model, settings.low, settings.high, settings.of) == (
        "open_clip:ViT-L-14/openai",
        0.2,
        None,
        "both",
    )


def test_a_band_must_be_given_and_be_one() -> None:
    with pytest.raises(ValidationError, match="give low, high or both"):
        ClipModification.Settings()
    with pytest.raises(ValidationError, match="is above high"):
        ClipScore.Settings(low=0.5, high=0.4)


def test_the_registry_finds_both_and_they_declare_what_they_give(tiny_clip: str) -> None:
    assert registry.find("filter", "clip_score") is ClipScore
    assert registry.find("filter", "clip_modification") is ClipModification
    score_filter = ClipScore(ClipScore.Settings(model=tiny_clip))
    assert score_filter.needs("pairs") == {"items.media", "items.captions"}
    assert score_filter.gives("pairs") == {"items.score_clip"}
    text_filter = ClipModification(ClipModification.Settings(model=tiny_clip, low=0))
    assert text_filter.needs("triplets") == {"items.media", "modification"}
    assert text_filter.gives("triplets") == {"score_clip_modification"}
    assert text_filter.revision().startswith("sha256:")
