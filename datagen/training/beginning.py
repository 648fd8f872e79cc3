"""What a training begins with: its model, its precision, and what is told of its sources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datagen import models, store
from datagen.errors import DatagenError
from datagen.training import composers, folders, towers
from datagen.training.across import Ranks
from datagen.training.loader_settings import Source, named
from datagen.training.model import Model
from datagen.training.retriever import RETRIEVER
from datagen.training.settings import TrainSettings


def model(settings: TrainSettings, device: str) -> Model:
    """The model that training begins with. Raises DatagenError."""
    chosen = settings.model
    place = os.path.expanduser(chosen.model)
    ref = models.parse(f"file:{place}" if os.path.isdir(place) else chosen.model)
    with models.loading(str(ref)):
        models.prepare()
    if ref.folder and os.path.isfile(os.path.join(ref.folder, RETRIEVER)):
        out = folders.model(
            ref.folder,
            device=device,
            trust_remote_code=chosen.trust_remote_code,
            image=chosen.image,
            text=chosen.text,
            lora=chosen.lora,
            pad=chosen.pad,
        )
    else:
        found = towers.load(chosen.model_copy(update={"model": str(ref)}), device)
        made = composers.make(settings.composer, found)
        out = Model(found, made.to(device), str(settings.composer["op"]))
    if settings.freeze_composer:
        out.composer.requires_grad_(False)
    if settings.checkpointing:
        out.towers.checkpointing()
    return out


def listed(given: Sequence[str | Source], settings: TrainSettings) -> list[Source]:
    """The sources of a training, with the weights that its settings tell. Raises DatagenError."""
    out = named(list(given))
    if not settings.weights:
        return out
    if len(settings.weights) != len(out):
        raise DatagenError(
            f"weights: {len(settings.weights)} for {len(out)} runs; name one for each, in their "
            "order"
        )
    return [replace(one, weight=own) for one, own in zip(out, settings.weights, strict=True)]


def together(settings: TrainSettings, ranks: Ranks) -> None:
    """Raise DatagenError where several processes cannot train by these settings."""
    if ranks.count == 1:
        return
    if not settings.loader.drop_last:
        raise DatagenError(
            "loader.drop_last: true expected where several processes train together, as all have "
            "the same number of batches"
        )
    if settings.loader.replace is False:
        raise DatagenError(
            "loader.replace: true expected where several processes train together, or one with a "
            "broken batch would leave the others waiting"
        )


def other_composer(settings: TrainSettings, model: Model) -> list[str]:
    """A line where the settings name another composer than the folder that is trained on has."""
    if not os.path.isfile(os.path.join(os.path.expanduser(settings.model.model), RETRIEVER)):
        return []
    own = {"op": model.op, **model.composer.settings.model_dump(mode="json")}
    if all(own.get(name) == value for name, value in settings.composer.items()):
        return []
    return [
        f"composer: {settings.model.model} has one of its own, {model.op}, which is trained; "
        "that of the settings is not used"
    ]


def precision(settings: TrainSettings, device: str) -> str:
    """fp32 or bf16: weights are float32, and products bf16 where the GPU has it."""
    found = models.precision(settings.precision, device)
    return "bf16" if found == "bf16" else "fp32"


def told(source: Source) -> dict[str, Any]:
    """A source for the card: its path, and the recipe of the run that it is."""
    out: dict[str, Any] = {"path": source.path, "split": source.split}
    if source.weight is not None:
        out["weight"] = source.weight
    path = store.join(source.path, "run.json")
    if not source.path.endswith(".tar") and store.exists(path):
        note = store.read_json(path)
        recipe = note.get("recipe") or {}
        out |= {"recipe": recipe.get("name"), "rows": note.get("rows"), "seed": recipe.get("seed")}
    return out
