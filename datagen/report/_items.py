"""The items of a run: media, sources and licences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datagen.report import _columns
from datagen.report._columns import MEDIA
from datagen.report._numbers import share, summary

#: Labels that name the licence of an item.
LICENCES = ("license", "licence")
#: Different values of such a label that are listed.
MOST = 50


def listed(path: str) -> pd.DataFrame:
    """What the source gave: id, source, media and the licence of each item (None: not labelled)."""
    wanted = ["id", "source", "labels", *(f"media.{name}" for name in MEDIA)]
    tables = []
    for batch in _columns.batches(path, wanted):
        columns = {name: batch[name].to_pandas() for name in ("id", "source")}
        for name in MEDIA:
            columns[name] = pc.struct_field(batch["media"], name).to_pandas()
        columns["licence"] = _licences(batch["labels"])
        tables.append(pd.DataFrame(columns))
    names = ["id", "source", *MEDIA, "licence"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)


def _licences(labels: pa.ChunkedArray) -> pd.Series[Any]:
    """The licence that each item's labels (JSON) name; parsed only where they may."""
    out: list[str | None] = [None] * len(labels)
    mentions = pc.fill_null(pc.match_substring_regex(labels, r'(?i)"licen[cs]e"'), False)
    for row in np.flatnonzero(mentions.to_numpy()):
        try:
            value = json.loads(labels[int(row)].as_py())
        except ValueError:
            continue
        if isinstance(value, dict):
            named = {str(key).lower(): text for key, text in value.items()}
            text = next((named[key] for key in LICENCES if named.get(key) is not None), None)
            out[row] = None if text is None else str(text)
    return pd.Series(out, dtype=object)


def media(items: pd.DataFrame) -> dict[str, Any]:
    """Figures of the media of some items; an item without media is counted as such."""
    there = items[items["modality"].notna()]
    clips = there[there["modality"] == "video"]
    return {
        "items": len(items),
        "without_media": len(items) - len(there),
        "modalities": _counts(there["modality"]),
        "formats": _counts(there["format"]),
        "width": summary(there["width"].astype(float)),
        "height": summary(there["height"].astype(float)),
        "seconds": summary(clips["seconds"].astype(float)),
        "bytes": int(there["size"].astype(float).fillna(0).sum()),
        "bytes_each": summary(there["size"].astype(float)),
    }


def _counts(column: pd.Series[Any]) -> dict[str, int]:
    found = Counter(column.dropna())
    return {str(name): int(n) for name, n in sorted(found.items(), key=lambda o: (-o[1], o[0]))}


def of_recipe(recipe: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Id and settings of each source of a resolved recipe."""
    given = recipe.get("source") or []
    return [
        (str(one.get("id") or one.get("type") or "").rpartition(":")[2], dict(one))
        for one in (given if isinstance(given, list) else [given])
    ]


def sources(recipe: Mapping[str, Any], items: pd.DataFrame, used: set[str]) -> list[dict[str, Any]]:
    """Per source: what it is, items that it gave and that triplets use, and its licences.

    items: see :func:`listed`; used: ids of the items that kept triplets use in any role.
    """
    taken = items["id"].isin(used)
    known = dict(of_recipe(recipe))
    names = [*known, *sorted(set(items["source"].dropna()) - set(known))]
    return [
        _source(name, known.get(name, {}), items, (items["source"] == name), taken)
        for name in names
    ]


def made(paths: Mapping[str, str], used: set[str]) -> list[dict[str, Any]]:
    """Per step that made items: how many, and how many of them triplets use. ``paths``: of the
    files of made items, by step; ``used``: as for :func:`sources`.
    """
    out = []
    for step, path in paths.items():
        ids = _columns.read(path, ["id"])["id"].to_pylist()
        taken = sum(name in used for name in ids)
        out.append({"step": step, "items": len(ids), "items_used": taken})
    return out


def _source(
    name: str, settings: dict[str, Any], items: pd.DataFrame, own: Any, taken: Any
) -> dict[str, Any]:
    stated = settings.get("license")
    labelled = Counter(items.loc[own, "licence"].dropna())
    return {
        "id": name,
        "type": settings.get("type"),
        "license": str(stated) if stated not in (None, "") else None,
        "items": int(own.sum()),
        "items_used": int((own & taken).sum()),
        "licences_of_items": [
            {"value": value, "count": count, "share": share(count, int(own.sum()))}
            for value, count in sorted(labelled.items(), key=lambda o: (-o[1], o[0]))[:MOST]
        ],
        "items_without_licence": int(own.sum()) - sum(labelled.values()),
    }
