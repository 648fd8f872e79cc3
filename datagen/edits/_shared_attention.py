"""Attention that two panels of a batch share: Prompt-to-Prompt for UNets of diffusers.

Prompt-to-Prompt (Hertz et al. 2022, arXiv:2208.01626) denoises two captions from one noise, and
for the first steps puts the attention maps of the first in place of those of the second:

- cross-attention, at the words that both captions hold (:mod:`datagen.edits._alignment`), in the
  half of the batch that reads captions;
- self-attention, in the layers that are named. As in the data of InstructPix2Pix
  (arXiv:2211.09800) both halves of classifier-free guidance share it.

No map is ever written down. The target's self-attention is computed with the reference's queries
and keys. Its cross-attention is the sum of two: with M the aligned maps and o the words that keep
their own, ``(A_r M + A_t diag(o)) V_t = A_r (M V_t) + A_t (diag(o) V_t)``, where ``A_r`` and
``A_t`` are the maps of the two panels; each term is a plain scaled dot-product attention.

All targets of a batch are computed alike, whether they share at this step or not, so that what
stands beside a sample does not show in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datagen.edits._alignment import Alignment
from datagen.errors import DatagenError

Block = Literal["down", "mid", "up"]
BLOCKS: tuple[Block, ...] = ("down", "mid", "up")

#: Processors that compute plain attention, so that ours may stand in for them.
_PLAIN = ("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor")
_EXPECTED = "a text-to-image pipeline with a UNet, of the class of Stable Diffusion 1, 2 or XL"


@dataclass(frozen=True)
class Shares:
    """What one sample shares: shares of the steps (0 to 1, from the first step on), and words."""

    cross: float
    within: float
    alignment: Alignment


@dataclass(frozen=True)
class Layers:
    """Layers whose self-attention is shared.

    blocks: parts of the UNet; coarseness: only where the grid is at least so many times coarser
    than the latents, a power of 2 (1: everywhere; at 512 pixels 4 means grids of 16 and 8).
    """

    blocks: tuple[Block, ...] = BLOCKS
    coarseness: int = 1

    def hold(self, name: str, depth: int) -> bool:
        """Whether the layer called ``name`` is one of them. depth: down blocks of the UNet."""
        part, _, rest = name.partition(".")
        level = depth - 1
        if part == "down_blocks":
            level = int(rest.partition(".")[0])
        elif part == "up_blocks":
            level = depth - 1 - int(rest.partition(".")[0])
        return part.partition("_")[0] in self.blocks and 2**level >= self.coarseness


def unfit(pipeline: type) -> str | None:
    """Why a pipeline of this class cannot share attention; None: it can."""
    parts = inspect.signature(pipeline.__init__).parameters  # type: ignore[misc]
    call = inspect.signature(pipeline.__call__).parameters
    name = pipeline.__name__
    if "unet" not in parts:
        what = "a transformer" if "transformer" in parts else "no UNet"
        return f"{name} has {what}; prompt_to_prompt expects {_EXPECTED}"
    if "tokenizer" not in parts or "callback_on_step_end" not in call or "image" in call:
        return f"{name} does not paint from captions alone; prompt_to_prompt expects {_EXPECTED}"
    return None


class Sharing:
    """Lets the panels of a batch share attention as long as it is entered.

    The batch holds reference and target of each sample side by side: r₀, t₀, r₁, t₁, …; with
    classifier-free guidance all of them without captions first. Give the pipeline
    :meth:`step_end` as ``callback_on_step_end``: it counts the steps.
    """

    def __init__(self, unet: Any, samples: Sequence[Shares], layers: Layers | None = None) -> None:
        self._unet = unet
        self._samples = tuple(samples)
        self._layers = layers or Layers()
        self._before: dict[str, Any] = {}
        self._step = 0
        self._steps = 0
        self._known: dict[Any, Any] = {}

    def __enter__(self) -> Sharing:
        if not hasattr(self._unet, "attn_processors"):
            raise DatagenError(
                f"{type(self._unet).__name__} has no attention; expected {_EXPECTED}"
            )
        depth = len(self._unet.config.down_block_types)
        before = dict(self._unet.attn_processors)
        for processor in before.values():
            if type(processor).__name__ not in _PLAIN:
                raise DatagenError(
                    f"{type(self._unet).__name__} attends by {type(processor).__name__}, which "
                    f"cannot be shared; prompt_to_prompt expects {_EXPECTED}"
                )
        self._step, self._steps, self._known, self._before = 0, 0, {}, before
        self._unet.set_attn_processor(
            {
                name: _Processor(self, shares_within=self._layers.hold(name, depth))
                for name in before
            }
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._unet.set_attn_processor(dict(self._before))
        self._known = {}

    def step_end(self, pipeline: Any, step: int, _: Any, kept: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's callback: step ``step`` (from 0) is done."""
        self._step, self._steps, self._known = step + 1, int(pipeline.num_timesteps), {}
        return kept

    # ------------------------------------------------------------ what is shared at this step

    def _shared(self, share: float) -> bool:
        """Whether this step lies in the first ``share`` of the steps."""
        # The pipeline tells how many steps there are when the first is done. Rounding keeps
        # products such as 0.7 times 10 from reaching into the step after.
        return share > 0 if not self._step else self._step < round(share * self._steps, 6)

    def _panels(self, batch: int) -> int:
        """Panels of the batch, without guidance."""
        panels = 2 * len(self._samples)
        if batch not in (panels, 2 * panels):
            raise DatagenError(
                f"prompt_to_prompt: a batch of {panels} panels (twice as many with guidance) "
                f"expected, {batch} found"
            )
        return panels

    def within(self, states: Any) -> Any | None:
        """For each row of a self-attention the row whose queries and keys it uses; None: its own.

        states: (B, …), what the layer is called with.
        """
        key = ("within", len(states), states.device)
        if key not in self._known:
            panels = self._panels(len(states))
            rows = list(range(len(states)))
            for number, sample in enumerate(self._samples):
                if self._shared(sample.within):
                    for half in range(0, len(states), panels):
                        rows[half + 2 * number + 1] -= 1
            moved = any(row != place for place, row in enumerate(rows))
            self._known[key] = _tensor(rows, states) if moved else None
        return self._known[key]

    def across(self, text: Any) -> _Mixed | None:
        """What a cross-attention shares; None: nothing. text: (B, T, channels), read captions."""
        key = ("across", len(text), text.device)
        if key not in self._known:
            self._known[key] = self._mixed(text)
        found: _Mixed | None = self._known[key]
        return found

    def _mixed(self, text: Any) -> _Mixed | None:
        batch, length = text.shape[:2]
        begin = batch - self._panels(batch)
        rows = [begin + 2 * number + 1 for number in range(len(self._samples))]
        taken = np.zeros((len(rows), length, length), np.float32)
        own = np.ones((batch, length), np.float32)
        for number, (row, sample) in enumerate(zip(rows, self._samples, strict=True)):
            found = sample.alignment
            if len(found.own) != length:
                raise DatagenError(
                    f"prompt_to_prompt: captions of {len(found.own)} tokens expected, the UNet "
                    f"reads {length}"
                )
            if self._shared(sample.cross):
                taken[number], own[row] = found.taken, found.own
        if not taken.any():
            return None
        return _Mixed(
            rows=_tensor(rows, text),
            sources=_tensor([row - 1 for row in rows], text),
            taken=_tensor(taken, text),
            own=_tensor(own, text)[:, :, None],
        )


@dataclass(frozen=True)
class _Mixed:
    """Cross-attention that is shared, as tensors on one device. N: samples.

    rows, sources: (N,) rows of the targets and of their references; taken: (N, T, T), zero of
    targets that share nothing; own: (B, T, 1).
    """

    rows: Any
    sources: Any
    taken: Any
    own: Any


class _Processor:
    """Attention of one layer, as diffusers' AttnProcessor2_0 computes it, with shared maps."""

    def __init__(self, sharing: Sharing, *, shares_within: bool) -> None:
        self._sharing = sharing
        self._shares_within = shares_within

    def __call__(
        self,
        attn: Any,
        hidden_states: Any,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
        temb: Any = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        residual, states = hidden_states, hidden_states
        if attn.spatial_norm is not None:
            states = attn.spatial_norm(states, temb)
        grid = states.shape[2:] if states.ndim == 4 else None
        if grid is not None:
            states = states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            states = attn.group_norm(states.transpose(1, 2)).transpose(1, 2)
        states = self._attended(attn, states, encoder_hidden_states, attention_mask)
        # The layer's output projection, and its dropout.
        states = attn.to_out[1](attn.to_out[0](states))
        if grid is not None:
            states = states.transpose(1, 2).unflatten(2, grid)
        if attn.residual_connection:
            states = states + residual
        return states / attn.rescale_output_factor

    def _attended(self, attn: Any, states: Any, text: Any, mask: Any) -> Any:
        """(B, tokens, channels) before the output projection."""
        read = states
        if text is not None:
            read = attn.norm_encoder_hidden_states(text) if attn.norm_cross else text
        queries, keys, values = attn.to_q(states), attn.to_k(read), attn.to_v(read)
        if mask is not None:
            mask = attn.prepare_attention_mask(mask, keys.shape[1], len(states))
            mask = mask.view(len(states), attn.heads, -1, mask.shape[-1])
        if text is None:
            rows = self._sharing.within(states) if self._shares_within else None
            if rows is not None:
                queries, keys, mask = queries[rows], keys[rows], _at(mask, rows)
            return _attention(attn, queries, keys, values, mask)
        mixed = self._sharing.across(text)
        if mixed is None:
            return _attention(attn, queries, keys, values, mask)
        out = _attention(attn, queries, keys, values * mixed.own.to(values.dtype), mask)
        moved = mixed.taken.to(values.dtype) @ values[mixed.rows]
        at = mixed.sources
        out[mixed.rows] += _attention(attn, queries[at], keys[at], moved, _at(mask, at))
        return out


def _at(mask: Any, rows: Any) -> Any:
    return None if mask is None else mask[rows]


def _attention(attn: Any, queries: Any, keys: Any, values: Any, mask: Any) -> Any:
    """(B, tokens, channels), of what the layer ``attn`` has projected to as many channels.

    Rows are chosen before heads are split, so that tensors lie in memory as they always do: other
    strides may take other kernels, with other last bits.
    """
    from torch.nn.functional import scaled_dot_product_attention

    queries, keys, values = (
        one.unflatten(2, (attn.heads, -1)).transpose(1, 2) for one in (queries, keys, values)
    )
    if attn.norm_q is not None:
        queries = attn.norm_q(queries)
    if attn.norm_k is not None:
        keys = attn.norm_k(keys)
    out = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return out.transpose(1, 2).flatten(2).to(queries.dtype)


def _tensor(values: Any, beside: Any) -> Any:
    """``values`` on the device of ``beside``."""
    import torch

    return torch.as_tensor(values, device=beside.device)
