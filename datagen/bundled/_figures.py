"""Figures of a CLIP model on scenes and clips that it has never seen.

The model is loaded and fed as the steps of a recipe do it (:mod:`datagen.clip`), from its folder.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from datagen import clip, frames, models
from datagen.bundled import _scenes
from datagen.sources.tinyworld.captions import caption, styles
from datagen.sources.tinyworld.events import Clip, Shown, scene_of
from datagen.sources.tinyworld.family import Drawn, drawn
from datagen.sources.tinyworld.film import encode_clip, film
from datagen.sources.tinyworld.noise import Noise
from datagen.sources.tinyworld.render import picture
from datagen.sources.tinyworld.scene import Dice

Array = np.ndarray[Any, Any]

#: Seed of the worlds that are measured; no world of training has it.
SEED = 17
#: Right captions that a threshold keeps.
KEPT = 0.99
_WRONG = Noise(misname=0.75, contradict=0.25)
#: Frames of a clip, as the steps take them by default.
_FRAMES = 8


def distinct(seed: int, number: int, held: bool, **world: Any) -> list[Drawn]:
    """The first ``number`` scenes of a world that no two describe alike, in their order.

    held: only scenes that are held out from all training; world: as :func:`family.drawn`.
    """
    found: dict[object, Drawn] = {}
    for index in itertools.count():
        scene = drawn(seed, index, **world)
        if held and not _scenes.held_out(scene.shown):
            continue
        found.setdefault(_content(scene.shown), scene)
        if len(found) == number:
            break
    return list(found.values())


def _content(what: Shown) -> object:
    """What is shown, in whatever order the things are told."""
    scene = scene_of(what)
    things = frozenset(scene.objects), scene.background
    if not isinstance(what, Clip):
        return things
    return things, what.act, None if what.at is None else scene.objects[what.at]


class Seen:
    """Scenes of a world as a model sees them: vectors of their pictures or clips (n, d), their
    captions, and vectors of those."""

    def __init__(self, model: clip.Clip, seed: int, scenes: Sequence[Drawn], side: int) -> None:
        self.model, self.seed, self.scenes = model, seed, scenes
        counts, fitted = [], []
        for scene in scenes:
            pictures = _pictures(scene, seed, side)
            counts.append(len(pictures))
            fitted += [model.geometry.fit(one) for one in pictures]
        self.images = clip.pooled(model.images(np.stack(fitted)), counts)
        self.captions = [self.told(scene, Noise())[0] for scene in scenes]
        self.texts = model.texts(self.captions)

    def told(self, scene: Drawn, noise: Noise, turn: int = 0) -> tuple[str, dict[str, Any] | None]:
        """A caption of ``scene`` in its own words."""
        style = styles(self.seed, scene.root, 1, scene.clip is not None)[0]
        return caption(scene.shown, style, noise, Dice("figures", self.seed, scene.index, turn))

    def recall(self, at: int, by: str = "texts") -> float:
        """Share of captions (or of images) whose own image (caption) is among the ``at`` nearest;
        of equals, all others come first."""
        cosines = self.texts @ self.images.T
        cosines = cosines if by == "texts" else cosines.T
        nearer = (cosines >= np.diag(cosines)[:, None]).sum(axis=1) - 1
        return float((nearer < at).mean())

    def right(self) -> Array:
        """Cosine of each image and its caption."""
        return _cosines(self.images, self.texts)

    def others(self) -> Array:
        """Cosine of each image and the caption of the scene after it."""
        return _cosines(self.images, np.roll(self.texts, 1, axis=0))

    def wrong(self, turns: int) -> dict[str, tuple[Array, Array]]:
        """``turns`` captions of each scene with one mistake: by what is wrong, the cosines of the
        right captions and of the wrong ones."""
        rows, texts, names = [], [], []
        for at, scene in enumerate(self.scenes):
            for turn in range(turns):
                text, note = self.told(scene, _WRONG, turn)
                assert note is not None
                rows.append(at)
                texts.append(text)
                names.append(_name(note))
        return self._compared(rows, texts, names)

    def beside(self) -> tuple[Array, Array]:
        """Of scenes that change one attribute of another scene here: the cosines of their images
        with their own caption, and with the caption of that other scene."""
        places = {scene.index: at for at, scene in enumerate(self.scenes)}
        rows = [at for at, scene in enumerate(self.scenes) if scene.base in places]
        bases = [places[self.scenes[at].base] for at in rows]  # type: ignore[index]
        return self.right()[rows], _cosines(self.images[rows], self.texts[bases])

    def _compared(
        self, rows: list[int], texts: list[str], names: list[str]
    ) -> dict[str, tuple[Array, Array]]:
        cosines = _cosines(self.images[rows], self.model.texts(texts))
        own = self.right()[rows]
        places = defaultdict(list)
        for at, name in enumerate(names):
            places[name].append(at)
        return {name: (own[at], cosines[at]) for name, at in sorted(places.items())}


def _cosines(images: Array, texts: Array) -> Array:
    found: Array = np.einsum("nd,nd->n", images, texts)
    return found


def _name(note: dict[str, Any]) -> str:
    if note["kind"] == "misname":
        return str(note["attribute"])
    names = {"object": "a thing too many", "colour": "colours swapped", "event": "event backwards"}
    return names.get(note["attribute"], str(note["attribute"]))


def _pictures(scene: Drawn, seed: int, side: int) -> list[Image.Image]:
    if scene.clip is None:
        return [picture(scene, seed, side)]
    data = encode_clip(film(scene, seed, side), 8)
    return [frame.image for frame in frames.sample(data, _FRAMES)]


def telling(pairs: Iterable[tuple[Array, Array]]) -> float:
    """Share of pairs in which the right caption is nearer than the wrong one; a tie is none."""
    both = list(pairs)
    right = np.concatenate([own for own, _ in both])
    wrong = np.concatenate([cosines for _, cosines in both])
    return float((right > wrong).mean())


def measure(reference: str, number: int = 1000, clips: int = 400, side: int = 96) -> dict[str, Any]:
    """The figures of the model ``reference`` names.

    number, clips: scenes and clips that are compared with each other; side: of pictures, pixels.
    """
    model = clip.load(models.parse(reference), device="cpu", precision="fp32")
    world = {"neighbours": 0.6, "max_objects": 3}
    unseen = Seen(model, SEED, distinct(SEED, number, held=True, **world), side)
    plain = Seen(model, SEED + 1, distinct(SEED + 1, number, held=False, **world), side)
    wrong = unseen.wrong(4)
    threshold = float(np.quantile(unseen.right(), 1 - KEPT))
    found = {
        "unseen": _retrieval(unseen),
        "world": _retrieval(plain),
        "telling": {
            "all": telling(wrong.values()),
            "neighbours": telling([plain.beside()]),
            **{name: telling([pair]) for name, pair in wrong.items()},
        },
        "cosines": {
            "right": _spread(unseen.right()),
            "one mistake": _spread(np.concatenate([cosines for _, cosines in wrong.values()])),
            "neighbour": _spread(plain.beside()[1]),
            "other scene": _spread(unseen.others()),
        },
        "threshold": {
            "value": threshold,
            "kept right": float((plain.right() >= threshold).mean()),
            "rejected one mistake": _rejected(
                np.concatenate([cosines for _, cosines in wrong.values()]), threshold
            ),
            "rejected neighbour": _rejected(plain.beside()[1], threshold),
            "rejected other scene": _rejected(unseen.others(), threshold),
        },
    }
    if clips:
        chosen = distinct(SEED, clips, held=True, clips=1.0, **world)
        moving = Seen(model, SEED, chosen, side)
        wrong = moving.wrong(4)
        found["clips"] = {
            **_retrieval(moving),
            "telling": {name: telling([pair]) for name, pair in wrong.items()},
            "kept right": float((moving.right() >= threshold).mean()),
        }
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def _retrieval(seen: Seen) -> dict[str, Any]:
    return {
        "scenes": len(seen.scenes),
        "text to image R@1": seen.recall(1),
        "text to image R@10": seen.recall(10),
        "image to text R@1": seen.recall(1, "images"),
        "image to text R@10": seen.recall(10, "images"),
    }


def _spread(cosines: Array) -> dict[str, float]:
    return {f"{p} %": float(np.percentile(cosines, p)) for p in (1, 5, 50, 95, 99)}


def _rejected(cosines: Array, threshold: float) -> float:
    return float((cosines < threshold).mean())


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value
