"""Trains the autoencoder of small latent diffusion models on rendered scenes."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch

from datagen.bundled import _diffusers, _edits, _masters, _open_clip

Array = np.ndarray[Any, Any]

#: Side of the crops of the first steps, in pixels: they lie on things, where most is to learn.
_CROP = 32
_CROPPED = 0.65
#: Weight of pixels where a thing is.
_THING = 3.0


def _crops(
    pixels: Array, where: Array, rows: Array, side: int, dice: np.random.Generator
) -> tuple[Array, torch.Tensor]:
    """A crop of each picture around a part that shows a thing, or beside it; and the weights of
    its pixels (n, side, side)."""
    found = np.empty((len(rows), side, side, 3), np.uint8)
    weights = np.empty((len(rows), side, side), np.float32)
    step = _edits.SIDE // _edits.PARTS
    for at, row in enumerate(rows):
        parts = np.argwhere(where[row] >= 0)
        y, x = parts[dice.integers(len(parts))] * step - dice.integers(0, side - step, 2)
        y, x = np.clip([y, x], 0, _edits.SIDE - side)
        found[at] = pixels[row, y : y + side, x : x + side]
        there = (where[row] >= 0).repeat(step, 0).repeat(step, 1)
        weights[at] = np.where(there[y : y + side, x : x + side], _THING, 1.0)
    return found, torch.from_numpy(weights)


def tensors(pixels: Array, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """Pictures (n, h, w, 3) of bytes as (n, 3, h, w) in -1…1."""
    wide = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return (wide.to(torch.float32) / 127.5 - 1).to(kind)


def means(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """The latents of pictures, without noise."""
    found: torch.Tensor = vae.quant_conv(vae.encoder(pictures))[:, : _diffusers.CHANNELS]
    return found


def loss(vae: Any, pictures: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """How far pictures are from what comes back of their latents with some noise; the noise is as
    strong as the latents, so that these gain nothing by growing. weights: of pixels."""
    found = means(vae, pictures).float()
    deviation = found.std(dim=(0, 2, 3), keepdim=True)
    noisy = found + _diffusers.TOLERATED * deviation * torch.randn_like(found)
    made = vae.decoder(vae.post_quant_conv(noisy.to(pictures.dtype))).float()
    pictures = pictures.float()
    apart = (made - pictures) * (weights / weights.mean())[:, None]
    edges = sum(
        (apart.narrow(axis, 1, apart.shape[axis] - 1)
         - apart.narrow(axis, 0, apart.shape[axis] - 1)).abs().mean()
        for axis in (2, 3)
    )  # fmt: skip
    return apart.abs().mean() + 2 * (apart**2).mean() + 0.5 * edges


def train(vae: Any, examples: _edits.Examples, args: Any) -> float:
    """Train ``vae`` in place, from the last checkpoint where there is one; minutes in all."""
    path = os.path.join(args.work, "autoencoder.pt")
    vae.to(args.kind)
    masters = _masters.Masters(vae, ("conv_in", "conv_out"), muon=args.muon)
    first, seconds = 0, 0.0
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        masters.load_state_dict(saved["masters"])
        first, seconds = saved["step"], saved["seconds"]
    began = stamp = time.monotonic()
    for step in range(first, args.vae_steps):
        dice = np.random.default_rng([args.seed, 1, step])
        torch.manual_seed(step)
        cropped = step < _CROPPED * args.vae_steps
        rows = dice.integers(len(examples.pixels), size=args.vae_batch * (2 if cropped else 1))
        side = _CROP if cropped else _edits.SIDE
        taken, weights = _crops(examples.pixels, examples.cells, rows, side, dice)
        found = loss(vae, tensors(taken, args.kind), weights)
        found.backward()
        masters.step(_masters.rate(step, args.vae_steps, args.vae_rate))
        now = time.monotonic()
        if step % 25 == 0:
            print(f"vae {step:5d}  {(seconds + now - began) / 60:5.1f} min  {found.item():.4f}",
                  flush=True)  # fmt: skip
        if now - stamp > 90 or step + 1 == args.vae_steps:
            stamp = now
            state = {"masters": masters.state_dict(), "step": step + 1}
            _open_clip.checkpoint(path, {**state, "seconds": seconds + now - began})
    vae.to(torch.float32).load_state_dict(masters.averaged(), strict=False)
    return (seconds + time.monotonic() - began) / 60


def latents(vae: Any, pixels: Array, batch: int = 8) -> torch.Tensor:
    """The latents of pictures, float16 (n, channels, side, side)."""
    kind = next(vae.parameters()).dtype
    with torch.no_grad():
        parts = [
            means(vae, tensors(pixels[at : at + batch], kind)).half()
            for at in range(0, len(pixels), batch)
        ]
    return torch.cat(parts)


def settle(vae: Any, pixels: Array) -> None:
    """Bring the latents of ``vae`` (in float32) to mean 0 and deviation 1 in each channel."""
    found = latents(vae, pixels).float()
    _diffusers.settled(vae, found.mean(dim=(0, 2, 3)), found.std(dim=(0, 2, 3)))
