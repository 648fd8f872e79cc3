"""What of a second caption differs from the first, token by token: to teach models to compare."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

#: Where nothing is known.
SILENT = -100
#: Captions that have less in common than this are not told apart token by token.
_ALIKE = 0.6
_SAME_WORDS = {"little": "small", "tiny": "small", "big": "large", "huge": "large"}


def plain(piece: str) -> str:
    """A token of a caption as it is compared: without its space, sizes by one word each."""
    word = piece.strip()
    return _SAME_WORDS.get(word, word)


def marks(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Of each token of the ``second`` caption: 1 where it differs from the ``first``, 0 where it
    does not, and the place in the first caption of what it replaces or repeats, or SILENT.

    Both are SILENT for captions of which little is alike.
    """
    one, other = [plain(piece) for piece in first], [plain(piece) for piece in second]
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    found = [(SILENT, SILENT)] * len(other)
    if matcher.ratio() < _ALIKE:
        return found
    for kind, a, b, c, d in matcher.get_opcodes():
        aligned = b - a == d - c
        for at in range(c, d):
            found[at] = (int(kind != "equal"), a + at - c if aligned else SILENT)
    for kind, _, _, at, _ in matcher.get_opcodes():
        if kind == "delete" and at < len(other):
            found[at] = (1, SILENT)  # something is gone before it
    return found


class Aside(nn.Module):  # type: ignore[misc]
    """Reads marks, and the tokens that were there before, from what a model holds half-way.

    It is needed in training only.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.differs = nn.Linear(width, 2)
        self.before = nn.Linear(width, vocabulary)

    def forward(self, hidden: torch.Tensor, marked: torch.Tensor, before: torch.Tensor) -> Any:
        """The loss. hidden: (n, length, width); marked, before: (n, length), SILENT where nothing
        is known."""
        known = marked != SILENT
        hidden, marked, before = self.norm(hidden[known]), marked[known], before[known]
        if not len(marked):
            return hidden.sum() * 0
        weights = torch.tensor([1.0, 6.0], device=hidden.device)
        loss = functional.cross_entropy(self.differs(hidden).float(), marked, weights)
        replaced = (before != SILENT) & (marked == 1)
        if replaced.any():
            logits = self.before(hidden[replaced]).float()
            loss = loss + 0.5 * functional.cross_entropy(logits, before[replaced])
        return loss
