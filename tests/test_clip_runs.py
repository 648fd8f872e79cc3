"""Whole runs with clips: each broken one has its verdict, and shards give frames back."""

import io
import json

import av
import broken_clips
import numpy as np
import pytest
import tiny_clips
from PIL import Image
from whole_runs import OWN

import datagen as package
from datagen import frames, media

pytestmark = pytest.mark.usefixtures("ray")


@pytest.mark.parametrize(
    ("limits", "changed"),
    [
        ({}, {}),
        (
            # What is longer or larger than this run allows, and what another one would refuse.
            {"max_seconds": 2.05, "max_frames": 40_000, "max_video_bytes": 700_000},
            {"uneven.mp4": "too_long", "too_many.avi": "too_many_bytes"},
        ),
    ],
)
def test_broken_clips_get_a_verdict_each_and_none_is_lost(tmp_path, limits, changed):
    folder = tmp_path / "media"
    folder.mkdir()
    cases = broken_clips.cases()
    lines = []
    for at, (name, (data, _)) in enumerate(cases.items()):
        (folder / name).write_bytes(data)
        lines.append(json.dumps({"file": name, "caption": f"a clip of {at}"}))
    (tmp_path / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = {"type": "folder", "path": str(folder), "annotations": str(tmp_path / "items.jsonl")}
    recipe = {
        "media": limits,
        "source": {**source, "media": "file", "captions": "caption"},
        "steps": [{"filter": {"op": f"{OWN}:CaptionLength"}}],
    }
    summary = package.run(recipe, str(tmp_path / "run"))
    run = package.load(str(tmp_path / "run"))
    verdicts = run.verdicts("source").to_pylist()
    found = {v["key"]: v["rule"] or v["verdict"] for v in verdicts}
    assert found == {name: rule for name, (_, rule) in cases.items()} | changed
    assert all(v["detail"] for v in verdicts if v["verdict"] != "kept")
    first = summary.steps[0]
    assert first.rows_in == len(cases) == len(verdicts)
    assert first.rows_in == first.kept + sum(first.rejected.values()) + sum(first.failed.values())
    for item in run.items().to_pylist():
        place = item["media"]
        if item["key"] in broken_clips.TRUTH:
            seen = (place["format"], place["width"], place["height"], place["frames"])
            assert seen == broken_clips.TRUTH[item["key"]]
            assert place["modality"] == "video"
            assert place["seconds"] > 0
        else:
            assert (place["modality"], place["seconds"]) == ("image", None)


def test_clips_that_are_gone_or_replaced_after_the_source_step_have_a_verdict(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.mp4").write_bytes(tiny_clips.fade(6, number))
    lines = [{"file": f"{number}.mp4", "caption": f"clip {number}"} for number in range(6)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    source = {"type": "folder", "path": str(folder), "annotations": str(tmp_path / "items.jsonl")}
    source |= {"media": "file", "captions": "caption"}
    first = [{"filter": {"op": f"{OWN}:CaptionLength", "low": 1}}]
    package.run({"source": source, "steps": first}, str(tmp_path / "run"), report=False)
    (folder / "1.mp4").unlink()
    (folder / "2.mp4").write_bytes((folder / "3.mp4").read_bytes() + bytes(5000))
    steps = [*first, {"filter": {"op": "duplicates"}}]
    package.run({"source": source, "steps": steps}, str(tmp_path / "run"), report=False)
    run = package.load(str(tmp_path / "run"))
    keys = {row["id"]: row["key"] for row in run.items().to_pylist()}
    found = {keys[row["id"]]: row["rule"] for row in run.verdicts("duplicates").to_pylist()}
    assert found == dict.fromkeys((f"{n}.mp4" for n in range(6)), None) | {
        "1.mp4": "missing_file",
        "2.mp4": "media_changed",
    }
    assert run.funnel[-1]["failed"] == {"media_changed": 1, "missing_file": 1}


def test_shards_give_clips_as_frames_and_images_as_one(tmp_path):
    recipe = {
        "source": {"type": "tinyworld", "count": 60, "size": 48, "clips": 0.5},
        "steps": [
            {"embed": {"space": "caption", "model": "tfidf", "width": 16}},
            {"pair": {"op": "knn_band", "space": "caption", "low": -1.0, "high": 1.0, "k": 4}},
            {"text": {"op": "template"}},
            {"shards": {}},
        ],
    }
    package.run(recipe, str(tmp_path / "run"))
    run = package.load(str(tmp_path / "run"))
    raw = list(run.samples(decode=False))
    kinds = set()
    for choice, count in ((8, 8), ("first", 1), ((0.0, 0.5, 9.0), 3)):
        for sample, plain in zip(run.samples(frames=choice), raw, strict=True):
            for role in ("references", "targets"):
                (member,), (data,) = sample[role], plain[role]
                kinds.add(type(member))
                if isinstance(member, list):
                    assert len(member) == count
                    assert {type(frame) for frame in member} == {Image.Image}
                    with av.open(io.BytesIO(data)) as reader:
                        film = [f.to_ndarray(format="rgb24") for f in reader.decode(video=0)]
                    if choice == "first":
                        # Another conversion to RGB may round otherwise.
                        off = np.abs(np.asarray(member[0]).astype(int) - film[0])
                        assert off.mean() < 4
                    wanted = [frame.image.tobytes() for frame in frames.sample(data, choice)]
                    assert [frame.tobytes() for frame in member] == wanted
                else:
                    assert member.tobytes() == media.decode(data).tobytes()
    assert kinds == {list, Image.Image}
