"""Dual encoders behind one interface: images and texts as vectors, and as tokens.

Open_clip's models (:mod:`datagen.training._open_clip_towers`) and those of transformers
(:mod:`datagen.training._transformers_towers`) differ in names only. Which parts are trained is
chosen by name: nothing, the projection into the shared space, the last blocks, or all; low-rank
adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) stand beside frozen blocks.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from datagen import models, vision
from datagen.errors import DatagenError
from datagen.preprocess import RATIO, Geometry, is_ratio
from datagen.step import Settings

#: What of a tower is trained: nothing, its projection, everything, or so many blocks at its end
#: (with what follows them).
Parts = Literal["none", "projection", "all"] | Annotated[int, Field(ge=1)]


class LoraSettings(Settings):
    """Low-rank adapters in all blocks of the named towers; needs the extra ``train``.

    rank: of the two factors; alpha: their product is scaled by alpha / rank; dropout: share of
    inputs of the adapters that are dropped in training.
    """

    towers: tuple[Literal["image", "text"], ...] = ("image", "text")
    rank: int = Field(8, ge=1)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class TowerSettings(Settings):
    """model: a CLIP model of open_clip, or a CLIP or SigLIP of transformers, by reference.

    image, text: what is trained of each tower: ``none``, ``projection`` (into the shared space),
    ``all``, or a number of blocks at its end, with the projection. lora: adapters in the blocks,
    whose weights stay as they are. pad: ``ratio`` of :class:`datagen.preprocess.Geometry`, 1.25 in
    CLIP4Cir; by default what a trained folder has, else none. trust_remote_code: run code that a
    model of the Hub brings along, as the user who runs it; off unless you know that code.
    """

    model: str
    image: Parts = "none"
    text: Parts = "none"
    lora: LoraSettings | None = None
    pad: float | None = None
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _sense(self) -> TowerSettings:
        if self.pad is not None and not is_ratio(self.pad):
            raise ValueError(f"pad: {RATIO}")
        for name in self.lora.towers if self.lora else ():
            if getattr(self, name) not in ("none", "projection"):
                raise ValueError(f"{name}: with lora its blocks stay; set none or projection")
        return self


class Encoded(NamedTuple):
    """What a tower makes of n inputs.

    pooled: (n, width), float32, of any length; tokens: (n, t, tower's width) before the pooling,
    where asked for; mask: (n, t), which of them are no padding.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


class Words(NamedTuple):
    """Vectors that stand for words of a text.

    vectors: (n, k, width of words); at: the place of the first among a text's tokens; rows: (n),
    which texts have them; slots: bool (n, length), in place of ``at`` and of one word, wherever a
    text has the one vector.
    """

    vectors: Tensor
    at: int
    rows: Tensor
    slots: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """A tower's modules and parameters, from its blocks on: what can be trained by itself."""

    everything: Sequence[Any]
    blocks: Sequence[nn.Module]
    after: Sequence[Any] = field(default=())
    projection: Sequence[Any] = field(default=())

    def chosen(self, parts: Parts, name: str) -> Sequence[Any]:
        """Modules and parameters that ``parts`` names. Raises DatagenError."""
        if parts == "none":
            return ()
        if parts == "all":
            return self.everything
        if parts == "projection":
            if not any(list(_parameters(one)) for one in self.projection):
                raise DatagenError(f"{name}: the tower has no projection; name a number of blocks")
            return self.projection
        if parts > len(self.blocks):
            raise DatagenError(
                f"{name}: {parts} blocks asked for, the tower has {len(self.blocks)}"
            )
        return (*self.blocks[-parts:], *self.after, *self.projection)


class Towers(nn.Module):  # type: ignore[misc]
    """A dual encoder. Its inputs are uint8 pixels and token ids, the same for every library.

    model: the library's own; geometry: of its images; width: of the shared space; image_width,
    text_width: of tokens; word_width: of the text tower's word embeddings; length: tokens of a
    text, with padding.
    """

    def __init__(self, model: nn.Module, geometry: Geometry, reference: str) -> None:
        super().__init__()
        self.model = model
        self.geometry = geometry
        self.reference = reference
        self.width = self.image_width = self.text_width = self.word_width = self.length = 0
        for name in ("mean", "std"):
            values = torch.tensor(getattr(geometry, name)).view(1, 3, 1, 1)
            self.register_buffer(f"_{name}", values, persistent=False)

    @property
    def device(self) -> Any:
        """Where the weights are."""
        return self._mean.device

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (n, length) of texts, cut where they are too long; int64, on the CPU."""

    def images(self, pixels: Tensor, tokens: bool = False) -> Encoded:
        """Encode uint8 (n, height, width, 3)."""
        values = pixels.to(self.device).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
        values = (values - self._mean) / self._std
        return self._images(values.to(self._input_type()), tokens)

    def texts(self, ids: Tensor, words: Words | None = None, tokens: bool = False) -> Encoded:
        """Encode token ids (n, length); ``words`` stand in place of some of their embeddings."""
        if words is None:
            return self._texts(ids.to(self.device), tokens)
        with _standing(self.embedding(), words):
            return self._texts(ids.to(self.device), tokens)

    @abstractmethod
    def _input_type(self) -> Any:
        """The type of number that the image tower takes."""

    @abstractmethod
    def _images(self, values: Tensor, tokens: bool) -> Encoded: ...

    @abstractmethod
    def _texts(self, ids: Tensor, tokens: bool) -> Encoded: ...

    @abstractmethod
    def embedding(self) -> nn.Module:
        """The module that turns ids into embeddings of words."""

    @abstractmethod
    def part(self, name: Literal["image", "text"]) -> Part:
        """The image or the text tower."""

    @abstractmethod
    def write(self, folder: str) -> None:
        """Write the model into ``folder`` in its library's own format, weights as they are."""

    @abstractmethod
    def checkpointing(self) -> None:
        """Keep no activations inside blocks; they are computed again on the way back."""

    def choose(self, settings: TowerSettings) -> None:
        """Let exactly the parts that ``settings`` name be trained. Raises DatagenError."""
        from datagen.training import _lora

        if settings.lora is not None:
            _lora.add(self, settings.lora)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        for side in ("image", "text"):
            for one in self.part(side).chosen(getattr(settings, side), side):
                for parameter in _parameters(one):
                    parameter.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Towers:
        """As of any module, but that frozen modules and running statistics stay as they are."""
        super().train(mode)
        if mode:
            _still(self.model)
        return self


def _parameters(one: Any) -> Iterator[Any]:
    if isinstance(one, nn.Parameter):
        yield one
    elif one is not None:
        yield from one.parameters()


def _still(module: Any) -> None:
    """Put frozen modules, and batch normalisation, into eval mode."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()
        return
    own = list(module.parameters())
    if own and not any(parameter.requires_grad for parameter in own):
        module.eval()
        return
    for child in module.children():
        _still(child)


@contextmanager
def _standing(embedding: nn.Module, words: Words) -> Iterator[None]:
    """Let ``words`` stand in what ``embedding`` gives."""

    def replaced(_: Any, __: Any, found: Tensor) -> Tensor:
        if words.slots is not None:
            slots = words.slots.to(found.device)[..., None]
            return torch.where(slots, words.vectors[:, :1].to(found.dtype), found)
        out = found.clone()
        rows = words.rows.to(found.device)
        out[rows, words.at : words.at + words.vectors.shape[1]] = words.vectors[rows].to(out.dtype)
        return out

    hook = embedding.register_forward_hook(replaced)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def caught(module: Any) -> Iterator[list[Any]]:
    """What ``module`` gives while the block runs."""
    found: list[Any] = []
    hook = module.register_forward_hook(lambda _, __, given: found.append(given))
    try:
        yield found
    finally:
        hook.remove()


def unit(vectors: Tensor) -> Tensor:
    """Rows of length 1, float32; zero stays zero."""
    return nn.functional.normalize(vectors.float(), dim=-1)


def load(settings: TowerSettings, device: str = "cpu", precision: str = "fp32") -> Towers:
    """The dual encoder that ``settings`` name, its parts chosen. Raises DatagenError."""
    from datagen.training import _open_clip_towers, _transformers_towers

    ref = models.parse(settings.model)
    transformers = ref.scheme == "hf"
    if ref.folder and not os.path.isfile(os.path.join(ref.folder, models.OPEN_CLIP_CONFIG)):
        transformers = os.path.isfile(os.path.join(ref.folder, vision.PREPROCESSOR))
    towers: Towers
    if transformers:
        towers = _transformers_towers.load(ref, device, precision)
    else:
        towers = _open_clip_towers.load(ref, device, precision, settings.trust_remote_code)
    towers.geometry = replace(towers.geometry, ratio=settings.pad or 0.0)
    towers.choose(settings)
    return towers
