"""Trains ``bundled:tinyclip``, a CLIP of the rendered world, from random weights.

``python -m datagen.bundled.train_tinyclip --out FOLDER``

The contrastive loss of CLIP (Radford et al. 2021, arXiv:2103.00020) on batches of whole families:
scenes that differ in one attribute stand beside each other, and each image also meets its own
caption with one attribute changed (NegCLIP, Yuksekgonul et al. 2023, arXiv:2210.01936). What is
thrown away after training: a sigmoid loss on single pairs (SigLIP, arXiv:2303.15343), which gives
cosines one scale for all images, and heads that read what stands where, from the vector of an
image or a caption and from the patches of an image.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datagen import models
from datagen.bundled import _card, _figures, _losses, _open_clip, _scenes
from datagen.bundled._losses import Batch
from datagen.preprocess import Geometry

Array = np.ndarray[Any, Any]

SIDE = 64
CONTEXT = 72
#: Frames of a clip in a batch.
FRAMES = 2
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 192,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": 4,
            "width": 128,
            "head_width": 32,
            "patch_size": 8,
            "attentional_pool": True,
            "attn_pooler_queries": 1,
            "attn_pooler_heads": 12,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 0,
            "hf_tokenizer_name": "tokenizer",
            "width": 128,
            "heads": 8,
            "layers": 3,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
GEOMETRY = Geometry(SIDE, SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
#: Share of texts that get a word which the model does not know.
_UNKNOWN_SHARE = 0.1


class Feed:
    """Batches of ``size`` whole families; the same for the same seed and step."""

    def __init__(
        self, examples: _scenes.Examples, tokenizer: Any, seed: int, size: int, device: str
    ) -> None:
        self.examples = examples
        self.seed, self.size, self.device = seed, size, device
        self.tokenizer = tokenizer
        self.unknown = int(tokenizer.convert_tokens_to_ids(_open_clip.UNKNOWN))
        starts = np.flatnonzero(np.diff(examples.family, prepend=-1))
        self.families = np.split(np.arange(len(examples.family)), starts[1:])

    def _tokens(self, texts: list[str]) -> Array:
        """int64 (n, CONTEXT)."""
        found = self.tokenizer(
            texts, max_length=CONTEXT, padding="max_length", truncation=True
        ).input_ids
        return np.asarray(found, np.int64)

    def batch(self, step: int) -> Batch:
        """Batch number ``step``."""
        epoch, at = divmod(step, max(1, len(self.families) // self.size))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.families))
        chosen = [self.families[n] for n in order[at * self.size : (at + 1) * self.size]]
        dice = np.random.default_rng([self.seed, epoch, at])
        rows = np.concatenate(chosen)
        # One phrasing for a family: its captions differ in nothing but what they tell.
        data = self.examples
        phrasings = len(data.right[0])
        phrasing = np.concatenate([np.full(len(one), dice.integers(phrasings)) for one in chosen])
        kept = [dice.permutation(number)[:FRAMES] for number in data.number[rows]]
        frames = np.concatenate([data.start[row] + at for row, at in zip(rows, kept, strict=True)])
        owner = np.repeat(np.arange(len(rows)), [len(one) for one in kept])
        others = np.sort(dice.permutation(len(rows))[: len(rows) // 2])
        texts = [data.right[row][at] for row, at in zip(rows, phrasing, strict=True)]
        texts += [data.other[rows[at]][phrasing[at]] for at in others]
        tokens = self._tokens(texts)
        self._interrupt(tokens, dice)
        found = (
            data.pixels[frames].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1,
            owner,
            tokens,
            others,
            data.partial[rows[others], phrasing[others]],
            data.number[rows] == 1,
            data.truth[rows].astype(np.int64),
        )
        return Batch(*(torch.from_numpy(one).to(self.device) for one in found))

    def _interrupt(self, tokens: Array, dice: np.random.Generator) -> None:
        """Put an unknown word somewhere into some texts."""
        for row in np.flatnonzero(dice.random(len(tokens)) < _UNKNOWN_SHARE):
            end = int(tokens[row].argmax())
            if end + 1 < CONTEXT:
                at = int(dice.integers(1, end + 1))
                tokens[row, at + 1 :] = tokens[row, at:-1].copy()
                tokens[row, at] = self.unknown


# ---------------------------------------------------------------- training


def rate(step: int, steps: int, fall: int, peak: float) -> float:
    """The learning rate: it rises for 60 steps, and falls in the last ``fall`` of them."""
    return peak * min(1.0, (step + 1) / 60, (steps - step) / fall)


def build(words: list[str]) -> tuple[Any, dict[str, Any], Any]:
    """A model with random weights, its configuration, and its tokenizer."""
    models.prepare()
    import open_clip

    tokenizer = _open_clip.word_tokenizer(words, CONTEXT)
    text = {**CONFIG["model_cfg"]["text_cfg"], "vocab_size": len(tokenizer)}
    config = {**CONFIG, "model_cfg": {**CONFIG["model_cfg"], "text_cfg": text}}
    model = open_clip.CLIP(**config["model_cfg"])
    _place(model.visual.positional_embedding, config["model_cfg"]["vision_cfg"])
    return model, config, tokenizer


def _place(positions: Any, vision: dict[str, Any]) -> None:
    """Let the places of patches begin as waves over rows and columns, as loud as the patches."""
    side = vision["image_size"] // vision["patch_size"]
    waves = positions.shape[1] // 4
    lengths = side * 2 ** torch.linspace(-2, 1, waves)
    angles = 2 * math.pi * torch.arange(side)[:, None] / lengths
    one = torch.cat([angles.sin(), angles.cos()], 1)
    both = [one.repeat_interleave(side, 0), one.repeat(side, 1)]
    with torch.no_grad():
        positions[1:] = 0.3 * torch.cat(both, 1)


def optimizer(model: Any, aside: Any) -> torch.optim.Optimizer:
    """AdamW; weight decay for matrices only."""
    parameters = [*model.parameters(), *aside.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


@contextlib.contextmanager
def computing(device: str, precision: str) -> Iterator[None]:
    """The precision of a forward pass, and how attention is computed."""
    kind = device.split(":")[0]
    # The flash attention that torch has for CPUs takes half of a step on its way back.
    ways = [SDPBackend.MATH, *([] if kind == "cpu" else [SDPBackend.FLASH_ATTENTION])]
    with torch.autocast(kind, torch.bfloat16, precision == "bf16"), sdpa_kernel(ways):
        yield


def train(model: Any, feed: Feed, args: argparse.Namespace) -> float:
    """Train ``model`` in place, from the last checkpoint where there is one; minutes in all."""
    vision = CONFIG["model_cfg"]["vision_cfg"]
    side = vision["image_size"] // vision["patch_size"]
    aside = _losses.Aside(CONFIG["model_cfg"]["embed_dim"], vision["width"], side).to(args.device)
    model.to(args.device).train()
    optimizer_ = optimizer(model, aside)
    path = os.path.join(args.work, "checkpoint.pt")
    parts = {"model": model, "aside": aside, "optimizer": optimizer_}
    first, seconds = 0, 0.0
    if os.path.exists(path):
        saved = torch.load(path, map_location=args.device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first, seconds = saved["step"], saved["seconds"]
        print(f"goes on from step {first}", flush=True)
    began = stamp = time.monotonic()
    for step in range(first, args.steps):
        for group in optimizer_.param_groups:
            group["lr"] = rate(step, args.steps, args.fall, args.rate)
        with computing(args.device, args.precision):
            found = _losses.losses(model, aside, feed.batch(step))
        loss = sum(weight * found[name] for name, weight in _losses.WEIGHTS.items())
        optimizer_.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *aside.parameters()], 1.0)
        optimizer_.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        now = time.monotonic()
        if step % 10 == 0:
            told = "  ".join(f"{name} {float(value.detach()):.3f}" for name, value in found.items())
            print(f"{step:5d}  {(seconds + now - began) / 60:5.1f} min  {told}", flush=True)
        if now - stamp > 120 or step + 1 == args.steps:
            stamp = now
            states = {name: part.state_dict() for name, part in parts.items()}
            extra = {"step": step + 1, "seconds": seconds + now - began}
            _open_clip.checkpoint(path, {**states, **extra})
    return (seconds + time.monotonic() - began) / 60


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datagen.bundled.train_tinyclip", description="Train bundled:tinyclip."
    )
    parser.add_argument("--out", required=True, help="folder that the model is written to")
    parser.add_argument("--work", help="folder of scenes and checkpoints; OUT.work by default")
    parser.add_argument("--seed", type=int, default=0, help="of the world and the weights")
    parser.add_argument("--scenes", type=int, default=80_000, help="scenes drawn")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--families", type=int, default=8, help="of 14 scenes or so, in a batch")
    parser.add_argument("--fall", type=int, help="steps of a falling rate; a third by default")
    parser.add_argument("--rate", type=float, default=1e-3, help="the highest learning rate")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--processes", type=int, default=2, help="that render")
    parser.add_argument("--measured", type=int, default=1000, help="scenes that are measured")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as it likes")
    args = parser.parse_args(given)
    args.fall = args.fall or max(1, args.steps // 3)
    args.device = models.device(args.device)
    args.work = args.work or f"{args.out.rstrip('/')}.work"
    return args


def main(given: list[str] | None = None) -> None:
    """Render, train, write the folder, measure, write the card."""
    args = arguments(given)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    world = _scenes.World(args.seed, args.scenes)
    os.makedirs(args.work, exist_ok=True)
    examples = _scenes.render(world, GEOMETRY, os.path.join(args.work, "scenes"), args.processes)
    model, config, tokenizer = build(_scenes.vocabulary())
    feed = Feed(examples, tokenizer, args.seed, args.families, args.device)
    print(f"{len(examples.right)} scenes, {len(examples.pixels)} frames", flush=True)
    minutes = train(model, feed, args)
    _open_clip.save(args.out, model.eval(), config, tokenizer)
    hardware = f"CPU ({platform.machine()}), threads of torch: {torch.get_num_threads()}"
    if args.device != "cpu":
        hardware = args.device
    _card.write(
        args.out,
        "tinyclip.md.j2",
        {
            "seed": args.seed,
            "command": f"python -m datagen.bundled.train_tinyclip --seed {args.seed} "
            f"--scenes {args.scenes} --steps {args.steps} --families {args.families} "
            f"--fall {args.fall} --rate {args.rate:g} --precision {args.precision} --out tinyclip",
            "hardware": hardware,
            "minutes": round(minutes, 1),
            "scenes": len(examples.right),
            "clips": int((examples.number > 1).sum()),
            "steps": args.steps,
            "batch": round(len(examples.right) * args.families / len(feed.families)),
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        _figures.measure(
            f"file:{os.path.abspath(args.out)}", args.measured, args.measured * 2 // 5
        ),
    )


if __name__ == "__main__":
    main()
