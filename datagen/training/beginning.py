"""What a training begins with: its model, its precision, and what is told of its sources."""

from __future__ import annotations

import os
from typing import Any

from datagen import models, store
from datagen.training import composers, folders, towers
from datagen.training.loader_settings import Source
from datagen.training.model import Model
from datagen.training.retriever import RETRIEVER
from datagen.training.settings import TrainSettings


def model(settings: TrainSettings, device: str) -> Model:
    """The model that training begins with. Raises DatagenError."""
    chosen = settings.model
    ref = models.parse(f"file:{chosen.model}" if os.path.isdir(chosen.model) else chosen.model)
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
