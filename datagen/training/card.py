"""The model card of a trained retriever, as the Hugging Face Hub reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from datagen.report import _markdown

_TEMPLATE = "card.md.j2"


def render(note: Mapping[str, Any], model: Any, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of the card.

    note: what ``retriever.json`` holds; figures: tables by title, each metric and value. Texts
    that a user or a collection wrote are escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_markdown.inert,
        autoescape=False,
    )
    environment.filters["code"] = _markdown.code
    environment.filters["measured"] = _measured
    weights = {
        "towers": sum(one.numel() for one in model.towers.parameters()),
        "composer": sum(one.numel() for one in model.composer.parameters()),
    }
    head = {
        "library_name": "datagen",
        "pipeline_tag": "feature-extraction",
        "tags": ["composed-image-retrieval", "composed-video-retrieval"],
    }
    composer = {key: value for key, value in note["composer"].items() if key != "op"}
    return environment.get_template(_TEMPLATE).render(
        head=_markdown.Safe(yaml.safe_dump(head, sort_keys=False)),
        note=note,
        composer=composer,
        settings=_markdown.block(yaml.safe_dump(note["training"], sort_keys=False), "yaml"),
        figures=figures,
        weights=weights,
        model=model,
    )


def _measured(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
