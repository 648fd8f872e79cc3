"""Clips in the open_clip embedder: their frames go the way of images, and are pooled by hand."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
import tiny_clips
from PIL import Image
from pydantic import ValidationError

from datagen import frames, media, models, preprocess, schema, store, tables
from datagen.embed.open_clip import OpenClip, OpenClipSettings
from datagen.errors import DatagenError
from datagen.space import Space
from datagen.step import Context

models.prepare()
torch = pytest.importorskip("torch", reason="needs datagen[models]")
open_clip = pytest.importorskip("open_clip", reason="needs datagen[models]")

Array = np.ndarray[Any, Any]
ITEM = pa.schema(
    [("id", pa.string()), ("media", schema.MEDIA), ("captions", pa.list_(pa.string()))]
)
DATA = Path(__file__).parents[2] / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")
VIDEOS = DATA / "videos"


def media_of(path: Path) -> dict[str, Any]:
    found = media.probe(path.read_bytes())
    about = {name: getattr(found, name) for name in ("modality", "format", "width", "height")}
    about |= {"seconds": found.seconds, "frames": found.frames}
    return {"path": str(path), "offset": 0, "size": path.stat().st_size, "sha256": None, **about}


def table(rows: list[tuple[str, Path, list[str] | None]]) -> pa.Table:
    made = [{"id": name, "media": media_of(path), "captions": c} for name, path, c in rows]
    return pa.Table.from_pylist(made, schema=ITEM)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Two images between three clips, one of them of a single frame."""
    folder = tmp_path_factory.mktemp("clips")
    rows: list[tuple[str, Path, list[str] | None]] = []
    captions = [["a red shirt", "a dog"], None, ["two dogs"], ["the sea"], ["", " "]]
    for number, words in enumerate(captions):
        if number in (1, 3):
            path = folder / f"{number}.png"
            tiny_clips.picture(number).save(path)
        else:
            path = folder / f"{number}.mp4"
            path.write_bytes(tiny_clips.fade(1 if number == 2 else 12, number))
        rows.append((f"{number:020x}", path, words))
    return table(rows)


def opened(model: str, **settings: Any) -> OpenClip:
    chosen = {"space": "image", "batch_size": 4, "frames": 3, **settings}
    operator = OpenClip(OpenClipSettings(model=model, device="cpu", **chosen))
    assert list(operator.check()) == []
    operator.open(Context())
    return operator


def embed(operator: OpenClip, rows: pa.Table, size: int = 100) -> dict[str, Any]:
    found = {}
    for start in range(0, rows.num_rows, size):
        batch = rows.slice(start, size).select(operator.columns("items"))
        found.update({row["id"]: row for row in operator(operator.prepare(batch)).to_pylist()})
    return found


class Own:
    """open_clip's own preprocessing and model, on frames that plain PyAV decodes."""

    def __init__(self, reference: str) -> None:
        name = reference.replace("file:", "local-dir:")
        model, _, self.preprocess = open_clip.create_model_and_transforms(name)
        self.model, self.tokenizer = model.eval(), open_clip.get_tokenizer(name)

    def frames(self, path: str, wanted: int) -> Array:
        """Unit vectors of the frames shown in the middles of ``wanted`` equal parts."""
        with av.open(path) as container:
            pictures = [frame.to_image() for frame in container.decode(video=0)]
        places = [int((part + 0.5) * len(pictures) / wanted) for part in range(wanted)]
        return self.images([pictures[place] for place in places])

    def images(self, pictures: list[Image.Image]) -> Array:
        with torch.inference_mode():
            pixels = torch.stack([self.preprocess(picture) for picture in pictures])
            vectors: Array = self.model.encode_image(pixels, normalize=True).numpy()
        return vectors

    def text(self, words: list[str]) -> Array:
        with torch.inference_mode():
            vector: Array = self.model.encode_text(self.tokenizer(words), normalize=True).numpy()
        return unit(vector.mean(0))


def unit(vector: Array) -> Array:
    scaled: Array = vector / np.linalg.norm(vector)
    return scaled


def test_a_clip_has_the_mean_of_its_frames_and_an_image_its_own_vector(
    items: pa.Table, tiny_clip: str
) -> None:
    found, own = embed(opened(tiny_clip), items), Own(tiny_clip)
    for row in items.to_pylist():
        count = 3 if row["media"]["modality"] == "video" else 1
        expected = unit(own.frames(row["media"]["path"], count).mean(0))
        # PyAV's own conversion to RGB is a level off here and there.
        assert np.abs(np.array(found[row["id"]]["vector"]) - expected).max() < 1e-2
        exact = own.images([frame.image for frame in frames.of(row["media"], count)])
        assert np.abs(np.array(found[row["id"]]["vector"]) - unit(exact.mean(0))).max() < 1e-3


def test_images_have_the_same_bytes_whatever_clips_are_asked_for(
    items: pa.Table, tiny_clip: str
) -> None:
    images = items.take(pa.array([1, 3]))
    operator = opened(tiny_clip)
    pixels = [operator.geometry.fit(media.image(place)) for place in images["media"].to_pylist()]
    plain = operator.clip.images(np.stack(pixels)).tolist()
    for settings in ({}, {"frames": "middle"}, {"frames": [0.5, 1]}, {"pool": "caption"}):
        found = embed(opened(tiny_clip, **settings), images)
        assert [row["vector"] for row in found.values()] == plain


@pytest.mark.parametrize("choice", [1, 5, "first", "middle", "key", [0.0, 0.3, 99.0]])
def test_the_frames_of_every_choice_are_those_of_the_frames_module(
    choice: Any, items: pa.Table, tiny_clip: str
) -> None:
    operator = opened(tiny_clip, frames=choice)
    place = items["media"].to_pylist()[0]
    chosen = frames.of(place, operator.settings.frames)
    vectors = operator.clip.images(
        np.stack([operator.geometry.fit(frame.image) for frame in chosen])
    )
    expected = unit(vectors.astype(np.float64).mean(0))
    (row,) = embed(operator, items.slice(0, 1)).values()
    assert np.abs(np.array(row["vector"]) - expected).max() < 1e-3


def test_frames_are_weighted_by_their_caption_as_the_softmax_says(
    items: pa.Table, tiny_clip: str
) -> None:
    found = embed(opened(tiny_clip, pool="caption", temperature=0.02), items)
    mean, own = embed(opened(tiny_clip), items), Own(tiny_clip)
    first, *_, last = items.to_pylist()
    vectors = own.images([frame.image for frame in frames.of(first["media"], 3)])
    text = own.text(first["captions"])
    weights = np.exp((vectors @ text) / 0.02)
    expected = unit((vectors * (weights / weights.sum())[:, None]).sum(0))
    assert np.abs(np.array(found[first["id"]]["vector"]) - expected).max() < 2e-3
    assert np.abs(np.array(mean[first["id"]]["vector"]) - expected).max() > 4e-3
    # No caption to weigh by: the mean, and a word about it.
    assert found[last["id"]]["vector"] == mean[last["id"]]["vector"]
    assert "no caption" in found[last["id"]]["detail"]
    assert found[last["id"]]["verdict"] == schema.KEPT
    assert [row["detail"] for row in found.values()][:4] == [None] * 4


@pytest.mark.parametrize("settings", [{}, {"pool": "caption", "keep_frames": True}])
def test_batches_and_order_do_not_show_in_clips(
    settings: dict[str, Any], items: pa.Table, tiny_clip: str
) -> None:
    operator = opened(tiny_clip, **settings)
    many = pa.concat_tables([items] * 2)
    many = many.set_column(0, "id", pa.array([f"{n:020x}" for n in range(many.num_rows)]))
    expected = embed(operator, many)
    rng = np.random.default_rng(1)
    for size, shuffle in itertools.product((1, 3, 16), (False, True)):
        order = rng.permutation(many.num_rows) if shuffle else np.arange(many.num_rows)
        assert embed(operator, many.take(pa.array(order)), size) == expected
    larger = opened(tiny_clip, batch_size=7, **settings)
    for name, row in embed(larger, many).items():
        assert np.abs(np.subtract(row["vector"], expected[name]["vector"])).max() < 1e-3


def test_the_frames_of_a_space_are_kept_with_their_seconds(
    items: pa.Table, tiny_clip: str, tmp_path: Path
) -> None:
    operator = opened(tiny_clip, keep_frames=True)
    broken = tmp_path / "cut.mp4"
    broken.write_bytes(tiny_clips.fade(4)[:900])
    place = {**dict.fromkeys(field.name for field in schema.MEDIA), "path": str(broken)}
    bad = {"id": "bad", "media": place, "captions": ["a dog"]}
    rows = pa.concat_tables([pa.Table.from_pylist([bad], schema=ITEM), items])
    journal = store.Journal(str(tmp_path / "journal"))
    for start in (2, 0, 4):
        out = operator(operator.prepare(rows.slice(start, 2).select(["id", "media"])))
        journal.append(out.rename_columns(["unit", *out.column_names[1:]]))
    folder = str(tmp_path / "space")
    tables.write_space(folder, journal, items["id"])
    space = Space.open(folder)
    plain = embed(opened(tiny_clip), items)
    for row in items.to_pylist():
        name, place = row["id"], row["media"]
        chosen = frames.of(place, 3)
        pixels = np.stack([operator.geometry.fit(frame.image) for frame in chosen])
        assert np.array_equal(space.frames(name), operator.clip.images(pixels))
        assert space.seconds(name).tolist() == [frame.seconds for frame in chosen]
        assert space.of([name])[0].tolist() == plain[name]["vector"]
    assert space.frames("bad").shape == (0, 24)
    without = tables.answers(journal, items["id"], tables.VECTORS)
    assert without.column_names == ["unit", "verdict", "rule", "detail"]


def test_a_batch_of_rows_holds_only_so_many_frames(tiny_clip: str) -> None:
    def rows(**settings: Any) -> int:
        operator = OpenClip(OpenClipSettings(space="image", model=tiny_clip, **settings))
        return operator.resources().batch_size

    assert rows() == 64
    assert rows(batch_size=2000, frames="middle") == 2000
    assert rows(batch_size=2000) == 256
    assert rows(frames=64) == 32


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"frames": 0}, "a number of frames"),
        ({"frames": True}, "a number of frames"),
        ({"frames": "last"}, "first, middle, key"),
        ({"frames": []}, "a list of seconds"),
        ({"frames": [-1]}, "a list of seconds"),
        ({"frames": [float("nan")]}, "a list of seconds"),
        ({"frames": ["a"]}, "a list of seconds"),
        ({"temperature": 0}, "greater than 0"),
        ({"temperature": 0.5}, "only pool: caption"),
        ({"space": "caption", "keep_frames": True}, "keep_frames: of clips"),
        ({"of": "caption", "pool": "caption"}, "pool: of clips"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        OpenClipSettings(**{"space": "image", "model": "file:x", **settings})


def test_what_a_recipe_let_in_is_not_refused_later(
    tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(tiny_clips.fade(12))
    items = table([("a", path, [])])
    small = media.Limits(max_bytes=100, max_video_bytes=100, max_pixels=100, max_side=10)
    monkeypatch.setattr(media, "DEFAULT", small)
    (row,) = embed(opened(tiny_clip), items).values()
    assert row["verdict"] == schema.KEPT


def test_a_clip_that_is_another_one_by_now_fails_and_gives_no_vector(
    tiny_clip: str, tmp_path: Path
) -> None:
    """Whether the other one is shorter, as long, or begins with as many bytes that decode."""
    first = tiny_clips.fade(12)
    other = tiny_clips.fade(12, 3)
    cases = {"longer": other + bytes(len(first)), "shorter": other[:60], "same": first + b"more"}
    rows = []
    for name in cases:
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(first)
        known = media_of(path) | {"sha256": hashlib.sha256(first).hexdigest()}
        rows.append({"id": name, "media": known, "captions": []})
    for name, data in cases.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
    found = embed(opened(tiny_clip), pa.Table.from_pylist(rows, schema=ITEM))
    for name in ("longer", "shorter"):
        told = (found[name]["verdict"], found[name]["rule"], found[name]["vector"])
        assert told == (schema.FAILED, "media_changed", None)
        assert f"{name}.mp4" in found[name]["detail"]
    assert found["same"]["verdict"] == schema.KEPT


@pytest.mark.real_data
@pytest.mark.skipif(not VIDEOS.is_dir(), reason="no real clips (DATAGEN_TEST_DATA)")
def test_real_clips_have_the_vectors_that_open_clip_gives_their_frames(tiny_clip: str) -> None:
    paths = [*sorted((VIDEOS / "exercise_2phase").glob("*.mp4"))[:4], VIDEOS / "intel/again.mkv"]
    items = table([(f"{number}", path, []) for number, path in enumerate(paths)])
    found, own = embed(opened(tiny_clip, frames=8, keep_frames=True), items), Own(tiny_clip)
    for row, path in zip(found.values(), paths, strict=True):
        assert row["verdict"] == schema.KEPT
        times = row["frame_seconds"]
        with av.open(io.BytesIO(path.read_bytes())) as container:
            shown = [(float(f.time or 0), f.to_image()) for f in container.decode(video=0)]
        chosen = [min(shown, key=lambda one: abs(one[0] - shown[0][0] - time)) for time in times]
        vectors = own.images([picture for _, picture in chosen])
        assert np.abs(np.array(row["frame_vectors"]) - vectors).max() < 4e-2
        assert np.abs(np.array(row["vector"]) - unit(vectors.mean(0))).max() < 2e-2
        assert float(np.array(row["vector"]) @ unit(vectors.mean(0))) > 0.999


def test_a_space_without_frames_says_what_would_keep_them(tmp_path: Path) -> None:
    Space.write(str(tmp_path), ["a"], np.ones((1, 2), np.float32))
    with pytest.raises(DatagenError, match="keep_frames: true"):
        Space.open(str(tmp_path)).frames("a")
    assert preprocess.frames_at_most("key") == frames.KEYS
