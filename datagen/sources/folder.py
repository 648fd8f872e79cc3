"""Images or clips in a folder, described by an annotation file or by text files beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pyarrow as pa

from datagen import store
from datagen.errors import DatagenError
from datagen.schema import Level
from datagen.sources import _annotations, _columns, _records
from datagen.sources._root import Fault, Place, Root
from datagen.step import Context, Settings, Source

#: A text file beside an image may be this long (bytes).
MAX_SIDECAR = 1 << 20

#: Text files that are read at once.
REQUESTS = 16


class FolderSettings(Settings):
    """Settings of :class:`Folder`.

    path: the folder that holds everything; no media outside it are read.
    annotations: jsonl, json (an array of objects), csv, tsv or Parquet file, also ``.gz``;
        relative to ``path`` or absolute. Without it every image and clip below ``path`` is
        taken, each line of ``name.txt`` beside ``name.jpg`` being a caption.
    format: of the annotations; ``auto`` goes by the extension. ``coco`` is COCO's caption file.
    media: the column with the file name or with a list of them (one record each), a template
        such as ``"{id}_0.jpg"``, or a list of these.
    media_root: the folder below ``path`` that file names start from.
    captions: a column (of texts or lists of texts), a template such as
        ``"{name}, {equipment}"`` (anything with a brace is a template), or a list of these.
    labels: columns to keep as labels, or ``all`` (all but media, key and caption columns).
    key: the column with the record's name; by default the name of the media file.
    modality: ``image``, ``video``, or ``auto`` (by the extension).
    """

    path: str
    annotations: str | None = None
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "coco"] = "auto"
    media: str | list[str] | None = None
    media_root: str = ""
    captions: str | list[str] | None = None
    labels: list[str] | Literal["all"] | None = None
    key: str | None = None
    modality: Literal["image", "video", "auto"] = "auto"


class Folder(Source[FolderSettings]):
    """Lists the files of a folder; see :class:`FolderSettings`.

    Records that fail carry one of the rules ``outside_root``, ``missing_file``, ``no_media``
    (the row names no file), ``bad_row`` and ``bad_text`` (a text file that is no UTF-8, or
    longer than 1 MiB). A row without a caption is kept, with no captions.
    """

    Settings = FolderSettings

    def gives(self, level: Level) -> set[str]:
        found = {"items.media"}
        if self._captions or self.settings.annotations is None:
            found.add("items.captions")
        if self.settings.labels:
            found.add("items.labels")
        return found

    # --- settings, resolved -------------------------------------------------------------------

    @property
    def _root(self) -> Root:
        return Root(self.settings.path, self.settings.media_root)

    @property
    def _file(self) -> str | None:
        name = self.settings.annotations
        if name is None or "://" in name or name.startswith(("/", "~")):
            return name
        return store.join(self.settings.path, name)

    def _kind(self, file: str) -> _annotations.Format:
        chosen = self.settings.format
        return _annotations.format_of(file) if chosen == "auto" else chosen

    @property
    def _captions(self) -> list[str]:
        default = "captions" if self.settings.format == "coco" else None
        return _columns.listed(self.settings.captions or default)

    @property
    def _media(self) -> list[str]:
        default = "file_name" if self.settings.format == "coco" else None
        return _columns.listed(self.settings.media or default)

    @property
    def _rules(self) -> dict[str, _columns.Rules]:
        """What the settings say that name columns."""
        own = self.settings
        return {
            "captions": self._captions, "labels": own.labels, "key": own.key, "media": self._media
        }  # fmt: skip

    # --- checks -------------------------------------------------------------------------------

    def check(self) -> Iterable[str]:
        return _columns.told(self._faults())

    def _faults(self) -> Iterator[str]:
        path, file = self.settings.path, self._file
        if not store.exists(path):
            yield f"{path}: no such folder; set `path` to the folder with the media"
            return
        if not self._root.holds(self.settings.media_root):
            yield f"media_root '{self.settings.media_root}': must lie in {path}"
        if file is None:
            for setting in sorted(name for name, rules in self._rules.items() if rules):
                yield f"{setting}: names a column, so `annotations` must name a file"
            return
        if not store.exists(file):
            yield f"{file}: no such annotation file"
            return
        columns = _annotations.columns(file, self._kind(file))
        if not self._media:
            yield (
                f"{file}: set `media` to the column with file names ({', '.join(columns)}); "
                "for captions without media use type: captions"
            )
        yield from _columns.faults(file, columns, self._rules)

    # --- parts --------------------------------------------------------------------------------

    def parts(self, context: Context) -> list[dict[str, Any]]:
        _columns.refuse(self._faults())
        file = self._file
        return self._listing() if file is None else _annotations.parts(file, self._kind(file))

    def _listing(self) -> list[dict[str, Any]]:
        found = dict(self._root.walk())
        known = _records.IMAGES | _records.VIDEOS
        files, odd = [], []
        for name, size in found.items():
            if _records.extension(name) in known:
                if not name.isascii() and (shown := _shown(name)) != name:
                    odd.append(shown)
                    continue
                beside = name.rpartition(".")[0] + ".txt"
                files.append([name, size, beside if beside in found else None])
        if not files and not odd:
            raise DatagenError(f"{self.settings.path}: no image or clip in this folder")
        step = _annotations.ROWS
        parts = [{"count": len(odd), "files": [], "odd": odd}] if odd else []
        return parts + [
            {"start": start, "count": len(files[start : start + step]),
             "files": files[start : start + step]}
            for start in range(0, len(files), step)
        ]  # fmt: skip

    # --- records ------------------------------------------------------------------------------

    def read(self, part: dict[str, Any], context: Context) -> pa.Table:
        drafts = self._listed(part) if "files" in part else self._annotated(part)
        return _records.table(self._finish(list(drafts)))

    def _finish(self, drafts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Find the media of records that are fine so far; ``media`` is still a name."""
        names = [draft["media"] for draft in drafts if draft.get("media")]
        places = iter(self._root.locate(names))
        for draft in drafts:
            if not draft.get("media"):
                yield draft
                continue
            place, key = next(places), draft["key"]
            if isinstance(place, Fault):
                yield _records.failed(key, place.rule, place.detail)
                continue
            modality = _records.modality_of(place.path, self.settings.modality)
            texts, labels = draft["captions"], draft["labels"]
            size = draft.get("size") if place.size is None else place.size
            yield _records.kept(key, place.path, size, modality, texts, labels)

    def _listed(self, part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for name in part.get("odd", ()):
            yield _records.failed(name, "bad_name", f"{name}: the file's name is not UTF-8")
        beside = [text for _, _, text in part["files"] if text is not None]
        with ThreadPoolExecutor(REQUESTS) as pool:
            found = dict(zip(beside, pool.map(_sidecar, self._root.locate(beside)), strict=True))
        for name, size, text in part["files"]:
            captions = found[text] if text is not None else []
            if isinstance(captions, Fault):
                yield _records.failed(name, captions.rule, captions.detail)
            else:
                draft = {"key": name, "media": name, "captions": captions, "labels": "{}"}
                yield {**draft, "size": size}

    def _annotated(self, part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        wanted = None if self.settings.labels == "all" else list(_columns.named(**self._rules))
        file = part["file"]
        for number, row in _annotations.rows(part, wanted):
            if isinstance(row, str):
                key = f"{file.rpartition('/')[2]}:{number}"
                yield _records.failed(key, "bad_row", f"{file}, line {number}: {row}")
                continue
            yield from self._of_row(row, f"{file}, line {number}", number)

    def _of_row(self, row: dict[str, Any], where: str, number: int) -> Iterator[dict[str, Any]]:
        names = [name for rule in self._media for name in _columns.filled(rule, row)]
        captions = [text for rule in self._captions for text in _columns.filled(rule, row)]
        used = [self.settings.key, *self._media, *self._captions]
        labels = _records.labels_json(_columns.labels(row, self.settings.labels, used))
        chosen = _records.texts(row.get(self.settings.key)) if self.settings.key else []
        if not names:
            key = chosen[0] if chosen else f"line:{number}"
            yield _records.failed(key, "no_media", f"{where}: no file name in {self._media}")
        for name in names:
            key = chosen[0] if chosen else name
            yield {"key": key, "media": name, "captions": captions, "labels": labels}


def _shown(name: str) -> str:
    """``name`` as it can be written; another text than ``name`` where it is not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _sidecar(place: Place | Fault) -> list[str] | Fault:
    if isinstance(place, Fault):
        return place
    try:
        data = store.read_bytes(place.path, 0, MAX_SIDECAR + 1)
        if len(data) > MAX_SIDECAR:
            return Fault("bad_text", f"{place.path}: longer than {MAX_SIDECAR >> 20} MiB")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Fault("bad_text", f"{place.path}: not UTF-8 ({error})")
    except OSError as error:
        return Fault("missing_file", f"{place.path}: {error.strerror or error}")
    return _records.texts(text.splitlines())
