"""Rendered scenes with their neighbours, to train models that paint and edit them: pictures,
captions, the texts that ask for each change, and what stands in each part of a picture.

A family is a scene and others that each change one thing of it. Its pictures share shifts, turns
and light, so nothing but the change differs.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from datagen import store
from datagen.bundled import _requests, _scenes
from datagen.schema import canonical_json, content_id
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.captions import caption, styles
from datagen.sources.tinyworld.noise import Noise
from datagen.sources.tinyworld.render import render
from datagen.sources.tinyworld.scene import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    DIAMETERS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Dice,
    Scene,
    Thing,
    centres,
    changes,
    invent,
    possible,
)

Array = np.ndarray[Any, Any]

#: Side of pictures, in pixels; things of a scene, at most.
SIDE = 64
MOST_THINGS = 2
#: Parts of a picture along a side of which it is told what stands there.
PARTS = 8
#: Kinds of changes, and how often each is drawn.
KINDS = {
    "colour": 18, "shape": 20, "size": 10, "texture": 15, "count": 10, "position": 10,
    "background": 8, "object": 9,
}  # fmt: skip
NOTHING = _scenes.NOTHING
#: Families that are rendered at a time.
PART = 64
_TEXTS = 2
_CAPTIONS = 2


def invented(dice: Dice) -> Scene:
    """A scene of one or two things, two more often."""
    if dice.uniform() < 0.3:
        return invent(dice, 1)
    while True:
        scene = invent(dice, MOST_THINGS)
        if len(scene.objects) == MOST_THINGS:
            return scene


def changed(scene: Scene, kind: str, dice: Dice) -> Scene | None:
    """``scene`` with one change of ``kind`` of :data:`KINDS`; None where there is none."""
    if kind != "object":
        others = changes(scene, kind)
        return dice.pick(others) if others else None
    if len(scene.objects) == MOST_THINGS:
        at = dice.pick(range(MOST_THINGS))
        return replace(scene, objects=(*scene.objects[:at], *scene.objects[at + 1 :]))
    for _ in range(20):
        thing = invent(dice, 1).objects[0]
        more = replace(scene, objects=(*scene.objects, thing))
        if possible(more):
            return more
    return None


def family(dice: Dice, members: int) -> list[Scene]:
    """A scene and others that each change one thing of it, all different; none held out."""
    while True:
        root = invented(dice)
        if not _scenes.held_out(root):
            break
    found = [root]
    for _ in range(4 * members):
        kind = dice.pick(list(KINDS), list(KINDS.values()))
        other = changed(root, kind, dice)
        if other is not None and other not in found and not _scenes.held_out(other):
            found.append(other)
        if len(found) == members:
            break
    return found


def cells(scene: Scene) -> Array:
    """Which thing each part of a picture shows: int8 (PARTS, PARTS), an index into POSITIONS,
    NOTHING where the background is."""
    found = np.full((PARTS, PARTS), NOTHING, np.int8)
    middles = (np.arange(PARTS) + 0.5) / PARTS
    for thing in scene.objects:
        # A part counts from a little more than half covered on.
        reach = max(DIAMETERS[thing.size] / 2, 0.5 / PARTS + 1e-6)
        for x, y in centres(thing) or ():
            near = (abs(middles - y) <= reach)[:, None] & (abs(middles - x) <= reach)[None, :]
            found[near] = POSITIONS.index(thing.position)
    return found


@dataclass(frozen=True)
class World:
    """What a training set is made of.

    seed: 0 and up, of ``_scenes.TRAINING_SEEDS``; families; members: scenes of each.
    """

    seed: int
    families: int
    members: int = 6

    def parts(self) -> list[range]:
        """Numbers of families, a part each."""
        return [range(at, min(at + PART, self.families)) for at in range(0, self.families, PART)]


def picture(scene: Scene, key: str, dice: Dice) -> Image.Image:
    """``scene`` at :data:`SIDE`; now and then drawn larger, and made smaller."""
    side = dice.pick([SIDE, 96], [4, 1])
    image = render(scene, side, f"layout/{key}", f"shade/{key}", dice.uniform(0.4, 1.2))
    return image if side == SIDE else image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _row(seed: int, number: int, members: int) -> dict[str, Any]:
    scenes = family(Dice("family", seed, number), members)
    pictures = [
        np.asarray(picture(one, f"{seed}/{number}", Dice("camera", seed, number))) for one in scenes
    ]
    said = []
    for at, scene in enumerate(scenes):
        dice = Dice("tell", seed, number, at)
        phrasings = styles(seed, number * 64 + at, _CAPTIONS)
        said.append([caption(scene, style, Noise(), dice)[0] for style in phrasings])
    return {
        "pictures": np.stack(pictures).tobytes(),
        "truth": np.stack([_scenes.truth(one) for one in scenes]).tobytes(),
        "cells": np.stack([cells(one) for one in scenes]).tobytes(),
        "captions": said,
        "edits": list(_edits(scenes, seed, number)),
    }


def _edits(scenes: Sequence[Scene], seed: int, number: int) -> Iterator[dict[str, Any]]:
    """Every change of one thing between two of ``scenes``, with right texts."""
    for at, before in enumerate(scenes):
        for to, after in enumerate(scenes):
            found = oracle.difference(before, after)
            if len(found) != 1:
                continue
            dice = Dice("request", seed, number, at, to)
            texts = _requests.requests(before, after, _TEXTS, dice)
            if texts:
                yield {"before": at, "after": to, "kind": kind_of(found[0]), "texts": texts}


def kind_of(change: oracle.Change) -> str:
    """``add`` and ``remove`` for a thing that comes or goes; else the attribute."""
    if change.attribute != "object":
        return change.attribute
    return "add" if change.before is None else "remove"


def _part(work: tuple[World, range]) -> pa.Table:
    world, numbers = work
    seed = _scenes.TRAINING_SEEDS[world.seed]
    return pa.Table.from_pylist([_row(seed, number, world.members) for number in numbers])


@dataclass(frozen=True)
class Examples:
    """A training set in memory.

    pixels: uint8 (n, SIDE, SIDE, 3); truth: int8 (n, 46), see ``_scenes.truth``; cells: int8
    (n, PARTS, PARTS); captions: of each. before, after: (m), indices of pictures; kinds, texts:
    of each edit.
    """

    pixels: Array
    truth: Array
    cells: Array
    captions: list[list[str]]
    before: Array
    after: Array
    kinds: list[str]
    texts: list[list[str]]


def rendered(world: World, folder: str, processes: int) -> list[str]:
    """Render ``world`` into ``folder``, where it is not there yet; the files, in order.

    The same world gives the same files on any number of processes.
    """
    stamp = content_id("edits", canonical_json([repr(world), _scenes.SHARE, KINDS]))[:12]
    paths = [Path(folder, f"{stamp}-{part.start:06d}.parquet") for part in world.parts()]
    waiting = [
        (path, (world, part))
        for path, part in zip(paths, world.parts(), strict=True)
        if not path.exists()
    ]
    os.makedirs(folder, exist_ok=True)
    for path, table in _made(waiting, processes):
        with store.writing(str(path)) as file:
            pq.write_table(table, file, compression="zstd")
    return [str(path) for path in paths]


def _made(waiting: list[Any], processes: int) -> Iterator[tuple[Path, pa.Table]]:
    if not waiting:
        return
    names, work = zip(*waiting, strict=True)
    if processes < 2:
        yield from zip(names, map(_part, work), strict=True)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from zip(names, pool.imap(_part, work), strict=True)


def read(paths: Sequence[str]) -> Examples:
    """The examples of files of :func:`rendered`."""
    pixels, truth, where = [], [], []
    captions: list[list[str]] = []
    before, after, kinds, texts = [], [], [], []
    for path in paths:
        for row in pq.read_table(path).to_pylist():
            first = len(captions)
            pixels.append(np.frombuffer(row["pictures"], np.uint8).reshape(-1, SIDE, SIDE, 3))
            truth.append(np.frombuffer(row["truth"], np.int8).reshape(len(pixels[-1]), -1))
            where.append(np.frombuffer(row["cells"], np.int8).reshape(-1, PARTS, PARTS))
            captions += row["captions"]
            for edit in row["edits"]:
                before.append(first + edit["before"])
                after.append(first + edit["after"])
                kinds.append(edit["kind"])
                texts.append(edit["texts"])
    return Examples(
        np.concatenate(pixels), np.concatenate(truth), np.concatenate(where), captions,
        np.asarray(before), np.asarray(after), kinds, texts,
    )  # fmt: skip


# ---------------------------------------------------------------- what a text says

#: Classes of each attribute that is read; the last one of all but ``ground`` is "none".
WIDTHS = {
    "shape": len(SHAPES) + 1, "colour": len(COLOURS), "size": len(SIZES),
    "texture": len(TEXTURES), "count": len(COUNTS), "ground": len(BACKGROUNDS),
}  # fmt: skip
#: What is asked of a modification text, and how many answers there are.
ASKED = {"kind": 9, "value": 48, "shape": len(SHAPES) + 1, "colour": len(COLOURS) + 1}
_KINDS = (*(kind for kind in KINDS if kind != "object"), "add", "remove")
_VALUES = [
    *SHAPES, *COLOURS, *SIZES, *TEXTURES, *COUNTS, *POSITIONS, *BACKGROUNDS, "none"
]  # fmt: skip


def answers(kind: str, before: Array, after: Array, text: str) -> list[int]:
    """What ``text``, which leads from one truth to another, says: answers to :data:`ASKED`."""
    slots = list(_scenes.SLOTS)
    old, new = before[:-1].reshape(-1, len(slots)), after[:-1].reshape(-1, len(slots))
    value: Any = "none"
    if kind == "background":
        value = BACKGROUNDS[after[-1]]
    elif kind == "position":
        gone = int(np.flatnonzero((old[:, 0] >= 0) & (old != new).any(1))[0])
        value = POSITIONS[int(np.flatnonzero((new == old[gone]).all(1) & (old != new).any(1))[0])]
    elif kind in slots:
        place = int(np.flatnonzero((old != new).any(1))[0])
        value = _scenes.SLOTS[kind][new[place, slots.index(kind)]]
    words = set(text.replace(",", " ").split())
    shapes = [at for at, name in enumerate(SHAPES) if {name, _requests.plural(name)} & words]
    # Of a text with two shapes the first one of the scene is that of the thing that is meant.
    known = [at for at in shapes if at in old[:, 0]] or [len(SHAPES)]
    colours = [at for at, name in enumerate(COLOURS) if name in words and at in old[:, 1]]
    colours = colours or [len(COLOURS)]
    found = _VALUES.index(value) if kind != "count" else _VALUES.index(int(value))
    return [_KINDS.index(kind), found, known[0], colours[0]]


def thing(truth: Array, position: int) -> Thing:
    """The thing that ``truth`` has at a position."""
    values = truth[:-1].reshape(-1, len(_scenes.SLOTS))[position]
    told = {
        name: choices[at] for at, (name, choices) in zip(values, _scenes.SLOTS.items(), strict=True)
    }
    return Thing(**told, position=POSITIONS[position])
