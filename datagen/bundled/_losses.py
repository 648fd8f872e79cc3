"""The losses that train small CLIP models on scenes, and the heads that are thrown away after."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from datagen.bundled import _open_clip, _scenes
from datagen.sources.tinyworld.scene import BACKGROUNDS, CENTRES, POSITIONS

#: Of the losses.
WEIGHTS = {"clip": 1.0, "pair": 0.5, "read": 1.0, "look": 0.3}


class Batch(NamedTuple):
    """n examples, of which m come with another caption.

    pixels: float (frames, 3, side, side); owner: the example of each frame; tokens: (n + m,
    length), right captions and then the others; others: (m), the example of each of these;
    partial: bool (m), whether it is incomplete rather than wrong; images: bool (n), whether the
    example is no clip; truth: (n, 46).
    """

    pixels: torch.Tensor
    owner: torch.Tensor
    tokens: torch.Tensor
    others: torch.Tensor
    partial: torch.Tensor
    images: torch.Tensor
    truth: torch.Tensor


class Aside(nn.Module):  # type: ignore[misc]
    """What is needed in training only: heads that read scenes, scale and bias of pairs.

    ``whole`` reads a scene from the vector of an image or caption, ``parts`` each place of it from
    the patches that lie there.
    """

    def __init__(self, width: int, patches: int, side: int) -> None:
        super().__init__()
        slots = sum(len(values) for values in _scenes.SLOTS.values()) + 1
        out = len(POSITIONS) * slots + len(BACKGROUNDS)
        self.whole = nn.Sequential(nn.Linear(width, 512), nn.GELU(), nn.Linear(512, out))
        self.part = nn.Sequential(nn.Linear(patches, 256), nn.GELU(), nn.Linear(256, slots))
        self.ground = nn.Linear(patches, len(BACKGROUNDS))
        # The logarithm of the scale of cosines, and the one in the middle of right and wrong.
        self.pairs = nn.Parameter(torch.tensor([math.log(20.0), 0.5]))
        centres = (torch.arange(side) + 0.5) / side
        grid = torch.stack([centres.repeat(side), centres.repeat_interleave(side)])
        there = torch.tensor([CENTRES[name] for name in POSITIONS])
        distances = ((there[:, :, None] - grid) ** 2).sum(1)
        self.where = nn.Parameter(-distances / (2 * 0.15**2))

    def read(self, vectors: torch.Tensor) -> torch.Tensor:
        """What stands where, from unit vectors (n, width); for :func:`read_loss`."""
        # Numbers of about 1: a head learns little from the small ones of a unit vector.
        found: torch.Tensor = self.whole(vectors * vectors.shape[1] ** 0.5)
        return found

    @contextlib.contextmanager
    def watching(self, tower: nn.Module) -> Iterator[list[torch.Tensor]]:
        """Catches the patches that the image ``tower`` makes of a batch."""
        caught: list[torch.Tensor] = []
        hook = tower.transformer.register_forward_hook(
            lambda _, __, tokens: caught.append(tokens[:, 1:])
        )
        try:
            yield caught
        finally:
            hook.remove()

    def look(self, tokens: torch.Tensor) -> torch.Tensor:
        """The same from the patches (n, patches, width) of images."""
        cells = self.part(self.where.softmax(1) @ tokens.float())
        return torch.cat([cells.flatten(1), self.ground(tokens.float().mean(1))], 1)


def read_loss(values: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """How badly a head's ``values`` (n, out) tell what stands where (n, 46); mean cross entropy."""
    cells, ground = truth[:, :-1].reshape(len(truth), len(POSITIONS), -1), truth[:, -1]
    logits, ground_logits = values.split([values.shape[1] - len(BACKGROUNDS), len(BACKGROUNDS)], 1)
    logits = logits.reshape(len(truth), len(POSITIONS), -1)
    widths = [len(kind) for kind in _scenes.SLOTS.values()]
    widths[0] += 1
    total = functional.cross_entropy(ground_logits, ground)
    for at, part in enumerate(logits.split(widths, dim=2)):
        wanted = cells[:, :, at]
        if at == 0:
            # A shape more: none.
            wanted = torch.where(wanted < 0, widths[0] - 1, wanted)
        there = functional.cross_entropy(
            part.flatten(0, 1), wanted.flatten(), ignore_index=_scenes.NOTHING
        )
        # Most places are empty.
        total = total + there * (3 if at == 0 else 1)
    return total


def losses(model: Any, aside: Any, batch: Batch) -> dict[str, torch.Tensor]:
    """``clip``, ``pair``, ``read`` and ``look``, each a mean, and ``right``, the share of images
    that are nearer to their own caption than to any other of the batch."""
    n = len(batch.images)
    with aside.watching(model.visual) as patches:
        frames = functional.normalize(model.encode_image(batch.pixels).float(), dim=-1)
    sums = torch.zeros(n, frames.shape[1], device=frames.device).index_add(0, batch.owner, frames)
    images = functional.normalize(sums, dim=-1)
    texts = functional.normalize(_open_clip.encode_text(model, batch.tokens).float(), dim=-1)
    cosines = images @ texts.T
    # An incomplete caption is right for its image and perhaps for others.
    hidden = functional.pad(batch.partial, (n, 0))
    scores = (cosines * model.logit_scale.exp()).masked_fill(hidden, -1e4)
    own = torch.arange(n, device=scores.device)
    clip = functional.cross_entropy(scores, own) + functional.cross_entropy(scores[:, :n].T, own)
    # Images with their captions, with those told otherwise, and with those of the scene beside.
    plain = batch.images & batch.images.roll(-1)
    second = torch.arange(n, texts.shape[0], device=own.device)
    pairs = [cosines[own, own], cosines[batch.others, second], cosines[own, own.roll(-1)][plain]]
    labels = [torch.ones_like(pairs[0]), batch.partial.float(), torch.zeros_like(pairs[2])]
    scale, middle = aside.pairs
    pair = functional.binary_cross_entropy_with_logits(
        (torch.cat(pairs) - middle) * scale.exp(), torch.cat(labels)
    )
    both = torch.cat([images[batch.images], texts[:n][batch.images]])
    truth = batch.truth[batch.images]
    read = read_loss(aside.read(both).float(), truth.repeat(2, 1))
    look = read_loss(aside.look(patches[0][batch.images[batch.owner]]).float(), truth)
    right = (scores.argmax(dim=1) == own).float().mean()
    return {"clip": clip / 2, "pair": pair, "read": read, "look": look, "right": right}
