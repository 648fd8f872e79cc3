"""Datasets of the Hugging Face Hub, or of its library ``datasets`` on disk."""

from __future__ import annotations

import functools
import os
import posixpath
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from datagen import containers, store
from datagen.errors import DatagenError, nearest
from datagen.schema import Level
from datagen.sources import _columns, _datasets, _features, _records, _shard
from datagen.sources._datasets import Opened, Wanted
from datagen.sources._root import Fault, Place, Root
from datagen.step import Context, Settings, Source

#: A part has at most so many rows, and so many bytes of media (or one row).
ROWS = 500
BYTES = 64 << 20

Medium = tuple[bytes | None, str | None]


class HuggingFaceSettings(Settings):
    """Settings of :class:`HuggingFace`.

    path: a dataset of the hub (``org/name``), a folder that ``save_to_disk`` wrote, or a folder,
        file or glob that ``load_dataset`` reads: Parquet, Arrow, WebDataset, an image folder.
    config: its configuration (subset), where it has several.
    split: such as ``train``; may be left out where there is only one. Of all but saved datasets
        also ``train[:10%]`` or ``train+validation``.
    revision: a branch, a tag or a commit on the hub; what it points to is looked up once per
        start, and a run goes on only with the same commit.
    media: the column with images, clips, bytes or file names, or a list of them (one record
        each); null for captions alone.
    media_root: the folder, or far store, that file names in the dataset may lead to. By default
        the dataset's own folder; of the hub its downloaded files.
    captions: a column (of texts, lists of texts, or fields within it such as ``json.caption``), a
        template such as ``"{name}, {colour}"``, or a list of these.
    labels: columns to keep as labels, or ``all`` (all but media, key and caption columns).
    key: the column with the record's name; by default the file's name, or split and row.
    modality: ``image``, ``video``, or ``auto`` (by the column, or the extension).
    """

    path: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    media: str | None = None
    media_root: str | None = None
    captions: str | list[str] | None = None
    labels: list[str] | Literal["all"] | None = None
    key: str | None = None
    modality: Literal["image", "video", "auto"] = "auto"


class HuggingFace(Source[HuggingFaceSettings]):
    """Lists the rows of a dataset; see :class:`HuggingFaceSettings`.

    Bytes that lie inside the dataset are written as they are into tar shards below the run's
    media folder; files are named where they lie. Nothing is decoded, and no code of a dataset is
    run. Numbers of classes become their names.

    Records that fail carry one of the rules ``no_media``, ``no_caption`` (without media),
    ``outside_root`` (a name that leads out of ``media_root``, or to the web) and
    ``missing_file``.
    """

    version = 2
    Settings = HuggingFaceSettings
    requires = (("datasets", "hf"),)

    def __init__(self, settings: HuggingFaceSettings) -> None:
        super().__init__(settings)
        chosen = settings
        self._named = Wanted(chosen.path, chosen.config, chosen.split, chosen.revision)
        self._held: Wanted | None = None

    def gives(self, level: Level) -> set[str]:
        chosen = self.settings
        given = {"media": chosen.media, "captions": chosen.captions, "labels": chosen.labels}
        return {f"items.{name}" for name, setting in given.items() if setting}

    def _wanted(self) -> Wanted:
        """The dataset, held to a commit; the hub is asked once."""
        if self._held is None:
            self._held = _datasets.pinned(self._named)
        return self._held

    def revision(self) -> str:
        """The commit on the hub; empty for a dataset on disk, whose parts tell its state."""
        wanted = self._wanted()
        return str(wanted.revision) if wanted.on_hub else ""

    # --- checks and parts ---------------------------------------------------------------------

    def check(self) -> Iterable[str]:
        chosen = self.settings
        if not chosen.media and not chosen.captions:
            yield "set `captions`, `media` or both: the columns that items are made of"
        if chosen.revision is not None and not self._named.on_hub:
            yield f"revision: only datasets of the hub have one, and {chosen.path} lies here"
        if chosen.media_root is not None and not store.exists(chosen.media_root):
            yield f"media_root {chosen.media_root}: no such folder"

    def _faults(self, rows: Any) -> Iterator[str]:
        place, known, media = f"dataset '{self.settings.path}'", rows.features, self.settings.media
        fields = functools.partial(_features.holds, known)
        yield from _columns.faults(place, list(known), self._rules, fields)
        if media is not None and media not in known:
            hint = nearest(media, known)
            yield f"{place}: media names column '{media}', which is not there; {hint}"
        elif media is not None and not _features.holds_media(known[media]):
            able = [name for name in known if _features.holds_media(known[name])]
            kind = type(known[media]).__name__
            yield (
                f"{place}: media names column '{media}' of type {kind}; images, clips, bytes or "
                f"file names expected ({', '.join(able) or 'no column has them'})"
            )
        for name, setting in _columns.named(**self._rules).items():
            if name in known and _features.is_heavy(known[name]):
                kind = type(known[name]).__name__
                yield f"{place}: {setting} names column '{name}' of type {kind}; texts expected"

    @property
    def _rules(self) -> dict[str, _columns.Rules]:
        """What the settings say that name columns or fields within them; media is a column."""
        chosen = self.settings
        return {"captions": chosen.captions, "labels": chosen.labels, "key": chosen.key}

    def parts(self, context: Context) -> list[dict[str, Any]]:
        """Ranges of rows, of at most :data:`ROWS` rows and :data:`BYTES` of media."""
        _columns.refuse(self.check())
        wanted = self._wanted()
        found = _datasets.opened(wanted)
        _columns.refuse(self._faults(found.rows))
        sizes = np.zeros(len(found.rows), np.int64)
        if self.settings.media is not None:
            sizes = _features.byte_lengths(found.rows.data.column(self.settings.media))
        same = {"content": found.content, "revision": wanted.revision}
        return [
            {"start": start, "count": stop - start, "size": int(sizes[start:stop].sum()), **same}
            for start, stop in _ranges(sizes)
        ]

    # --- records ------------------------------------------------------------------------------

    def read(self, part: dict[str, Any], context: Context) -> pa.Table:
        chosen = self.settings
        wanted = Wanted(chosen.path, chosen.config, chosen.split, part["revision"])
        found = _datasets.opened_again(wanted, part["content"])
        start, stop = part["start"], part["start"] + part["count"]
        table = found.rows.select_columns(self._used(found.rows)).with_format("arrow")[start:stop]
        rows = [
            {name: _features.told(found.rows.features[name], cell) for name, cell in row.items()}
            for row in table.to_pylist()
        ]
        drafts = [draft for at, row in enumerate(rows, start) for draft in self._drafts(row, at)]
        return _records.table(self._placed(drafts, found, context))

    def _used(self, rows: Any) -> list[str]:
        """The columns that are read, media among them."""
        known = rows.features
        named = _columns.named(**self._rules)
        names = {name if name in known else name.partition(".")[0] for name in named}
        names |= {self.settings.media or ""}
        if self.settings.labels == "all":
            names |= {name for name in known if not _features.is_heavy(known[name])}
        return [name for name in known if name in names]

    def _drafts(self, row: dict[str, Any], at: int) -> Iterator[dict[str, Any]]:
        """Records of a row; ``medium`` is yet bytes or a path."""
        chosen = self.settings
        rules = _columns.listed(chosen.captions)
        texts = [text for rule in rules for text in _columns.filled(rule, row)]
        used = [chosen.key, chosen.media, *rules]
        labels = _records.labels_json(_columns.labels(row, chosen.labels, used))
        names = _records.texts(_columns.value(row, chosen.key)) if chosen.key else []
        number = f"{chosen.split or 'row'}:{at:08d}"
        told = {"captions": texts, "labels": labels, "row": at}
        if chosen.media is None:
            yield {**told, "key": names[0] if names else number, "medium": None}
            return
        media = _features.media(row[chosen.media])
        if not media:
            key = names[0] if names else number
            yield _records.failed(key, "no_media", f"row {at}: nothing in '{chosen.media}'")
        for medium in media:
            key = names[0] if names else (posixpath.basename(medium[1] or "") or number)
            yield {**told, "key": key, "medium": medium}

    def _placed(
        self, drafts: list[dict[str, Any]], found: Opened, context: Context
    ) -> Iterator[dict[str, Any]]:
        """Records with the places of their media: bytes go to a shard, paths stay."""
        held = [draft for draft in drafts if draft.get("medium") and draft["medium"][0]]
        members = [
            (f"{draft['row']:08d}-{number}.{_extension(*draft['medium'])}", draft["medium"][0])
            for number, draft in enumerate(held)
        ]
        shard, offsets = _written(members, context)
        begins = iter(zip(members, offsets, strict=True))
        roots = [self.settings.media_root] if self.settings.media_root else found.roots
        kind = self._modality(found.rows)
        for draft in drafts:
            if "medium" not in draft:
                yield draft
                continue
            key, texts, labels = draft["key"], draft["captions"], draft["labels"]
            if draft["medium"] is None:
                yield (
                    _records.textual(key, texts, labels)
                    if texts
                    else _records.failed(key, "no_caption", f"row {draft['row']}: no text")
                )
                continue
            data, path = draft["medium"]
            if data:
                (name, _), offset = next(begins)
                modality = _records.modality_of(name, kind)
                yield _records.kept(key, shard, len(data), modality, texts, labels, offset)
                continue
            place = _located(path, roots)
            if isinstance(place, Fault):
                yield _records.failed(key, place.rule, f"row {draft['row']}: {place.detail}")
            else:
                modality = _records.modality_of(place.path, kind)
                yield _records.kept(key, place.path, place.size, modality, texts, labels)

    def _modality(self, rows: Any) -> str:
        chosen = self.settings
        if chosen.modality != "auto" or chosen.media is None:
            return chosen.modality
        return _features.modality(rows.features[chosen.media])


def _ranges(sizes: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """Cuts of rows, from their bytes."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        full = int(np.searchsorted(ends, before + BYTES, side="right"))
        stop = min(max(full, start + 1), start + ROWS, len(sizes))
        yield start, stop
        start = stop


def _written(members: list[tuple[str, bytes]], context: Context) -> tuple[str, list[int]]:
    if not members:
        return "", []
    if not context.media_dir:
        raise DatagenError("huggingface: writes media, so the run needs a media folder")
    return _shard.write(context.media_dir, "huggingface", members)


def _extension(data: bytes, path: str | None) -> str:
    """The extension of bytes: what they are, else what their name says."""
    try:
        return containers.sniff(data)
    except containers.MediaError:
        end = _records.extension(path or "")
        return end if end in _records.IMAGES | _records.VIDEOS else "bin"


def _located(path: str, roots: Iterable[str]) -> Place | Fault:
    """The file that a dataset names, where it lies below one of ``roots``.

    A dataset is made by others: what it names elsewhere is not theirs to show.
    """
    for root in roots:
        for top in {root.rstrip("/"), os.path.realpath(root) if store.is_local(root) else root}:
            top = store.local_path(top) if store.is_local(top) else top
            if path.startswith(top + "/"):
                return Root(root).locate([path[len(top) + 1 :]])[0]
    if "://" in path or path.startswith("/"):
        what = "is an address of the web" if path.startswith("http") else "leads elsewhere"
        return Fault(
            "outside_root",
            f"'{path}' {what}; only files below {', '.join(roots)} are read "
            "(set `media_root` to the folder or store of the media)",
        )
    return next(
        (found for root in roots if isinstance(found := Root(root).locate([path])[0], Place)),
        Fault("missing_file", f"no file '{path}' below {', '.join(roots)}"),
    )
