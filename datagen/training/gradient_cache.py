"""Batches larger than the memory, with exactly the gradients of the whole batch.

GradCache (Gao et al. 2021, arXiv:2101.06983): the batch is encoded in chunks without a graph, the
loss of all vectors gives the gradient of each vector, and every chunk is encoded once more and sent
its own gradient. Time for memory: each chunk is encoded twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def step(
    encoders: Sequence[Callable[[Any], Tensor]],
    chunks: Sequence[Sequence[Any]],
    loss: Callable[..., Tensor],
    *,
    scaled: Callable[[Tensor], Tensor] | None = None,
    quiet: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Tensor:
    """Add the gradients of ``loss`` to all weights; the loss, detached.

    encoders: each makes vectors (rows, d) of a chunk; chunks: of each encoder, in order; loss: of
    the vectors of each encoder's chunks together, one argument an encoder; its own weights get
    their gradients too. scaled: the loss as its gradients are reckoned of (``GradScaler.scale``).
    quiet: entered for every chunk but the last, where gradients need not be sent around yet
    (``no_sync`` of a distributed module).
    Random numbers (dropout) are the same in both passes. Modules must not hang on what stands
    beside a row: batch normalisation in training mode does.
    """
    states: list[list[_Random]] = []
    leaves: list[Tensor] = []
    with torch.no_grad():
        for encode, parts in zip(encoders, chunks, strict=True):
            kept, found = [], []
            for part in parts:
                kept.append(_Random())
                found.append(encode(part))
            states.append(kept)
            leaves.append(torch.cat(found))
    # Weights that autocast has cast without a graph would be taken again with one.
    torch.clear_autocast_cache()
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    with quiet():
        lost = loss(*leaves)
        (lost if scaled is None else scaled(lost)).backward()
    work = [
        (encode, part, state, gradient)
        for encode, parts, kept, leaf in zip(encoders, chunks, states, leaves, strict=True)
        for part, state, gradient in _paired(parts, kept, leaf)
    ]
    for number, (encode, part, state, gradient) in enumerate(work):
        last = number == len(work) - 1
        with contextlib.nullcontext() if last else quiet(), state.again():
            vectors = encode(part)
            if vectors.requires_grad:
                vectors.backward(gradient(len(vectors)))
    return lost.detach()


def _paired(
    parts: Sequence[Any], states: Sequence[_Random], leaf: Tensor
) -> Iterator[tuple[Any, _Random, Callable[[int], Tensor]]]:
    """Each chunk with the random state it had, and what takes its rows of the gradient."""
    found = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
    taken = [0]

    def rows(count: int) -> Tensor:
        taken[0] += count
        return found[taken[0] - count : taken[0]]

    for part, state in zip(parts, states, strict=True):
        yield part, state, rows


class _Random:
    """The random numbers of the CPU and of all GPUs in use, as they are when this is made."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same ones in the block; afterwards all goes on as if it had not been."""
        with torch.random.fork_rng(devices=range(len(self._cuda))):
            torch.set_rng_state(self._cpu)
            if self._cuda:
                torch.cuda.set_rng_state_all(self._cuda)
            yield
