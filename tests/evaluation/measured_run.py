"""A finished run written by hand: pictures of one colour each, triplets as they are wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from datagen import schema, store

#: References and target by number, text, split; the text ``wrong`` is of a rejected one.
Triplet = tuple[list[int], int, str, str]


def name(number: int) -> str:
    """The id of an item."""
    return schema.content_id(f"item {number}")


def write(folder: Path, count: int, triplets: Sequence[Triplet]) -> str:
    """Write the run and its pictures ``p0.png`` …; gives its directory.

    The item after the last picture has words alone.
    """
    items = [_item(folder, number) for number in range(count)]
    items.append({**items[0], "id": name(count), "caption": "only words", "media": None})
    rows = []
    for references, target, text, split in triplets:
        pair = schema.pair_id([items[one]["id"] for one in references], [items[target]["id"]])
        rows.append(
            {
                "id": schema.triplet_id(pair, text),
                "pair": pair,
                "references": [items[one] for one in references],
                "targets": [items[target]],
                "modification": text,
                "evidence": {"operator": "made", "reason": "by hand", "changes": [], "score": None},
                "provenance": [],
                "negatives": [],
                "split": split,
                "verdict": schema.REJECTED if text == "wrong" else schema.KEPT,
            }
        )
    columns = pa.schema(
        [
            *schema.TRIPLETS,
            schema.NEGATIVES,
            schema.SPLIT,
            *schema.VERDICT_FIELDS,
            pa.field("step", pa.string()),
        ]
    )
    rows.sort(key=lambda row: row["id"])
    out = store.join(str(folder), "run")
    table = pa.Table.from_pylist(rows, schema=columns)
    store.write_table(store.join(out, "triplets.parquet"), table)
    note = {"status": "finished", "layout": 1, "rows": "0" * 16, "seed": 0, "versions": {}}
    recipe = {"name": "made", "about": "By hand", "source": {"type": "folder"}}
    store.write_json(
        store.join(out, "run.json"), {**note, "recipe": recipe, "steps": [], "funnel": []}
    )
    return out


def _item(folder: Path, number: int) -> dict[str, Any]:
    path = folder / f"p{number}.png"
    colour = np.random.default_rng(number).integers(0, 255, 3)
    Image.fromarray(np.full((20, 24, 3), colour, np.uint8)).save(path)
    data = path.read_bytes()
    media = {
        "path": str(path),
        "offset": 0,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "modality": "image",
        "format": "png",
        "width": 24,
        "height": 20,
        "seconds": None,
        "frames": None,
    }
    return {
        "id": name(number),
        "key": str(number),
        "source": "made",
        "caption": f"thing {number}",
        "labels": "{}",
        "media": media,
    }
