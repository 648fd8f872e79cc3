"""Trains ``bundled:tinywriter``, a language model that tells two captions of the rendered world
apart, from random weights.

``python -m datagen.bundled.train_tinywriter --out FOLDER``

A causal language model of Llama's architecture (Touvron et al. 2023, arXiv:2302.13971) on the
questions that ``text: {op: llm}`` asks, with answers from a grammar that the world's oracle
checked. The loss is that of the answer, and in the beginning also that of the question: where the
second caption repeats the first one, copying is learned.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from datagen import models
from datagen.bundled import _card, _corpus, _llama, _marks, _questions, _requests, _writing

Array = np.ndarray[Any, Any]

#: Of what is padding.
_SILENT = -100
#: Tokens, what comes after each (-100 after the last), whether that is of the question, all
#: (n, length); and what :class:`_marks.Aside` reads, (4, n, length).
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")
#: Batches that are sorted by length together.
_SORTED = 32


@dataclass(frozen=True)
class Texts:
    """Questions and answers in tokens: int16 ``tokens`` of all, one after the other; ``starts``
    (n + 1) of each; ``answers`` (n), where its answer begins, from its start; ``beside``
    (4, tokens), as :class:`_marks.Aside` reads it."""

    tokens: Array
    starts: Array
    answers: Array
    beside: Array

    @staticmethod
    def of(asked: list[str], answer: list[str], tokenizer: Any) -> Texts:
        """As the chat template writes them, each with its end."""
        turns = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
            )
            for text in asked
        ]
        ends = [f"{text}{tokenizer.eos_token}" for text in answer]
        first, second = (
            tokenizer(part, add_special_tokens=False).input_ids for part in (turns, ends)
        )
        lengths = [len(a) + len(b) for a, b in zip(first, second, strict=True)]
        tokens = [
            token for both in zip(first, second, strict=True) for part in both for token in part
        ]
        pieces = [tokenizer.decode([token]) for token in range(len(tokenizer))]
        known = [_known(one, pieces) for one in first]
        silent = [[(_SILENT,) * 4] * len(one) for one in second]
        beside = [
            pair for both in zip(known, silent, strict=True) for part in both for pair in part
        ]
        return Texts(
            np.asarray(tokens, np.int16),
            np.concatenate([[0], np.cumsum(lengths)]),
            np.asarray([len(one) for one in first]),
            np.asarray(beside, np.int16).T,
        )

    def batches(self, dice: np.random.Generator, budget: int) -> Iterator[Batch]:
        """Batches of one pass over all, of ``budget`` tokens or fewer each, texts of about one
        length together."""
        lengths = np.diff(self.starts)
        order = dice.permutation(len(lengths))
        chunk = _SORTED * max(1, int(budget / lengths.mean()))
        for at in range(0, len(order), chunk):
            rows = order[at : at + chunk]
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            parts = list(_parted(rows, lengths, budget))
            for number in dice.permutation(len(parts)):
                yield self._batch(parts[number])

    def _batch(self, rows: Array) -> Batch:
        width = int((self.starts[rows + 1] - self.starts[rows]).max())
        tokens = np.zeros((len(rows), width), np.int64)
        labels = np.full((len(rows), width), _SILENT, np.int64)
        beside = np.full((4, len(rows), width), _SILENT, np.int64)
        asked = np.zeros((len(rows), width), bool)
        for place, row in enumerate(rows):
            text = self.tokens[self.starts[row] : self.starts[row + 1]]
            tokens[place, : len(text)] = text
            begin = self.answers[row]
            # What stands at a place is told by the place before it.
            labels[place, : len(text) - 1] = text[1:]
            asked[place, : begin - 1] = True
            own = self.beside[:, self.starts[row] : self.starts[row + 1]]
            beside[:, place, : len(text)] = own
        one, two, three, four = map(torch.from_numpy, (tokens, labels, asked, beside))
        return one, two, three, four


def _known(tokens: list[int], texts: list[str]) -> list[tuple[int, ...]]:
    """What is known of each token of a question besides what follows. texts: of all tokens."""
    found: list[tuple[int, ...]] = [(_SILENT,) * 4] * len(tokens)
    pieces = [texts[token] for token in tokens]
    bounds = [at for at, piece in enumerate(pieces) if piece in _questions.BOUNDS]
    if len(bounds) != 3:
        return found
    first, second, end = bounds
    # Marks of the chat template are no words of captions.
    one, two = (
        [at for at in range(begin + 1, close) if pieces[at] != _llama.MARK]
        for begin, close in ((first, second), (second, end))
    )
    left, right = ([pieces[at] for at in places] for places in (one, two))
    marks = _marks.marks(left, right)
    things = _marks.things(right, [differs for differs, _ in marks])

    def token(place: int, places: list[int]) -> int:
        return _SILENT if place == _SILENT else tokens[places[place]]

    for at, ((differs, before), (touched, noun)) in enumerate(zip(marks, things, strict=True)):
        found[two[at]] = (differs, token(before, one), touched, token(noun, two))
    return found


def _parted(rows: Array, lengths: Array, budget: int) -> Iterator[Array]:
    start = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or (at + 1 - start) * lengths[rows[at]] > budget:
            yield rows[start:at]
            start = at


def rate(step: int, steps: int, peak: float) -> float:
    """The learning rate: it rises for 100 steps and falls along half a cosine to a fiftieth."""
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * falling)


def begun(model: Any, seed: int) -> None:
    """Random weights: deviations of 0.02 for tokens, and by width for matrices."""
    torch.manual_seed(seed)
    layers = model.config.num_hidden_layers
    for name, value in model.named_parameters():
        if value.ndim < 2:
            continue
        deep = name.endswith(("o_proj.weight", "down_proj.weight"))
        scale = 0.02 if "embed" in name else value.shape[1] ** -0.5
        nn.init.normal_(value, std=scale * ((2 * layers) ** -0.5 if deep else 1.0))


def optimizer(model: Any) -> torch.optim.Optimizer:
    """AdamW; weight decay for matrices only, and not for tokens."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim > 1 and "embed" not in name]
    rest = [p for name, p in named if p.ndim < 2 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def losses(model: Any, aside: Any, batch: Batch, precision: str) -> tuple[Any, Any, Any]:
    """The mean over the tokens of answers, that over the tokens of questions, and that of
    marks."""
    tokens, labels, asked, known = batch
    with torch.autocast(tokens.device.type, torch.bfloat16, precision == "bf16"):
        # No mask: texts are padded at their end, where nothing is learned.
        held = model.model(input_ids=tokens, use_cache=False, output_hidden_states=True)
        hidden = held.last_hidden_state
        marks = aside(held.hidden_states, known)
        learned = labels != _SILENT
        logits = model.lm_head(hidden[learned])
    each = functional.cross_entropy(logits.float(), labels[learned], reduction="none")
    asked = asked[learned]
    return each[~asked].mean(), each[asked].mean(), marks


def weight(step: int, steps: int) -> float:
    """Of the loss of questions. Copying is learned from them, where the second caption repeats
    the first; afterwards the model is for answers alone."""
    return max(0.0, 1.0 - 2.5 * step / steps)


def train(model: Any, texts: Texts, args: argparse.Namespace, until: int | None = None) -> float:
    """Train ``model`` in place, from the last checkpoint where there is one; minutes in all.

    until: the step before which it stops; None: the last one.
    """
    until = args.steps if until is None else until
    model.to(args.device).train()
    aside = _marks.Aside(model.config.hidden_size, model.config.vocab_size).to(args.device)
    adam = optimizer(nn.ModuleList([model, aside]))
    path = os.path.join(args.work, "checkpoint.pt")
    first, seconds = 0, 0.0
    if os.path.exists(path):
        saved = torch.load(path, map_location=args.device, weights_only=True)
        model.load_state_dict(saved["model"])
        aside.load_state_dict(saved["aside"])
        adam.load_state_dict(saved["optimizer"])
        first, seconds = saved["step"], saved["seconds"]
        print(f"goes on from step {first}", flush=True)
    began = stamp = time.monotonic()
    mean = None
    for step, batch in enumerate(_passes(texts, args)):
        if step < first:
            continue
        if step == until:
            break
        for group in adam.param_groups:
            group["lr"] = rate(step, args.steps, args.rate)
        a, b, c, d = (part.to(args.device) for part in batch)
        found, beside, marks = losses(model, aside, (a, b, c, d), args.precision)
        adam.zero_grad(set_to_none=True)
        (found + weight(step, args.steps) * beside + marks).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        now = time.monotonic()
        now_at = float(found.detach())
        mean = now_at if mean is None else 0.95 * mean + 0.05 * now_at
        if step % 20 == 0:
            spent = (seconds + now - began) / 60
            told = f"answers {mean:.4f}  questions {float(beside.detach()):.4f}"
            told += f"  marks {float(marks.detach()):.4f}"
            print(f"{step:5d}  {spent:5.1f} min  {told}", flush=True)
        if now - stamp > 120 or step + 1 == until:
            stamp = now
            states = {"model": model.state_dict(), "aside": aside.state_dict()}
            states["optimizer"] = adam.state_dict()
            extra = {"step": step + 1, "seconds": seconds + now - began}
            _llama.checkpoint(path, {**states, **extra})
    return (seconds + time.monotonic() - began) / 60


def _passes(texts: Texts, args: argparse.Namespace) -> Iterator[Batch]:
    turn = 0
    while True:
        yield from texts.batches(np.random.default_rng([args.seed, turn]), args.budget)
        turn += 1


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datagen.bundled.train_tinywriter", description="Train bundled:tinywriter."
    )
    parser.add_argument("--out", required=True, help="folder that the model is written to")
    parser.add_argument("--work", help="folder of pairs and checkpoints; OUT.work by default")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs and the weights")
    parser.add_argument("--pairs", type=int, default=112_000, help="pairs drawn")
    parser.add_argument("--steps", type=int, default=5200)
    parser.add_argument("--budget", type=int, default=4800, help="tokens of a batch")
    parser.add_argument("--rate", type=float, default=2e-3, help="the highest learning rate")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--inner", type=int, default=384)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--precision", default="fp32", choices=["bf16", "fp32"])
    parser.add_argument("--processes", type=int, default=2, help="that draw pairs")
    parser.add_argument(
        "--measured", type=int, default=400, help="pairs of each kind that are measured"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as it likes")
    args = parser.parse_args(given)
    args.device = models.device(args.device)
    args.work = args.work or f"{args.out.rstrip('/')}.work"
    return args


def main(given: list[str] | None = None) -> None:
    """Draw pairs, train, write the folder, measure, write the card."""
    run(arguments(given))


def run(args: argparse.Namespace) -> None:
    """As the command line says."""
    if args.threads:
        torch.set_num_threads(args.threads)
    models.prepare()
    table = _corpus.made(args.seed, args.pairs, os.path.join(args.work, "pairs"), args.processes)
    tokenizer = _llama.word_tokenizer(_questions.vocabulary(), _questions.parts())
    texts = Texts.of(table["asked"].to_pylist(), table["answer"].to_pylist(), tokenizer)
    print(f"{len(table)} questions, {len(texts.tokens)} tokens", flush=True)
    model = _llama.build(tokenizer, args.width, args.layers, args.heads, args.inner)
    begun(model, args.seed)
    minutes = train(model, texts, args)
    _llama.save(args.out, model.eval(), tokenizer)
    hardware = f"CPU ({platform.machine()}), threads of torch: {torch.get_num_threads()}"
    if args.device != "cpu":
        hardware = args.device
    shape = {name: getattr(args, name) for name in ("width", "layers", "heads")}
    told = {
        "seed": args.seed,
        "command": f"python -m datagen.bundled.train_tinywriter --seed {args.seed} "
        f"--pairs {args.pairs} --steps {args.steps} --rate {args.rate:g} "
        f"--precision {args.precision} --out tinywriter",
        "hardware": hardware,
        "minutes": round(minutes, 1),
        "questions": len(table),
        "steps": args.steps,
        "batch": round(args.budget * len(table) / len(texts.tokens)),
        **shape,
        "vocabulary": len(tokenizer),
        "parameters": sum(p.numel() for p in model.parameters()),
        "wordings": _requests.number(),
        "longest": _llama.LONGEST,
        "context": _llama.CONTEXT,
    }
    figures = _writing.measure(f"file:{os.path.abspath(args.out)}", args.measured)
    _card.write(args.out, "tinywriter.md.j2", told, figures, LIBRARIES)


if __name__ == "__main__":
    main()
