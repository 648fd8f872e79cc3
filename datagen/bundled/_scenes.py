"""Rendered scenes and clips to train and measure small models on, with their truth.

Two fences keep figures honest. Worlds of training have seeds of :data:`TRAINING_SEEDS`, which no
figure uses. And one scene in :data:`SHARE`, chosen by its content, is *held out*: it is drawn in no
training set, whatever the seed, so "never seen" holds for what a picture shows and not for its
pixels only.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from datagen import frames, store
from datagen.preprocess import Geometry
from datagen.schema import canonical_json, content_id
from datagen.sources.tinyworld import grammar, motion, words
from datagen.sources.tinyworld.captions import caption, styles
from datagen.sources.tinyworld.events import CHANGING, PLAIN, Act, Clip, Shown, scene_of
from datagen.sources.tinyworld.family import FAMILY, Drawn, drawn
from datagen.sources.tinyworld.film import encode_clip, film
from datagen.sources.tinyworld.noise import Noise
from datagen.sources.tinyworld.render import encode, picture
from datagen.sources.tinyworld.scene import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    VALUES,
    Dice,
    Scene,
    Thing,
)

Array = np.ndarray[Any, Any]

#: Seeds of worlds that models are trained on; every other seed is free for figures and for users.
TRAINING_SEEDS = range(1_000_000, 2_000_000)
#: One scene in so many is held out.
SHARE = 8
#: Families of scenes that are rendered at a time.
_PART = 32
#: Sides that pictures are rendered with before they are brought to a model's.
_SIDES = ([64, 96, 128, 192], [2, 5, 2, 1])
#: Of the captions beside the right ones, those that leave something out rather than tell it wrong.
_PARTIAL = Noise(omit=1.0)
_WRONG = Noise(misname=0.7, contradict=0.3)
_PARTIAL_SHARE = 0.15
#: Slots of :func:`truth`: values of each attribute, at each position.
SLOTS: dict[str, list[Any]] = {
    "shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES, "count": COUNTS
}  # fmt: skip
NOTHING = -1


def held_out(what: Shown) -> bool:
    """Whether what a picture or clip shows is kept from training, at its beginning or its end.

    The order in which a caption would name the things does not matter.
    """
    scenes = {what.scene, what.start, what.end} if isinstance(what, Clip) else {what}
    return any(_held(scene) for scene in scenes)


def _held(scene: Scene) -> bool:
    things = sorted(canonical_json(thing) for thing in scene.graph()["objects"])
    name = content_id("held out", canonical_json([*things, scene.background]))
    return int(name[:8], 16) % SHARE == 0


def truth(scene: Scene) -> Array:
    """What stands where: int8 of shape (9 positions x 5 slots + 1), indices into ``SLOTS`` and
    ``BACKGROUNDS``, NOTHING where no thing stands."""
    cells = np.full((len(POSITIONS), len(SLOTS)), NOTHING, np.int8)
    for thing in scene.objects:
        cells[POSITIONS.index(thing.position)] = [
            values.index(getattr(thing, name)) for name, values in SLOTS.items()
        ]
    return np.append(cells.ravel(), BACKGROUNDS.index(scene.background)).astype(np.int8)


@dataclass(frozen=True)
class World:
    """What a training set is made of.

    seed: 0 and up, of :data:`TRAINING_SEEDS`; count: scenes drawn, of which those held out are
    left; clips: share of scenes that are clips; clip_frames: frames of each that are kept;
    texts: phrasings of every scene (1-4).
    """

    seed: int
    count: int
    clips: float = 0.12
    clip_frames: int = 4
    texts: int = 3

    def parts(self) -> list[range]:
        """Numbers of families, a part each."""
        families = self.count // FAMILY
        return [range(at, min(at + _PART, families)) for at in range(0, families, _PART)]


def _texts(scene: Drawn, seed: int, number: int) -> dict[str, list[Any]]:
    """Right captions, and to each one in the same words that is wrong or leaves something out."""
    found: dict[str, list[Any]] = {"right": [], "other": [], "partial": []}
    phrasings = styles(seed, scene.root, number, scene.clip is not None)
    for at, style in enumerate(phrasings):
        dice = Dice("tell", seed, scene.index, at)
        partial = dice.uniform() < _PARTIAL_SHARE
        found["right"].append(caption(scene.shown, style, Noise(), dice)[0])
        while True:
            text, note = caption(scene.shown, style, _PARTIAL if partial else _WRONG, dice)
            # Frames without their order do not tell which end of a clip comes first.
            backwards = note is not None and note["kind"] == "contradict"
            if not (backwards and note is not None and note["attribute"] == "event"):
                break
        found["other"].append(text)
        found["partial"].append(partial)
    return found


def _pictures(scene: Drawn, seed: int, clip_frames: int) -> list[Image.Image]:
    """The picture, or frames of the clip after it went through its file."""
    dice = Dice("camera", seed, scene.index)
    side = dice.pick(*_SIDES)
    jitter, same_layout = dice.uniform(0, 1.5), dice.uniform() < 0.5
    if scene.clip is not None:
        side = min(side, 96)
        film_ = film(scene, seed, side, same_layout=same_layout, jitter=jitter)
        data = encode_clip(film_, 8)
        return [frame.image for frame in frames.sample(data, clip_frames)]
    image = picture(scene, seed, side, same_layout=same_layout, jitter=jitter)
    if dice.uniform() < 0.25:
        image = Image.open(io.BytesIO(encode(image, "jpeg")))
    return [image]


def _part(work: tuple[World, range, Geometry]) -> pa.Table:
    world, families, geometry = work
    seed = TRAINING_SEEDS[world.seed]
    rows = []
    for family in families:
        for index in range(family * FAMILY, (family + 1) * FAMILY):
            scene = drawn(seed, index, neighbours=0.6, max_objects=4, clips=world.clips)
            if held_out(scene.shown):
                continue
            fitted = [geometry.fit(one) for one in _pictures(scene, seed, world.clip_frames)]
            rows.append(
                {
                    "family": family,
                    "frames": np.stack(fitted).tobytes(),
                    "number": len(fitted),
                    "truth": truth(scene_of(scene.shown)).tobytes(),
                    **_texts(scene, seed, world.texts),
                }
            )
    return pa.Table.from_pylist(rows)


@dataclass(frozen=True)
class Examples:
    """A training set in memory; scenes in order, so families stand together.

    pixels: uint8 (frames, height, width, 3); start, number: where the frames of each example are;
    family: of each; truth: int8 (n, 46), see :func:`truth`; right, other: texts (n, phrasings);
    partial: bool, whether ``other`` only leaves something out.
    """

    pixels: Array
    start: Array
    number: Array
    family: Array
    truth: Array
    right: list[list[str]]
    other: list[list[str]]
    partial: Array


def render(world: World, geometry: Geometry, folder: str, processes: int) -> Examples:
    """Render ``world`` into ``folder``, where it is not there yet, and read it.

    The same world gives the same examples on any number of processes.
    """
    stamp = content_id("world", canonical_json([repr(world), repr(geometry), SHARE]))[:12]
    paths = [Path(folder, f"{stamp}-{part.start:06d}.parquet") for part in world.parts()]
    waiting = [
        (path, (world, part, geometry))
        for path, part in zip(paths, world.parts(), strict=True)
        if not path.exists()
    ]
    for path, table in _rendered(waiting, processes):
        with store.writing(str(path)) as file:
            pq.write_table(table, file, compression="zstd")
    return _examples(pa.concat_tables(pq.read_table(path) for path in paths), geometry)


def _rendered(waiting: list[Any], processes: int) -> Iterator[tuple[Path, pa.Table]]:
    if not waiting:
        return
    names, work = zip(*waiting, strict=True)
    if processes < 2:
        yield from zip(names, map(_part, work), strict=True)
        return
    with multiprocessing.get_context("spawn").Pool(min(processes, os.cpu_count() or 1)) as pool:
        yield from zip(names, pool.imap(_part, work), strict=True)


def _examples(table: pa.Table, geometry: Geometry) -> Examples:
    number = table["number"].to_numpy()
    shape = (-1, geometry.height, geometry.width, 3)
    pixels = np.empty((int(number.sum()), *shape[1:]), np.uint8)
    start = np.cumsum(number) - number
    for at, data in zip(start, table["frames"], strict=True):
        found = np.frombuffer(data.as_buffer(), np.uint8).reshape(shape)
        pixels[at : at + len(found)] = found
    return Examples(
        pixels,
        start,
        number,
        table["family"].to_numpy(),
        np.stack([np.frombuffer(one, np.int8) for one in table["truth"].to_pylist()]),
        table["right"].to_pylist(),
        table["other"].to_pylist(),
        np.asarray(table["partial"].to_pylist(), bool),
    )


# ---------------------------------------------------------------- words


def vocabulary() -> list[str]:
    """Every word that a caption of this world can have, and the comma; in alphabetical order."""
    said = [text for frame in _frames() for text in frame]
    said += ["an beside and , from the to the", *words.NUMBERS.values(), *BACKGROUNDS]
    looks = [
        grammar.Style(0, sizes, texture, at=at)
        for sizes in range(len(grammar.SIZE_WORDS))
        for texture in ("said", "with")
        for at in (False, True)
    ]
    for style in looks:
        for count in COUNTS:
            for name in ("shape", "colour", "size", "texture", "position"):
                for value in VALUES[name]:
                    told = {**vars(Thing("star", "red", count=count)), name: value}
                    said.append(grammar.noun_phrase(told, style))
    acts = [Act(kind, to) for kind in CHANGING for to in VALUES[kind]]
    for act in [*acts, *(Act(kind) for kind in PLAIN)]:
        for column in range(motion.COLUMNS):
            said += [motion.verb(act, plural, column) for plural in (False, True)]
    return sorted({word for text in said for word in re.findall(r"[a-z]+|,", text)})


def _frames() -> Iterator[list[str]]:
    """The fixed words of caption frames."""
    for frames_ in (grammar.FRAMES, grammar.THING_FRAMES, grammar.GROUND_FRAMES):
        for both in frames_:
            yield [re.sub(r"\{\w+\}", " ", text) for text in both]
    yield ["there is", "there are"]
