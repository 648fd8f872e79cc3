"""Images or clips in WebDataset tars: samples are members of one key, media stay where they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Literal

import pyarrow as pa

from datagen import store
from datagen.errors import DatagenError, nearest
from datagen.schema import Level
from datagen.sources import _paths, _records, _tar
from datagen.sources._tar import Damage, Member
from datagen.step import Context, Settings, Source

#: Longest caption or label member that is read, in bytes.
MAX_TEXT = 1 << 20
#: Samples that are looked at before a run to see whether the settings can mean them.
HEAD = 20

MEDIA = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "mp4", "webm", "mkv", "avi", "mov")

# Directory and base name up to its first dot are the key, the rest is the field.
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_JSON_PATH = re.compile(r"((?:[^.]+\.)*?json)(?:\.(.+))?")


class WebDatasetSettings(Settings):
    """Settings of :class:`WebDataset`.

    path: a tar, a folder of tars, a glob (``data/*.tar``) or a brace pattern
        (``data/{000..099}.tar``); or a list of these.
    captions: members with captions, in order: ``txt`` (the whole text), ``json.caption`` (a text
        or a list of texts in a JSON member; deeper: ``json.meta.title``).
    labels: ``json`` (all fields but the captions), or fields such as ``json.colour``, or short
        text members such as ``cls``.
    media: extensions of media members, the preferred one first.
    modality: ``image``, ``video``, or ``auto`` (by the extension).
    """

    path: str | list[str]
    captions: str | list[str] | None = "txt"
    labels: str | list[str] | None = None
    media: tuple[str, ...] = MEDIA
    modality: Literal["image", "video", "auto"] = "auto"


@dataclass
class _Sample:
    """What is known of a key: its media members by extension, texts by setting, its fault."""

    media: dict[str, Member] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)
    skipped: bool = False
    fault: tuple[str, str] | None = None


class WebDataset(Source[WebDatasetSettings]):
    """Lists the samples of tars in the WebDataset layout, one part per tar.

    Members of one key make a sample, even where others lie between them. Media are named by
    file, offset and size; nothing is unpacked. Records that fail carry one of the rules
    ``no_media``, ``duplicate_member``, ``special_member`` (links, devices), ``sparse_member``,
    ``text_too_large``, ``bad_text``, ``bad_json``; and once per tar that cannot be read to its
    end ``truncated_tar``, ``corrupt_header``, ``compressed_tar`` or ``unreadable_tar``. The
    sample at the place of the damage fails too, as nobody knows whether it is complete.
    """

    Settings = WebDatasetSettings

    def gives(self, level: Level) -> set[str]:
        found = {"items.media"}
        if self.settings.captions:
            found.add("items.captions")
        if self.settings.labels:
            found.add("items.labels")
        return found

    @property
    def _captions(self) -> list[str]:
        return _listed(self.settings.captions)

    @property
    def _labels(self) -> list[str]:
        return _listed(self.settings.labels)

    # --- checks and parts ---------------------------------------------------------------------

    def check(self) -> Iterable[str]:
        try:
            paths = _paths.expand(_listed(self.settings.path), ".tar", (".tar.gz", ".tgz"))
        except DatagenError as error:
            yield str(error)
            return
        for path in paths:
            if path.endswith(("gz", "bz2", "xz", "zst")):
                yield f"{path}: compressed; unpack it to .tar first, media are read in place"
                return
        yield from self._odd_settings(paths[0])

    def _odd_settings(self, path: str) -> Iterator[str]:
        """Settings that mean nothing in the first samples of the first tar."""
        try:
            with _tar.opened(path) as file:
                fields = _head_fields(file)
        except OSError as error:
            yield f"{path}: {error.strerror or error}"
            return
        named = [("captions", text) for text in self._captions]
        if "captions" not in self.settings.model_fields_set:
            named = []
        for setting, text in [*named, *(("labels", text) for text in self._labels)]:
            if fields and text not in fields:
                hint = nearest(text, fields)
                yield f"{path}: {setting} names '{text}', which its samples do not have; {hint}"
        if fields and not fields & {end.lower() for end in self.settings.media}:
            plain = ", ".join(sorted(name for name in fields if ".json." not in f".{name}"))
            yield f"{path}: no media member ({plain}); set `media` to the extension of the media"

    def parts(self, context: Context) -> list[dict[str, Any]]:
        paths = _paths.expand(_listed(self.settings.path), ".tar", (".tar.gz", ".tgz"))
        return [
            {"file": path, "size": store.size(path), "content": store.stamp(path)} for path in paths
        ]

    # --- samples ------------------------------------------------------------------------------

    def read(self, part: dict[str, Any], context: Context) -> pa.Table:
        return _records.table(self._records(part["file"]))

    def _records(self, path: str) -> Iterator[dict[str, Any]]:
        samples: dict[str, _Sample] = {}
        name, last = path.rpartition("/")[2], ""
        damage: tuple[str, str] | None = None
        try:
            with _tar.opened(path) as file:
                for member in _tar.members(file):
                    last = member.name
                    yield from self._take(samples, member, file, path)
        except Damage as error:
            damage = (error.rule, f"{path}: {error.detail}")
            hurt = split_name(error.name or last)
            if not error.whole and hurt is not None:
                samples.setdefault(hurt[0], _Sample()).fault = damage
        except OSError as error:
            damage = ("unreadable_tar", f"{path}: {error.strerror or error}")
        told = False
        for key, sample in samples.items():
            told = told or (damage is not None and sample.fault is damage)
            yield from self._finish(key, sample, path)
        if damage is not None and not told:
            yield _records.failed(name, *damage)

    def _take(
        self, samples: dict[str, _Sample], member: Member, file: IO[bytes], path: str
    ) -> Iterator[dict[str, Any]]:
        """Add a member to its sample; gives a failed record for one that is no plain file."""
        parts = split_name(member.name)
        if member.fault is not None:
            yield _records.failed(
                member.name, member.fault, f"{path}: '{member.name}' is not a plain file"
            )
            if parts is not None:
                samples.setdefault(parts[0], _Sample()).skipped = True
            return
        if parts is None:
            return
        key, end = parts
        sample = samples.setdefault(key, _Sample())
        if end in sample.fields:
            sample.fault = sample.fault or ("duplicate_member", f"{path}: two of '{member.name}'")
            return
        sample.fields.add(end)
        if end in self.settings.media:
            sample.media[end] = member
            return
        fault = self._read_texts(sample, member, end, file)
        if fault is not None:
            sample.fault = sample.fault or (fault[0], f"{path}: '{member.name}' {fault[1]}")

    def _read_texts(
        self, sample: _Sample, member: Member, end: str, file: IO[bytes]
    ) -> tuple[str, str] | None:
        """Read what captions and labels want of a member; gives the fault that it has."""
        wanted = [text for text in {*self._captions, *self._labels} if _member_of(text) == end]
        if not wanted:
            return None
        if member.size > MAX_TEXT:
            return "text_too_large", f"has {member.size} bytes, at most {MAX_TEXT} are read"
        file.seek(member.offset)
        try:
            text = file.read(member.size).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return "bad_text", f"is not UTF-8 ({error})"
        value: Any = text.strip()
        if end.endswith("json"):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                return "bad_json", f"is not JSON ({error})"
        for name in wanted:
            sample.found[name] = _dig(value, _inner(name))
        return None

    def _finish(self, key: str, sample: _Sample, path: str) -> Iterator[dict[str, Any]]:
        if sample.fault is not None:
            yield _records.failed(key, *sample.fault)
            return
        end = next((end for end in self.settings.media if end in sample.media), None)
        if end is None:
            if not sample.skipped:
                has = ", ".join(sorted(sample.fields))
                yield _records.failed(key, "no_media", f"{path}: '{key}' has only {has}")
            return
        media = sample.media[end]
        captions = [text for name in self._captions for text in _texts(sample.found.get(name))]
        labels = _records.labels_json(self._labels_of(sample))
        modality = _records.modality_of(f"x.{end}", self.settings.modality)
        yield _records.kept(key, path, media.size, modality, captions, labels, media.offset)

    def _labels_of(self, sample: _Sample) -> dict[str, Any]:
        labels: dict[str, Any] = {}
        for name in self._labels:
            value, inner = sample.found.get(name), _inner(name)
            if inner is None and isinstance(value, dict):
                used = {_inner(text) for text in self._captions if _member_of(text) == name}
                labels.update({key: part for key, part in value.items() if key not in used})
            elif value is not None:
                labels[inner or name] = value
        return labels


def split_name(name: str) -> tuple[str, str] | None:
    """Key and field (lower case) of a member name; None where it belongs to no sample."""
    found = _NAME.fullmatch(name)
    return (found[1], found[2].lower()) if found else None


def _listed(setting: str | list[str] | None) -> list[str]:
    return [setting] if isinstance(setting, str) else list(setting or ())


def _member_of(setting: str) -> str:
    """The member that ``json.caption`` or ``txt`` speaks of."""
    found = _JSON_PATH.fullmatch(setting)
    return found[1] if found else setting


def _inner(setting: str) -> str | None:
    """The path within a JSON member; None for the whole member."""
    found = _JSON_PATH.fullmatch(setting)
    return found[2] if found else None


def _dig(value: Any, path: str | None) -> Any:
    """The field at a dotted path; a field whose own name has the dots comes first."""
    if path is None:
        return value
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    head, _, rest = path.partition(".")
    return _dig(value.get(head), rest) if rest else None


def _texts(value: Any) -> list[str]:
    return _records.texts(value) if not isinstance(value, dict) else []


def _head_fields(file: IO[bytes]) -> set[str]:
    """Fields of the first samples, those within JSON members included."""
    fields: set[str] = set()
    keys: set[str] = set()
    try:
        for member in _tar.members(file):
            parts = split_name(member.name)
            if parts is None or member.fault is not None:
                continue
            keys.add(parts[0])
            if len(keys) > HEAD:
                break
            fields.add(parts[1])
            if parts[1].endswith("json") and member.size <= MAX_TEXT:
                file.seek(member.offset)
                value = json.loads(file.read(member.size))
                if isinstance(value, dict):
                    fields.update(_dotted(parts[1], value))
    except (Damage, ValueError, RecursionError):
        pass  # damage is told record by record when the tar is read
    return fields


def _dotted(prefix: str, value: dict[str, Any]) -> Iterator[str]:
    for key, part in value.items():
        yield f"{prefix}.{key}"
        if isinstance(part, dict):
            yield from _dotted(f"{prefix}.{key}", part)
