"""The metadata of a dataset card, as the Hugging Face Hub and ``datasets`` read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datagen import schema
from datagen.report import _columns, _steps
from datagen.report._columns import flat
from datagen.result import Run
from datagen.shards._plan import VECTOR, VECTOR_FILE
from datagen.shards._write import EXTENSIONS, UNKNOWN

#: Identifiers of licences that the Hub knows.
LICENSES = frozenset([
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m",
    "bigscience-bloom-rail-1.0", "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd",
    "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0",
    "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0",
    "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "isc", "lppl-1.3c", "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0",
    "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl", "lgpl-lr",
    "deepfloyd-if-license", "llama2", "gemma",
])  # fmt: skip
#: SPDX identifiers that the Hub calls by another name.
_SPDX = {
    "odc-by-1.0": "odc-by", "odbl-1.0": "odbl", "pddl-1.0": "pddl", "lgpllr": "lgpl-lr",
    "gpl-2.0-only": "gpl-2.0", "gpl-3.0-only": "gpl-3.0", "lgpl-2.1-only": "lgpl-2.1",
    "lgpl-3.0-only": "lgpl-3.0", "agpl-3.0-only": "agpl-3.0", "c-uda-1.0": "c-uda",
}  # fmt: skip
_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip
_IMAGES = {"jpg", "png", "webp", "gif", "bmp", "tiff", "avif", "ppm"}
_CLIPS = {"mp4", "mov", "webm", "mkv", "avi"}
#: More kinds of members than this are left to the reader to find out.
_MOST_COLUMNS = 100


def metadata(run: Run, stats: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML head of the card as plain values."""
    triplets = stats["counts"]["all"]["triplets"] if stats["splits"] else 0
    kinds = stats["media"]["all"]["modalities"] if stats["splits"] else {}
    head: dict[str, Any] = {"pretty_name": str(stats["run"]["name"] or "datagen")[:80]}
    head |= license_of(stats["sources"])
    if triplets:
        head["size_categories"] = [size_category(triplets)]
    # The Hub has no task of composed retrieval.
    head["task_categories"] = ["image-feature-extraction" if "image" in kinds else "other"]
    head["tags"] = ["datagen", "composed-retrieval", *_tags(kinds)]
    return head | _data_files(run, stats)


def _tags(kinds: Mapping[str, int]) -> list[str]:
    tags = {"image": "composed-image-retrieval", "video": "composed-video-retrieval"}
    return [tag for kind, tag in tags.items() if kind in kinds]


def size_category(count: int) -> str:
    """The Hub's class of a number of rows."""
    return next((name for limit, name in _SIZES if count < limit), "n>1T")


def license_of(sources: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """``license`` (and ``license_name``) of data from these sources.

    One that the Hub knows where all that is used agrees on it; ``unknown`` where nothing is
    stated; else ``other``.
    """
    found: set[str | None] = set()
    every = list(sources)
    for source in [one for one in every if one["items_used"]] or every:
        stated = [source["license"]] if source["license"] else []
        if not stated:
            stated = [one["value"] for one in source["licences_of_items"]]
            stated += [None] if source["items_without_licence"] or not stated else []
        found.update(text if text is None else _identifier(text) for text in stated)
    if found <= {None}:
        return {"license": "unknown"}
    only = next(iter(found)) if len(found) == 1 else None
    if only in LICENSES:
        return {"license": str(only)}
    name = re.sub(r"[^a-z0-9.+]+", "-", str(only)).strip("-")[:60] if only else "see-sources"
    return {"license": "other", "license_name": name or "see-sources"}


def _identifier(text: str) -> str:
    name = " ".join(text.lower().split())
    return _SPDX.get(name, name)


def _data_files(run: Run, stats: Mapping[str, Any]) -> dict[str, Any]:
    """Where each split lies, and the columns: what a reader would guess from the first rows."""
    shards = stats["shards"]
    if not stats["splits"]:
        return {}
    if shards is None:
        files: Any = [{"split": "train", "path": "triplets.parquet"}]
        return {"configs": [{"config_name": "default", "data_files": files}]}
    files = [
        {"split": split, "path": f"shards/{names[0].rpartition('-')[0]}-*.tar"}
        for split, names in shards["names"].items()
    ]
    config = {"configs": [{"config_name": "default", "data_files": files}]}
    columns = members(run, stats)
    if len(columns) > _MOST_COLUMNS:
        return config
    return config | {"dataset_info": {"features": features(columns, _scores(run))}}


def _scores(run: Run) -> list[str]:
    names = _columns.names(_steps.triplets_path(run) or "")
    return sorted(name.removeprefix("score_") for name in names if name.startswith("score_"))


def members(run: Run, stats: Mapping[str, Any]) -> list[str]:
    """Names of the members of the shards beside their texts, without the key: ``reference.jpg``,
    ``negative.0.png``, ``target.npy``.
    """
    path = _steps.triplets_path(run) or ""
    settings: Mapping[str, Any] = next(
        (step["settings"] for step in stats["steps"] if step["kind"] == "shards"), {}
    )
    roles = ["references", "targets"]
    roles += ["negatives"] if settings.get("include_negatives", True) else []
    found: set[tuple[str, int, str]] = set()
    wanted = [f"{role}{'.item' if role == 'negatives' else ''}.media.format" for role in roles]
    sizes = [f"{name.removesuffix('format')}size" for name in wanted]
    for batch in _columns.batches(path, ["verdict", *wanted, *sizes]):
        table = _columns.kept(batch)
        for role in roles:
            if role in table.column_names:
                found |= _places(table, role)
    names = [_name(*one) for one in sorted(found, key=lambda o: (_ORDER[o[0]], o[1], o[2]))]
    return names + ([VECTOR_FILE] if VECTOR in _columns.names(path) else [])


_ORDER = {"references": 0, "targets": 1, "negatives": 2}


def _places(table: pa.Table, role: str) -> set[tuple[str, int, str]]:
    """(role, place in the list, format) of every member with media."""
    fields = ["item", "media"] if role == "negatives" else ["media"]
    form = flat(table, role, *fields, "format").to_pandas()
    there = flat(table, role, *fields).is_valid().to_numpy()
    lengths = pc.fill_null(pc.list_value_length(table[role]), 0).to_numpy()
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = np.arange(len(form)) - starts
    unique = pd.DataFrame({"place": place, "format": form.fillna("")})[there].drop_duplicates()
    return {(role, int(p), f) for p, f in unique.itertuples(index=False)}


def _name(role: str, place: int, form: str) -> str:
    middle = f".{place}" if place or role == "negatives" else ""
    return f"{role[:-1]}{middle}.{EXTENSIONS.get(form, UNKNOWN)}"


def features(columns: Iterable[str], scores: Iterable[str]) -> list[dict[str, Any]]:
    """The columns of the shards as ``datasets`` describes them in a card."""
    media = [{"name": name, **_kind(name)} for name in dict.fromkeys(columns)]
    about = [{"name": name, "dtype": "float64"} for name in scores]
    evidence, line = schema.EVIDENCE, schema.PROVENANCE.value_type
    text = [_feature(name, pa.string()) for name in ("id", "modification", "pair", "split")]
    json = [
        *text,
        {"name": "references", "list": _MEMBER},
        {"name": "targets", "list": _MEMBER},
        {"name": "negatives", "list": [*_MEMBER, *_NEGATIVE]},
        *([{"name": "scores", "struct": about}] if about else []),
        _feature("evidence", evidence),
        _feature("provenance", pa.list_(line)),
    ]
    return [
        *media,
        {"name": "txt", "dtype": "string"},
        {"name": "json", "struct": json},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]


def _kind(name: str) -> dict[str, str]:
    if name == VECTOR_FILE:
        return {"list": "float32"}
    end = name.rpartition(".")[2]
    return {"dtype": "image" if end in _IMAGES else "video" if end in _CLIPS else "binary"}


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    """A field of a table in the words of ``datasets``."""
    if pa.types.is_struct(kind):
        return {"name": name, "struct": [_feature(one.name, one.type) for one in kind]}
    if pa.types.is_list(kind):
        inner = _feature("", kind.value_type)
        return {"name": name, "list": inner.get("struct") or inner["dtype"]}
    return {"name": name, "dtype": "float64" if pa.types.is_float64(kind) else str(kind)}


#: A member of a triplet, as the JSON of a shard tells it: the medium by name, not by its place.
_MEMBER = [
    *(_feature(name, pa.string()) for name in ("id", "key", "source", "caption", "labels", "file")),
    {
        "name": "media",
        "struct": [
            _feature(f.name, f.type) for f in schema.MEDIA if f.name not in ("path", "offset")
        ],
    },
]
_NEGATIVE = [_feature("kind", pa.string()), _feature("score", pa.float64())]
