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
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from datagen import models
from datagen.bundled import (
    _autoencoder,
    _card,
    _denoiser,
    _diffusers,
    _edits,
    _open_clip,
    _painting,
    _requests,
)

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
    add("--families", type=int, default=18_432, help="scenes, with five neighbours each")
    add("--vae-steps", type=int, default=1900, dest="vae_steps")
    add("--vae-batch", type=int, default=16, dest="vae_batch", help="whole pictures of a step")
    add("--vae-rate", type=float, default=2e-3, dest="vae_rate")
    add("--text-steps", type=int, default=300, dest="text_steps", help="of the text encoder alone")
    add("--text-batch", type=int, default=192, dest="text_batch")
    add("--steps", type=int, default=4100, help="of the denoiser")
    add("--batch", type=int, default=64)
    add("--rate", type=float, default=2e-3, help="the highest learning rate")
    add("--decay", type=float, default=0.999, help="of the running means of weights")
    add("--edits", type=float, default=0.66, help="share of a batch that are edits (0-1)")
    add("--noisy", type=float, default=1.5, help="1: all times as often; more: more noise")
    add("--widths", type=int, nargs=2, default=(48, 96), help="of the denoiser")
    add("--text-width", type=int, default=128, dest="text_width")
    add("--text-layers", type=int, default=3, dest="text_layers")
    add("--precision", default="bf16", choices=["bf16", "fp32"])
    add("--optimizer", default="muon", choices=["muon", "adamw"])
    add("--processes", type=int, default=2, help="that render")
    add("--measured", type=int, default=40, help="edits of each kind that are measured")
    add("--workers", type=int, default=2, help="processes that train the denoiser together")
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


def autoencoder(args: argparse.Namespace, paths: list[str]) -> tuple[Any, float]:
    """The autoencoder, trained where it is not yet, in float32; the minutes that it took."""
    torch.manual_seed(args.seed)
    vae = _diffusers.build_vae()
    path = os.path.join(args.work, "vae.pt")
    if not os.path.exists(path):
        few = _edits.read(paths[: max(1, _ENOUGH // (_edits.PART * _edits.World.members))])
        minutes = _autoencoder.train(vae, few, args)
        _autoencoder.settle(vae, few.pixels[:2000])
        _open_clip.checkpoint(path, {"vae": vae.state_dict(), "minutes": minutes})
    saved = torch.load(path, weights_only=True)
    vae.load_state_dict(saved["vae"])
    return vae.eval(), saved["minutes"]


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


def denoised(args: argparse.Namespace, trained: _denoiser.Nets, learned: _denoiser.Data) -> float:
    """Train ``trained``, by several processes where ``args.workers`` says so; minutes in all."""
    if args.workers < 2:
        return _denoiser.train(trained, learned, args)
    meeting = os.path.join(os.path.abspath(args.work), "meeting")
    if os.path.exists(meeting):
        os.remove(meeting)
    given = (args, meeting, trained.state_dict(), learned)
    torch.multiprocessing.spawn(_worker, given, nprocs=args.workers)
    saved = torch.load(os.path.join(args.work, _denoiser.CHECKPOINT), weights_only=True)
    _denoiser.averaged(trained, saved["mean"])
    return float(saved["seconds"] / 60)


def _worker(
    rank: int, args: argparse.Namespace, meeting: str, begun: Any, learned: _denoiser.Data
) -> None:
    torch.set_num_threads(args.threads or 1)
    _quiet()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=args.workers
    )
    trained = nets(args, _diffusers.tokenizer())
    trained.load_state_dict(begun)
    _denoiser.train(trained, learned, args)
    torch.distributed.destroy_process_group()


def write(folder: str, vae: Any, trained: _denoiser.Nets, words: Any) -> None:
    """Write both models into ``folder``."""
    os.makedirs(folder, exist_ok=True)
    parts = {"vae": vae, "text": trained.text, "unet": trained.unet, "words": words}
    _diffusers.save(folder, parts)


def facts(args: argparse.Namespace, built: Mapping[str, Any], learned: Any, minutes: Any) -> Any:
    """How both models were made. built: ``vae``, ``text``, ``unet`` and ``words``."""
    counts = {
        name: sum(one.numel() for one in built[name].parameters())
        for name in ("vae", "text", "unet")
    }
    heads = built["unet"].config.attention_head_dim
    return {
        "seed": args.seed,
        "command": f"python -m datagen.bundled.train_tinydiffusion --seed {args.seed} "
        f"--families {args.families} --vae-steps {args.vae_steps} --text-steps {args.text_steps} "
        f"--steps {args.steps} --rate {args.rate:g} --precision {args.precision} "
        "--out tinydiffusion",
        "hardware": f"CPU ({platform.machine()}), {args.workers} processes, threads of torch in "
        f"each: {args.threads or 1}",
        "minutes": {name: round(value, 1) for name, value in minutes.items()},
        "pictures": len(learned.latents),
        "edits": len(learned.before),
        "side": _edits.SIDE,
        "latent": _edits.SIDE // _diffusers.FACTOR,
        "deep": _edits.SIDE // _diffusers.FACTOR // 2,
        "channels": _diffusers.CHANNELS,
        "heads": heads,
        "weights": counts,
        "vae_steps": args.vae_steps,
        "text_steps": args.text_steps,
        "steps": args.steps,
        "batch": args.batch,
        "edited": args.edits,
        "widths": list(args.widths),
        "text_width": args.text_width,
        "text_layers": args.text_layers,
        "vocabulary": len(built["words"]),
        "wordings": _requests.number(),
        "length": _diffusers.LENGTH - 2,
    }


def cards(folder: str, told: Mapping[str, Any], measured: int) -> None:
    """Measure both models in ``folder`` and write a card beside each."""
    for name, other in (("tinyeditor", "tinypainter"), ("tinypainter", "tinyeditor")):
        reference = f"file:{os.path.abspath(os.path.join(folder, name))}"
        measure = getattr(_painting, f"measure_{name.removeprefix('tiny')}")
        use = {
            "steps": _painting.STEPS,
            "guidance": _painting.GUIDANCE[name],
            "samples": _painting.SAMPLES,
        }
        figures = measure(reference, measured if name == "tinyeditor" else 4 * measured)
        more = {**told, "other": other, "use": use}
        _card.write(os.path.join(folder, name), f"{name}.md.j2", more, figures, LIBRARIES)


def main(given: list[str] | None = None) -> None:
    """Render, train, write the folders, measure, write the cards."""
    run(arguments(given))


def _quiet() -> None:
    models.prepare()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()


def run(args: argparse.Namespace) -> None:
    """As the command line says."""
    if args.threads:
        torch.set_num_threads(args.threads)
    _quiet()
    os.makedirs(args.work, exist_ok=True)
    paths = _edits.rendered(world(args), os.path.join(args.work, "scenes"), args.processes)
    words = _diffusers.tokenizer()
    vae, first = autoencoder(args, paths)
    learned = data(args, paths, vae, words)
    trained = nets(args, words)
    second = _denoiser.learn_words(trained, learned, args)
    third = denoised(args, trained, learned)
    write(args.out, vae, trained, words)
    built = {"vae": vae, "text": trained.text, "unet": trained.unet, "words": words}
    minutes = {"autoencoder": first, "text encoder": second, "denoiser": third}
    cards(args.out, facts(args, built, learned, minutes), args.measured)


if __name__ == "__main__":
    main()
