"""Regions that a text names, found by CLIPSeg (Lüddecke & Ecker 2022, arXiv:2112.10003)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from datagen import libraries, models
from datagen.edits._masks import Mask
from datagen.errors import DatagenError
from datagen.models import ModelRef

_WEIGHTS = ("*.safetensors",)
_BESIDE = ("*.json", "*.txt")


class Segmenter:
    """A model of transformers that gives a picture's share for a text, pixel by pixel.

    It is asked for one picture and one text at a time, so its answer hangs on nothing else.
    """

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        self._model = model
        self._processor = processor
        self._device = device

    def __call__(self, picture: Image.Image, texts: Sequence[str], threshold: float) -> Mask:
        """Where ``picture`` (RGB) shows any of ``texts``: (height, width).

        threshold: from which share on, 0 to 1.
        """
        found = np.zeros((picture.height, picture.width), bool)
        for text in texts:
            found |= self._share(picture, text) >= threshold
        return found

    def _share(self, picture: Image.Image, text: str) -> Any:
        import torch

        given = self._processor(
            text=[text],
            images=[picture],
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(self._device)
        with torch.inference_mode():
            logits = self._model(**given).logits.float().cpu()
        share = torch.sigmoid(logits).numpy()
        share = share.reshape(share.shape[-2:])
        plane = Image.fromarray(share, "F").resize(picture.size, Image.Resampling.BILINEAR)
        return np.asarray(plane)


def check(ref: ModelRef) -> None:
    """Raise DatagenError where a reference is no model that can be looked for."""
    if ref.scheme == "open_clip":
        raise DatagenError(f"segmenter '{ref}': hf:org/name or a folder of CLIPSeg expected")
    models.revision(ref)


def load(ref: ModelRef, device: str) -> Segmenter:
    """The segmenter of ``ref``, on ``device``. Raises DatagenError."""
    folder = ref.folder or models.snapshot(ref.name, ref.tag, _WEIGHTS, _BESIDE)
    with libraries.loading(str(ref), ref.repository):
        libraries.prepare()
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        options = {"local_files_only": True}
        model = CLIPSegForImageSegmentation.from_pretrained(folder, use_safetensors=True, **options)
        processor = CLIPSegProcessor.from_pretrained(folder, **options)
    return Segmenter(model.to(device).eval(), processor, device)
