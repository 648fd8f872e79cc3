"""Whole runs over clips and images together: models and filters take both."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

import datagen as package
from datagen import frames, schema

pytest.importorskip("torch", reason="needs datagen[models]")

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / os.environ.get("DATAGEN_TEST_DATA", "../shared/data")

STEPS = """
steps:
  - filter: {{op: duplicates, id: same, resources: {{batch_size: 5}}}}
  - embed: {{space: image, model: "{model}", frames: 4, pool: caption, keep_frames: true,
             device: cpu, batch_size: 8}}
  - embed: {{space: caption, model: tfidf, width: 16}}
  - filter: {{op: clip_score, model: "{model}", low: -1, frames: middle, device: cpu}}
  - pair: {{op: knn_band, space: caption, k: 4, low: 0.05, high: 0.99, max_per_reference: 2}}
  - text: {{op: template, max_changed_words: 20}}
  - filter: {{op: clip_modification, model: "{model}", low: -1, device: cpu, batch_size: 8}}
  - filter: {{op: duplicates, resources: {{batch_size: 5}}}}
  - shards: {{max_size: 5MB}}
"""


def run(folder, source, model):
    """Run the recipe; returns the finished run, after checking that every step conserves."""
    path = folder / "clips.yaml"
    path.write_text(f"name: clips\nsource: {source}\n" + STEPS.format(model=model))
    package.run(str(path), str(folder / "run"))
    found = package.load(str(folder / "run"))
    for step in found.funnel:
        lost = sum(step["rejected"].values()) + sum(step["failed"].values())
        assert step["rows_in"] == step["kept"] + lost, step
        assert not step["failed"], step
    return found


def check_space(found):
    """Every item has its frames; a clip's vector lies in their span, an image's is its frame's."""
    space = found.space("embed_image")
    items = {row["id"]: row for row in found.table("embed_image").to_pylist()}
    assert len(items) == len(space)
    for name, row in items.items():
        vectors, seconds = space.frames(name), space.seconds(name)
        clip = row["media"]["modality"] == "video"
        assert len(vectors) == len(seconds) == (4 if clip else 1)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
        (vector,) = space.of([name])
        if clip:
            assert seconds.tolist() == [frame.seconds for frame in frames.of(row["media"], 4)]
            shares = np.linalg.lstsq(vectors.T, vector, rcond=None)[0]
            assert np.abs(vectors.T @ shares - vector).max() < 5e-3
        else:
            assert vector.tolist() == vectors[0].tolist()


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA / "videos").is_dir(), reason="no real clips (DATAGEN_TEST_DATA)")
def test_real_clips_and_photos_become_triplets(ray, tiny_clip, tmp_path):
    clips = sorted((DATA / "videos" / "exercise_2phase").glob("*.mp4"))[:26]
    photos = sorted((DATA / "photos" / "exercises" / "images").rglob("*.jpg"))[:6]
    rows = [
        {"file": str(path.relative_to(DATA)), "caption": path.stem.replace("_", " ").lower()}
        for path in (*clips, *photos)
    ]
    listing = tmp_path / "items.jsonl"
    listing.write_text("\n".join(map(json.dumps, rows)))
    source = (
        f"{{type: folder, path: {DATA}, annotations: {listing}, media: file, captions: caption}}"
    )
    found = run(tmp_path, source, tiny_clip)
    check_space(found)
    kinds = [row["modality"] for row in found.items()["media"].to_pylist()]
    assert (kinds.count("video"), kinds.count("image")) == (26, 6)
    assert found.triplets().num_rows > 10
    for sample in found.samples(decode=False):
        for role in ("references", "targets"):
            for member, data in zip(sample["json"][role], sample[role], strict=True):
                assert hashlib.sha256(data).hexdigest() == member["media"]["sha256"]


def test_rendered_clips_and_images_become_triplets(ray, tiny_clip, tmp_path):
    source = "{type: tinyworld, count: 60, size: 48, clips: 0.5}"
    found = run(tmp_path, source, tiny_clip)
    check_space(found)
    kinds = [row["modality"] for row in found.items()["media"].to_pylist()]
    assert 10 < kinds.count("video") < 50
    made = found.triplets()
    assert made.num_rows > 10
    assert np.isfinite(made["score_clip_modification"].to_numpy()).all()
    verdicts = found.verdicts("duplicates")["verdict"].to_pylist()
    assert set(verdicts) <= {schema.KEPT, schema.REJECTED}
