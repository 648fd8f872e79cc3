"""The tinyworld source: the same world every time, many neighbours, captions that are true."""

import collections
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from datagen import registry, schema
from datagen.errors import DatagenError
from datagen.sources.tinyworld import TinyWorld
from datagen.sources.tinyworld.captions import Noise, captions, parsed_scene
from datagen.sources.tinyworld.family import FAMILY, drawn
from datagen.sources.tinyworld.oracle import fits
from datagen.sources.tinyworld.render import picture, render
from datagen.sources.tinyworld.scene import ATTRIBUTES, Scene, Thing, possible
from datagen.step import Context


def listed(folder, part=None, **settings):
    source = TinyWorld(TinyWorld.Settings(**settings))
    context = Context(media_dir=str(folder), seed=7)
    parts = source.parts(context) if part is None else [part]
    return [row for one in parts for row in source.read(one, context).to_pylist()]


def image_bytes(row):
    with open(row["media"]["path"], "rb") as file:
        file.seek(row["media"]["offset"])
        return file.read(row["media"]["size"])


def captions_of(number, seed=0, at=1):
    return [captions(drawn(seed, index), seed, at)[0] for index in range(number)]


# --- the source -------------------------------------------------------------------------------


def test_the_registry_finds_one_operator_by_the_name_of_the_package():
    assert registry.find("source", "tinyworld") is TinyWorld


def test_records_follow_the_schema_and_point_at_whole_images(tmp_path):
    source = TinyWorld(TinyWorld.Settings(count=30, size=64))
    context = Context(media_dir=str(tmp_path))
    table = source.read(source.parts(context)[0], context)
    assert table.schema.equals(schema.RECORD)
    for index, row in enumerate(table.to_pylist()):
        image = Image.open(io.BytesIO(image_bytes(row)))
        assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "PNG")
        labels = json.loads(row["labels"])
        assert (labels["seed"], labels["index"]) == (0, index)
        assert row["key"] == f"tinyworld/0/{index:08d}"
        assert row["verdict"] == schema.KEPT
        assert parsed_scene(row["captions"][0]) == Scene.of(labels)


def test_a_shard_is_a_plain_tar_whose_members_lie_where_the_records_say(tmp_path):
    rows = listed(tmp_path, count=20)
    with tarfile.open(rows[0]["media"]["path"]) as shard:
        members = shard.getmembers()
    assert [(m.offset_data, m.size) for m in members] == [
        (row["media"]["offset"], row["media"]["size"]) for row in rows
    ]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
    assert os.path.getsize(rows[0]["media"]["path"]) % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_the_format_is_the_one_asked_for(tmp_path, form):
    row = listed(tmp_path, count=1, format=form)[0]
    assert Image.open(io.BytesIO(image_bytes(row))).format == form.upper()


def test_the_same_settings_give_the_same_bytes(tmp_path):
    first = listed(tmp_path / "a", count=25, omit=0.3)
    second = listed(tmp_path / "b", count=25, omit=0.3)
    for a, b in zip(first, second, strict=True):
        assert {**a, "media": None} == {**b, "media": None}
    names = [os.listdir(tmp_path / folder) for folder in "ab"]
    assert names[0] == names[1]
    shards = [(tmp_path / folder / names[0][0]).read_bytes() for folder in "ab"]
    assert shards[0] == shards[1]


def test_settings_that_change_pixels_change_the_name_of_the_shard_and_others_do_not(tmp_path):
    def name(**settings):
        return os.path.basename(listed(tmp_path, count=3, **settings)[0]["media"]["path"])

    plain = name()
    assert name(omit=0.5, captions_per_item=3) == plain
    others = [
        {"size": 48}, {"format": "jpeg"}, {"neighbours": 0.1}, {"max_objects": 4}, {"seed": 8},
        {"same_layout": False}, {"jitter": 0.5},
    ]  # fmt: skip
    assert len({plain, *(name(**other) for other in others)}) == len(others) + 1


def test_neither_the_cut_into_parts_nor_the_count_changes_a_scene(tmp_path):
    whole = listed(tmp_path / "whole", count=60)
    pieces = [
        row
        for start, stop in ((0, 7), (7, 41), (41, 60))
        for row in listed(tmp_path / "cut", {"start": start, "stop": stop}, count=1000)
    ]
    assert [(r["key"], r["captions"], r["labels"]) for r in whole] == [
        (r["key"], r["captions"], r["labels"]) for r in pieces
    ]
    assert [image_bytes(row) for row in whole] == [image_bytes(row) for row in pieces]


_PROGRAM = """
import hashlib, sys
from datagen.sources.tinyworld import TinyWorld
from datagen.step import Context
source = TinyWorld(TinyWorld.Settings(count=40, captions_per_item=2, misname=0.2, seed=3))
context = Context(media_dir=sys.argv[1])
rows = source.read({"start": 0, "stop": 40}, context).to_pylist()
with open(rows[0]["media"]["path"], "rb") as file:
    print(hashlib.sha256(file.read()).hexdigest())
print(hashlib.sha256(repr([(r["captions"], r["labels"]) for r in rows]).encode()).hexdigest())
"""


def test_the_world_does_not_depend_on_the_process_or_its_hash_seed(tmp_path):
    seen = set()
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(tmp_path / hash_seed)],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        seen.add(done.stdout)
    assert len(seen) == 1


def test_the_seed_is_that_of_the_run_unless_it_is_set(tmp_path):
    assert listed(tmp_path, count=2)[1]["key"] == "tinyworld/7/00000001"
    assert listed(tmp_path, count=2, seed=5)[1]["key"] == "tinyworld/5/00000001"
    assert captions_of(20, seed=5) != captions_of(20, seed=7)


def test_worlds_of_images_stay_what_they_are():
    told = [
        (texts, made.scene.graph(), made.base, made.changed)
        for made in (drawn(3, index, max_objects=4) for index in range(300))
        for texts in [captions(made, 3, 3, Noise(0.2, 0.2, 0.2))]
    ]
    digest = hashlib.sha256(repr(told).encode()).hexdigest()
    assert digest[:16] == "b822857345a5cd95"


def test_shares_of_noise_beyond_one_are_refused():
    with pytest.raises(ValidationError, match="at most 1"):
        TinyWorld.Settings(omit=0.6, misname=0.6)


def test_a_run_without_a_media_folder_is_told_so():
    source = TinyWorld(TinyWorld.Settings(count=1))
    with pytest.raises(DatagenError, match="media folder"):
        source.read({"start": 0, "stop": 1}, Context())


# --- the world --------------------------------------------------------------------------------


@pytest.mark.parametrize("max_objects", [1, 2, 3, 4])
def test_every_scene_is_possible_and_keeps_to_the_number_of_things(max_objects):
    sizes = collections.Counter()
    for index in range(400):
        scene = drawn(1, index, max_objects=max_objects).scene
        assert possible(scene)
        sizes[len(scene.objects)] += 1
    assert set(sizes) == set(range(1, max_objects + 1))


def test_no_two_shapes_of_a_scene_touch():
    for index in range(80):
        made = drawn(2, index, max_objects=4)
        background = render(Scene((), made.scene.background), 96, "a", "b", 0)
        alone = [
            render(Scene((thing,), made.scene.background), 96, "a", "b", 0)
            for thing in made.scene.objects
        ]
        base = np.asarray(background, dtype=int)
        covered = sum(
            (np.abs(np.asarray(image, dtype=int) - base).sum(axis=2) > 90).astype(int)
            for image in alone
        )
        assert covered.max() == 1


def test_a_neighbour_changes_one_attribute_of_an_earlier_scene_of_its_family():
    for index in range(600):
        made = drawn(3, index)
        if made.base is None:
            assert made.changed is None
            assert made.root == index
            continue
        base = drawn(3, made.base)
        assert index // FAMILY == made.base // FAMILY
        assert made.base < index
        assert made.root == base.root
        before, after = base.scene, made.scene
        differing = [
            name
            for a, b in zip(before.objects, after.objects, strict=True)
            for name in ATTRIBUTES
            if getattr(a, name) != getattr(b, name)
        ] + ["background"] * (before.background != after.background)
        assert differing == [made.changed]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_the_share_of_neighbours_is_the_one_asked_for(share):
    number = 1600
    found = sum(drawn(4, index, neighbours=share).base is not None for index in range(number))
    spread = math.sqrt(number * share * (1 - share)) + 1
    assert abs(found - number * share) < 4 * spread


def test_many_captions_differ_in_exactly_one_word():
    texts = [text[0].split() for text in captions_of(1000)]
    pairs = 0
    by_length = collections.defaultdict(list)
    for tokens in texts:
        by_length[len(tokens)].append(tokens)
    for group in by_length.values():
        for at, a in enumerate(group):
            pairs += sum(sum(x != y for x, y in zip(a, b, strict=True)) == 1 for b in group[:at])
    assert pairs > 500


def test_one_word_pairs_change_every_attribute():
    kinds = collections.Counter()
    for index in range(1000):
        made = drawn(0, index)
        if made.base is None:
            continue
        a = captions(drawn(0, made.base), 0)[0][0].split()
        b = captions(made, 0)[0][0].split()
        if len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1:
            kinds[made.changed] += 1
    assert set(kinds) == {*ATTRIBUTES, "background"}


def test_two_renderings_of_one_description_differ_unless_jitter_is_off():
    scene = Scene((Thing("star", "red"),), "mint")
    shaken = {render(scene, 96, f"l{i}", f"s{i}").tobytes() for i in range(10)}
    still = {render(scene, 96, f"l{i}", f"s{i}", jitter=0).tobytes() for i in range(3)}
    assert (len(shaken), len(still)) == (10, 1)


def test_with_the_same_layout_the_rest_of_the_scene_stays_where_it_is():
    def moved(same_layout):
        worst = 0.0
        for index in range(200):
            made = drawn(0, index)
            if made.changed != "colour":
                continue
            pair = (drawn(0, made.base), made)
            masks = []
            for one in pair:
                image = np.asarray(
                    picture(one, 0, 96, same_layout=same_layout).convert("RGB"), dtype=float
                )
                masks.append(np.abs(image - image[1, 1]).sum(axis=2) > 100)
            worst = max(worst, float((masks[0] ^ masks[1]).mean()))
        return worst

    assert moved(True) < 0.012
    assert moved(False) > 0.012


# --- captions ---------------------------------------------------------------------------------


def test_captions_without_noise_tell_the_whole_scene():
    for index in range(700):
        made = drawn(11, index, max_objects=4)
        texts, notes = captions(made, 11, 3)
        assert len(set(texts)) == 3
        assert notes == [None, None, None]
        for text in texts:
            assert parsed_scene(text) == made.scene, text


@pytest.mark.parametrize("kind", ["omit", "misname", "contradict"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_noise_comes_at_the_rate_asked_for_and_is_written_down(tmp_path, kind, share):
    number = 600
    source = TinyWorld(TinyWorld.Settings(count=number, size=32, **{kind: share}))
    wrong = 0
    for index in range(number):
        made = drawn(0, index)
        record = source._record(made, 0, {})
        note = json.loads(record["labels"])["noise"]
        text = record["captions"][0]
        clean = captions(made, 0)[0][0]
        if note is None:
            assert text == clean
            continue
        wrong += 1
        assert note["captions"][0]["kind"] == kind
        assert text != clean or kind == "omit"
        # What is left out does no harm; what is wrong shows against the true scene.
        assert fits(made.scene, text) is (kind == "omit"), (text, made.scene)
        assert parsed_scene(text) != made.scene or note["captions"][0]["attribute"] == "texture"
    spread = math.sqrt(number * share * (1 - share))
    assert abs(wrong - number * share) < 4 * spread


def test_a_caption_fits_its_own_scene_and_hardly_any_other():
    # Some captions leave plainness unsaid, so textures are not compared.
    def bare(scene):
        return {replace(thing, texture="") for thing in scene.objects}

    scenes = [drawn(0, index).scene for index in range(300)]
    texts = [text[0] for text in captions_of(300)]
    for at, text in enumerate(texts):
        fitting = [other for other, scene in enumerate(scenes) if fits(scene, text)]
        assert at in fitting
        assert all(bare(scenes[other]) >= bare(scenes[at]) for other in fitting)


def test_captions_in_other_words_are_understood():
    scene = Scene(
        (Thing("star", "red", "small", "dotted", 3, "top left"), Thing("ring", "blue")), "gray"
    )
    for text in (
        "A grey background with three tiny red stars with dots in the top-left corner.",
        "there is a big blue ring in the middle",
        "Three small polka dot stars, and a ring in the center of the picture",
        "a blue one on gray",
    ):
        assert fits(scene, text), text
    for text in (
        "two red stars", "a red ring", "a small ring", "a ring on the left", "a green heart",
        "on a white background", "a plain blue ring with stripes", "lorem ipsum", "",
    ):  # fmt: skip
        assert not fits(scene, text), text
