"""Retrievers as folders: the towers in their library's own format, the composer beside them.

``open_clip_config.json`` and ``open_clip_model.safetensors`` (or ``config.json`` and
``model.safetensors`` of transformers, with tokenizer and preprocessor) are what open_clip and
transformers load by themselves; ``composer.safetensors`` holds the composer's weights,
``retriever.json`` its settings and how all was trained, ``README.md`` is the model card.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as deserialized
from safetensors.torch import save as serialized

from datagen import errors, frames, models, preprocess, store, vision
from datagen.errors import DatagenError
from datagen.step import Settings
from datagen.training import card, composers, towers
from datagen.training.model import Model
from datagen.training.retriever import RETRIEVER

COMPOSER = "composer.safetensors"
#: By which files towers are known.
_TOWERS = (
    models.OPEN_CLIP_CONFIG,
    "open_clip_model.safetensors",
    "config.json",
    "model.safetensors",
    vision.PREPROCESSOR,
)


class Note(Settings):
    """What ``retriever.json`` holds.

    format: of the file; composer: its name as ``op`` and its settings; frames: of a clip; pad: of
    images, as in :class:`datagen.training.towers.TowerSettings`;
    temperature: of the weights of a clip's frames; base: the model that training began with;
    training: how it was trained, whatever the training says; datagen: the version that wrote it.
    """

    format: Literal[1] = 1
    composer: dict[str, Any]
    frames: preprocess.Frames = 8
    pad: float = 0.0
    temperature: float = Field(0.1, gt=0)
    base: str = ""
    training: dict[str, Any] = Field(default_factory=dict)
    datagen: str = ""


def save(
    folder: str,
    model: Model,
    *,
    choice: frames.Choice = 8,
    training: Mapping[str, Any] | None = None,
    figures: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write ``model`` into ``folder``.

    choice: frames of a clip; training: facts of how it was trained, JSON; figures: for the card,
    tables by title, each a mapping of metric to value. Weights are written as they are, low-rank
    adapters added to those that they stand beside. Raises DatagenError where that fails.
    """
    store.make_folder(folder)
    # Of an earlier model in the same place, the note first: what is left is then no retriever.
    for name in (RETRIEVER, COMPOSER, *_TOWERS):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))
    try:
        model.towers.write(folder)
    except OSError as error:
        raise store.explained(folder, error) from error
    except SafetensorError as error:
        raise DatagenError(f"{folder}: {' '.join(str(error).split())[:200]}") from error
    weights = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in sorted(model.composer.state_dict().items())
    }
    note = Note(
        composer={"op": model.op, **model.composer.settings.model_dump(mode="json")},
        frames=choice,
        pad=model.towers.geometry.ratio,
        temperature=model.temperature,
        base=model.towers.reference,
        training=json.loads(json.dumps(dict(training or {}))),
        datagen=importlib.metadata.version("datagen"),
    )
    store.write_bytes(os.path.join(folder, COMPOSER), serialized(weights))
    text = card.render(note.model_dump(mode="json"), model, figures or {})
    store.write_bytes(os.path.join(folder, "README.md"), text.encode())
    # Last: a folder with it is complete.
    store.write_json(os.path.join(folder, RETRIEVER), note.model_dump(mode="json"))


def read(folder: str) -> Note:
    """``retriever.json`` of a folder. Raises DatagenError."""
    path = os.path.join(folder, RETRIEVER)
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return Note.model_validate(data)
    except OSError as error:
        raise DatagenError(
            f"{path}: {error.strerror}; a folder that a training wrote expected"
        ) from error
    except ValidationError as error:
        lines = errors.of_settings(path, error, data, Note.model_fields)
        raise DatagenError("; ".join(lines)) from error
    except ValueError as error:
        raise DatagenError(f"{path}: no JSON ({error})") from error


def model(
    folder: str,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    trust_remote_code: bool = False,
    image: towers.Parts = "none",
    text: towers.Parts = "none",
    lora: towers.LoraSettings | None = None,
    pad: float | None = None,
) -> Model:
    """The model in ``folder``, to ask or to train further. Raises DatagenError."""
    note = read(folder)
    settings = towers.TowerSettings(
        model=f"file:{folder}",
        image=image,
        text=text,
        lora=lora,
        pad=note.pad if pad is None else pad,
        trust_remote_code=trust_remote_code,
    )
    found = towers.load(settings, device, precision)
    made = composers.make(note.composer, found)
    path = os.path.join(folder, COMPOSER)
    try:
        weights = deserialized(store.read_bytes(path))
        made.load_state_dict(weights)
    except OSError as error:
        raise DatagenError(
            f"{path}: {error.strerror or error}; the folder is not complete"
        ) from error
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise DatagenError(f"{path}: not the weights of this composer ({first})") from error
    out = Model(found, made.to(device), str(note.composer["op"]))
    out.temperature = note.temperature
    # A folder has no meaning elsewhere: what it began with has.
    out.towers.reference = note.base or out.towers.reference
    return out


def load(
    folder: str,
    device: str,
    precision: str,
    trust_remote_code: bool = False,
    pad: float | None = None,
) -> tuple[Model, frames.Choice]:
    """The model in ``folder``, and which frames of clips it takes. Raises DatagenError."""
    code = trust_remote_code
    found = model(folder, device=device, precision=precision, trust_remote_code=code, pad=pad)
    return found, read(folder).frames
