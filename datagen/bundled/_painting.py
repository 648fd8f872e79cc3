"""Figures of models that edit and paint pictures, on scenes that they have never seen.

Models are loaded as folders of diffusers, and the world's oracle reads what they made from its
pixels. A picture is right where everything in it is as it should be, also what should not change.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from datagen import clip, models
from datagen.bundled import _edits, _requests, _scenes
from datagen.sources.tinyworld import oracle
from datagen.sources.tinyworld.captions import caption, styles
from datagen.sources.tinyworld.noise import Noise
from datagen.sources.tinyworld.pixels import read_scene
from datagen.sources.tinyworld.render import render
from datagen.sources.tinyworld.scene import ATTRIBUTES, Dice, Scene

Array = np.ndarray[Any, Any]

#: Seed of what is measured; no training has it.
SEED = 17
#: How the models are used: steps of DDIM, and how far the text is followed.
STEPS = 12
GUIDANCE = {"tinyeditor": 1.0, "tinypainter": 1.0}
#: Samples of which the best one is chosen.
SAMPLES = 8
#: Kinds of edits that are measured.
KINDS = (*(kind for kind in _edits.KINDS if kind != "object"), "add", "remove")
_CHOOSER = "bundled:tinyclip"
_BATCH = 64


@dataclass(frozen=True)
class Edit:
    """A scene, a text, the scene that it asks for, of which kind that is, and a caption of it."""

    before: Scene
    after: Scene
    kind: str
    text: str
    caption: str

    def picture(self, scene: Scene) -> Image.Image:
        """One of the two scenes, in the same light."""
        return _picture(scene, self.text)

    def right(self, image: Image.Image) -> bool:
        """Whether ``image`` is what the text makes of the scene."""
        seen = read_scene(image)
        wanted = oracle.outcomes(self.text, self.before, clip=False)
        return any(oracle.reached(one, seen) for one in wanted)

    def kept(self, image: Image.Image) -> bool:
        """Whether all is there that the text does not speak of."""
        asked = {(one.attribute, one.at) for one in oracle.difference(self.before, self.after)}
        seen = read_scene(image)
        spare = {"object"} if self.kind in ("add", "remove") else set()
        return all(
            (one.attribute, one.at) in asked or one.attribute in spare
            for one in oracle.difference(self.before, seen)
        )


def _picture(scene: Scene, key: str) -> Image.Image:
    return render(scene, _edits.SIDE, f"figures/{key}", f"figures/{key}")


def told(scene: Scene, dice: Dice) -> str:
    """A caption of ``scene``."""
    style = styles(SEED, int(dice.uniform() * 2**40), 1)[0]
    return caption(scene, style, Noise(), dice)[0]


def edits(kind: str, number: int, seed: int = SEED) -> list[Edit]:
    """Edits of ``kind`` of :data:`KINDS`; one of the two scenes of each is held out."""
    found: list[Edit] = []
    for at in itertools.count():
        dice = Dice("edits", seed, kind, at)
        scene = _edits.invented(dice)
        name = "object" if kind in ("add", "remove") else kind
        other = _edits.changed(scene, name, dice)
        if other is None or not (_scenes.held_out(scene) or _scenes.held_out(other)):
            continue
        less = len(scene.objects) < len(other.objects)
        if name == "object" and less != (kind == "add"):
            scene, other = other, scene
        texts = _requests.requests(scene, other, 1, dice)
        if len(oracle.difference(scene, other)) == 1 and texts:
            found.append(Edit(scene, other, kind, texts[0], told(other, dice)))
        if len(found) == number:
            return found
    raise AssertionError


def scenes(number: int, seed: int = SEED) -> list[tuple[Scene, str]]:
    """Scenes that are held out, with a caption of each."""
    found: list[tuple[Scene, str]] = []
    for at in itertools.count():
        dice = Dice("paintings", seed, at)
        scene = _edits.invented(dice)
        if _scenes.held_out(scene):
            found.append((scene, told(scene, dice)))
        if len(found) == number:
            return found
    raise AssertionError


# ---------------------------------------------------------------- use


def load(reference: str) -> Any:
    """The pipeline that ``reference`` names, in float32 on the CPU."""
    models.prepare()
    import diffusers
    import torch

    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        models.parse(reference).folder, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(
    pipeline: Any, texts: Sequence[str], references: Sequence[Image.Image] | None, samples: int,
    guidance: float, steps: int = STEPS,
) -> list[list[Image.Image]]:  # fmt: skip
    """``samples`` pictures of each text; references: what is edited, None to paint."""
    import torch

    found: list[list[Image.Image]] = []
    size = max(1, _BATCH // samples)
    for at in range(0, len(texts), size):
        # Each sample with a picture of its own: of num_images_per_prompt, pipelines that edit
        # put the samples of several texts beside the wrong pictures.
        rows = [row for row in range(at, min(at + size, len(texts))) for _ in range(samples)]
        more: dict[str, Any] = {}
        if references is not None:
            more = {"image": [references[row] for row in rows], "image_guidance_scale": 1.0}
        images = pipeline(
            prompt=[texts[row] for row in rows], num_inference_steps=steps,
            guidance_scale=guidance, generator=torch.Generator().manual_seed(at), **more,
        ).images  # fmt: skip
        found += [images[row : row + samples] for row in range(0, len(rows), samples)]
    return found


def best(made_: Sequence[Sequence[Image.Image]], captions: Sequence[str]) -> list[int]:
    """Of the samples of each caption, the one that is nearest to it."""
    chooser = clip.load(models.parse(_CHOOSER), device="cpu", precision="fp32")
    flat = [chooser.geometry.fit(image) for images in made_ for image in images]
    vectors = chooser.images(np.stack(flat)).reshape(len(made_), len(made_[0]), -1)
    texts = chooser.texts(list(captions))
    return [int(row) for row in np.einsum("nsd,nd->ns", vectors, texts).argmax(axis=1)]


def measure_editor(reference: str, number: int, samples: int = SAMPLES) -> dict[str, Any]:
    """Figures of an editor: of one sample, and of the best of ``samples``; ``number`` edits of
    each kind."""
    pipeline = load(reference)
    found: dict[str, Any] = {}
    for kind in KINDS:
        asked = edits(kind, number)
        before = [one.picture(one.before) for one in asked]
        pictures = made(
            pipeline, [one.text for one in asked], before, samples, GUIDANCE["tinyeditor"]
        )
        chosen = best(pictures, [one.caption for one in asked])
        firsts = [images[0] for images in pictures]
        bests = [images[at] for images, at in zip(pictures, chosen, strict=True)]
        found[kind] = {
            "edits": len(asked),
            "right": _share(one.right(image) for one, image in zip(asked, firsts, strict=True)),
            "kept": _share(one.kept(image) for one, image in zip(asked, firsts, strict=True)),
            "best right": _share(one.right(i) for one, i in zip(asked, bests, strict=True)),
            "best kept": _share(one.kept(i) for one, i in zip(asked, bests, strict=True)),
            "readable": _share(one.right(one.picture(one.after)) for one in asked),
        }
    kinds = list(found.values())
    shares = {name: _share(one[name] for one in kinds) for name in kinds[0] if name != "edits"}
    found["all"] = {"edits": sum(one["edits"] for one in kinds), **shares}
    return _rounded(found)


def measure_painter(reference: str, number: int, samples: int = SAMPLES) -> dict[str, Any]:
    """Figures of a painter on ``number`` captions, by what is asked of a picture; ``all``: that
    nothing is wrong."""
    asked = scenes(number)
    captions = [text for _, text in asked]
    pictures = made(load(reference), captions, None, samples, GUIDANCE["tinypainter"])
    chosen = best(pictures, captions)
    truths = [scene for scene, _ in asked]
    true = [_picture(scene, text) for scene, text in asked]
    return _rounded({
        "paintings": number,
        "one": _agreed(truths, [images[0] for images in pictures]),
        "best": _agreed(truths, [i[at] for i, at in zip(pictures, chosen, strict=True)]),
        "readable": _agreed(truths, true),
    })  # fmt: skip


def _agreed(truths: Sequence[Scene], images: Sequence[Image.Image]) -> dict[str, float]:
    found: dict[str, list[bool]] = defaultdict(list)
    for scene, image in zip(truths, images, strict=True):
        agrees = oracle.read_pixels(image, scene)["agrees"]
        for name in ("background", "objects", *ATTRIBUTES):
            found[name].append(agrees[name])
        found["all"].append(all(agrees.values()))
    return {name: _share(values) for name, values in found.items()}


def _share(values: Iterable[float]) -> float:
    return float(np.mean([float(one) for one in values]))


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    def one(value: Any) -> Any:
        return round(value, 4) if isinstance(value, float) else value

    return {
        key: _rounded(value) if isinstance(value, dict) else one(value)
        for key, value in found.items()
    }
