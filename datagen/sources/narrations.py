"""Narrated actions of long videos: EPIC-KITCHENS, Ego4D, EgoCVR and their like.

Damen et al., "Rescaling Egocentric Vision" (IJCV 2022); Grauman et al., "Ego4D" (CVPR 2022);
Hummel et al., "EgoCVR" (ECCV 2024). An item is one action: what was told of it, in which video,
from when to when; and its clip, where the video was cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from datagen import store
from datagen.schema import Level
from datagen.sources import _annotations, _columns, _records, _telling
from datagen.sources._root import Fault, Root
from datagen.sources._telling import Reader, Telling
from datagen.step import Context, Settings, Source

#: Labels that this source gives itself.
OWN = ("video", "start", "stop", "position", "narration")


class NarrationsSettings(Settings):
    """Settings of :class:`Narrations`.

    path: the file of narrations, also ``.gz``.
    format: ``csv``, ``tsv``, ``jsonl``, ``json`` (an array of objects), ``parquet``, or
        ``ego4d`` (Ego4D's narration.json, whose columns are ``video``, ``narration``, ``start``,
        ``pass`` and ``uid``). ``auto`` goes by the extension.
    video: the column with the video's id. narration: the column with the text.
    start, stop: columns with times: seconds, or texts such as ``00:01:37.05``. A narration may
        have a start alone.
    fields: columns that are read out of another one by a pattern, such as
        ``{clip_name: "{video}_{start}_{stop}"}``; they can then be named like any column. Times
        in names may be written ``2446-454`` for 2446.454.
    labels: more columns to keep as labels, such as verb and noun; or ``all`` (all that no other
        setting names).
    media: the column or template of the file of each action's clip, such as
        ``"{video_id}/{uid}.mp4"``; without it items are captions alone.
    media_root: the folder that these names start from; by default that of the file.
    wearer: what the tag ``#C C`` of Ego4D is told as; null leaves all tags in the texts.
    key: the column with the record's name; by default the video and the start.
    """

    path: str
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "ego4d"] = "auto"
    video: str = "video"
    narration: str = "narration"
    start: str = "start"
    stop: str | None = None
    fields: dict[str, str] = Field(default_factory=dict)
    labels: list[str] | Literal["all"] | None = None
    media: str | None = None
    media_root: str | None = None
    wearer: str | None = "the camera wearer"
    key: str | None = None


class Narrations(Source[NarrationsSettings]):
    """Lists the narrated actions of videos; see :class:`NarrationsSettings`.

    Every item has the labels ``video``, ``start`` and ``stop`` (seconds), ``narration`` (its text
    in small letters without punctuation, the same wherever the same was told) and ``position``:
    how many earlier narrations the video has, ordered by start, stop and text. So
    ``same_key: {key: video, order: next, by: start}`` pairs each action with the next one, and
    ``same_key: {key: narration, differ: [video]}`` the same action in two videos.

    A record is rejected as ``unsure`` where an Ego4D narrator was (``#unsure``). Records that
    fail carry one of the rules ``bad_row``, ``no_video``, ``bad_time``, ``no_caption``, and with
    media ``no_media``, ``outside_root`` and ``missing_file``.
    """

    Settings = NarrationsSettings

    def gives(self, level: Level) -> set[str]:
        found = {"items.captions", "items.labels"}
        return found | {"items.media"} if self.settings.media else found

    # --- settings, resolved -------------------------------------------------------------------

    @property
    def _kind(self) -> _annotations.Format:
        chosen = self.settings.format
        return _annotations.format_of(self.settings.path) if chosen == "auto" else chosen

    @property
    def _root(self) -> Root:
        folder = os.path.dirname(self.settings.path) or "."
        return Root(self.settings.media_root or folder)

    @property
    def _rules(self) -> dict[str, _columns.Rules]:
        """What the settings say that name columns."""
        names = ("labels", "key", "media", "stop", "start", "narration", "video")
        return {name: getattr(self.settings, name) for name in names}

    def _named(self) -> dict[str, str]:
        """Every column that a setting names, with the setting."""
        return _columns.named(**self._rules)

    def _wanted(self) -> list[str] | None:
        """The columns of the file that matter; None: all."""
        if self.settings.labels == "all":
            return None
        made = _telling.made(self.settings.fields)
        return [*(name for name in self._named() if name not in made), *self.settings.fields]

    def _reader(self) -> Reader:
        chosen = self.settings
        columns = (chosen.video, chosen.narration, chosen.start, chosen.stop)
        return _telling.reader(*columns, chosen.fields, chosen.wearer)

    # --- checks and parts ---------------------------------------------------------------------

    def check(self) -> Iterable[str]:
        return _columns.told(self._faults())

    def _faults(self) -> Iterator[str]:
        file, chosen = self.settings.path, self.settings
        if not store.exists(file):
            yield f"{file}: no such file; set `path` to the file of narrations"
            return
        yield from _telling.faults(chosen.fields)
        for name in chosen.labels or () if chosen.labels != "all" else ():
            if name in OWN and name not in (chosen.video, chosen.narration):
                yield f"{file}: labels: '{name}' is a label that this source gives itself"
        columns = _annotations.columns(file, self._kind)
        yield from _columns.faults(file, columns, {"fields": list(chosen.fields)})
        known = [*columns, *_telling.made(chosen.fields)]
        yield from _columns.faults(file, known, self._rules)
        if chosen.media_root is not None and not store.exists(chosen.media_root):
            yield f"media_root {chosen.media_root}: no such folder"

    def parts(self, context: Context) -> list[dict[str, Any]]:
        """Ranges of rows, each with the positions of its narrations (-1 for a bad one).

        The whole file is read for them once, so what a part gives depends on no other part.
        """
        _columns.refuse(self._faults())
        parts = _annotations.parts(self.settings.path, self._kind)
        reader = self._reader()
        wanted = list({*self._named(), *self.settings.fields} - _telling.made(self.settings.fields))
        places = _telling.Positions()
        lengths = []
        for part in parts:
            rows = [row for _, row in _annotations.rows(part, wanted)]
            lengths.append(len(rows))
            places.add(reader.read(row) if isinstance(row, dict) else None for row in rows)
        found = iter(places.found())
        return [
            {**part, "positions": [next(found) for _ in range(length)]}
            for part, length in zip(parts, lengths, strict=True)
        ]

    # --- records ------------------------------------------------------------------------------

    def read(self, part: dict[str, Any], context: Context) -> pa.Table:
        return _records.table(self._records(part))

    def _records(self, part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        file, reader = part["file"], self._reader()
        rows = _annotations.rows(part, self._wanted())
        for (number, row), position in zip(rows, part["positions"], strict=True):
            name, where = f"{file.rpartition('/')[2]}:{number}", f"{file}, line {number}"
            if isinstance(row, str):
                yield _records.failed(name, "bad_row", f"{where}: {row}")
                continue
            told = reader.read(row)
            if isinstance(told, Fault):
                yield _records.failed(name, told.rule, f"{where}: {told.detail}")
                continue
            yield self._record(told, reader.widened(row), position, where)

    def _record(
        self, told: Telling, row: dict[str, Any], position: int, where: str
    ) -> dict[str, Any]:
        chosen = self.settings
        texts = _records.texts(row.get(chosen.key)) if chosen.key else []
        key = texts[0] if texts else f"{told.video}/{told.start:.3f}"
        if told.unsure:
            return _records.rejected(key, "unsure", f"{where}: '{told.text}'")
        used = [chosen.video, chosen.narration, chosen.start, chosen.stop, chosen.key, chosen.media]
        own = zip(OWN, (told.video, told.start, told.stop, position, told.narration), strict=True)
        labels = _records.labels_json({**_columns.labels(row, chosen.labels, used), **dict(own)})
        if chosen.media is None:
            return _records.textual(key, [told.text], labels)
        names = _columns.filled(chosen.media, row)
        if not names:
            return _records.failed(key, "no_media", f"{where}: no file name in {chosen.media}")
        (place,) = self._root.locate(names[:1])
        if isinstance(place, Fault):
            return _records.failed(key, place.rule, place.detail)
        modality = _records.modality_of(place.path)
        return _records.kept(key, place.path, place.size, modality, [told.text], labels)
