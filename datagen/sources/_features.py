"""Columns of a dataset: which hold media, which labels by number, and how long their bytes are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datagen.sources import _records

#: Feature types of media, by the modality that they tell.
_MEDIA = {"Image": "image", "Video": "video"}
#: Feature types that neither labels nor captions are made of.
_HEAVY = frozenset({*_MEDIA, "Audio", "Pdf", "Mesh", "Nifti"})
#: Feature types without fields.
_PLAIN = frozenset({*_HEAVY, "Value", "ClassLabel"})
_BYTES = frozenset({"binary", "large_binary"})
_TEXTS = frozenset({"string", "large_string"})


def inner(feature: Any) -> Any:
    """The feature of a list's elements, however datasets writes it; None where it is no list."""
    if isinstance(feature, list):
        return feature[0]
    found = getattr(feature, "feature", None)
    return None if isinstance(found, Mapping) and type(feature).__name__ == "Sequence" else found


def _is_file(feature: Any) -> bool:
    """Whether a column is an object of bytes and a path: an image or clip that nobody declared."""
    return isinstance(feature, Mapping) and set(feature) in ({"bytes"}, {"bytes", "path"})


def holds_media(feature: Any) -> bool:
    """Whether a column can be the media of records: images, clips, bytes, or paths."""
    within = inner(feature)
    if within is not None:
        return holds_media(within)
    if _is_file(feature):
        return True
    return type(feature).__name__ in _MEDIA or getattr(feature, "dtype", "") in _BYTES | _TEXTS


def holds(features: Mapping[str, Any], name: str) -> bool:
    """Whether ``meta.title`` is a field within one of the columns, as far as their types tell."""
    head, _, rest = name.partition(".")
    return bool(rest) and head in features and _has(features[head], rest)


def _has(feature: Any, name: str) -> bool:
    within = inner(feature)
    if within is not None:
        return _has(within, name)
    # The old Sequence of objects keeps its fields in ``feature``.
    fields = feature if isinstance(feature, Mapping) else getattr(feature, "feature", None)
    if isinstance(fields, Mapping):
        return name in fields or holds(fields, name)
    # Plain values have no fields; which ones a column of JSON has, only its rows tell.
    return type(feature).__name__ not in _PLAIN


def is_heavy(feature: Any) -> bool:
    """Whether a column holds media or bytes, which no label is made of."""
    within = inner(feature)
    if within is not None:
        return is_heavy(within)
    if _is_file(feature):
        return True
    return type(feature).__name__ in _HEAVY or getattr(feature, "dtype", "") in _BYTES


def modality(feature: Any) -> str:
    """``image`` or ``video`` where the feature tells; else ``auto``."""
    within = inner(feature)
    return modality(within) if within is not None else _MEDIA.get(type(feature).__name__, "auto")


def told(feature: Any, value: Any) -> Any:
    """``value`` with the names of classes in place of their numbers, and columns of JSON read."""
    if value is None:
        return None
    if type(feature).__name__ == "Json":
        return _parsed(value)
    if type(feature).__name__ == "ClassLabel":
        names = feature.names or []
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
    fields = feature if isinstance(feature, Mapping) else getattr(feature, "feature", None)
    if isinstance(fields, Mapping) and isinstance(value, Mapping):
        # The old Sequence of objects is an object of lists.
        return {
            name: [told(fields.get(name), part) for part in one]
            if fields is not feature and isinstance(one, list)
            else told(fields.get(name), one)
            for name, one in value.items()
        }
    within = inner(feature)
    if within is not None and isinstance(value, (list, tuple)):
        return [told(within, part) for part in value]
    return value


def _parsed(value: Any) -> Any:
    """What a cell of JSON says; the cell as it is where it says nothing."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def byte_lengths(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Bytes of media in every row (int64, n), read off the offsets alone."""
    found = [_lengths(chunk) for chunk in column.chunks]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _lengths(column: pa.Array) -> np.ndarray[Any, Any]:
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _lengths(column.storage)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        within = _lengths(pc.list_flatten(column))
        parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        return np.bincount(parents, within, len(column)).astype(np.int64)
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        if place < 0:
            return np.zeros(len(column), np.int64)
        return _lengths(pc.struct_field(column, [place]))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        sizes = pc.fill_null(pc.binary_length(column), 0).cast(pa.int64())
        plain: np.ndarray[Any, Any] = sizes.to_numpy(zero_copy_only=False)
        return plain
    return np.zeros(len(column), np.int64)


def media(value: Any) -> list[tuple[bytes | None, str | None]]:
    """(bytes, path) of every medium in a cell; either may be None."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [one for part in value for one in media(part)]
    if isinstance(value, bytes):
        return [(value, None)]
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        return [(data, path)] if data or path else []
    return [(None, text) for text in _records.texts(value)]
