"""FashionIQ: caption pairs and image lists, per category and split."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from datagen.export.book import Book
from datagen.export.format import Format
from datagen.export.selection import Item, Row

#: Without ``--category``, and for targets that lack the label.
WHOLE, WITHOUT = "all", "none"
#: A line of the file, and the triplets that it was made from.
_Entry = tuple[dict[str, Any], list[Row]]
_ODD = re.compile(r"[^a-z0-9_-]+")


class FashionIq(Format):
    """``captions/cap.CATEGORY.SPLIT.json``, ``image_splits/split.CATEGORY.SPLIT.json`` and media.

    An entry has two captions, as in all of FashionIQ (the released loaders unpack two): the
    texts of a pair two by two; a text that is left over goes with the first of its pair, a text
    that is alone stands twice. The category is a label of the target. The image list of a
    category holds its references and targets.
    """

    about = "FashionIQ: captions/cap.CATEGORY.SPLIT.json, image_splits/, images/ID.EXT"
    looks_for = ("jpg", "png")

    def place(self, item: Item) -> str:
        return f"images/{item['id']}.{self.ending(item)}"

    def write(self, book: Book) -> None:
        made: dict[str, list[_Entry]] = {}
        for rows in book.pairs():
            for entry in self._entries(book, list(book.without_negatives(rows))):
                made.setdefault(self._category(rows[0]), []).append(entry)
        names = _file_names(set(made) or {WHOLE})
        for category, name in sorted(names.items(), key=lambda one: one[1]):
            self._write_category(book, name, made.get(category, []))

    def _write_category(self, book: Book, name: str, entries: list[_Entry]) -> None:
        told = f"captions/cap.{name}.{book.split}.json"
        listed = f"image_splits/split.{name}.{book.split}.json"
        book.array(told, (value for value, _ in entries))
        book.files.setdefault(told, 0)
        for _, rows in entries:
            book.entry(told, rows)
        images = {value[role] for value, _ in entries for role in ("target", "candidate")}
        book.files[listed] = book.array(listed, sorted(images))

    def _entries(self, book: Book, rows: list[Row]) -> Iterator[_Entry]:
        texts = list(dict.fromkeys(row["modification"] for row in rows))
        reference, target = rows[0]["references"][0]["id"], rows[0]["targets"][0]["id"]
        for start in range(0, len(texts), 2):
            two = texts[start : start + 2]
            made_of: list[Row] = [{"id": row["id"]} for row in rows if row["modification"] in two]
            if len(two) < 2:
                book.left_out(
                    "texts without a second one, which stand twice or with the first of their pair",
                    made_of[0]["id"],
                )
                two.append(texts[0])
            yield {"target": target, "candidate": reference, "captions": two}, made_of

    def _category(self, row: Row) -> str:
        if self.options.category is None:
            return WHOLE
        try:
            labels = json.loads(row["targets"][0]["labels"] or "{}")
        except ValueError:
            return WITHOUT
        value = labels.get(self.options.category) if isinstance(labels, dict) else None
        if value is None or isinstance(value, (dict, list)):
            return WITHOUT
        return str(value)

    def reading(self, out: str, splits: Sequence[str]) -> list[str]:
        return [
            f"{out} is FashionIQ's folder: captions/, image_splits/, images/",
            "CLIP4Cir: link it as fashionIQ_dataset (they look for images/NAME.jpg)",
        ]


def _file_names(categories: set[str]) -> dict[str, str]:
    """A safe part of a file name for each category; a hash tells apart what looks alike."""
    plain = {one: _ODD.sub("_", one.lower()).strip("_")[:40] or "_" for one in categories}
    taken = list(plain.values())
    return {
        one: name if taken.count(name) == 1 else f"{name}-{_short(one)}"
        for one, name in plain.items()
    }


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
