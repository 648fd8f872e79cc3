"""What of a second caption differs from the first, token by token: to teach models to compare."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from datagen.bundled._requests import plural
from datagen.sources.tinyworld.scene import SHAPES

#: Where nothing is known.
SILENT = -100
#: Captions that have less in common than this are not told apart token by token.
_ALIKE = 0.6
_SAME_WORDS = {"little": "small", "tiny": "small", "big": "large", "huge": "large"}


def compared(piece: str) -> str:
    """A token of a caption as it is compared: without its space, sizes by one word each."""
    word = piece.strip()
    return _SAME_WORDS.get(word, word)


def marks(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Of each token of the ``second`` caption: 1 where it differs from the ``first``, 0 where it
    does not, and the place in the first caption of what it replaces or repeats, or SILENT.

    Both are SILENT for captions of which little is alike.
    """
    one, other = [compared(piece) for piece in first], [compared(piece) for piece in second]
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


_BEGIN = frozenset(["a", "an", "two", "three", "four"])
_BECOMES = frozenset(["turn", "turns", "become", "becomes"])
_NOUNS = frozenset(
    [*SHAPES, *map(plural, SHAPES), "background", "backdrop", "scene", "picture", "video"]
)


def things(caption: Sequence[str], differs: Sequence[int]) -> list[tuple[int, int]]:
    """Of each token from the noun of a thing on: whether something of the thing differs, as far
    as it is told by then, and the place of the noun; SILENT before nouns, and where ``differs``
    (:func:`marks`) is."""
    found, touched, noun = [], 0, SILENT
    before = ""
    for at, (piece, mark) in enumerate(zip(caption, differs, strict=True)):
        word = piece.strip()
        if word in _BEGIN and before not in _BECOMES:
            touched, noun = 0, SILENT
        if word in _NOUNS:
            noun = at
        touched = max(touched, mark)
        found.append((SILENT, SILENT) if SILENT in (noun, mark) else (touched, noun))
        before = word
    return found


class Aside(nn.Module):  # type: ignore[misc]
    """Reads marks, and the tokens that were there before, from what a model holds half-way, and
    things that differ, with their nouns, from what it holds a quarter later.

    It is needed in training only.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.marks = _Reader(width, vocabulary, 6.0)
        self.things = _Reader(width, vocabulary, 3.0)

    def forward(self, hidden: Sequence[torch.Tensor], beside: torch.Tensor) -> torch.Tensor:
        """The loss. hidden: (n, length, width) after each layer, of the embeddings first; beside:
        (4, n, length) marks, tokens before, things that differ, tokens of their nouns; SILENT
        where nothing is known."""
        layers = len(hidden) - 1
        marked, before, touched, nouns = beside
        # What was there before is told where it is another, nouns wherever they are known.
        before = before.masked_fill(marked != 1, SILENT)
        return self.marks(hidden[layers // 2], marked, before) + self.things(
            hidden[layers * 3 // 4], touched, nouns
        )


class _Reader(nn.Module):  # type: ignore[misc]
    """Reads yes or no, and a token, at each place."""

    def __init__(self, width: int, vocabulary: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.norm = nn.LayerNorm(width)
        self.yes = nn.Linear(width, 2)
        self.token = nn.Linear(width, vocabulary)

    def forward(self, hidden: torch.Tensor, yes: torch.Tensor, token: torch.Tensor) -> Any:
        known = yes != SILENT
        hidden, yes, token = self.norm(hidden[known]), yes[known], token[known]
        if not len(yes):
            return hidden.sum() * 0
        weights = torch.tensor([1.0, self.weight], device=hidden.device)
        loss = functional.cross_entropy(self.yes(hidden).float(), yes, weights)
        told = token != SILENT
        if told.any():
            logits = self.token(hidden[told]).float()
            loss = loss + 0.5 * functional.cross_entropy(logits, token[told])
        return loss
