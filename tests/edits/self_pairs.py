"""Items with pictures and boxes for tests of self-pairs, and the pairs that come of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import painting
import pyarrow as pa
from PIL import Image

from datagen import media, schema
from datagen.edits._self_pair import SelfPair
from datagen.explode import explode
from datagen.made import Maker
from datagen.painted import settled
from datagen.step import Context

#: Width and height of the pictures, and their boxes.
SIZE = (120, 80)
DOG, CAT = (30, 20, 70, 60), (80, 8, 116, 44)
BOXES = [{"label": "dog", "box": list(DOG)}, {"label": "cat", "box": list(CAT)}]
LINE = {"step": "edit", "operator": "edit.self", "seed": 0, "model": None}


def photo(seed: int) -> Image.Image:
    """A picture in which no two regions are alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    return Image.fromarray(pixels)


def items(folder: Path, *labels: Mapping[str, Any], caption: str | None = "a dog") -> pa.Table:
    """An item for each of ``labels``, with a picture of its own; numbered by key."""
    rows = []
    for number, one in enumerate(labels):
        own = painting.stored(folder / f"{number}.png", photo(number))
        captions = [f"{caption} {number}"] if caption else []
        text = schema.canonical_json(dict(one))
        name = schema.item_id(own["sha256"], captions, text)
        rows.append(
            {"id": name, "key": str(number), "source": "s", "media": own, "captions": captions,
             "labels": text}
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema.ITEMS).sort_by("id")


def opened(kind: Any, folder: Path, **told: Any) -> SelfPair[Any]:
    operator: SelfPair[Any] = kind(kind.Settings.model_validate(told))
    operator.registered_name = kind.__name__.lower()  # type: ignore[attr-defined]
    assert list(operator.check()) == []
    operator.open(Context(step="edit", seed=3, staged=str(folder / "staged")))
    return operator


def answers(operator: SelfPair[Any], rows: pa.Table) -> pa.Table:
    """What the operator says of items that can be read."""
    prepared = operator.prepare(rows)
    assert set(prepared["verdict"].to_pylist()) == {schema.KEPT}
    return operator(prepared.drop_columns(["verdict", "rule", "detail"]))


def rules(operator: SelfPair[Any], rows: pa.Table) -> dict[str, str | None]:
    """By key of the item the rule against it."""
    keys = dict(zip(rows["id"].to_pylist(), rows["key"].to_pylist(), strict=True))
    return {keys[one["id"]]: one["rule"] for one in answers(operator, rows).to_pylist()}


def pairs(operator: SelfPair[Any], rows: pa.Table, folder: Path) -> list[dict[str, Any]]:
    """The pairs as a run has them, pictures in their shards."""
    answer = answers(operator, rows)
    answered = answer.rename_columns(["unit" if n == "id" else n for n in answer.column_names])
    told = {"step": "edit"}
    answered = settled(answered, str(folder / "staged"), str(folder / "media"), told)
    table = explode(rows, answered, LINE, Maker(rows, "edit")).rows
    assert table.schema.names[: len(schema.PAIRS)] == schema.PAIRS.names
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def pixels(member: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(media.image(member["media"])).astype(int)


def original(member: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The picture of an item, by its key."""
    return np.asarray(photo(int(member["key"]))).astype(int)


def regions(pair: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Where evidence says that the pair was cut."""
    changes = pair["evidence"]["changes"]
    return [
        tuple(int(one) for one in change["removed"].split())
        for change in changes
        if change["field"] == "position"
    ]


def inside(boxes: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
    found = np.zeros((SIZE[1], SIZE[0]), bool)
    for left, top, right, bottom in boxes:
        found[top:bottom, left:right] = True
    return found


def record(pair: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pair["edit"])
    return found
