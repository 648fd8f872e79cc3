"""Writes triplets as WebDataset shards, whole or not at all, one series per split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, Field

from datagen import schema, store
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.shards import _plan
from datagen.shards._plan import Shard
from datagen.shards._write import write_shard
from datagen.step import Context, Parallel, Result, Settings, TableOperator, Tables, serial

MANIFEST = "manifest.json"

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_SHARD_FILE = re.compile(r"(.+-\d{6})\.(?:tar|json)")


def parse_size(value: Any) -> Any:
    """``512MB`` → 512,000,000; ``1GiB`` → 1,073,741,824; a number stays as it is."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"'{value}': expected a size such as 512MB or 1GiB")
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** " kmgt".index(found[2].lower() or " "))


class WebDatasetShardsSettings(Settings):
    """Settings of :class:`WebDatasetShards`.

    max_size: bytes of a shard, such as ``512MB`` or ``1GiB``; a triplet that is larger has a
        shard of its own. max_count: triplets of a shard (None: no limit).
    include_negatives: write the negatives' media; their ids and captions are there anyway.
    prefix: what shard names start with, ahead of the split.
    """

    max_size: Annotated[int, BeforeValidator(parse_size), Field(gt=0)] = 512_000_000
    max_count: Annotated[int, Field(gt=0)] | None = None
    include_negatives: bool = True
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$")] = ""


class WebDatasetShards(TableOperator[WebDatasetShardsSettings]):
    """Writes ``shards/train-000000.tar`` … and ``shards/manifest.json`` into the run directory.

    A triplet with the id KEY is KEY.reference.EXT, KEY.target.EXT (KEY.reference.1.EXT, … for
    more), KEY.negative.0.EXT …, KEY.txt (the modification) and KEY.json (everything else; the
    labels of an item are a JSON text in it); KEY.target.npy where the target is a vector. EXT is
    the true format; bytes are the source's, checked against the hash taken at ingest. Beside each
    tar its notes (``.json``): what was planned, the tar's size and hash. A shard with the right
    notes is not written again.

    A triplet whose media are gone or have changed since ingest fails as ``media_changed``; one
    whose id cannot name a tar member fails as ``bad_id``. Plain ``webdataset``, ``datasets`` and
    Ray Data (``file_extensions=["tar"]`` for a folder) read the shards; ``datasets`` wants the
    same member names in every sample, so give it ``features=`` where formats or numbers of
    negatives are mixed.
    """

    Settings = WebDatasetShardsSettings
    levels = ("triplets",)

    def needs(self, level: Level) -> set[str]:
        return {"modification"}

    def gives(self, level: Level) -> set[str]:
        return {"shards"}

    def __call__(self, tables: Tables, context: Context, parallel: Parallel = serial) -> Result:
        folder = store.join(context.out_dir, "shards")
        chosen = self.settings
        planned = _plan.plan(
            tables.rows, chosen.max_size, chosen.max_count, chosen.include_negatives, chosen.prefix
        )
        notes = _Folder(folder, chosen.include_negatives).fill(planned, parallel)
        failed = {row[0]: row for shard in notes for row in shard["failed"]}
        manifest = _manifest(notes)
        path = store.join(folder, MANIFEST)
        if not store.exists(path) or store.read_json(path) != manifest:
            store.write_json(path, manifest)
        kept = [name not in failed for name in tables.rows["id"].to_pylist()]
        return Result(
            rows=tables.rows.filter(pa.array(kept, pa.bool_())),
            verdicts=_verdicts(tables.rows["id"].to_pylist(), failed),
            notes={
                "shards": len(manifest["shards"]),
                **{key: manifest[key] for key in ("triplets", "bytes", "splits")},
                "manifest": _hash(manifest),
            },
        )

    def still_stands(self, context: Context, notes: Mapping[str, Any]) -> bool:
        """Whether the manifest is the one in ``notes`` and every tar is there in full length."""
        folder = store.join(context.out_dir, "shards")
        try:
            manifest = store.read_json(store.join(folder, MANIFEST))
            return bool(_hash(manifest) == notes["manifest"]) and all(
                store.size(store.join(folder, shard["name"])) == shard["bytes"]
                for shard in manifest["shards"]
            )
        except (OSError, DatagenError, KeyError, TypeError):
            return False


class _Folder:
    """The folder of shards: what is in it already, what must go, what must be written."""

    def __init__(self, folder: str, negatives: bool) -> None:
        self.folder = folder
        self.negatives = negatives
        # A name that the next run clears away, should this one be killed.
        self.rows_folder = store.join(folder.rpartition("/")[0], ".plan-shards")

    def fill(self, planned: Sequence[Shard], parallel: Parallel) -> list[dict[str, Any]]:
        """Write the shards that are not there yet; gives the notes of all, in order."""
        store.make_folder(self.folder)
        store.clean(self.folder)
        store.remove(self.rows_folder)
        there = set(store.names(self.folder))
        notes: dict[str, dict[str, Any]] = {}
        specs: list[dict[str, Any]] = []
        for shard in planned:
            plan, packed = shard.packed(self.negatives)
            found = self._finished(shard.name, plan) if f"{shard.name}.json" in there else None
            if found is not None:
                notes[shard.name] = found
                continue
            rows = store.join(self.rows_folder, f"{shard.name}.parquet")
            with store.writing(rows, durable=False) as file:
                file.write(packed)
            specs.append(
                {"rows": rows, "folder": self.folder, "name": shard.name, "split": shard.split,
                 "plan": plan, "negatives": self.negatives}
            )  # fmt: skip
        self._remove_stale(there, set(notes), changed=bool(specs))
        for spec, written in zip(specs, parallel(write_shard, specs), strict=True):
            notes[spec["name"]] = written
        store.remove(self.rows_folder)
        return [notes[shard.name] for shard in planned]

    def _finished(self, name: str, plan: str) -> dict[str, Any] | None:
        """The notes of a shard that is whole and as planned. One with failures is tried again."""
        try:
            notes = store.read_json(store.join(self.folder, f"{name}.json"))
            as_planned = notes["plan"] == plan and not notes["failed"]
            whole = (
                as_planned and store.size(store.join(self.folder, notes["name"])) == notes["bytes"]
            )
            return notes if whole else None
        except (FileNotFoundError, DatagenError, KeyError, TypeError):
            return None

    def _remove_stale(self, there: set[str], finished: set[str], changed: bool) -> None:
        """Remove files of another plan; the manifest goes first, so nobody reads a mixture."""
        old = []
        for name in there:
            found = _SHARD_FILE.fullmatch(name)
            if found is not None and found[1] not in finished:
                old.append(name)
        if MANIFEST in there and (old or changed):
            store.remove(store.join(self.folder, MANIFEST))
        for name in sorted(old):  # the notes (.json) ahead of the tar
            store.remove(store.join(self.folder, name))


def _hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(schema.canonical_json(manifest).encode()).hexdigest()


def _manifest(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shards = [
        {key: shard[key] for key in ("name", "split", "triplets", "bytes", "sha256")}
        for shard in notes
        if shard["triplets"]
    ]
    splits: dict[str, dict[str, int]] = {}
    for shard in shards:
        counts = splits.setdefault(shard["split"], {"shards": 0, "triplets": 0, "bytes": 0})
        counts["shards"] += 1
        counts["triplets"] += shard["triplets"]
        counts["bytes"] += shard["bytes"]
    return {
        "format": "datagen-triplets",
        "version": _plan.VERSION,
        "triplets": sum(shard["triplets"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "splits": splits,
        "shards": shards,
    }


def _verdicts(ids: Sequence[str], failed: dict[str, Sequence[str]]) -> pa.Table:
    """Verdicts that name the rule of a failure too."""
    rows = [
        {"id": name, "verdict": schema.FAILED, "rule": failed[name][1], "detail": failed[name][2]}
        if name in failed
        else {"id": name, "verdict": schema.KEPT}
        for name in ids
    ]
    return pa.Table.from_pylist(rows, schema=schema.VERDICTS)
