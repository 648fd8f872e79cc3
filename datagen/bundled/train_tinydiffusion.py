"""Trains ``bundled:tinyeditor`` and ``bundled:tinypainter``, which edit and paint scenes of the
rendered world, from random weights.

``python -m datagen.bundled.train_tinydiffusion --out FOLDER``

Latent diffusion (Rombach et al. 2022, arXiv:2112.10752) in the parts of diffusers: an autoencoder,
a text encoder, and one denoiser for both tasks. ``FOLDER`` gets a folder for each model.
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import Any

import numpy as np
import torch

from datagen import models
from datagen.bundled import _autoencoder, _card, _denoiser, _diffusers, _edits, _open_clip

Array = np.ndarray[Any, Any]

LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "pillow")
#: How often edits of a kind are drawn, against others: the hard ones more often.
MIX = {
    "colour": 1.0, "shape": 0.8, "size": 1.2, "texture": 1.4, "count": 1.2, "position": 1.4,
    "background": 1.0, "add": 1.4, "remove": 1.0,
}  # fmt: skip
_ENOUGH = 12_000  # pictures that the autoencoder learns from


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datagen.bundled.train_tinydiffusion",
        description="Train bundled:tinyeditor and bundled:tinypainter.",
    )
    add = parser.add_argument
    add("--out", required=True, help="folder that gets a folder for each of the two models")
    add("--work", help="folder of pictures and checkpoints; OUT.work by default")
    add("--seed", type=int, default=0, help="of the scenes and the weights")
    add("--families", type=int, default=24_000, help="scenes, with five neighbours each")
    add("--vae-steps", type=int, default=3000, dest="vae_steps")
    add("--vae-batch", type=int, default=32, dest="vae_batch", help="whole pictures of a step")
    add("--vae-rate", type=float, default=2e-3, dest="vae_rate")
    add("--text-steps", type=int, default=800, dest="text_steps", help="of the text encoder alone")
    add("--text-batch", type=int, default=192, dest="text_batch")
    add("--steps", type=int, default=20_000, help="of the denoiser")
    add("--batch", type=int, default=64)
    add("--rate", type=float, default=2e-3, help="the highest learning rate")
    add("--decay", type=float, default=0.999, help="of the running means of weights")
    add("--edits", type=float, default=0.5, help="share of a batch that are edits (0-1)")
    add("--noisy", type=float, default=2.0, help="1: all times as often; more: more noise")
    add("--widths", type=int, nargs=2, default=(48, 96), help="of the denoiser")
    add("--text-width", type=int, default=128, dest="text_width")
    add("--text-layers", type=int, default=3, dest="text_layers")
    add("--precision", default="bf16", choices=["bf16", "fp32"])
    add("--optimizer", default="muon", choices=["muon", "adamw"])
    add("--processes", type=int, default=2, help="that render")
    add("--threads", type=int, default=0, help="of torch; 0: as it likes")
    args = parser.parse_args(given)
    args.work = args.work or f"{args.out.rstrip('/')}.work"
    args.kind = torch.bfloat16 if args.precision == "bf16" else torch.float32
    args.muon = args.optimizer == "muon"
    args.mix = MIX
    return args


def world(args: argparse.Namespace) -> _edits.World:
    """What the models are trained on."""
    return _edits.World(args.seed, args.families)


def autoencoder(args: argparse.Namespace, paths: list[str]) -> Any:
    """The autoencoder, trained where it is not yet, in float32."""
    torch.manual_seed(args.seed)
    vae = _diffusers.build_vae()
    path = os.path.join(args.work, "vae.pt")
    if not os.path.exists(path):
        few = _edits.read(paths[: max(1, _ENOUGH // (_edits.PART * _edits.World.members))])
        _autoencoder.train(vae, few, args)
        _autoencoder.settle(vae, few.pixels[:2000])
        _open_clip.checkpoint(path, vae.state_dict())
    vae.load_state_dict(torch.load(path, weights_only=True))
    return vae.eval()


def nets(args: argparse.Namespace, words: Any) -> _denoiser.Nets:
    """Text encoder and denoiser with random weights."""
    torch.manual_seed(args.seed)
    return _denoiser.Nets(words, tuple(args.widths), args.text_width, args.text_layers)


def data(args: argparse.Namespace, paths: list[str], vae: Any, words: Any) -> _denoiser.Data:
    """What the denoiser learns from; latents are kept in the work folder."""
    examples = _edits.read(paths)
    path = os.path.join(args.work, "latents.pt")
    if os.path.exists(path):
        found = torch.load(path, weights_only=True)["latents"]
    else:
        found = _autoencoder.latents(vae.to(args.kind), examples.pixels)
        vae.to(torch.float32)
        _open_clip.checkpoint(path, {"latents": found})
    return _denoiser.Data.of(examples, found, words)


def write(folder: str, vae: Any, trained: _denoiser.Nets, words: Any) -> None:
    """Write both models into ``folder``."""
    os.makedirs(folder, exist_ok=True)
    parts = {"vae": vae, "text": trained.text, "unet": trained.unet, "words": words}
    _diffusers.save(folder, parts)


def main(given: list[str] | None = None) -> None:
    """Render, train, write the folders, measure, write the cards."""
    run(arguments(given))


def run(args: argparse.Namespace) -> None:
    """As the command line says."""
    if args.threads:
        torch.set_num_threads(args.threads)
    models.prepare()
    os.makedirs(args.work, exist_ok=True)
    paths = _edits.rendered(world(args), os.path.join(args.work, "scenes"), args.processes)
    words = _diffusers.tokenizer()
    vae = autoencoder(args, paths)
    learned = data(args, paths, vae, words)
    trained = nets(args, words)
    _denoiser.learn_words(trained, learned, args)
    minutes = _denoiser.train(trained, learned, args)
    write(args.out, vae, trained, words)
    _ = (minutes, platform.machine(), _card.FACTS)


if __name__ == "__main__":
    main()
