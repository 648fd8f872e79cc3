"""Clips of the tinyworld: a scene and one event, told truly, filmed the same every time."""

import collections
import hashlib
import io
import json
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from pydantic import ValidationError

from datagen import frames, media
from datagen.sources.tinyworld import TinyWorld
from datagen.sources.tinyworld.captions import captions, parsed
from datagen.sources.tinyworld.events import (
    Act,
    Clip,
    acts_of,
    clips_of,
    possible_clip,
    scene_of,
    shown,
)
from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.film import encode_clip, film, progress
from datagen.sources.tinyworld.noise import Noise
from datagen.sources.tinyworld.oracle import difference, fits, read_pixels
from datagen.sources.tinyworld.render import keys, render
from datagen.sources.tinyworld.scene import Scene, Thing, possible
from datagen.step import Context

KINDS = {"position", "size", "colour", "texture", "count", "background", "spin", "vanish", "appear"}


def listed(folder, **settings):
    source = TinyWorld(TinyWorld.Settings(**settings))
    context = Context(media_dir=str(folder), seed=7)
    return [row for part in source.parts(context) for row in source.read(part, context).to_pylist()]


def data_of(row):
    with open(row["media"]["path"], "rb") as file:
        file.seek(row["media"]["offset"])
        return file.read(row["media"]["size"])


def clips(number, seed=0, **settings):
    return [drawn(seed, index, clips=1.0, **settings) for index in range(number)]


def content(what):
    """What is shown, whatever the order of things."""
    acts, ground_act = acts_of(what)
    scene = scene_of(what)
    return frozenset(zip(scene.objects, acts, strict=True)), scene.background, ground_act


# --- the source -------------------------------------------------------------------------------


def test_clips_are_listed_with_their_event_and_images_with_none(tmp_path):
    rows = listed(tmp_path, count=60, clips=0.5)
    found = collections.Counter(row["media"]["modality"] for row in rows)
    assert set(found) == {"image", "video"}
    assert abs(found["video"] - 30) < 16
    for row in rows:
        labels = json.loads(row["labels"])
        probe = media.verify(data_of(row))
        assert probe.modality == row["media"]["modality"]
        assert (labels["event"] is None) == (probe.modality == "image")
        assert content(parsed(row["captions"][0])) == content(shown(labels))
        assert possible(Scene.of(labels))


def test_a_clip_is_small_and_plays_everywhere(tmp_path):
    row = listed(tmp_path, count=1, clips=1.0)[0]
    data = data_of(row)
    assert 1_000 < len(data) < 15_000
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert (stream.codec_context.pix_fmt, stream.frames, stream.average_rate) == (
            "yuv420p", 12, 8,
        )  # fmt: skip
        assert container.duration == 1_500_000
        assert not set(container.metadata) & {"encoder", "creation_time"}


def test_a_clip_names_neither_its_encoder_nor_a_time():
    data = encode_clip(film(clips(1)[0], 0, 48), 8)
    for mark in (b"x264", b"Lavf", b"Lavc", b"options"):
        assert mark not in data


@pytest.mark.parametrize(("number", "fps"), [(4, 1), (24, 24), (60, 60)])
def test_frames_and_rate_are_those_asked_for(number, fps):
    probe = media.probe(encode_clip(film(clips(1)[0], 0, 32, number), fps))
    assert (probe.frames, probe.width, probe.height) == (number, 32, 32)
    assert probe.seconds == pytest.approx(number / fps, abs=0.01)


_PROGRAM = """
import hashlib, sys
from datagen.sources.tinyworld import TinyWorld
from datagen.step import Context
source = TinyWorld(TinyWorld.Settings(count=12, clips=0.8, seed=3, misname=0.2))
rows = source.read({"start": 0, "stop": 12}, Context(media_dir=sys.argv[1])).to_pylist()
with open(rows[0]["media"]["path"], "rb") as file:
    print(hashlib.sha256(file.read()).hexdigest())
print(hashlib.sha256(repr([(r["captions"], r["labels"]) for r in rows]).encode()).hexdigest())
"""


def test_the_same_settings_give_the_same_clips_in_every_process(tmp_path):
    printed = set()
    for hash_seed in ("0", "77"):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(tmp_path / hash_seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        printed.add(done.stdout)
    rows = listed(tmp_path / "here", count=12, clips=0.8, seed=3, misname=0.2)
    with open(rows[0]["media"]["path"], "rb") as file:
        here = hashlib.sha256(file.read()).hexdigest()
    assert len(printed) == 1
    assert printed.pop().startswith(here)


def test_a_world_without_clips_says_nothing_of_events(tmp_path):
    assert all("event" not in json.loads(row["labels"]) for row in listed(tmp_path, count=20))


def test_settings_of_clips_change_the_name_of_the_shard_only_where_there_are_clips(tmp_path):
    def name(**settings):
        row = listed(tmp_path, count=2, size=32, **settings)[0]
        return os.path.basename(row["media"]["path"])

    assert name() == name(frames=6, fps=4)
    filmed = {"clips": 0.5}
    names = {
        name(), name(**filmed), name(**filmed, frames=6), name(**filmed, fps=4), name(clips=0.6)
    }  # fmt: skip
    assert len(names) == 5


def test_an_odd_size_is_refused_where_there_are_clips():
    with pytest.raises(ValidationError, match="even number of pixels"):
        TinyWorld.Settings(size=33, clips=0.1)
    assert TinyWorld.Settings(size=33).size == 33


def test_which_scenes_are_clips_depends_on_seed_and_index_alone():
    few = {i for i in range(400) if drawn(1, i, clips=0.2).clip}
    more = {i for i in range(400) if drawn(1, i, clips=0.5, max_objects=1).clip}
    assert few < more
    assert abs(len(few) - 80) < 40
    assert abs(len(more) - 200) < 50


# --- the world --------------------------------------------------------------------------------


def test_every_clip_is_possible_at_both_ends_and_every_kind_of_event_comes_up():
    found = collections.Counter()
    for made in clips(600, 1, max_objects=4):
        clip = made.clip
        assert possible_clip(clip)
        assert possible(clip.start)
        assert possible(clip.end)
        assert clip.start.objects
        assert clip.end.objects
        assert (clip.start == clip.end) == (clip.act.kind == "spin")
        found[clip.act.kind] += 1
    assert set(found) == KINDS
    assert min(found.values()) > 10


def test_a_neighbour_changes_one_thing_or_the_event():
    kinds = collections.Counter()
    for index in range(800):
        made = drawn(3, index, clips=0.6)
        if made.base is None:
            continue
        base = drawn(3, made.base, clips=0.6)
        # Where another thing takes over, one stops and one begins.
        assert {change.attribute for change in difference(base.shown, made.shown)} == {made.changed}
        kinds[(base.clip is None, made.clip is None, made.changed == "event")] += 1
    assert kinds[False, False, True] > 50
    assert kinds[False, False, False] > 50
    assert kinds[True, False, True] > 5
    assert not kinds[True, False, False]


def test_labels_tell_the_first_frame_and_give_the_clip_back():
    for made in clips(300, 2, max_objects=4):
        labels = json.loads(json.dumps(made.clip.graph()))
        assert Scene.of(labels) == made.clip.start
        assert shown(labels) == made.clip
        event = labels["event"]
        if event["kind"] in ("position", "size", "colour", "texture", "count"):
            assert labels["objects"][event["thing"]][event["kind"]] == event["from"] != event["to"]


def test_a_thing_that_moves_meets_no_other():
    scene = Scene((Thing("star", "red", position="left"), Thing("ring", "blue")), "mint")
    ways = {clip.act.to for clip in clips_of(scene) if clip.at == 0 and clip.act.kind == "position"}
    assert "right" not in ways


# --- pictures ---------------------------------------------------------------------------------


def test_both_ends_of_a_film_are_the_scenes_as_images_show_them():
    for made in clips(40, 4):
        pictures = film(made, 4, 48)
        for scene, seen in ((made.clip.start, pictures[0]), (made.clip.end, pictures[-1])):
            image = np.asarray(render(scene, 48, *keys(made, 4, True)), dtype=int)
            assert np.abs(image - seen).max() <= 1


def test_the_event_goes_one_way_from_beginning_to_end():
    ways = progress(12)
    assert (ways[0], ways[-1]) == (0.0, 1.0)
    assert ways == sorted(ways)


def test_scenes_and_event_are_read_back_from_the_decoded_frames():
    right, number = collections.Counter(), 80
    for index in range(number):
        made = drawn(905, index, neighbours=0.2, max_objects=4, clips=1.0)
        data = encode_clip(film(made, 905), 8)
        pictures = [frame.image for frame in frames.sample(data, 8)]
        agrees = read_pixels(pictures, made.shown)["agrees"]
        right.update(name for name, agreed in agrees.items() if agreed)
        right["everything"] += all(agrees.values())
    assert min(right.values()) >= 0.96 * number, right


def test_a_still_sequence_has_no_event():
    scene = Scene((Thing("star", "red"),), "mint")
    image = render(scene, 96, "layout", "shade")
    seen = read_pixels([image] * 4, scene)
    assert seen["event"] is None
    assert shown(seen) == scene
    assert all(seen["agrees"].values())
    assert read_pixels([image] * 4, Clip(scene, 0, Act("spin")))["agrees"]["event"] is False


# --- captions ---------------------------------------------------------------------------------


def test_captions_of_clips_tell_all_and_each_in_another_way():
    for made in clips(500, 11, max_objects=4):
        texts, notes = captions(made, 11, 3)
        assert len(set(texts)) == 3
        assert notes == [None] * 3
        for text in texts:
            assert content(parsed(text)) == content(made.shown), text
            assert fits(made.shown, text), text


def test_no_two_clips_of_a_world_share_a_caption_unless_they_show_the_same():
    seen = {}
    for made in clips(1200, 5):
        text = captions(made, 5)[0][0]
        assert content(seen.setdefault(text, made.shown)) == content(made.shown), text


def test_many_neighbours_are_told_in_the_same_words_but_one():
    kinds = collections.Counter()
    for made in clips(1000):
        if made.base is None:
            continue
        a = captions(drawn(0, made.base, clips=1.0), 0)[0][0].split()
        b = captions(made, 0)[0][0].split()
        if len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1:
            kinds[made.changed] += 1
    assert kinds["event"] > 100
    assert sum(kinds.values()) > 350


@pytest.mark.parametrize("kind", ["omit", "misname", "contradict"])
def test_noise_in_clips_is_written_down_and_shows_against_the_truth(kind):
    attributes = collections.Counter()
    for made in clips(500, 6, max_objects=3):
        (text,), (note,) = captions(made, 6, 1, Noise(**{kind: 1.0}))
        assert note["kind"] == kind
        attributes[note["attribute"]] += 1
        assert fits(made.shown, text) is (kind == "omit"), (text, made.shown, note)
        assert note["said"] != note["true"]
    assert attributes["event"] > 20


def test_a_caption_fits_hardly_any_other_clip():
    made = clips(90, 8)
    texts = [captions(one, 8)[0][0] for one in made]
    for at, text in enumerate(texts):
        fitting = [i for i, other in enumerate(made) if fits(other.shown, text)]
        assert at in fitting
        assert all(made[i].clip.act == made[at].clip.act for i in fitting)


def test_an_image_does_not_do_what_a_caption_says_and_a_clip_may_be_told_as_an_image():
    for made in clips(100, 9):
        text = captions(made, 9)[0][0]
        assert not fits(made.scene, text)
        still = captions(drawn(9, made.index), 9)[0][0]
        assert fits(drawn(9, made.index).scene, still)


def test_captions_of_clips_in_other_words_are_understood():
    scene = Scene(
        (Thing("star", "red", "small", "plain", 1, "left"), Thing("ring", "blue")), "gray"
    )
    right = Clip(scene, 0, Act("position", "top left"))
    for text in (
        "A tiny star is sliding to the upper left.",
        "the red star moves from the left to the top left",
        "a star that goes to the top left and a ring",
        "a red star moves",
        "a grey background, a ring and a star moving",
    ):
        assert fits(right, text), text
    for text in (
        "a red star moves to the right", "a blue ring moves", "a red star spins",
        "the background turns navy", "a red star moves from the top to the top left",
    ):  # fmt: skip
        assert not fits(right, text), text
