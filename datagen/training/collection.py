"""The shards of a run or of a folder: which there are, whether they are whole, where rows lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from datagen import media, store
from datagen.errors import DatagenError, nearest
from datagen.recipe import MediaLimits
from datagen.training import shard_index

#: What is done with a shard that is not as its manifest says: an error; leave it out; take it as
#: it is. The last two say so in the notes. One that is no whole tar is never taken.
Mismatch = Literal["error", "skip", "use"]
#: What a shard is held against: its manifest's size and hash, or its size alone.
Verify = Literal["hash", "size"]

MANIFEST = "manifest.json"

#: Triplets of a shard that notes name.
TOLD = 10
#: Shards that are scanned at once.
AT_ONCE = 8


@dataclass(frozen=True)
class Shard:
    """A tar of triplets, and the local file of its index."""

    path: str
    index: str


@dataclass(frozen=True)
class Collection:
    """The shards of one run, or of one folder, in order.

    notes: what is not as it should be, a line each; limits: what its media may cost, as the
    run's recipe says.
    """

    path: str
    shards: tuple[Shard, ...]
    notes: tuple[str, ...] = ()
    limits: media.Limits = media.DEFAULT


def collect(
    path: str,
    split: str | None = "train",
    verify: Verify = "hash",
    mismatch: Mismatch = "error",
    copy: bool = False,
) -> Collection:
    """Find the shards of ``path``: a run directory, a folder with shards, or one tar.

    Of a folder with a manifest the shards of ``split`` are taken (None: all), and held against
    it; without a manifest, those whose names begin with the split, where any does. copy: shards
    of a far store are copied to ``TMPDIR`` first. Raises DatagenError where there are none, the
    split is unknown, or a shard is not as it should be and ``mismatch`` is ``error``.
    """
    path = store.local_path(path) if store.is_local(path) else path.rstrip("/")
    folder, listed, notes = _listed(path, split)
    reader = _Reader(folder, verify, mismatch, copy)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(reader.shard, listed))
    notes += [line for _, lines in found for line in lines]
    shards = tuple(shard for shard, _ in found if shard is not None)
    if not shards:
        raise DatagenError(f"{path}: no shard of it can be used ({notes[0]})")
    return Collection(path, shards, tuple(notes), _limits(path))


def _listed(path: str, split: str | None) -> tuple[str, list[Mapping[str, Any]], list[str]]:
    """The folder, the entries of its manifest (or only names), and notes."""
    if path.endswith(".tar"):
        folder, _, name = path.rpartition("/")
        told = _manifest(folder)
        known = [one for one in told or () if one["name"] == name]
        return folder, known or [{"name": name}], [] if known else [_untold(path)]
    for folder in (store.join(path, "shards"), path):
        told = _manifest(folder)
        if told is not None:
            chosen = [one for one in told if split is None or one["split"] == split]
            if not chosen:
                splits = {str(one["split"]) for one in told}
                raise DatagenError(f"{path}: no split '{split}'; {nearest(str(split), splits)}")
            return folder, chosen, []
        tars = [name for name in store.names(folder) if name.endswith(".tar")]
        if tars:
            mine = [name for name in tars if split is not None and name.startswith(split)]
            return folder, [{"name": name} for name in mine or tars], [_untold(folder)]
    raise DatagenError(f"{path}: no shards here; a run directory or a folder of .tar expected")


def _untold(path: str) -> str:
    return f"{path}: no {MANIFEST}, so sizes and hashes of shards are not checked"


def _manifest(folder: str) -> Sequence[Mapping[str, Any]] | None:
    path = store.join(folder, MANIFEST)
    if not store.exists(path):
        return None
    told = store.read_json(path)
    try:
        return [
            {"name": _plain(one["name"]), "split": one["split"], "bytes": int(one["bytes"]),
             "sha256": one["sha256"], "triplets": int(one["triplets"])}
            for one in told["shards"]
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DatagenError(f"{path}: not a manifest of triplet shards ({error})") from error


def _plain(name: Any) -> str:
    """A name that stays in its folder. Raises ValueError for any other."""
    if not isinstance(name, str) or os.path.basename(name) != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no file name")
    return name


@dataclass(frozen=True)
class _Reader:
    """Looks at one shard after another. It holds no state, so that threads may share it."""

    folder: str
    verify: Verify
    mismatch: Mismatch
    copy: bool

    def shard(self, told: Mapping[str, Any]) -> tuple[Shard | None, list[str]]:
        """The shard, if it is to be used, and lines about it."""
        path = store.join(self.folder, told["name"])
        if self.copy and not store.is_local(path):
            path = store.join(store.local_copy(self.folder, [told["name"]]), told["name"])
        try:
            place = shard_index.kept(path, self.verify == "hash" and "sha256" in told)
        except shard_index.Damaged as error:
            return None, [self._wrong(str(error), usable=False)]
        found = shard_index.opened(place)
        lines = [
            f"{path}: triplet {key} left out: {rule} ({detail})"
            for key, rule, detail in found.faults[:TOLD]
        ]
        if len(found.faults) > TOLD:
            lines.append(f"{path}: {len(found.faults):,} triplets left out in all")
        wrong = self._differs(path, told, found)
        if wrong:
            lines.append(self._wrong(wrong, usable=True))
        use = not wrong or self.mismatch == "use"
        return (Shard(path, place) if use else None), lines

    def _differs(self, path: str, told: Mapping[str, Any], found: shard_index.Index) -> str | None:
        if "bytes" in told and store.size(path) != told["bytes"]:
            return f"{path}: {store.size(path)} bytes, {told['bytes']} in {MANIFEST}"
        if "sha256" in told and found.sha256 and found.sha256 != told["sha256"]:
            return f"{path}: other bytes than {MANIFEST} tells (SHA-256)"
        have = len(found.table) + len(found.faults)
        if "triplets" in told and have != told["triplets"]:
            return f"{path}: {have} triplets, {told['triplets']} in {MANIFEST}"
        return None

    def _wrong(self, what: str, usable: bool) -> str:
        if self.mismatch == "error":
            raise DatagenError(f"{what}; run its recipe again, or pass mismatch: skip")
        taken = usable and self.mismatch == "use"
        return f"{what}; {'used all the same' if taken else 'left out'}"


def _limits(path: str) -> media.Limits:
    """What the run's recipe allows media to cost; the defaults where there is no run."""
    place = store.join(path, "run.json")
    if path.endswith(".tar") or not store.exists(place):
        return media.DEFAULT
    try:
        told = store.read_json(place)["recipe"].get("media") or {}
        return media.Limits(**MediaLimits.model_validate(told).model_dump(exclude={"verify"}))
    except (KeyError, AttributeError, ValueError, DatagenError):
        return media.DEFAULT
