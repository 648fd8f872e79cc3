"""Trains the text encoder and the denoiser of small latent diffusion models.

One denoiser learns two tasks at once. To edit, it has the latents of a reference beside it
(InstructPix2Pix, Brooks et al. 2023, arXiv:2211.09800); to paint, it has zeros there, which is
also what InstructPix2Pix takes for "no reference".
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from datagen.bundled import _asides, _diffusers, _edits, _masters, _open_clip

Array = np.ndarray[Any, Any]

#: Where the state of a training is kept, in the work folder.
CHECKPOINT = "denoiser.pt"
#: Part of the training in which the learning rate falls.
_FALLING = 0.6
#: Texts that are left out in training, so that guidance knows what the text adds.
_WITHOUT = 0.07
_CHANGED = 0.25  # difference of latents above which a place counts as changed
_MORE = 4.0  # weight of such places, and
_THING = 2.0  # of places that show a thing
#: Weights of the losses that are thrown away, at the beginning; they fall to a fifth.
_ASIDE = {"after": 0.2, "before": 0.1}


class Nets(nn.Module):  # type: ignore[misc]
    """What is trained together: ``text``, ``unet``, and ``aside``, which is thrown away."""

    def __init__(self, words: Any, widths: tuple[int, int], text: int, layers: int) -> None:
        super().__init__()
        self.text = _diffusers.build_text(words, text, layers)
        self.unet = _diffusers.build_unet(widths, text)
        self.aside = _asides.Aside(text, widths[1])

    def masters(self, args: Any, only: str = "") -> _masters.Masters:
        """Their weights in float32; only: names of these begin so."""
        for name, one in self.named_parameters():
            one.requires_grad_(name.startswith(tuple(only.split())) if only else True)
        plain = ("embedding", "conv_in", "conv_out", "aside", "time_emb")
        return _masters.Masters(self, plain, args.decay, args.muon)


@dataclass(frozen=True)
class Data:
    """All that the training reads: latents half (n, C, side, side); truth, cells as in
    ``_edits.Examples``; captions (n, texts, LENGTH) and texts (m, texts, LENGTH) in tokens;
    answers (m, texts, 4); before, after: (m); silence: the tokens of no text."""

    latents: torch.Tensor
    truth: torch.Tensor
    cells: torch.Tensor
    captions: torch.Tensor
    texts: torch.Tensor
    answers: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    kinds: Array
    silence: torch.Tensor

    @staticmethod
    def of(examples: _edits.Examples, latents: torch.Tensor, words: Any) -> Data:
        """``examples`` with their latents; words: the tokenizer."""
        answers = [
            [_edits.answers(kind, examples.truth[a], examples.truth[b], texts[at % len(texts)])
             for at in range(2)]
            for kind, a, b, texts in zip(
                examples.kinds, examples.before, examples.after, examples.texts, strict=True)
        ]  # fmt: skip
        return Data(
            latents,
            torch.from_numpy(examples.truth),
            torch.from_numpy(examples.cells),
            tokens(words, examples.captions),
            tokens(words, examples.texts),
            torch.tensor(answers),
            torch.from_numpy(examples.before),
            torch.from_numpy(examples.after),
            np.asarray(examples.kinds),
            tokens(words, [[""]])[0, 0].long(),
        )


def tokens(words: Any, texts: list[list[str]]) -> torch.Tensor:
    """int16 (n, 2, LENGTH): two texts of each row; where there is one, twice that."""
    flat = [row[at % len(row)] for row in texts for at in range(2)]
    parts = [
        torch.from_numpy(
            words(
                flat[at : at + 20_000], padding="max_length", truncation=True, return_tensors="np"
            ).input_ids.astype(np.int16)
        )
        for at in range(0, len(flat), 20_000)
    ]
    return torch.cat(parts).view(len(texts), 2, -1)


def learn_words(nets: Nets, data: Data, args: Any) -> float:
    """Teach the text encoder alone what texts say; kept beside the checkpoints. The minutes that
    it took."""
    path = os.path.join(args.work, "words.pt")
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        nets.load_state_dict(saved["words"], strict=False)
        return float(saved["minutes"])
    nets.to(args.kind)
    masters = nets.masters(args, "text aside.queries aside.keys aside.values aside.thing "
                           "aside.ground aside.asked")  # fmt: skip
    began = time.monotonic()
    for step in range(args.text_steps):
        dice = torch.Generator().manual_seed(step)
        half = args.text_batch // 2
        scenes = torch.randint(len(data.captions), (half,), generator=dice)
        edits = torch.randint(len(data.texts), (half,), generator=dice)
        which = torch.randint(2, (2, half), generator=dice)
        ids = torch.cat([data.captions[scenes, which[0]], data.texts[edits, which[1]]]).long()
        found = nets.text(input_ids=ids).last_hidden_state
        told = nets.aside.told(found[:half], data.truth[scenes].long())
        wanted = nets.aside.wanted(found[half:], data.answers[edits, which[1]])
        (told + wanted).backward()
        masters.step(_masters.rate(step, args.text_steps, args.rate))
        if step % 25 == 0:
            spent = (time.monotonic() - began) / 60
            print(f"words {step:5d}  {spent:5.1f} min  captions {told.item():.3f}  "
                  f"texts {wanted.item():.3f}", flush=True)  # fmt: skip
    nets.to(torch.float32).load_state_dict(masters.averaged(), strict=False)
    minutes = (time.monotonic() - began) / 60
    _open_clip.checkpoint(path, {"words": masters.averaged(), "minutes": minutes})
    return minutes


@dataclass(frozen=True)
class Batch:
    """Rows of one step; the first ``edited`` of them are edits. Latents (n, C, side, side) in
    float32; texts (n, LENGTH); times (n)."""

    edited: int
    references: torch.Tensor
    targets: torch.Tensor
    texts: torch.Tensor
    rows: torch.Tensor  # scenes that the targets show
    before: torch.Tensor  # scenes that the references show, of edits
    silent: torch.Tensor
    times: torch.Tensor
    noise: torch.Tensor


def drawn(data: Data, chances: torch.Tensor, args: Any, step: int) -> Batch:
    """The batch of a step, or this process's part of it; chances: of each edit."""
    rank, number = _masters.place()
    size = args.batch // number
    dice = torch.Generator().manual_seed(step * number + rank)
    edited = round(size * args.edits)
    edits = torch.multinomial(chances, edited, replacement=True, generator=dice)
    scenes = torch.randint(len(data.latents), (size - edited,), generator=dice)
    which = torch.randint(2, (size,), generator=dice)
    texts = torch.cat(
        [data.texts[edits, which[:edited]], data.captions[scenes, which[edited:]]]
    ).long()
    silent = torch.rand(size, generator=dice) < _WITHOUT
    texts[silent] = data.silence
    rows = torch.cat([data.after[edits], scenes])
    targets = data.latents[rows].float()
    references = torch.zeros_like(targets)
    references[:edited] = data.latents[data.before[edits]].float()
    # More often much noise, where it falls what a picture shows.
    times = 1 - torch.rand(size, generator=dice) ** args.noisy
    return Batch(
        edited, references, targets, texts, rows, data.before[edits],
        silent, (times * 999.999).long(),
        torch.randn(targets.shape, generator=dice),
    )  # fmt: skip


def losses(nets: Nets, data: Data, batch: Batch, alphas: torch.Tensor) -> dict[str, torch.Tensor]:
    """``edit``, ``paint``: of the denoiser; those of :mod:`_asides`; and shares of parts with a
    thing whose shape and colour the middle tells: ``edits right``, ``paints right``."""
    kind = next(nets.parameters()).dtype
    n = batch.edited
    signal, noise = alphas[batch.times].sqrt(), (1 - alphas[batch.times]).sqrt()
    signal, noise = signal[:, None, None, None], noise[:, None, None, None]
    noisy = signal * batch.targets + noise * batch.noise
    wanted = signal * batch.noise - noise * batch.targets
    with torch.no_grad():
        words = nets.text(input_ids=batch.texts).last_hidden_state
    both = torch.cat([noisy, batch.references], 1).to(kind)
    with _asides.watching(nets.unet) as caught:
        made = nets.unet(both, batch.times, words).sample.float()
    apart = ((made - wanted) ** 2).mean(1)
    weight = 1 + (_MORE - 1) * ((batch.references[:n] - batch.targets[:n]).abs().mean(1) > _CHANGED)
    cells = data.cells[batch.rows].long()
    scale = apart.shape[1] // cells.shape[1]
    there = (cells[n:] >= 0).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    painted = 1 + (_THING - 1) * there
    found = {
        "edit": (apart[:n] * weight).sum() / weight.sum(),
        "paint": (apart[n:] * painted).sum() / painted.sum(),
    }
    truth = data.truth[batch.rows].long()
    aside, spoken = nets.aside, ~batch.silent
    found["after"], right = aside.shown(
        aside.after, caught["after"][spoken], truth[spoken], cells[spoken]
    )
    found["before"], _ = aside.shown(
        aside.before, caught["before"][:n], data.truth[batch.before].long(),
        data.cells[batch.before].long(),
    )  # fmt: skip
    number = int(spoken[:n].sum())
    found["edits right"], found["paints right"] = right[:number].nanmean(), right[number:].nanmean()
    return found


def _weight(name: str, step: int, steps: int) -> float:
    if name in ("edit", "paint"):
        return 1.0
    return _ASIDE.get(name, 0.0) * max(0.2, 1 - 1.2 * step / steps)


def train(nets: Nets, data: Data, args: Any, until: int | None = None) -> float:
    """Train ``nets`` in place, from the last checkpoint where there is one; minutes in all. In the
    end they have the running means of their weights, in float32."""
    from diffusers.models.attention_processor import AttnProcessor

    path = os.path.join(args.work, CHECKPOINT)
    until = args.steps if until is None else min(until, args.steps)
    nets.unet.set_attn_processor(AttnProcessor())
    nets.to(args.kind).train()
    # The text encoder has learned alone, and stays as it is.
    masters = nets.masters(args, "unet aside.before aside.after")
    first, seconds = 0, 0.0
    if os.path.exists(path):
        saved = torch.load(path, weights_only=True)
        masters.load_state_dict(saved["masters"])
        first, seconds = saved["step"], saved["seconds"]
        print(f"goes on from step {first}", flush=True)
    alphas = _diffusers.scheduler().alphas_cumprod.float()
    chances = torch.tensor([args.mix.get(kind, 1.0) for kind in data.kinds.tolist()])
    began = stamp = time.monotonic()
    means: dict[str, float] = {}
    for step in range(first, until):
        torch.manual_seed(step)
        found = losses(nets, data, drawn(data, chances, args, step), alphas)
        total = torch.stack(
            [_weight(name, step, args.steps) * one for name, one in found.items()
             if _weight(name, step, args.steps)]
        ).sum()  # fmt: skip
        total.backward()
        masters.step(_masters.rate(step, args.steps, args.rate, _FALLING))
        for name, one in found.items():
            means[name] = 0.95 * means.get(name, one.item()) + 0.05 * one.item()
        now = time.monotonic()
        if _masters.place()[0]:
            continue
        if step % 50 == 0:
            told = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
            print(f"{step:6d}  {(seconds + now - began) / 60:5.1f} min  {told}", flush=True)
        if now - stamp > 120 or step + 1 == until:
            stamp = now
            state = {"masters": masters.state_dict(), "mean": masters.averaged()}
            more = {"step": step + 1, "seconds": seconds + now - began}
            _open_clip.checkpoint(path, {**state, **more})
    averaged(nets, masters.averaged())
    return (seconds + time.monotonic() - began) / 60


def averaged(nets: Nets, means: dict[str, torch.Tensor]) -> None:
    """Give ``nets`` the running means of their weights, in float32, for use."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    nets.to(torch.float32).eval().load_state_dict(means, strict=False)
    nets.unet.set_attn_processor(AttnProcessor2_0())
