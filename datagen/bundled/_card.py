"""Writes the card of a model that comes with datagen, from its figures and how it was made."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from datagen import store
from datagen.bundled import _figures, _scenes

#: How a model was made and what it was measured at. No file that a model's revision hangs on.
FACTS = "facts.yaml"
LIBRARIES = ("torch", "open_clip_torch", "numpy", "pillow", "av")


def write(
    folder: str,
    template: str,
    facts: Mapping[str, Any],
    figures: Mapping[str, Any],
    libraries: Sequence[str] = LIBRARIES,
) -> None:
    """Write ``facts.yaml`` and ``README.md`` beside the model in ``folder``.

    template: a file of this package; facts: how the model was made; figures: what was measured;
    libraries: whose versions are told.
    """
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if path.name != "README.md")
    versions = {name: importlib.metadata.version(name) for name in libraries}
    told = {
        "made": {**facts, "libraries": versions, "megabytes": round(size / 1e6, 1)},
        "figures": dict(figures),
    }
    with store.writing(os.path.join(folder, FACTS)) as file:
        file.write(yaml.safe_dump(told, sort_keys=False).encode())
    with store.writing(os.path.join(folder, "README.md")) as file:
        file.write(card(template, told).encode())


def card(template: str, told: Mapping[str, Any]) -> str:
    """The text of a card: ``template`` with the values of ``facts.yaml``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["share"] = _share
    return environment.get_template(template).render(
        **told, seed=_figures.SEED, training=_scenes.TRAINING_SEEDS, held=_scenes.SHARE
    )


def _share(value: float | jinja2.Undefined) -> str:
    return "–" if isinstance(value, jinja2.Undefined) else f"{value:.3f}"
