"""Rejects what stands in another collection as well: a benchmark's test set, an earlier run.

Who reports figures on a benchmark removes its images from the training data first, as VDG does.
A collection is a folder of images and clips, a run, a list of names (the
annotations of a benchmark whose images are not at hand), or a file of fingerprints (``datagen
fingerprint``). What matches is told by bytes, by perceptual hash and colours as in ``duplicates``,
by name, and on demand by the vectors of a space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from datagen import leaks, media, models, moments, perceptual, schema, store
from datagen.errors import DatagenError
from datagen.leaks import index, match, vectors
from datagen.schema import Level
from datagen.step import Context, Filter, Parallel, Resources, Settings, serial, verdicts

By = Literal["sha256", "perceptual", "names"]


class LeakageSettings(Settings):
    """against: paths of collections: folders, runs, lists of names (json, jsonl, csv, tsv, txt,
    Parquet), files of fingerprints. by: what is compared; lists of names have only names. radius:
    bits of 64 in which hashes of the same picture may differ, at most 16. tolerance: levels of 255
    by which their colours may differ; null: any. duration: share by which the lengths of clips may
    differ. space: of images, in which items are compared with the media of folders and runs as
    well; cosine: from which on they are the same there. fields: columns or fields of lists that
    hold names; by default all but texts. label: a label that is compared with the names, besides
    an item's key and file name. unreadable: what to do about files of collections that cannot be
    read.
    """

    against: list[str] = Field(min_length=1)
    by: list[By] = Field(default=["sha256", "perceptual", "names"])
    radius: int = Field(6, ge=0, le=leaks.REACH)
    tolerance: int | None = Field(perceptual.TOLERANCE, ge=0, le=255)
    duration: float = Field(moments.DURATION, ge=0, le=1)
    space: str | None = None
    cosine: float = Field(0.9, ge=-1, le=1)
    fields: list[str] = Field(default_factory=list)
    label: str | None = None
    unreadable: Literal["stop", "skip"] = "stop"

    @field_validator("against", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _some(self) -> LeakageSettings:
        if not self.by and self.space is None:
            raise ValueError("by: name sha256, perceptual or names, or give a space")
        return self


class _Column(NamedTuple):
    """What one way of comparing gives: the rule, the name of the match, and the score."""

    rule: str
    match: str
    score: str | None = None


_BYTES = _Column("leak_same_bytes", "leak_same_bytes")
_NAME = _Column("leak_same_name", "leak_same_name")
_PICTURE = _Column("leak_near_duplicate", "leak_near_duplicate", "score_leak_distance")
_ALIKE = _Column("leak_alike", "leak_alike", "score_leak_similarity")


class Leakage(Filter[LeakageSettings]):
    """Measures of each item which medium of the collections it is or is nearest to.

    - ``leak_same_bytes``, ``leak_same_name``: the medium, or the list, that has the bytes or name.
    - ``score_leak_distance``: bits to the nearest picture whose colours are within the tolerance
      (of a clip, mean over five frames), ``leak_near_duplicate`` that picture; null where none is
      within 16 bits.
    - with ``space``: ``score_leak_similarity``, the highest cosine, and ``leak_alike`` with whom.

    An item that matches is rejected by the rule of that name, and so is a pair or triplet of which
    any reference, target or negative matches. Items that cannot be decoded fail, and with them the
    rows that use them; items without media can match by name only.

    Fingerprints of collections are kept in the run directory (``leaks/``) and made again when a
    collection changes.
    """

    Settings = LeakageSettings
    on_items = True
    rules = frozenset({"radius", "cosine"})

    def __init__(self, settings: LeakageSettings) -> None:
        super().__init__(settings)
        # Workers may have another working directory.
        self._paths = [
            store.local_path(path) if store.is_local(path) else path for path in settings.against
        ]

    # --- what the recipe is told -------------------------------------------------------------

    def _columns(self) -> list[_Column]:
        ways = {"sha256": _BYTES, "names": _NAME, "perceptual": _PICTURE}
        chosen = [way for name, way in ways.items() if name in self.settings.by]
        return [*chosen, *([_ALIKE] if self.settings.space else [])]

    def needs(self, level: Level) -> set[str]:
        needed = {"items.media"} if {"sha256", "perceptual"} & set(self.settings.by) else set()
        space = self.settings.space
        needed |= {f"space.{space}", f"media.{space}"} if space else set()
        return needed | ({"items.labels"} if self.settings.label else set())

    def gives(self, level: Level) -> set[str]:
        names = [name for way in self._columns() for name in (way.match, way.score) if name]
        return {f"items.{name}" for name in names}

    def columns(self, level: Level) -> list[str]:
        # What ``duplicates`` measured is not measured again.
        return ["id", "key", "media", "labels", "phash", "colours", "moments"]

    def resources(self) -> Resources:
        if self.settings.space is None:
            return Resources(batch_size=128)
        return Resources(batch_size=1024, gpus=models.gpus("auto"), actor=True)

    def _collections(self) -> list[leaks.Collection]:
        return [leaks.Collection.of(path, self.settings.fields) for path in self._paths]

    def revision(self) -> str:
        """What changes when a collection does."""
        return " ".join(collection.stamp() for collection in self._collections())

    def check(self) -> Iterable[str]:
        for path in self._paths:
            try:
                collection = leaks.Collection.of(path, self.settings.fields)
                fault = collection.fault() or self._idle(collection)
            except DatagenError as error:
                fault = str(error)
            if fault:
                yield f"against: {fault}"

    def _idle(self, collection: leaks.Collection) -> str:
        """What is to be said where nothing of a collection would be compared."""
        chosen = self.settings
        if collection.kind == "names":
            return "" if "names" in chosen.by else f"{collection.told}: by: add names to compare it"
        if {"sha256", "perceptual"} & set(chosen.by):
            return ""
        if chosen.space is not None and collection.kind != "fingerprints":
            return ""
        return f"{collection.told}: by: add sha256 or perceptual to compare it"

    # --- fingerprints of the collections -----------------------------------------------------

    def ready(self, context: Context, parallel: Parallel = serial) -> None:
        """Raises DatagenError where files of a collection cannot be read, or the space cannot
        hold them.
        """
        space = self.settings.space
        if space is not None and (told := vectors.fault(context.embedders.get(space), space)):
            raise DatagenError(f"step {context.step}: {told}")
        bad = index.unreadable(self._held(context, parallel))
        if bad and self.settings.unreadable == "stop":
            mend = "mend or remove them, or set unreadable: skip"
            raise DatagenError(f"step {context.step}: {bad[0]}; {mend}")

    def _held(
        self, context: Context, parallel: Parallel = serial
    ) -> list[tuple[leaks.Collection, pa.Table]]:
        if not {"sha256", "perceptual"} & set(self.settings.by):
            nothing = index.FINGERPRINTS.empty_table()
            return [(one, nothing) for one in self._collections()]
        folder = store.join(context.out_dir, "leaks") if context.out_dir else ""
        return [(one, leaks.fingerprints(one, folder, parallel)) for one in self._collections()]

    def open(self, context: Context) -> None:
        chosen = self.settings
        self._matcher = leaks.Matcher(self._held(context), chosen.tolerance, chosen.duration)
        self._vectors = None
        if chosen.space is not None:
            folder = store.join(context.out_dir, "leaks") if context.out_dir else ""
            self._space = context.space(chosen.space)
            self._vectors = vectors.vectors(self._collections(), chosen.space, context, folder)

    # --- measuring ---------------------------------------------------------------------------

    def __call__(self, rows: pa.Table) -> pa.Table:
        measured = [self._measure(row) for row in rows.to_pylist()]
        out: dict[str, Any] = {"id": rows["id"]}
        if self._vectors is not None:
            for row, near in zip(
                measured, self._vectors.nearest(self._space.of(rows["id"])), strict=True
            ):
                row[_ALIKE.score], row[_ALIKE.match] = near or (None, None)
                if near is None and self._vectors.where and row["verdict"] == schema.KEPT:
                    self._without(row)
        for way in self._columns():
            out[way.match] = pa.array([row.get(way.match) for row in measured], pa.string())
            if way.score:
                out[way.score] = pa.array([row.get(way.score) for row in measured], pa.float64())
        for name in ("verdict", "rule", "detail"):
            out[name] = pa.array([row.get(name) for row in measured], pa.string())
        return pa.table(out)

    def _without(self, row: dict[Any, Any]) -> None:
        """A picture that cannot be compared is no picture that does not leak."""
        if row["pictured"]:
            detail = f"no vector in space '{self.settings.space}'"
            row.update({"verdict": schema.FAILED, "rule": "no_vector", "detail": detail})

    def _measure(self, row: Mapping[str, Any]) -> dict[Any, Any]:
        """What is known of one item, by column."""
        place, chosen = row["media"], self.settings
        found: dict[Any, Any] = {"verdict": schema.KEPT, "pictured": place is not None}
        if "names" in chosen.by:
            called = match.called(row.get("key"), place, row.get("labels"), chosen.label)
            found[_NAME.match] = self._matcher.same_name(called)
        if place is None:
            return found
        if "sha256" in chosen.by:
            found[_BYTES.match] = self._matcher.same_bytes(place["sha256"])
        if "perceptual" in chosen.by:
            try:
                near = self._nearest(row, place)
            except media.MediaError as error:
                fault = {"rule": error.rule, "detail": error.detail}
                return found | fault | {"verdict": schema.FAILED}
            if near is not None:
                found[_PICTURE.score] = near.bits
                found[_PICTURE.match] = f"{near.where} ({near.levels:g} levels of colour)"
        return found

    def _nearest(self, row: Mapping[str, Any], place: Mapping[str, Any]) -> leaks.Match | None:
        known = row
        if row.get("phash") is None or row.get("colours") is None:
            limits = media.admitted(place)
            known = index.signature(media.read(place, limits), limits)
        if known.get("moments") is not None:
            return self._matcher.nearest_clip(known["moments"], place["seconds"])
        return self._matcher.nearest_image(known["phash"], known["colours"])

    # --- deciding ----------------------------------------------------------------------------

    def decide(self, rows: pa.Table, items: pa.Table) -> pa.Table:
        leaking = self._leaking(items if "references" in rows.column_names else rows)
        if "references" not in rows.column_names:
            return verdicts(rows["id"], leaking)
        rejected: dict[str, tuple[str, str]] = {}
        for side in ("negatives", "targets", "references"):
            if side not in rows.column_names:
                continue
            for name, members in zip(rows["id"].to_pylist(), _members(rows[side]), strict=True):
                for member in members:
                    if member in leaking:
                        rule, detail = leaking[member]
                        rejected[name] = (rule, f"{side[:-1]} {member}: {detail}")
        return verdicts(rows["id"], rejected)

    def _leaking(self, items: pa.Table) -> dict[str, tuple[str, str]]:
        """Rule and detail of every item that matches."""
        ids = items["id"].to_pylist()
        out: dict[str, tuple[str, str]] = {}
        # The surest is told: same bytes before a near picture.
        for way in reversed([w for w in (_BYTES, _PICTURE, _ALIKE, _NAME) if w in self._columns()]):
            scores = items[way.score].to_pylist() if way.score else [None] * len(ids)
            for name, where, score in zip(ids, items[way.match].to_pylist(), scores, strict=True):
                if where is not None and self._is_leak(way, score):
                    out[name] = (way.rule, _told(way, score, where))
        return out

    def _is_leak(self, way: _Column, score: float | None) -> bool:
        if way is _PICTURE:
            return score is not None and score <= self.settings.radius
        if way is _ALIKE:
            return score is not None and score >= self.settings.cosine
        return True


def _told(way: _Column, score: float | None, where: str) -> str:
    if way is _PICTURE:
        return f"{score:g} bits from {where}"
    if way is _ALIKE:
        return f"cosine {score:.4f} to {where}"
    return f"the {'bytes' if way is _BYTES else 'name'} of {where}"


def _members(column: pa.ChunkedArray) -> list[list[str]]:
    """Item ids of the members of every row."""
    return [
        [(one.get("item") or one)["id"] for one in members or ()] for members in column.to_pylist()
    ]
