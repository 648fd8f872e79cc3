"""Scenes are read back from pixels alone."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from datagen.sources.tinyworld.family import drawn
from datagen.sources.tinyworld.oracle import read_pixels
from datagen.sources.tinyworld.render import encode, picture, render
from datagen.sources.tinyworld.scene import ATTRIBUTES, Scene, Thing

NAMES = ("background", "objects", *ATTRIBUTES)


def accuracy(number, seed, size=96, change=lambda image: image):
    right = Counter()
    for index in range(number):
        made = drawn(seed, index, neighbours=0.3, max_objects=4)
        image = change(picture(made, seed, size))
        agrees = read_pixels(image, made.scene)["agrees"]
        right.update(name for name in NAMES if agrees[name])
    return {name: right[name] / number for name in NAMES}


def compressed(image):
    return Image.open(io.BytesIO(encode(image, "jpeg")))


def grainy(image):
    grain = np.random.default_rng(0).normal(0, 7, (*image.size, 3))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def soft(image):
    return image.filter(ImageFilter.GaussianBlur(0.6))


def test_every_attribute_is_read_from_unseen_scenes():
    found = accuracy(300, seed=901)
    assert min(found.values()) >= 0.97, found


@pytest.mark.parametrize(
    ("size", "change", "least"),
    [(64, lambda i: i, 0.95), (160, lambda i: i, 0.95), (96, compressed, 0.97),
     (96, grainy, 0.9), (96, soft, 0.9)],
    ids=["small", "large", "jpeg", "grainy", "soft"],
)  # fmt: skip
def test_reading_bears_other_sizes_compression_grain_and_blur(size, change, least):
    found = accuracy(80, 902, size, change)
    assert min(found.values()) >= least, found


def test_what_is_read_is_a_scene_like_that_of_the_labels():
    scene = Scene(
        (Thing("heart", "pink", "small", "dotted", 3, "top left"), Thing("moon", "blue",
         "large", "striped", 1, "right")), "beige"
    )  # fmt: skip
    found = read_pixels(render(scene, 96, "layout", "shade"))
    assert Scene.of(found) == scene
    assert "agrees" not in found


def test_disagreement_names_the_attribute():
    shown = Scene((Thing("star", "red"),), "mint")
    image = render(shown, 96, "layout", "shade")
    for meant, wrong in (
        (Scene((Thing("star", "blue"),), "mint"), {"colour"}),
        (Scene((Thing("star", "red", size="small"),), "gray"), {"size", "background"}),
        (Scene((Thing("star", "red"), Thing("ring", "blue")), "mint"), {"objects", *ATTRIBUTES}),
    ):
        agrees = read_pixels(image, meant)["agrees"]
        assert {name for name, right in agrees.items() if not right} == wrong


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_empty_and_odd_pictures_are_read_too(mode):
    found = read_pixels(Image.new(mode, (40, 25)))
    assert found["objects"] == []
    noise = np.random.default_rng(1).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    assert set(read_pixels(Image.fromarray(noise).convert(mode))) == {"objects", "background"}
