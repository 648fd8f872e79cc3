"""Rows with pictures for tests of operators that paint, and what these answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from datagen import media, schema
from datagen.edits._painter import Painter
from datagen.step import Context

Array = np.ndarray[Any, Any]
SIDES = ("references", "targets")


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def stored(path: Path, image: Image.Image) -> dict[str, Any]:
    """The media of a picture that is written to ``path`` as PNG."""
    image.save(path, "png")
    data = path.read_bytes()
    none = dict.fromkeys(one.name for one in schema.MEDIA)
    return none | {
        "path": str(path),
        "offset": 0,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "modality": "image",
        "format": "png",
        "width": image.width,
        "height": image.height,
    }


def member(caption: str | None, own: Mapping[str, Any] | None, **labels: Any) -> dict[str, Any]:
    none = dict.fromkeys(one.name for one in schema.MEMBER)
    told = {"caption": caption, "media": own, "labels": json.dumps(labels)}
    return none | {"id": f"i-{caption}", **told}


def row(name: str, **told: Any) -> dict[str, Any]:
    """A row of the triplets: a dog that becomes a cat, unless ``told`` otherwise."""
    changes = [{"field": "caption", "removed": "dog", "added": "cat"}]
    return {
        "id": name,
        "references": [member("a red dog on the grass", None)],
        "targets": [member("a red cat on the grass", None)],
        "evidence": {
            "operator": "one_word_diff",
            "reason": "dog, cat",
            "changes": changes,
            "score": 0.5,
        },
        "modification": "make it a cat",
        **told,
    }


def table(*rows: Mapping[str, Any]) -> pa.Table:
    """Rows as an operator reads them."""
    names = [name for name in ("id", *SIDES, "evidence", "modification") if name in rows[0]]
    return pa.Table.from_pylist(
        [dict(one) for one in rows], pa.schema([schema.TRIPLETS.field(name) for name in names])
    )


def opened(kind: Any, name: str, folder: Path, **told: Any) -> Painter[Any]:
    """An operator, ready to paint, with settings that make it quick; it has no faults."""
    quick = {"steps": 2, "batch_size": 2, "format": "png", "device": "cpu", "size": (64, 64)}
    operator: Painter[Any] = kind(kind.Settings.model_validate(quick | told))
    operator.registered_name = name  # type: ignore[attr-defined]
    assert list(operator.check()) == []
    operator.open(Context(step="edit", seed=3, staged=str(folder / "staged")))
    return operator


def answers(operator: Painter[Any], rows: pa.Table) -> list[dict[str, Any]]:
    """What an operator says of rows, as the engine asks it."""
    prepared = operator.prepare(rows)
    if "verdict" in prepared.column_names:
        assert set(prepared["verdict"].to_pylist()) == {schema.KEPT}
        prepared = prepared.drop_columns(["verdict", "rule", "detail"])
    found: list[dict[str, Any]] = operator(prepared).to_pylist()
    return found


def told(operator: Painter[Any], rows: pa.Table) -> dict[str, str | None]:
    """The rule of each row that is not kept; None for those that are."""
    return {one["id"]: one["rule"] for one in answers(operator, rows)}


def pixels(line: Mapping[str, Any], side: str = "targets") -> Array:
    """The picture of the first member of a side."""
    return np.asarray(media.image(line[side][0]["media"]))
