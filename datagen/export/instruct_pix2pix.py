"""InstructPix2Pix: a folder for each edit of a caption, two JPEG files for each sample of it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from datagen import containers, media, schema, store
from datagen.errors import DatagenError
from datagen.export.book import Book
from datagen.export.files import WRITERS, Files, Unreadable, read
from datagen.export.format import Format, Options
from datagen.export.selection import Row, Selection, numbers
from datagen.result import Run

#: Columns that are added to the triplets: what their folder is of, and the number of their sample.
PROMPT, SEED = "_prompt", "_seed"
#: The column that tells of a painted sample, as JSON text.
EDIT = "edit"
#: Folders that are written side by side.
AHEAD = 64
#: Quality of a JPEG that is written anew; the released images have it too.
QUALITY = 100
#: Scores under their released names, each from the first of these columns that the run has.
SCORES = {
    "clip_sim_0": ("score_edit_reference",),
    "clip_sim_1": ("score_edit_target",),
    "clip_sim_dir": (
        "score_clip_directional",
        "score_edit_directional",
        "score_consistency_direction",
    ),
    "clip_sim_image": (
        "score_image_similarity",
        "score_edit_similarity",
        "score_similarity_image",
        "score_similarity_clip",
    ),
}
#: Where a step measured how well each item agrees with its caption, that comes first.
OF_ITEMS = {"clip_sim_0": "references", "clip_sim_1": "targets"}
ITEM_SCORE = "score_clip"
#: What a painted sample tells of itself, under its released name.
DRAWN = {"p2p_threshold": "self_share", "cfg_scale": "guidance"}


class InstructPix2Pix(Format):
    """``SPLIT/NNNNNNN/{prompt.json, SEED_0.jpg, SEED_1.jpg, metadata.jsonl}`` and
    ``SPLIT/seeds.json`` (InstructPix2Pix, arXiv:2211.09800).

    A folder holds all samples of one reference caption, target caption and text. A split is a
    dataset of its own, as the released loader cuts its splits by place. The number of a folder is
    its place among all of the split, so media that are gone leave the others as they are.

    The loader opens ``.jpg`` and counts on three channels: an upright JPEG in colour keeps its
    bytes, anything else is encoded as one.
    """

    about = "InstructPix2Pix: SPLIT/seeds.json, SPLIT/NNNNNNN/SEED_0.jpg"
    embeds = True
    without = ("provenance", "rule", "detail", "step")

    def __init__(self, options: Options, numbers: Mapping[str, int], selection: Selection) -> None:
        super().__init__(options, numbers, selection)
        if options.extension:
            raise DatagenError("--extension: instruct_pix2pix names all its files .jpg")
        table = selection.table
        prompts, seeds = _prompts(table), _seeds(table)
        selection.add(PROMPT, pa.array(prompts, pa.string()))
        selection.add(SEED, pa.array(_apart(table["id"].to_pylist(), prompts, seeds), pa.int64()))
        self._of_items = _item_scores(selection.run)
        self._done = dict.fromkeys(("written", "re-encoded", "linked", "kept"), 0)

    def embedded(self, items: int) -> dict[str, int]:
        return self._done

    def write(self, book: Book) -> None:
        files = Files(book.out, self.options.media)
        listing = f"{book.split}/seeds.json"
        own = self.selection.table[PROMPT].take(self.selection.indices(book.split))
        names = sorted(set(own.to_pylist()))
        width = max(7, len(str(len(names))))
        places = {name: f"{number:0{width}}" for number, name in enumerate(names)}
        folders = (
            _Folder(files, book.split, places[name], list(rows), self._scores)
            for name, rows in itertools.groupby(self._images(book), key=lambda row: row[PROMPT])
        )
        book.array(listing, self._listed(book, listing, folders))
        book.files.setdefault(listing, 0)

    def _listed(
        self, book: Book, listing: str, folders: Iterator[_Folder]
    ) -> Iterator[tuple[str, list[str]]]:
        """The entries of ``seeds.json``: a folder's name and its seeds, once all of it stands."""
        with ThreadPoolExecutor(WRITERS) as pool:
            while batch := list(itertools.islice(folders, AHEAD)):
                for folder, (done, lost) in zip(batch, pool.map(_Folder.write, batch), strict=True):
                    for word in done:
                        self._done[word] += 1
                    for name, why in lost.items():
                        what = "triplets without a readable medium"
                        book.left_out(what, name, why=why)
                    rows = [row for row in folder.rows if row["id"] not in lost]
                    if rows:
                        book.entry(listing, rows, int(folder.name))
                        yield folder.name, [str(row[SEED]) for row in rows]

    def _images(self, book: Book) -> Iterator[Row]:
        """The triplets of images, those of one prompt together."""
        for row in book.without_negatives(book.singles((PROMPT, SEED))):
            kinds = {row[role][0]["media"]["modality"] for role in ("references", "targets")}
            if kinds == {"image"}:
                yield row
            else:
                what = "clips, which this format has no place for"
                book.left_out(what, row["id"], why="clips have no place in this format")

    def _scores(self, row: Row) -> dict[str, float]:
        """The scores of a triplet under their released names, as far as the run has them."""
        told = _told(row.get(EDIT))
        found = {name: told[own] for name, own in DRAWN.items() if _is_number(told.get(own))}
        for name, columns in SCORES.items():
            values = [row[one] for one in columns if _is_number(row.get(one))]
            found |= {name: values[0]} if values else {}
        for name, role in OF_ITEMS.items():
            value = self._of_items.get(row[role][0]["id"])
            found |= {name: value} if _is_number(value) else {}
        return found

    def reading(self, out: str, splits: Sequence[str]) -> list[str]:
        path = store.join(out, splits[0])
        return [
            "in InstructPix2Pix's configuration, or as its class, for a whole split:",
            f"  EditDataset({path!r}, split='train', splits=(1.0, 0.0, 0.0))",
        ]


@dataclass
class _Folder:
    """The folder of one prompt, with its samples in the order of their seeds."""

    files: Files
    split: str
    name: str
    rows: list[Row]
    scores: Any

    def write(self) -> tuple[list[str], dict[str, str]]:
        """Write it; gives what became of each picture, and the triplets that could not be read."""
        done: list[str] = []
        lost: dict[str, str] = {}
        for row in self.rows if self.files.mode != "none" else ():
            try:
                done += self._pictures(row)
            except (Unreadable, media.MediaError) as error:
                lost[row["id"]] = str(error)
        rows = [row for row in self.rows if row["id"] not in lost]
        if rows:
            lines = [_json(self._metadata(row)) for row in rows]
            self._put("prompt.json", _json(_prompt(rows[0])))
            self._put("metadata.jsonl", b"\n".join(lines) + b"\n")
        return done, lost

    def _pictures(self, row: Row) -> list[str]:
        """Both pictures of a sample, or neither."""
        made = []
        for number, role in enumerate(("references", "targets")):
            place = f"{self.split}/{self.name}/{row[SEED]}_{number}.jpg"
            where = row[role][0]["media"]
            made.append((place, where, *self._as_jpeg(place, where)))
        return [self._picture(*one) for one in made]

    def _as_jpeg(self, place: str, where: Mapping[str, Any]) -> tuple[str, bytes]:
        """What is to become of a picture, and its bytes. Raises Unreadable, MediaError.

        A file of the right size needs no look at the medium again.
        """
        plain = where["format"] == "jpeg"
        if plain and self.files.there(place) == where["size"]:
            return "kept", b""
        data = read(where)
        if plain and _as_expected(data):
            return "written", data
        return "re-encoded", _jpeg(data, where)

    def _picture(self, place: str, where: Mapping[str, Any], word: str, data: bytes) -> str:
        path = store.join(self.files.out, place)
        if word == "written" and self.files.mode == "link":
            return self.files.one(place, where)
        same = self.files.there(place) == len(data) and store.read_bytes(path) == data
        if word == "kept" or same:
            return "kept"
        store.write_bytes(path, data)
        return word

    def _metadata(self, row: Row) -> dict[str, Any]:
        return {"seed": row[SEED], **self.scores(row), "triplet": row["id"]}

    def _put(self, name: str, data: bytes) -> None:
        store.write_bytes(store.join(self.files.out, self.split, self.name, name), data)


def _prompt(row: Row) -> dict[str, str]:
    """The texts of a folder; the caption stands under both names that the released code uses."""
    before, after = (row[role][0]["caption"] or "" for role in ("references", "targets"))
    return {"caption": before, "input": before, "edit": row["modification"], "output": after}


def _prompts(table: pa.Table) -> list[str]:
    """Of each triplet a hash of its captions and its text."""
    columns = [_captions(table[role]) for role in ("references", "targets")]
    texts = zip(*columns, table["modification"].to_pylist(), strict=True)
    return [schema.content_id("prompt", *(one or "" for one in each)) for each in texts]


def _captions(column: pa.ChunkedArray) -> list[str | None]:
    """The caption of the first member of each list."""
    found: list[str | None] = []
    for chunk in column.chunks:
        some = pc.fill_null(pc.greater(pc.list_value_length(chunk), 0), False)
        first = pc.list_element(chunk.filter(some), 0)
        captions = iter(pc.struct_field(first, "caption").to_pylist())
        found += [next(captions) if there else None for there in some.to_pylist()]
    return found


def _seeds(table: pa.Table) -> list[int]:
    """Of each triplet the seed that its sample was painted with, else a number of its id."""
    ids = table["id"].to_pylist()
    named = numbers(ids)
    edits = table[EDIT].to_pylist() if EDIT in table.column_names else [None] * len(ids)
    found = []
    for name, edit in zip(ids, edits, strict=True):
        seed = _told(edit).get("seed")
        if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 1 << 63:
            found.append(seed)
        else:
            found.append(named[name])
    return found


def _apart(ids: list[str], prompts: list[str], seeds: list[int]) -> list[int]:
    """``seeds`` where no two triplets of a prompt share one: the first by id keeps it."""
    taken: set[tuple[str, int]] = set()
    for row in sorted(range(len(ids)), key=ids.__getitem__):
        while (prompts[row], seeds[row]) in taken:
            seeds[row] = (seeds[row] + 1) % (1 << 63)
        taken.add((prompts[row], seeds[row]))
    return seeds


def _item_scores(run: Run) -> dict[str, float]:
    """How well each item agrees with its caption, from the last step that measured it."""
    found: dict[str, float] = {}
    for step in run.note["steps"]:
        path = store.join(run.out, step["folder"], "measured.parquet")
        if not store.exists(path):
            continue
        table = store.read_table(path)
        if ITEM_SCORE in table.column_names:
            values = zip(table["id"].to_pylist(), table[ITEM_SCORE].to_pylist(), strict=True)
            found.update((name, value) for name, value in values if _is_number(value))
    return found


def _is_number(value: Any) -> bool:
    """Whether JSON can hold it as a number."""
    return isinstance(value, (int, float)) and abs(value) < float("inf")


def _told(edit: Any) -> dict[str, Any]:
    """What a painted sample tells of itself; nothing where it does not."""
    try:
        found = json.loads(edit) if isinstance(edit, str) else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _as_expected(data: bytes) -> bool:
    """Whether a JPEG has three channels of colour and stands upright without its EXIF."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            turn = containers.exif_orientation(picture.info.get("exif"))
            return picture.mode == "RGB" and turn == 1
    except (OSError, ValueError, SyntaxError):
        return False


def _jpeg(data: bytes, where: Mapping[str, Any]) -> bytes:
    """An image as a JPEG in colour: upright, transparency on white. Raises MediaError."""
    picture = media.decode(data, limits=media.admitted(where))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
