"""What answers composed queries: the protocol, and loading one by reference.

A retriever puts references with a modification text, and the images and clips of a gallery, into
one space; the nearest by cosine are the answer. :func:`load` makes one of a CLIP model as it is
(zero-shot, references and text added), or of a folder that a training wrote. Importing this module
imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from datagen import frames, models
from datagen.errors import DatagenError
from datagen.preprocess import RATIO, is_ratio

Array = np.ndarray[Any, Any]

#: What a folder that a training wrote is known by.
RETRIEVER = "retriever.json"
#: What stands in such a folder from the beginning of the training on.
TRAINING = "training.json"


class Retriever(Protocol):
    """Puts queries and gallery into one space, where the nearest by cosine is the answer."""

    def targets(
        self, media: Sequence[Mapping[str, Any] | None], texts: Sequence[str | None] | None = None
    ) -> Array:
        """Vectors (n, d) of a gallery, float32 of length 1.

        media: schema.MEDIA of images or clips. texts: captions; an item without media is its
        caption, a clip with one has its frames weighted by how near each is to it.
        Raises MediaError where a medium cannot be read, DatagenError where an item has neither.
        """

    def queries(
        self, references: Sequence[Sequence[Mapping[str, Any]]], texts: Sequence[str | None]
    ) -> Array:
        """Vectors (n, d) of queries, float32 of length 1.

        references: schema.MEDIA of each query's, none for a query by text alone; texts: None for a
        query by references alone.
        Raises as :meth:`targets` does.
        """


def load(
    reference: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 64,
    choice: frames.Choice | None = None,
    composer: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    pad: float | None = None,
) -> Retriever:
    """The retriever of ``reference``.

    reference: a CLIP model of open_clip (``open_clip:…``, ``bundled:…``, ``file:…``) or a CLIP or
    SigLIP of transformers (``hf:…``, ``file:…``), asked zero-shot; or a folder that a training
    wrote, by ``file:…`` or its plain path. device, precision: as in :mod:`datagen.models`;
    batch_size: frames, and queries, of every forward pass; choice: frames of a clip, by default
    the folder's own, or eight; composer: settings of another composer (``{"op": "sum",
    "how": "slerp"}``) for a model that is asked zero-shot; pad: longest images, as a ratio of
    sides, beyond which they are padded, by default the folder's own, or none.
    Raises DatagenError where the model is absent, broken or no dual encoder.
    """
    if pad is not None and not is_ratio(pad):
        raise DatagenError(f"pad {pad:g}: {RATIO}")
    ref = _parsed(reference)
    with models.loading(str(ref)):
        models.prepare()
        import torch  # noqa: F401
    from datagen.training import folders, zero_shot
    from datagen.training.answering import Answering

    device = models.device(device)
    precision = models.precision(precision, device)
    if ref.folder and os.path.isfile(os.path.join(ref.folder, RETRIEVER)):
        if composer is not None:
            raise DatagenError(f"{ref.folder}: has a composer of its own; name none")
        model, own = folders.load(ref.folder, device, precision, trust_remote_code, pad)
    elif ref.folder and os.path.isfile(os.path.join(ref.folder, TRAINING)):
        raise DatagenError(
            f"{ref.folder}: this training has not ended; the command that began it goes on with it"
        )
    else:
        given = {"op": "sum"} if composer is None else composer
        model, own = zero_shot.load(ref, given, device, precision, trust_remote_code, pad), 8
    return Answering(model, batch_size, own if choice is None else choice)


def _parsed(reference: str) -> models.ModelRef:
    if os.path.isdir(os.path.expanduser(reference)):
        return models.parse(f"file:{reference}")
    return models.parse(reference)
