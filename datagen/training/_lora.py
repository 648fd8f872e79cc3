"""Low-rank adapters in the blocks of towers, by peft (LoRA, arXiv:2106.09685)."""

from __future__ import annotations

import copy
import importlib.util
import re
from typing import Any

from torch import nn

from datagen.errors import DatagenError


def add(towers: Any, settings: Any) -> None:
    """Put adapters beside the linear layers and attentions of the blocks of the named towers.

    Raises DatagenError where peft is not installed, or the towers have adapters already.
    """
    if importlib.util.find_spec("peft") is None:
        raise DatagenError(
            "lora: peft is not installed; needs the extra: pip install 'datagen[train]'"
        )
    if getattr(towers, "_tuner", None) is not None:
        raise DatagenError("lora: the towers have adapters already")
    from peft import LoraConfig, LoraModel

    blocks = [block for name in settings.towers for block in towers.part(name).blocks]
    inside = {id(module) for block in blocks for module in block.modules()}
    names: list[str] = []
    for name, module in towers.model.named_modules():
        # An attention of torch adapts its own output layer.
        own = any(name.startswith(f"{one}.") for one in names)
        if (
            id(module) in inside
            and isinstance(module, (nn.Linear, nn.MultiheadAttention))
            and not own
        ):
            names.append(name)
    if not names:
        raise DatagenError("lora: the towers have no linear layers in their blocks")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="|".join(map(re.escape, names)),
    )
    # Kept aside: as a part of the towers its weights would stand there twice.
    object.__setattr__(towers, "_tuner", LoraModel(towers.model, config, "default"))


def merged(towers: Any) -> nn.Module:
    """The model of ``towers`` with adapters added to its weights; the model itself where it has
    none.
    """
    tuner = getattr(towers, "_tuner", None)
    if tuner is None:
        return towers.model
    return copy.deepcopy(tuner).merge_and_unload()
