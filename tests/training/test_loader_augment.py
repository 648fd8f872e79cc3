"""Pixels: exact where nothing is augmented, torchvision's where something is."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_shards
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datagen import media, models
from datagen.preprocess import Geometry
from datagen.training.augment import Augmentation, Eye, _Change

models.prepare()  # torchvision may be there for another build of torch

SQUARE = tiny_shards.GEOMETRY
ANY = Geometry(24, 40, SQUARE.mean, SQUARE.std, "bilinear", "longest", 7)
ABOUT = {"width": 300, "height": 200}


def photo(size=(300, 200), **saved) -> bytes:
    """A smooth picture with some detail, as photos have."""
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    fine = random.normal(0, 6, (size[1], size[0], 3))
    whole = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), float) + fine
    out = io.BytesIO()
    Image.fromarray(whole.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=92, **saved)
    return out.getvalue()


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("geometry", [SQUARE, ANY])
@pytest.mark.parametrize("about", [ABOUT, {}])
def test_pixels_without_augmentation_are_the_models_own(geometry, about):
    data = photo()
    (found,) = Eye(geometry).pictures(data, about, rng())
    assert (found == geometry.fit(media.decode(data))).all()


@given(st.integers(1, 400), st.integers(1, 400), st.one_of(st.just(0.0), st.floats(1, 4)))
def test_long_pictures_are_padded_to_a_ratio(wide: int, high: int, ratio: float):
    """The picture stays whole, in the middle of black, and no longer side grows."""
    picture = Image.new("RGB", (wide, high), (9, 8, 7))
    found = np.asarray(replace(SQUARE, ratio=ratio).padded(picture))
    high_now, wide_now, _ = found.shape
    assert max(wide_now, high_now) == max(wide, high)
    if ratio:  # of whole pixels on both sides
        assert min(wide_now, high_now) + 2 > min(max(wide, high) / ratio, min(wide, high))
        assert min(wide_now, high_now) <= max(min(wide, high), max(wide, high) / ratio)
    else:
        assert (wide_now, high_now) == (wide, high)
    left, top = (wide_now - wide) // 2, (high_now - high) // 2
    assert (found[top : top + high, left : left + wide] == (9, 8, 7)).all()
    assert int((found > 0).any(axis=-1).sum()) == wide * high


@pytest.mark.parametrize("augmentation", [None, Augmentation(scale=(0.3, 0.9), flip=0.5)])
def test_padding_comes_before_all_else(augmentation):
    """As if the file had been padded, by torchvision."""
    from torchvision.transforms.functional import pad

    picture = Image.open(io.BytesIO(photo((300, 100)))).convert("RGB")
    files = []
    for one in (picture, pad(picture, [0, 70, 0, 70], 0, "constant")):
        out = io.BytesIO()
        one.save(out, "PNG")
        files.append(out.getvalue())
    own = Eye(replace(SQUARE, ratio=1.25), augmentation=augmentation)
    plain = Eye(SQUARE, augmentation=augmentation)
    for about in ({}, {"width": 300, "height": 100}):
        known = {"width": 300, "height": 240} if about else {}
        for seed in range(5):
            padded = own.pictures(files[0], about, rng(seed))
            assert (padded == plain.pictures(files[1], known, rng(seed))).all()
    small = replace(own, draft=1.0).pictures(photo((3000, 1000)), {"width": 3000, "height": 1000},
                                             rng(1))  # fmt: skip
    whole = own.pictures(photo((3000, 1000)), {}, rng(1))
    assert np.abs(small.astype(int) - whole).mean() < 3


def test_a_smaller_decode_comes_close_to_the_whole_one():
    data = photo((640, 480))
    about = {"width": 640, "height": 480}
    for geometry in (SQUARE, ANY):
        whole = Eye(geometry).pictures(data, about, rng())[0].astype(int)
        small = Eye(geometry, draft=1.0).pictures(data, about, rng())[0].astype(int)
        assert whole.shape == small.shape == (geometry.height, geometry.width, 3)
        assert np.abs(whole - small).mean() < 2.5
        assert (whole != small).any()


@given(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.floats(0.5, 3),
    st.integers(0, 2**32),
)
def test_a_smaller_decode_leaves_the_crop_enough_pixels(size, wanted, draft, seed):
    geometry = Geometry(wanted[1], wanted[0], SQUARE.mean, SQUARE.std)
    box = _Change.drawn(Augmentation(scale=(0.1, 1)), rng(seed)).box(size)
    assert box.width >= 1
    assert box.height >= 1
    assert 0 <= box.left <= size[0] - box.width
    assert 0 <= box.top <= size[1] - box.height
    scale = Eye(geometry, draft=draft)._scale(box, size)
    assert scale in (1, 2, 4, 8)
    if scale > 1:
        assert box.width / scale >= draft * wanted[0]
        assert box.height / scale >= draft * wanted[1]
        # What media.decode is asked for gives that scale or a finer one, by Pillow's rule.
        asked = max(1, min(size) // scale)
        room = min(size[0] // asked, size[1] // asked)
        assert max(one for one in (1, 2, 4, 8) if one <= room) <= scale


def test_crops_are_torchvisions():
    functional = pytest.importorskip("torchvision.transforms.functional")
    transforms = pytest.importorskip("torchvision.transforms")
    data, whole = photo(), media.decode(photo())
    for seed in range(8):
        settings = Augmentation(scale=(0.3, 1.0))
        (found,) = Eye(SQUARE, augmentation=settings).pictures(data, ABOUT, rng(seed))
        box = _Change.drawn(settings, rng(seed)).box((300, 200))
        wanted = functional.resized_crop(
            whole, box.top, box.left, box.height, box.width, [32, 32],
            transforms.InterpolationMode.BICUBIC,
        )  # fmt: skip
        assert (found == np.asarray(wanted)).all()


def test_crops_are_drawn_as_torchvision_draws_them():
    """The same means and spreads of width, height and place, over 3,000 drawings each."""
    transforms = pytest.importorskip("torchvision.transforms")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    picture, scale, ratio = Image.new("RGB", (300, 200)), (0.2, 1.0), (3 / 4, 4 / 3)
    theirs, ours = [], []
    settings = Augmentation(scale=scale, ratio=ratio)
    for seed in range(3000):
        top, left, height, width = transforms.RandomResizedCrop.get_params(picture, scale, ratio)
        theirs.append((left, top, width, height))
        ours.append(_Change.drawn(settings, rng(seed)).box((300, 200)))
    left, right = np.asarray(theirs, float), np.asarray(ours, float)
    spread = left.std(axis=0)
    assert (np.abs(left.mean(axis=0) - right.mean(axis=0)) < 5 * spread * math.sqrt(2 / 3000)).all()
    assert (np.abs(spread - right.std(axis=0)) < 0.1 * spread).all()


def test_a_crop_that_never_fits_is_the_largest_of_its_ratio():
    """As torchvision falls back: a picture of 10 by 100 with the ratio 3/4 gives 10 by 13."""
    for size, ratio, wanted in (
        ((10, 100), (3 / 4, 4 / 3), (0, 43, 10, 13)),
        ((100, 10), (3 / 4, 4 / 3), (43, 0, 13, 10)),
    ):
        settings = Augmentation(scale=(1, 1), ratio=ratio)
        assert tuple(_Change.drawn(settings, rng()).box(size)) == wanted


def test_a_crop_of_a_smaller_decode_shows_the_same_part():
    data, about = photo((640, 480)), {"width": 640, "height": 480}
    settings = Augmentation(scale=(0.5, 1.0))
    for seed in range(5):
        whole, small = (
            Eye(SQUARE, augmentation=settings, draft=draft).pictures(data, about, rng(seed))[0]
            for draft in (0.0, 1.0)
        )
        assert np.abs(whole.astype(int) - small.astype(int)).mean() < 3


def test_a_turned_photo_is_cropped_as_it_is_shown():
    exif = Image.Exif()
    exif[0x0112] = 6
    data, about = photo((300, 200), exif=exif), {"width": 200, "height": 300}
    shown = media.decode(data)
    assert shown.size == (200, 300)
    settings = Augmentation(scale=(0.3, 1.0))
    box = _Change.drawn(settings, rng(4)).box((200, 300))
    (found,) = Eye(SQUARE, augmentation=settings).pictures(data, about, rng(4))
    part = (box.left, box.top, box.left + box.width, box.top + box.height)
    wanted = shown.crop(part).resize((32, 32), Image.Resampling.BICUBIC)
    assert (found == np.asarray(wanted)).all()


@pytest.mark.parametrize("about", [{"width": 9000, "height": 8}, {"width": "x", "height": -1}])
def test_sizes_that_are_not_true_spoil_nothing(about):
    settings = Augmentation(scale=(0.3, 1.0))
    for draft in (0.0, 1.0):
        eye = Eye(SQUARE, augmentation=settings, draft=draft)
        assert eye.pictures(photo(), about, rng()).shape == (1, 32, 32, 3)


def test_colours_mirror_and_grey_are_what_they_say():
    functional = pytest.importorskip("torchvision.transforms.functional")
    data = photo()
    plain = Augmentation(scale=(1, 1), ratio=(1.5, 1.5))
    (base,) = Eye(SQUARE, augmentation=plain).pictures(data, ABOUT, rng())
    picture = Image.fromarray(base)

    def seen(**settings):
        changed = plain.model_copy(update=settings)
        (found,) = Eye(SQUARE, augmentation=changed).pictures(data, ABOUT, rng(3))
        return found, _Change.drawn(changed, rng(3))

    assert (seen(flip=1.0)[0] == base[:, ::-1]).all()
    grey, _ = seen(gray_scale_prob=1.0)
    assert (grey == np.asarray(functional.to_grayscale(picture, 3))).all()
    ways = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation,
            functional.adjust_hue)  # fmt: skip
    for which, way in enumerate(ways):
        strength = [0.0] * 4
        strength[which] = 0.4
        found, change = seen(color_jitter=tuple(strength), color_jitter_prob=1.0)
        assert change.colour is not None
        factor = change.colour[0][which]
        assert 0 < abs(factor - (0 if which == 3 else 1)) <= 0.4
        wanted = np.asarray(way(picture, factor)).astype(int)
        assert np.abs(found.astype(int) - wanted).max() == 0
    assert (seen(color_jitter=(0.4,) * 4, color_jitter_prob=0.0)[0] == base).all()
