"""Reading a run: its tables, verdicts, spaces and shards."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datagen import containers, made, media, note, publish, schema, store, tables
from datagen.containers import VIDEO_FORMATS
from datagen.errors import DatagenError, nearest
from datagen.frames import Choice, sample
from datagen.recipe import MediaLimits
from datagen.space import Space


@dataclass(frozen=True)
class Run:
    """A run directory, opened for reading. Nothing is read before it is asked for."""

    out: str
    note: dict[str, Any] = field(repr=False)

    @property
    def status(self) -> str:
        """``running``, ``stopped``, ``failed`` or ``finished``."""
        return str(self.note["status"])

    @functools.cached_property
    def funnel(self) -> list[dict[str, Any]]:
        """What each complete step did: rows in, kept, rejected by rule, failed by rule, rows out.

        Of a run that is not finished, the note may tell less than stands: a killed one could not
        write it. What a step did stands beside its tables too; steps behind one that is missing
        do not count.
        """
        noted = {entry["id"]: entry for entry in self.note["funnel"]}
        if self.status == "finished":
            return list(noted.values())
        found: list[dict[str, Any]] = []
        for place in self.note["steps"]:
            path = store.join(self.out, place["folder"], "done.json")
            if not store.exists(path):
                break
            entry = noted.get(place["id"]) or store.read_json(path)
            if not isinstance(entry, dict) or "rows_out" not in entry:
                break
            found.append(entry)
        return found

    @property
    def steps(self) -> list[str]:
        """Ids of the steps in order; the first is ``source``."""
        return [step["id"] for step in self.note["steps"]]

    def items(self) -> pa.Table:
        """The items that the sources gave (schema.ITEMS); see also :meth:`made`."""
        return self.table("source")

    def made(self) -> pa.Table:
        """The items that steps made (schema.ITEMS, sorted by id): captions written for targets,
        media painted for them. ``source`` is the id of the step.
        """
        found = [store.read_table(path) for path in self.made_by().values()]
        return tables.with_made(schema.empty(schema.ITEMS), found)

    def made_by(self) -> dict[str, str]:
        """The files of the items that steps made, by the step."""
        done = {step["id"] for step in self.funnel}
        paths = {
            place["id"]: store.join(self.out, place["folder"], made.FILE)
            for place in self.note["steps"]
            if place["id"] in done
        }
        return {step: path for step, path in paths.items() if store.exists(path)}

    def triplets(self, every: bool = False) -> pa.Table:
        """The triplets that were kept; ``every`` adds the rejected and failed ones.

        Columns: schema.TRIPLETS, scores, negatives, split, verdict, rule, detail and the step
        that decided. Raises DatagenError where the run is not finished.
        """
        if self.status != "finished":
            raise DatagenError(
                f"{self.out}: this run is {self.status}, not finished; the "
                "command that began it goes on with it"
            )
        path = store.join(self.out, "triplets.parquet")
        if not note.in_force(self.out, self.note):
            table = publish.gathered(self._left())
        else:
            table = store.read_table(path) if store.exists(path) else None
        if table is None:
            raise DatagenError(f"{path}: missing; this recipe makes no triplets")
        return table if every else table.filter(pc.equal(table["verdict"], schema.KEPT))

    def decisions(self) -> list[str]:
        """Names of the decisions that this run has come to, the current one last.

        ``datagen.load(out, decision=NAME)`` opens an earlier one: its thresholds, verdicts and
        triplets. The shards are those of the current one.
        """
        return note.decisions(self.out)

    def _left(self) -> list[publish.Left]:
        return [
            publish.Left(step["id"], store.join(self.out, step["folder"]), report["level"])
            for step, report in zip(self.note["steps"], self.funnel, strict=True)
        ]

    def table(self, step: str) -> pa.Table:
        """The table that ``step`` left."""
        return store.read_table(store.join(self._folder(step), "table.parquet"))

    def verdicts(self, step: str) -> pa.Table:
        """What ``step`` decided about each row: id, verdict, rule, detail."""
        return store.read_table(store.join(self._folder(step), "verdicts.parquet"))

    def space(self, step: str) -> Space:
        """The space that the embed step ``step`` made."""
        return Space.open(self._folder(step))

    def samples(
        self, split: str | None = None, decode: bool = True, frames: Choice = 8
    ) -> Iterator[dict[str, Any]]:
        """Triplets out of the shards, in shard order.

        Yields dictionaries with ``references``, ``targets``, ``negatives`` (lists of media),
        ``modification``, ``json``, and ``target_vector`` (float32) of a text target. An image is a
        PIL image, a clip a list of them: the ``frames`` of :data:`datagen.frames.Choice`, by
        default eight at even distances. When ``decode`` is false, both are bytes. Raises
        MediaError where one cannot be decoded.
        """
        from datagen.shards._read import read_shard

        known = MediaLimits.model_validate(self.note["recipe"].get("media") or {})
        limits = media.Limits(**known.model_dump(exclude={"verify"}))
        manifest = store.read_json(store.join(self.out, "shards", "manifest.json"))
        for shard in manifest["shards"]:
            if split is not None and shard["split"] != split:
                continue
            for row in read_shard(store.join(self.out, "shards", shard["name"])):
                for role in ("references", "targets", "negatives"):
                    if decode:
                        row[role] = [_decoded(data, frames, limits) for data in row[role]]
                yield row

    def _folder(self, step: str) -> str:
        for known in self.note["steps"]:
            if known["id"] == step:
                return store.join(self.out, known["folder"])
        raise DatagenError(f"{self.out}: no step '{step}'; {nearest(step, self.steps)}")


def _decoded(data: bytes, choice: Choice, limits: media.Limits) -> Image.Image | list[Image.Image]:
    if containers.sniff(data) in VIDEO_FORMATS:
        return [frame.image for frame in sample(data, choice, limits)]
    return media.decode(data, limits=limits)


def load(out: str, decision: str | None = None) -> Run:
    """Open the run in ``out``; ``decision``: an earlier one of it (see ``Run.decisions``).

    Raises DatagenError where there is none.
    """
    out = store.local_path(out) if store.is_local(out) else out.rstrip("/")
    found = note.read(out) if decision is None else note.decision(out, decision)
    return Run(out, found)
