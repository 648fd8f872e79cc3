"""What tests of recipes that paint share: small models, a server that knows the world, checks."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import recipe_headers
import tiny_diffusers
import tiny_models
import truth_server
from PIL import Image
from truth_server import Known, Question, Truth, World

import datagen
from datagen import models
from datagen.result import Run
from datagen.sources.tinyworld.oracle import difference

#: One thing in each picture, most of them one change away from an earlier one.
SCENES = {"type": "tinyworld", "count": 8, "size": 64, "neighbours": 0.9, "max_objects": 1}
ALONE = "Without a GPU and a model hub"
SERVER = "A server in place of the language model"
SIDES = ("references", "targets")


@dataclass
class Place:
    """A rendered world as files in a folder, captions beside them, and random models."""

    folder: Path
    world: World
    truth: Truth
    url: str
    _models: dict[str, str] = field(default_factory=dict)

    @property
    def captions(self) -> list[str]:
        """The overrides that name the captions alone."""
        return [f"source.path={self.folder / 'items.jsonl'}", "source.captions=caption"]

    @property
    def pictures(self) -> list[str]:
        """The overrides that name the pictures, with their captions and labels."""
        return [
            f"source.path={self.folder / 'media'}",
            f"source.annotations={self.folder / 'items.jsonl'}",
            "source.media=file",
            "source.captions=caption",
        ]

    def model(self, kind: str) -> str:
        """A tiny random model, made once: ``tiny_`` and so on of tiny_diffusers or tiny_models."""
        if kind not in self._models:
            of = tiny_diffusers if hasattr(tiny_diffusers, f"tiny_{kind}") else tiny_models
            make: Callable[[Path], str] = getattr(of, f"tiny_{kind}")
            self._models[kind] = make(self.folder / "models" / kind)
        return self._models[kind]

    def told(self, name: str, *more: str) -> list[str]:
        """The overrides by which the head of a recipe has it run without a GPU and a model hub.

        Models that do not come along are random ones.
        """
        head = recipe_headers.header(name)
        lines = recipe_headers.overrides(name, SERVER) if SERVER in head else []
        lines += recipe_headers.overrides(name, ALONE) if ALONE in head else []
        cache = self.folder / "answers" / name
        known = {"http://localhost:8000/v1": self.url, "model: NAME": f"model: t, cache: '{cache}'"}
        if "tinypainter" not in models.bundled():
            known["bundled:tinypainter"] = self.model("stable_diffusion")
        for old, new in known.items():
            lines = [one.replace(old, new) for one in lines]
        return [*lines, *more]

    def item(self, member: Mapping[str, Any]) -> Known:
        """What a member that comes from a file shows."""
        return self.world.items[int(Path(member["key"]).stem)]


@contextmanager
def placed(folder: Path) -> Iterator[Place]:
    """A world in ``folder``, and a server that edits its captions."""
    world = World(SCENES, 5, folder / "world")
    (folder / "media").mkdir()
    lines = []
    for number, item in enumerate(world.items):
        name = f"{number:03}.png"
        (folder / "media" / name).write_bytes(item.data)
        labels = json.loads(item.record["labels"])
        (thing,) = labels["objects"]
        names = (thing[part] for part in ("shape", "colour", "texture"))
        boxes = [{"label": name, "box": box_of(item)} for name in names]
        told = {"file": name, "caption": item.captions[0], "boxes": boxes}
        lines.append(json.dumps({**labels, **told}))
    (folder / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    truth = Truth(world)
    old = truth_server.ANSWERS["edits"]
    truth_server.ANSWERS["edits"] = edits
    try:
        with truth_server.knowing(truth, models=("t",)) as server:
            yield Place(folder, world, truth, server.url)
    finally:
        truth_server.ANSWERS["edits"] = old
    assert not truth.lost, truth.lost


def box_of(item: Known) -> list[int]:
    """Left, top, right and bottom of all that is not background."""
    pixels = np.asarray(item.frames(1)[0], np.int32)
    shown = np.abs(pixels - pixels[0, 0]).max(axis=2) > 60
    down, across = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    return [int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1]


def near(world: World, item: Known) -> Known:
    """Another item, one change away where there is one."""
    others = [one for one in world.items if one is not item]
    return min(others, key=lambda one: len(difference(item.shown, one.shown)))


def edits(truth: Truth, asked: Question) -> dict[str, Any]:
    """An edit of a caption, or of a scene with the topic, that leads to another item."""
    items = truth.world.items
    if topics := asked.labelled("topic"):
        item = next(one for one in items if topics[0] in one.captions[0])
    else:
        item = truth.world.of_caption[asked.labelled("caption")[0]]
    other = near(truth.world, item)
    text = truth_server.request(item.shown, other.shown) or "something else"
    edit = {"modification": text, "caption": other.captions[0]}
    return {"edits": [{**edit, "reference": item.captions[0]} if topics else edit]}


def finished(name: str, out: Path, told: Sequence[str], failed: Sequence[str] = ()) -> Run:
    """Run a recipe; every row has a verdict, and shards hold every triplet's own bytes."""
    datagen.run(name, str(out), told, report=False)
    made = datagen.load(str(out))
    assert made.status == "finished"
    for step in made.funnel:
        lost = sum(step["rejected"].values()) + sum(step["failed"].values())
        assert step["rows_in"] == step["kept"] + lost, step
        assert set(step["failed"]) <= set(failed), step
    triplets = {row["id"]: row for row in made.triplets().to_pylist()}
    assert triplets
    seen = set()
    for sample in made.samples(decode=False):
        row = triplets[sample["key"]]
        seen.add(sample["key"])
        assert sample["modification"] == row["modification"]
        for side in SIDES:
            hashes = [hashlib.sha256(data).hexdigest() for data in sample[side]]
            assert hashes == [one["media"]["sha256"] for one in row[side] if one["media"]]
            for data in sample[side]:
                Image.open(io.BytesIO(data)).load()
    assert seen == triplets.keys()
    return made


def line_of(row: Mapping[str, Any], step: str) -> dict[str, Any]:
    """What the provenance of a triplet says of a step."""
    (line,) = (line for line in row["provenance"] if line["step"] == step)
    return dict(line)
