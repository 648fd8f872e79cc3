"""Captions without media: files of texts, as corpora for text-only mining and for text models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pyarrow as pa

from datagen.schema import Level
from datagen.sources import _annotations, _columns, _paths, _records
from datagen.step import Context, Settings, Source

#: What a folder is searched for.
ENDINGS = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet", "txt")


class CaptionsSettings(Settings):
    """Settings of :class:`Captions`.

    path: a file, also ``.gz``; a folder of such files, a glob (``captions/*.parquet``) or a brace
        pattern (``part-{000..099}.jsonl.gz``); or a list of these.
    format: ``txt`` (a caption a line), ``jsonl``, ``json`` (an array of objects), ``csv``,
        ``tsv``, ``parquet``, or ``coco`` (COCO's caption file: an item per image, with all its
        captions). ``auto`` goes by the extension.
    captions: a column (of texts or lists of texts), a template such as
        ``"{name}, {equipment}"`` (anything with a brace is a template), or a list of these. Of
        ``txt`` and ``coco`` files it is known.
    labels: columns to keep as labels, or ``all`` (all but key and caption columns).
    key: the column with the record's name; by default the file's name and the number of the row.
    """

    path: str | list[str]
    format: Literal["auto", "txt", "jsonl", "json", "csv", "tsv", "parquet", "coco"] = "auto"
    captions: str | list[str] | None = None
    labels: list[str] | Literal["all"] | None = None
    key: str | None = None


class Captions(Source[CaptionsSettings]):
    """Lists the rows of caption files as items without media; see :class:`CaptionsSettings`.

    Rows with equal captions and labels are one item. Records that fail carry one of the rules
    ``bad_row`` and ``no_caption``.
    """

    Settings = CaptionsSettings

    def gives(self, level: Level) -> set[str]:
        return {"items.captions", *(["items.labels"] if self.settings.labels else [])}

    # --- settings, resolved -------------------------------------------------------------------

    def _kind(self, file: str) -> _annotations.Format:
        chosen = self.settings.format
        return _annotations.format_of(file, lines=True) if chosen == "auto" else chosen

    def _captions(self, kind: _annotations.Format) -> list[str]:
        default = {"coco": "captions", "txt": _annotations.TEXT}.get(kind)
        return _columns.listed(self.settings.captions or default)

    def _key(self, kind: _annotations.Format) -> str | None:
        return self.settings.key or ("id" if kind == "coco" else None)

    def _files(self) -> list[str]:
        first, *rest = [f".{end}{packed}" for end in ENDINGS for packed in ("", ".gz")]
        return _paths.expand(_columns.listed(self.settings.path), first, tuple(rest))

    # --- checks and parts ---------------------------------------------------------------------

    def check(self) -> Iterable[str]:
        return _columns.told(self._first_faults())

    def _first_faults(self) -> Iterator[str]:
        yield from self._faults(self._files()[0])

    def _faults(self, file: str) -> Iterator[str]:
        kind = self._kind(file)
        columns = _annotations.columns(file, kind)
        captions = self._captions(kind)
        if not captions:
            yield f"{file}: set `captions` to the column with the texts ({', '.join(columns)})"
        chosen = self.settings
        rules = {"captions": captions, "labels": chosen.labels, "key": self._key(kind)}
        yield from _columns.faults(file, columns, rules)

    def parts(self, context: Context) -> list[dict[str, Any]]:
        out = []
        for file in self._files():
            _columns.refuse(self._faults(file))
            out += _annotations.parts(file, self._kind(file))
        return out

    # --- records ------------------------------------------------------------------------------

    def read(self, part: dict[str, Any], context: Context) -> pa.Table:
        return _records.table(self._records(part))

    def _records(self, part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        file, kind = part["file"], part["format"]
        captions, key, labels = self._captions(kind), self._key(kind), self.settings.labels
        names = _columns.named(captions=captions, labels=labels, key=key)
        for number, row in _annotations.rows(part, None if labels == "all" else list(names)):
            name, where = f"{file.rpartition('/')[2]}:{number}", f"{file}, line {number}"
            if isinstance(row, str):
                yield _records.failed(name, "bad_row", f"{where}: {row}")
                continue
            chosen = _records.texts(row.get(key)) if key else []
            name = chosen[0] if chosen else name
            texts = [text for rule in captions for text in _columns.filled(rule, row)]
            if not texts:
                yield _records.failed(name, "no_caption", f"{where}: no text in {captions}")
                continue
            told = _records.labels_json(_columns.labels(row, labels, [key, *captions]))
            yield _records.textual(name, texts, told)
