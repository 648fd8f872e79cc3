"""No picture is painted: what the target's caption says takes the picture's place, as a vector.

SCOT (arXiv:2501.08347) trains against the embedding of the caption that a language model edited,
and so do InstructCIR (arXiv:2412.05756) and RTD (arXiv:2406.09188); LinCIR (arXiv:2312.01998)
trains on captions alone. The vector stands in the space of a model of texts and pictures, in which
pictures are searched for afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from datagen import clip, models, schema
from datagen.ingest import clean_caption
from datagen.pinned import ModelChoice, Pinned
from datagen.schema import Level
from datagen.sentences import SentenceEncoder
from datagen.step import Context, Resources

Array = np.ndarray[Any, Any]

#: The column that shards write as ``KEY.target.npy``.
COLUMN = "target_vector"


class TextTargetSettings(ModelChoice):
    """Whose vectors of captions are the targets."""

    #: ``open_clip:ARCHITECTURE/TAG``, ``open_clip:hf-hub:org/name``, ``bundled:tinyclip`` or a
    #: folder of open_clip; or a sentence encoder, ``hf:org/name`` or a folder.
    model: str
    #: Of a sentence encoder: text put before every caption; null: as the model has it.
    prompt: str | None = None
    #: Captions of every forward pass.
    batch_size: int = Field(64, ge=1)
    #: Run code that a model of the Hub brings along, as the user who runs it; off unless you know
    #: that code.
    trust_remote_code: bool = False


class TextTarget(Pinned[TextTargetSettings]):
    """Makes the target of every row the caption that it has, and gives the caption's vector.

    The target is an item of that caption alone, and ``target_vector`` its vector: of length 1,
    rounded to half precision. With several targets it is the mean of theirs, scaled to length 1.
    Shards hold it as ``KEY.target.npy``. A row whose targets are not all captioned is rejected as
    ``no_caption``.
    """

    Settings = TextTargetSettings
    levels = ("pairs", "triplets")
    makes = True
    requires = (("torch", "models"),)

    def __init__(self, settings: TextTargetSettings) -> None:
        super().__init__(settings)
        self._of_clip = self.ref.scheme == "open_clip" or (
            bool(self.ref.folder)
            and os.path.isfile(os.path.join(self.ref.folder, models.OPEN_CLIP_CONFIG))
        )

    def needs(self, level: Level) -> set[str]:
        return {"pairs", "items.captions"}

    def gives(self, level: Level) -> set[str]:
        return {"collection"}

    def columns(self, level: Level) -> list[str]:
        return ["id", "targets", "evidence"]

    def resources(self) -> Resources:
        gpus = models.gpus(self.settings.device)
        return Resources(gpus=gpus, batch_size=8 * self.settings.batch_size, actor=True)

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self._of_clip and self.settings.prompt is not None:
            yield f"prompt: of a sentence encoder, and '{self.ref}' is a model of open_clip"

    def look(self) -> None:
        if self._of_clip:
            clip.config(self.ref)

    def open(self, context: Context) -> None:
        chosen = self.settings
        given: dict[str, Any] = {
            "device": chosen.device,
            "precision": chosen.precision,
            "batch_size": chosen.batch_size,
            "trust_remote_code": chosen.trust_remote_code,
        }
        self.encoder: clip.Clip | SentenceEncoder = (
            clip.load(self.ref, **given)
            if self._of_clip
            else SentenceEncoder(self.ref, prompt=chosen.prompt, **given)
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        read = rows.select(self.columns("pairs")).to_pylist()
        captions = [_captions(row["targets"]) for row in read]
        unique = list(dict.fromkeys(text for texts in captions for text in texts))
        vectors = dict(zip(unique, self.encoder.texts(unique), strict=True))
        lines, found = [], np.zeros((len(read), self.encoder.width), np.float32)
        for place, (row, texts) in enumerate(zip(read, captions, strict=True)):
            line = dict.fromkeys(_ANSWER.names) | {"id": row["id"], "verdict": schema.KEPT}
            if not texts:
                line |= {"verdict": schema.REJECTED, "rule": "no_caption"}
                line["detail"] = "a target has no caption"
            else:
                found[place] = _mean([vectors[text] for text in texts])
                line |= {"targets": _targets(row["targets"], texts), "evidence": _evidence(row)}
            if not np.isfinite(found[place]).all():
                line |= {"verdict": schema.FAILED, "rule": "no_direction", "targets": None}
                line["detail"] = "the model gave zero or no finite vector"
            lines.append(line)
        table = pa.Table.from_pylist(lines, schema=_ANSWER)
        lost = np.array([line["verdict"] != schema.KEPT for line in lines], bool)
        flat = pa.array(np.nan_to_num(found).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, self.encoder.width, mask=pa.array(lost))
        return table.append_column(COLUMN, column)


_ANSWER = pa.schema(
    [
        ("id", pa.string()),
        *(schema.PAIRS.field(name) for name in ("targets", "evidence")),
        *schema.VERDICT_FIELDS,
    ]
)


def _captions(targets: list[dict[str, Any]]) -> list[str]:
    """The caption of every target; none where one of them has none."""
    found = [clean_caption(one["caption"]) for one in targets]
    return found if all(found) else []


def _mean(vectors: list[Array]) -> Array:
    """The mean of unit vectors, of length 1; of one, that vector."""
    if len(vectors) == 1:
        return vectors[0]
    total = np.stack(vectors).astype(np.float64).sum(axis=0, keepdims=True)
    mean: Array = models.unit_vectors(total)[0]
    return mean


def _targets(targets: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]] | None:
    """Targets that are captions alone; None where the row's are."""
    if all(one["media"] is None for one in targets):
        return None
    # Of equal captions one is enough.
    empty = dict.fromkeys(field.name for field in schema.MEMBER)
    return [empty | {"caption": text} for text in dict.fromkeys(texts)]


def _evidence(row: dict[str, Any]) -> dict[str, Any]:
    """The evidence that the row has: given again, it tells that the step has changed the row."""
    none: dict[str, Any] = {"operator": "text_target", "reason": None, "changes": [], "score": None}
    return row["evidence"] or none
