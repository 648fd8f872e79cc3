"""References as words of the text: textual inversion by a network (Pic2Word, SEARLE, LinCIR)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from datagen.errors import DatagenError
from datagen.step import Settings
from datagen.training.composers._contract import Asked, Composer
from datagen.training.towers import Towers, Words, unit

#: What may stand for a reference in a prompt: one token in some vocabulary.
_STANDS_FOR = ("*", "$", "sks", "photo", "image", "thing", "x", "a")
_HERE = "{reference}"
_TEXT = "{text}"


class InversionSettings(Settings):
    """words: how many words a reference becomes. hidden: width of the network's layers, as a
    multiple of the space's; dropout: of them, in training. prompt: what the text tower reads,
    with ``{reference}`` and behind it ``{text}``; of a query without a text only the part up to
    the reference, of one without a reference the text alone.
    """

    words: int = Field(1, ge=1, le=16)
    hidden: int = Field(4, ge=1, le=64)
    dropout: float = Field(0.5, ge=0, lt=1)
    prompt: str = "a photo of {reference} that {text}"

    @model_validator(mode="after")
    def _sense(self) -> InversionSettings:
        before, here, behind = self.prompt.partition(_HERE)
        if not here or _TEXT in before or behind.count(_TEXT) != 1 or _HERE in behind:
            raise ValueError("prompt: {reference} once, and behind it {text} once, expected")
        if behind[0].isalnum() or behind[0] == "{":
            # A tokenizer would make one word of the two.
            raise ValueError("prompt: a space behind {reference} expected")
        return self


class Inversion(Composer[InversionSettings]):
    """Saito et al. 2023 (arXiv:2302.03084), with the network and the prompt of SEARLE (Baldrati
    et al. 2023, arXiv:2303.15247). The vector of the references goes through three layers and
    stands in the text tower in place of the embeddings of words.
    """

    Settings = InversionSettings

    def __init__(self, settings: InversionSettings, towers: Towers) -> None:
        super().__init__(settings, towers)
        width = settings.hidden * towers.width
        self.network = nn.Sequential(
            nn.Linear(towers.width, width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(width, settings.words * towers.word_width),
        )
        self._before, _, self._behind = settings.prompt.partition(_HERE)
        self._stand, self._at = _place(towers, settings)
        self._word = int(towers.tokenize([self.prompt(None, True)])[0, self._at])

    def prompt(self, text: str | None, pictured: bool) -> str:
        if not pictured:
            return text or ""
        told = self._behind.replace(_TEXT, text) if text is not None else ""
        return self._before + " ".join([self._stand] * self.settings.words) + told

    def masked(self, towers: Towers, split: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Token ids (n, length) of texts, and bool (n, length), where a reference's word stands.

        split: the parts of each text; one stands between each two of them. Places beyond the
        longest text are left out.
        """
        stand = f" {self._stand} "
        whole = towers.tokenize([stand.join(parts) for parts in split])
        slots = torch.zeros(whole.shape, dtype=torch.bool)
        rows = [row for row, parts in enumerate(split) for _ in parts[1:]]
        if not rows:
            return whole, slots
        before = [stand.join(parts[:end]) for parts in split for end in range(1, len(parts))]
        # Where a text's beginning ends, the tower's mark of the end stands instead of the word.
        differs = towers.tokenize(before) != whole[rows]
        there = differs.any(1).nonzero()[:, 0]
        slots[torch.tensor(rows)[there], differs.int().argmax(1)[there]] = True
        return whole, slots & (whole == self._word)

    def forward(self, towers: Towers, asked: Asked) -> Tensor:
        vectors = self.network(asked.images).unflatten(1, (self.settings.words, -1))
        words = Words(vectors, self._at, asked.pictured, asked.slots)
        return unit(towers.texts(asked.ids, words).pooled)


def _place(towers: Towers, settings: InversionSettings) -> tuple[str, int]:
    """A word that is one token between the parts of the prompt, and the place of that token.

    Raises DatagenError where the tokenizer has none, or its texts are too short for the prompt.
    """
    before, _, behind = settings.prompt.partition(_HERE)
    behind = behind.replace(_TEXT, "")
    without = towers.tokenize([before + behind])[0].tolist()
    for word in _STANDS_FOR:
        found = towers.tokenize([before + " ".join([word] * settings.words) + behind])[0].tolist()
        at = next(
            (n for n, pair in enumerate(zip(found, without, strict=True)) if pair[0] != pair[1]),
            None,
        )
        if at is None:
            continue
        end = at + settings.words
        alike = found[end:] == without[at : at + len(found) - end]
        if len(set(found[at:end])) == 1 and end < len(found) and alike:
            return word, at
    raise DatagenError(
        f"composer.inversion: '{settings.prompt}' with {settings.words} words of a reference does "
        f"not fit a text of {towers.length} tokens; set fewer words or a shorter prompt"
    )
