"""Embedders: operators that turn items into spaces, and the choice of one for a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

#: Spaces of texts, by their usual names; every other space is of images.
TEXT_SPACES = ("caption", "captions", "text", "texts")
_ENCODER = ("modules.json", "config.json")


def operator_for(settings: Mapping[str, Any]) -> str | None:
    """The embedder meant by a step's ``model`` and ``space``; None where they do not tell."""
    from datagen import models
    from datagen.errors import DatagenError

    model = settings.get("model")
    if model == "tfidf":
        return "tfidf"
    if not isinstance(model, str):
        return None
    try:
        ref = models.parse(model)
    except DatagenError:
        # Any embedder that is built with this reference says what is wrong with it.
        return "open_clip"
    if ref.scheme == "open_clip":
        return "open_clip"
    if ref.folder and os.path.isfile(os.path.join(ref.folder, models.OPEN_CLIP_CONFIG)):
        return "open_clip"
    if ref.folder and not any(os.path.isfile(os.path.join(ref.folder, n)) for n in _ENCODER):
        return None
    of_text = settings.get("of") == "caption" or settings.get("space") in TEXT_SPACES
    return "sentence_transformers" if of_text else None
