"""Writes a run in one of the formats: claims the folder, writes media, then the triplets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from datagen import store
from datagen.errors import DatagenError, nearest
from datagen.export.book import NOTES, Book
from datagen.export.cirr import Cirr
from datagen.export.covr import Covr
from datagen.export.fashioniq import FashionIq
from datagen.export.files import Files, plain
from datagen.export.format import Format, Options
from datagen.export.hf import HuggingFace
from datagen.export.instruct_pix2pix import InstructPix2Pix
from datagen.export.lasco import Lasco
from datagen.export.megapairs import MegaPairs
from datagen.export.selection import Item, Selection, numbers
from datagen.result import load

FORMATS: dict[str, type[Format]] = {
    "covr": Covr,
    "lasco": Lasco,
    "cirr": Cirr,
    "fashioniq": FashionIq,
    "megapairs": MegaPairs,
    "instruct_pix2pix": InstructPix2Pix,
    "hf": HuggingFace,
}
NOTE = "export.json"


class Watch(Protocol):
    """What is told of the work while it goes on."""

    def start(self, what: str, total: int) -> None:
        """A part of the work begins."""

    def advance(self) -> None:
        """One of ``total`` is done."""


class Silent:
    """Nothing is told."""

    def start(self, what: str, total: int) -> None:
        """A part of the work begins."""

    def advance(self) -> None:
        """One of ``total`` is done."""


@dataclass(frozen=True)
class Written:
    """What an export has become.

    splits: by split the triplets, the files with their entries, and what was ``left_out`` (what →
    count and examples); media: how many were ``written``, ``linked``, ``kept`` (there already),
    ``embedded``, ``re-encoded`` and ``failed``; reading: lines that say how to read it; notes: what
    else should be known.
    """

    out: str
    format: str
    splits: dict[str, dict[str, Any]]
    media: dict[str, int]
    reading: list[str]
    notes: list[str] = field(default_factory=list)


def export(
    run: str,
    format: str,
    out: str,
    splits: Sequence[str] = (),
    every: bool = False,
    options: Options | None = None,
    watch: Watch | None = None,
) -> Written:
    """Write the kept triplets of the finished run in ``run`` to the folder ``out``.

    splits: only these (all by default); every: also what was rejected or failed. Both places may
    be on any fsspec path. The same export again completes what is there. Raises DatagenError
    where the run is not finished, has no media, or ``out`` holds something else.
    """
    options, watch = options or Options(), watch or Silent()
    if format not in FORMATS:
        raise DatagenError(f"--format {format}: {nearest(format, FORMATS)}")
    if options.category is not None and format != "fashioniq":
        raise DatagenError(f"--category goes with --format fashioniq, not with {format}")
    opened = load(run)
    selection = Selection(opened, every, FORMATS[format].without)
    chosen = selection.chosen(splits)
    maker = FORMATS[format](options, numbers(selection.item_ids()), selection)
    items = selection.items(chosen, maker.roles)
    if not any(item["media"] for item in items.values()):
        raise DatagenError(f"{run}: its triplets have captions only; {format} needs media")
    out = store.local_path(out) if store.is_local(out) else out
    note = _claim(out, _identity(opened.out, opened.note, format, every, options, maker))
    lost, files = _write_media(maker, items, out, watch)
    for split in chosen:
        watch.start(split, selection.count(split))
        note["splits"][split] = _write_split(maker, selection, out, split, lost, watch.advance)
    if not sum(note["splits"][split]["triplets"] for split in chosen):
        told = [about for split in chosen for about in note["splits"][split]["left_out"].values()]
        why = next((about["why"] for about in told if "why" in about), "")
        raise DatagenError(f"{run}: no triplet could be written ({why})")
    done = note["splits"]
    note["splits"] = {split: done[split] for split in selection.splits if split in done}
    if isinstance(maker, HuggingFace):
        maker.finish(out, note["splits"])
    store.write_json(store.join(out, NOTES, NOTE), note)
    media = {"written": files.written, "linked": files.linked, "kept": files.kept}
    if maker.embeds:
        media = maker.embedded(len(items) - len(lost))
    return Written(
        out=out,
        format=format,
        splits={split: note["splits"][split] for split in chosen},
        media=media | {"failed": len(lost)},
        reading=maker.reading(out, chosen),
        notes=_notes(maker, items),
    )


def _identity(
    run: str, note: Mapping[str, Any], format: str, every: bool, options: Options, maker: Format
) -> dict[str, Any]:
    """What two calls must have in common to write into one folder."""
    found = {
        "format": format,
        "recipe": note["recipe"].get("name"),
        "triplets": store.file_hash(store.join(run, "triplets.parquet")),
        "every": every,
        "category": options.category,
        "extension": options.extension,
    }
    if isinstance(maker, HuggingFace):
        found["media"] = "embedded" if maker.embeds else options.media
    return found


def _claim(out: str, identity: dict[str, Any]) -> dict[str, Any]:
    """The notes of the export that ``out`` holds, or new ones where it is empty."""
    path = store.join(out, NOTES, NOTE)
    if not store.exists(path):
        if store.names(out):
            raise DatagenError(f"{out}: not empty, and no export; choose another folder with --out")
        note = {**identity, "splits": {}}
        store.write_json(path, note)
        return note
    note = store.read_json(path)
    for key, value in identity.items():
        if not isinstance(note, dict) or note.get(key) != value:
            there = note.get(key) if isinstance(note, dict) else None
            what = "another run" if key == "triplets" else f"another export ({key}: {there!r})"
            raise DatagenError(f"{out}: holds {what}; choose another folder with --out")
    return note


def _write_media(
    maker: Format, items: Mapping[str, Item], out: str, watch: Watch
) -> tuple[dict[str, str], Files]:
    """Write the media of ``items``; gives the items that have none, with the reason."""
    lost = {name: "captions only" for name, item in items.items() if not item["media"]}
    lost |= {name: "an id that cannot name a file" for name in items if not plain(name)}
    files = Files(out, maker.options.media)
    if maker.options.media == "none" or maker.embeds:
        return lost, files
    places = {maker.place(item): item for name, item in items.items() if name not in lost}
    watch.start("media", len(places))
    failed = files.write(((place, item["media"]) for place, item in places.items()), watch.advance)
    return lost | {places[place]["id"]: why for place, why in failed.items()}, files


def _write_split(
    maker: Format,
    selection: Selection,
    out: str,
    split: str,
    lost: Mapping[str, str],
    advance: Callable[[], object],
) -> dict[str, Any]:
    """Write the files of one split and the notes beside them."""
    own = selection.table.column("id").take(selection.indices(split)).to_pylist()
    pairs = selection.table.column("pair").take(selection.indices(split)).to_pylist()
    numbered = numbers({*own, *(pair for pair in pairs if pair is not None)})
    book = Book(out, split, selection, maker.place, numbered.__getitem__, lost, advance)
    maker.write(book)
    book.lines_of(f"{NOTES}/entries.{split}.jsonl", book.entries)
    book.lines_of(f"{NOTES}/items.{split}.jsonl", _told_items(maker, selection, split, lost))
    left = f"{NOTES}/left_out.{split}.jsonl"
    if book.lines:
        book.lines_of(left, book.lines)
    else:
        store.remove(store.join(out, left))
    return book.summary()


def _told_items(maker: Format, selection: Selection, split: str, lost: Mapping[str, str]) -> Any:
    """A line per item: what it is called here, and what it is in the run."""
    for name, item in selection.items([split], maker.roles).items():
        there = name not in lost and not maker.embeds
        yield {
            "id": name,
            "number": maker.numbers[name],
            "file": maker.place(item) if there else None,
            "key": item["key"],
            "source": item["source"],
            "sha256": item["media"]["sha256"] if item["media"] else None,
        }


def _notes(maker: Format, items: Mapping[str, Item]) -> list[str]:
    """Warnings: media that the released loaders cannot open, or do not look for."""
    media = [item for item in items.values() if item["media"]]
    found = []
    if maker.images_only:
        images = [item for item in media if item["media"]["modality"] != "video"]
        clips = len(media) - len(images)
        if clips:
            found.append(
                f"{clips:,} of {len(media):,} media are clips; the released loaders of this "
                "format open images alone (covr and hf are formats for clips)"
            )
        media = images
    endings = [maker.ending(item) for item in media] if maker.looks_for else []
    odd = sorted({one for one in endings if one not in maker.looks_for})
    if odd:
        count = sum(one in odd for one in endings)
        wanted = ", ".join(maker.looks_for)
        found.append(
            f"{count:,} media end in {', '.join(odd)}, but the released loaders look for {wanted}; "
            "--extension names all media alike (readers go by content)"
        )
    return found
